"""The files of a run, safe from crashes: replaced whole, flushed in order, held by one process."""

from __future__ import annotations

import contextlib
import errno
import os
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..errors import CharRNNError, FilePath, UsageError, display_path, os_errors_as
from .atomic import hidden_sibling, require_writable, resolve_target, write_atomically

if TYPE_CHECKING:
    pass


NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EINVAL}  # on this file system


class RunFiles(NamedTuple):
    model: Path
    state: Path
    log: Path


def run_files(output: FilePath) -> RunFiles:
    """The files of a run: the model is `output` itself, the others have its name without ending."""
    output = os.fsdecode(output)
    stem = output.removesuffix(".safetensors")
    return RunFiles(Path(output), Path(f"{stem}.state.safetensors"), Path(f"{stem}.log.jsonl"))


def acquire_run(output: FilePath, *, resume: bool, overwrite: bool) -> RunLock:
    """A hold on a run that may be started, or resumed, and can be written.

    Raises CharRNNError when its files cannot be written, another process holds it or there is
    nothing to resume, UsageError when there is what must not be replaced unasked.
    """
    files = run_files(output)
    hold = RunLock(output)
    with contextlib.ExitStack() as on_error:
        on_error.callback(hold.release)
        for file in files:  # not sooner: another run might be writing them
            require_writable(file)
        existing = [file for file in files if file.exists()]
        if existing and not (resume or overwrite):
            raise UsageError(
                f"{display_path(existing[0])} exists: --resume goes on with that run, --overwrite "
                "replaces it, -o gives the new one another name."
            )
        if resume and not files.state.exists():
            raise CharRNNError(
                f"{display_path(files.state)} is not there, so there is no run to resume: "
                "leave --resume out to start one."
            )
        on_error.pop_all()
    return hold


class RunLock:
    """This process's hold on the run `output`, exclusive, from now until it is released.

    It is a lock on the hidden file `.<name>.lock` beside the model, and ends with the process,
    however that ends; the file, which holds the number of the process, may then stay behind and
    means nothing. Raises CharRNNError when another process holds the run.
    """

    def __init__(self, output: FilePath) -> None:
        with os_errors_as(f"cannot write {display_path(output)}"):
            folder, name = os.path.split(resolve_target(output).removesuffix(".safetensors"))
            path = os.path.join(folder, hidden_sibling(name, "lock"))
            descriptor = _locked(path, display_path(output))
        self.release = weakref.finalize(self, _unlocked, descriptor, path)


def _locked(path: str, output: str) -> int:
    """A descriptor of the file `path`, locked."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        try:
            _lock(descriptor, output)
            if _is_at(path, descriptor):
                with contextlib.suppress(OSError):  # the lock is what counts
                    os.ftruncate(descriptor, 0)
                    os.write(descriptor, b"%d\n" % os.getpid())
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # its holder has just let go of it, and removed it: once more


def _lock(descriptor: int, output: str) -> None:
    try:
        import fcntl
    except ImportError:  # a system without such locks
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(descriptor, 20).decode("ascii", "replace").strip()
        holder = f"process {holder}" if holder.isdecimal() else "another process"
        raise CharRNNError(
            f"{holder} is training {output}: stop it or wait for its end, or give this run "
            "another name with -o."
        ) from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise


def _unlocked(descriptor: int, path: str) -> None:
    """Remove the file, if it is still the one that was locked, and let go of the lock."""
    with contextlib.suppress(OSError):
        if _is_at(path, descriptor):
            os.unlink(path)
    os.close(descriptor)


def _is_at(path: str, descriptor: int) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    return False


class Log:
    """A text file that grows, with a copy in memory.

    Whatever happens to the file or the disk, it is whole again as soon as it can be written.
    """

    def __init__(self, path: Path, content: bytes = b"") -> None:
        self._path, self._content = path, content
        self._written = None  # bytes of the content that are in the file, if that is known

    def append(self, line: str) -> None:
        self._content += line.encode() + b"\n"

    def write(self) -> None:
        """Bring the file up to date. Raises CharRNNError when it cannot be written."""
        with os_errors_as(f"cannot write {display_path(self._path)}"):
            if _size(self._path) != self._written:
                self._written = None
                write_atomically(self._path, [self._content])
            elif self._written < len(self._content):
                with open(self._path, "ab") as file:
                    file.write(self._content[self._written :])
            self._written = len(self._content)

    def flush(self) -> None:
        """`write`, and have it on the disk when this returns."""
        self.write()
        with (
            os_errors_as(f"cannot write {display_path(self._path)}"),
            open(self._path, "ab") as file,
        ):
            os.fsync(file.fileno())


def _size(path: Path) -> int:
    """The size of a file in bytes; -1: there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return -1
