"""Files that are replaced whole: written beside their target, flushed, renamed."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from ..errors import FilePath, display_path, escape_unprintable, os_errors_as

if TYPE_CHECKING:
    import numpy as np

# A folder that cannot be flushed at all is no fault; one whose flushing fails is.
NO_FLUSH = {errno.EINVAL, errno.EACCES, errno.ENOTSUP, errno.EBADF}


def write_atomically(path: FilePath, chunks: Iterable[bytes | np.ndarray]) -> None:
    """Replace the file `path` by one with the bytes of `chunks`, or else leave it as it is.

    When this returns the bytes are on the disk; no error leaves a temporary file, and what a crash
    leaves the next call replaces. Only one process at a time may write a path, see Hold. A
    symbolic link stays, its target is replaced. Raises CharRNNError when the file cannot be
    written.
    """
    with os_errors_as(f"cannot write {display_path(path)}"):
        target = resolve_target(path)
        with _temporary_sibling(target) as temporary:
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
    failure = f"cannot write {display_path(path)}"
    with os_errors_as(failure), _temporary_sibling(resolve_target(path)) as temporary:
        open(temporary, "xb").close()


def resolve_target(path: FilePath) -> str:
    """The file that `path` stands for, which is a regular one or none yet."""
    target = os.path.realpath(os.fsdecode(path))
    folder = os.path.dirname(target)
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"there is no folder {escape_unprintable(folder)}")
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISREG(os.stat(target).st_mode):  # never replace a device
            raise OSError("it is a folder or a device, not a file")
    return target


def hidden_sibling(name: str, ending: str) -> str:
    """The name of a hidden neighbour of the file `name`, always the same, of lawful length."""
    if len(os.fsencode(name)) > 240:
        name = f"{name[:40]}.{hashlib.sha256(os.fsencode(name)).hexdigest()[:16]}"
    return f".{name}.{ending}"


@contextlib.contextmanager
def _temporary_sibling(target: str) -> Iterator[str]:
    """A name for a temporary file in the folder of `target`; no such file is left at the end."""
    folder, name = os.path.split(target)
    temporary = os.path.join(folder, hidden_sibling(name, "tmp"))
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
