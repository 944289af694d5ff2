"""What the commands share: options, messages on stderr, JSON on stdout."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TextIO

import click

from ..config import check_int
from ..errors import CharRNNError, UsageError, escape_unprintable
from ..storage.inputs import require_not_input

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

MODEL = "model.safetensors"


def validator(check: Callable[..., object], **limits: object) -> Callable[..., Any]:
    """A click callback that refuses a value which `check(name, value, **limits)` refuses."""

    def callback(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
        try:
            if value is not None:
                check(param.name, value, **limits)
        except UsageError as error:
            raise click.BadParameter(str(error), ctx, param) from None
        return value

    return callback


class File(click.ParamType):
    """A file's name, which the shell completes; what reads or writes the file checks it."""

    name = "file"
    envvar_list_splitter = os.pathsep

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        return [CompletionItem(incomplete, type="file")]


FILE = File()
model_option = click.option(
    "-m", "--model", default=MODEL, type=FILE, help="The model, written by `charrnn train`."
)
json_option = click.option(
    "--json", "json", is_flag=True, help="Print one line of JSON, for other programs."
)
unknown_option = click.option(
    "--unknown",
    type=click.Choice(["error", "skip"]),
    default="error",
    help="What to do about characters that the model has never seen: stop, or leave them out "
    "with a warning.",
)
threads_option = click.option(
    "--threads",
    type=int,
    callback=validator(check_int, minimum=1),
    show_default="all cores",
    help="Threads to compute with; the results are the same for any number.",
)


def echo_err(message: str = "") -> None:
    """Write a line to stderr. A terminal that has gone away must not take the work with it."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError):
            print(message, file=sys.stderr, flush=True)


class StderrHandler(logging.Handler):
    """Shows what the library has to say, such as that it compiles."""

    def emit(self, record: logging.LogRecord) -> None:
        echo_err(f"note    {record.getMessage()}")


def stdout() -> TextIO:
    if sys.stdout is None:
        raise CharRNNError("there is nowhere to write: stdout is closed.")
    return sys.stdout


@contextlib.contextmanager
def page_file(name: str) -> Iterator[TextIO]:
    """Where to write the page that --html asks for: a file, or stdout for `-`."""
    if name == "-":
        yield stdout()
    else:
        with open(name, "w", encoding="utf-8") as file:
            yield file


def check_page(page: str | None, inputs: Iterable[str]) -> None:
    """Refuse a page that would replace what it is made from."""
    if page:
        require_not_input([page], inputs, what="the page", option="--html")


def print_json(values: dict[str, object]) -> None:
    """One line on stdout; numbers that JSON does not have become null."""
    click.echo(json.dumps(_finite(values)))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_table(rows: list[tuple[str, str]]) -> None:
    """Name and value in two columns, on stdout."""
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        click.echo(f"{name:<{width}}  {value}")


def loss_in_words(nats: float) -> str:
    """A loss for people: in nats and in bits."""
    return f"{nats:.4f} nats ({nats / math.log(2):.4f} bits) per character"


def warn_unknown(characters: str) -> None:
    """Name the characters that were left out of a text, if there are any."""
    if characters:
        names = ", ".join(f"'{escape_unprintable(c)}'" for c in characters[:10])
        more = f" and {len(characters) - 10} more" if len(characters) > 10 else ""
        echo_err(f"Warning: left out what the model has never seen: {names}{more}.")
