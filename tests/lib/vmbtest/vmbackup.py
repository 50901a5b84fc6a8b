# SPDX-License-Identifier: GPL-2.0-or-later
"""Running the program under test."""

import json
import os
import signal
import subprocess
import time

from . import process, tap


class Result:
    """What a run left: status (negative: died by that signal), out, err, seconds, argv."""

    def __init__(self, argv, status, out, err, seconds):
        self.argv, self.status, self.out, self.err, self.seconds = argv, status, out, err, seconds

    def describe(self):
        """Everything, for the diagnostics of a failed test."""
        return "%s\nstatus %s after %.2f s\nstdout: %s\nstderr: %s" % (
            " ".join(self.argv), self.status, self.seconds, self.out[-4000:], self.err[-4000:])

    def expect(self, status=0):
        """Fails the test unless the status is this one (or one of a tuple). Returns self."""
        wanted = status if isinstance(status, tuple) else (status,)
        if self.status not in wanted:
            raise tap.Failure("expected status %s\n%s" % (status, self.describe()))
        return self

    def says(self, *parts):
        """Fails unless standard error contains each of them. Returns self."""
        for part in parts:
            if part not in self.err:
                raise tap.Failure("standard error does not say %r\n%s" % (part, self.describe()))
        return self

    @property
    def json(self):
        """Standard output as one JSON document."""
        try:
            return json.loads(self.out)
        except ValueError as error:
            raise tap.Failure("no JSON: %s\n%s" % (error, self.describe())) from error

    @property
    def json_lines(self):
        """Standard output as a list of JSON documents, one a line."""
        try:
            return [json.loads(line) for line in self.out.splitlines() if line.strip()]
        except ValueError as error:
            raise tap.Failure("no JSON lines: %s\n%s" % (error, self.describe())) from error

    @property
    def summary(self):
        """The JSON line that ends the output."""
        lines = self.json_lines
        if not lines:
            raise tap.Failure("no JSON lines\n" + self.describe())
        return lines[-1]


class Running:
    """The program in the background; wait() gives the Result."""

    def __init__(self, argv, child, out, err):
        self.argv, self._child, self._out, self._err = argv, child, out, err
        self._started = time.monotonic()

    @property
    def pid(self):
        """Its process number (outside)."""
        return self._child.pid

    def signal(self, number):
        """Sends it a signal."""
        process.kill(self.pid, number)

    def kill9(self):
        """SIGKILL."""
        self.signal(signal.SIGKILL)

    def running(self):
        """True until it has ended."""
        return self._child.poll() is None

    def children(self):
        """Process numbers of its descendants, the guard among them."""
        return process.descendants(self.pid)

    def stderr_so_far(self):
        """What it has said until now."""
        with open(self._err.name, encoding="utf-8", errors="backslashreplace") as file:
            return file.read()

    def output(self):
        """What it has written to standard output until now, whole lines."""
        with open(self._out.name, encoding="utf-8", errors="backslashreplace") as file:
            return file.read().rpartition("\n")[0]

    def wait(self, timeout=120):
        """Waits for the end. After timeout it is killed, and the test fails."""
        try:
            status = self._child.wait(timeout)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
            raise tap.Failure("no end within %s s\n%s" % (
                timeout, self._result("killed").describe())) from None
        return self._result(status)

    def _result(self, status):
        text = []
        for file in (self._out, self._err):
            file.seek(0)
            text.append(file.read().decode("utf-8", errors="backslashreplace"))
        result = Result(self.argv, status, text[0], text[1], time.monotonic() - self._started)
        if "leaked descriptor" in text[1]:
            raise tap.Failure("the program has left files open\n" + result.describe())
        return result

    def end(self):
        """For the cleanup: ends it if it still runs."""
        if self.running():
            self.kill9()
            self._child.wait()
        for file in (self._out, self._err):
            file.close()


def binary():
    """Path of the program: the environment variable VMBACKUP."""
    path = os.environ.get("VMBACKUP")
    tap.require(path, "VMBACKUP does not name the program")
    path = os.path.abspath(path)
    tap.require(os.access(path, os.X_OK), "%s is not there" % path)
    return path


class Tool:
    """The program with a repository and a libvirt.

    cleanup   has defer(): background runs are ended by it
    repo      directory, given as -r (None: not given)
    host      PrivateLibvirt: given as -c; None: not given
    inside    True: runs inside the host's private mounts, so that paths that libvirt names
              (NVRAM, TPM state, /run) are what the program sees; False: connects from outside
    env       variables for every run
    """

    def __init__(self, cleanup, repo=None, host=None, inside=True, env=None):
        self.cleanup, self.repo, self.host, self.inside = cleanup, repo, host, inside
        self.env = dict(env or {})

    def argv(self, *args):
        """The command line of a run."""
        words = [binary()]
        if self.repo:
            words += ["-r", self.repo]
        if self.host is not None:
            words += ["-c", self.host.uri]
        words += [str(arg) for arg in args]
        return self.host.enter(words) if self.host is not None and self.inside else words

    def _environment(self, env):
        merged = dict(os.environ, VMBACKUP_TEST_LEAKS="1")
        for name in ("VMBACKUP_REPOSITORY", "LIBVIRT_DEFAULT_URI", "VMBACKUP_TEST_FAIL_AT"):
            merged.pop(name, None)
        merged.update(self.env)
        merged.update({key: str(value) for key, value in env.items() if value is not None})
        return merged

    def start(self, *args, fail_at=None, stdin=None, preexec=None, **env):
        """Starts it in the background. fail_at: value of VMBACKUP_TEST_FAIL_AT; env: variables."""
        import tempfile
        argv = self.argv(*args)
        out, err = tempfile.NamedTemporaryFile(), tempfile.NamedTemporaryFile()
        if fail_at:
            env["VMBACKUP_TEST_FAIL_AT"] = fail_at
        child = subprocess.Popen(argv, stdin=stdin or subprocess.DEVNULL, stdout=out, stderr=err,
                                 env=self._environment(env), preexec_fn=preexec)
        running = Running(argv, child, out, err)
        self.cleanup.defer(running.end)
        return running

    def run(self, *args, timeout=120, fail_at=None, **env):
        """Runs it to its end; returns a Result, whatever the status."""
        return self.start(*args, fail_at=fail_at, **env).wait(timeout)

    def ok(self, *args, timeout=120, **env):
        """Runs it; the test fails unless the status is 0. Returns the Result."""
        return self.run(*args, timeout=timeout, **env).expect(0)

    def json(self, *args, timeout=120, **env):
        """Runs it with --json; returns the one document it prints."""
        return self.ok(*args, "--json", timeout=timeout, **env).json

    def json_lines(self, *args, timeout=120, **env):
        """Runs it with --json; returns the list of documents it prints."""
        return self.ok(*args, "--json", timeout=timeout, **env).json_lines
