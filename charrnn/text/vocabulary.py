"""Vocabularies: text to ids and back, by character or by byte.

A symbol is the character that represents an id in a str: the character itself, or for a byte the
character with the byte's number (latin-1). One symbol per id makes slicing and searching exact.
Special ids have the symbols UNKNOWN and SEPARATOR, which are no characters of any text.
"""

from __future__ import annotations

import codecs
import re
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from ..errors import CharRNNError, escape_unprintable
from .graphemes import graphemes

IdArray = npt.NDArray[Any]  # of an integer type, (n,) unless a comment says otherwise
OnUnknown = Literal["error", "skip"]

UNICODE_FORMS: tuple[Literal["NFC", "NFD", "NFKC", "NFKD"], ...] = ("NFC", "NFD", "NFKC", "NFKD")

# Halves of surrogate pairs, which no file can hold; JSON does not join two of the second kind.
SEPARATOR = "\udffe"  # the symbol of a separator of several characters
UNKNOWN = "\udfff"  # the symbol of all characters that have no id of their own
MAX_SEPARATOR = 1000  # characters

# Lone surrogates that do not represent an escaped byte (surrogateescape).
_NOT_AN_ESCAPED_BYTE = re.compile("[\ud800-\udc7f\udd00-\udfff]")


class UnknownCharacters(CharRNNError):
    """A text holds characters that the vocabulary lacks: `characters`, each once.

    If `vocabulary` has a character of `text` in another Unicode form, the message offers it.
    """

    def __init__(self, characters: str, vocabulary: Vocabulary, text: str | None = None):
        self.characters = characters
        super().__init__(
            f"the model has never seen {describe_characters(characters)}"
            f"{_other_form(characters, vocabulary, text or characters)}"
            "--unknown skip leaves such characters out."
        )


def _other_form(characters: str, vocabulary: Vocabulary, text: str) -> str:
    """Offer a Unicode form of one of `characters` of `text` that the vocabulary has, if any."""
    for character in characters[:10]:
        at = text.index(character)
        near = text[max(0, at - 8) : at + 9]
        unknown = [near[part] for part in graphemes(near) if character in near[part]]
        for form in UNICODE_FORMS:
            known = unicodedata.normalize(form, unknown[0])
            if not vocabulary.unknown(known):
                points = " ".join(f"U+{ord(c):04X}" for c in known)
                shown = f"'{escape_unprintable(known)}' ({points})"
                return f", but it knows {shown}, the Unicode form {form} of it: give that form, or "
    return ": "


def describe_characters(characters: str) -> str:
    """Name the first ten of `characters` for a message, with their code points."""
    names = ", ".join(f"'{escape_unprintable(c)}' (U+{ord(c):04X})" for c in characters[:10])
    return f"{names} and {len(characters) - 10} more" if len(characters) > 10 else names


def code_points(text: str) -> npt.NDArray[np.uint32]:
    """Return the code points (n,) of the n characters of `text`, lone surrogates included."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


def vocabulary_of(characters: str | None, separator: str = "") -> Vocabulary:
    """Return the vocabulary that a model file stores: its characters, or None for bytes.

    Raises CharRNNError for impossible characters or separators, see CharVocabulary.
    """
    return ByteVocabulary() if characters is None else CharVocabulary(characters, separator)


class Vocabulary(ABC):
    """The symbols that a model knows, in the order of their ids: CharVocabulary, ByteVocabulary."""

    is_bytes: ClassVar[bool]  # whether a text must be read as bytes
    unit: ClassVar[str]  # what an id stands for: "character" or "byte"
    symbol_encoding: ClassVar[str]  # encodes symbols as the bytes of the text
    characters: str | None  # for a model file: the symbols in the order of their ids, or None
    separator: str = ""  # the text of the symbol SEPARATOR; empty: there is no such symbol
    unknown_id: int = -1  # the id of the symbol UNKNOWN; -1: there is no such symbol

    @abstractmethod
    def __len__(self) -> int: ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """The smallest unsigned integer type that holds every id."""
        return np.min_scalar_type(len(self) - 1)

    @property
    def newline_id(self) -> int:
        """The id of the newline, -1 if the vocabulary has none."""
        return int(self.look_up("\n")[0])

    @property
    def line_start(self) -> int:
        """The id to start a line after: newline, else space, else 0."""
        return next((int(i) for i in self.look_up("\n ") if i >= 0), 0)

    # Text to ids

    @property
    def writable(self) -> npt.NDArray[np.bool_]:
        """Mask of the ids that may be generated, (V,): all but `unknown_id`."""
        mask: npt.NDArray[np.bool_] = np.arange(len(self)) != self.unknown_id
        return mask

    @abstractmethod
    def encode(self, text: str | bytes, unknown: OnUnknown = "error") -> IdArray:
        """Return the ids (n,) of `text`, of type `self.dtype`.

        Each occurrence of the separator is one id. Characters without an id have `unknown_id` if
        there is one. Otherwise they are omitted with `unknown="skip"`, or raise UnknownCharacters.
        """

    @abstractmethod
    def unknown(self, text: str, repeat: bool = False) -> str:
        """Return the characters of `text` that cannot be encoded, in order, once or repeated."""

    def unwritable(self, text: str) -> str:
        """Return the characters of `text` without an id of their own, in order, each once."""
        return self.unknown(text)

    @abstractmethod
    def from_utf8(self, data: bytes) -> str:
        """Decode the content of a UTF-8 file to a text that `encode` takes.

        A byte vocabulary escapes bytes that are not UTF-8 (surrogateescape). A character vocabulary
        drops a byte-order mark and raises UnicodeDecodeError for such bytes.
        """

    @abstractmethod
    def to_symbols(self, text: str) -> str:
        """Convert a text to symbols, known to the vocabulary or not; a separator becomes SEPARATOR.

        A byte vocabulary raises UnicodeEncodeError for surrogates that are not escaped bytes.
        """

    def ids_of(self, other: Vocabulary) -> npt.NDArray[np.int64]:
        """Return the id (len(other),) of each symbol of `other`, `unknown_id` if missing here."""
        ids = self.exact_ids_of(other).astype(np.int64)
        return np.where(ids < 0, self.unknown_id, ids)

    def exact_ids_of(self, other: Vocabulary) -> IdArray:
        """Return the id (len(other),) of each symbol of `other`, -1 if missing here."""
        return self.look_up(other.symbols(np.arange(len(other))))

    # Ids to text

    @abstractmethod
    def symbols(self, ids: npt.ArrayLike) -> str:
        """Return a str of one symbol per id."""

    def encode_symbols(self, symbols: str) -> bytes:
        """Return the text of `symbols` as UTF-8, or the bytes themselves."""
        return symbols.encode(self.symbol_encoding)

    def to_utf8(self, ids: npt.ArrayLike) -> bytes:
        """Return the text of `ids` as UTF-8, or the bytes themselves. UNKNOWN becomes U+FFFD."""
        return self.encode_symbols(self.symbols(ids))

    def decode(self, ids: npt.ArrayLike, errors: str = "replace") -> str:
        """Return the text of `ids`. Bytes that are not UTF-8 become U+FFFD.

        `errors="surrogateescape"` escapes them instead, so that no byte is lost.
        """
        return self.to_utf8(ids).decode("utf-8", errors)

    def decoder(self) -> Decoder:
        """Return a decoder for symbols that arrive in pieces."""
        return Decoder(self.encode_symbols)

    def stream_utf8(self, pieces: Iterable[str]) -> Iterator[bytes]:
        """Encode symbols that arrive in pieces as UTF-8, or as the bytes themselves.

        No piece but the last ends within a UTF-8 character.
        """
        decoder = self.decoder()
        for piece in pieces:
            if text := decoder.feed(piece):
                yield text.encode("utf-8", "surrogateescape")
        if rest := decoder.feed("", final=True):
            yield rest.encode("utf-8", "surrogateescape")

    @abstractmethod
    def ids_per_character(self, text: str) -> IdArray:
        """Return how many ids encode each character of `text`, decoded with surrogateescape.

        The first character of a separator has one, the others none.
        """

    # Names for people and for JSON

    @abstractmethod
    def describe(self) -> str:
        """Describe the vocabulary in one printable line."""

    @abstractmethod
    def display_names(self) -> list[str]:
        """Return a printable name for each id."""

    @abstractmethod
    def json_names(self) -> list[str | int | None]:
        """Return for each id its character, separator, or number of its byte; None for UNKNOWN."""

    @abstractmethod
    def look_up(self, symbols: str) -> IdArray:
        """Return the id of each symbol, -1 for unknown ones."""


@dataclass(frozen=True)
class CharVocabulary(Vocabulary):
    """A vocabulary of characters; an id is a position in `characters`.

    SEPARATOR among the characters stands for the string `separator`, of two characters or more.
    UNKNOWN stands for all characters that are not among them; it is never written.

    Raises CharRNNError when there are no characters, one occurs twice, or one is another lone
    surrogate, which no file can hold; and for SEPARATOR without `separator` or the other way round.
    """

    is_bytes = False
    unit = "character"
    symbol_encoding = "utf-8"

    characters: str
    separator: str = ""
    unknown_id: int = field(init=False, repr=False, compare=False)
    _points: IdArray = field(init=False, repr=False, compare=False)  # (V,) id -> code point
    _ids: IdArray = field(init=False, repr=False, compare=False)  # code point -> id, or -1
    _ascii_ids: bytes = field(init=False, repr=False, compare=False)  # _ids[:256] modulo 256

    def __post_init__(self) -> None:
        _require_distinct(self.characters)
        _check_separator(self.characters, self.separator)
        points = code_points(self.characters)
        # The last entry is for all larger code points, which are clipped to it.
        ids = np.full(int(points.max()) + 2, -1, np.int32)
        ids[points] = np.arange(len(points))
        object.__setattr__(self, "unknown_id", self.characters.find(UNKNOWN))
        object.__setattr__(self, "_points", points)
        object.__setattr__(self, "_ids", ids)
        first = ids.take(np.arange(256), mode="clip")
        object.__setattr__(self, "_ascii_ids", first.astype(np.uint8).tobytes())

    def __len__(self) -> int:
        return len(self.characters)

    def encode(self, text: str | bytes, unknown: OnUnknown = "error") -> IdArray:
        if isinstance(text, bytes):
            raise TypeError("a vocabulary of characters encodes str, not bytes")
        symbols = self.to_symbols(text)
        if symbols.isascii() and self.dtype == np.uint8:  # five times as fast as the general way
            translated = symbols.encode().translate(self._ascii_ids)
            if 255 not in translated:  # 255 may mean -1
                return np.frombuffer(translated, np.uint8)
        ids = self.look_up(symbols)
        if ids.min(initial=0) < 0:
            if self.unknown_id >= 0:
                ids[ids < 0] = self.unknown_id
            elif unknown == "error":
                raise UnknownCharacters(self.unknown(text), self, text)
            ids = ids[ids >= 0]
        return ids.astype(self.dtype)

    def unknown(self, text: str, repeat: bool = False) -> str:
        return "" if self.unknown_id >= 0 else self._missing(text, repeat)

    def unwritable(self, text: str) -> str:
        return self._missing(text, repeat=False)

    def _missing(self, text: str, repeat: bool) -> str:
        symbols = self.to_symbols(text)
        points = code_points(symbols)[self.look_up(symbols) < 0]
        missing = points.tobytes().decode("utf-32-le", "surrogatepass")
        return missing if repeat else "".join(dict.fromkeys(missing))

    def from_utf8(self, data: bytes) -> str:
        return data.decode("utf-8-sig")

    def to_symbols(self, text: str) -> str:
        if not self.separator:
            return text
        return text.replace(SEPARATOR, UNKNOWN).replace(self.separator, SEPARATOR)

    def symbols(self, ids: npt.ArrayLike) -> str:
        points = self._points[np.asarray(ids, self.dtype)]
        return str(points.tobytes(), "utf-32-le", "surrogatepass")

    def encode_symbols(self, symbols: str) -> bytes:
        return symbols.replace(SEPARATOR, self.separator).replace(UNKNOWN, "\ufffd").encode()

    def ids_per_character(self, text: str) -> IdArray:
        sizes = np.ones(len(text), np.int64)
        if self.separator:
            for match in re.finditer(re.escape(self.separator), text):
                sizes[match.start() + 1 : match.end()] = 0
        return sizes

    def describe(self) -> str:
        plain = self.characters.replace(SEPARATOR, "").replace(UNKNOWN, "")
        kinds = [f"{len(plain):,} characters"]
        if self.separator:
            kinds.append(f"the separator '{escape_unprintable(self.separator)}'")
        if self.unknown_id >= 0:
            kinds.append("a symbol for all others")
        return f"{', '.join(kinds)}: {escape_unprintable(plain)}"

    def display_names(self) -> list[str]:
        special = {SEPARATOR: escape_unprintable(self.separator), UNKNOWN: "(unknown)"}
        return [special.get(c) or escape_unprintable(c) for c in self.characters]

    def json_names(self) -> list[str | int | None]:
        special = {SEPARATOR: self.separator, UNKNOWN: None}
        return [special.get(c, c) for c in self.characters]

    def look_up(self, symbols: str) -> IdArray:
        return self._ids.take(code_points(symbols), mode="clip")


@dataclass(frozen=True)
class ByteVocabulary(Vocabulary):
    """The vocabulary of the 256 bytes, which encodes every text; an id is a byte's number."""

    is_bytes = True
    unit = "byte"
    symbol_encoding = "latin-1"
    characters = None

    def __len__(self) -> int:
        return 256

    def encode(self, text: str | bytes, unknown: OnUnknown = "error") -> IdArray:
        """Return the bytes of `text`: UTF-8, escaped bytes (surrogateescape) as themselves."""
        if isinstance(text, str):
            if unknown == "error" and (missing := self.unknown(text)):
                raise UnknownCharacters(missing, self)
            text = _NOT_AN_ESCAPED_BYTE.sub("", text).encode("utf-8", "surrogateescape")
        return np.frombuffer(text, np.uint8)

    def unknown(self, text: str, repeat: bool = False) -> str:
        missing = _NOT_AN_ESCAPED_BYTE.findall(text)
        return "".join(missing if repeat else dict.fromkeys(missing))

    def from_utf8(self, data: bytes) -> str:
        return data.decode("utf-8", "surrogateescape")

    def to_symbols(self, text: str) -> str:
        return text.encode("utf-8", "surrogateescape").decode("latin-1")

    def symbols(self, ids: npt.ArrayLike) -> str:
        return str(np.asarray(ids, np.uint8).tobytes(), "latin-1")

    def ids_per_character(self, text: str) -> IdArray:
        sizes = [1 if "\udc80" <= c <= "\udcff" else len(c.encode()) for c in text]
        return np.array(sizes, np.int64)

    def describe(self) -> str:
        return f"{len(self)} bytes"

    def display_names(self) -> list[str]:
        return [escape_unprintable(chr(i)) if i < 128 else f"\\x{i:02x}" for i in range(256)]

    def json_names(self) -> list[str | int | None]:
        return list(range(256))

    def look_up(self, symbols: str) -> IdArray:
        points = code_points(symbols).astype(np.int64)
        return np.where(points < 256, points, -1)


class Decoder:
    """Decodes symbols that arrive in pieces; text that is not UTF-8 is escaped (surrogateescape).

    A UTF-8 character is returned when its last byte has arrived.
    """

    def __init__(self, encode: Callable[[str], bytes]):
        self._encode = encode
        self._utf8 = codecs.getincrementaldecoder("utf-8")("surrogateescape")

    def feed(self, symbols: str, final: bool = False) -> str:
        """Return the text that is certain after `symbols`; `final`: escape an unfinished rest."""
        return self._utf8.decode(self._encode(symbols), final)


def _require_distinct(characters: str) -> None:
    if not characters.strip(SEPARATOR + UNKNOWN):
        raise CharRNNError("a vocabulary needs at least one character.")
    # More characters than Unicode has cannot be distinct, so a huge string need not be hashed.
    if len(characters) > 0x110000 or len(set(characters)) < len(characters):
        raise CharRNNError("the vocabulary holds a character twice.")
    require_no_surrogate(characters.replace(SEPARATOR, "").replace(UNKNOWN, ""))


def _check_separator(characters: str, separator: str) -> None:
    if (SEPARATOR in characters) != bool(separator):
        raise CharRNNError("the vocabulary has a separator without a symbol, or the reverse.")
    if separator and not 2 <= len(separator) <= MAX_SEPARATOR:
        raise CharRNNError(
            f"a separator that is a symbol has 2 to {MAX_SEPARATOR:,} characters, "
            f"not {len(separator):,}."
        )
    require_no_surrogate(separator)


def require_no_surrogate(text: str) -> None:
    """Raise CharRNNError if a text, a vocabulary or a separator holds half a surrogate pair."""
    points = code_points(text)
    surrogates = points[(points >= 0xD800) & (points < 0xE000)]
    if len(surrogates):
        raise CharRNNError(
            f"the vocabulary holds half a surrogate pair (U+{surrogates[0]:04X}), which no file "
            "can store: give another encoding of the text."
        )
