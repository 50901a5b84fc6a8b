#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Another reader of repositories, written from man/vmbackup-repository.5 alone.

Neither vmbackup nor QEMU has a part in it: what this program needs and that page does not tell is
a fault of the page. It only reads. zstd frames are decoded by the program zstd.

    reader.py REPO list                             points, oldest first, and their disks
    reader.py REPO check                            all bytes that have digests, or must be zero
    reader.py REPO restore UUID POINT TARGET OUT    the disk as a raw image, through its chain
"""

import hashlib
import json
import os
import re
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
if HERE not in sys.path:
    sys.path.insert(0, HERE)
from images import BLOCK, ENTRIES, Damage, Digests, Image, decode, need  # noqa: E402

NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}\Z", re.ASCII)
POINT = re.compile(r"[0-9]{8}T[0-9]{6}Z(-[0-9]+)?\Z", re.ASCII)
SEAL = re.compile(rb',\n  "digest":"sha256:([0-9a-f]{64})"\n}\n\Z')
FORMATS = {"repository.json": (1, 2), "manifest.json": (1, 2)}


def open_below(directory, name):
    """A file for reading. Symbolic links are not followed."""
    need(not os.path.islink(directory), "%s is a symbolic link" % directory)
    return open(os.path.join(directory, name), "rb",
                opener=lambda path, flags: os.open(path, flags | os.O_NOFOLLOW))


def document(file):
    """A JSON object that ends in a digest of itself."""
    text = file.read()
    found = SEAL.search(text)
    need(found, "%s does not end in a digest" % file.name)
    need(hashlib.sha256(text[:found.start()]).hexdigest() == found[1].decode(),
         "%s is not what its digest says" % file.name)
    value = json.loads(text)
    known = FORMATS.get(os.path.basename(file.name), (1,))
    need(isinstance(value, dict) and value["format"] in known,
         "%s has format %s" % (file.name, value.get("format")))
    return value


class Point:
    """A restore point: id, directory, manifest, and what a fold says against the manifest."""

    def __init__(self, domain, name):
        self.domain, self.id = domain, name
        self.path = os.path.join(domain.path, "points", name)
        self.retired = os.path.lexists(os.path.join(self.path, "retired"))
        self.moved = {}  # where files are for the time being: (directory of the point, name)
        self.growing = None  # an image of which nobody knows what is in its unused places
        with self.open("manifest.json") as file:
            self.manifest = document(file)
        need(self.manifest["id"] == name, "%s has the manifest of %s" % (name, self.manifest["id"]))
        need(self.manifest["domain"]["uuid"] == domain.uuid, "%s: another domain's" % name)

    def open(self, name):
        """One of its files."""
        path, name = self.moved.get(name, (self.path, name))
        need(NAME.match(name) or name.startswith(".fold-"), "%s: a file %r" % (self.id, name))
        return open_below(path, name)

    def disk(self, target=None, identity=None):
        """The element of disks with that target, or with that id."""
        for disk in self.manifest["disks"]:
            if identity in (None, disk["id"]) and target in (None, disk["target"]):
                return disk
        raise Damage("%s has no disk %s" % (self.id, identity or target))

    def image(self, disk):
        """Its image, the header compared with the manifest."""
        parent = disk["parent"]
        need((parent is None) == (disk["level"] == "full"), "a full has a parent")
        backing = None
        if parent is not None:
            below = self.domain.point(parent)
            need(below.manifest["sequence"] < self.manifest["sequence"], "the parent is younger")
            backing = "../%s/%s" % (parent, below.disk(identity=disk["id"])["image"]["file"])
        return Image(self.open(disk["image"]["file"]), disk, backing,
                     self.growing == disk["image"]["file"])

    def chain(self, target):
        """The images of a disk, the one of this point first, the full last."""
        point, disk, images = self, self.disk(target), []
        while True:
            images.append(point.image(disk))
            if disk["level"] == "full":
                return images
            point = self.domain.point(disk["parent"])
            disk = point.disk(identity=disk["id"])

    def restore(self, target, path):
        """Writes the disk as a raw image, sparse."""
        size = self.disk(target)["size"]
        with open(path, "wb") as out:
            out.truncate(size)
            for index, data in read_chain(self.chain(target)):
                out.seek(index * BLOCK)
                out.write(data[:size - index * BLOCK])

    def check_disk(self, disk):
        """Image and digests. Raises Damage."""
        image = self.image(disk)
        image.check()
        with self.open(disk["digests"]["file"]) as file:
            Digests(file, disk).check(image)

    def check(self):
        """All that belongs to the point alone. Raises Damage."""
        with self.open("state.json") as file:
            document(file)
        expected = {"manifest.json", "state.json", "lock"}
        for entry in self.manifest["files"]:
            expected.add(entry["name"])
            with self.open(entry["name"]) as file:
                data = file.read()
            need(len(data) == entry["size"] and
                 hashlib.sha256(data).hexdigest() == entry["digest"], "%s: %s" % (self.id, entry))
        for disk in self.manifest["disks"]:
            expected |= {disk["image"]["file"], disk["digests"]["file"]}
            self.check_disk(disk)
        names = {name for name in os.listdir(self.path) if not name.startswith(".")}
        need(names == expected - set(self.moved) or names == expected,
             "%s holds %s, and not %s" % (self.id, sorted(names), sorted(expected)))


def read_chain(images):
    """Yields (index, 65536 bytes) of the blocks that are not all zero, as the first image reads.

    What an image holds hides what those below it hold, and nothing shows of those below beyond the
    end of any image that lies over them.
    """
    for table in range(images[0].tables):
        found, ends, end = {}, {}, None
        for image in images:
            end = image.size if end is None else min(end, image.size)
            for number, entry in image.entries(table):
                if number not in found:
                    found[number], ends[number] = (image, entry), end
        for number, data in decode(found):
            index = table * ENTRIES + number
            keep = min(max(ends[number] - index * BLOCK, 0), BLOCK)
            data = data[:keep].ljust(BLOCK, b"\0")
            if data.count(0) != BLOCK:
                yield index, data


def is_image(path, name, size, header):
    """Whether the file is there and has that size, and its first 512 bytes have that digest."""
    try:
        file = open_below(path, name)
    except FileNotFoundError:
        return False
    with file:
        return (os.fstat(file.fileno()).st_size == size and
                hashlib.sha256(file.read(512)).hexdigest() == header)


class Domain:
    """A domain's directory."""

    def __init__(self, repository, uuid):
        self.path, self.uuid = os.path.join(repository.path, "domains", uuid), uuid
        points = os.path.join(self.path, "points")
        names = os.listdir(points) if os.path.isdir(points) else []
        self._points = {name: Point(self, name) for name in names if POINT.match(name)}
        try:
            file = open_below(self.path, "fold")
        except FileNotFoundError:
            return
        with file:
            self._fold(document(file))

    def _fold(self, record):
        """What a fold that is under way or was interrupted means for its two points."""
        need(record["mode"] in ("append", "clone", "rewrite") and
             record["stage"] in ("writing", "ready"), "a fold of an unknown kind")
        in_place = record["mode"] == "append"
        parent, child = (self._points.get(record[key]) for key in ("parent", "child"))
        if record["stage"] == "ready" and child is not None:
            entry, image = record["entry"], record["entry"]["image"]
            for point, name in ((child, image["file"]), (parent, record["parent_image"])):
                if point is not None and is_image(point.path, name, image["size"],
                                                  record["header"]):
                    self._switched(record, parent, child, (point.path, name))
                    return
                if not in_place:
                    break
        if in_place and parent is not None:
            parent.growing = record["parent_image"]

    @staticmethod
    def _switched(record, parent, child, place):
        entry = record["entry"]
        child.manifest["disks"] = [entry if disk["id"] == entry["id"] else disk
                                   for disk in child.manifest["disks"]]
        child.moved[entry["image"]["file"]] = place
        temporary = ".fold-" + entry["digests"]["file"]
        if os.path.lexists(os.path.join(child.path, temporary)):
            child.moved[entry["digests"]["file"]] = (child.path, temporary)
        if record["mode"] == "append":
            child.growing = entry["image"]["file"]
        if parent is not None:
            parent.manifest["disks"] = [disk for disk in parent.manifest["disks"]
                                        if disk["id"] != record["disk"]]

    def point(self, name):
        """One of them by its id, also a retired one."""
        need(name in self._points, "%s: no point %s" % (self.uuid, name))
        return self._points[name]

    def points(self):
        """All that can be restored, oldest first."""
        return sorted((point for point in self._points.values() if not point.retired),
                      key=lambda point: point.manifest["sequence"])

    def check(self):
        """All points, and of the retired ones what others build on."""
        for point in self.points():
            point.check()
        for point in self._points.values():
            for disk in point.manifest["disks"]:
                below = self.point(disk["parent"]) if disk["parent"] else None
                if below is not None and below.retired:
                    below.check_disk(below.disk(identity=disk["id"]))


class Repository:
    """A repository; path: its directory."""

    def __init__(self, path):
        self.path = path
        with open_below(path, "repository.json") as file:
            self.document = document(file)

    def domains(self):
        """Its domains, by UUID."""
        path = os.path.join(self.path, "domains")
        return [Domain(self, name) for name in sorted(os.listdir(path)) if NAME.match(name)]

    def domain(self, uuid):
        """One of them."""
        return Domain(self, uuid)


def show(repository):
    """Prints what there is."""
    for domain in repository.domains():
        for point in domain.points():
            print(domain.uuid, point.id, point.manifest["domain"]["name"], point.manifest["level"],
                  *["%s:%d" % (disk["target"], disk["size"]) for disk in point.manifest["disks"]])


def main(argv):
    """The command line."""
    if len(argv) < 3 or (argv[2], len(argv)) not in (
            ("list", 3), ("check", 3), ("restore", 7)):
        print(__doc__, file=sys.stderr)
        return 2
    try:
        repository = Repository(argv[1])
        if argv[2] == "list":
            show(repository)
        elif argv[2] == "restore":
            repository.domain(argv[3]).point(argv[4]).restore(argv[5], argv[6])
        else:
            for domain in repository.domains():
                domain.check()
    except Damage as error:
        print("reader.py: %s" % error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
