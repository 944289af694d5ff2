"""What was perhaps meant by a name that does not exist: a choice, an option, a file."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from difflib import get_close_matches

import click


def with_hint(error: click.ClickException, cause: BaseException) -> str:
    """The message of `error`, which comes from `cause`, and what was perhaps meant.

    Click itself knows the commands, and the options of the command that was given.
    """
    if isinstance(error, click.BadParameter) and error.param is not None:
        return error.format_message() + _choice(error)
    if isinstance(error, click.NoSuchOption) and (hint := _elsewhere(error)):
        return error.message + hint
    missing = (e for e in _causes(cause) if isinstance(e, FileNotFoundError))
    return error.format_message() + next((_file(e.filename) for e in missing if e.filename), "")


def _did_you_mean(name: str, names: Iterable[str], folder: str = "") -> str:
    """The nearest of `names`, whatever the case."""
    cases = {n.lower(): n for n in names}
    near = get_close_matches(name.lower(), cases, n=1)
    return f" Did you mean '{os.path.join(folder, cases[near[0]])}'?" if near else ""


def _choice(error: click.BadParameter) -> str:
    value = error.message.partition(" ")[0].strip("'\"")  # Click quotes it, and keeps no other
    return _did_you_mean(value, getattr(error.param.type, "choices", ()))


def _elsewhere(error: click.NoSuchOption) -> str:
    """The commands that do have the option."""
    if error.ctx is None:
        return ""
    root = error.ctx.find_root()
    commands = getattr(root.command, "commands", {})
    own = [c for c, command in commands.items() if _has(command, error.option_name)]
    names = ", ".join(f"'{root.info_name} {name}'" for name in own)
    return f" It is an option of {names}." if own else ""


def _has(command: click.Command, option: str) -> bool:
    return any(option in param.opts for param in command.params)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _file(path: str | bytes) -> str:
    """A file with nearly this name, in the same folder."""
    folder, name = os.path.split(os.fsdecode(path))
    try:
        names = [n for n in os.listdir(folder or ".") if not n.startswith(".")]
    except OSError:
        return ""
    # Long endings alike do not make names alike.
    names = [n for n in names if get_close_matches(_stem(name), [_stem(n)])]
    return _did_you_mean(name, names, folder)


def _stem(name: str) -> str:
    return name.partition(".")[0].lower()
