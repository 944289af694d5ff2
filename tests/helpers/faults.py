"""Fault injection: counts or interrupts the system calls of charrnn.storage."""

import contextlib
import functools
import os

from charrnn.storage import atomic, run_files


class Calls:
    """Forwards the system calls of charrnn.storage and reports them to `self.at(name, path, data)`.

    `at` is called before and after each call that changes the disk, and in the middle of each
    write. `data` are the bytes written since the last report. `at` may raise, or never return.
    """

    def __init__(self, at):
        self.at = at
        self._paths = {}  # of open descriptors

    @contextlib.contextmanager
    def installed(self):
        """Replace `os` and `open` in the modules of charrnn.storage that write files."""
        modules = atomic, run_files
        for module in modules:
            module.os, module.open = self, self._open_file
        try:
            yield self
        finally:
            for module in modules:
                module.os = os
                del module.open

    def __getattr__(self, name):
        return getattr(os, name)

    def open(self, path, flags, mode=0o777):
        self.at("open", path)
        descriptor = os.open(path, flags, mode)
        self._paths[descriptor] = path
        try:
            self.at("opened", path)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def fsync(self, descriptor):
        path = self._paths[descriptor]
        self.at("fsync", path)
        os.fsync(descriptor)
        self.at("fsynced", path)

    def replace(self, source, target):
        self.at("replace", source)
        os.replace(source, target)
        self.at("replaced", source, target)

    def unlink(self, path):
        self.at("unlink", path)
        os.unlink(path)
        self.at("unlinked", path)

    def chmod(self, path, mode):
        self.at("chmod", path)
        os.chmod(path, mode)

    def _open_file(self, path, mode, opener=None):
        path = os.fspath(path)
        self.at("open", path)
        opener = opener and functools.partial(os.open, **opener.keywords)  # not `self.open`
        file = open(path, mode, buffering=0, opener=opener)  # noqa: SIM115
        self._paths[file.fileno()] = path
        try:
            self.at("created" if "x" in mode else "opened", path)
        except BaseException:
            file.close()
            raise
        return _File(file, path, self.at)


class _File:
    def __init__(self, file, path, at):
        self._file, self._path, self._at = file, path, at

    def write(self, data):
        data = memoryview(data).cast("B") if len(data) else b""
        self._at("write", self._path)
        for part in data[: len(data) // 2], data[len(data) // 2 :]:
            assert self._file.write(part) == len(part)
            self._at("written", self._path, bytes(part))

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._file.close()

    def __getattr__(self, name):
        return getattr(self._file, name)


class At:
    """An `at` for Calls that counts the reports and calls `act` at the counts in `numbers`.

    Reports with a name in `but` are not counted.
    """

    def __init__(self, act, numbers=(), but=()):
        self.count, self._act, self._numbers, self._but = 0, act, numbers, but

    def __call__(self, name, path, data=None):
        if name not in self._but:
            self.count += 1
            if self.count in self._numbers:
                self._act()


class Refuses:
    """An `at` for Calls: the calls `name` fail with `error`, all of them or those in `numbers`."""

    def __init__(self, name, error, numbers=None):
        self.count, self._name, self._error, self._numbers = 0, name, error, numbers

    def __call__(self, name, path, data=None):
        if name == self._name:
            self.count += 1
            if self._numbers is None or self.count in self._numbers:
                raise OSError(self._error, os.strerror(self._error))
