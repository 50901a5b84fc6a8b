#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Help and manual pages: there for every verb, readable, and about the same options."""

import os
import re
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from vmbtest import tap  # noqa: E402
from vmbtest.vmbackup import Tool  # noqa: E402

VERBS = ["init", "backup", "estimate", "list", "show", "stats", "verify", "restore", "export",
         "changes", "prune", "protect", "forget", "copy", "doctor", "release"]
SECTIONS = ["NAME", "SYNOPSIS", "EXAMPLES", "DESCRIPTION", "OPTIONS", "EXIT STATUS"]
STATUSES = ["0", "1", "2", "3", "4", "10", "11", "20", "21", "22", "23", "128+N"]


def pod(name):
    with open(os.path.join(os.environ["VMBACKUP_TEST_MAN_DIR"], name + ".pod"),
              encoding="utf-8") as file:
        return file.read()


def section(text, title):
    return re.search(r"^=head1 %s$(.*?)(?=^=head1 |\Z)" % re.escape(title), text, re.M | re.S).group(1)


def options_of_page(text):
    """Long names and letters that the page's items name."""
    items = re.findall(r"^=item (.*)$", section(text, "OPTIONS"), re.M)
    return {name for item in items for name in re.findall(r"B<(--?[a-z0-9-]+)>", item)}


def options_of_help(text):
    lines = re.findall(r"^  (?:(-\w), |    )(--[a-z0-9-]+)", text, re.M)
    return {name for pair in lines for name in pair if name}


def check_help(t, result):
    result.expect(0)
    t.equal(result.err, "", "help goes to standard output alone")
    for line in result.out.splitlines():
        t.ok(len(line) <= 79, "too long for 80 columns: " + line)
        t.equal(line, line.rstrip(), "spaces at the end")


@tap.test
def test_overview(t):
    result = Tool(t).run("--help")
    check_help(t, result)
    listed = re.findall(r"^  (\w+) {2,}\w", result.out.split("General options")[0], re.M)
    t.equal(listed, VERBS, "verbs of the overview")
    t.equal(options_of_help(result.out), options_of_page(pod("vmbackup")))
    t.equal(Tool(t).run("-h").out, result.out)


def check_verb(verb):
    def run(t):
        result = Tool(t).run(verb, "--help")
        check_help(t, result)
        t.contains(result.out, "vmbackup -r /backup " + verb, "there is an example")
        for same in ((verb, "-h"), ("--help", verb), ("-q", verb, "operand", "-h", "another")):
            t.equal(Tool(t).run(*same).expect(0).out, result.out)
        page = pod("vmbackup-" + verb)
        t.equal(options_of_help(result.out), options_of_page(page), "options of help and page differ")
        titles = re.findall(r"^=head1 (.*)$", page, re.M)
        t.equal(titles[:len(SECTIONS)], SECTIONS, "sections of the page")
        t.contains(section(page, "NAME"), "vmbackup-%s - " % verb)
        t.contains(page, "vmbackup(1)")
    return run


for name in VERBS:
    tap.add_test("verb-" + name, check_verb(name))


@tap.test
def test_no_page_without_a_verb(t):
    pages = {re.sub(r"\.pod$", "", name) for name in os.listdir(os.environ["VMBACKUP_TEST_MAN_DIR"])
             if name.endswith(".pod")}
    known = {"vmbackup", "vmbackup-repository.5", "vmbackup-recovery.7"} | {"vmbackup-" + verb for verb in VERBS}
    t.equal(sorted(pages - known), [], "pages of things that are not there")


@tap.test
def test_exit_statuses(t):
    items = re.findall(r"^=item B<([0-9N+]+)>$", section(pod("vmbackup"), "EXIT STATUS"), re.M)
    t.equal(items, STATUSES)


@tap.test
def test_pages_are_sound(t):
    t.require(shutil.which("podchecker"), "podchecker (package perl) is not installed")
    directory = os.environ["VMBACKUP_TEST_MAN_DIR"]
    for name in sorted(os.listdir(directory)):
        if name.endswith(".pod"):
            run = subprocess.run(["podchecker", "-warnings", "-warnings",
                                  os.path.join(directory, name)], capture_output=True, text=True)
            t.ok(run.returncode == 0 and "WARNING" not in run.stderr, run.stderr)


@tap.test
def test_version(t):
    for args in (("--version",), ("list", "--version"), ("--version", "backup")):
        result = Tool(t).run(*args).expect(0)
        t.ok(re.fullmatch(r"vmbackup \d+\.\d+\.\d+\n", result.out), result.out)


@tap.test
def test_every_locale(t):
    locales = subprocess.run(["locale", "-a"], capture_output=True, text=True).stdout.split()
    expected = Tool(t).run("backup", "--help").out
    for locale in ["C", "tr_TR.UTF-8", "nonsense"] + locales[:20]:
        t.equal(Tool(t).run("backup", "--help", LC_ALL=locale).expect(0).out, expected)
        Tool(t).run("backup", "--level=x", LC_ALL=locale).expect(2).says("none of auto")


if __name__ == "__main__":
    tap.main()
