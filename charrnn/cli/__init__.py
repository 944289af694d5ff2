"""The command `charrnn`: everything that knows a terminal. One file a command."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import traceback
from collections.abc import Iterator
from typing import TextIO

import click

from .. import __version__
from ..errors import CharRNNError, UsageError, escape_unprintable
from .commands import completion_command as completion
from .commands import eval_command as eval_
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
from .options import StderrHandler


@contextlib.contextmanager
def reported() -> Iterator[None]:
    """Turn whatever goes wrong inside into one sentence on stderr and an exit code.

    1: the work failed; 2: wrong usage; 130: interrupted; 0 when a reader of stdout left early.
    CHARRNN_DEBUG in the environment shows the traceback as well.
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
        raise _printable(error, error) from None
    except Exception as error:
        if _comes_from_an_interrupt(error):
            raise click.exceptions.Exit(130) from None
        _flush_or_discard(sys.stdout)
        if os.environ.get("CHARRNN_DEBUG"):
            traceback.print_exc()
        failure = click.ClickException(_sentence(error))
        failure.exit_code = 2 if isinstance(error, UsageError) else 1
        raise _printable(failure, error) from None
    finally:
        _flush_or_discard(sys.stderr)


def _comes_from_an_interrupt(error: BaseException | None) -> bool:
    """Whether a KeyboardInterrupt led to it: C code may report one as an error of its own."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def _sentence(error: Exception) -> str:
    if isinstance(error, CharRNNError):
        return str(error)
    if isinstance(error, MemoryError):
        return (
            f"there is not enough memory: {error}." if str(error) else "there is not enough memory."
        )
    if isinstance(error, OSError) and error.strerror:
        where = (
            os.fsdecode(error.filename) if error.filename is not None else "input or output failed"
        )
        return f"{where}: {error.strerror}."
    return f"this is a fault in charrnn: {error!r}. CHARRNN_DEBUG=1 shows where it happened."


def _printable(error: click.ClickException, cause: Exception) -> click.ClickException:
    """`error` with a message that holds no escape sequences from arguments, files or models."""
    message = escape_unprintable(with_hint(error, cause))
    error.format_message = lambda: message
    return error


def _flush_or_discard(stream: TextIO | None) -> None:
    """What could not be written must not fail once more when the interpreter ends."""
    try:
        if stream is not None:
            stream.flush()
    except (OSError, ValueError):
        _discard(stream)


def _discard(stream: TextIO) -> None:
    """Let the interpreter flush it at its exit without another error."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class _Commands(click.Group):
    """The commands, with `reported` around all that they do."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)  # as they are most often wanted

    def make_context(self, info_name, args, parent=None, **extra) -> click.Context:
        # The arguments are kept for `train`, which says how to go on after an interruption.
        with reported():
            return super().make_context(info_name, args, parent, obj=tuple(args), **extra)

    def invoke(self, ctx: click.Context) -> None:
        if hasattr(sys.stdout, "reconfigure"):  # no text may fail for the want of a character
            sys.stdout.reconfigure(errors="backslashreplace")
        log = logging.getLogger("charrnn")
        log.handlers, log.level = [StderrHandler()], logging.INFO
        with reported():
            super().invoke(ctx)
            if sys.stdout is not None:
                sys.stdout.flush()


@click.group(
    cls=_Commands,
    epilog="Every option can be set in the environment too: CHARRNN_TRAIN_HIDDEN_SIZE=256 stands "
    "for `charrnn train --hidden-size 256`. Text goes to stdout, everything else to stderr.",
    context_settings={
        "auto_envvar_prefix": "CHARRNN",
        "help_option_names": ["-h", "--help"],
        "max_content_width": 100,
        "show_default": True,
    },
)
@click.version_option(__version__, message="%(prog)s %(version)s")
def main() -> None:
    """Train a character-level recurrent neural network on a text, and write new text with it.

    \b
    Example:
      charrnn train corpus.txt
      charrnn sample --length 500
    """


COMMANDS = (
    train, sample, write, eval_, score, inspect, novelty, plot, info, completion, manual,
)  # fmt: skip
for module in COMMANDS:
    main.add_command(module.command)
