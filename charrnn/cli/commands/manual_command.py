"""`charrnn manual`: the manual page, made of what `--help` says, and of what it does not."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

import click

from ... import __version__

# Characters for which roff has others that look better in prose.
AS_TYPED = str.maketrans({"-": r"\-", "'": r"\(aq", "`": r"\(ga", "^": r"\(ha", "~": r"\(ti"})

# What is left to say after the commands: by section, the terms and what they mean.
SECTIONS = {
    "ENVIRONMENT": {
        "CHARRNN_COMMAND_OPTION": "Stands for an option of a command that is not given: "
        "CHARRNN_TRAIN_HIDDEN_SIZE=256 for `charrnn train --hidden-size 256`.",
        "CHARRNN_DEBUG": "If set, errors come with a traceback.",
        "NO_COLOR": "If set, nothing is coloured.",
        "FORCE_COLOR": "If set, `charrnn score --color` colours its output in a pipe, too.",
        "COLUMNS, LINES": "The size of a chart, instead of the terminal's.",
        "NUMBA_CACHE_DIR, XDG_CACHE_HOME": "Where compiled code is kept, instead of ~/.cache.",
    },
    "FILES": {
        "model.safetensors": "A model: its best weights, its sizes, its characters. The name is "
        "--output's, and the names of the next two follow it.",
        "model.state.safetensors": "What `charrnn train --resume` needs.",
        "model.log.jsonl": "The log of training, a JSON object a line: step, epoch, chars, "
        "train_loss, val_loss, learning_rate, chars_per_second, seconds.",
    },
    "EXIT STATUS": {
        "0": "All was done, or the reader of the output went away.",
        "1": "The work failed; stderr has the reason in one sentence.",
        "2": "The command was given wrong options or arguments.",
        "130, 143, 129": "It was interrupted, terminated, hung up; a training run was saved.",
    },
}


@click.command("manual")
@click.pass_context
def command(ctx: click.Context) -> None:
    """Print the manual page.

    It is in the language of man(1), and holds the help of all commands.

    \b
    Example:
      charrnn manual | man -l -
      charrnn manual > ~/.local/share/man/man1/charrnn.1
    """
    main = ctx.find_root().command
    for line in _page(click.Context(main, info_name="charrnn", **main.context_settings)):
        click.echo(line)


def _page(ctx: click.Context) -> Iterator[str]:
    """The lines of the page, in roff with the macros of man(7)."""
    main = ctx.command
    yield ".nr HY 0"  # what may be copied is not to be hyphenated
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
    _, *arguments = ctx.command.collect_usage_pieces(ctx)  # all have options
    yield f'.SS "{_text(" ".join([ctx.command_path, *arguments]))}"'
    *paragraphs, example = _paragraphs(ctx.command)
    yield from _prose(paragraphs)
    yield from _options(ctx)
    yield ".PP"
    yield from _prose([example])


def _options(ctx: click.Context) -> Iterator[str]:
    """The options of a command; --help, which all have, is told of once, with charrnn's own."""
    for param in ctx.command.get_params(ctx):
        known = "--help" in param.opts and ctx.parent is not None
        if isinstance(param, click.Option) and not known:
            names, meaning = param.get_help_record(ctx)
            meaning = re.sub(r"  \[default: \(?(.*?)\)?\]$", r" [default: \1]", meaning)
            yield from (".TP", _names(names), _text(meaning))


def _paragraphs(command: click.Command) -> list[str]:
    return inspect.cleandoc(command.help or "").split("\n\n")


def _prose(paragraphs: list[str]) -> Iterator[str]:
    r"""Paragraphs of a help text; after \b lines are kept: a heading and its examples."""
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
    """`-o, --output FILE`, the names bold and what they take in italics."""
    names, space, value = re.fullmatch(r"(-[^\s,]+(?:, -[^\s,]+)*)( ?)(.*)", record).groups()
    return rf"\fB{_code(names)}\fR{space}" + (rf"\fI{_text(value)}\fR" if value else "")


def _text(text: str) -> str:
    """Prose as roff has it; what stands in backquotes, and long options, are bold."""
    parts = re.split(r"(`[^`]*`|(?<![\w-])--\w[\w-]*)", text)
    parts[::2] = map(_escaped, parts[::2])
    parts[1::2] = (rf"\fB{_code(part.strip('`'))}\fR" for part in parts[1::2])
    return _protected("".join(parts))


def _code(text: str) -> str:
    """What is to be copied from the page: each character stands for itself."""
    return _protected(_escaped(text).translate(AS_TYPED))


def _escaped(text: str) -> str:
    return re.sub(r"[^\x20-\x7e]", lambda c: rf"\[u{ord(c[0]):04X}]", text.replace("\\", r"\e"))


def _protected(line: str) -> str:
    """A line that is no command of roff."""
    return r"\&" + line if line[:1] in (".", "'") else line
