"""`charrnn sample`: write new text."""

from __future__ import annotations

import secrets
import sys
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from ...config import check_float, check_int
from ...errors import CharRNNError, UsageError
from ..options import (
    FILE,
    echo_err,
    model_option,
    threads_option,
    unknown_option,
    validator,
    warn_unknown,
)
from .novelty_command import say_novelty

if TYPE_CHECKING:
    from ...text.vocabulary import Vocabulary

LENGTH = 500
DRAWING = {  # what a beam search, which draws nothing, has no use for
    "temperature": "--temperature",
    "top_k": "--top-k",
    "top_p": "--top-p",
    "min_p": "--min-p",
    "repetition_penalty": "--repetition-penalty",
    "seed": "--seed",
    "num_samples": "--num-samples",
}


@click.command("sample")
@model_option
@click.option(
    "--length",
    type=int,
    callback=validator(check_int, minimum=0),
    show_default=f"{LENGTH}; none with --lines",
    help="Characters to write at most (bytes, if the model is one of bytes); 0: without end.",
)
@click.option(
    "--lines",
    type=int,
    metavar="N",
    callback=validator(check_int, minimum=1),
    help="End each text after N whole lines of new text.",
)
@click.option(
    "--stop",
    metavar="STRING",
    multiple=True,
    help="End each text where this would come next; it is not printed. Only new text counts. "
    "Given several times: whichever comes first.",
)
@click.option(
    "--prime",
    metavar="TEXT",
    default="",
    show_default="none",
    help="Text to go on from; it is printed first.",
)
@click.option(
    "--prime-file",
    type=FILE,
    help="Text to go on from, in UTF-8, newline at its end and all; - is stdin.",
)
@unknown_option
@click.option("--allow", metavar="CHARS", help="Write these characters only.")
@click.option("--forbid", metavar="CHARS", default="", help="Never write these characters.")
@click.option(
    "--repetition-penalty",
    type=float,
    metavar="P",
    default=1.0,
    callback=validator(check_float, minimum=0, maximum=inf, exclusive_min=True),
    help="Multiply by P the log-probability of each of the last 32 characters, the prime's too "
    "(CTRL, Keskar et al. 2019): above 1 they become less likely.",
)
@click.option(
    "--temperature",
    type=float,
    default=1.0,
    callback=validator(check_float, minimum=0, maximum=inf),
    help="Below 1 safer, above 1 bolder text; 0 always writes the most likely character.",
)
@click.option(
    "--top-k",
    type=int,
    default=0,
    callback=validator(check_int, minimum=0),
    help="Choose among the K likeliest characters only; 0: among all.",
)
@click.option(
    "--top-p",
    type=float,
    default=1.0,
    callback=validator(check_float, minimum=0, maximum=1, exclusive_min=True),
    help="Choose among the likeliest characters that together have this probability.",
)
@click.option(
    "--min-p",
    type=float,
    default=0.0,
    callback=validator(check_float, minimum=0, maximum=1),
    help="Choose among characters at least P times as likely as the likeliest.",
)
@click.option(
    "--seed",
    type=int,
    callback=validator(check_int, minimum=0),
    show_default="another text each time",
    help="The same seed gives the same text.",
)
@click.option(
    "--beam",
    type=int,
    metavar="K",
    callback=validator(check_int, minimum=1),
    help="Write the likeliest text that a beam search following K texts at once finds, and its "
    "log-probability on stderr. Nothing is drawn.",
)
@click.option(
    "-n",
    "--num-samples",
    type=int,
    default=1,
    callback=validator(check_int, minimum=1),
    help="How many texts to write. Text I of seed S is the first of seed S + I, from I = 0.",
)
@click.option(
    "--separator",
    default="\n",
    show_default="a newline",
    help="What follows each text when there are several.",
)
@click.option(
    "--jsonl",
    is_flag=True,
    help="Write each text as a line of JSON: its seed, the prime, the text after the prime.",
)
@click.option(
    "-o",
    "--output",
    type=FILE,
    default="-",
    show_default="stdout",
    help="Where to write, as with the shell's `>`: a file that exists is replaced. With {n} in "
    "it: each text into a file of its own, {n} being its number, from 1.",
)
@click.option(
    "--novelty",
    type=FILE,
    metavar="CORPUS",
    help="Say on stderr how much of the new text stands in this file, as `charrnn novelty` does.",
)
@threads_option
@click.pass_context
def command(
    ctx, model, length, lines, stop, prime, prime_file, unknown, allow, forbid, beam, num_samples,
    separator, jsonl, output, novelty, threads, **how,
) -> None:  # fmt: skip
    """Write new text with a trained model.

    It goes to stdout as it comes, after the prime; without a prime it starts as at the beginning
    of a line. On a terminal a newline is added at the end where one is missing, elsewhere nothing.
    What may be chosen is cut in this order: --allow and --forbid, --repetition-penalty,
    --temperature, --top-k, --top-p, --min-p.

    \b
    Example:
      charrnn sample --length 1000 --temperature 0.8 --prime "Once upon"
      charrnn sample -n 20 --seed 1 --stop $'\\n' | sort -u
      charrnn sample --lines 4 --forbid 0123456789
      charrnn sample -n 1000 --jsonl -o texts.jsonl
    """
    _check_usage(ctx)
    from ...api import load
    from .. import outputs
    from ..progress import text_bar

    language_model = load(model, threads)
    vocabulary = language_model.vocabulary
    prime, as_bytes = _prime(prime, prime_file, unknown, vocabulary), vocabulary.is_bytes
    what = {
        "length": LENGTH if length is lines is None else length or None,
        "lines": lines, "stop": stop, "prime": prime, "allow": allow, "forbid": forbid,
    }  # fmt: skip
    if beam is not None:
        text, nats = language_model.beam(beam, **what)
        texts, facts = [[text]], [{"log_probability": nats}]
    else:
        how["seed"] = secrets.randbits(32) if how["seed"] is None else how["seed"]
        texts = language_model.texts(num_samples, **what, **how)
        facts = ({"seed": how["seed"] + i} for i in range(num_samples))
    written = outputs.Written(texts, kept=novelty is not None)
    total = None if what["length"] is None or lines or stop else what["length"] * num_samples
    with text_bar(output, total) as written.progressed:
        if jsonl:
            outputs.write_objects(written, output, prime, facts)
        else:
            after = separator if num_samples > 1 else None
            outputs.write_texts(written, output, prime, after, num_samples)
    if beam is not None:
        characters = len(text) if as_bytes else len(text.decode())
        echo_err(_likelihood(nats, characters, stop))
    if novelty is not None:
        say_novelty(written.texts(), novelty, as_bytes)


def _check_usage(ctx: click.Context) -> None:
    """Refuse options that exclude each other, and outputs that would replace what is read."""
    from ..outputs import NUMBER, files_of, require_apart

    options = ctx.params
    given = {n for n in options if ctx.get_parameter_source(n) != ParameterSource.DEFAULT}
    if options["prime"] and options["prime_file"]:
        raise UsageError("give --prime or --prime-file, not both.")
    if options["beam"] is not None and given & DRAWING.keys():
        names = ", ".join(DRAWING[name] for name in DRAWING if name in given)
        raise UsageError(f"a beam search draws nothing: leave out {names}, or --beam.")
    if options["jsonl"] and "separator" in given:
        raise UsageError("lines of JSON have no separator: give --jsonl or --separator.")
    if options["jsonl"] and NUMBER in options["output"]:
        raise UsageError(f"--jsonl writes all texts to one file: leave {NUMBER} out of its name.")
    if options["novelty"] and options["length"] == 0 and not (options["lines"] or options["stop"]):
        raise UsageError("--novelty looks at a whole text, and --length 0 has no end.")
    inputs = filter(None, (options["model"], options["prime_file"], options["novelty"]))
    require_apart(files_of(options["output"], options["num_samples"]), inputs)


def _likelihood(nats: float, characters: int, stop: tuple[str, ...]) -> str:
    each = "" if stop or not characters else f" ({nats / characters:.4f} per character)"
    return f"log-probability {nats:.4f} nats{each}{', the stop included' if stop else ''}"


def _prime(prime: str, file: str | None, unknown: str, vocabulary: Vocabulary) -> str:
    """The text to go on from, as the options have it."""
    if file:
        prime = _read(file, vocabulary.is_bytes)
    if unknown == "error":
        return prime
    skipped_characters = vocabulary.unknown(prime)
    warn_unknown(skipped_characters)
    return prime.translate(dict.fromkeys(map(ord, skipped_characters)))


def _read(path: str, as_bytes: bool) -> str:
    """The prime in a file; a byte that is not UTF-8 stands escaped, if the model is of bytes."""
    if path == "-":
        data = sys.stdin.buffer.read() if sys.stdin is not None else b""
    else:
        data = Path(path).read_bytes()
    try:
        return data.decode("utf-8", "surrogateescape") if as_bytes else data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CharRNNError(f"{path}: this is not UTF-8, see the byte at {error.start}.") from None
