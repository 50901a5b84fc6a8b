#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A file system with faults: passes a directory through FUSE, and fails or stalls where it is told.

It speaks the kernel's protocol itself, so that nothing but /dev/fuse is needed. As a program:
fusefs.py BACKING MOUNTPOINT [WORD ...]; words take abilities away:

no-symlink, no-rename-flags, no-flock, no-modes (every file 0755, chmod is refused, as on FAT)

Lines on its standard input change what it does; each is answered by "ok":

    fail OPERATION NUMBER   from now on this operation fails with this errno (0: works again)
    stall OPERATION         from now on this operation is not answered
    go                      all operations are answered, also those that wait

Operations: read, write, create, fsync, unlink, rename, mkdir, setattr, lookup. The end of the input
unmounts.
"""

import ctypes
import errno
import os
import select
import stat
import struct
import sys

ENTRY = struct.Struct("<QQQQII")
ATTR = struct.Struct("<6Q10I")
NAMES = {1: "lookup", 3: "getattr", 4: "setattr", 5: "readlink", 6: "symlink", 9: "mkdir",
         10: "unlink", 11: "rmdir", 12: "rename", 14: "open", 15: "read", 16: "write", 17: "statfs",
         18: "release", 20: "fsync", 25: "flush", 27: "opendir", 28: "readdir", 29: "releasedir",
         30: "fsyncdir", 32: "lock", 33: "lock", 35: "create", 43: "fallocate", 45: "rename2"}
NO_ANSWER = (2, 36, 42)  # forget, interrupt, batch forget
INIT, DESTROY = 26, 38
FLOCK_LOCKS = 1 << 10
SETS_MODE, SETS_SIZE = 1, 8


class Server:
    """One mounted file system."""

    def __init__(self, backing, mountpoint, words):
        self.words, self.mountpoint = set(words), mountpoint
        self.paths, self.numbers = {1: backing}, {backing: 1}
        self.files, self.next_file, self.next_node = {}, 1, 2
        self.failing, self.stalled, self.waiting = {}, set(), []
        self.fuse = os.open("/dev/fuse", os.O_RDWR)
        libc = ctypes.CDLL(None, use_errno=True)
        options = "fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other" % self.fuse
        if libc.mount(b"vmbtest", mountpoint.encode(), b"fuse", 6, options.encode()) < 0:
            raise OSError(ctypes.get_errno(), "mount " + mountpoint)

    # Requests

    def answer(self, unique, data=b"", error=0):
        """Sends one reply; the request may have been given up meanwhile."""
        try:
            os.write(self.fuse, struct.pack("<IiQ", 16 + len(data), -error, unique) + data)
        except OSError as problem:
            if problem.errno not in (errno.ENOENT, errno.EINVAL):
                raise

    def handle(self, request):
        """One request of the kernel."""
        _, code, unique, node = struct.unpack_from("<IIQQ", request)
        body = request[40:]
        if code in NO_ANSWER:
            return
        if code == INIT:
            _, minor, ahead, offered = struct.unpack_from("<IIII", body)
            flags = offered & FLOCK_LOCKS if "no-flock" in self.words else 0
            self.answer(unique, struct.pack("<IIIIHHIIHHI28x", 7, min(minor, 31), ahead, flags, 12,
                                            9, 128 * 1024, 1, 0, 0, 0))
            return
        name = NAMES.get(code)
        kind = {"rename2": "rename", "fsyncdir": "fsync", "rmdir": "unlink"}.get(name, name)
        if kind in self.stalled:
            self.waiting.append(request)
            return
        if self.failing.get(kind):
            self.answer(unique, error=self.failing[kind])
            return
        function = getattr(self, "do_" + (name or "nothing"), None)
        if function is None:
            self.answer(unique, error=0 if code == DESTROY else errno.ENOSYS)
            return
        try:
            self.answer(unique, function(node, body) or b"")
        except OSError as problem:
            self.answer(unique, error=problem.errno)

    def command(self, line):
        """One line of the test."""
        words = line.split()
        if words[0] == "fail":
            self.failing[words[1]] = int(words[2])
        elif words[0] == "stall":
            self.stalled.add(words[1])
        else:
            self.stalled.clear()
            waiting, self.waiting = self.waiting, []
            for request in waiting:
                self.handle(request)
        print("ok", flush=True)

    def serve(self):
        """Until the end of the input, or until somebody unmounts it."""
        print("ready", flush=True)
        while True:
            ready = select.select([self.fuse, 0], [], [])[0]
            if 0 in ready:
                line = os.read(0, 4096).decode()
                if not line:
                    ctypes.CDLL(None).umount2(self.mountpoint.encode(), 2)
                    return
                self.command(line)
            if self.fuse in ready:
                try:
                    self.handle(os.read(self.fuse, 1024 * 1024))
                except OSError as problem:
                    if problem.errno == errno.ENODEV:
                        return
                    if problem.errno not in (errno.ENOENT, errno.EINTR):
                        raise

    # Nodes

    def attributes(self, path, fd=None):
        """What the kernel wants to know of a file."""
        info = os.fstat(fd) if fd is not None else os.lstat(path)
        mode = info.st_mode
        if "no-modes" in self.words:
            mode = stat.S_IFMT(mode) | 0o755
        times = [int(t) for t in (info.st_atime, info.st_mtime, info.st_ctime)]
        nanoseconds = [t % 1000000000 for t in (info.st_atime_ns, info.st_mtime_ns,
                                                info.st_ctime_ns)]
        return ATTR.pack(info.st_ino, info.st_size, info.st_blocks, *times, *nanoseconds, mode,
                         info.st_nlink, info.st_uid, info.st_gid, 0, 4096, 0)

    def entry(self, path):
        """A node's number with its attributes, not to be cached."""
        attributes = self.attributes(path)
        if path not in self.numbers:
            self.numbers[path], self.paths[self.next_node] = self.next_node, path
            self.next_node += 1
        return ENTRY.pack(self.numbers[path], 0, 0, 0, 0, 0) + attributes

    def child(self, node, name):
        """The path of a name in a directory."""
        return os.path.join(self.paths[node], os.fsdecode(name.split(b"\0")[0]))

    def forget(self, path):
        """A name is gone: the next file of that name is another node."""
        number = self.numbers.pop(path, None)
        if number is not None:
            self.paths[number] = path

    def moved(self, old, new):
        """All that was below old is below new."""
        self.forget(new)
        for path in [p for p in self.numbers if p == old or p.startswith(old + "/")]:
            number = self.numbers.pop(path)
            self.paths[number] = new + path[len(old):]
            self.numbers[self.paths[number]] = number

    def opened(self, fd):
        """A descriptor for the kernel. Nothing is kept in its cache: each read gets here."""
        number, self.next_file = self.next_file, self.next_file + 1
        self.files[number] = fd
        return struct.pack("<QII", number, 1, 0)

    def file(self, body):
        """The descriptor that a request names."""
        return self.files[struct.unpack_from("<Q", body)[0]]

    # Operations

    def do_lookup(self, node, body):
        return self.entry(self.child(node, body))

    def do_getattr(self, node, _body):
        return struct.pack("<QII", 0, 0, 0) + self.attributes(self.paths[node])

    def do_setattr(self, node, body):
        valid, _, _, size = struct.unpack_from("<IIQQ", body)
        if valid & SETS_MODE:
            if "no-modes" in self.words:
                raise OSError(errno.EPERM, "chmod")
            os.chmod(self.paths[node], struct.unpack_from("<I", body, 68)[0] & 0o7777)
        if valid & SETS_SIZE:
            os.truncate(self.paths[node], size)
        return self.do_getattr(node, body)

    def do_readlink(self, node, _body):
        return os.fsencode(os.readlink(self.paths[node]))

    def do_symlink(self, node, body):
        if "no-symlink" in self.words:
            raise OSError(errno.EPERM, "symlink")
        name, target = body.split(b"\0")[:2]
        os.symlink(target, os.fsencode(self.child(node, name)))
        return self.entry(self.child(node, name))

    def do_mkdir(self, node, body):
        path = self.child(node, body[8:])
        os.mkdir(path, struct.unpack_from("<I", body)[0])
        return self.entry(path)

    def do_unlink(self, node, body):
        os.unlink(self.child(node, body))
        self.forget(self.child(node, body))

    def do_rmdir(self, node, body):
        os.rmdir(self.child(node, body))
        self.forget(self.child(node, body))

    def do_rename(self, node, body, names=8):
        target = struct.unpack_from("<Q", body)[0]
        old, new = body[names:].split(b"\0")[:2]
        old, new = self.child(node, old), self.child(target, new)
        os.rename(old, new)
        self.moved(old, new)

    def do_rename2(self, node, body):
        flags = struct.unpack_from("<I", body, 8)[0]
        if "no-rename-flags" in self.words or flags != 1:
            raise OSError(errno.ENOSYS, "rename2")
        target = struct.unpack_from("<Q", body)[0]
        if os.path.lexists(self.child(target, body[16:].split(b"\0")[1])):
            raise OSError(errno.EEXIST, "rename2")
        self.do_rename(node, body, 16)

    def do_open(self, node, body):
        flags = struct.unpack_from("<I", body)[0] & ~(os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW)
        return self.opened(os.open(self.paths[node], flags))

    def do_create(self, node, body):
        flags, mode = struct.unpack_from("<II", body)
        path = self.child(node, body[16:])
        answer = self.opened(os.open(path, flags | os.O_CREAT, mode & 0o7777))
        return self.entry(path) + answer

    def do_read(self, _node, body):
        _, offset, size = struct.unpack_from("<QQI", body)
        return os.pread(self.file(body), size, offset)

    def do_write(self, _node, body):
        _, offset, size = struct.unpack_from("<QQI", body)
        return struct.pack("<II", os.pwrite(self.file(body), body[40:40 + size], offset), 0)

    def do_statfs(self, node, _body):
        info = os.statvfs(self.paths[node])
        return struct.pack("<5Q4I24x", info.f_blocks, info.f_bfree, info.f_bavail, info.f_files,
                           info.f_ffree, info.f_bsize, 255, info.f_frsize, 0)

    def do_release(self, _node, body):
        os.close(self.files.pop(struct.unpack_from("<Q", body)[0]))

    def do_fsync(self, _node, body):
        os.fsync(self.file(body))

    def do_flush(self, _node, _body):
        return b""

    def do_lock(self, _node, _body):
        raise OSError(errno.EOPNOTSUPP, "flock")

    def do_opendir(self, node, _body):
        fd = os.open(self.paths[node], os.O_RDONLY | os.O_DIRECTORY)
        return self.opened(fd)

    def do_readdir(self, node, body):
        _, offset, size = struct.unpack_from("<QQI", body)
        answer = b""
        names = [".", ".."] + sorted(os.listdir(self.paths[node]))
        for index, name in list(enumerate(names))[offset:]:
            raw = os.fsencode(name)
            item = struct.pack("<QQII", index + 1, index + 1, len(raw), 0) + raw
            item += b"\0" * (-len(item) % 8)
            if len(answer) + len(item) > size:
                break
            answer += item
        return answer

    do_releasedir, do_fsyncdir = do_release, do_fsync


if __name__ == "__main__":
    os.chdir("/")
    Server(sys.argv[1], sys.argv[2], sys.argv[3:]).serve()
