"""Starting a run from an earlier model: its weights, for the characters of a new text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..config import UNKNOWN_NATS, ModelConfig, TensorRole, TensorSpec, TrainOptions, tensor_shapes
from ..errors import CharRNNError, UsageError, display_path
from ..storage.checkpoint import (
    Array,
    Arrays,
    StoredStart,
    corrupt_file,
    load_model,
)
from ..text.ngrams import NgramTable
from ..text.records import separator_of
from ..text.vocabulary import CharVocabulary, Vocabulary

if TYPE_CHECKING:
    from ..network.parameters import Parameters


class InitialWeights(NamedTuple):
    """Weights for a model of the new vocabulary, in PyTorch's names and shapes.

    The model predicts what the earlier one does. The logit of a new character is UNKNOWN_NATS below
    the largest logit in any state, so that it does not change the sum of a softmax. As an input, a
    new character has the mean weights of the known characters.
    """

    name: str  # of the earlier model's file
    num_new: int  # characters that it lacks
    tensors: Arrays
    ngrams: NgramTable
    start: StoredStart | None  # where texts started


class InitialModel:
    """The model that a run starts from.

    name: its file, printable. settings: the fields of TrainOptions that it decides.
    """

    def __init__(self, requested: TrainOptions, given: Mapping[str, Any], as_bytes: bool) -> None:
        """Read the file `requested.init_from`.

        Raises CharRNNError unless it is a complete and valid model, UsageError if it is of another
        kind than the new one, or contradicts one of the settings `given`.
        """
        assert requested.init_from is not None
        self.name = display_path(requested.init_from)
        self._file = load_model(requested.init_from, tensor_shapes)
        self._prunes = requested.prune_vocabulary
        self.settings = self._settings()
        self._check_kind(as_bytes, requested.separator)
        for name, value in self.settings.items():
            if given.get(name) not in (None, value):
                words = name.replace("_", " ")
                raise UsageError(
                    f"{self.name} has {words} {value}, not {given[name]}: leave "
                    f"--{name.replace('_', '-')} out, or --init-from."
                )

    def _settings(self) -> dict[str, Any]:
        config, members = self._file.config, self._num_members()
        names = "cell", "hidden_size", "num_layers", "embedding_size", "ngrams", "backward"
        settings = {name: config[name] for name in names} | {"ensemble": members}
        for name in "hidden_size", "embedding_size":
            settings[name] //= members
        return settings

    def _num_members(self) -> int:
        """The number of models that the model is the average of, as its training says."""
        options, config = self._file.training.get("options"), self._file.config
        members = options.get("ensemble", 1) if isinstance(options, dict) else 1
        sizes = config["hidden_size"], config["embedding_size"]
        if type(members) is not int or members < 1 or any(size % members for size in sizes):
            raise not_an_average(self.name)
        return members

    def _check_kind(self, as_bytes: bool, separator: str | None) -> None:
        vocabulary, end_id = self._file.vocabulary, self._file.config["record_end_id"]
        if vocabulary.is_bytes != as_bytes:
            advice = "give --bytes" if vocabulary.is_bytes else "omit --bytes"
            raise UsageError(f"{self.name} is a model of {vocabulary.unit}s: {advice}.")
        own = separator_of(vocabulary, end_id) if end_id >= 0 else None
        if own is None and separator is not None:
            raise UsageError(
                f"{self.name} is not a model of records: omit --records and --separator."
            )
        if own != separator:
            raise UsageError(
                f"{self.name} is a model of records that end with {own!r}: give "
                f"{'--records' if own == chr(10) else '--separator'}."
            )

    def vocabulary(self, own: CharVocabulary) -> CharVocabulary:
        """The vocabulary of the new model for a text whose own vocabulary is `own`.

        It is the earlier model's, followed by the new characters, so that old ids stay.
        Raises CharRNNError if they have no character in common.
        """
        old = self._file.vocabulary.characters or ""
        known = set(old)
        if not known & set(own.characters):
            raise CharRNNError(
                f"{self.name} knows no character of the text: train without --init-from."
            )
        if self._prunes:
            return own
        new = "".join(c for c in own.characters if c not in known)
        return CharVocabulary(old + new, self._file.vocabulary.separator or own.separator)

    def weights(self, vocabulary: Vocabulary) -> InitialWeights:
        """The weights for a model of `vocabulary`."""
        own = self._file.vocabulary
        new_ids = vocabulary.exact_ids_of(own).astype(np.int32)  # by old id; -1: dropped
        table, kept = _renumbered(self._file.ngrams, new_ids)
        old_ids = own.exact_ids_of(vocabulary)  # by new id; -1: new
        columns = np.concatenate([old_ids, len(new_ids) + kept])
        tensors, specs = self._file.tensors, ModelConfig(**self._file.config).tensor_specs()
        lowest = _lowest_maximum(tensors["output.weight"], tensors["output.bias"])
        new_bias = max(lowest - UNKNOWN_NATS, float(np.finfo(np.float32).min))
        tensors = {
            spec.name: _adapted(tensors[spec.name], spec, old_ids, columns, new_bias)
            for spec in specs
        }
        num_new = int(np.count_nonzero(old_ids < 0))
        start = _renumbered_start(self._file.start, new_ids)
        return InitialWeights(self.name, num_new, tensors, table, start)


def not_an_average(name: str) -> CharRNNError:
    """The error for a model file whose weights are not those that its training says."""
    return CharRNNError(f"{name}: {corrupt_file('not the average of as many models as it says')}")


def _adapted(
    tensor: Array, spec: TensorSpec, old_ids: Array, columns: Array, new_bias: float
) -> Array:
    """The tensor for the characters with these old ids, -1 for new ones.

    `columns` are the places of the same characters, and of n-grams, in the lookup table; `new_bias`
    is the output bias of new characters.
    """
    if spec.is_lookup_table:
        axis = 0 if spec.role is TensorRole.EMBEDDING else 1
        known = tensor.take(np.arange(tensor.shape[axis] - spec.ngrams), axis)
        new = np.expand_dims(_mean(np.moveaxis(known, axis, 0)), axis)
        return np.concatenate([tensor, new], axis).take(columns, axis)
    if spec.role in (TensorRole.OUTPUT_WEIGHT, TensorRole.OUTPUT_BIAS):
        new = np.full_like(tensor[:1], 0 if tensor.ndim > 1 else new_bias)
        return np.concatenate([tensor, new]).take(old_ids, 0)
    return tensor


def make_learnable(parameters: Parameters) -> None:
    """Set the output weights and biases of new characters to the means of the known characters.

    From their logit of InitialWeights they would be learned late: after twelve epochs over 500
    names with five new characters the loss would be 2.97, not 2.29 (tests/bench/LOG.md).
    """
    weight, bias = parameters.view("output.weight")[0], parameters.view("output.bias")[0]
    constant = ~weight.any(1)
    if constant.any() and not constant.all():
        lowest = _lowest_maximum(weight[~constant], bias[~constant])
        new = constant & (bias < lowest - UNKNOWN_NATS / 2)  # half: rounding may have raised them
        weight[new], bias[new] = _mean(weight[~new]), _mean(bias[~new, None])


def _lowest_maximum(weight: Array, bias: Array) -> float:
    """A number that the largest logit exceeds in every state, since the units are within -1 to 1.

    weight (V, H), bias (V,): those of the output layer.
    """
    norms = np.abs(weight).sum(1, dtype=np.float64)
    return float((bias - norms).max())


def _mean(rows: Array) -> Array:
    """The mean of rows (N, M), added in order, so that it does not depend on the processor."""
    total: Array = np.ascontiguousarray(rows, np.float64).sum(0)
    mean: Array = (total / len(rows)).astype(np.float32)
    return mean


def _renumbered_start(start: StoredStart | None, new_ids: Array) -> StoredStart | None:
    if start is None or new_ids[start.id] < 0:
        return None
    return StoredStart(int(new_ids[start.id]), start.states, np.append(new_ids, -1)[start.recent])


def _renumbered(table: NgramTable, new_ids: Array) -> tuple[NgramTable, Array]:
    """The n-grams of `table` whose ids all have new ones, and their places in the old table."""
    levels: list[Array] = []
    places: list[Array] = [np.empty(0, np.int64)]
    first = 0
    for ngrams in table:
        renumbered = new_ids[ngrams]
        kept = np.flatnonzero((renumbered >= 0).all(1))
        kept = kept[np.lexsort(renumbered[kept].T[::-1])]
        levels.append(renumbered[kept])
        places.append(first + kept)
        first += len(ngrams)
    return tuple(levels), np.concatenate(places)
