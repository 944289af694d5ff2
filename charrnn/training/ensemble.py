"""The models of a run: one, or several that are trained side by side and averaged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from ..config import MAX_UNITS, ModelConfig, ResolvedOptions
from ..network.averaging import average, averaged_config, separate
from ..network.carried_state import CarriedState
from ..network.jit import ThreadTeam
from ..network.kernels.matmul import padded
from ..network.model import Model
from ..network.parameters import Parameters
from ..network.stack import Stack
from ..text.ngrams import NgramTable
from .data_parallel import make_trainer
from .memory import require_memory
from .ranks import ONE_RANK, Ranks
from .trainer import Trainer, Weights

SEED_STEP = 0x9E3779B9  # between the dropout seeds of two members
# Weight-sized arrays alive at once: weights, two packings, gradients, two moments, best weights,
# undropped weights, two copies while saving.
WEIGHT_COPIES = 10
AVERAGED_COPIES = 5  # of an average: weights, packing, best weights, two copies while saving


class Ensemble:
    """`options.ensemble` trainers of the same shape, its members, that read the same chunks.

    They differ in their initial weights and dropout masks, and share nothing while they train, so
    each takes its part of the threads. `model` predicts the geometric mean of their predictions
    (see network.averaging), as of the last `average`: of none, its weights are zero. With one
    member it is that member's model, which `average` packs.

    `ranks` share the batch; an ensemble of several models is of one rank. Other arguments and
    errors as of Trainer. Raises CharRNNError when memory is too small.
    """

    def __init__(
        self,
        config: ModelConfig,
        options: ResolvedOptions,
        rng: np.random.Generator,
        threads: int,
        ngrams: NgramTable = (),
        ranks: Ranks = ONE_RANK,
    ) -> None:
        count = options.ensemble
        _require_memory(config, options)
        self._team = ThreadTeam(min(count, threads))
        arguments = ranks, config, options, rng, max(1, threads // count), ngrams
        self.members = [make_trainer(*arguments) for _ in range(count)]
        self._norms = np.zeros(count)
        self.model, self.workspace = self.members[0].model, self.members[0].workspace
        if count > 1:
            shape, precision = averaged_config(config, count), options.precision
            self.model = Model(shape, threads=threads, precision=precision, ngrams=ngrams)
            if padded(config.hidden_size) == config.hidden_size:
                self.model.set_blocks(count)

    @property
    def needs_dropout_seed(self) -> bool:
        """Whether `compute` draws dropout masks."""
        return self.members[0].needs_dropout_seed

    def compute(
        self, x: npt.NDArray[np.int32], y: npt.NDArray[np.int32], dropout_seed: int = 0
    ) -> tuple[float, float]:
        """Compute gradients; return the members' mean loss and largest gradient norm."""
        losses = np.zeros(len(self.members))

        def compute(i: int, member: Trainer) -> None:
            seed = (dropout_seed + i * SEED_STEP) % 2**32
            losses[i], self._norms[i] = member.compute(x, y, seed)

        self._for_each(compute)
        return float(losses.mean()), float(self._norms.max())

    def update(self, learning_rate: float) -> None:
        """Update the weights of all members, as Trainer.update does."""
        self._for_each(lambda i, member: member.update(learning_rate, float(self._norms[i])))

    def _for_each(self, work: Callable[[int, Trainer], None]) -> None:
        def task(first: int, size: int) -> None:
            for i in range(first, len(self.members), size):
                work(i, self.members[i])

        self._team.run(task)

    def synchronize(self) -> None:
        """Bring the weights of several ranks together, if they differ."""
        for member in self.members:
            member.synchronize()

    def average(self) -> None:
        """Bring `model` up to date with the members, packed weights included."""
        if len(self.members) > 1:
            average(self._parameters(), self.model.parameters)
        self.model.pack()

    def _parameters(self) -> list[Parameters]:
        return [member.model.parameters for member in self.members]

    def are_finite(self) -> bool:
        """Whether no weight and no array of an optimizer holds an infinity or a NaN."""
        return all(np.isfinite(array).all() for array in self._arrays())

    def _arrays(self) -> Iterator[Weights]:
        for member in self.members:
            yield from member.flat_arrays().values()

    def restart(self, weights: Parameters | None, seed: int) -> None:
        """Begin again from `weights` of `model`, or from the initial ones of `seed`.

        Clears the optimizers' arrays and the hidden states.
        """
        if weights is None:
            rng = np.random.default_rng(seed)
            for member in self.members:
                first = Model(member.model.config, rng, ngrams=member.model.ngrams.table)
                member.reset(first.parameters.flat)
        elif len(self.members) == 1:
            self.members[0].reset(weights.flat)
        else:
            separate(weights, self._parameters())
            for member in self.members:
                member.reset(member.model.parameters.flat)

    def learn_new_characters(self) -> None:
        """Let all members learn characters that no earlier model knew."""
        for member in self.members:
            member.learn_new_characters()

    def reset_state(self) -> None:
        """Set the hidden states to zero, as at the start of a text."""
        for member in self.members:
            member.reset_state()

    def get_state(self) -> CarriedState:
        """The state of all members that the next chunk starts from, one after another in H."""
        states = [member.get_carried() for member in self.members]
        return CarriedState(np.concatenate([s.hidden for s in states], -1), states[0].recent)

    def set_state(self, state: CarriedState) -> None:
        """Start the next chunk from `state`, as of `get_state`."""
        for member, hidden in zip(
            self.members, np.split(state.hidden, len(self.members), -1), strict=True
        ):
            member.set_carried(CarriedState(hidden, state.recent))


def _require_memory(config: ModelConfig, options: ResolvedOptions) -> None:
    """Raise CharRNNError, before allocating, when training needs more memory than there is."""
    batch_size, seq_length, count = options.batch_size, options.seq_length, options.ensemble
    padded_config = replace(
        config,
        hidden_size=padded(config.hidden_size),
        vocab_size=padded(config.vocab_size),
        embedding_size=padded(config.embedding_size),
    )
    weights = WEIGHT_COPIES * padded_config.num_parameters()
    num_bytes = count * (4 * weights + Stack.num_bytes(config, batch_size, seq_length))
    if 1 < count <= MAX_UNITS // max(padded_config.hidden_size, padded_config.embedding_size):
        averaged = averaged_config(padded_config, count)
        num_bytes += 4 * AVERAGED_COPIES * averaged.num_parameters()
    models = "" if count == 1 else f"{count} models of "
    smaller = "" if count == 1 else "--ensemble, "
    require_memory(
        num_bytes,
        f"training {models}{config.num_layers} x {config.hidden_size} units on {batch_size} x "
        f"{seq_length} characters",
        f"choose a smaller {smaller}--hidden-size, --num-layers, --embedding-size, --batch-size or "
        "--seq-length",
    )
