"""`charrnn write`: write a text with suggestions of a model."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from math import inf
from typing import TYPE_CHECKING, Any, TextIO

import click

from ...config import check_float, check_int
from ...errors import CharRNNError, UsageError, display_path, error_reason
from ...storage.inputs import require_not_input
from ..editor.document import Draft, encoded
from ..options import FILE, Command, model_option, option, validator
from ..output import echo_err, read_stdin

if TYPE_CHECKING:
    from ...generation.suggester import Suggester
    from ..editor.screen import Editor

SIGNAL_NAMES: dict[int, str] = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
if hasattr(signal, "SIGHUP"):
    SIGNAL_NAMES[signal.SIGHUP] = "hung up"


@click.command("write", cls=Command)
@click.argument("file", required=False, type=FILE)
@model_option
@option(
    "--length",
    type=int,
    default=80,
    callback=validator(check_int, minimum=1, maximum=10_000),
    help="Number of characters to suggest.",
)
@option(
    "--temperature",
    type=float,
    default=0.7,
    callback=validator(check_float, minimum=0, maximum=inf),
    help="Sampling temperature: lower is safer, higher is bolder; 0 always suggests the most "
    "likely character.",
)
@option(
    "--prime",
    "--prompt",
    metavar="TEXT",
    default="",
    show_default=False,
    help="Begin a new text with this.",
)
@option(
    "--seed",
    type=int,
    callback=validator(check_int, minimum=0),
    show_default="random",
    help="Seed of the random numbers. The same seed and keys give the same suggestions.",
)
@click.pass_context
def command(
    ctx: click.Context,
    /,
    file: str | None,
    model: str,
    length: int,
    temperature: float,
    prime: str,
    seed: int | None,
) -> None:
    """Write a text with suggestions of a model.

    Continue the text in FILE, and save it there on request. Without FILE, print the text on
    leaving; `-` reads stdin first. If the session ends in another way, the text is saved as
    FILE.unsaved (charrnn-write.unsaved without FILE), and never replaces an existing file.

    \b
    Keys:
      Tab, Right, End    accept a word, a character, the line of the suggestion
      Ctrl-N             show another suggestion
      Ctrl-_             undo
      Ctrl-S             save
      Ctrl-Z             suspend; `fg` resumes
      Ctrl-Q, Ctrl-C     leave

    \b
    Example:
      charrnn write poem.txt
      charrnn write --prime "SCENE 1." > scene.txt
    """
    piped = file == "-"
    terminal = _terminal(piped)
    editor_class = _editor_class()
    if file:
        require_not_input([file], [model], what="the text", kind="the model", option="FILE")
    draft = Draft(None if piped else file)
    text = _initial_text(draft, piped, prime)
    suggester = _suggester(model, text, length, temperature=temperature, seed=seed)
    editor = editor_class(suggester, draft, text, terminal if piped else sys.stdin, terminal)
    with _rescued(draft, editor):
        end = editor.run()
    if end:
        _report_end(draft, SIGNAL_NAMES[end], editor.text)
        _release_terminal()
        ctx.exit(128 + end)
    if draft.path is None:
        _print(editor.text, draft)
    draft.forget()


def _terminal(piped: bool) -> TextIO:
    """Return the terminal to draw on. UsageError if there is none to draw on, or to type on."""
    terminals = [f for f in (sys.stdout, sys.stderr) if f is not None and f.isatty()]
    if not terminals or not (piped or (sys.stdin is not None and sys.stdin.isatty())):
        raise UsageError(
            "write needs a terminal: stdin, and stdout or stderr, must be one; "
            "use `charrnn sample` in a pipe."
        )
    if (term := os.environ.get("TERM", "").lower()) in ("dumb", "unknown"):
        raise UsageError(f"write cannot draw on this terminal (TERM={term}).")
    return terminals[0]


def _editor_class() -> type[Editor]:
    try:
        from ..editor.screen import Editor
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("prompt_toolkit"):
            raise
        raise CharRNNError(
            "`charrnn write` requires prompt_toolkit: pip install 'charrnn[write]'."
        ) from None
    return Editor


def _initial_text(draft: Draft, piped: bool, prime: str) -> str:
    text = read_stdin().decode("utf-8", "surrogateescape") if piped else draft.read()
    if text and prime:
        raise UsageError("there is a text already: --prime begins a new one.")
    return text or prime


def _suggester(path: str, text: str, length: int, **options: Any) -> Suggester:
    """Load the model, compile what it needs, and begin suggestions after the text."""
    from ...api import load
    from ...generation.suggester import Suggester

    model = load(path, threads=1)
    warm_up = Suggester(model.model, model.vocabulary, length=1, **options)
    while warm_up.work():  # compiling prints a note, which must precede the editor's screen
        pass
    return Suggester(model.model, model.vocabulary, text, length=length, **options)


@contextlib.contextmanager
def _rescued(draft: Draft, editor: Editor) -> Iterator[None]:
    """Report where the text is if the editor fails."""
    try:
        yield
    except BaseException:
        _report_end(draft, "this went wrong", editor.text)
        raise


def _report_end(draft: Draft, end: str, text: str) -> None:
    """Say how the session ended and where the text is. If it could not be saved, print it."""
    if draft.failure:
        echo_err(f"{end}; {draft.failure} This is the text:")
        with contextlib.suppress(OSError):
            _write(text)
    elif draft.kept:
        echo_err(f"{end}; the text is kept in {display_path(draft.kept)}")
    else:
        echo_err(end)


def _release_terminal() -> None:
    """If the terminal is gone, redirect the streams, so that the flush at the exit succeeds."""
    for file in filter(None, (sys.stdout, sys.stderr)):
        try:
            file.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), file.fileno())


def _print(text: str, draft: Draft) -> None:
    """Write the text to stdout; if that fails, save it to a file."""
    if not text:
        return
    try:
        _write(text)
    except OSError as error:
        draft.keep_now(text)
        where = draft.failure or f"the text is kept in {display_path(draft.kept or '')}."
        raise CharRNNError(f"cannot write to stdout: {error_reason(error)}; {where}") from None


def _write(text: str) -> None:
    if sys.stdout is None:
        raise OSError(0, "it is closed")
    sys.stdout.buffer.write(encoded(text))
    if sys.stdout.isatty() and not text.endswith("\n"):
        sys.stdout.buffer.write(b"\n")
    sys.stdout.flush()
