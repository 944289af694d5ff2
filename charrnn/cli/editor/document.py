"""The file of a text that is being written, and a second one in case of a crash."""

from __future__ import annotations

import contextlib
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, count
from pathlib import Path

from ...errors import CharRNNError, display_path, os_errors_as
from ...storage.atomic import require_writable, write_atomically

NAMELESS = "charrnn-write"  # begins the name of the file that keeps a text without one


def encoded(text: str) -> bytes:
    """The bytes that were read, where the text has not changed, whatever they were."""
    return text.encode("utf-8", "surrogateescape")


class Draft:
    """The file of a text, if it has one, and the one that keeps it when all else goes wrong."""

    def __init__(self, path: str | None) -> None:
        self.path = path
        self.kept: str | None = None  # the file that keeps the text
        self.failure = ""  # why it could not be kept
        self._saved = b""  # what is in `path`, as far as is known here
        self._kept_name = f"{path or NAMELESS}.unsaved"
        self._worker = ThreadPoolExecutor(1)  # one after the other: the last text stays

    def read(self) -> str:
        """The text in the file, "" if there is none yet. CharRNNError if it cannot be written."""
        if self.path is None:
            return ""
        require_writable(self.path)
        if os.path.exists(self.path) and not os.access(self.path, os.W_OK):
            raise CharRNNError(f"cannot write {display_path(self.path)}: it is read-only.")
        self._saved = self._on_disk()
        return self._saved.decode("utf-8", "surrogateescape")

    def left_over(self) -> str | None:
        """A file that was kept by an earlier session, if there is one."""
        return self._kept_name if os.path.exists(self._kept_name) else None

    def is_saved(self, text: str) -> bool:
        return encoded(text) == self._saved

    def is_foreign(self) -> bool:
        """Has another program changed the file?"""
        return self._on_disk() != self._saved

    def save(self, text: str) -> None:
        """Replace what the file holds. CharRNNError if that fails: then it is as before."""
        data = encoded(text)
        write_atomically(self.path, [data])
        self._saved = data

    def keep(self, text: str) -> None:
        """Keep a text that is not saved, sooner or later: call it now and then."""
        self._worker.submit(self._keep, encoded(text))

    def keep_now(self, text: str) -> None:
        """Keep a text that is not saved, before this returns."""
        self._worker.submit(self._keep, encoded(text)).result()

    def forget(self) -> None:
        """All is well: what was kept is not needed."""
        self._worker.submit(self._remove).result()

    def _on_disk(self) -> bytes:
        with os_errors_as(f"cannot read {display_path(self.path)}"):
            try:
                return Path(self.path).read_bytes()
            except FileNotFoundError:
                return b""

    def _keep(self, data: bytes) -> None:
        self.failure = ""
        try:
            if data == self._saved:
                return self._remove()
            if self.kept is None:
                self.kept = self._new_file()
            write_atomically(self.kept, [data])
        except (CharRNNError, OSError) as error:
            self.failure = f"the text could not be kept: {error}"

    def _new_file(self) -> str:
        """Beside the text, or where there is room for what is temporary."""
        try:
            return _first_free(self._kept_name)
        except OSError:
            name = os.path.basename(self._kept_name)
            return _first_free(os.path.join(tempfile.gettempdir(), name))

    def _remove(self) -> None:
        if self.kept is not None:
            with contextlib.suppress(OSError):
                os.unlink(self.kept)
            self.kept = None


def _first_free(name: str) -> str:
    """Make the file `name`, name2, name3 ..., the first that is not there, for the user alone."""
    for candidate in chain([name], (f"{name}{n}" for n in count(2))):
        with contextlib.suppress(FileExistsError):
            os.close(os.open(candidate, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            return candidate
    raise AssertionError("unreachable")
