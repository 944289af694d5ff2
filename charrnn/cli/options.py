"""Options: help under headings, environment variables, validation, options of several commands."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import click
from click.core import ParameterSource

from ..config import DECODING_ERRORS, UNKNOWN_NATS, check_int
from ..errors import UsageError, escape_unprintable

MODEL = "model.safetensors"
NAMES_WIDTH = 30  # columns of help for the names of options, as in click

Function = TypeVar("Function", bound=Callable[..., Any])


class Command(click.Command):
    """A command whose help lists its options under headings."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        groups = help_by_heading(self, ctx)
        names = (len(name) for rows in groups.values() for name, _ in rows)
        width = max(n for n in names if n <= NAMES_WIDTH)  # one column for all groups
        for heading, rows in groups.items():
            with formatter.section(heading):
                formatter.write_dl([(name.ljust(width), text) for name, text in rows])


class Option(click.Option):
    """An option with a heading in its help, and a default that may be described in words."""

    def __init__(self, names: Sequence[str], heading: str | None = None, **attributes: Any) -> None:
        default = attributes.get("show_default")
        if isinstance(default, str):  # click would put it in parentheses
            attributes |= {
                "help": f"{attributes['help']}  [default: {default}]",
                "show_default": False,
            }
        super().__init__(names, **attributes)
        self.heading = heading

    def resolve_envvar_value(self, ctx: click.Context) -> str | None:
        """Read CHARRNN_COMMAND_OPTION: its name follows the option, not the parameter."""
        name = next(name for name in self.opts if name.startswith("--"))
        name = name.removeprefix("--").replace("-", "_").upper()
        return os.environ.get(f"{ctx.auto_envvar_prefix}_{name}") or None


def help_by_heading(command: click.Command, ctx: click.Context) -> dict[str, list[tuple[str, str]]]:
    """Names and help of the options by heading; those without one follow the option before."""
    groups: dict[str, list[tuple[str, str]]] = {}
    heading = "Options"
    for param in command.get_params(ctx):
        if isinstance(param, click.Option) and (record := param.get_help_record(ctx)):
            heading = getattr(param, "heading", None) or heading
            groups.setdefault(heading, []).append(record)
    return groups


class OptionDecorator(Protocol):
    """Adds an option to a command's function."""

    def __call__(self, function: Function, heading: str | None = None) -> Function: ...


def option(*names: str, **attributes: Any) -> OptionDecorator:
    """Return the decorator for an option; the arguments are those of `click.option`."""

    def add(function: Function, heading: str | None = None) -> Function:
        return click.option(*names, cls=Option, heading=heading, **attributes)(function)

    return add


def option_group(heading: str, *options: OptionDecorator) -> Callable[[Function], Function]:
    """Return a decorator that adds options which the help lists under `heading`."""

    def add(function: Function) -> Function:
        for add_option in reversed(options):
            function = add_option(function, heading)
        return function

    return add


def validator(check: Callable[..., object], **limits: object) -> Callable[..., Any]:
    """Return a click callback that rejects values for which `check(name, value, **limits)` fails.

    `check` raises UsageError; click adds the name of the option to its message.
    """

    def callback(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
        try:
            if value is not None:
                check(param.name, value, **limits)
        except UsageError as error:
            raise click.BadParameter(str(error), ctx, param) from None
        return value

    return callback


def is_explicit(ctx: click.Context, name: str) -> bool:
    """Whether a parameter was set on the command line or in the environment."""
    return ctx.get_parameter_source(name) is not ParameterSource.DEFAULT


class _Text(click.types.StringParamType):
    """Text in UTF-8, also where the locale has another encoding, in which bytes are escaped."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = super().convert(value, param, ctx)
        if any("\udc80" <= c <= "\udcff" for c in text):
            with contextlib.suppress(UnicodeEncodeError):  # half a surrogate pair
                return os.fsencode(text).decode("utf-8", "surrogateescape")
        return text


TEXT = _Text()


def _read_weights(
    ctx: click.Context, param: click.Parameter, value: str | None
) -> tuple[float, ...] | None:
    try:
        return None if value is None else tuple(map(float, value.split(",")))
    except ValueError:
        message = f"'{escape_unprintable(value or '')}' is not a list of numbers such as 0.7,0.3."
        raise click.BadParameter(message, ctx, param) from None


# A file name, which the shell completes. The code that opens the file checks it.
FILE = click.Path(readable=False)
FILE.name = "file"  # its metavar is FILE, not PATH

model_option = option(
    "-m", "--model", default=MODEL, type=FILE, help="Model file, written by `charrnn train`."
)


def models_option(repeated: str) -> OptionDecorator:
    """Return the option -m of several model files; `repeated` says in its help what more do."""
    return option(
        "-m",
        "--model",
        "models",
        multiple=True,
        type=FILE,
        default=[MODEL],
        show_default=MODEL,
        help=f"Model file, written by `charrnn train`. {repeated}",
    )


mixed_models_option = models_option("May be repeated with --mix.")
mix_option = option(
    "--mix",
    metavar="W,W...",
    callback=_read_weights,
    help="Weights of several models, which add up to 1. Each character has the weighted mean of "
    "its probabilities.",
)
encoding_option = option("--encoding", default="utf-8", help="Encoding of the text files.")
corpus_encoding_option = option(
    "--corpus-encoding",
    show_default="that of the text",
    help="Encoding of the corpus.",
)


unknown_option = option(
    "--unknown",
    type=click.Choice(["error", "skip"]),
    default="error",
    help="How to treat characters that the model does not know: fail, or skip them with a warning.",
)
charged_unknown_option = option(
    "--unknown",
    type=click.Choice(["error", "skip", "count"]),
    default="error",
    help="How to treat characters that a model does not know: fail, or skip them at a cost of "
    f"{UNKNOWN_NATS:g} nats each (skip) or of -log(1/(n + 1)) each, after n characters of training "
    "(count). A model of `charrnn train --min-count` knows all characters.",
)
errors_option = option(
    "--errors",
    type=click.Choice(DECODING_ERRORS),
    default=DECODING_ERRORS[0],
    help="At bytes that are not in the encoding: fail, or replace them by U+FFFD with a warning.",
)
threads_option = option(
    "--threads",
    type=int,
    callback=validator(check_int, minimum=1),
    show_default="all cores",
    help="Number of threads. The results do not depend on it.",
)


def json_option(help: str = "Print one JSON object.") -> OptionDecorator:
    return option("--json", "as_json", is_flag=True, help=help)
