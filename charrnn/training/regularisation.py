"""Regularisation: dropout rates and weight decay against overfitting, by size and epochs."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..config import ResolvedOptions
from ..network.optimizers import OPTIMIZERS
from .model_choice import Choice, num_multiplied_weights


class Regularisation(NamedTuple):
    """Rates that keep a model from overfitting."""

    dropout: float
    recurrent_dropout: float
    total_decay: float  # a weight with zero gradient ends at exp(-total_decay) of its first value


# By the overfitting ratio (see `choose_regularisation`); between two of them, in proportion to its
# logarithm.
REGULARISATIONS = (
    (0.25, Regularisation(0.0, 0.0, 0.0)),
    (0.84, Regularisation(0.0, 0.0, 0.5)),
    (2.4, Regularisation(0.1, 0.0, 0.6)),
    (7.7, Regularisation(0.1, 0.1, 0.6)),
    (23.0, Regularisation(0.1, 0.25, 0.9)),
    (59.0, Regularisation(0.2, 0.35, 0.8)),
    (316.0, Regularisation(0.2, 0.5, 0.8)),
    (2000.0, Regularisation(0.4, 0.6, 0.6)),
    (8000.0, Regularisation(0.5, 0.8, 0.4)),
)
# The same for models with weights for n-grams, which learn a text by heart sooner.
NGRAM_REGULARISATIONS = (
    (0.15, Regularisation(0.0, 0.0, 0.4)),
    (0.55, Regularisation(0.1, 0.0, 0.6)),
    (1.7, Regularisation(0.1, 0.1, 0.8)),
    (4.9, Regularisation(0.2, 0.2, 0.9)),
    (12.6, Regularisation(0.2, 0.3, 0.9)),
    (45.0, Regularisation(0.2, 0.4, 0.9)),
    (316.0, Regularisation(0.3, 0.5, 0.8)),
    (2000.0, Regularisation(0.4, 0.6, 0.6)),
    (8000.0, Regularisation(0.5, 0.8, 0.4)),
)


# The highest rates of a run that starts from a model. With higher rates it forgets what the model
# has learned (tests/bench/LOG.md).
MOST_WITH_INITIAL = Regularisation(0.2, 0.2, 0.0)


def choose_regularisation(
    num_chars: int, chosen: Choice, has_initial: bool = False
) -> Regularisation:
    """Choose rates from the overfitting ratio: epochs x weights / characters / members.

    What one member learns by heart, the others do not, so that each may overfit more.
    has_initial: whether the run starts from a model.
    """
    weights = num_multiplied_weights(chosen.config)
    ratio = max(chosen.epochs * weights / num_chars / chosen.members, 1e-9)
    table = NGRAM_REGULARISATIONS if chosen.config.num_ngrams else REGULARISATIONS
    ratios, rates = zip(*table, strict=True)
    columns = zip(*rates, strict=True)
    at = np.log(ratio), np.log(ratios)
    found = Regularisation(*(round(float(np.interp(*at, column)), 2) for column in columns))
    return Regularisation(*map(min, found, MOST_WITH_INITIAL)) if has_initial else found


def choose_weight_decay(total_decay: float, steps: int, options: ResolvedOptions) -> float:
    """Choose the decay per step that adds up to `total_decay` over a run of `steps`.

    The mean learning rate is taken as half the initial one. Zero for an optimizer without decay.
    """
    if "weight_decay" not in OPTIMIZERS[options.optimizer].defaults():
        return 0.0
    steps = max(steps, 100)  # in a short run no single step may shrink the weights much
    sum_of_rates = max(options.learning_rate * steps / 2, 1e-9)  # less would overflow the decay
    return float(f"{total_decay / sum_of_rates:.1g}")
