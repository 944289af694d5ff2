"""charrnn from Python: train a model, load one, write text with it, measure a text.

>>> import charrnn
>>> model = charrnn.train("corpus.txt", output="model.safetensors", epochs=5, cell="gru")
>>> print(model.sample(200, prime="The ", temperature=0.8))
>>> model.loss("Once upon a time")  # nats per character
"""

from __future__ import annotations

import codecs
import math
import os
from collections.abc import Callable, Iterable, Iterator
from itertools import islice, tee
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .checkpoint import ModelFile, load_model
from .config import ModelConfig, TrainOptions, field_names, number, tensor_shapes, whole
from .errors import UsageError
from .files import FilePath, claim, run_files, shown
from .state import read_state
from .vocab import Vocabulary

# Numba is slow to import, so the modules that need it are imported where they are used:
# a missing file or a wrong option is told at once.
if TYPE_CHECKING:
    from .corpus import Corpus
    from .model import Model
    from .train import Report, Run


ROWS = 32  # texts written side by side
KEPT_LENGTH = 100_000  # of texts no longer than this


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

    def sample(self, length: int = 500, **how: Any) -> str:
        """New text of `length` characters (bytes, for a model of bytes), without the prime.

        The options are those of `stream`.
        """
        return "".join(self.stream(length, **how))

    def stream(self, length: int | None = 500, **how: Any) -> Iterator[str]:
        """New text, piece by piece as it is written; length None: without end.

        Options: `prime`, the text to go on from (none: as at the beginning of a line);
        `temperature` (0: always the most likely character); `top_k` and `top_p`, to draw from the
        k likeliest characters alone (0: all), or from the likeliest that together have
        probability p; `seed` (None: a different text each time); `stop`, a text before which to
        end. Bytes that are not UTF-8 become U+FFFD.

        Raises UnknownCharacters for a prime that the model cannot read, UsageError for an
        impossible value.
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
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int | None = None,
        stop: str | None = None,
    ) -> Iterator[Iterator[bytes]]:
        """`count` texts, each to be read before the next: pieces of UTF-8, characters never cut.

        Text i of seed s is text 0 of seed s + i. Else as `stream`, but bytes pass as they are.
        """
        if length is not None:
            whole("length", length, least=0)
        whole("top_k", top_k, least=0)
        number("top_p", top_p, 0, 1, above=True)
        number("temperature", temperature, 0, math.inf)
        if seed is not None:
            whole("seed", seed, least=0)
        prime_ids = self.vocabulary.encode(prime)
        if len(prime_ids) == 0:
            prime_ids = np.array([self.vocabulary.line_start])
        if stop == "":
            raise UsageError("an empty stop would end a text before it begins.")
        how = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
        stop_bytes = (stop or "").encode("utf-8", "surrogateescape")
        return self._texts(count, length, prime_ids, seed, how, stop_bytes)

    def _texts(self, count, length, prime_ids, seed, how, stop) -> Iterator[Iterator[bytes]]:
        from .sample import generate

        # Texts are written side by side, the later ones kept until they are read.
        at_once = ROWS if length is not None and length <= KEPT_LENGTH else 1
        for start in range(0, count, at_once):
            numbers = range(start, min(start + at_once, count))
            rngs = [np.random.default_rng(None if seed is None else seed + i) for i in numbers]
            rows = generate(self.model, prime_ids, rngs, **how)
            for i, copy in enumerate(tee(rows, len(rngs))):
                pieces = _decoded(map(itemgetter(i), islice(copy, length)), self.vocabulary)
                yield _until(stop, pieces) if stop else pieces

    def loss(self, text: str | bytes) -> float:
        """Nats per character of `text`, each character predicted from all before it.

        Raises UnknownCharacters, and CharRNNError for fewer than two characters.
        """
        from .evaluate import mean_loss

        return mean_loss(self.model, self.vocabulary.encode(text))


def load(path: FilePath = "model.safetensors", threads: int | None = None) -> LanguageModel:
    """The model in the file `path`. Raises CharRNNError for anything but a whole, sound model."""
    file = read_model(path)
    from .jit import usable_cores
    from .model import Model

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
) -> Run:
    """Read the text files (`-`: stdin) and make ready to train: what `charrnn train` does first.

    The text is UTF-8 unless `encoding` or `as_bytes` say otherwise. `settings` are fields of
    ModelConfig and TrainOptions. What is not given has its default or, with `resume`, the value
    the run was started with. `progress(done, total)` follows the reading, in bytes;
    `on_corpus(corpus, val_fraction)` is called before anything is planned. To iterate over the
    result is to train; see train.Run.

    Raises UsageError for impossible settings, CharRNNError for a text or an output that cannot be
    used, before anything is written.
    """
    from .corpus import read_corpus, require_learnable

    _check_settings(settings)
    paths = [paths] if isinstance(paths, FilePath) else list(paths)
    _check_output(output, paths)
    claim(output, resume=resume, overwrite=overwrite).release()  # start_run claims it for good
    files = run_files(output)
    options = TrainOptions()
    if resume:
        state = read_state(files.state)
        options = state.options
        if encoding is None and as_bytes is None:
            encoding, as_bytes = state.encoding, state.encoding == "bytes"
    corpus = read_corpus(
        paths,
        encoding=encoding or "utf-8",
        as_bytes=bool(as_bytes),
        folder=files.model.parent,
        progress=progress,
    )
    require_learnable(corpus)
    if on_corpus is not None:
        on_corpus(corpus, settings.get("val_fraction", options.val_fraction))
    from .train import start_run

    return start_run(corpus, settings, output, resume=resume, overwrite=overwrite, threads=threads)


def _check_settings(settings: dict[str, Any]) -> None:
    """Refuse settings that are unknown or impossible before a long text is read."""
    unknown = settings.keys() - set(field_names(ModelConfig)) - set(field_names(TrainOptions))
    if unknown or "vocab_size" in settings:
        names = ", ".join(sorted(unknown)) or "vocab_size"
        raise UsageError(f"there is no such setting: {names}.")
    ModelConfig(1, **{k: v for k, v in settings.items() if k in field_names(ModelConfig)})
    TrainOptions(**{k: v for k, v in settings.items() if k in field_names(TrainOptions)})


def _decoded(ids: Iterable[int], vocabulary: Vocabulary) -> Iterator[bytes]:
    decoder = vocabulary.decoder()
    for i in ids:
        if piece := decoder.feed([i]):
            yield piece
    if piece := decoder.finish():
        yield piece


def _until(stop: bytes, pieces: Iterable[bytes]) -> Iterator[bytes]:
    """What `pieces` hold before `stop`. Only what may be the beginning of `stop` is held back."""
    held = b""
    for piece in pieces:
        held += piece
        at = held.find(stop)
        if at >= 0:
            if at > 0:
                yield held[:at]
            return
        kept = next(k for k in range(len(stop) - 1, -1, -1) if held.endswith(stop[:k]))
        ready, held = held[: len(held) - kept], held[len(held) - kept :]
        if ready:
            yield ready
    if held:
        yield held


def _check_output(output: FilePath, texts: list[FilePath]) -> None:
    """Refuse to write over the text."""
    for file in filter(Path.exists, run_files(output)):
        for text in texts:
            if text != "-" and os.path.exists(text) and file.samefile(os.fsdecode(text)):
                raise UsageError(f"{shown(file)} is the text itself: give another -o.")
