"""`charrnn write`: edit a text with suggestions from a model."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from math import inf
from typing import TYPE_CHECKING, TextIO

import click

from ...config import check_float, check_int
from ...errors import CharRNNError, UsageError, error_reason
from ...storage.inputs import require_not_input
from ..options import FILE, TEXT, Command, model_option, option, validator
from ..output import echo_err, read_stdin

if TYPE_CHECKING:
    from ...generation.suggester import Suggester
    from ..editor.document import EditedFile
    from ..editor.screen import Editor

SIGNAL_MESSAGES: dict[int, str] = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
if hasattr(signal, "SIGHUP"):
    SIGNAL_MESSAGES[signal.SIGHUP] = "hung up"


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
    type=TEXT,
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
    quitting; `-` reads stdin first. If the session ends in another way, the text is saved as
    FILE.unsaved (charrnn-write.unsaved without FILE), and never replaces an existing file.

    With a model of records, a suggestion is the rest of one record and the separator after it: End
    accepts both, so that the next record begins.

    \b
    Keys:
      Tab, Right, End    accept a word, a character, the line of the suggestion
      Ctrl-N             show another suggestion
      Ctrl-_             undo
      Ctrl-S             save
      Ctrl-Z             suspend; `fg` resumes
      Ctrl-Q, Ctrl-C     quit

    \b
    Example:
      charrnn write poem.txt
      charrnn write --prime "SCENE 1." > scene.txt
    """
    from ..editor.document import EditedFile, decode_text

    from_stdin = file == "-"
    terminal = _terminal(from_stdin)
    editor_class = _import_editor()
    if file:
        require_not_input([file], [model], what="the text", kind="the model", option="FILE")
    edited = EditedFile(None if from_stdin else file)
    text = decode_text(read_stdin()) if from_stdin else edited.read()
    if text and prime:
        raise UsageError("there is already a text: --prime is for a new one.")
    text = text or prime
    suggester = _load_suggester(model, text, length, temperature, seed)
    keyboard = terminal if from_stdin else sys.stdin
    editor = editor_class(suggester, edited, text, keyboard, terminal)
    if signal_number := _run(editor, edited):
        _release_terminal()
        ctx.exit(128 + signal_number)
    if edited.path is None:
        _print(editor.text, edited)
    edited.discard_autosave()


def _terminal(from_stdin: bool) -> TextIO:
    """Return the terminal to draw on. Raises UsageError without one, or without a keyboard."""
    terminals = [f for f in (sys.stdout, sys.stderr) if f is not None and f.isatty()]
    if not terminals or not (from_stdin or (sys.stdin is not None and sys.stdin.isatty())):
        raise UsageError(
            "write needs a terminal: stdin, and stdout or stderr, must be one; "
            "use `charrnn sample` in a pipe."
        )
    if (term := os.environ.get("TERM", "").lower()) in ("dumb", "unknown"):
        raise UsageError(f"write cannot draw on this terminal (TERM={term}).")
    return terminals[0]


def _import_editor() -> type[Editor]:
    try:
        from ..editor.screen import Editor
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("prompt_toolkit"):
            raise
        raise CharRNNError(
            "write needs prompt_toolkit, which is not installed: pip install 'charrnn[write]'."
        ) from None
    return Editor


def _load_suggester(
    path: str, text: str, length: int, temperature: float, seed: int | None
) -> Suggester:
    from ...api import load

    model = load(path, threads=1)
    model.require_forward("write")
    from ...generation.suggester import Suggester

    warm_up = Suggester(model.model, model.vocabulary, length=1)
    while warm_up.step():  # compile now: while the editor runs, messages would spoil the screen
        pass
    return Suggester(
        model.model, model.vocabulary, text, length=length, temperature=temperature, seed=seed
    )


def _run(editor: Editor, edited: EditedFile) -> int:
    """Let the user edit. Return 0, or the number of the signal that ended the session."""
    try:
        signal_number = editor.run()
    except BaseException:
        _report_end("an error ended the session", edited, editor.text)
        raise
    if signal_number:
        _report_end(SIGNAL_MESSAGES[signal_number], edited, editor.text)
    return signal_number


def _report_end(reason: str, edited: EditedFile, text: str) -> None:
    """Say on stderr why the session ended and where the text is; print it if autosave failed."""
    echo_err("; ".join(filter(None, [reason, edited.describe_autosave()])))
    if edited.autosave_error:
        echo_err("the text follows:")
        with contextlib.suppress(OSError):
            _write(text)


def _release_terminal() -> None:
    """Discard output that a closed terminal refuses, or the interpreter's exit would fail on it."""
    for file in filter(None, (sys.stdout, sys.stderr)):
        try:
            file.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), file.fileno())


def _print(text: str, edited: EditedFile) -> None:
    """Print the text; if that fails, autosave it. Raises CharRNNError then."""
    if not text:
        return
    try:
        _write(text)
    except OSError as error:
        edited.autosave_now(text)
        reason = f"cannot write to stdout: {error_reason(error)}"
        raise CharRNNError(f"{reason}; {edited.describe_autosave().rstrip('.')}.") from None


def _write(text: str) -> None:
    from ..editor.document import encode_text

    if sys.stdout is None:
        raise OSError(0, "it is closed")
    sys.stdout.buffer.write(encode_text(text))
    if sys.stdout.isatty() and not text.endswith("\n"):
        sys.stdout.buffer.write(b"\n")
    sys.stdout.flush()
