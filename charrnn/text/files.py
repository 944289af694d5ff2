"""Lists of files: the files of folders, and names read from a file."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

from ..errors import CharRNNError, FilePath, display_path, os_errors_as


def expand_folders(paths: Iterable[FilePath], excluded: Iterable[FilePath] = ()) -> list[FilePath]:
    """Replace each folder by its regular files, in the order of their names; others stay.

    Subfolders are read, too, symbolic links to folders are not; hidden files and folders, and the
    files `excluded`, are left out. Raises CharRNNError for a folder that cannot be read or holds
    no file.
    """
    left_out = {os.path.realpath(os.fsdecode(path)) for path in excluded}
    expanded: list[FilePath] = []
    for path in paths:
        if path == "-" or not os.path.isdir(path):
            expanded.append(path)
            continue
        with os_errors_as(f"cannot read {display_path(path)}"):
            files = [f for f in _files_of(path) if os.path.realpath(f) not in left_out]
        if not files:
            raise CharRNNError(f"there is no file in {display_path(path)}: give another folder.")
        expanded += files
    return expanded


def split_names(data: bytes) -> list[str]:
    """Return the file names in a list that NULs end, or newlines if there is no NUL."""
    names = data.split(b"\0" if b"\0" in data else b"\n")
    # A file may be called "-", which is standard input elsewhere.
    return ["./-" if name == b"-" else os.fsdecode(name) for name in names if name]


def _files_of(folder: FilePath) -> Iterator[str]:
    for parent, folders, names in os.walk(os.fsdecode(folder), onerror=_raise):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        paths = (os.path.join(parent, name) for name in sorted(names) if not name.startswith("."))
        yield from filter(os.path.isfile, paths)


def _raise(error: OSError) -> None:
    raise error
