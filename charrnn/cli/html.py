"""The page of `charrnn score --html`: one file, without script, that needs no network."""

from __future__ import annotations

import math
from functools import partial
from html import escape

import numpy as np

from .shades import PAGE, levels, visible

_STYLE = """
:root { color-scheme: light dark; font-family: sans-serif }
pre { line-height: 1.6; white-space: pre-wrap; overflow-wrap: anywhere }
pre b { font-weight: normal; opacity: .6; user-select: none }
i { font-style: normal }
i:hover { outline: 1px solid }
.n::before { content: "\\21b5"; opacity: .5 }
"""
_SHADES = "".join(f".s{k} {{ background: {c}; color: #000 }}\n" for k, c in enumerate(PAGE) if c)


def head(text: str, model: str) -> str:
    """All before the first line; the names of the text and of the model."""
    title = escape(f"{text}: what surprises {model}")
    legend = ", ".join(
        f'<i class="s{k}">{k}{" or more" if k == len(PAGE) - 1 else ""}</i>'
        for k in range(1, len(PAGE))
    )
    return f"""<!DOCTYPE html>
<html lang="">
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>{_STYLE}{_SHADES}</style>
<h1>{title}</h1>
<p>Surprise in nats: {legend}. Rest on a character to see what the model expected. Before each line
stand its number and its nats per character.</p>
<pre>
"""


def line(
    number: int, mean: float, text: str, nats: np.ndarray, found: np.ndarray, names: list[str]
) -> str:
    """A line of the text with its newline; `names` are those of the model's characters."""
    mean = f"{'-':>7}" if math.isnan(mean) else f"{mean:7.4f}"
    titles = map(partial(_title, names), nats.tolist(), found["expected"], found["probability"])
    body = "".join(map(_character, text, levels(nats), titles))
    end = "" if text.endswith("\n") else "\n"
    return f"<b>{number:6}  {mean}  </b>{body}{end}"


def foot(characters: int, mean: float) -> str:
    """All after the last line."""
    bits = mean / math.log(2)
    return (
        f"</pre>\n<p>{characters:,} characters: {mean:.4f} nats ({bits:.4f} bits) per character."
        "</p>\n</html>\n"
    )


def _title(names: list[str], nats: float, expected: np.ndarray, probability: np.ndarray) -> str:
    if math.isnan(nats):
        return "not predicted"
    pairs = zip(expected.tolist(), probability.tolist(), strict=True)
    likely = ", ".join(f"\u201c{names[i]}\u201d {p:.1%}" for i, p in pairs)
    return f"{nats:.2f} nats ({math.exp(-nats):.1%}); expected: {likely}"


def _character(character: str, level: int, title: str) -> str:
    newline = character == "\n"
    kinds = " ".join([f"s{level}"] * (level > 0) + ["n"] * newline)
    kind = f' class="{kinds}"' if kinds else ""
    shown = "\n" if newline else escape(visible(character))
    return f'<i{kind} title="{escape(title)}">{shown}</i>'
