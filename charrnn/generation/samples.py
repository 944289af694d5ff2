"""Texts with one set of options: streamed, or whole and only those that are wanted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..arithmetic import ceil_div
from ..text.reversal import reading_order
from ..text.vocabulary import Vocabulary
from .batch import BatchGenerator, GeneratedText, Primes, Sampler
from .filters import TextFilter
from .sampler import SamplingOptions
from .seeds import rng_of_text
from .stopping import StoppingCriteria


@dataclass(frozen=True)
class Sample:
    """A generated text.

    prime: the text that it continues, or that continues it if the model writes backwards.
    data: the new text in UTF-8; of a model of bytes, its bytes.
    seed, index: it is text `index` of this seed.
    log_probability: of the new text under the model, in nats, whatever the sampling options; a
        stop that ends the text, or the end of a record, is included.
    stopped: whether a stop, or the end of a record, ended the text.
    """

    prime: str
    data: bytes
    seed: int
    index: int
    log_probability: float
    stopped: bool = False

    @property
    def text(self) -> str:
        """The new text. Bytes that are not UTF-8 become U+FFFD."""
        return self.data.decode("utf-8", "replace")


@dataclass(frozen=True)
class TextSource:
    """Generates texts of `seed` that end by `criteria`."""

    vocabulary: Vocabulary
    criteria: StoppingCriteria
    options: SamplingOptions
    seed: int
    backward: bool  # whether the model writes what comes before the prime, from its end
    sampler: Callable[[], Sampler[Any]]  # returns one with one row
    primes: Callable[[Sequence[str]], Primes[Any]]  # returns what reads these primes

    def stream(self, prime: str, count: int, first: int) -> Iterator[Iterator[bytes]]:
        """Yield the texts from number `first` on, each in pieces, while they are generated."""
        generator = self._generator([prime], count, self._rngs(first), log_probabilities=False)
        if self.backward:
            return (iter([self._data(text)]) for text in generator)
        return map(self.vocabulary.stream_utf8, generator)

    def samples(
        self, prime: str, count: int, first: int, wanted: TextFilter | None = None
    ) -> Iterator[Sample]:
        """Yield `count` texts, from number `first` on, that `wanted` accepts.

        The log tells how many it rejects.
        """
        generator = self._generator([prime], count, self._rngs(first))
        texts = (self._sample(text, prime, first + t) for t, text in enumerate(generator))
        if wanted is None:
            return texts
        return _then_log(self._accepted(generator, texts, count, wanted), wanted)

    def answers(
        self, batches: Iterable[Sequence[str]], first: int, wanted: TextFilter | None = None
    ) -> Iterator[Sample]:
        """Yield a text after each prime; those of a batch are continued together."""
        found = self._answers(batches, first, wanted)
        return found if wanted is None else _then_log(found, wanted)

    def _answers(
        self, batches: Iterable[Sequence[str]], first: int, wanted: TextFilter | None
    ) -> Iterator[Sample]:
        for primes in batches:
            yield from self._answers_of_batch(primes, first, wanted)
            first += len(primes)

    def _answers_of_batch(
        self, primes: Sequence[str], first: int, wanted: TextFilter | None
    ) -> Iterator[Sample]:
        generator = self._generator(primes, len(primes), self._rngs(first))
        for t, text in enumerate(generator):
            sample = self._sample(text, primes[t], first + t)
            if wanted is None or self._accepts(wanted, sample):
                yield sample
            else:
                yield self._another(primes[t], first + t, wanted)

    def _another(self, prime: str, index: int, wanted: TextFilter) -> Sample:
        """The first of further attempts at text `index` that is wanted."""
        generator = self._generator([prime], 1, lambda t: rng_of_text(self.seed, index, t + 1))
        texts = (self._sample(text, prime, index) for text in generator)
        return next(self._accepted(generator, texts, 1, wanted))

    def _accepted(
        self,
        generator: BatchGenerator[Any],
        texts: Iterator[Sample],
        count: int,
        wanted: TextFilter,
    ) -> Iterator[Sample]:
        """Yield `count` of the texts that are wanted; raise the number of texts as needed."""
        accepted = 0
        for read, sample in enumerate(texts, 1):
            if self._accepts(wanted, sample):
                accepted += 1
                yield sample
            # As many texts more as the accepted fraction so far makes likely to be enough.
            more = ceil_div((count - accepted) * (read + 1), accepted + 1)
            generator.count = max(generator.count, read + more) if accepted < count else read

    def _accepts(self, wanted: TextFilter, sample: Sample) -> bool:
        length = len(sample.data.decode(self.vocabulary.symbol_encoding))
        parts = [sample.prime.encode("utf-8", "surrogateescape"), sample.data]
        whole = b"".join(parts[reading_order(self.backward)])
        return wanted.accepts(whole, length, sample.stopped)

    def _rngs(self, first: int) -> Callable[[int], np.random.Generator]:
        return lambda t: rng_of_text(self.seed, first + t)

    def _generator(
        self,
        primes: Sequence[str],
        count: int,
        rng_of: Callable[[int], np.random.Generator],
        log_probabilities: bool = True,
    ) -> BatchGenerator[Any]:
        return BatchGenerator(
            self.sampler(),
            self.primes(primes),
            count,
            rng_of,
            self.criteria,
            self.vocabulary.symbols,
            log_probabilities,
        )

    def _sample(self, text: GeneratedText, prime: str, index: int) -> Sample:
        data, stopped = self._data(text), text.matcher.stopped
        return Sample(prime, data, self.seed, index, text.log_probability, stopped)

    def _data(self, text: GeneratedText) -> bytes:
        """The whole text in UTF-8, or its bytes."""
        symbols = "".join(text)[reading_order(self.backward)]
        return symbols.encode(self.vocabulary.symbol_encoding)


def _then_log(samples: Iterator[Sample], wanted: TextFilter) -> Iterator[Sample]:
    """Pass samples on; tell at the end how many were rejected."""
    yield from samples
    wanted.log_rejected()
