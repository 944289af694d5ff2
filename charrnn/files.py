"""The files of a run, safe from crashes: replaced whole, flushed in order, held by one process."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import stat
import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from .errors import CharRNNError, UsageError, printable

if TYPE_CHECKING:
    import numpy as np

FilePath = str | bytes | os.PathLike

# A folder that cannot be flushed at all is no fault; one whose flushing fails is.
NO_FLUSH = {errno.EINVAL, errno.EACCES, errno.ENOTSUP, errno.EBADF}
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


def claim(output: FilePath, *, resume: bool, overwrite: bool) -> Hold:
    """A hold on a run that may be started, or resumed, and can be written.

    Raises CharRNNError when its files cannot be written, another process holds it or there is
    nothing to resume, UsageError when there is what must not be replaced unasked.
    """
    files = run_files(output)
    hold = Hold(output)
    with contextlib.ExitStack() as on_error:
        on_error.callback(hold.release)
        for file in files:  # not sooner: another run might be writing them
            require_writable(file)
        existing = [file for file in files if file.exists()]
        if existing and not (resume or overwrite):
            raise UsageError(
                f"{shown(existing[0])} exists: --resume goes on with that run, --overwrite "
                "replaces it, -o gives the new one another name."
            )
        if resume and not files.state.exists():
            raise CharRNNError(
                f"{shown(files.state)} is not there, so there is no run to resume: "
                "leave --resume out to start one."
            )
        on_error.pop_all()
    return hold


class Hold:
    """This process's hold on the run `output`, exclusive, from now until it is released.

    It is a lock on the hidden file `.<name>.lock` beside the model, and ends with the process,
    however that ends; the file, which holds the number of the process, may then stay behind and
    means nothing. Raises CharRNNError when another process holds the run.
    """

    def __init__(self, output: FilePath) -> None:
        with explained(f"cannot write {shown(output)}"):
            folder, name = os.path.split(_target(output).removesuffix(".safetensors"))
            path = os.path.join(folder, _beside(name, "lock"))
            descriptor = _locked(path, shown(output))
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
        with explained(f"cannot write {shown(self._path)}"):
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
        with explained(f"cannot write {shown(self._path)}"), open(self._path, "ab") as file:
            os.fsync(file.fileno())


def _size(path: Path) -> int:
    """The size of a file in bytes; -1: there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return -1


def write_atomically(path: FilePath, chunks: Iterable[bytes | np.ndarray]) -> None:
    """Replace the file `path` by one with the bytes of `chunks`, or else leave it as it is.

    When this returns the bytes are on the disk; no error leaves a temporary file, and what a crash
    leaves the next call replaces. Only one process at a time may write a path, see Hold. A
    symbolic link stays, its target is replaced. Raises CharRNNError when the file cannot be
    written.
    """
    with explained(f"cannot write {shown(path)}"):
        target = _target(path)
        with _temporary_beside(target) as temporary:
            with open(temporary, "xb") as file:
                with contextlib.suppress(FileNotFoundError):
                    shutil.copymode(target, temporary)  # what was private stays so
                for chunk in chunks:
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        _flush_folder(os.path.dirname(target))


def require_writable(path: FilePath) -> None:
    """Raises CharRNNError when write_atomically could not write `path`: to know it in time."""
    failure = f"cannot write {shown(path)}"
    with explained(failure), _temporary_beside(_target(path)) as temporary:
        open(temporary, "xb").close()


def _target(path: FilePath) -> str:
    """The file that `path` stands for, which is a regular one or none yet."""
    target = os.path.realpath(os.fsdecode(path))
    folder = os.path.dirname(target)
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"there is no folder {printable(folder)}")
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISREG(os.stat(target).st_mode):  # never replace a device
            raise OSError("it is a folder or a device, not a file")
    return target


def _beside(name: str, ending: str) -> str:
    """The name of a hidden neighbour of the file `name`, always the same, of lawful length."""
    if len(os.fsencode(name)) > 240:
        name = f"{name[:40]}.{hashlib.sha256(os.fsencode(name)).hexdigest()[:16]}"
    return f".{name}.{ending}"


@contextlib.contextmanager
def _temporary_beside(target: str) -> Iterator[str]:
    """A name for a temporary file in the folder of `target`; no such file is left at the end."""
    folder, name = os.path.split(target)
    temporary = os.path.join(folder, _beside(name, "tmp"))
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary)  # left by a crash
    try:
        yield temporary
    finally:
        with contextlib.suppress(OSError):  # mostly since it has become the target
            os.unlink(temporary)


def _flush_folder(folder: str) -> None:
    """Put new names on the disk, too, where the file system can."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in NO_FLUSH:
            raise


@contextlib.contextmanager
def explained(failure: str) -> Iterator[None]:
    """Turn an error of the system into a CharRNNError: `failure`, and why."""
    try:
        yield
    except (OSError, ValueError) as error:  # ValueError: a NUL in a name
        raise CharRNNError(f"{failure}: {reason(error)}.") from error


def reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def shown(path: FilePath) -> str:
    """A file's name as it can be shown in a message."""
    return printable(os.fsdecode(path))
