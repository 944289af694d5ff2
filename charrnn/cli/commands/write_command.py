"""`charrnn write`: write a text together with a model."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from math import inf
from typing import TextIO

import click

from ...config import check_float, check_int
from ...errors import CharRNNError, UsageError, display_path, error_reason
from ...storage.inputs import require_not_input
from ..editor.document import Draft, encoded
from ..options import echo_err, model_option, validator

ENDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
if hasattr(signal, "SIGHUP"):
    ENDS[signal.SIGHUP] = "hung up"


@click.command("write")
@click.argument("file", required=False)
@model_option
@click.option(
    "--length",
    type=int,
    default=80,
    callback=validator(check_int, minimum=1, maximum=10_000),
    help="Characters to suggest.",
)
@click.option(
    "--temperature",
    type=float,
    default=0.7,
    callback=validator(check_float, minimum=0, maximum=inf),
    help="Below 1 safer, above 1 bolder suggestions; 0: always the most likely.",
)
@click.option(
    "--prime",
    metavar="TEXT",
    default="",
    show_default="none",
    help="What a new text begins with.",
)
@click.option(
    "--seed",
    type=int,
    callback=validator(check_int, minimum=0),
    show_default="others each time",
    help="The same seed and the same keys give the same suggestions.",
)
@click.pass_context
def command(ctx, file, model, length, temperature, prime, seed) -> None:
    """Write a text with a model that suggests.

    The text goes on from FILE, and is saved to it when you say so. Without FILE, or with `-`, which
    reads stdin first, it is printed when you leave. If the session ends in another way, the text is
    kept in FILE.unsaved (charrnn-write.unsaved without FILE), and never over a file that exists.

    \b
    Keys:
      Tab, Right, End    take a word, a character, the line of the suggestion
      Ctrl-N             suggest something else
      Ctrl-_             undo
      Ctrl-S             save
      Ctrl-Z             go to the shell; `fg` comes back
      Ctrl-Q, Ctrl-C     leave

    \b
    Example:
      charrnn write poem.txt
      charrnn write --prime "SCENE 1." > scene.txt
    """
    piped = file == "-"
    terminal = _terminal(piped)
    try:
        from ..editor.screen import Editor
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("prompt_toolkit"):
            raise
        raise CharRNNError(
            "write needs prompt_toolkit, which is not here: pip install prompt_toolkit brings it."
        ) from None
    if file:
        require_not_input([file], [model], what="the text", kind="the model", option="FILE")
    draft = Draft(None if piped else file)
    text = _text_of_stdin() if piped else draft.read()
    if text and prime:
        raise UsageError("there is a text already: --prime begins a new one.")
    from ...api import load

    loaded = load(model, threads=1)
    from ...generation.suggester import Suggester

    how = {"temperature": temperature, "seed": seed}
    warm = Suggester(loaded.model, loaded.vocabulary, length=1, **how)
    while warm.step():  # compiles what is not compiled yet, and says so, while there is no screen
        pass
    companion = Suggester(loaded.model, loaded.vocabulary, text or prime, length=length, **how)
    keyboard = terminal if piped else sys.stdin
    screen = Editor(companion, draft, text or prime, keyboard, terminal)
    try:
        end = screen.run()
    except BaseException:
        _tell(draft, "this went wrong", screen.text)
        raise
    if end:
        _tell(draft, ENDS[end], screen.text)
        _let_go_of_terminal()
        ctx.exit(128 + end)
    if draft.path is None:
        _print(screen.text, draft)
    draft.forget()


def _terminal(piped: bool) -> TextIO:
    """Where to draw. UsageError when there is no terminal to draw on, or none to type on."""
    terminals = [f for f in (sys.stdout, sys.stderr) if f is not None and f.isatty()]
    if not terminals or not (piped or (sys.stdin is not None and sys.stdin.isatty())):
        raise UsageError(
            "write needs a terminal: stdin, and stdout or stderr, must be one; "
            "in a pipe there is `charrnn sample`."
        )
    if (term := os.environ.get("TERM", "").lower()) in ("dumb", "unknown"):
        raise UsageError(f"write cannot draw on this terminal (TERM={term}).")
    return terminals[0]


def _text_of_stdin() -> str:
    data = sys.stdin.buffer.read() if sys.stdin is not None else b""
    return data.decode("utf-8", "surrogateescape")


def _tell(draft: Draft, end: str, text: str) -> None:
    """Say how it ended and where the text is; if it could not be kept, print it."""
    if draft.failure:
        echo_err(f"{end}; {draft.failure} This is the text:")
        with contextlib.suppress(OSError):
            _write(text)
    elif draft.kept:
        echo_err(f"{end}; the text is kept in {display_path(draft.kept)}")
    else:
        echo_err(end)


def _let_go_of_terminal() -> None:
    """If it is gone, what it was not shown must not fail once more when the interpreter ends."""
    for file in filter(None, (sys.stdout, sys.stderr)):
        try:
            file.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), file.fileno())


def _print(text: str, draft: Draft) -> None:
    """The text to stdout, or kept in a file."""
    if not text:
        return
    try:
        _write(text)
    except OSError as error:
        draft.keep_now(text)
        where = draft.failure or f"the text is kept in {display_path(draft.kept)}."
        raise CharRNNError(f"cannot write to stdout: {error_reason(error)}; {where}") from None


def _write(text: str) -> None:
    if sys.stdout is None:
        raise OSError(0, "it is closed")
    sys.stdout.buffer.write(encoded(text))
    if sys.stdout.isatty() and not text.endswith("\n"):
        sys.stdout.buffer.write(b"\n")
    sys.stdout.flush()
