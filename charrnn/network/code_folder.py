"""The folder of compiled code, which no untrusted user can write: code from it is executed.

Every access walks from the root to the folder: each folder is opened within the one before, and
checked once it is open. Another user can then neither change it nor put another in its place.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

MAX_LINKS = 40  # as in Linux
NOBODY = 65534  # in a user namespace, the apparent owner of the files of all users outside
GROUP, OTHERS = 0o020, 0o002  # may write
# How folders are opened. With O_PATH, which Linux has, they need not be readable.
DIRECTORY = sum(getattr(os, name, 0) for name in ("O_DIRECTORY", "O_NOFOLLOW", "O_PATH"))


class CodeFolder:
    """Files in a folder that no untrusted user can write. Its methods raise OSError.

    Trusted are this user, root, and the owner of this package, whose code runs here anyway. Only a
    folder of this user's own is written; it is made when it is missing.
    """

    def __init__(self, path: str) -> None:
        self.path = path

    def read(self, name: str) -> bytes:
        with _opened(self.path) as folder:
            file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=folder)
            with open(file, "rb") as stream:
                users = _trusted_users() | {os.fstat(folder).st_uid}
                _check(os.fstat(file), users, os.path.join(self.path, name))
                return stream.read()

    def write(self, name: str, content: bytes) -> None:
        with _opened(self.path, make=True) as folder:
            if os.fstat(folder).st_uid != os.getuid():
                raise _refused(self.path, "belongs to another user")
            _replace(folder, name, content)


def _replace(folder: int, name: str, content: bytes) -> None:
    """Write a file in an open folder; readers see all of it or none."""
    temporary = f"{name}.tmp.{secrets.token_hex(8)}"
    try:
        file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644, dir_fd=folder)
        with open(file, "wb") as stream:
            stream.write(content)
        os.replace(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary, dir_fd=folder)
        raise


@contextlib.contextmanager
def _opened(path: str, make: bool = False) -> Iterator[int]:
    """Open a folder that only trusted users can write or replace; `make` it if it is missing."""
    if not os.path.isabs(path):
        raise _refused(path, "is not an absolute path")
    if os.open not in os.supports_dir_fd:
        raise _refused(path, "cannot be checked on this system")
    opened: list[int] = []
    try:
        users = _walk(path, make, opened)
        _check(os.fstat(opened[-1]), users, path)
        yield opened[-1]
    finally:
        for folder in opened:
            os.close(folder)


def _walk(path: str, make: bool, opened: list[int]) -> set[int]:
    """Open each folder on the way in the one before, and append it; returns the trusted users.

    Links are followed if they belong to a trusted user.
    """
    where, names, links, users = "", _reversed_parts(path), 0, _trusted_users()
    while names:
        name, parent = names.pop(), opened[-1] if opened else None
        where = os.path.join(where, name)
        info = _status(name, parent, make)
        if stat.S_ISLNK(info.st_mode) and links < MAX_LINKS:
            _check_owner(info, users, where)
            names += _reversed_parts(os.readlink(name, dir_fd=parent))
            where, links = os.path.dirname(where), links + 1
        else:
            opened.append(os.open(name, DIRECTORY, dir_fd=parent))
            users = _check_parent(os.fstat(opened[-1]), users, where)
    return users


def _reversed_parts(path: str) -> list[str]:
    return list(reversed(Path(path).parts))


def _status(name: str, parent: int | None, make: bool) -> os.stat_result:
    """The status of a folder or link in an open folder; `make` a folder if there is none.

    Its mode lets every user read: a container may start as another user than the image's builder.
    """
    with contextlib.suppress(FileNotFoundError):
        return os.stat(name, dir_fd=parent, follow_symlinks=False)
    if make:
        with contextlib.suppress(FileExistsError):  # another process was faster
            os.mkdir(name, 0o755, dir_fd=parent)
    return os.stat(name, dir_fd=parent, follow_symlinks=False)


def _trusted_users() -> set[int]:
    return {0, os.getuid()} | ({os.stat(__file__).st_uid} - {NOBODY})


def _check_parent(info: os.stat_result, users: set[int], path: str) -> set[int]:
    """Raise OSError if an untrusted user can replace what is in this folder.

    Returns the users who are trusted from here on. In a user namespace root may appear as NOBODY:
    the owner of "/" is trusted as long as nobody else can have made a folder on the way.
    """
    if path == "/":
        users = users | {info.st_uid}
    _check_owner(info, users, path)
    if not _is_shared(info):
        return users
    if not info.st_mode & stat.S_ISVTX:
        raise _refused(path, "can be written by other users")
    return _trusted_users()


def _is_shared(info: os.stat_result) -> bool:
    """Whether others can write a folder. A group that holds only this user is no others."""
    if not info.st_mode & GROUP or info.st_mode & OTHERS:
        return bool(info.st_mode & OTHERS)
    import grp
    import pwd

    with contextlib.suppress(KeyError):
        user, group = pwd.getpwuid(os.getuid()), grp.getgrgid(info.st_gid)
        own = group.gr_name == user.pw_name and group.gr_gid == user.pw_gid
        return not own or user.pw_uid == 0 or bool(set(group.gr_mem) - {user.pw_name})
    return True


def _check(info: os.stat_result, users: set[int], path: str) -> None:
    """Raise OSError for a file or folder that an untrusted user can write."""
    _check_owner(info, users, path)
    if info.st_mode & (GROUP | OTHERS):
        raise _refused(path, "can be written by other users")


def _check_owner(info: os.stat_result, users: set[int], path: str) -> None:
    if info.st_uid not in users:
        raise _refused(path, "belongs to another user")


def _refused(path: str, reason: str) -> PermissionError:
    return PermissionError(errno.EACCES, reason, path)
