"""Train character-level RNN, LSTM and GRU language models on a CPU and generate text.

>>> import charrnn
>>> model = charrnn.train(["corpus.txt"], output="model.safetensors", epochs=5)
>>> print(model.sample(200, prime="The "))
>>> charrnn.load("model.safetensors").loss("Once upon a time")  # nats per character
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from .errors import CharRNNError, UsageError

if TYPE_CHECKING:
    from .api import LanguageModel, from_torch, load, train
    from .mixture import Mixture

__version__ = "0.1.0"
__all__ = [
    "CharRNNError",
    "LanguageModel",
    "Mixture",
    "UsageError",
    "__version__",
    "from_torch",
    "load",
    "train",
]


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> object:
    """Import api.py or mixture.py when one of its names is first used: its imports are slow."""
    if name in ("LanguageModel", "from_torch", "load", "train"):
        return getattr(import_module("charrnn.api"), name)
    if name == "Mixture":
        return import_module("charrnn.mixture").Mixture
    raise AttributeError(f"module 'charrnn' has no attribute {name!r}")
