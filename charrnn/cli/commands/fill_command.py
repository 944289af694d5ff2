"""`charrnn fill`: fill the gaps of a text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from ...config import FILL_BEAM, MAX_FILL_BEAM, check_float, check_int
from ...errors import CharRNNError, UsageError, display_path
from ...text.gaps import LONGEST, MARK, MAX_LENGTH, Gap, Piece, parse_marks, parse_mask
from ..options import (
    FILE,
    TEXT,
    Command,
    is_explicit,
    models_option,
    option,
    option_group,
    threads_option,
    unknown_option,
    validator,
)
from ..output import echo_err, print_json, read_stdin, stdout, warn_unknown
from ..sample_output import write_pieces

if TYPE_CHECKING:
    from ...api import LanguageModel
    from ...generation.text_filler import FilledGap

BYTE_ORDER_MARK = "\ufeff"


@click.command("fill", cls=Command, short_help="Fill the gaps of a text.")
@click.argument("text", metavar="TEXT", type=FILE)
@option_group(
    "Model",
    models_option(
        "A second one, written by `charrnn train --backward`, proposes fills from the right."
    ),
    threads_option,
)
@option_group(
    "Gaps",
    option(
        "--gap",
        type=TEXT,
        metavar="MARK",
        default=MARK,
        help="Mark of a gap. With a number before its last character, as in [?5], the gap has so "
        "many characters. After a backslash it is no mark.",
    ),
    option(
        "--max-length",
        type=int,
        metavar="N",
        default=MAX_LENGTH,
        callback=validator(check_int, minimum=1, maximum=LONGEST),
        help="Maximum length of a gap without a number, in characters (bytes for a byte model).",
    ),
    option(
        "--mask",
        type=TEXT,
        metavar="SIGN",
        help="Each SIGN is one missing character; there are no other marks.",
    ),
    unknown_option,
)
@option_group(
    "Fills",
    option(
        "-n",
        "--num-fills",
        type=int,
        metavar="N",
        default=1,
        callback=validator(check_int, minimum=1),
        help="Number of alternatives: the N likeliest, or N draws with --sample.",
    ),
    option(
        "--sample",
        is_flag=True,
        help="Draw from the distribution of fills given both sides, instead of the likeliest.",
    ),
    option(
        "--temperature",
        type=float,
        default=1.0,
        callback=validator(check_float, minimum=0, maximum=inf, exclusive_min=True),
        help="Temperature of --sample: lower is safer, higher is bolder.",
    ),
    option(
        "--seed",
        type=int,
        callback=validator(check_int, minimum=0),
        show_default="random",
        help="Seed of --sample. The same seed gives the same fills.",
    ),
    option(
        "--beam",
        type=int,
        metavar="K",
        default=FILL_BEAM,
        callback=validator(check_int, minimum=1, maximum=MAX_FILL_BEAM),
        help="Fills of each length that are considered; with two models, K / 2 halves at each "
        "side.",
    ),
    option("--allow", type=TEXT, metavar="CHARS", help="Fill with only these characters."),
    option(
        "--forbid",
        type=TEXT,
        metavar="CHARS",
        default="",
        show_default=False,
        help="Never fill with these characters.",
    ),
)
@option_group(
    "Output",
    option(
        "--jsonl",
        is_flag=True,
        help="Write one JSON object for each gap and alternative: the text before it, what fills "
        "it, the text after it, the log-probability of the fill after the text before it, in nats, "
        "and its posterior probability among the fills considered.",
    ),
)
@click.pass_context
def command(
    ctx: click.Context,
    /,
    text: str,
    models: tuple[str, ...],
    threads: int | None,
    gap: str,
    max_length: int,
    mask: str | None,
    unknown: Literal["error", "skip"],
    num_fills: int,
    sample: bool,
    temperature: float,
    seed: int | None,
    beam: int,
    allow: str | None,
    forbid: str,
    jsonl: bool,
) -> None:
    """Fill the gaps of a text with what the text on both sides makes likely.

    TEXT is a file in UTF-8; - is stdin. [?] marks a gap of 1 to --max-length characters, [?5] a gap
    of five. Everything else is written as it was. With -n, the texts follow each other, each with
    a newline at its end.

    With a second model that reads backwards (`charrnn train --backward`), the left half of a fill
    is proposed from the left and the right half from the right.

    Fills are ranked by their probability after the text before them, times that of the next 16
    characters after them. Gaps with at most 12 characters between them are filled together, others
    from left to right. A gap at the end of the text is filled up to the end of the line.

    \b
    Example:
      echo 'It was the [?] of times' | charrnn fill -
      charrnn fill damaged.txt --mask _ -n 5 --jsonl
      charrnn fill damaged.txt -m forward.safetensors -m backward.safetensors
      charrnn fill draft.txt --sample --temperature 0.8 --seed 1
    """
    _check_usage(ctx, sample, mask is not None)
    language_model, backward = _load_models(models, threads)
    mark, pieces = _read(text, language_model, gap, mask, max_length)
    if not any(isinstance(piece, Gap) for piece in pieces):
        echo_err("note    the text has no gap")
    if unknown == "skip":
        literals = "".join(piece for piece in pieces if isinstance(piece, str))
        warn_unknown(language_model.vocabulary.unknown(literals.replace("\r\n", "\n")))
    texts = language_model.fills(
        pieces,
        num_fills,
        sample=sample,
        temperature=temperature,
        seed=seed,
        beam=beam,
        backward=backward,
        allow=allow,
        forbid=forbid,
        unknown=unknown,
    )
    for index, filled in enumerate(texts):
        parts = [mark, *filled]
        if jsonl:
            for values in _objects(parts, index):
                print_json(values)
        else:
            _write(parts, num_fills > 1)


def _check_usage(ctx: click.Context, sample: bool, has_mask: bool) -> None:
    """Reject options without an effect."""
    for name in "temperature", "seed":
        if is_explicit(ctx, name) and not sample:
            raise UsageError(f"the likeliest fills are not drawn: give --sample, or omit --{name}.")
    for name in "gap", "max_length":
        if is_explicit(ctx, name) and has_mask:
            shown = name.replace("_", "-")
            raise UsageError(f"a mask marks all gaps: give --mask or --{shown}, not both.")


def _load_models(
    paths: Sequence[str], threads: int | None
) -> tuple[LanguageModel, LanguageModel | None]:
    """Load the model that reads forwards, and the one that reads backwards if there are two."""
    if len(paths) > 2:
        raise UsageError(f"fill needs one model or two, not {len(paths)}: omit -m.")
    from ...api import load

    first, *others = sorted((load(path, threads) for path in paths), key=lambda m: m.backward)
    return first, others[0] if others else None


def _read(
    path: str, model: LanguageModel, gap: str, mask: str | None, max_length: int
) -> tuple[str, list[Piece]]:
    """Return the byte-order mark of the text, or nothing, and the pieces of the text."""
    data = read_stdin() if path == "-" else Path(path).read_bytes()
    try:
        errors = "surrogateescape" if model.vocabulary.is_bytes else "strict"
        content = data.decode("utf-8", errors)
    except UnicodeDecodeError as error:
        name = "stdin" if path == "-" else display_path(path)
        raise CharRNNError(
            f"{name} is not UTF-8: invalid byte at {error.start}; convert it, or give a model of "
            "bytes."
        ) from None
    mark = BYTE_ORDER_MARK if content.startswith(BYTE_ORDER_MARK) else ""
    content = content.removeprefix(mark)
    if mask is not None:
        return mark, parse_mask(content, mask)
    return mark, parse_marks(content, gap, max_length)


def _objects(parts: Sequence[str | FilledGap], index: int) -> Iterator[dict[str, object]]:
    """Yield a JSON object for each filled gap of the text, which is alternative `index`."""
    texts = [part if isinstance(part, str) else part.text for part in parts]
    for place, part in enumerate(parts):
        if not isinstance(part, str):
            yield {
                "index": index,
                "before": "".join(texts[:place]),
                "filled": part.text,
                "after": "".join(texts[place + 1 :]),
                "log_probability": part.log_probability,
                "posterior": part.posterior,
            }


def _write(parts: Sequence[str | FilledGap], with_newline: bool) -> None:
    """Write a text to stdout; `with_newline`: with a newline at its end, if it has none."""
    text = "".join(part if isinstance(part, str) else part.text for part in parts)
    if with_newline and not text.endswith("\n"):
        text += "\n"
    write_pieces([text.encode("utf-8", "surrogateescape")], stdout().buffer)
