"""Evaluation of a model on a text, with the baselines it is compared with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ..config import UNKNOWN_NATS
from ..network.mixture import MixedModel
from ..network.model import Model
from ..text.corpus import Corpus
from ..text.reversal import reversed_ids
from .adaptation import adapted_loss
from .baselines import Baselines, baselines
from .loss import mean_loss, num_predicted, windowed_loss
from .mixture import mixed_loss
from .unknown import num_unknown


@dataclass(frozen=True)
class Evaluation:
    """Losses on a text in nats per character; None for those that were not measured.

    A character that the model does not know costs the loss of its unknown symbol in each of them,
    or `unknown_nats` if it has no such symbol.
    """

    characters: int  # that are predicted
    loss: float
    windowed_loss: float | None = None
    adapted_loss: float | None = None
    baselines: Baselines | None = None
    unknown: int = 0  # characters that the model does not know
    unknown_nats: float | None = None  # what each of them costs; None: what the symbol costs


def evaluate(
    model: Model,
    text: Corpus,
    *,
    training_text: Corpus | None = None,
    window: int | None = None,
    adapt: bool = False,
    unknown_nats: float = UNKNOWN_NATS,
    progress: Callable[[int], object] | None = None,
) -> Evaluation:
    """Measure the loss of a model on a text.

    `training_text` adds the baselines, which learn from it; a short `text` has none. `window` adds
    the loss in windows of that many characters, `adapt` the loss of a copy of the model that goes
    on learning from the text. `unknown_nats` is the cost of each character that `text` skipped.
    `progress` is called as by `mean_loss`, by each pass over the text
    that adapts or carries a state. Raises CharRNNError for a text of which nothing is predicted or
    shorter than the window.
    """
    ids = text.ids
    if model.config.backward:
        ids = reversed_ids(ids, text.record_end_id)
    loss = mean_loss(model, ids, progress)
    result = Evaluation(num_predicted(model, ids), loss, unknown=num_unknown(text))
    if window is not None:
        result = replace(result, windowed_loss=windowed_loss(model, ids, window))
    if adapt:
        result = replace(result, adapted_loss=adapted_loss(model, ids, progress))
    return _completed(result, text, training_text, unknown_nats)


def evaluate_mixture(
    parts: Sequence[MixedModel],
    text: Corpus,
    *,
    training_text: Corpus | None = None,
    unknown_nats: float = UNKNOWN_NATS,
    progress: Callable[[int], object] | None = None,
) -> Evaluation:
    """Measure the loss of a mixture of models on a text, as `evaluate` does of one model."""
    count, loss = mixed_loss(parts, text.ids, progress)
    result = Evaluation(count, loss, unknown=num_unknown(text))
    return _completed(result, text, training_text, unknown_nats)


def _completed(
    result: Evaluation, text: Corpus, training_text: Corpus | None, unknown_nats: float
) -> Evaluation:
    """Add the baselines, and the characters that `text` skipped."""
    if training_text is not None:
        end_id = text.record_end_id
        found = baselines(training_text.ids, text.ids, text.vocabulary, end_id)
        result = replace(result, baselines=found)
    return _charged(result, text.num_skipped, unknown_nats) if text.num_skipped else result


def _charged(result: Evaluation, unknown: int, nats: float) -> Evaluation:
    """Add `unknown` characters at `nats` each to every loss."""
    characters = result.characters + unknown

    def mean(loss: float) -> float:
        return (loss * result.characters + nats * unknown) / characters

    def mean_if_measured(loss: float | None) -> float | None:
        return None if loss is None else mean(loss)

    b = result.baselines
    return Evaluation(
        characters,
        mean(result.loss),
        mean_if_measured(result.windowed_loss),
        mean_if_measured(result.adapted_loss),
        None if b is None else replace(b, ngram=mean(b.ngram), xz=mean_if_measured(b.xz)),
        unknown,
        nats,
    )
