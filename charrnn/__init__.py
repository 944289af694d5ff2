"""Character-level RNN text generation: train on any text, on a CPU, and write more of it.

>>> import charrnn
>>> model = charrnn.train(["corpus.txt"], output="model.safetensors", epochs=5)
>>> print(model.sample(200, prime="The "))
>>> charrnn.load("model.safetensors").loss("Once upon a time")  # nats per character
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

from .errors import CharRNNError, UsageError

if TYPE_CHECKING:
    from .api import LanguageModel, load, train

__version__ = "0.1.0"
__all__ = ["CharRNNError", "LanguageModel", "UsageError", "__version__", "load", "train"]


def __dir__() -> list[str]:
    return __all__


class _Package(ModuleType):
    """The package, with the names of api.py fetched when first used: Numba is slow to import.

    They are properties because `train` is the name of a module here, too. Importing that module
    would bind its name in the package and so hide the function; a property cannot be hidden.
    """

    LanguageModel = property(lambda self: import_module("charrnn.api").LanguageModel)
    load = property(lambda self: import_module("charrnn.api").load)
    train = property(
        lambda self: import_module("charrnn.api").train,
        lambda self, module: None,
    )


sys.modules[__name__].__class__ = _Package
