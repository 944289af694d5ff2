"""The files of a training run: their names, the run lock, the log."""

from __future__ import annotations

import contextlib
import errno
import os
import weakref
from pathlib import Path
from typing import NamedTuple

from ..errors import CharRNNError, FilePath, UsageError, display_path, os_errors_as
from .atomic import (
    UNSUPPORTED,
    flush_to_disk,
    hidden_sibling,
    require_writable,
    resolve_target,
    warn_once,
    write_atomically,
)

# Errors of file systems that have no locks.
LOCKS_UNSUPPORTED = UNSUPPORTED | {
    errno.ENOLCK, errno.EBADF, errno.EPERM, errno.EROFS
}  # fmt: skip
MAX_TRIES = 1000  # to lock a file that its owners remove


class RunFiles(NamedTuple):
    """The paths of a run's files."""

    model: Path
    state: Path
    log: Path


def run_files(output: FilePath) -> RunFiles:
    """Return the paths of the run `output`.

    The model is `output` itself. The other names are made from it without its ending.
    """
    output = os.fsdecode(output)
    stem = output.removesuffix(".safetensors")
    return RunFiles(Path(output), Path(f"{stem}.state.safetensors"), Path(f"{stem}.log.jsonl"))


def acquire_run(output: FilePath, *, resume: bool, overwrite: bool) -> RunLock:
    """Lock a run that can be started, or resumed, and written.

    Raises CharRNNError when its files cannot be written, another process has locked it or there is
    no run to resume; UsageError when a file exists and neither `resume` nor `overwrite` is given.
    """
    files = run_files(output)
    lock = RunLock(output)
    with contextlib.ExitStack() as on_error:
        on_error.callback(lock.release)
        for file in files:  # only after locking: another run might be writing them
            require_writable(file)
        existing = [file for file in files if file.exists()]
        if existing and not (resume or overwrite):
            raise UsageError(
                f"{display_path(existing[0])} exists: --resume continues that run, --overwrite "
                "replaces it, -o gives the new run another name."
            )
        if resume and not files.state.exists():
            raise CharRNNError(
                f"{display_path(files.state)} does not exist, so there is no run to resume: "
                "start one without --resume."
            )
        on_error.pop_all()
    return lock


class RunLock:
    """An exclusive lock on the run `output`, until `release` is called or the process ends.

    It locks the hidden file `.<name>.lock` in the model's folder, which holds the number of the
    process. A killed process may leave that file, but not the lock. Raises CharRNNError when the
    run is locked already.
    """

    def __init__(self, output: FilePath) -> None:
        with os_errors_as(f"cannot write {display_path(output)}"):
            folder, name = os.path.split(resolve_target(output).removesuffix(".safetensors"))
            path = os.path.join(folder, hidden_sibling(name, "lock"))
            descriptor = _open_locked(path, display_path(output))
        self.release = weakref.finalize(self, _unlock, descriptor, path)


def _open_locked(path: str, output: str) -> int:
    """Open the lock file `path`, lock it and return its descriptor."""
    for tries_left in reversed(range(MAX_TRIES)):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        try:
            _lock(descriptor, path, output)
            # On some file systems a file never has the same number twice.
            if _is_at(path, descriptor) or not tries_left:
                with contextlib.suppress(OSError):  # the number only improves a message
                    os.ftruncate(descriptor, 0)
                    os.write(descriptor, b"%d\n" % os.getpid())
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # the previous owner has just removed the file: try again
    raise AssertionError("the last try returns or raises")


def _lock(descriptor: int, path: str, output: str) -> None:
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise _locked(descriptor, path, output) from None
    except OSError as error:
        if error.errno not in LOCKS_UNSUPPORTED:
            raise
        warn_once(
            f"the file system of {display_path(os.path.dirname(path))} has no locks "
            f"({error.strerror}): start no second run on {output}."
        )


def _locked(descriptor: int, path: str, output: str) -> CharRNNError:
    """Return the error for a run that another process has locked, or has left locked."""
    pid = os.read(descriptor, 20).decode("ascii", "replace").strip()
    if not pid.isdecimal():
        owner, remedy = "another process", "stop it or wait for its end"
    elif _runs_here(int(pid)):
        owner, remedy = f"process {pid}", "stop it or wait for its end"
    else:  # it runs on another computer, or has ended there and a server keeps its lock
        owner = f"process {pid}, which does not run on this computer,"
        remedy = f"wait for its end, or remove {display_path(path)} if it has ended"
    return CharRNNError(
        f"{owner} is training {output}: {remedy}, or give this run another name with -o."
    )


def _runs_here(pid: int) -> bool:
    """Return whether the process exists on this computer."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # it is another user's
        pass
    return True


def _unlock(descriptor: int, path: str) -> None:
    """Remove the lock file, unless another file has its name by now, and release the lock."""
    with contextlib.suppress(OSError):
        if _is_at(path, descriptor):
            os.unlink(path)
    os.close(descriptor)


def _is_at(path: str, descriptor: int) -> bool:
    """Return whether `path` is the file that is open as `descriptor`."""
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    return False


class RunLog:
    """A text file to which lines are appended, with a copy of its content in memory.

    If the file is lost, cut or changed, the next successful write restores it from the copy.
    """

    def __init__(self, path: Path, content: bytes = b"") -> None:
        self._path, self._content = path, content
        self._written = -1  # bytes of the content that the file holds; -1: unknown

    def append(self, line: str) -> None:
        """Add a line, which the next `write` puts into the file."""
        self._content += line.encode() + b"\n"

    def write(self) -> None:
        """Update the file. Raises CharRNNError when it cannot be written."""
        with os_errors_as(f"cannot write {display_path(self._path)}"):
            if self._written < 0 or _file_size(self._path) != self._written:
                self._written = -1
                write_atomically(self._path, [self._content])
            elif self._written < len(self._content):
                with open(self._path, "ab") as file:
                    file.write(self._content[self._written :])
            self._written = len(self._content)

    def flush(self) -> None:
        """Update the file and flush it to the disk. Raises CharRNNError as `write`."""
        self.write()
        with (
            os_errors_as(f"cannot write {display_path(self._path)}"),
            open(self._path, "ab") as file,
        ):
            flush_to_disk(file.fileno(), os.path.dirname(os.path.abspath(self._path)))


def _file_size(path: Path) -> int:
    """Return the size of a file in bytes, -1 if it does not exist."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return -1
