"""The model, or the mixture of models, that a command works with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import UsageError

if TYPE_CHECKING:
    from ..api import LanguageModel
    from ..mixture import Mixture


def load_models(
    paths: Sequence[str], weights: Sequence[float] | None, threads: int | None
) -> LanguageModel | Mixture:
    """Load one model, or several to be mixed with these weights."""
    if len(paths) == 1 and weights is not None:
        raise UsageError("--mix is for several models: give -m for each, or omit --mix.")
    if len(paths) > 1 and weights is None:
        equal = ",".join([f"{1 / len(paths):.6g}"] * len(paths))
        raise UsageError(f"{len(paths)} models need weights: give --mix {equal}, or one -m.")
    from ..api import load

    if len(paths) == 1:
        return load(paths[0], threads)
    from ..mixture import Mixture

    return Mixture([load(path, threads) for path in paths], weights)
