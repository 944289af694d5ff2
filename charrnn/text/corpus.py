"""Text files to ids.

A text is never in memory as a whole. It is read in chunks, twice: once for its vocabulary, once to
encode it. Its ids go to a nameless temporary file, unless they are few.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from ..errors import CharRNNError, FilePath, escape_unprintable, list_of_paths
from .disk_ids import Ids, store_ids
from .files import expand_folders
from .joining import Seam
from .reader import (
    EncodingOptions,
    OnUndecodable,
    TextInput,
    TextReader,
    codec_name,
    is_utf8,
    names_of,
    open_input,
)
from .records import (
    RecordFilter,
    check_separator,
    end_id_of,
    filter_byte_files,
    filter_text_files,
)
from .vocabulary import (
    SEPARATOR,
    UNKNOWN,
    ByteVocabulary,
    CharVocabulary,
    IdArray,
    OnUnknown,
    Vocabulary,
    code_points,
    require_no_surrogate,
)

COMPARED_AT_ONCE = 1 << 18  # ids that require_varied compares at a time

_log = logging.getLogger("charrnn")


@dataclass(frozen=True, eq=False)
class Corpus:
    """A text as ids."""

    ids: Ids  # (n,) of vocabulary.dtype, read-only
    vocabulary: Vocabulary
    fingerprint: str  # hexadecimal SHA-256 of the bytes read, the encoding's name and the seams
    glued_fingerprint: str  # the same without seams: no line end was put between files
    encoding: str  # its name, or "bytes"
    names: tuple[str, ...]  # of the files, as the caller gave them
    file_starts: tuple[int, ...]  # the index of each file's first id
    num_bytes: int  # read from the files
    skipped_characters: str = ""  # the unknown characters that were skipped, each once, sorted
    num_skipped: int = 0  # how many characters of the text they are
    record_end_id: int = -1  # the id that ends each record; -1: the text has no records
    num_empty: int = 0  # empty records that were left out

    @property
    def title(self) -> str:
        """The names of the files, printable."""
        names = ("standard input" if name == "-" else name for name in self.names)
        return ", ".join(map(escape_unprintable, names))


def read_corpus(
    paths: FilePath | Iterable[FilePath],
    *,
    encoding: str = "utf-8",
    as_bytes: bool = False,
    folder: FilePath | None = None,
    vocabulary: Vocabulary | None = None,
    extend: Callable[[CharVocabulary], CharVocabulary] | None = None,
    min_count: int = 1,
    errors: OnUndecodable = "strict",
    unknown: OnUnknown = "error",
    join: bool = True,
    prefer_utf8: bool = False,
    apart_from: int | None = None,
    separator: str | None = None,
    keep_empty: bool = False,
    progress: Callable[[int, int], None] | None = None,
    options: EncodingOptions = EncodingOptions(),  # noqa: B008  # immutable
) -> Corpus:
    """Read the files `paths`, joined in order, as ids; "-" is standard input.

    A folder stands for its files, see `expand_folders`. Line ends are not changed. With `join`, a
    line end is put between two files where the first has none, see LineJoiner, but not before file
    number `apart_from`. A byte-order mark at the start of a file is dropped. A given `vocabulary`
    decides whether the text is read as bytes, instead of `as_bytes`. With `prefer_utf8`, files that
    are UTF-8 and not plain ASCII are not read with `encoding`. Without a `vocabulary`, `extend`
    makes it of that of the text's characters, and one symbol stands for all characters that occur
    fewer than `min_count` times. With `errors="replace"`, U+FFFD replaces bytes that cannot be
    decoded, which a warning counts. A `separator` ends each record of a text of records, see
    RecordFilter; `keep_empty` keeps the empty ones. Temporary files go to `folder`. `progress(done,
    total)` counts bytes, in both passes. Messages name the `options`.

    Raises CharRNNError for a file that cannot be read or decoded or that changes while it is read,
    for an empty text, and for one whose characters are all rare; UsageError for an unknown
    encoding; UnknownCharacters for characters that the given vocabulary cannot encode, unless
    `unknown="skip"`.
    """
    path_list = list_of_paths(paths)
    if vocabulary is None and as_bytes:
        vocabulary = ByteVocabulary()
    as_bytes = vocabulary is not None and vocabulary.is_bytes
    encoding = "bytes" if as_bytes else codec_name(encoding)
    if separator is not None:
        check_separator(separator, as_bytes)
    join = join and separator is None and (vocabulary is None or vocabulary.newline_id >= 0)
    records = RecordFilter(separator, keep_empty) if separator else None
    skipped: Counter[str] = Counter()
    starts: list[int] = []
    with contextlib.ExitStack() as stack:
        inputs = [open_input(path, folder, stack) for path in expand_folders(path_list)]
        num_passes = 2 if vocabulary is None else 1
        reader = TextReader(
            inputs,
            num_passes,
            progress,
            join=join,
            apart_from=apart_from,
            errors=errors,
            options=options,
        )
        codecs = [_codec_of(i, encoding) if prefer_utf8 else encoding for i in inputs]
        if vocabulary is None:
            texts = _text_files(reader, codecs, RecordFilter(separator) if separator else None)
            chunks = chain.from_iterable(texts)
            vocabulary = _build_vocabulary(chunks, min_count, separator or "")
            if vocabulary is None:
                raise _no_text(inputs, separator)
            vocabulary = extend(vocabulary) if extend else vocabulary
            # A character missing from the text's own vocabulary means that the text has changed,
            # which the reader reports at the end of the pass.
            unknown = "skip"
        files: Iterable[Iterable[str]] | Iterable[Iterable[bytes]]
        files = _byte_files(reader, records) if as_bytes else _text_files(reader, codecs, records)
        encoded = _encode_files(files, vocabulary, unknown, skipped, starts)
        ids = store_ids(encoded, vocabulary.dtype, folder)
    if len(ids) == 0:
        raise _no_text(inputs, separator, skipped)
    _report_seams(reader.seams)
    _report_replaced(reader.num_replaced)
    return Corpus(
        ids=ids,
        vocabulary=vocabulary,
        fingerprint=reader.fingerprint(encoding),
        glued_fingerprint=reader.fingerprint(encoding, with_seams=False),
        encoding=encoding,
        names=tuple(map(os.fsdecode, path_list)),
        file_starts=tuple(starts),
        num_bytes=reader.num_bytes,
        skipped_characters="".join(sorted(skipped)),
        num_skipped=skipped.total(),
        record_end_id=end_id_of(vocabulary, separator) if separator else -1,
        num_empty=records.num_empty if records else 0,
    )


def _text_files(
    reader: TextReader, codecs: Sequence[str], records: RecordFilter | None
) -> Iterable[Iterable[str]]:
    files = reader.text_files(codecs)
    return filter_text_files(files, records) if records else files


def _byte_files(reader: TextReader, records: RecordFilter | None) -> Iterable[Iterable[bytes]]:
    files = reader.byte_files()
    return filter_byte_files(files, records) if records else files


def _codec_of(source: TextInput, codec: str) -> str:
    """Return "utf-8" for an input that is UTF-8 and not plain ASCII, else `codec`."""
    if codec == "utf-8" or not is_utf8(source):
        return codec
    _log.info(
        "%s is in UTF-8 and read as that, not as %s; to read it otherwise, give the encodings of "
        "text and corpus apart",
        *(source.name, codec),
    )
    return "utf-8"


def require_varied(corpus: Corpus) -> None:
    """Raise CharRNNError for a text of one repeated character: nothing can be learned from it."""
    ids = corpus.ids
    parts = (ids[i : i + COMPARED_AT_ONCE] for i in range(0, len(ids), COMPARED_AT_ONCE))
    if all((part == ids[0]).all() for part in parts):
        character = escape_unprintable(corpus.vocabulary.decode(ids[:1]))
        raise CharRNNError(
            f"the text is one {corpus.vocabulary.unit}, '{character}', {len(ids):,} times: "
            "there is nothing to learn, give another text."
        )


def _build_vocabulary(
    chunks: Iterable[str], min_count: int, separator: str
) -> CharVocabulary | None:
    """Return the vocabulary of a text's characters, sorted; None for an empty text.

    A `separator` of several characters is one symbol of it. UNKNOWN follows if some characters
    other than the separator occur fewer than `min_count` times.
    """
    symbol = separator if len(separator) > 1 else ""
    counts = np.zeros(256, np.int64)  # by code point
    for text in chunks:
        if symbol:
            text = text.replace(SEPARATOR, UNKNOWN).replace(symbol, SEPARATOR)
        is_rare = (counts[:256] < min_count).tobytes()  # by code point: 1 for rare characters
        if text.isascii() and 1 not in text.encode().translate(is_rare):
            continue  # the fast path, taken for most of a text: their numbers suffice
        found = np.bincount(code_points(text), minlength=len(counts))
        found[: len(counts)] += counts
        counts = found
    end = SEPARATOR if symbol else separator
    present = map(chr, np.flatnonzero(counts))
    characters = "".join(c for c in present if counts[ord(c)] >= min_count or c == end)
    plain = characters.replace(end, "")
    require_no_surrogate(plain)
    num_rare = int(np.count_nonzero(counts)) - len(characters)
    if num_rare and not plain:
        raise CharRNNError(f"no character occurs {min_count:,} times: give a smaller --min-count.")
    if min_count > 1 and characters:
        _report_rare(num_rare, min_count)
        characters += UNKNOWN if num_rare else ""
    return CharVocabulary(characters, symbol) if characters else None


def _report_rare(num_rare: int, min_count: int) -> None:
    if num_rare:
        _log.info(
            "%s different characters occur fewer than %s times: one symbol stands for them",
            *(f"{num_rare:,}", f"{min_count:,}"),
        )
    else:
        _log.info(
            "no character occurs fewer than %s times, so there is no symbol for unknown ones",
            f"{min_count:,}",
        )


def _encode_files(
    files: Iterable[Iterable[str] | Iterable[bytes]],
    vocabulary: Vocabulary,
    unknown: OnUnknown,
    skipped: Counter[str],
    starts: list[int],
) -> Iterator[IdArray]:
    """Encode each chunk; count skipped characters in `skipped`, add file starts to `starts`."""
    num_ids = 0
    for chunks in files:
        starts.append(num_ids)
        for chunk in chunks:
            ids = vocabulary.encode(chunk, unknown)
            if isinstance(chunk, str) and len(ids) < len(chunk):
                skipped.update(vocabulary.unknown(chunk, repeat=True))
            num_ids += len(ids)
            yield ids


def _report_seams(seams: Sequence[Seam]) -> None:
    if seams:
        more = f" and {len(seams) - 1} more" if len(seams) > 1 else ""
        _log.info(
            "the last line of %s%s has no end: a line end was put before the next file; "
            "to join files as they are, pipe them through cat",
            *(seams[0].name, more),
        )


def _report_replaced(counts: Counter[str]) -> None:
    if counts:
        (name, _), more = counts.most_common(1)[0], len(counts) - 1
        _log.warning(
            "%s bytes of %s%s cannot be decoded: U+FFFD stands for them",
            *(f"{counts.total():,}", name, f" and {more} more" if more else ""),
        )


def _no_text(
    inputs: Sequence[TextInput], separator: str | None, skipped: Iterable[str] = ()
) -> CharRNNError:
    if skipped:
        return CharRNNError(f"the model knows no character of {names_of(inputs)}.")
    found = "has no record that is not empty" if separator else "is empty"
    return CharRNNError(f"no text: {names_of(inputs)} {found}.")
