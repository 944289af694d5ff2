"""charrnn from Python: train a model, load one, generate text, evaluate a text.

>>> import charrnn
>>> model = charrnn.train("corpus.txt", output="model.safetensors", epochs=5, cell="gru")
>>> print(model.sample(200, prime="The ", temperature=0.8))
>>> model.loss("Once upon a time")  # nats per character
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from .config import (
    FILL_BEAM,
    MAX_FILL_BEAM,
    ModelConfig,
    check_float,
    check_int,
    tensor_shapes,
)
from .errors import FilePath, UsageError, display_path
from .storage.checkpoint import ModelFile, StoredStart, load_model, save_model
from .text.gaps import LONGEST, MARK, MAX_LENGTH, Gap, Piece, parse_marks
from .text.reversal import in_reading_order, reading_order, reversed_ids
from .text.vocabulary import UnknownCharacters, Vocabulary, vocabulary_of
from .text_generator import TextGenerator, Writer

# Numba is slow to import, so the modules that need it are imported where they are used: errors such
# as a missing file or a wrong option are reported at once.
if TYPE_CHECKING:
    from .generation.prime_state import PrimeState
    from .generation.primes import PrimeReader
    from .generation.sampler import SamplingOptions
    from .generation.text_filler import FilledGap, TextFiller
    from .network.model import Model
    from .network.start import TextStart
    from .training.report import Report


class LanguageModel(TextGenerator):
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
    def record_end_id(self) -> int:
        return self.config.record_end_id

    @property
    def backward(self) -> bool:
        return self.config.backward

    def _writer(self, options: SamplingOptions, mid_line: bool, state: PrimeState | None) -> Writer:
        from .generation.sampler import BatchSampler

        def primes(texts: Sequence[str]) -> PrimeReader:
            ids = [self._encode_prime(text, mid_line) for text in texts]
            return self.prime_reader(ids, mid_line, options.is_greedy, state)

        return Writer(partial(BatchSampler, self.model, 1, options), primes)

    def prime_reader(
        self,
        primes: Sequence[np.ndarray],
        mid_line: bool,
        greedy: bool,
        state: PrimeState | None = None,
    ) -> PrimeReader:
        """Return the reader of primes (n,). With `greedy`, all texts start from one state."""
        from .generation.primes import PrimeReader

        start = self._start(mid_line) if state is None else state.start
        start = start.first if greedy else start
        ids = [self._ids_from(start, prime) for prime in primes]
        return PrimeReader(self.model, ids, start, state.read if state else ())

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
        order = reading_order(self.backward)
        return [(self.vocabulary.encode_symbols(text[order]), nats) for text, nats in found]

    def fill(
        self,
        before: str,
        after: str,
        length: int | None = None,
        *,
        max_length: int = MAX_LENGTH,
        count: int = 1,
        **how: Any,
    ) -> list[FilledGap]:
        """Fill the gap between two texts; return up to `count` fills, the likeliest first.

        `length`: of the gap; None: from 1 to `max_length`. Options and errors are those of `fills`.
        """
        check_int("length", 1 if length is None else length, minimum=1, maximum=LONGEST)
        gap = parse_marks(MARK, max_length=max_length)[0] if length is None else Gap(length, length)
        pieces = [piece for piece in (before, gap, after) if piece != ""]
        texts = self.fills(pieces, count, **how)
        return [fill for text in texts for fill in text if not isinstance(fill, str)]

    def fills(
        self,
        pieces: Sequence[Piece],
        count: int = 1,
        *,
        sample: bool = False,
        temperature: float = 1.0,
        seed: int | None = None,
        beam: int = FILL_BEAM,
        backward: LanguageModel | None = None,
        allow: str | None = None,
        forbid: str = "",
        unknown: Literal["error", "skip"] = "error",
    ) -> Iterator[list[str | FilledGap]]:
        """Fill the gaps of a text; yield up to `count` texts, pieces as given with gaps filled.

        `pieces`: strings and gaps, as of `parse_marks`. `sample`: draw each text from the posterior
        given what is on both sides, to the power of 1 / `temperature`, instead of the likeliest;
        `seed` as for `stream`. `beam`: the number of hypotheses of the beam search. `backward`: a
        model of the same characters that reads backwards and proposes the right half of each fill.
        `allow`, `forbid`: fill with only these characters, with none of these. `unknown`: whether
        characters that the model does not know are errors, or skipped when the text is read.

        Raises UsageError for an impossible value, UnknownCharacters for unknown characters.
        """
        self.require_forward("fill")
        check_int("count", count, minimum=1)
        check_int("beam", beam, minimum=1, maximum=MAX_FILL_BEAM)
        check_float("temperature", temperature, 0, math.inf, exclusive_min=True)
        check_int("seed", 0 if seed is None else seed, minimum=0)
        for piece in pieces:
            if isinstance(piece, str) and unknown == "error":
                self._require_known(piece)
        from .generation.seeds import fresh_seed, rng_of_text

        filler = self._filler(self._allowed(allow, forbid), beam, backward)
        if not sample:
            yield from _texts(list(filler.likeliest(pieces, count)), count)
            return
        seed = fresh_seed() if seed is None else seed
        for i in range(count):
            drawn = filler.draw(pieces, rng_of_text(seed, i), temperature)
            yield from _texts(list(drawn), 1)

    def require_forward(self, work: str) -> None:
        """Raise UsageError if the model reads backwards and so cannot do `work`."""
        if self.backward:
            raise UsageError(f"the model reads backwards: {work} needs one that reads forwards.")

    def _require_known(self, text: str) -> None:
        if unknown := self.vocabulary.unknown(text.replace("\r\n", "\n")):
            raise UnknownCharacters(unknown, self.vocabulary, text)

    def _filler(self, allowed: np.ndarray, beam: int, backward: LanguageModel | None) -> TextFiller:
        from .generation.text_filler import TextFiller

        if self.record_end_id >= 0:
            allowed[self.record_end_id] = False
        if not allowed.any():
            raise UsageError("a gap cannot be filled: --allow leaves no character.")
        start = self.model.start.first
        [first_id] = start.prepend(self._ids_from(start, np.empty(0, np.int32)))
        filler = partial(
            TextFiller, self.model, self.vocabulary, start.states, int(first_id), allowed, beam
        )
        return filler() if backward is None else filler(backward.model, self.ids_in(backward))

    def ids_in(self, backward: LanguageModel) -> np.ndarray:
        """The ids (V,) of this model's characters in a backward model of the same characters."""
        if self.backward or not backward.backward:
            direction = "backwards" if self.backward else "forwards"
            raise UsageError(f"both models read {direction}: give one that reads the other way.")
        ids = backward.vocabulary.exact_ids_of(self.vocabulary).astype(np.int32)
        same = len(backward.vocabulary) == len(ids) and (ids >= 0).all()
        if not same or backward.separator != self.separator:
            raise UsageError(
                "the two models are not of the same characters, or records: train both on one text."
            )
        return ids

    def _start(self, mid_line: bool) -> TextStart:
        return self.model.blank_start() if mid_line else self.model.start

    def _prime_ids(self, prime: str, start: TextStart, mid_line: bool) -> np.ndarray:
        """The ids to read from `start` for `prime`."""
        return self._ids_from(start, self._encode_prime(prime, mid_line))

    def _ids_from(self, start: TextStart, ids: np.ndarray) -> np.ndarray:
        """The ids to read from `start` for the prime `ids` (n,).

        A model that knows no line starts reads the id after which a line starts.
        """
        if len(start.ids) + len(ids) == 0:
            return np.array([self.vocabulary.line_start])
        return ids

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

        Their mean is `loss`. A model that reads backwards predicts each character from those after
        it. Of a model of records, the end of each record is among them. A model
        that does not know how texts start does not predict the first character: it has NaN.
        Raises UnknownCharacters for characters that the model does not know.
        """
        from .evaluation.loss import num_predicted, surprisals

        ids = self._encode_whole(text)
        read = self._as_read(ids)
        unpredicted = np.full(len(ids) - num_predicted(self.model, read), np.nan)
        losses = np.concatenate([unpredicted, *surprisals(self.model, read)])
        return in_reading_order(losses, ids, self.record_end_id) if self.backward else losses

    def probabilities(self, text: str = "") -> dict[str | int | None, float]:
        """Return the probability of each character to come next after `text`, by character.

        A model that reads backwards gives those of the character before `text`.
        `text` begins a line or a record. The key of a byte is its number, and the key of the symbol
        for unknown characters is None. Raises UnknownCharacters as `losses` does.
        """
        p = self.next_probabilities(self._encode_prime(text))
        return dict(zip(self.vocabulary.json_names(), p.tolist(), strict=True))

    def next_probabilities(self, ids: np.ndarray) -> npt.NDArray[np.float64]:
        """Return the probability (V,) of each id to come next after `ids` (n,)."""
        from .generation.primes import read_primes
        from .network.kernels.sampling import LARGEST_LOGIT
        from .network.stack import forward

        start = self.model.start.first
        primes = [start.prepend(self._ids_from(start, ids))]
        [read] = read_primes(self.model, primes, start.states)
        logits, _ = forward(self.model, read.ids[-1:].reshape(1, 1), read.state)
        scores = logits[0, 0].astype(np.float64)
        scores = np.nan_to_num(scores, True, -LARGEST_LOGIT, LARGEST_LOGIT, -LARGEST_LOGIT)
        p: npt.NDArray[np.float64] = np.exp(scores - scores.max())
        p /= p.sum()
        return p

    def loss(self, text: str | bytes) -> float:
        """Return the cross-entropy of `text` in nats per character.

        Each character is predicted from all before it, the first as the beginning of a line. A
        model of records predicts each record of the text on its own, with its end.
        Raises UnknownCharacters for characters that the model does not know, CharRNNError for an
        empty text.
        """
        from .evaluation.loss import mean_loss

        return mean_loss(self.model, self._as_read(self._encode_whole(text)))

    def _as_read(self, ids: np.ndarray) -> np.ndarray:
        """The ids (n,) of a text in the order in which the model reads them."""
        return np.asarray(reversed_ids(ids, self.record_end_id)) if self.backward else ids


def _texts(filled: Sequence[str | list[FilledGap]], count: int) -> Iterator[list[str | FilledGap]]:
    """The texts with the first fill of each gap, with the second, up to `count`."""
    most = max((len(part) for part in filled if not isinstance(part, str)), default=1)
    for k in range(min(count, most)):
        yield [part if isinstance(part, str) else part[min(k, len(part) - 1)] for part in filled]


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
