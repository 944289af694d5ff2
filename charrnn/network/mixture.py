"""Several models whose predicted probabilities are mixed."""

from __future__ import annotations

import math
from typing import NamedTuple

from .arrays import Array
from .model import Model


class MixedModel(NamedTuple):
    """A model in a mixture, whose characters are those of all its models.

    The mixture gives a character the sum of `weight` times its probability in each model.

    ids: the model's ids (V,) of the V characters of the mixture; -1: it gives them no probability.
    inputs: the ids (V,) that it reads for them, its unknown symbol's among them; -1: it reads
        nothing, and what it predicts stays.
    """

    model: Model
    weight: float
    ids: Array
    inputs: Array

    @property
    def log_weight(self) -> float:
        return math.log(self.weight)
