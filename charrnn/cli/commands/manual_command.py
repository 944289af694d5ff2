"""`charrnn manual`: the manual page, made from the help of all commands."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

import click

from ... import __version__
from ..options import Command, help_by_heading

# Characters that roff would replace by typographic ones.
AS_TYPED = str.maketrans({"-": r"\-", "'": r"\(aq", "`": r"\(ga", "^": r"\(ha", "~": r"\(ti"})

# Sections after the commands: terms and their meanings.
SECTIONS = {
    "ENVIRONMENT": {
        "CHARRNN_COMMAND_OPTION": "Value of an option that is not given: "
        "CHARRNN_TRAIN_HIDDEN_SIZE=256 means `charrnn train --hidden-size 256`.",
        "CHARRNN_DEBUG": "If set, errors are shown with a traceback.",
        "NO_COLOR": "If set, no output has colors.",
        "FORCE_COLOR": "If set, the output of `charrnn score --color` has colors in a pipe, too.",
        "COLUMNS, LINES": "Size of a chart, instead of the size of the terminal.",
        "NUMBA_CACHE_DIR, XDG_CACHE_HOME": "Cache of compiled code, instead of ~/.cache. "
        "A cache that root has filled, and only root can write, is read.",
        "NUMBA_CPU_NAME, NUMBA_CPU_FEATURES": "Processor to compile for: `generic`, and features "
        "of this processor as in `+avx2,+fma`. Numba's other variables have no effect.",
    },
    "FILES": {
        "model.safetensors": "A model: its best weights, its sizes and its characters. --output "
        "sets this name; the names of the next two files follow it.",
        "model.state.safetensors": "The state that `charrnn train --resume` continues from.",
        "model.log.jsonl": "The training log, one JSON object per line: step, epoch, chars, "
        "train_loss, val_loss, learning_rate, chars_per_second, seconds.",
    },
    "EXIT STATUS": {
        "0": "The work is done, or the reader of the output closed it.",
        "1": "The work failed; one sentence on stderr says why.",
        "2": "The options or arguments are wrong.",
        "130, 143, 129": "The command was interrupted, terminated or hung up; a training run was "
        "saved.",
    },
}


@click.command("manual", cls=Command)
@click.pass_context
def command(ctx: click.Context, /) -> None:
    """Print the manual page.

    It is in roff, the language of man(1), and contains the help of all commands.

    \b
    Example:
      charrnn manual | man -l -
      charrnn manual > ~/.local/share/man/man1/charrnn.1
    """
    main = ctx.find_root().command
    assert isinstance(main, click.Group)
    for line in _page(main):
        click.echo(line)


def _page(main: click.Group) -> Iterator[str]:
    """Yield the lines of the page, in roff with the macros of man(7)."""
    ctx = click.Context(main, info_name="charrnn", **main.context_settings)
    yield ".nr HY 0"  # hyphens would break commands that are copied
    yield f'.TH CHARRNN 1 "" "charrnn {__version__}" "User Commands"'
    yield ".ad l"
    yield ".SH NAME"
    yield r"charrnn \- " + _text(main.get_short_help_str(200).rstrip(".").lower())
    yield ".SH SYNOPSIS"
    contexts = [click.Context(c, info_name=n, parent=ctx) for n, c in main.commands.items()]
    for number, sub in enumerate(contexts):
        arguments = _text(" ".join(sub.command.collect_usage_pieces(sub)))
        yield from [".br"] * (number > 0)
        yield rf"\fB{sub.command_path}\fR \fI{arguments}\fR"
    yield ".SH DESCRIPTION"
    yield from _prose(_paragraphs(main) + (main.epilog or "").split("\n\n"))
    yield ".SH OPTIONS"
    yield from _options(ctx)
    yield ".SH COMMANDS"
    for sub in contexts:
        yield from _command(sub)
    for title, terms in SECTIONS.items():
        yield f".SH {title}"
        for term, meaning in terms.items():
            yield from (".TP", rf"\fB{_text(term)}\fR", _text(meaning))


def _command(ctx: click.Context) -> Iterator[str]:
    _, *arguments = ctx.command.collect_usage_pieces(ctx)  # after "[OPTIONS]"
    yield f'.SS "{_text(" ".join([ctx.command_path, *arguments]))}"'
    *paragraphs, example = _paragraphs(ctx.command)
    yield from _prose(paragraphs)
    yield from _options(ctx)
    yield ".PP"
    yield from _prose([example])


def _options(ctx: click.Context) -> Iterator[str]:
    """Yield the options of a command under their headings.

    All commands have --help; the page describes it once, with the options of charrnn itself.
    """
    groups = help_by_heading(ctx.command, ctx)
    for heading, rows in groups.items():
        if len(groups) > 1:
            yield from (".PP", rf"\fI{_text(heading)}\fR")
        for names, meaning in rows:
            if "--help" not in names or ctx.parent is None:
                yield from (".TP", _names(names), _text(meaning.replace("  [", " [")))


def _paragraphs(command: click.Command) -> list[str]:
    return inspect.cleandoc(command.help or "").split("\n\n")


def _prose(paragraphs: list[str]) -> Iterator[str]:
    r"""Format paragraphs of a help text. After \b, lines are not filled: a heading and examples."""
    for number, text in enumerate(paragraphs):
        if number:
            yield ".PP"
        if text.startswith("\b"):
            _, heading, *lines = text.split("\n")
            yield from (_text(heading), ".RS 4", ".EX")
            yield from (_code(line.strip()) for line in lines)
            yield from (".EE", ".RE")
        else:
            yield _text(" ".join(text.split()))


def _names(record: str) -> str:
    """Format `-o, --output FILE` with bold names and the metavar in italics."""
    match = re.fullmatch(r"(-[^\s,]+(?:, -[^\s,]+)*)( ?)(.*)", record)
    assert match is not None, record
    names, space, value = match.groups()
    return rf"\fB{_code(names)}\fR{space}" + (rf"\fI{_text(value)}\fR" if value else "")


def _text(text: str) -> str:
    """Format prose. Text in backquotes and long options become bold."""
    parts = re.split(r"(`[^`]*`|(?<![\w-])--\w[\w-]*)", text)
    parts[::2] = map(_escaped, parts[::2])
    parts[1::2] = (rf"\fB{_code(part.strip('`'))}\fR" for part in parts[1::2])
    return _protected("".join(parts))


def _code(text: str) -> str:
    """Format text to be copied from the page, without typographic characters."""
    return _protected(_escaped(text).translate(AS_TYPED))


def _escaped(text: str) -> str:
    return re.sub(r"[^\x20-\x7e]", lambda c: rf"\[u{ord(c[0]):04X}]", text.replace("\\", r"\e"))


def _protected(line: str) -> str:
    """Prevent a line from being read as a roff command."""
    return r"\&" + line if line[:1] in (".", "'") else line
