"""Standard streams: messages on stderr; text, tables and JSON on stdout."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TextIO

import click

from ..errors import CharRNNError, escape_unprintable


def echo_err(message: str = "") -> None:
    """Write a line to stderr. A closed terminal must not end the work."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError):
            print(message, file=sys.stderr, flush=True)


class StderrHandler(logging.Handler):
    """Shows the library's log messages, such as that it compiles."""

    def emit(self, record: logging.LogRecord) -> None:
        on_terminal = sys.stderr is not None and sys.stderr.isatty()
        erase = "\r\x1b[K" if on_terminal else ""  # a bar, which draws itself again
        echo_err(f"{erase}note    {record.getMessage()}")


def stdout() -> TextIO:
    """Return stdout; CharRNNError if the process was started without one."""
    if sys.stdout is None:
        raise CharRNNError("cannot write: stdout is closed.")
    return sys.stdout


def read_stdin() -> bytes:
    """Read all of stdin; nothing if the process was started without one."""
    return sys.stdin.buffer.read() if sys.stdin is not None else b""


@contextlib.contextmanager
def page_file(name: str) -> Iterator[TextIO]:
    """Open the page that --html names for writing in UTF-8; `-` is stdout."""
    if name == "-":
        out = stdout()
        if hasattr(out, "reconfigure"):  # the terminal may have another encoding
            out.reconfigure(encoding="utf-8", errors="backslashreplace")
        yield out
    else:
        with open(name, "w", encoding="utf-8") as file:
            yield file


def print_json(values: Mapping[str, object]) -> None:
    """Write one line to stdout. Numbers that JSON lacks become null."""
    click.echo(json.dumps(_finite(values)))


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_table(rows: Sequence[tuple[str, str]]) -> None:
    """Write names and values to stdout in two columns."""
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        click.echo(f"{name:<{width}}  {value}")


def loss_in_words(nats: float, unit: str) -> str:
    """Format a loss in nats and in bits per `unit`, "character" or "byte"."""
    return f"{nats:.4f} nats ({nats / math.log(2):.4f} bits) per {unit}"


def warn_unknown(characters: str) -> None:
    """Name the characters that were skipped in a text, if there are any."""
    if characters:
        names = ", ".join(f"'{escape_unprintable(c)}'" for c in characters[:10])
        more = f" and {len(characters) - 10} more" if len(characters) > 10 else ""
        echo_err(f"Warning: skipped characters that the model does not know: {names}{more}.")
