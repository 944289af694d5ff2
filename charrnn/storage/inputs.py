"""A check that no output replaces an input."""

from __future__ import annotations

import os
from collections.abc import Iterable

from ..errors import FilePath, UsageError, display_path


def require_not_input(
    outputs: Iterable[FilePath],
    inputs: Iterable[FilePath],
    *,
    what: str,
    option: str,
    kind: str = "",
) -> None:
    """Raise UsageError if one of the files `outputs` is one of the files `inputs`.

    "-" is a stream, never a file. The error reads "`what` would replace `kind` NAME; give another
    name to `option`."
    """
    existing = [path for path in outputs if path != "-" and os.path.exists(path)]
    for path in inputs:
        if path == "-" or not os.path.exists(path):
            continue
        if any(os.path.samefile(output, path) for output in existing):
            name = f"{kind} {display_path(path)}".lstrip()
            raise UsageError(f"{what} would replace {name}; give another name to {option}.")
