"""A page that shows a text on shades: one file, without script, that needs no network."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from .color import DARK, LIGHT, MOST, escape_character

_STYLE = """
:root { color-scheme: light dark; font-family: sans-serif }
body { max-width: 70em; margin: 1em auto 5em; padding: 0 1em }
h1 { font-size: 1.4em }
pre { line-height: 1.6; white-space: pre-wrap; overflow-wrap: anywhere }
pre b { font-weight: normal; opacity: .6; user-select: none }
i { font-style: normal }
i:hover { outline: 1px solid }
.n::before { content: "\\21b5"; opacity: .5 }
pre i:hover::after { content: attr(data-t); position: fixed; inset: auto 0 0; padding: .6em 1em;
  background: Canvas; color: CanvasText; border-top: 1px solid; font-family: sans-serif;
  white-space: pre-wrap; pointer-events: none; z-index: 1 }
"""


def _class_of(level: int) -> str:
    return f"s{level}" if level > 0 else f"c{-level}"


def _rules(shades: tuple[str | None, ...], text: str) -> str:
    levels = (level for level in range(-MOST, MOST + 1) if level)
    return "".join(
        f".{_class_of(level)} {{ background: {shades[level]}; color: {text} }}\n"
        for level in levels
    )


_SHADES = f"""{_rules(LIGHT, "#000")}@media (prefers-color-scheme: dark) {{
{_rules(DARK, "#fff")}}}
"""


def shaded(text: str, level: int) -> str:
    """A piece of text for the legend."""
    return f'<i class="{_class_of(level)}">{escape(text)}</i>' if level else escape(text)


def head(title: str, note: str) -> str:
    """All before the first line; the note is markup."""
    title = escape(title)
    return f"""<!DOCTYPE html>
<html lang="">
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>{_STYLE}{_SHADES}</style>
<h1>{title}</h1>
<p>{note}</p>
<pre>
"""


def line(label: str, text: str, levels: Iterable[int], titles: Iterable[str]) -> str:
    """A line of the text with its newline; a character shows its title under the mouse."""
    body = "".join(map(_character, text, levels, titles))
    end = "" if text.endswith("\n") else "\n"
    return f"<b>{escape(label)}  </b>{body}{end}"


def foot(note: str) -> str:
    """All after the last line; the note is markup."""
    return f"</pre>\n<p>{note}</p>\n</html>\n"


def _character(character: str, level: int, title: str) -> str:
    newline = character == "\n"
    kinds = " ".join([_class_of(level)] * (level != 0) + ["n"] * newline)
    kind = f' class="{kinds}"' if kinds else ""
    shown = "\n" if newline else escape(escape_character(character))
    return f'<i{kind} data-t="{escape(title)}">{shown}</i>'
