"""Nameless temporary files, in memory while they are small."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from typing import IO

from ..errors import FilePath, display_path, os_errors_as

SMALL_BYTES = 1 << 24  # content up to this size stays in memory


@contextlib.contextmanager
def spooled(chunks: Iterable[bytes | memoryview], folder: FilePath | None) -> Iterator[IO[bytes]]:
    """Write `chunks` to a temporary file in `folder`, or in the system's temporary folder.

    Raises CharRNNError when the file cannot be written. Errors of `chunks` pass unchanged.
    """
    where = display_path(folder) if folder else "the folder that TMPDIR names"
    failure = f"cannot write temporary files in {where}"
    name = os.fsdecode(folder) if folder else None
    with tempfile.SpooledTemporaryFile(SMALL_BYTES, dir=name) as file:
        for chunk in chunks:
            with os_errors_as(failure):
                file.write(chunk)
        with os_errors_as(failure):
            file.flush()
        yield file
