"""A model of the loss that a run will reach, fitted to measured runs.

It predicts differences between runs on the same text: of more or wider models, of more epochs, with
and without weights for n-grams. `tests/bench/planner_fit.py` measures runs and fits the constants.
"""

from __future__ import annotations

from typing import NamedTuple

UPDATES_POWER = 0.7


class Curve(NamedTuple):
    """The loss of runs of one kind, in nats per character, up to a constant of the text.

    An average of M models with H units, each of which reads n million characters E times, has

        offset + width / H + updates / (n E)^0.7 + repeats max(E - 1, 0) - spread (1 - 1 / M).

    The terms are what wider models and further updates would gain, what reading the same text again
    costs, and what averaging gains, as the members err differently.
    """

    offset: float
    width: float
    updates: float
    repeats: float
    spread: float

    def loss(self, num_chars: int, units: int, epochs: float, members: int) -> float:
        """The loss after `epochs` > 0."""
        read = num_chars / 1e6 * epochs
        learned = self.width / units + self.updates * read**-UPDATES_POWER
        spread = self.spread * (1 - 1 / members)
        return float(self.offset + learned + self.repeats * max(epochs - 1, 0) - spread)

    def best_epochs(self, num_chars: int) -> float:
        """The number of epochs from which on more of them raise the loss; 1 at least."""
        slope = self.updates * UPDATES_POWER * (num_chars / 1e6) ** -UPDATES_POWER
        return float(max(1.0, (slope / self.repeats) ** (1 / (1 + UPDATES_POWER))))


WITH_NGRAMS = Curve(offset=0.0, width=5.69, updates=0.127, repeats=0.00672, spread=0.0546)
WITHOUT_NGRAMS = Curve(offset=0.041, width=12.8, updates=0.108, repeats=0.0002, spread=0.0605)
