"""An HTML page that shows a text on colors: one file without scripts or requests."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from ...text.graphemes import graphemes
from .characters import escape_character
from .color import DARK, LIGHT, MAX_LEVEL, strongest

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


def _css_class(level: int) -> str:
    return f"s{level}" if level > 0 else f"c{-level}"


def _css_rules(backgrounds: tuple[str | None, ...], text_color: str) -> str:
    levels = (level for level in range(-MAX_LEVEL, MAX_LEVEL + 1) if level)
    return "".join(
        f".{_css_class(level)} {{ background: {backgrounds[level]}; color: {text_color} }}\n"
        for level in levels
    )


_COLORS = f"""{_css_rules(LIGHT, "#000")}@media (prefers-color-scheme: dark) {{
{_css_rules(DARK, "#fff")}}}
"""


def swatch(text: str, level: int) -> str:
    """Return the markup of an entry of the legend: `text` on the color of its level."""
    return f'<i class="{_css_class(level)}">{escape(text)}</i>' if level else escape(text)


def head(title: str, note: str) -> str:
    """Return the page before the first line. `title` is text, `note` is markup."""
    title = escape(title)
    return f"""<!DOCTYPE html>
<html lang="">
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>{_STYLE}{_COLORS}</style>
<h1>{title}</h1>
<p>{note}</p>
<pre>
"""


def line(label: str, text: str, levels: Sequence[int], titles: Iterable[str]) -> str:
    """Return the markup of a line of text, newline included.

    Each character has a level, and a title that the page shows while the mouse points at it. A
    letter and its combining marks are shown as one, with a title of several lines.
    """
    titles = list(titles)
    body = "".join(
        _grapheme(text[part], strongest(levels[part]), "\n".join(titles[part]))
        for part in graphemes(text)
    )
    end = "" if text.endswith("\n") else "\n"
    return f"<b>{escape(label)}  </b>{body}{end}"


def foot(note: str) -> str:
    """Return the page after the last line. `note` is markup."""
    return f"</pre>\n<p>{note}</p>\n</html>\n"


def _grapheme(characters: str, level: int, title: str) -> str:
    newline = characters == "\n"
    classes = " ".join([_css_class(level)] * (level != 0) + ["n"] * newline)
    attribute = f' class="{classes}"' if classes else ""
    content = "\n" if newline else escape("".join(map(escape_character, characters)))
    return f'<i{attribute} data-t="{escape(title)}">{content}</i>'
