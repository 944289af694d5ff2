"""charrnn from Python: train a model, load one, write text with it, measure a text.

>>> import charrnn
>>> model = charrnn.train("corpus.txt", output="model.safetensors", epochs=5, cell="gru")
>>> print(model.sample(200, prime="The ", temperature=0.8))
>>> model.loss("Once upon a time")  # nats per character
"""

from __future__ import annotations

import codecs
import math
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from .config import (
    ModelConfig,
    TrainOptions,
    check_float,
    check_int,
    field_names,
    fields_of,
    tensor_shapes,
)
from .errors import FilePath, UsageError, list_of_paths
from .generation.stopping import StoppingCriteria
from .storage.checkpoint import ModelFile, load_model
from .storage.inputs import require_not_input
from .storage.run_files import acquire_run, run_files
from .text.vocabulary import Vocabulary, describe_characters
from .training.state import read_state

# Numba is slow to import, so the modules that need it are imported where they are used:
# a missing file or a wrong option is told at once.
if TYPE_CHECKING:
    from .generation.sampler import SamplingOptions
    from .network.model import Model
    from .text.corpus import Corpus
    from .training.report import Report
    from .training.run import TrainingRun


class LanguageModel:
    """A trained model with its vocabulary: it writes text and measures text.

    `config` (ModelConfig) is its shape, `vocabulary` (Vocabulary) the characters it knows,
    `training` (dict) its history as the file tells it, `model` (Model) the network itself.
    """

    def __init__(self, model: Model, vocabulary: Vocabulary, training: dict[str, Any]):
        self.model = model
        self.vocabulary = vocabulary
        self.training = training

    @property
    def config(self) -> ModelConfig:
        return self.model.config

    def sample(self, length: int | None = 500, **how: Any) -> str:
        """New text of `length` characters (bytes, for a model of bytes), without the prime.

        The options are those of `stream`.
        """
        return "".join(self.stream(length, **how))

    def stream(self, length: int | None = 500, **how: Any) -> Iterator[str]:
        """New text, piece by piece as it is written; length None: without end.

        `prime`: the text to go on from (none: as at the beginning of a line).
        `temperature`: below 1 safer, above 1 bolder text; 0: always the most likely character.
        `repetition_penalty`: what the log-probability of each of the last 32 characters, those of
        the prime too, is multiplied by (Keskar et al. 2019).
        `top_k`, `top_p`, `min_p`: to draw from the k likeliest characters alone (0: all), from the
        likeliest that together have probability p, from those at least min_p times as likely as
        the likeliest; cut in this order, after the penalty and the temperature.
        `allow`, `forbid`: only these, none of these characters are written.
        `seed`: the same seed gives the same text; None: a different one each time.
        `stop`: a text, or several, before the first of which to end. `lines`: how many lines to end
        after. A `length` that is not None ends the text even then.

        Bytes that are not UTF-8 become U+FFFD. Raises UnknownCharacters for a prime that the model
        cannot read, UsageError for an impossible value, such as nothing that may be written.
        """
        decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        return filter(None, map(decode, next(self.texts(1, length, **how))))

    def texts(
        self,
        count: int = 1,
        length: int | None = 500,
        *,
        prime: str = "",
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
    ) -> Iterator[Iterator[bytes]]:
        """`count` texts, each to be read before the next: pieces of UTF-8, characters never cut.

        Text i of seed s is text 0 of seed s + i, however many are written side by side. Else as
        `stream`, but bytes pass as they are.
        """
        check_int("count", count, minimum=1)
        check_int("top_k", top_k, minimum=0)
        check_float("top_p", top_p, 0, 1, exclusive_min=True)
        check_float("min_p", min_p, 0, 1)
        check_float("temperature", temperature, 0, math.inf)
        check_float("repetition_penalty", repetition_penalty, 0, math.inf, exclusive_min=True)
        check_int("seed", 0 if seed is None else seed, minimum=0)
        allowed = self._allowed(allow, forbid)
        ending = self._ending(length, stop, lines, allowed)
        seed = secrets.randbits(48) if seed is None else seed
        prime_ids = self._prime_ids(prime)
        from .generation.sampler import SamplingOptions

        options = SamplingOptions(temperature, top_k, top_p, min_p, repetition_penalty, allowed)
        return self._texts(prime_ids, count, seed, ending, options)

    def _texts(
        self,
        prime_ids: np.ndarray,
        count: int,
        seed: int,
        ending: StoppingCriteria,
        options: SamplingOptions,
    ) -> Iterator[Iterator[bytes]]:
        from .generation.batch import BatchGenerator

        symbols = self.vocabulary.symbols
        for pieces in BatchGenerator(self.model, prime_ids, count, seed, ending, symbols, options):
            yield self.vocabulary.stream_utf8(pieces)

    def beam(
        self,
        width: int,
        length: int | None = 500,
        *,
        prime: str = "",
        allow: str | None = None,
        forbid: str = "",
        stop: str | Iterable[str] | None = None,
        lines: int | None = None,
    ) -> tuple[bytes, float]:
        """The likeliest text that a beam search of so many rows finds, and its log-probability.

        That is the model's, in nats, of all new characters, a stop that ends the text included.
        Width 1 gives the text of temperature 0. Options as of `stream`.
        """
        check_int("beam", width, minimum=1)
        allowed = self._allowed(allow, forbid)
        ending = self._ending(length, stop, lines, allowed)
        if length is lines is None and not ending.stops:
            raise UsageError("a beam search needs an end: give --length, --lines or --stop.")
        prime_ids = self._prime_ids(prime)
        from .generation.beam_search import beam_search

        symbols = self.vocabulary.symbols
        text, nats = beam_search(self.model, prime_ids, width, ending, symbols, allowed)
        return b"".join(self.vocabulary.stream_utf8([text])), nats

    def _prime_ids(self, prime: str) -> np.ndarray:
        """The ids to begin after: without a prime, one from which a line begins."""
        ids = self.vocabulary.encode(prime)
        return ids if len(ids) else np.array([self.vocabulary.line_start])

    def _allowed(self, allow: str | None, forbid: str) -> np.ndarray:
        """(V,) bool: which ids may be written."""
        allowed = np.full(len(self.vocabulary), allow is None)
        if allow is not None:
            if missing := self.vocabulary.unknown(allow):
                raise UsageError(
                    f"the model cannot write {describe_characters(missing)}: "
                    "leave it out of --allow."
                )
            allowed[self.vocabulary.encode(allow)] = True
        allowed[self.vocabulary.encode(forbid, "skip")] = False
        if not allowed.any():
            raise UsageError(
                "there is nothing left to write: --allow and --forbid leave no character."
            )
        return allowed

    def _ending(self, length, stop, lines, allowed) -> StoppingCriteria:
        if length is not None:
            check_int("length", length, minimum=0)
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
        return StoppingCriteria(length, lines, tuple(stops))

    def loss(self, text: str | bytes) -> float:
        """Nats per character of `text`, each character predicted from all before it.

        Raises UnknownCharacters, and CharRNNError for fewer than two characters.
        """
        from .evaluation.loss import mean_loss

        return mean_loss(self.model, self.vocabulary.encode(text))


def load(path: FilePath = "model.safetensors", threads: int | None = None) -> LanguageModel:
    """The model in the file `path`. Raises CharRNNError for anything but a whole, sound model."""
    file = read_model(path)
    from .network.jit import usable_cores
    from .network.model import Model

    model = Model(ModelConfig(**file.config), threads=threads or usable_cores())
    model.load_state_dict(file.tensors)
    return LanguageModel(model, file.vocabulary, file.training)


def read_model(path: FilePath) -> ModelFile:
    """What the model file `path` holds, checked but not made into a network."""
    return load_model(path, tensor_shapes)


def train(
    paths: FilePath | Iterable[FilePath],
    output: FilePath = "model.safetensors",
    *,
    on_report: Callable[[Report], object] | None = None,
    **options: Any,
) -> LanguageModel:
    """Train a model on text files and return the best one found, which `output` then holds.

    The options are those of `start`; `on_report` is called after every step. An interrupted run
    can be continued with `resume=True` from where it was last saved, at most half a minute before.
    """
    for report in start(paths, output, **options):
        if on_report is not None:
            on_report(report)
    return load(output, options.get("threads"))


def start(
    paths: FilePath | Iterable[FilePath],
    output: FilePath = "model.safetensors",
    *,
    encoding: str | None = None,
    as_bytes: bool | None = None,
    resume: bool = False,
    overwrite: bool = False,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    on_corpus: Callable[[Corpus, float], object] | None = None,
    **settings: Any,
) -> TrainingRun:
    """Read the text files (`-`: stdin) and make ready to train: what `charrnn train` does first.

    The text is UTF-8 unless `encoding` or `as_bytes` say otherwise. `settings` are fields of
    ModelConfig and TrainOptions. What is not given has its default or, with `resume`, the value
    the run was started with. `progress(done, total)` follows the reading, in bytes;
    `on_corpus(corpus, val_fraction)` is called before anything is planned. To iterate over the
    result is to train; see train.Run.

    Raises UsageError for impossible settings, CharRNNError for a text or an output that cannot be
    used, before anything is written.
    """
    from .text.corpus import read_corpus, require_varied

    _check_settings(settings)
    paths = list_of_paths(paths)
    require_not_input(run_files(output), paths, what="the run", kind="the text", option="-o")
    acquire_run(
        output, resume=resume, overwrite=overwrite
    ).release()  # start_run claims it for good
    files = run_files(output)
    options = TrainOptions()
    if resume:
        state = read_state(files.state)
        options = state.options
        if encoding is None and as_bytes is None:
            encoding, as_bytes = state.encoding, state.encoding == "bytes"
        del state  # it is thrice as large as the model, and start_run reads it anew
    corpus = read_corpus(
        paths,
        encoding=encoding or "utf-8",
        as_bytes=bool(as_bytes),
        folder=files.model.parent,
        progress=progress,
    )
    began = time.monotonic()
    require_varied(corpus)
    if on_corpus is not None:
        on_corpus(corpus, settings.get("val_fraction", options.val_fraction))
    from .training.start import start_run

    return start_run(
        corpus, settings, output, resume=resume, overwrite=overwrite, threads=threads, began=began
    )


def _check_settings(settings: dict[str, Any]) -> None:
    """Refuse settings that are unknown or impossible before a long text is read."""
    unknown = settings.keys() - set(field_names(ModelConfig)) - set(field_names(TrainOptions))
    if unknown or "vocab_size" in settings:
        names = ", ".join(sorted(unknown)) or "vocab_size"
        raise UsageError(f"there is no such setting: {names}.")
    if sum(settings.get(name) is not None for name in ("time", "epochs", "steps")) > 1:
        raise UsageError("give one of --time, --epochs and --steps.")
    ModelConfig(1, **fields_of(ModelConfig, settings))
    options = TrainOptions(**fields_of(TrainOptions, settings))
    if options.precision != TrainOptions.precision:
        from .training.trainer import require_precision

        require_precision(options.precision)
