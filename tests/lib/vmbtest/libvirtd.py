# SPDX-License-Identifier: GPL-2.0-or-later
"""A libvirt daemon of the test's own, as root, invisible to the machine's and to other tests."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid

from . import domain_xml, process, reap, tap

try:
    import libvirt
except ImportError:
    libvirt = None

_HERE = os.path.dirname(os.path.abspath(__file__))
_GUEST_BUILD = os.path.join(_HERE, "..", "..", "guest", "build")
_DRIVERS = ("qemu", "secret", "storage")


def temporary_directory():
    """Where base directories go: VMBACKUP_TEST_TMP, or /tmp. Socket paths limit its length."""
    return os.environ.get("VMBACKUP_TEST_TMP") or "/tmp"


def cache_directory():
    """Where the guest is kept between runs: VMBACKUP_TEST_CACHE, or the user's cache directory."""
    if os.environ.get("VMBACKUP_TEST_CACHE"):
        return os.environ["VMBACKUP_TEST_CACHE"]
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(home, "vmbackup-test")


def guest_files():
    """Builds the guest if needed; returns the directory with vmlinuz and initrd."""
    return process.run(_GUEST_BUILD, cache_directory(), timeout=600).splitlines()[-1]


def require_libvirt():
    """Skips the test (or fails it) where a private libvirt cannot run."""
    tap.require(os.geteuid() == 0, "a private libvirt needs root")
    tap.require(libvirt is not None, "no libvirt for %s (package python3-libvirt)" % sys.executable)
    for program in ("libvirtd", "qemu-system-x86_64", "qemu-img", "unshare", "nsenter", "busybox"):
        tap.require(shutil.which(program), "no %s (tests/lib/install-deps test)" % program)


class PrivateLibvirt:
    """An isolated libvirtd.

    cleanup       has defer() (a test Context or the Suite): destroy() is called by it
    hostname      gives it a host name of its own (a second host, for migration)
    user, group   whom QEMU runs as, told to libvirt's DAC driver
    remember_owner  libvirt's setting; False where two daemons share images
    qemu_conf, libvirtd_conf  dicts of further settings, values in the syntax of the files
    start         False: only prepare; call start()

    Attributes: base (mode 0711), images, nvram, kernel, initrd, uri, socket, hostname, uuid, pid.
    Everything below base is at the same path inside and outside; /run, /var/log and libvirt's
    directories differ: outside() translates, enter() runs a program inside.
    """

    def __init__(self, cleanup, hostname=None, user="libvirt-qemu", group="kvm",
                 remember_owner=True, qemu_conf=None, libvirtd_conf=None, start=True):
        require_libvirt()
        libvirt.registerErrorHandler(lambda _context, _error: None, None)
        self.hostname = hostname
        self.user, self.group = user, group
        self.uuid = str(uuid.uuid4())
        self.pid = None
        self._holder = self._watchdog = self._conn = None
        self.base = tempfile.mkdtemp(prefix="vmbt-", dir=temporary_directory())
        cleanup.defer(self.destroy)
        self._watchdog = subprocess.Popen(
            [sys.executable, "-B", "-m", "vmbtest.reap", self.base], stdin=subprocess.PIPE,
            start_new_session=True, cwd=os.path.dirname(_HERE))
        self.images = self.path("images")
        self.nvram = self.path("nvram")
        self.socket = self.path("run/libvirt/libvirt-sock")
        self.uri = "qemu+unix:///system?socket=" + self.socket
        self._make_directories()
        self._write_config(remember_owner, qemu_conf or {}, libvirtd_conf or {})
        self._copy_guest()
        self._start_holder()
        if start:
            self.start()

    def path(self, *parts):
        """A path below base."""
        return os.path.join(self.base, *parts)

    def directory(self, name, mode=0o711, owner=None):
        """Makes a directory below base; owner 'qemu' gives it to QEMU's user. Returns its path."""
        path = self.path(name)
        os.makedirs(path, exist_ok=True)
        os.chmod(path, mode)
        if owner == "qemu":
            os.chown(path, *self.qemu_ids())
        return path

    def tmpfs(self, name, size, mode=0o711):
        """Mounts a tmpfs of size bytes below base, seen inside too. Returns its path."""
        path = self.directory(name)
        process.run("mount", "-t", "tmpfs", "-o", "size=%d,mode=%o" % (size, mode), "vmbtest", path)
        return path

    def umount(self, path):
        """Unmounts what tmpfs() mounted."""
        process.run("umount", path)

    def qemu_ids(self):
        """(uid, gid) of QEMU processes."""
        import grp
        import pwd
        return pwd.getpwnam(self.user).pw_uid, grp.getgrnam(self.group).gr_gid

    def outside(self, path):
        """Where a path that libvirt names is for a process outside."""
        for inside, below in (("/var/lib/libvirt", "lib"), ("/var/cache/libvirt", "cache"),
                              ("/etc/libvirt", "etc"), ("/var/log", "log"), ("/var/run", "run"),
                              ("/run", "run")):
            if path == inside or path.startswith(inside + "/"):
                return self.path(below) + path[len(inside):]
        return path

    def enter(self, argv):
        """argv for running a program inside; it keeps its pid, environment and descriptors."""
        return ["nsenter", "--target=%d" % self._holder.pid, "--mount", "--uts",
                "--wd=" + self.base] + [str(word) for word in argv]

    def _make_directories(self):
        os.chmod(self.base, 0o711)
        # Shared, so that file systems mounted below it later are seen inside.
        process.run("mount", "--bind", self.base, self.base)
        process.run("mount", "--make-private", self.base)
        process.run("mount", "--make-shared", self.base)
        for name in ("images", "nvram", "guest", "lib", "cache", "etc", "log", "run",
                     "run/libvirt", "drivers", "serial"):
            self.directory(name)
        for name in ("run", "log", "run/lock", "log/libvirt", "home"):
            self.directory(name, 0o755)
        self.directory("tmp", 0o1777)
        self.directory("localca", 0o750)
        if os.path.isdir("/var/lib/swtpm-localca"):
            shutil.copystat("/var/lib/swtpm-localca", self.path("localca"))
            info = os.stat("/var/lib/swtpm-localca")
            os.chown(self.path("localca"), info.st_uid, info.st_gid)
        for path in ("/var/lib/libvirt", "/var/cache/libvirt", "/etc/libvirt"):
            tap.require(os.path.isdir(path), "no %s (package libvirt-daemon-system)" % path)

    def _driver_directory(self):
        """The drivers that guests need, without the one that would touch the machine's firewall."""
        wanted = ["libvirt_driver_%s.so" % name for name in _DRIVERS]
        for place in ("/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib"):
            source = os.path.join(place, "libvirt", "connection-driver")
            if not os.path.isdir(source):
                continue
            for name in wanted:
                target = self.path("drivers", name)
                if os.path.exists(os.path.join(source, name)) and not os.path.lexists(target):
                    os.symlink(os.path.join(source, name), target)
            return self.path("drivers")
        return None

    @staticmethod
    def _write(path, settings):
        with open(path, "w", encoding="utf-8") as file:
            for key, value in settings.items():
                file.write("%s = %s\n" % (key, value))

    def _write_config(self, remember_owner, qemu_conf, libvirtd_conf):
        settings = {
            "user": '"%s"' % self.user, "group": '"%s"' % self.group, "dynamic_ownership": 1,
            "remember_owner": 1 if remember_owner else 0, "security_driver": '"none"',
            "stdio_handler": '"file"', "cgroup_controllers": "[]", "namespaces": "[]",
            "swtpm_user": '"%s"' % self._swtpm_user(), "swtpm_group": '"%s"' % self._swtpm_user(),
        }
        settings.update(qemu_conf)
        self._write(self.path("etc/qemu.conf"), settings)
        settings = {
            "listen_tls": 0, "auth_unix_ro": '"none"', "auth_unix_rw": '"none"',
            "unix_sock_rw_perms": '"0700"', "host_uuid": '"%s"' % self.uuid,
            "log_outputs": '"3:file:/var/log/libvirt/libvirtd.log"', "keepalive_interval": -1,
        }
        settings.update(libvirtd_conf)
        self._write(self.path("etc/libvirtd.conf"), settings)

    @staticmethod
    def _swtpm_user():
        import pwd
        try:
            return pwd.getpwuid(os.stat("/var/lib/swtpm-localca").st_uid).pw_name
        except (OSError, KeyError):
            return "root"

    def _copy_guest(self):
        """A copy, because libvirt gives the files to QEMU's user and the cache is for all tests."""
        built = guest_files()
        for name in ("vmlinuz", "initrd"):
            shutil.copyfile(os.path.join(built, name), self.path("guest", name))
        self.kernel, self.initrd = self.path("guest/vmlinuz"), self.path("guest/initrd")

    def _start_holder(self):
        os.makedirs("/run/libvirt", exist_ok=True)
        argv = ["unshare", "--mount", "--uts", "--propagation", "slave", sys.executable, "-B",
                os.path.join(_HERE, "holder.py"), self.base, self.hostname or "",
                "kvm" if domain_xml.kvm() else ""]
        self._holder = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        start_new_session=True)
        answer = self._holder.stdout.readline().strip()
        tap.require(answer == b"ready", "private mounts are not possible here")
        namespace = process.mount_namespace(self._holder.pid)
        if namespace == process.mount_namespace(os.getpid()):
            raise process.CommandError("no mount namespace of our own")
        with open(self.path("namespace"), "w", encoding="utf-8") as file:
            file.write(namespace)

    def _environment(self):
        environment = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": self.path("home"),
            "TMPDIR": self.path("tmp"),
            "LC_ALL": os.environ.get("VMBACKUP_TEST_DAEMON_LOCALE", "C"),
            "DBUS_SYSTEM_BUS_ADDRESS": "unix:path=" + self.path("run/no-dbus"),
        }
        drivers = self._driver_directory()
        if drivers:
            environment["LIBVIRT_DRIVER_DIR"] = drivers
        return environment

    def start(self, timeout=60):
        """Starts the daemon and waits until it answers."""
        argv = ["libvirtd", "-f", "/etc/libvirt/libvirtd.conf", "-p", "/run/libvirtd.pid"]
        order = {"argv": argv, "environment": self._environment(),
                 "errors": self.path("log/libvirtd.err")}
        self._holder.stdin.write(json.dumps(order).encode() + b"\n")
        self._holder.stdin.flush()
        self.pid = int(self._holder.stdout.readline())
        deadline = time.monotonic() + timeout
        while True:
            try:
                self._conn = libvirt.open(self.uri)
                return self
            except libvirt.libvirtError as error:
                if not process.alive(self.pid) or time.monotonic() > deadline:
                    raise process.CommandError("libvirtd does not start: %s\n%s" % (
                        error, self.log())) from error
            time.sleep(0.05)

    @property
    def conn(self):
        """An open connection to the daemon; a new one after a restart."""
        if self._conn is not None:
            try:
                if self._conn.isAlive() and self._conn.getLibVersion():
                    return self._conn
            except libvirt.libvirtError:
                pass
            self.close()
        self._conn = libvirt.open(self.uri)
        return self._conn

    def close(self):
        """Closes the connection of conn."""
        conn, self._conn = self._conn, None
        if conn is not None:
            try:
                conn.close()
            except libvirt.libvirtError:
                pass

    def log(self, last=4000):
        """The end of what the daemon said."""
        text = ""
        for name in ("log/libvirtd.err", "log/libvirt/libvirtd.log"):
            if os.path.exists(self.path(name)):
                with open(self.path(name), encoding="utf-8", errors="backslashreplace") as file:
                    text += file.read()[-last:]
        return text

    def _end_daemon(self, number, timeout):
        if self.pid is None:
            return
        self.close()
        process.kill(self.pid, number)
        if process.wait_gone([self.pid], timeout):
            process.kill(self.pid)
            process.wait_gone([self.pid], 20)
        self.pid = None
        self._wait_for_pid_file(20)

    def _wait_for_pid_file(self, timeout):
        """The main thread of a killed daemon is gone before the others, and they hold the lock on it."""
        deadline, path = time.monotonic() + timeout, self.path("run/libvirtd.pid")
        if not os.path.exists(path):
            return
        with open(path, "r+", encoding="ascii") as file:
            while time.monotonic() < deadline:
                try:
                    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return
                except OSError:
                    time.sleep(0.02)

    def stop(self, timeout=20):
        """Ends the daemon in order; guests go on running."""
        self._end_daemon(signal.SIGTERM, timeout)

    def kill9(self):
        """Kills the daemon; guests go on running."""
        self._end_daemon(signal.SIGKILL, 20)

    def restart(self):
        """Stops and starts the daemon."""
        self.stop()
        return self.start()

    # A sed script for libvirt's record of a running domain.
    WITHOUT_BACKUP_JOB = (r"/<job .*async='backup'/d",
                          r"/<blockjob .*type='backup'/,/<\/blockjob>/d",
                          r"/<backups>/,/<\/backups>/d")

    def edit_state(self, name, *script):
        """Applies a sed script to libvirt's record of a running domain; the daemon is restarted."""
        self.stop()
        process.run("sed", "-i", *[word for line in script for word in ("-e", line)],
                    self.path("run/libvirt/qemu", name + ".xml"))
        self.start()

    def forget_backup_job(self, name):
        """What vmbackup-recovery(7) says of a job that libvirt has lost: out of its record with it."""
        self.edit_state(name, *self.WITHOUT_BACKUP_JOB)

    def qemu_pid(self, name):
        """Process number of a running domain's QEMU."""
        with open(self.path("run/libvirt/qemu", name + ".pid"), encoding="ascii") as file:
            return int(file.read())

    def qemu_log(self, name):
        """The log of a domain's QEMU: its standard output and error."""
        return self.path("log/libvirt/qemu", name + ".log")

    def forget_state(self):
        """Kills daemon and guests and drops libvirt's run-time state, as a power failure does."""
        self.kill9()
        for pid in reap.processes(self.base):
            if pid != self._holder.pid:
                process.kill(pid)
        process.wait_gone([pid for pid in reap.processes(self.base) if pid != self._holder.pid], 10)
        shutil.rmtree(self.path("run/libvirt"))
        self.directory("run/libvirt")

    def processes(self):
        """What runs inside, as (pid, command line), apart from the daemon; for leak checks."""
        found = []
        for pid in reap.processes(self.base):
            if pid in (self.pid, self._holder.pid):
                continue
            try:
                with open("/proc/%d/cmdline" % pid, "rb") as file:
                    words = file.read().replace(b"\0", b" ").decode(errors="backslashreplace")
            except OSError:
                continue
            found.append((pid, words.strip()))
        return found

    def destroy(self):
        """Ends everything and removes the base directory."""
        self.close()
        reap.destroy(self.base)
        for child in (self._holder, self._watchdog):
            if child is not None:
                for stream in (child.stdin, child.stdout):
                    if stream is not None:
                        stream.close()
                child.wait(30)
        self._holder = self._watchdog = self.pid = None
