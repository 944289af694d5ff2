"""'Did you mean' suggestions for choices, options and file names."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from difflib import get_close_matches

import click


def with_hint(error: click.ClickException, cause: BaseException) -> str:
    """Return the message of `error`, which `cause` led to, with a suggestion if there is one.

    Click itself suggests commands.
    """
    if isinstance(error, click.BadParameter) and error.param is not None:
        return error.format_message() + _choice(error.message, error.param)
    if isinstance(error, click.NoSuchOption):
        return error.message + (_commands_with(error) or _similar_options(error))
    missing = (e for e in _causes(cause) if isinstance(e, FileNotFoundError))
    hint = next((_similar_file(e.filename) for e in missing if e.filename), "")
    return error.format_message() + hint


def _did_you_mean(name: str, names: Iterable[str], folder: str = "") -> str:
    """Suggest the most similar of `names`; case does not matter."""
    by_lower_case = {n.lower(): n for n in names}
    matches = get_close_matches(name.lower(), by_lower_case, n=1)
    if not matches:
        return ""
    return f" Did you mean '{os.path.join(folder, by_lower_case[matches[0]])}'?"


def _choice(message: str, param: click.Parameter) -> str:
    value = message.partition(" ")[0].strip("'\"")  # only the message of the error holds it
    return _did_you_mean(value, getattr(param.type, "choices", ()))


def _commands_with(error: click.NoSuchOption) -> str:
    """Name the commands that have the option."""
    if error.ctx is None:
        return ""
    root = error.ctx.find_root()
    commands = getattr(root.command, "commands", {})
    matches = [name for name, command in commands.items() if _has(command, error.option_name)]
    names = ", ".join(f"'{root.info_name} {name}'" for name in matches)
    return f" It is an option of {names}." if names else ""


def _similar_options(error: click.NoSuchOption) -> str:
    """Suggest options of the command that the given one abbreviates, or is spelled like.

    Their dashes do not make them similar.
    """
    params = error.ctx.command.params if error.ctx else []
    names = [name[2:] for param in params for name in param.opts if name.startswith("--")]
    given = error.option_name.lstrip("-").lower()
    abbreviated = [name for name in names if name.startswith(given) or _initials(name) == given]
    matches = abbreviated or get_close_matches(given, names, 1, 0.7)
    meant = " or ".join(f"'--{name}'" for name in matches)
    return f" Did you mean {meant}?" if meant and given else ""


def _initials(name: str) -> str:
    return "".join(word[0] for word in name.split("-"))


def _has(command: click.Command, option: str) -> bool:
    return any(option in param.opts for param in command.params)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _similar_file(path: str | bytes) -> str:
    """Suggest a file with a similar name in the same folder."""
    folder, name = os.path.split(os.fsdecode(path))
    try:
        names = [n for n in os.listdir(folder or ".") if not n.startswith(".")]
    except OSError:
        return ""
    # Names with the same long ending are not similar for that.
    names = [n for n in names if get_close_matches(_stem(name), [_stem(n)])]
    return _did_you_mean(name, names, folder)


def _stem(name: str) -> str:
    return name.partition(".")[0].lower()
