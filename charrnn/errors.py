"""Errors written for the user, and helpers that word file names and system errors in them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator

FilePath = str | bytes | os.PathLike[str] | os.PathLike[bytes]


class CharRNNError(Exception):
    """The work failed. The message is shown unchanged; the command exits with code 1.

    A message is one sentence: what failed, what was found, what to do.
    """


class UsageError(CharRNNError):
    """An option has an impossible value. The command exits with code 2."""


def escape_unprintable(text: str) -> str:
    """Return `text` with every unprintable character replaced by its Python escape.

    File names and texts may hold escape sequences. None may reach a terminal raw in a message.
    """
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )


def display_path(path: FilePath) -> str:
    """Return a file name in a form that is safe to show in a message."""
    return escape_unprintable(os.fsdecode(path))


def list_of_paths(paths: FilePath | Iterable[FilePath]) -> list[FilePath]:
    """Return one path, or several, as a list."""
    return [paths] if isinstance(paths, (str, bytes, os.PathLike)) else list(paths)


def error_reason(error: Exception) -> str:
    """Return the reason of an error without its number and file name: "No such file"."""
    return getattr(error, "strerror", None) or str(error)


@contextlib.contextmanager
def os_errors_as(failure: str) -> Iterator[None]:
    """Convert system errors to a CharRNNError that reads "`failure`: reason."."""
    try:
        yield
    except (OSError, ValueError) as error:  # ValueError: a file name holds a NUL
        raise CharRNNError(f"{failure}: {error_reason(error)}.") from error
