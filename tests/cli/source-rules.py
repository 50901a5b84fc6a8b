#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Rules of the source tree that a compiler does not see: layers, headers, lengths."""

import os
import re
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from vmbtest import tap  # noqa: E402

SOURCE = os.environ.get("VMBACKUP_TEST_SOURCE",
                        os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
# Includes go to a lower level, or stay in their own layer.
LEVELS = {"util": 0, "block": 1, "image": 2, "repo": 3, "nbd": 3, "virt": 3, "config": 3, "job": 4,
          "cli": 5}
MAX_FILE, MAX_FUNCTION = 700, 80


def sources(*directories):
    for directory in directories:
        for parent, _, names in os.walk(os.path.join(SOURCE, directory)):
            for name in sorted(names):
                if name.endswith((".c", ".h")):
                    path = os.path.join(parent, name)
                    with open(path, encoding="utf-8") as file:
                        yield os.path.relpath(path, os.path.join(SOURCE, directory)), file.read()


@tap.test
def test_layers(t):
    wrong, seen = [], 0
    for path, text in sources("src"):
        layer = path.split(os.sep)[0] if os.sep in path else None
        for included in re.findall(r'^#include "([^"]+)"', text, re.M):
            seen += 1
            other = included.split("/")[0]
            if other not in LEVELS or (layer in LEVELS and other != layer and
                                       LEVELS[other] >= LEVELS[layer]):
                wrong.append("%s includes %s" % (path, included))
    t.ok(seen > 100, "only %d includes were found" % seen)
    t.equal(wrong, [])


@tap.test
def test_headers(t):
    wrong = [path for path, text in sources("src", "tests/unit", "tests/nbd", "tests/cli", "tests/fuzz")
             if not re.match(r"/\* SPDX-License-Identifier: GPL-2.0-or-later \*/\n/\* \S.*[.:]", text)]
    t.equal(wrong, [], "without the two lines at the top")


@tap.test
def test_lengths(t):
    wrong = []
    for path, text in sources("src"):
        lines = text.split("\n")
        if len(lines) > MAX_FILE:
            wrong.append("%s has %d lines" % (path, len(lines)))
        begin = 0
        for number, line in enumerate(lines):
            if line == "{":
                begin = number
            elif line == "}" and number - begin > MAX_FUNCTION:
                wrong.append("%s:%d: a function of %d lines" % (path, begin, number - begin))
    t.equal(wrong, [])


@tap.test
def test_nothing_is_left_to_do(t):
    wrong = [path for path, text in sources("src", "tests") if re.search(r"\b(TODO|FIXME|XXX)\b", text)]
    t.equal(wrong, [])


@tap.test
def test_fault_points(t):
    text = dict(sources("src"))[os.path.join("util", "fault.c")]
    table = re.search(r"names\[\] = \{(.*?)\};", text, re.S).group(1)
    known = set(re.findall(r'"([a-z-]+)"', table))
    used = {name for _, body in sources("src")
            for name in re.findall(r'vmb_fault_point\(\s*"([a-z-]+)"', body)}
    t.equal(sorted(used - known), [], "steps that the table of fault.c does not know")


if __name__ == "__main__":
    tap.main()
