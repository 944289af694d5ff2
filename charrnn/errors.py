"""Errors that are written for the user: one sentence that says what failed and what to do."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

FilePath = str | bytes | os.PathLike


class CharRNNError(Exception):
    """The work failed. The message is shown as it stands; the exit code is 1."""


class UsageError(CharRNNError):
    """An option's value is impossible. The exit code is 2."""


def escape_unprintable(text: str) -> str:
    """`text` with every character that a terminal might act on or fail to show made visible.

    File names and corpora may hold escape sequences; none may reach a terminal raw in a message.
    """
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )


@contextlib.contextmanager
def os_errors_as(failure: str) -> Iterator[None]:
    """Turn an error of the system into a CharRNNError: `failure`, and why."""
    try:
        yield
    except (OSError, ValueError) as error:  # ValueError: a NUL in a name
        raise CharRNNError(f"{failure}: {error_reason(error)}.") from error


def error_reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def display_path(path: FilePath) -> str:
    """A file's name as it can be shown in a message."""
    return escape_unprintable(os.fsdecode(path))
