# SPDX-License-Identifier: GPL-2.0-or-later
"""Test functions, a runner that always cleans up, and TAP output."""

import os
import random
import signal
import sys
import time
import traceback
import zlib


class Skip(Exception):
    """A requirement is missing; the test counts as skipped."""


class Failure(AssertionError):
    """A check did not hold."""


class BailOut(Exception):
    """Nothing that follows makes sense."""


class Interrupted(BaseException):
    """A signal asked us to end; cleanup runs on its way up."""

    def __init__(self, number):
        super().__init__(signal.Signals(number).name)
        self.number = number


def _say(text):
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def diag(text):
    """Writes TAP diagnostics, one '# ' line per line of text."""
    for line in str(text).splitlines() or [""]:
        _say("# " + line.replace("\0", "\\0"))


def must_run():
    """True where a missing requirement is a failure."""
    return os.environ.get("VMBACKUP_TEST_MUST_RUN", "0") not in ("", "0")


def require(condition, reason):
    """Skips the test unless condition holds; fails it where everything must run."""
    if condition:
        return
    if must_run():
        raise Failure("required for the tests: " + reason)
    raise Skip(reason)


def seed():
    """The seed of this run: VMBACKUP_TEST_SEED, or one chosen at the first call."""
    global _seed
    if _seed is None:
        text = os.environ.get("VMBACKUP_TEST_SEED")
        _seed = int(text, 0) if text else random.SystemRandom().getrandbits(32)
    return _seed


_seed = None


class CleanupStack:
    """Callbacks that run in reverse order, each even if others fail."""

    def __init__(self):
        self._stack = []

    def defer(self, function, *args, **kwargs):
        """Calls function(*args, **kwargs) at the end; returns a handle for forget()."""
        entry = (function, args, kwargs)
        self._stack.append(entry)
        return entry

    def forget(self, entry):
        """The deferred call is no longer needed."""
        if entry in self._stack:
            self._stack.remove(entry)

    def run(self):
        """Runs all callbacks; returns the errors as text."""
        errors = []
        while self._stack:
            function, args, kwargs = self._stack.pop()
            try:
                function(*args, **kwargs)
            except Exception:
                errors.append(traceback.format_exc())
        return errors


class Context(CleanupStack):
    """What a test function gets: checks, cleanup, random numbers, shared resources."""

    def __init__(self, name, suite):
        super().__init__()
        self.name = name
        self.suite = suite
        self._random = None

    @property
    def random(self):
        """A random.Random for this test, derived from the seed of the run and the test's name."""
        if self._random is None:
            diag("VMBACKUP_TEST_SEED=%d (random test %s)" % (seed(), self.name))
            self._random = random.Random(seed() * 1000003 + zlib.crc32(self.name.encode()))
        return self._random

    def once(self, key, factory):
        """The resource of the whole script under that key, made by factory(suite) at first use.

        factory registers its cleanup with suite.defer().
        """
        if key not in self.suite.shared:
            self.suite.shared[key] = factory(self.suite)
        return self.suite.shared[key]

    def forget_once(self, key):
        """The next once() makes the resource anew (the old one is cleaned up at the end)."""
        self.suite.shared.pop(key, None)

    diag = staticmethod(diag)
    require = staticmethod(require)

    def skip(self, reason):
        """Ends the test as skipped (failed where everything must run)."""
        require(False, reason)

    def fail(self, message):
        """Ends the test as failed."""
        raise Failure(message)

    def ok(self, condition, message):
        """Fails with message unless condition."""
        if not condition:
            raise Failure(message)

    def equal(self, got, expected, message="values differ"):
        """Fails unless got == expected."""
        if got != expected:
            raise Failure("%s\n     got: %r\nexpected: %r" % (message, got, expected))

    def contains(self, text, part, message="text not found"):
        """Fails unless part is in text."""
        if part not in text:
            raise Failure("%s\nlooked for: %r\nin: %s" % (message, part, text))

    def raises(self, kind, function, *args, **kwargs):
        """Fails unless function(*args) raises kind; returns the exception."""
        try:
            function(*args, **kwargs)
        except kind as error:
            return error
        raise Failure("%s did not raise %s" % (getattr(function, "__name__", function), kind))

    def eventually(self, predicate, timeout, message, interval=0.05):
        """Waits until predicate() is true and returns its value; fails after timeout seconds."""
        deadline = time.monotonic() + timeout
        while True:
            value = predicate()
            if value:
                return value
            if time.monotonic() > deadline:
                raise Failure("not within %s s: %s" % (timeout, message))
            time.sleep(interval)


class Suite(CleanupStack):
    """All tests of one script."""

    def __init__(self):
        super().__init__()
        self.tests = []
        self.shared = {}


_suite = Suite()


def test(function):
    """Decorator: function(t) is a test; it gets a Context. Its name is printed without test_."""
    name = function.__name__
    _suite.tests.append((name[5:] if name.startswith("test_") else name, function))
    return function


def add_test(name, function):
    """Registers function(t) under name, for tests that are made in a loop."""
    _suite.tests.append((name, function))


def _on_signal(number, _frame):
    # A second signal must not break the cleanup off.
    for other in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(other, signal.SIG_IGN)
    raise Interrupted(number)


def _run_one(number, name, function):
    """Runs one test with its cleanup and prints its line. Returns True unless it failed."""
    context = Context(name, _suite)
    started = time.monotonic()
    problem, skipped = None, None
    try:
        try:
            function(context)
        finally:
            errors = context.run()
    except Skip as reason:
        skipped = str(reason)
    except Failure as failure:
        place = [f for f in traceback.extract_tb(failure.__traceback__)
                 if os.path.dirname(f.filename) != os.path.dirname(__file__)]
        problem = str(failure)
        if place:
            name_of_file = os.path.basename(place[-1].filename)
            problem = "%s:%d: %s" % (name_of_file, place[-1].lineno, problem)
    except (Interrupted, BailOut):
        raise
    except Exception:
        problem = traceback.format_exc()
    if errors:
        problem = (problem + "\n" if problem else "") + "cleanup failed:\n" + "\n".join(errors)
    elapsed = time.monotonic() - started
    if problem:
        _say("not ok %d - %s" % (number, name))
        diag(problem)
    elif skipped is not None:
        _say("ok %d - %s # SKIP %s" % (number, name, skipped.replace("\n", " ")))
    else:
        _say("ok %d - %s" % (number, name))
    diag("%s: %.2f s" % (name, elapsed))
    return problem is None


def _select(patterns):
    if not patterns:
        return _suite.tests
    known = [name for name, _ in _suite.tests]
    for pattern in patterns:
        if pattern not in known:
            sys.stderr.write("no test %s; there are: %s\n" % (pattern, " ".join(known)))
            sys.exit(2)
    return [(name, function) for name, function in _suite.tests if name in patterns]


def main():
    """Runs the tests named in argv (default: all; --list prints the names); does not return."""
    sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
    if sys.argv[1:] == ["--list"]:
        for name, _ in _suite.tests:
            _say(name)
        sys.exit(0)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _on_signal)
    count, failed, status, bailed = 0, 0, 0, False
    try:
        for name, function in _select(sys.argv[1:]):
            count += 1
            if not _run_one(count, name, function):
                failed += 1
        status = 1 if failed else 0
    except Interrupted as signalled:
        _say("Bail out! %s" % signalled)
        status, bailed = 128 + signalled.number, True
    except BailOut as reason:
        _say("Bail out! %s" % reason)
        status, bailed = 1, True
    finally:
        errors = _suite.run()
    if errors:
        count += 1
        _say("not ok %d - cleanup of the script" % count)
        diag("\n".join(errors))
        status = status or 1
    if not bailed:
        _say("1..%d" % count)
    sys.exit(status)
