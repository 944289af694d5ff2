"""Atomic file replacement: write a temporary file, flush it to disk, rename it."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import stat
from collections.abc import Iterable, Iterator

from ..errors import FilePath, display_path, escape_unprintable, os_errors_as

# Errors of file systems that cannot flush folders. Any other error of a flush is a failure.
FLUSH_UNSUPPORTED = {errno.EINVAL, errno.EACCES, errno.ENOTSUP, errno.EBADF}


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
            with open(temporary, "xb") as file:
                with contextlib.suppress(FileNotFoundError):
                    shutil.copymode(target, temporary)  # a private file stays private
                for chunk in chunks:
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
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


def _flush_folder(folder: str) -> None:
    """Flush the names in a folder to the disk, if the file system can."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in FLUSH_UNSUPPORTED:
            raise
