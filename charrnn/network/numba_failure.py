"""Why Numba cannot be imported, in one sentence."""

from __future__ import annotations

import os
from importlib import metadata

import numpy as np

from ..errors import CharRNNError, UsageError


def numba_failure(error: Exception) -> CharRNNError:
    """Return the error to raise when importing Numba, or its parts that charrnn uses, failed."""
    reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
    if isinstance(error, ModuleNotFoundError) and error.name in ("numba", "llvmlite"):
        return CharRNNError(f"{error.name} is not installed; run {_remedy()}.")
    if isinstance(error, (ValueError, RuntimeWarning)) and (settings := _settings(reason)):
        return UsageError(f"Numba refuses {settings} ({reason}); unset it.")
    return CharRNNError(
        f"Numba {_version('numba')} with llvmlite {_version('llvmlite')} does not work with NumPy "
        f"{np.__version__} ({reason}); run {_remedy()}."
    )


def _settings(reason: str) -> str:
    """The variables that the reason names, or else all of Numba, with their values."""
    names = sorted(name for name in os.environ if name.startswith("NUMBA_"))
    named = [name for name in names if f"'{name}'" in reason] or names
    return " or ".join(f"{name}={os.environ[name]}" for name in named)


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "(not installed)"


def _remedy() -> str:
    """The command that installs versions that fit together, as this package requires them."""
    try:
        requirements = metadata.requires("charrnn") or []
    except metadata.PackageNotFoundError:
        requirements = []
    numba = next((r for r in requirements if r.startswith("numba")), "numba").replace(" ", "")
    return f"`pip install --upgrade '{numba}' numpy`"
