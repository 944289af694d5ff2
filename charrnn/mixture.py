"""Mixtures of models from Python.

>>> import charrnn
>>> parts = [charrnn.load("plays.safetensors"), charrnn.load("novels.safetensors")]
>>> print(charrnn.Mixture(parts, [0.7, 0.3]).sample(200))
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .errors import UsageError
from .network.mixture import MixedModel
from .text.records import end_id_of
from .text.vocabulary import CharVocabulary, Vocabulary
from .text_generator import TextGenerator, Writer, require_one_kind

if TYPE_CHECKING:
    from .api import LanguageModel
    from .generation.mixture import MixturePrimes
    from .generation.prime_state import PrimeState
    from .generation.sampler import SamplingOptions

TOLERANCE = 1e-6  # weights as 0.333333 thrice are meant to sum to 1


class Mixture(TextGenerator):
    """Several models that write one text: each character has its mean probability in them.

    models: of characters or of bytes; of running text or of records with one separator.
    weights: how much each model counts, above 0; their sum is 1. None: all count the same.

    The vocabulary unites the models' characters. A model gives a character that it lacks no
    probability, and skips it in the text that it continues, or reads its unknown symbol.

    Raises UsageError for other weights and for models that do not fit together.
    """

    def __init__(
        self, models: Sequence[LanguageModel], weights: Sequence[float] | None = None
    ) -> None:
        if not models:
            raise UsageError("a mixture needs at least one model.")
        if weights is None:
            weights = [1 / len(models)] * len(models)
        _check_weights(weights, len(models))
        self.models = list(models)
        self.vocabulary = _united(models)
        self.parts = [
            MixedModel(
                m.model,
                weight,
                m.vocabulary.exact_ids_of(self.vocabulary).astype(np.int32),
                m.vocabulary.ids_of(self.vocabulary).astype(np.int32),
            )
            for m, weight in zip(models, weights, strict=True)
        ]

    @property
    def record_end_id(self) -> int:
        separator = self.models[0].separator
        return -1 if separator is None else end_id_of(self.vocabulary, separator)

    def _writer(self, options: SamplingOptions, mid_line: bool, state: PrimeState | None) -> Writer:
        from .generation.mixture import MixtureSampler

        primes = partial(self._primes, mid_line=mid_line, greedy=options.is_greedy)
        return Writer(partial(MixtureSampler, self.parts, 1, options), primes)

    def _primes(self, texts: Sequence[str], mid_line: bool, greedy: bool) -> MixturePrimes:
        """The reader of the primes `texts`."""
        from .generation.mixture import MixturePrimes

        ids = [self._encode_prime(text, mid_line) for text in texts]
        readers = [
            model.prime_reader([self._known(part, i) for i in ids], mid_line, greedy)
            for model, part in zip(self.models, self.parts, strict=True)
        ]
        return MixturePrimes(readers, ids)

    @staticmethod
    def _known(part: MixedModel, ids: npt.NDArray[np.integer]) -> npt.NDArray[np.int32]:
        """What a model reads for `ids` (n,) of the mixture."""
        inputs: npt.NDArray[np.int32] = part.inputs[ids]
        return inputs[inputs >= 0]

    def _check_state(self, state: PrimeState, prime: str = "", mid_line: bool = False) -> None:
        raise UsageError("a mixture continues no state of one model: give the prime.")

    def losses(self, text: str | bytes) -> npt.NDArray[np.float64]:
        """Return the loss of each character of `text`, as LanguageModel does.

        It is NaN where one of the models predicts nothing.
        """
        from .evaluation.mixture import mixed_surprisals

        chunks = mixed_surprisals(self.parts, self._encode_whole(text))
        return np.concatenate([np.empty(0), *chunks])

    def loss(self, text: str | bytes) -> float:
        """Return the cross-entropy of `text` in nats per character, as LanguageModel does."""
        from .evaluation.mixture import mixed_loss

        _, loss = mixed_loss(self.parts, self._encode_whole(text))
        return loss

    def probabilities(self, text: str = "") -> dict[str | int | None, float]:
        """Return the probability of each character to come next, as LanguageModel does."""
        ids, mixed = self._encode_prime(text), np.zeros(len(self.vocabulary))
        for model, part in zip(self.models, self.parts, strict=True):
            p = model.next_probabilities(self._known(part, ids))
            mixed += part.weight * np.where(part.ids < 0, 0, p[part.ids])
        return dict(zip(self.vocabulary.json_names(), mixed.tolist(), strict=True))


def _check_weights(weights: Sequence[float], count: int) -> None:
    shown = ",".join(f"{weight:g}" for weight in weights)
    if len(weights) != count:
        raise UsageError(f"{count} models have as many weights, not {len(weights)} ({shown}).")
    if not all(weight > 0 for weight in weights):  # NaN, too
        raise UsageError(f"the weights of a mixture are above 0, not {shown}.")
    if not math.isclose(total := math.fsum(weights), 1, abs_tol=TOLERANCE):
        raise UsageError(f"the weights of a mixture add up to 1; {shown} add up to {total:g}.")


def _united(models: Sequence[LanguageModel]) -> Vocabulary:
    """The first model's vocabulary, with the characters that it lacks after its own."""
    first = models[0].vocabulary
    require_one_kind(models, "mixed")
    if any(m.backward for m in models):
        raise UsageError("models that read backwards cannot be mixed.")
    if first.characters is None:
        return first
    characters = "".join(m.vocabulary.characters or "" for m in models)
    return CharVocabulary("".join(dict.fromkeys(characters)), first.separator)
