"""Characters (or raw bytes) to ids and back."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from ..errors import CharRNNError, escape_unprintable

# The surrogates that surrogateescape cannot turn back into a byte.
_NO_BYTE = re.compile("[\ud800-\udc7f\udd00-\udfff]")


class UnknownCharacters(CharRNNError):
    """A text holds characters that a vocabulary lacks; `characters` are they, each once."""

    def __init__(self, characters: str):
        self.characters = characters
        super().__init__(
            f"the model has never seen {describe_characters(characters)}: "
            "--unknown skip leaves such characters out."
        )


def describe_characters(characters: str) -> str:
    """Characters as a message names them, the first ten."""
    names = ", ".join(f"'{escape_unprintable(c)}' (U+{ord(c):04X})" for c in characters[:10])
    return f"{names} and {len(characters) - 10} more" if len(characters) > 10 else names


def code_points(text: str) -> np.ndarray:
    """The code points of `text`, lone surrogates too: uint32, one a character."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The characters a model knows, in the order of their ids, or None: raw bytes, ids 0..255.

    Raises CharRNNError when there are none, one stands twice, or one is a lone surrogate, which
    no file can hold.
    """

    characters: str | None
    _points: np.ndarray = field(init=False, repr=False, compare=False)  # (V,) id -> code point
    _ids: np.ndarray = field(init=False, repr=False, compare=False)  # code point -> id, or -1
    _ascii_ids: bytes = field(init=False, repr=False, compare=False)  # the same modulo 256

    def __post_init__(self):
        if not self.is_bytes:
            _require_distinct(self.characters)
        points = code_points(self.characters or "")
        # One entry more than the last character needs: all code points beyond are clipped to it.
        ids = np.full(int(points.max(initial=0)) + 2, -1, np.int32)
        ids[points] = np.arange(len(points))
        object.__setattr__(self, "_points", points)
        object.__setattr__(self, "_ids", ids)
        first = ids.take(np.arange(256), mode="clip")
        object.__setattr__(self, "_ascii_ids", first.astype(np.uint8).tobytes())

    @classmethod
    def of_bytes(cls) -> Vocabulary:
        """The vocabulary of the 256 bytes, which knows every text."""
        return cls(None)

    def __len__(self) -> int:
        return 256 if self.is_bytes else len(self.characters)

    @property
    def is_bytes(self) -> bool:
        return self.characters is None

    @property
    def dtype(self) -> np.dtype:
        """The smallest unsigned integer type that holds every id."""
        return np.min_scalar_type(len(self) - 1)

    @property
    def line_start(self) -> int:
        """The id to start from as at the beginning of a line: newline, else space, else 0."""
        if self.is_bytes:
            return ord("\n")
        return next((int(i) for i in self._look_up("\n ") if i >= 0), 0)

    def encode(self, text: str | bytes, unknown: Literal["error", "skip"] = "error") -> np.ndarray:
        """The ids (n,) of `text`, of type `self.dtype`; bytes are for byte vocabularies only.

        Unknown characters raise UnknownCharacters, or are left out (`unknown="skip"`). A byte
        vocabulary takes a str as UTF-8, escaped bytes (surrogateescape) as what they stand for.
        """
        if self.is_bytes:
            return np.frombuffer(self._to_bytes(text, unknown), np.uint8)
        if text.isascii() and self.dtype == np.uint8:  # five times as fast as what follows
            translated = text.encode().translate(self._ascii_ids)
            if 255 not in translated:  # which may be -1
                return np.frombuffer(translated, np.uint8)
        ids = self._look_up(text)
        if ids.min(initial=0) < 0:
            if unknown == "error":
                raise UnknownCharacters(self.unknown(text))
            ids = ids[ids >= 0]
        return ids.astype(self.dtype)

    def unknown(self, text: str) -> str:
        """The characters of `text` that are not in the vocabulary, each once, in order."""
        if self.is_bytes:
            return "".join(dict.fromkeys(_NO_BYTE.findall(text)))
        missing = code_points(text)[self._look_up(text) < 0]
        return "".join(dict.fromkeys(missing.tobytes().decode("utf-32-le", "surrogatepass")))

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids` (n,); bytes that are not UTF-8 become U+FFFD."""
        return self.to_utf8(ids).decode("utf-8", "replace")

    def to_utf8(self, ids: Iterable[int]) -> bytes:
        """The bytes that `ids` stand for: UTF-8, or what a model of bytes made of it."""
        ids = np.asarray(ids, self.dtype)
        if self.is_bytes:
            return ids.tobytes()
        return self._points[ids].tobytes().decode("utf-32-le").encode("utf-8")

    def symbols(self, ids: np.ndarray) -> str:
        """A str with a character for each of `ids` (n,); a byte is the character of its number."""
        ids = np.asarray(ids, self.dtype)
        points = ids.astype("<u4") if self.is_bytes else self._points[ids]
        return points.tobytes().decode("utf-32-le")

    def decoder(self) -> Decoder:
        """A decoder for ids that come bit by bit."""
        return Decoder(self)

    def encoded(self, pieces: Iterable[str]) -> Iterator[bytes]:
        """The text of `symbols` that come bit by bit, for an output: see Decoder."""
        if not self.is_bytes:
            yield from (piece.encode() for piece in pieces)
            return
        decoder = self.decoder()
        for piece in pieces:
            if whole := decoder.feed(np.frombuffer(piece.encode("latin-1"), np.uint8)):
                yield whole

    def _look_up(self, text: str) -> np.ndarray:
        """The id of every character of `text`, -1 where there is none: int32."""
        return self._ids.take(code_points(text), mode="clip")

    def _to_bytes(self, text: str | bytes, unknown: str) -> bytes:
        if isinstance(text, bytes):
            return text
        if unknown == "error" and (missing := self.unknown(text)):
            raise UnknownCharacters(missing)
        return _NO_BYTE.sub("", text).encode("utf-8", "surrogateescape")


class Decoder:
    """Turns ids into bytes for an output, never writing a part of a UTF-8 character.

    Bytes that cannot be UTF-8 pass through unchanged.
    """

    def __init__(self, vocabulary: Vocabulary):
        self._vocabulary = vocabulary
        self._utf8 = codecs.getincrementaldecoder("utf-8")("surrogateescape")

    def feed(self, ids: Iterable[int]) -> bytes:
        """The bytes to write after `ids`; an unfinished character is held back."""
        whole = self._utf8.decode(self._vocabulary.to_utf8(ids))
        return whole.encode("utf-8", "surrogateescape")

    def finish(self) -> bytes:
        """The bytes to write at the end: none, an unfinished character is dropped."""
        self._utf8.reset()
        return b""


def _require_distinct(characters: str) -> None:
    if not characters:
        raise CharRNNError("a vocabulary needs at least one character.")
    # More characters than Unicode has cannot be distinct: no need to look at each.
    if len(characters) > 0x110000 or len(set(characters)) < len(characters):
        raise CharRNNError("the vocabulary holds a character twice.")
    points = code_points(characters)
    surrogates = points[(points >= 0xD800) & (points < 0xE000)]
    if len(surrogates):
        raise CharRNNError(
            f"the vocabulary holds half a surrogate pair (U+{surrogates[0]:04X}), which no file "
            "can store: read the text in another --encoding, or as --bytes."
        )
