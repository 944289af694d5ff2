"""Atomic file replacement: write a temporary file, flush it to disk, rename it."""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import logging
import os
import stat
import sys
from collections.abc import Iterable, Iterator

from ..errors import FilePath, display_path, escape_unprintable, os_errors_as

# Errors of file systems that lack an operation. Linux lets 524 (ENOTSUPP) out of some of them.
UNSUPPORTED = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOTTY, 524}
# The same, and of those that cannot flush. Any other error of a flush is a failure.
FLUSH_UNSUPPORTED = UNSUPPORTED | {
    errno.EACCES, errno.EBADF, errno.EISDIR, errno.EPERM, errno.EROFS
}  # fmt: skip


def write_atomically(path: FilePath, chunks: Iterable[bytes | memoryview]) -> None:
    """Replace the file `path` by one with the bytes of `chunks`, or leave it unchanged.

    The bytes are on the disk when this returns. An error leaves no temporary file; the next call
    replaces one that a crash has left. Only one process at a time may write a path, see RunLock. A
    symbolic link stays and its target is replaced. Raises CharRNNError when the file cannot be
    written.
    """
    with os_errors_as(f"cannot write {display_path(path)}"):
        target = resolve_target(path)
        with _temporary_sibling(target) as temporary:
            mode = _mode_of(target)
            create = functools.partial(os.open, mode=0o666 if mode is None else mode)
            with open(temporary, "xb", opener=create) as file:
                if mode is not None:
                    _set_mode(temporary, mode)
                for chunk in chunks:
                    file.write(chunk)
                file.flush()
                flush_to_disk(file.fileno(), os.path.dirname(target))
            os.replace(temporary, target)
        _flush_folder(os.path.dirname(target))


def require_writable(path: FilePath) -> None:
    """Raise CharRNNError, before any work is done, if write_atomically cannot write `path`."""
    failure = f"cannot write {display_path(path)}"
    with os_errors_as(failure), _temporary_sibling(resolve_target(path)) as temporary:
        open(temporary, "xb").close()


def resolve_target(path: FilePath) -> str:
    """Return the path of the file behind the symbolic links of `path`.

    Raises OSError when its folder is missing or it exists and is not a regular file.
    """
    target = os.path.realpath(os.fsdecode(path))
    folder = os.path.dirname(target)
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"there is no folder {escape_unprintable(folder)}")
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISREG(os.stat(target).st_mode):  # never replace a device
            raise OSError("it is a folder or a device, not a file")
    return target


def hidden_sibling(name: str, ending: str) -> str:
    """Return the name of a hidden file next to `name`: always the same, of at most 255 bytes."""
    if len(os.fsencode(name)) > 240:
        name = f"{name[:40]}.{hashlib.sha256(os.fsencode(name)).hexdigest()[:16]}"
    return f".{name}.{ending}"


@contextlib.contextmanager
def _temporary_sibling(target: str) -> Iterator[str]:
    """Return a name for a temporary file in the folder of `target`, and remove it at the end."""
    folder, name = os.path.split(target)
    temporary = os.path.join(folder, hidden_sibling(name, "tmp"))
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary)  # a crash may have left one
    try:
        yield temporary
    finally:
        with contextlib.suppress(OSError):  # it is missing when it was renamed to the target
            os.unlink(temporary)


def flush_to_disk(descriptor: int, folder: str) -> None:
    """Flush an open file in `folder`, or the folder itself, if its file system can; else say so."""
    try:
        os.fsync(descriptor)
        _empty_drive_cache(descriptor)
    except OSError as error:
        _allow_unflushed(error, folder)


def _empty_drive_cache(descriptor: int) -> None:
    """Let the drive write what fsync gave it: macOS does not ask for that, other systems do."""
    if sys.platform == "darwin":
        import fcntl

        with contextlib.suppress(OSError):  # network drives cannot
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)


def _flush_folder(folder: str) -> None:
    """Flush the names in a folder to the disk, if the file system can."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        _allow_unflushed(error, folder)
        return
    try:
        flush_to_disk(descriptor, folder)
    finally:
        os.close(descriptor)


def _allow_unflushed(error: OSError, folder: str) -> None:
    if error.errno not in FLUSH_UNSUPPORTED:
        raise error
    warn_once(
        f"the file system of {display_path(folder)} cannot flush files to the disk: a power cut "
        "may lose what was saved last."
    )


def _mode_of(path: str) -> int | None:
    """Return the permissions of a file; None if there is none."""
    with contextlib.suppress(FileNotFoundError):
        return stat.S_IMODE(os.stat(path).st_mode)
    return None


def _set_mode(path: str, mode: int) -> None:
    """Set the permissions of a new file, which was created with no more than these."""
    try:
        os.chmod(path, mode)
    except OSError:  # CIFS and FAT have one mode for all files
        if _mode_of(path) != mode:
            warn_once(
                f"the file system of {display_path(os.path.dirname(path))} cannot set permissions: "
                "a file that is replaced may get others."
            )


@functools.cache
def warn_once(message: str) -> None:
    """Log a warning, once per process."""
    logging.getLogger("charrnn").warning(message)
