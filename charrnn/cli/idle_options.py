"""Options of `charrnn sample` that have no effect, or another one than their user means."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from ..errors import escape_unprintable
from ..text.vocabulary import Vocabulary, describe_characters

ESCAPE = re.compile(r"\\[nrt]")  # a newline or tab as typed in plain quotes


def idle_options(
    vocabulary: Vocabulary, allow: str | None, forbid: str, stop: Sequence[str], lines: int | None
) -> Iterator[str]:
    """Yield a sentence for each option without effect, and for each with an escape as text."""
    if missing := vocabulary.unwritable(forbid):
        yield f"--forbid has no effect on {describe_characters(missing)}, unknown to the model."
    for string in stop:
        if missing := _unwritable(string, vocabulary, allow, forbid):
            names = describe_characters(missing)
            shown = escape_unprintable(string)
            yield f"--stop '{shown}' has no effect: {names} cannot be generated."
    if lines and _unwritable("\n", vocabulary, allow, forbid):
        yield "--lines has no effect: no newline can be generated."
    texts = [("--stop", s) for s in stop] + [("--allow", allow or ""), ("--forbid", forbid)]
    for name, text in texts:
        if found := ESCAPE.search(text):
            yield f"{name} takes {found[0]} as a backslash and a letter: type $'{found[0]}'."


def _unwritable(text: str, vocabulary: Vocabulary, allow: str | None, forbid: str) -> str:
    """Return the characters of `text` that cannot be generated, each once."""
    forbidden = set(vocabulary.encode(forbid, "skip").tolist())
    allowed = None if allow is None else set(vocabulary.encode(allow, "skip").tolist())

    def is_writable(character: str) -> bool:
        ids = set(vocabulary.encode(character, "skip").tolist())
        return bool(ids) and not ids & forbidden and (allowed is None or ids <= allowed)

    if missing := vocabulary.unwritable(text):
        return missing
    return "".join(c for c in dict.fromkeys(text) if not is_writable(c))
