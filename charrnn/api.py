"""charrnn from Python: train a model, load one, generate text, evaluate a text.

>>> import charrnn
>>> model = charrnn.train("corpus.txt", output="model.safetensors", epochs=5, cell="gru")
>>> print(model.sample(200, prime="The ", temperature=0.8))
>>> model.loss("Once upon a time")  # nats per character
"""

from __future__ import annotations

import codecs
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .config import ModelConfig, check_float, check_int, tensor_shapes
from .errors import FilePath, UsageError, display_path
from .generation.filters import TextFilter, read_known_texts
from .generation.stopping import StoppingCriteria
from .storage.checkpoint import ModelFile, StoredStart, load_model, save_model
from .text.records import separator_of, whole_records
from .text.vocabulary import Vocabulary, describe_characters, vocabulary_of

# Numba is slow to import, so the modules that need it are imported where they are used: errors such
# as a missing file or a wrong option are reported at once.
if TYPE_CHECKING:
    from .generation.prime_state import PrimeState
    from .generation.samples import Sample, TextSource
    from .network.model import Model
    from .network.start import TextStart
    from .training.report import Report


class LanguageModel:
    """A trained model with its vocabulary.

    Attributes: `model` (Model) is the network, `config` (ModelConfig) its shape, `vocabulary`
    (Vocabulary) the characters it knows, `training` (dict) its training history from the file.
    """

    def __init__(self, model: Model, vocabulary: Vocabulary, training: dict[str, Any]):
        self.model = model
        self.vocabulary = vocabulary
        self.training = training

    @property
    def config(self) -> ModelConfig:
        return self.model.config

    @property
    def separator(self) -> str | None:
        """The string that ends each record, of a model of records; None for other models."""
        end_id = self.config.record_end_id
        return separator_of(self.vocabulary, end_id) if end_id >= 0 else None

    @property
    def record_end(self) -> bytes:
        """The separator as it stands in a file, in UTF-8 or bytes; empty for other models."""
        end_id = self.config.record_end_id
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
        **how: Any,
    ) -> Iterator[Sample]:
        """Generate `count` texts that fulfil all conditions; yield a Sample of each.

        `unique`: no text twice. `not_in`: none that stands in this file in UTF-8: a text of one
        line as a line, one of several lines anywhere. `match`: only texts in which this regular
        expression is found. These three look at the prime and the new text together. A model of
        records compares records with those of `not_in`.
        `min_length`: the least number of new characters, or bytes. Other options are the same as
        for `texts`.

        Raises, besides the errors of `texts`, UsageError for a wrong expression and for texts that
        have no end or are all the same, CharRNNError if `not_in` cannot be read, and when
        MAX_REJECTED texts in a row (generation/filters.py) are rejected.
        """
        _check_numbers(count, first)
        prime = self._prime(prime, how)
        source = self._whole(length, **how)
        wanted = self._filter(source, unique, not_in, match, min_length)
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
        wanted = self._filter(source, unique, not_in, match, min_length)
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
        start = self._start(mid_line) if state is None else state.start
        from .generation.sampler import SamplingOptions
        from .generation.samples import TextSource
        from .generation.seeds import fresh_seed

        seed = fresh_seed() if seed is None else seed
        options = SamplingOptions(temperature, top_k, top_p, min_p, repetition_penalty, allowed)
        if options.is_greedy:  # the text must not depend on the seed
            start = start.first
        encode = partial(self._prime_ids, start=start, mid_line=mid_line)
        read = state.read if state else ()
        return TextSource(self.model, self.vocabulary, start, ending, options, seed, encode, read)

    def state(
        self, text: str, *, mid_line: bool = False, after: PrimeState | None = None
    ) -> PrimeState:
        """Read `text` and return the state after it, so that texts can continue it many times.

        `sample(state=state)` returns the same text as `sample(prime=text)`. `stream`, `texts` and
        `samples` take a state, too. `mid_line`: the text continues a line instead of beginning one.
        `after`: `text` continues the text of this state.

        Raises UnknownCharacters for characters that the model does not know, UsageError for a state
        of another model and for the end of a record.
        """
        from .generation.prime_state import read_on, read_prime

        if after is None:
            start = self._start(mid_line)
            ids = self._prime_ids(text, start, mid_line)
            return read_prime(self.model, text, ids, start, mid_line)
        self._check_state(after, mid_line=mid_line)
        return read_on(after, text, self._encode_prime(text))

    def _check_state(self, state: PrimeState, prime: str = "", mid_line: bool = False) -> None:
        if state.model is not self.model:
            raise UsageError("the state is of another model: read the text with this one.")
        if prime or mid_line:
            raise UsageError("the state has read its prime already: omit prime and mid_line.")

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
    ) -> TextFilter | None:
        """The conditions of `samples`; None if there are none."""
        check_int("min_length", min_length, minimum=0)
        end, greedy = self.record_end, source.options.is_greedy
        if not unique and not_in is match is None and not min_length:
            return TextFilter(record_end=end, all_alike=greedy) if end else None
        if greedy:
            raise UsageError(
                "temperature 0 and top-k 1 give the same text each time: raise them, or omit "
                "the conditions on the texts."
            )
        if source.criteria.length is not None and min_length > source.criteria.length:
            raise UsageError("no text is long enough: --min-length is larger than --length.")
        known = None if not_in is None else read_known_texts(not_in, self.vocabulary, end)
        return TextFilter(unique, known, match, min_length, end)

    def beam(
        self, width: int, length: int | None = 500, *, prime: str = "", **how: Any
    ) -> tuple[bytes, float]:
        """Return the most likely text that a beam search of `width` finds, and its log-probability.

        The log-probability, in nats, is of all generated characters, including a stop string or
        the end of a record. Width 1 gives the text of temperature 0. Options are the same as for
        `stream`.
        Raises UsageError when neither length, lines nor stop end the text.
        """
        return self.beams(width, 1, length, prime=prime, **how)[0]

    def beams(
        self,
        width: int,
        count: int,
        length: int | None = 500,
        *,
        prime: str = "",
        mid_line: bool = False,
        allow: str | None = None,
        forbid: str = "",
        stop: str | Iterable[str] | None = None,
        lines: int | None = None,
    ) -> list[tuple[bytes, float]]:
        """Return the `count` most likely texts that a beam search of `width` finds, as of `beam`.

        The most likely is first. There are fewer if fewer are possible.
        """
        check_int("beam", width, minimum=1)
        check_int("count", count, minimum=1)
        self._check_record(mid_line, stop, lines)
        allowed = self._allowed(allow, forbid)
        ending = self._ending(length, stop, lines, allowed)
        if not ending.has_end:
            raise UsageError("a beam search needs an end: give --length, --lines or --stop.")
        start = self._start(mid_line)
        ids = self._prime_ids(prime, start, mid_line)
        from .generation.beam_search import beam_search

        symbols = self.vocabulary.symbols
        found = beam_search(self.model, ids, width, ending, symbols, allowed, start, count)
        return [(b"".join(self.vocabulary.stream_utf8([text])), nats) for text, nats in found]

    def _check_record(
        self, mid_line: bool, stop: str | Iterable[str] | None, lines: int | None
    ) -> None:
        """Raise UsageError for options that are for running text, if the model is of records."""
        given = {"--mid-line": mid_line, "--stop": stop, "--lines": lines is not None}
        if self.separator and (names := [name for name, value in given.items() if value]):
            raise UsageError(
                f"a model of records writes whole records: omit {' and '.join(names)}."
            )

    def _start(self, mid_line: bool) -> TextStart:
        return self.model.blank_start() if mid_line else self.model.start

    def _prime_ids(self, prime: str, start: TextStart, mid_line: bool) -> np.ndarray:
        """The ids to read from `start` for `prime`.

        A model that knows no line starts reads the id after which a line starts.
        """
        ids = self._encode_prime(prime)
        if mid_line and not len(ids):
            raise UsageError("there is no line to continue: give --prime, or omit --mid-line.")
        if len(start.ids) + len(ids) == 0:
            ids = np.array([self.vocabulary.line_start])
        return ids

    def _encode_prime(self, prime: str) -> np.ndarray:
        ids = self.vocabulary.encode(prime)
        if self.config.record_end_id in ids:
            raise UsageError("the prime already ends the record: leave the separator out of it.")
        return ids

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
        end_id = self.config.record_end_id
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
            stops = [self.vocabulary.to_symbols(s) for s in stops]
        except UnicodeEncodeError:
            raise UsageError("a stop holds half a surrogate pair: no text does.") from None
        end_id = self.config.record_end_id
        record_end = self.vocabulary.symbols([end_id]) if end_id >= 0 else ""
        return StoppingCriteria(length, lines, tuple(stops), record_end)

    def save(self, path: FilePath, overwrite: bool = False) -> None:
        """Write a model file. Raises UsageError if it exists and `overwrite` is not given.

        Raises CharRNNError if it cannot be written; an existing file then stays as it was.
        """
        if not overwrite and os.path.lexists(path):
            raise UsageError(f"{display_path(path)} exists: give overwrite=True, or another name.")
        start = self.model.start
        stored = StoredStart(int(start.ids[0]), *start.states) if len(start.ids) else None
        tensors, config = self.model.parameters.tensors(), asdict(self.config)
        texts = self.vocabulary, self.training, stored, self.model.ngrams.table
        save_model(path, tensors, config, *texts)

    def losses(self, text: str | bytes) -> npt.NDArray[np.float64]:
        """Return the loss of each character of `text` (n,) in nats, -log of its probability.

        Their mean is `loss`. Of a model of records, the end of each record is among them. A model
        that does not know how texts start does not predict the first character: it has NaN.
        Raises UnknownCharacters for characters that the model does not know.
        """
        from .evaluation.loss import num_predicted, surprisals

        ids = self._encode_whole(text)
        unpredicted = np.full(len(ids) - num_predicted(self.model, ids), np.nan)
        return np.concatenate([unpredicted, *surprisals(self.model, ids)])

    def probabilities(self, text: str = "") -> dict[str | int | None, float]:
        """Return the probability of each character to come next after `text`, by character.

        `text` begins a line or a record. The key of a byte is its number, and the key of the symbol
        for unknown characters is None. Raises UnknownCharacters as `losses` does.
        """
        from .generation.primes import read_primes
        from .network.kernels.sampling import LARGEST_LOGIT
        from .network.stack import forward

        start = self.model.start.first
        ids = start.prepend(self._prime_ids(text, start, mid_line=False))
        [read] = read_primes(self.model, [ids], start.states)
        logits, _ = forward(self.model, read.ids[-1:].reshape(1, 1), read.state)
        scores = logits[0, 0].astype(np.float64)
        scores = np.nan_to_num(scores, True, -LARGEST_LOGIT, LARGEST_LOGIT, -LARGEST_LOGIT)
        p = np.exp(scores - scores.max())
        return dict(zip(self.vocabulary.json_names(), (p / p.sum()).tolist(), strict=True))

    def loss(self, text: str | bytes) -> float:
        """Return the cross-entropy of `text` in nats per character.

        Each character is predicted from all before it, the first as the beginning of a line. A
        model of records predicts each record of the text on its own, with its end.
        Raises UnknownCharacters for characters that the model does not know, CharRNNError for an
        empty text.
        """
        from .evaluation.loss import mean_loss

        return mean_loss(self.model, self._encode_whole(text))

    def _encode_whole(self, text: str | bytes) -> np.ndarray:
        """The ids of a text to measure; each record has its end."""
        if self.separator:
            text = whole_records(text, self.separator)
        return self.vocabulary.encode(text)


def _check_numbers(count: int, first: int) -> None:
    check_int("count", count, minimum=1)
    check_int("first", first, minimum=0)


def from_torch(
    state_dict: Mapping[str, Any],
    vocabulary: str | None,
    cell: str = "lstm",
    threads: int | None = None,
) -> LanguageModel:
    """Convert the weights of a PyTorch network, or arrays of the same names and shapes, to a model.

    `state_dict`: that of a module with an nn.LSTM, nn.GRU or nn.RNN (tanh), whose input is one-hot
    or an nn.Embedding, and an nn.Linear that computes the logits. Their names do not matter.
    `vocabulary`: the characters in the order of their ids; None: the 256 bytes.

    Raises UsageError for weights that do not fit, CharRNNError for an impossible vocabulary.
    """
    known = vocabulary_of(vocabulary)
    from .network.conversion import from_state_dict
    from .network.cores import usable_cores
    from .network.model import Model

    config, tensors = from_state_dict(state_dict, len(known), cell)
    model = Model(config, threads=threads or usable_cores())
    model.load_state_dict(tensors)
    return LanguageModel(model, known, {})


def load(path: FilePath = "model.safetensors", threads: int | None = None) -> LanguageModel:
    """Load the model file `path`, to run on `threads` threads; None: all usable cores.

    Raises CharRNNError for anything but a complete and valid model file.
    """
    file = read_model(path)
    from .network.carried_state import CarriedState
    from .network.cores import usable_cores
    from .network.model import Model
    from .network.start import TextStart

    config = ModelConfig(**file.config)
    model = Model(config, threads=threads or usable_cores(), ngrams=file.ngrams)
    model.load_state_dict(file.tensors)
    if file.start is not None:
        states = CarriedState(file.start.states, file.start.recent)
        model.start = TextStart(states, np.array([file.start.id]))
    return LanguageModel(model, file.vocabulary, file.training)


def read_model(path: FilePath) -> ModelFile:
    """Read and check the model file `path` without building the network.

    Raises CharRNNError for anything but a complete and valid model file.
    """
    return load_model(path, tensor_shapes)


def train(
    paths: FilePath | Iterable[FilePath],
    output: FilePath = "model.safetensors",
    *,
    on_report: Callable[[Report], object] | None = None,
    val_file: FilePath | None = None,
    encoding: str | None = None,
    as_bytes: bool | None = None,
    resume: bool = False,
    overwrite: bool = False,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    **settings: Any,
) -> LanguageModel:
    """Train a model on text files; return the best one, which the file `output` then holds.

    `paths`: one or several text files, or folders of them, which are joined in order; "-": standard
    input.
    `on_report`: called with a Report after every update.
    `val_file`: file or folder of the validation text, instead of a fraction of the text.
    `encoding`: of the text; None: UTF-8. `as_bytes`: model bytes instead of characters.
    `resume`: continue the run that `output` holds; it is saved at least every half minute.
    `overwrite`: replace that run.
    `threads`: None: all usable cores.
    `progress(done, total)`: called while the text is read, with numbers of bytes.
    `settings`: fields of TrainOptions, such as `time` in seconds, `epochs`, `cell` or
    `hidden_size`. Settings that are not given have their default; with `resume`, settings,
    encoding and as_bytes have the run's and must not differ from it.

    Raises UsageError for impossible settings and for an output that exists, CharRNNError for a text
    or an output that cannot be used, both before anything is written; Diverged, a CharRNNError,
    when training keeps diverging.
    """
    from .training.start import prepare_run

    prepared = prepare_run(
        paths,
        output,
        settings,
        val_file=val_file,
        encoding=encoding,
        as_bytes=as_bytes,
        resume=resume,
        overwrite=overwrite,
        threads=threads,
        progress=progress,
        cpu_clock=time.process_time,
    )
    for report in prepared.start():
        if on_report is not None:
            on_report(report)
    return load(output, threads)
