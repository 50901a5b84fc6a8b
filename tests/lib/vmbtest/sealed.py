# SPDX-License-Identifier: GPL-2.0-or-later
"""Documents that carry their digest."""

import hashlib
import json


def change(path, function):
    """Applies function to a document, whose digest is right afterwards."""
    with open(path, encoding="utf-8") as file:
        document = json.load(file)
    document.pop("digest", None)
    function(document)
    text = json.dumps(document, indent=2)[:-2]
    with open(path, "w", encoding="utf-8") as file:
        file.write('%s,\n  "digest":"sha256:%s"\n}\n' % (
            text, hashlib.sha256(text.encode()).hexdigest()))
