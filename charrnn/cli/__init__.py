"""The command `charrnn`. Each subcommand has a file in `commands`."""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import logging
import os
import sys
import traceback
from collections.abc import Iterator
from typing import Any, TextIO

import click

from .. import __version__
from ..errors import CharRNNError, UsageError, escape_unprintable
from .commands import completion_command as completion
from .commands import eval_command as eval_
from .commands import export_command as export
from .commands import fill_command as fill
from .commands import info_command as info
from .commands import inspect_command as inspect
from .commands import manual_command as manual
from .commands import novelty_command as novelty
from .commands import plot_command as plot
from .commands import sample_command as sample
from .commands import score_command as score
from .commands import train_command as train
from .commands import write_command as write
from .did_you_mean import with_hint
from .output import StderrHandler

# The error of click 8.2 and newer for a command without arguments. Its message is the help.
HELP_ERRORS = getattr(click.exceptions, "NoArgsIsHelpError", ())

# Variables of Numba that the command heeds: where code is kept, and for which processor it is.
HEEDED = {"NUMBA_CACHE_DIR", "NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES"}

# New objects after which Python looks for garbage. A start makes 125,000 and no garbage.
COLLECTOR_THRESHOLD = 200_000


class _UsageFailure(click.ClickException):
    """Wrong usage that the library found."""

    exit_code = 2


@contextlib.contextmanager
def reported() -> Iterator[None]:
    """Turn every error inside into one sentence on stderr and an exit code.

    1: the work failed; 2: wrong usage; 130: interrupted; 0: the reader of stdout closed it early.
    If CHARRNN_DEBUG is set in the environment, the traceback is shown too.
    """
    try:
        yield
    except (click.exceptions.Exit, click.Abort):
        raise
    except BrokenPipeError:
        _discard(sys.stdout)
        raise click.exceptions.Exit(0) from None
    except KeyboardInterrupt:
        raise click.exceptions.Exit(130) from None
    except click.ClickException as error:
        if isinstance(error, HELP_ERRORS):
            raise
        raise _printable(error, error) from None
    except Exception as error:
        if _comes_from_an_interrupt(error):
            raise click.exceptions.Exit(130) from None
        _flush_or_discard(sys.stdout)
        if os.environ.get("CHARRNN_DEBUG"):
            traceback.print_exc()
        failure = _UsageFailure if isinstance(error, UsageError) else click.ClickException
        raise _printable(failure(_sentence(error)), error) from None
    finally:
        _flush_or_discard(sys.stderr)


def _comes_from_an_interrupt(error: BaseException | None) -> bool:
    """Whether a KeyboardInterrupt caused it. C code may report one as an error of its own."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def _sentence(error: Exception) -> str:
    if isinstance(error, CharRNNError):
        return str(error)
    if isinstance(error, MemoryError):
        detail = f": {error}" if str(error) else ""
        return f"there is not enough memory{detail}."
    package = getattr(error, "name", None) or ""
    if isinstance(error, ModuleNotFoundError) and not package.startswith("charrnn"):
        package = package.partition(".")[0]
        return f"the package {package} is not installed; run `pip install {package}`."
    if isinstance(error, OSError) and error.strerror:
        file = error.filename
        where = "input or output failed" if file is None else os.fsdecode(file)
        return f"{where}: {error.strerror}."
    return f"this is a fault in charrnn: {error!r}. Set CHARRNN_DEBUG=1 to see the traceback."


def _printable(error: click.ClickException, cause: Exception) -> click.ClickException:
    """Escape control characters from arguments, files and models in the message of `error`."""
    message = escape_unprintable(with_hint(error, cause))
    # Click composes the messages of its own errors only here; some show usage, some full help.
    error.format_message = lambda: message  # type: ignore[method-assign]
    return error


def _flush_or_discard(stream: TextIO | None) -> None:
    """Flush now: a failure at the interpreter's exit would print a second error."""
    try:
        if stream is not None:
            stream.flush()
    except (OSError, ValueError):
        _discard(stream)


def _discard(stream: TextIO | None) -> None:
    """Redirect to the null device, so that the flush at the interpreter's exit succeeds."""
    if stream is not None:
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _shield_numba() -> None:
    """Remove Numba's variables but for HEEDED: some print to stdout, between lines of text."""
    for name in list(os.environ):
        if name.startswith("NUMBA_") and name not in HEEDED:
            del os.environ[name]


@functools.cache
def _spare_collector() -> None:
    """Let Python look for garbage neither while it imports nor at the end: a fifth of a start."""
    gc.set_threshold(COLLECTOR_THRESHOLD)
    atexit.register(gc.freeze)


class _Commands(click.Group):
    """The group of all commands, which reports their errors."""

    def main(self, *args: Any, **extra: Any) -> Any:
        _spare_collector()
        return super().main(*args, **extra)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)  # the most used first

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        # `train` prints the arguments with --resume after an interruption.
        with reported():
            return super().make_context(info_name, args, parent, obj=tuple(args), **extra)

    def invoke(self, ctx: click.Context) -> None:
        if hasattr(sys.stdout, "reconfigure"):  # a narrow encoding must not make output fail
            sys.stdout.reconfigure(errors="backslashreplace")
        log = logging.getLogger("charrnn")
        log.handlers = [StderrHandler()]
        log.setLevel(logging.INFO)
        _shield_numba()
        with reported():
            super().invoke(ctx)
            if sys.stdout is not None:
                sys.stdout.flush()


@click.group(
    cls=_Commands,
    epilog="Every option can also be set in the environment: CHARRNN_TRAIN_HIDDEN_SIZE=256 means "
    "`charrnn train --hidden-size 256`. Text goes to stdout, messages go to stderr.",
    context_settings={
        "auto_envvar_prefix": "CHARRNN",
        "help_option_names": ["-h", "--help"],
        "max_content_width": 100,
        "show_default": True,
    },
)
@click.version_option(__version__, message="%(prog)s %(version)s")
def main() -> None:
    """Train character-level recurrent neural networks on text and generate text with them.

    \b
    Example:
      charrnn train corpus.txt
      charrnn sample --length 500
    """


COMMANDS = (
    train, sample, fill, write, eval_, score, inspect, novelty, plot, info, export, completion,
    manual,
)  # fmt: skip
for module in COMMANDS:
    main.add_command(module.command)
