"""Generating texts: the options, and what they mean for a vocabulary."""

from __future__ import annotations

import codecs
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .config import check_float, check_int
from .errors import FilePath, UsageError
from .generation.filters import TextFilter, read_known_texts
from .generation.stopping import StoppingCriteria
from .text.records import separator_of, whole_records
from .text.reversal import reading_order
from .text.vocabulary import Vocabulary, describe_characters

# As in api.py, modules that need Numba are imported where they are used.
if TYPE_CHECKING:
    from .generation.batch import Primes, Sampler
    from .generation.prime_state import PrimeState
    from .generation.sampler import SamplingOptions
    from .generation.samples import Sample, TextSource


class Writer(NamedTuple):
    """What generates the texts of a model, or of several.

    sampler: returns a sampler with one row.
    primes: returns the reader of these primes.
    """

    sampler: Callable[[], Sampler[Any]]
    primes: Callable[[Sequence[str]], Primes[Any]]


class TextGenerator(ABC):
    """Generates texts of a vocabulary: LanguageModel, Mixture."""

    vocabulary: Vocabulary

    @property
    @abstractmethod
    def record_end_id(self) -> int:
        """The id that ends each record, of a model of records; -1 for other models."""

    @property
    def backward(self) -> bool:
        """Whether texts are read and written from their end to their beginning."""
        return False

    @abstractmethod
    def _writer(self, options: SamplingOptions, mid_line: bool, state: PrimeState | None) -> Writer:
        """The writer of texts that start as `mid_line` and `state` of `stream` say."""

    @abstractmethod
    def _check_state(self, state: PrimeState, prime: str = "", mid_line: bool = False) -> None:
        """Raise UsageError if texts cannot continue `state`."""

    @property
    def separator(self) -> str | None:
        """The string that ends each record, of a model of records; None for other models."""
        end_id = self.record_end_id
        return separator_of(self.vocabulary, end_id) if end_id >= 0 else None

    @property
    def record_end(self) -> bytes:
        """The separator as it stands in a file, in UTF-8 or bytes; empty for other models."""
        end_id = self.record_end_id
        return self.vocabulary.to_utf8([end_id]) if end_id >= 0 else b""

    def sample(self, length: int | None = 500, **how: Any) -> str:
        """Generate a text of `length` characters (bytes, for a model of bytes), without the prime.

        A model of records generates one record of at most `length` characters.
        Options, and the errors raised, are the same as for `stream`.
        """
        return "".join(self.stream(length, **how))

    def stream(
        self, length: int | None = 500, *, errors: str = "replace", **how: Any
    ) -> Iterator[str]:
        """Generate a text and yield it piece by piece; `length` None: without end.

        `prime`: text to continue, which begins a line; empty: the text begins a line.
        `mid_line`: the prime continues a line instead of beginning one.
        `state`: what the method `state` returned for a prime; it replaces `prime` and `mid_line`.
        `temperature`: below 1 makes the text safer, above 1 bolder; 0 takes the most likely
        character each time.
        `repetition_penalty`: factor on the log-probability of each of the last 32 characters,
        including the prime's (Keskar et al. 2019).
        `top_k`, `top_p`, `min_p`: draw only from the k most likely characters (0: all), from the
        smallest set of most likely characters with a total probability of p, from the characters
        at least min_p times as likely as the most likely one. They apply in this order, after the
        penalty and the temperature.
        `allow`, `forbid`: generate only these characters, none of these characters.
        `seed`: the same seed gives the same text; None: a different text each time. `first`: the
        number of the text among those of its seed, which are independent.
        `stop`: one or several strings; the text ends before the first that occurs. `lines`: number
        of lines after which the text ends. It never exceeds `length`.

        A text of a model of records is a record, which comes whole, without the separator. Records
        longer than `length` are left out. `allow` never excludes the separator. `mid_line`, `stop`
        and `lines` are errors, as are a `prime` and a `forbid` with the separator.

        A model that reads backwards writes the text before the prime, which comes whole. `lines`
        then counts newlines before the prime.

        `errors`: bytes that are not UTF-8 become U+FFFD; "surrogateescape" escapes them, so that
        encoding the text with it gives them back.

        Raises UnknownCharacters for a prime with characters that the model does not know,
        UsageError for an impossible value or when no character is allowed.
        """
        pieces = next(self.texts(1, length, **how))
        return codecs.iterdecode(pieces, "utf-8", errors)

    def texts(
        self,
        count: int = 1,
        length: int | None = 500,
        *,
        prime: str = "",
        first: int = 0,
        **how: Any,
    ) -> Iterator[Iterator[bytes]]:
        """Generate `count` texts, each an iterator over pieces of UTF-8, to be read in order.

        No piece but the last ends within a character. They are the texts `first` to `first` + count
        - 1 of their seed. Options are the same as for `stream`, but bytes that are not UTF-8 are
        passed through.
        """
        _check_numbers(count, first)
        prime = self._prime(prime, how)
        source = self._source(length, **how)
        if self.backward and not source.criteria.has_end:
            raise UsageError(
                "a text that is written backwards needs an end: give --length, --lines or --stop."
            )
        if wanted := self._filter(source):
            return (iter([s.data]) for s in source.samples(prime, count, first, wanted))
        return source.stream(prime, count, first)

    def samples(
        self,
        count: int = 1,
        length: int | None = 500,
        *,
        prime: str = "",
        first: int = 0,
        unique: bool = False,
        not_in: FilePath | None = None,
        match: str | None = None,
        min_length: int = 0,
        max_length: int | None = None,
        **how: Any,
    ) -> Iterator[Sample]:
        """Generate `count` texts that fulfil all conditions; yield a Sample of each.

        `unique`: no text twice. `not_in`: none that stands in this file in UTF-8: a text of one
        line as a line, one of several lines anywhere. `match`: only texts in which this regular
        expression is found. These three look at the prime and the new text together. A model of
        records compares records with those of `not_in`.
        `min_length`, `max_length`: the least and the greatest number of new characters, or bytes;
        `length` cuts texts, `max_length` leaves them out. Other options are those of `texts`.

        Raises, besides the errors of `texts`, UsageError for a wrong expression and for texts that
        have no end or are all the same, CharRNNError if `not_in` cannot be read, and when
        MAX_REJECTED texts in a row (generation/filters.py) are rejected.
        """
        _check_numbers(count, first)
        prime = self._prime(prime, how)
        source = self._whole(length, **how)
        wanted = self._filter(source, unique, not_in, match, min_length, max_length)
        return source.samples(prime, count, first, wanted)

    def answers(
        self,
        batches: Iterable[Sequence[str]],
        length: int | None = 500,
        *,
        first: int = 0,
        unique: bool = False,
        not_in: FilePath | None = None,
        match: str | None = None,
        min_length: int = 0,
        max_length: int | None = None,
        **how: Any,
    ) -> Iterator[Sample]:
        """Generate a text after each prime; yield a Sample of each, in order.

        `batches`: lists of primes. The primes of a batch are continued together; the next batch is
        asked for after the last Sample of this one. Text i continues prime i, counted from `first`.
        Options and errors are those of `samples`; a text that is rejected is generated anew.
        """
        _check_numbers(1, first)
        if how.get("state") is not None:
            raise UsageError("a state has its own prime: give primes or a state, not both.")
        source = self._whole(length, **how)
        wanted = self._filter(source, unique, not_in, match, min_length, max_length)
        return source.answers(batches, first, wanted)

    def _source(
        self,
        length: int | None,
        *,
        mid_line: bool = False,
        temperature: float = 1.0,
        repetition_penalty: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        allow: str | None = None,
        forbid: str = "",
        seed: int | None = None,
        stop: str | Iterable[str] | None = None,
        lines: int | None = None,
        state: PrimeState | None = None,
    ) -> TextSource:
        check_int("top_k", top_k, minimum=0)
        check_float("top_p", top_p, 0, 1, exclusive_min=True)
        check_float("min_p", min_p, 0, 1)
        check_float("temperature", temperature, 0, math.inf)
        check_float("repetition_penalty", repetition_penalty, 0, math.inf, exclusive_min=True)
        self._check_record(mid_line, stop, lines)
        check_int("seed", 0 if seed is None else seed, minimum=0)
        allowed = self._allowed(allow, forbid)
        ending = self._ending(length, stop, lines, allowed)
        from .generation.sampler import SamplingOptions
        from .generation.samples import TextSource
        from .generation.seeds import fresh_seed

        seed = fresh_seed() if seed is None else seed
        options = SamplingOptions(temperature, top_k, top_p, min_p, repetition_penalty, allowed)
        writer = self._writer(options, mid_line, state)
        return TextSource(self.vocabulary, ending, options, seed, self.backward, *writer)

    def _prime(self, prime: str, how: dict[str, Any]) -> str:
        """Return the prime of the state in `how` if there is one, else `prime`."""
        if (state := how.get("state")) is None:
            return prime
        self._check_state(state, prime, how.get("mid_line", False))
        how["mid_line"] = state.mid_line
        return str(state.text)

    def _whole(self, length: int | None, **how: Any) -> TextSource:
        """The source of texts that are read to their end."""
        source = self._source(length, **how)
        if not source.criteria.has_end:
            raise UsageError("a whole text needs an end: give --length, --lines or --stop.")
        return source

    def _filter(
        self,
        source: TextSource,
        unique: bool = False,
        not_in: FilePath | None = None,
        match: str | None = None,
        min_length: int = 0,
        max_length: int | None = None,
    ) -> TextFilter | None:
        """The conditions of `samples`; None if there are none."""
        _check_lengths(source.criteria, min_length, max_length)
        end, greedy = self.record_end, source.options.is_greedy
        if not (unique or min_length) and (not_in, match, max_length) == (None, None, None):
            return TextFilter(record_end=end, all_alike=greedy) if end else None
        if greedy:
            raise UsageError(
                "temperature 0 and top-k 1 give the same text each time: raise them, or omit "
                "the conditions on the texts."
            )
        known = None if not_in is None else read_known_texts(not_in, self.vocabulary, end)
        return TextFilter(unique, known, match, min_length, max_length, end)

    def _check_record(
        self, mid_line: bool, stop: str | Iterable[str] | None, lines: int | None
    ) -> None:
        """Raise UsageError for options that are for running text, if the model is of records."""
        given = {"--mid-line": mid_line, "--stop": stop, "--lines": lines is not None}
        if self.separator and (names := [name for name, value in given.items() if value]):
            raise UsageError(
                f"a model of records writes whole records: omit {' and '.join(names)}."
            )

    def _encode_prime(self, prime: str, mid_line: bool = False) -> np.ndarray:
        ids = self.vocabulary.encode(prime)[reading_order(self.backward)]
        if mid_line and not len(ids):
            raise UsageError("there is no line to continue: give --prime, or omit --mid-line.")
        if self.record_end_id in ids:
            raise UsageError("the prime already ends the record: leave the separator out of it.")
        return ids

    def _encode_whole(self, text: str | bytes) -> np.ndarray:
        """The ids of a text to measure; each record has its end."""
        if self.separator:
            text = whole_records(text, self.separator)
        return self.vocabulary.encode(text)

    def _allowed(self, allow: str | None, forbid: str) -> np.ndarray:
        """Mask of the ids that may be generated, (V,) bool."""
        allowed = np.full(len(self.vocabulary), allow is None)
        if allow is not None:
            if missing := self.vocabulary.unwritable(allow):
                raise UsageError(
                    f"the model cannot write {describe_characters(missing)}: "
                    "leave it out of --allow."
                )
            allowed[self.vocabulary.encode(allow)] = True
        allowed[self.vocabulary.encode(forbid, "skip")] = False
        allowed &= self.vocabulary.writable
        if self.separator:
            self._allow_end(allowed, forbid)
        if not allowed.any():
            raise UsageError(
                "there is nothing left to write: --allow and --forbid leave no character."
            )
        return allowed

    def _allow_end(self, allowed: np.ndarray, forbid: str) -> None:
        """Allow the end of a record, unless nothing else is allowed."""
        end_id = self.record_end_id
        if end_id in self.vocabulary.encode(forbid, "skip"):
            raise UsageError("no record would end: leave the separator out of --forbid.")
        allowed[end_id] = False
        allowed[end_id] = allowed.any()

    def _ending(
        self,
        length: int | None,
        stop: str | Iterable[str] | None,
        lines: int | None,
        allowed: np.ndarray,
    ) -> StoppingCriteria:
        if length is not None:
            check_int("length", length, minimum=1 if self.separator else 0)
        if lines is not None:
            check_int("lines", lines, minimum=1)
            newline = self.vocabulary.encode("\n", "skip")
            if length is None and not allowed[newline].any():
                raise UsageError(
                    "no line would end, since no newline can be written: give --length."
                )
        stops = [stop] if isinstance(stop, str) else list(stop or [])
        if "" in stops:
            raise UsageError("an empty stop would end a text before it begins.")
        try:
            order = reading_order(self.backward)
            stops = [self.vocabulary.to_symbols(s)[order] for s in stops]
        except UnicodeEncodeError:
            raise UsageError("a stop holds half a surrogate pair: no text does.") from None
        end_id = self.record_end_id
        record_end = self.vocabulary.symbols([end_id]) if end_id >= 0 else ""
        return StoppingCriteria(length, lines, tuple(stops), record_end)


def _check_numbers(count: int, first: int) -> None:
    check_int("count", count, minimum=1)
    check_int("first", first, minimum=0)


def _check_lengths(criteria: StoppingCriteria, min_length: int, max_length: int | None) -> None:
    """Raise UsageError if no text that ends by `criteria` has a length within these limits."""
    check_int("min_length", min_length, minimum=0)
    if criteria.length is not None and min_length > criteria.length:
        raise UsageError("no text is long enough: --min-length is larger than --length.")
    if max_length is None:
        return
    check_int("max_length", max_length, minimum=0)
    if min_length > max_length:
        raise UsageError("no text is wanted: --min-length is larger than --max-length.")
    if criteria.ends_by_length and max_length < (criteria.length or 0):
        raise UsageError(
            "each text has --length characters: give a --length that --max-length admits, or "
            "--stop or --lines."
        )


def require_one_kind(models: Sequence[TextGenerator], done: str) -> None:
    """Raise UsageError for models whose texts differ in kind; `done` says what they cannot be."""
    if len({m.vocabulary.is_bytes for m in models}) > 1:
        raise UsageError(f"models of bytes and of characters cannot be {done}.")
    if len({m.separator for m in models}) > 1:
        raise UsageError(
            "models of records and of running text, or of records with different separators, "
            f"cannot be {done}."
        )
