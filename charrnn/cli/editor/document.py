"""The file that is being edited, and its autosave in case the session fails."""

from __future__ import annotations

import contextlib
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, count
from pathlib import Path

from ...errors import CharRNNError, display_path, os_errors_as
from ...storage.atomic import require_writable, write_atomically

UNTITLED = "charrnn-write"  # begins the name of the autosave of a text without a file


def encode_text(text: str) -> bytes:
    """Encode as UTF-8; bytes that were read and are not UTF-8 stay as they were."""
    return text.encode("utf-8", "surrogateescape")


def decode_text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


class EditedFile:
    """The file of a text, if it has one, and an autosave in a second file.

    The autosave is next to the file, or else in the folder for temporary files, and never replaces
    a file that exists. `autosave_path` names it while there is one; `autosave_error` says why the
    last autosave failed.
    """

    def __init__(self, path: str | None) -> None:
        self.path = path
        self.autosave_path: str | None = None
        self.autosave_error = ""
        self._saved = b""  # the content of the file when it was last read or written
        self._autosave_name = f"{path or UNTITLED}.unsaved"
        self._worker = ThreadPoolExecutor(1)  # one thread, so that the latest text is written last

    def read(self) -> str:
        """Return the text in the file, "" if there is none yet.

        Raises CharRNNError when the file cannot be read or could not be written.
        """
        if self.path is None:
            return ""
        require_writable(self.path)
        if os.path.exists(self.path) and not os.access(self.path, os.W_OK):
            raise CharRNNError(f"cannot write {display_path(self.path)}: it is read-only.")
        self._saved = self._content_on_disk()
        return decode_text(self._saved)

    def is_saved(self, text: str) -> bool:
        return encode_text(text) == self._saved

    def changed_on_disk(self) -> bool:
        """Whether another program has changed the file since it was last read or written."""
        return self._content_on_disk() != self._saved

    def save(self, text: str) -> None:
        """Replace the content of the file, atomically. Raises CharRNNError when that fails."""
        data = encode_text(text)
        write_atomically(self._require_path(), [data])
        self._saved = data

    def _content_on_disk(self) -> bytes:
        path = self._require_path()
        with os_errors_as(f"cannot read {display_path(path)}"):
            try:
                return Path(path).read_bytes()
            except FileNotFoundError:
                return b""

    def _require_path(self) -> str:
        if self.path is None:
            raise ValueError("the text has no file")
        return self.path

    # --- Autosave

    def leftover_autosave(self) -> str | None:
        """Return the autosave of an earlier session, if there is one."""
        return self._autosave_name if os.path.exists(self._autosave_name) else None

    def autosave(self, text: str) -> None:
        """Autosave the text in the background unless it is saved; call it every few seconds."""
        self._worker.submit(self._autosave, encode_text(text))

    def autosave_now(self, text: str) -> None:
        """Autosave the text unless it is saved, and wait until that is done."""
        self._worker.submit(self._autosave, encode_text(text)).result()

    def discard_autosave(self) -> None:
        """Delete the autosave of this session."""
        self._worker.submit(self._delete_autosave).result()

    def describe_autosave(self) -> str:
        """Say where the autosave is, or why there is none; "" if none was needed."""
        if self.autosave_error or self.autosave_path is None:
            return self.autosave_error
        return f"the unsaved text is in {display_path(self.autosave_path)}"

    def _autosave(self, data: bytes) -> None:
        self.autosave_error = ""
        try:
            if data == self._saved:
                self._delete_autosave()
                return
            if self.autosave_path is None:
                self.autosave_path = self._create_autosave()
            write_atomically(self.autosave_path, [data])
        except (CharRNNError, OSError) as error:
            self.autosave_error = f"the unsaved text could not be written to a file: {error}"

    def _create_autosave(self) -> str:
        try:
            return _create_new_file(self._autosave_name)
        except OSError:
            name = os.path.basename(self._autosave_name)
            return _create_new_file(os.path.join(tempfile.gettempdir(), name))

    def _delete_autosave(self) -> None:
        if self.autosave_path is not None:
            with contextlib.suppress(OSError):
                os.unlink(self.autosave_path)
            self.autosave_path = None


def _create_new_file(name: str) -> str:
    """Create the first of name, name2, name3 ... that does not exist, for this user alone."""
    for candidate in chain([name], (f"{name}{n}" for n in count(2))):
        with contextlib.suppress(FileExistsError):
            os.close(os.open(candidate, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            return candidate
    raise AssertionError("unreachable")
