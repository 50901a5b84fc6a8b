# SPDX-License-Identifier: GPL-2.0-or-later
"""Images and digests of a point, as the sections IMAGES and DIGESTS of vmbackup-repository(5) say."""

import collections
import hashlib
import os
import struct
import subprocess

BLOCK = 65536
ENTRIES = 8192
PER_TABLE = BLOCK * ENTRIES
COUNTS = 32768
OFFSET = 0x00fffffffffffe00
PLAIN, FRAME, ZERO = 1 << 63, 1 << 62, 1
BATCH = 128


class Damage(Exception):
    """Something is not as the page says."""


def need(condition, message):
    """Raises Damage unless the condition holds."""
    if not condition:
        raise Damage(message)


def read_at(file, offset, length):
    """Just so many bytes."""
    data = os.pread(file.fileno(), length, offset)
    need(len(data) == length, "%s ends within %d + %d" % (file.name, offset, length))
    return data


def round_up(value, unit):
    """The next multiple."""
    return -(-value // unit) * unit


def frame_length(data):
    """How many bytes the zstd frame has that begins there (RFC 8878, 3.1.1)."""
    need(data[:4] == b"\x28\xb5\x2f\xfd" and len(data) > 5, "no zstd frame")
    flags = data[4]
    single = flags >> 5 & 1
    need(flags & 0x0f == 0, "a frame with a checksum or a dictionary")
    size = (1 if single else 0, 2, 4, 8)[flags >> 6]
    at = 5 + (1 - single)
    content = int.from_bytes(data[at:at + size], "little") + (256 if size == 2 else 0)
    need(size > 0 and content == BLOCK, "a frame of %d bytes" % content)
    at += size
    while True:
        need(at + 3 <= len(data), "a frame is cut off")
        block = int.from_bytes(data[at:at + 3], "little")
        at += 3 + (1 if block >> 1 & 3 == 1 else block >> 3)
        if block & 1:
            need(at <= len(data), "a frame is cut off")
            return at


def unpack(frames):
    """The blocks of a list of frames."""
    if not frames:
        return []
    done = subprocess.run(["zstd", "-dcq"], input=b"".join(frames), stdout=subprocess.PIPE,
                          check=False)
    need(done.returncode == 0 and len(done.stdout) == BLOCK * len(frames), "frames do not decode")
    return [done.stdout[at:at + BLOCK] for at in range(0, len(done.stdout), BLOCK)]


def decode(found):
    """{number: (image, L2 entry)} -> yields (number, block) in order; those that read as zero are left out."""
    waiting = [item for item in sorted(found.items(), key=lambda item: item[0])
               if item[1][1] != ZERO]
    for start in range(0, len(waiting), BATCH):
        batch = waiting[start:start + BATCH]
        frames = [image.frame(entry) for _, (image, entry) in batch if entry & FRAME]
        blocks = iter(unpack(frames))
        for number, (image, entry) in batch:
            yield number, next(blocks) if entry & FRAME else image.plain(entry)


def xxh64(data):
    """XXH64 with the seed 0."""
    p1, p2, p3, p4, p5 = (11400714785074694791, 14029467366897019727, 1609587929392839161,
                          9650029242287828579, 2870177450012600261)
    mask = (1 << 64) - 1

    def rotate(value, by):
        return (value << by | value >> (64 - by)) & mask

    def mix(lane, word):
        return rotate((lane + word * p2) & mask, 31) * p1 & mask
    whole = len(data) // 32 * 32
    value = p5
    if whole:
        lanes = [(p1 + p2) & mask, p2, 0, -p1 & mask]
        for words in struct.iter_unpack("<4Q", data[:whole]):
            lanes = [mix(lane, word) for lane, word in zip(lanes, words)]
        value = sum(rotate(lane, by) for lane, by in zip(lanes, (1, 7, 12, 18))) & mask
        for lane in lanes:
            value = ((value ^ mix(0, lane)) * p1 + p4) & mask
    value = (value + len(data)) & mask
    at = whole
    while at + 8 <= len(data):
        value ^= mix(0, int.from_bytes(data[at:at + 8], "little"))
        value = (rotate(value, 27) * p1 + p4) & mask
        at += 8
    if at + 4 <= len(data):
        value ^= int.from_bytes(data[at:at + 4], "little") * p1 & mask
        value = (rotate(value, 23) * p2 + p3) & mask
        at += 4
    for byte in data[at:]:
        value = rotate(value ^ byte * p5 & mask, 11) * p1 & mask
    value = (value ^ value >> 33) * p2 & mask
    value = (value ^ value >> 29) * p3 & mask
    return value ^ value >> 32


class Image:
    """One image: the header is compared with the manifest when it is opened.

    disk: the element of the manifest; backing: what the header must name, or None; growing: a fold
    writes, or has written, into unused places, and the file may be longer than the manifest says.
    """

    def __init__(self, file, disk, backing, growing=False):
        self.file, self.disk, self.size, self.growing = file, disk, disk["size"], growing
        self.entry = disk["image"]
        self.length = os.fstat(file.fileno()).st_size
        need(self.length == self.entry["size"] or (growing and self.length > self.entry["size"]),
             "%s is %d bytes long" % (file.name, self.length))
        need(self.entry["size"] % BLOCK == 0, "%s: no whole clusters" % file.name)
        self.tables = -(-self.size // PER_TABLE)
        self.header = read_at(file, 0, BLOCK)
        self.check_header(backing)
        self.l1_bytes = read_at(file, self.l1_offset, round_up(self.tables * 8, BLOCK))
        self.l1 = struct.unpack(">%dQ" % self.tables, self.l1_bytes[:self.tables * 8])
        self.counts_bytes = read_at(file, self.counts_offset, self.counts_clusters * BLOCK)
        digest = hashlib.sha256(self.header + self.l1_bytes + self.counts_bytes).hexdigest()
        need(digest == self.entry["head_digest"], "%s: head_digest" % file.name)
        self._kept = (None, None)

    def check_header(self, backing):
        """Every byte of the first cluster."""
        (magic, version, name_offset, name_length, bits, virtual, encryption, entries,
         self.l1_offset, self.counts_offset, self.counts_clusters, snapshots, snapshots_offset,
         incompatible, compatible, autoclear, order, length,
         kind) = struct.unpack(">4sIQIIQIIQQIIQQQQIIB", self.header[:105])
        compressed = self.entry["compression"] == "zstd"
        where = self.file.name
        need((magic, version, bits, encryption, snapshots, snapshots_offset, compatible, autoclear,
              order, length) == (b"QFI\xfb", 3, 16, 0, 0, 0, 0, 0, 4, 112), "%s: header" % where)
        need(virtual == round_up(self.size, 512) and entries == self.tables, "%s: size" % where)
        need((incompatible, kind) == ((8, 1) if compressed else (0, 0)), "%s: compression" % where)
        need(1 <= self.counts_clusters <= 16, "%s: refcount table" % where)
        need(self.l1_offset % BLOCK == 0 and self.counts_offset % BLOCK == 0, "%s: front" % where)
        rest = bytearray(self.header)
        rest[:105] = bytes(105)
        if backing is None:
            need(name_offset == 0 and name_length == 0, "%s: a full has a backing file" % where)
        else:
            name = backing.encode()
            extension = struct.pack(">II5s3xII", 0xe2792aca, 5, b"qcow2", 0, 0) + name
            need((name_offset, name_length) == (112 + 24, len(name)) and
                 rest[112:112 + len(extension)] == extension, "%s: backing file" % where)
            rest[112:112 + len(extension)] = bytes(len(extension))
        need(not any(rest), "%s: rest of the header" % where)

    def table_offset(self, table):
        """Where an L2 table is, and whether the L1 entry calls it its own. 0: there is none."""
        offset, own = self.l1[table] & ~PLAIN, bool(self.l1[table] & PLAIN)
        need(offset % BLOCK == 0 and offset & OFFSET == offset and (offset or not own),
             "%s: L1 entry %d" % (self.file.name, table))
        return offset, own

    def entries(self, table):
        """[(number, L2 entry)] of what the image holds of a table's part of the disk."""
        if table >= self.tables:
            return []
        offset = self.table_offset(table)[0]
        if not offset:
            return []
        if self._kept[0] != offset:
            found = struct.unpack(">%dQ" % ENTRIES, read_at(self.file, offset, BLOCK))
            self._kept = (offset, [(n, entry) for n, entry in enumerate(found) if entry])
        return self._kept[1]

    def plain(self, entry):
        """A block that is stored as it is."""
        offset = entry ^ PLAIN
        need(entry & PLAIN and offset % BLOCK == 0 and 0 < offset & OFFSET == offset,
             "%s: L2 entry %x" % (self.file.name, entry))
        return read_at(self.file, offset, BLOCK)

    def frame_range(self, entry):
        """Offset, and length up to the end of the last sector, of a frame."""
        need(entry & (PLAIN | FRAME) == FRAME, "%s: L2 entry %x" % (self.file.name, entry))
        offset = entry & (1 << 54) - 1
        sectors = entry >> 54 & 0xff
        return offset, 512 - offset % 512 + sectors * 512

    def frame(self, entry):
        """The bytes of a frame."""
        need(self.entry["compression"] == "zstd", "%s: a frame" % self.file.name)
        offset, length = self.frame_range(entry)
        data = read_at(self.file, offset, min(length, self.length - offset))
        data = data[:frame_length(data)]
        need(512 - offset % 512 + (entry >> 54 & 0xff) * 512 < len(data) + 512,
             "%s: too many sectors" % self.file.name)
        return data

    def check(self):
        """Refcounts, tables_digest, and that every byte that nothing uses is zero."""
        users, metadata = collections.Counter(), {}
        for first, length in ((0, BLOCK), (self.l1_offset, len(self.l1_bytes)),
                              (self.counts_offset, len(self.counts_bytes))):
            users.update(range(first // BLOCK, (first + length) // BLOCK))
        need(not any(self.l1_bytes[self.tables * 8:]), "%s: rest of L1" % self.file.name)
        used = [(cluster * BLOCK, BLOCK) for cluster in users]
        used += self.check_tables(users, metadata)
        blocks = [offset for offset, in struct.iter_unpack(">Q", self.counts_bytes)]
        for offset in filter(None, blocks):
            users[offset // BLOCK] += 1
            metadata[offset] = read_at(self.file, offset, BLOCK)
        used += [(offset, BLOCK) for offset in metadata]
        digest = hashlib.sha256(b"".join(data for _, data in sorted(metadata.items())))
        need(digest.hexdigest() == self.entry["tables_digest"],
             "%s: tables_digest" % self.file.name)
        self.check_counts(users, blocks, metadata)
        self.check_rest(used)

    def check_tables(self, users, metadata):
        """Counts the users of what L1 and L2 name; returns the ranges of data that is stored."""
        used, data, zero, stored = [], 0, 0, 0
        for table in range(self.tables):
            offset, own = self.table_offset(table)
            if not offset:
                continue
            users[offset // BLOCK] += 1
            metadata[offset] = read_at(self.file, offset, BLOCK)
            need(own == (sum(entry & ~PLAIN == offset for entry in self.l1) == 1),
                 "%s: bit 63 of L1" % self.file.name)
            for number, entry in self.entries(table):
                need((table * ENTRIES + number) * BLOCK < self.size, "%s: a block beyond the end"
                     % self.file.name)
                if entry == ZERO:
                    zero += 1
                    continue
                if entry & FRAME:
                    start, length = self.frame_range(entry)[0], len(self.frame(entry))
                    touched = range(start // BLOCK, (start + length - 1) // BLOCK + 1)
                else:
                    self.plain(entry)
                    start, length = entry ^ PLAIN, BLOCK
                    touched = [start // BLOCK]
                users.update(touched)
                used.append((start, length))
                data, stored = data + 1, stored + length
        need((data, zero, stored) == tuple(self.entry[key] for key in (
            "data_blocks", "zero_blocks", "stored_bytes")), "%s: %d, %d, %d" % (
                self.file.name, data, zero, stored))
        need(zero == 0 or self.disk["level"] != "full", "%s: a full with zeroes" % self.file.name)
        return used

    def check_counts(self, users, blocks, metadata):
        """Every refcount, of every cluster of the file."""
        for number, offset in enumerate(blocks):
            if not offset:
                continue
            for at, count in enumerate(struct.unpack(">%dH" % COUNTS, metadata[offset])):
                cluster = number * COUNTS + at
                need(count == users.get(cluster, 0), "%s: cluster %d has refcount %d, and %d users" % (
                    self.file.name, cluster, count, users.get(cluster, 0)))
        last = max(users)
        need(last < self.length // BLOCK and all(
            cluster // COUNTS < len(blocks) and blocks[cluster // COUNTS] for cluster in users),
             "%s: clusters without refcounts, up to %d" % (self.file.name, last))

    def check_rest(self, used):
        """Data does not overlap, and what lies between is zero."""
        at = 0
        for offset, length in sorted(used) + [(self.length, 0)]:
            need(offset >= at, "%s: two things at %d" % (self.file.name, offset))
            while at < offset and not self.growing:
                part = read_at(self.file, at, min(offset - at, 1 << 20))
                need(part.count(0) == len(part), "%s: bytes behind %d belong to nothing" % (
                    self.file.name, at))
                at += len(part)
            at = offset + length


class Digests:
    """A file of digests: data {index: (check, digest)} and zeroes, a set of indices."""

    def __init__(self, file, disk):
        self.name = file.name
        text = file.read()
        need(len(text) == disk["digests"]["size"] and
             hashlib.sha256(text).hexdigest() == disk["digests"]["digest"], "%s: digest" % self.name)
        need(text[:64] == struct.pack("<8sIIQ40x", b"VMBDIGST", 1, BLOCK, disk["size"]) and
             len(text) % 48 == 16, "%s: header" % self.name)
        self.data, self.zeroes, end = {}, set(), 0
        for offset, kind, value, digest in struct.iter_unpack("<QII32s", text[64:]):
            need(offset % BLOCK == 0 and offset >= end, "%s: not in order" % self.name)
            index = offset // BLOCK
            if kind == 1:
                self.data[index], end = (value, digest), offset + BLOCK
            else:
                need(kind == 2 and value > 0 and not any(digest), "%s: a record" % self.name)
                self.zeroes.update(range(index, index + value))
                end = offset + value * BLOCK
        need(end <= round_up(disk["size"], BLOCK), "%s: beyond the end" % self.name)

    def check(self, image):
        """The image holds just these blocks, and they have these digests."""
        data, zeroes = set(), set()
        for table in range(image.tables):
            found = dict(image.entries(table))
            for number, block in decode({n: (image, entry) for n, entry in found.items()}):
                index = table * ENTRIES + number
                need(index in self.data, "%s: nothing of block %d" % (self.name, index))
                check, digest = self.data[index]
                need(hashlib.sha256(block).digest() == digest, "%s: block %d" % (self.name, index))
                entry = found[number]
                stored = xxh64(image.frame(entry)) & 0xffffffff if entry & FRAME else 0
                need(check == stored, "%s: check of block %d" % (self.name, index))
                data.add(index)
            zeroes.update(table * ENTRIES + n for n, entry in found.items() if entry == ZERO)
        need(data == set(self.data) and zeroes == self.zeroes,
             "%s: other blocks than those of the image" % self.name)
