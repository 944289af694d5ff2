"""`charrnn sample`: write new text."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from math import inf
from pathlib import Path
from typing import BinaryIO

import click

from ..config import number, whole
from ..errors import CharRNNError, UsageError
from .common import FILE, checked, model_option, threads_option, unknown_option, warn_unknown

FLUSH_SECONDS = 0.05  # text waits no longer than this before it is shown


@click.command("sample")
@model_option
@click.option(
    "--length",
    type=int,
    default=500,
    callback=checked(whole, least=0),
    help="Characters to write (bytes, if the model is one of bytes); 0: without end.",
)
@click.option(
    "--temperature",
    type=float,
    default=1.0,
    callback=checked(number, low=0, high=inf),
    help="Below 1 safer, above 1 bolder text; 0 always writes the most likely character.",
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
@click.option(
    "--top-k",
    type=int,
    default=0,
    callback=checked(whole, least=0),
    help="Choose among the K likeliest characters only; 0: among all.",
)
@click.option(
    "--top-p",
    type=float,
    default=1.0,
    callback=checked(number, low=0, high=1, above=True),
    help="Choose among the likeliest characters that together have this probability.",
)
@click.option(
    "--seed",
    type=int,
    callback=checked(whole, least=0),
    show_default="another text each time",
    help="The same seed gives the same text.",
)
@click.option(
    "-n",
    "--num-samples",
    type=int,
    default=1,
    callback=checked(whole, least=1),
    help="How many texts to write. Text I of seed S is the first of seed S + I, from I = 0.",
)
@click.option(
    "--separator",
    default="\n",
    show_default="a newline",
    help="What follows each text when there are several.",
)
@click.option(
    "--stop",
    metavar="STRING",
    help="End each text where this would come next; it is not printed. Only new text counts.",
)
@unknown_option
@click.option(
    "-o", "--output", type=FILE, default="-", show_default="stdout", help="Where to write."
)
@threads_option
def command(
    model, length, prime, prime_file, num_samples, separator, unknown, output, threads, **how
) -> None:
    """Write new text with a trained model.

    It goes to stdout as it comes, after the prime; without a prime it starts as at the beginning
    of a line. On a terminal a newline is added at the end where one is missing, elsewhere nothing.

    \b
    Example:
      charrnn sample --length 1000 --temperature 0.8 --prime "Once upon"
      charrnn sample -n 20 --seed 1 --stop $'\\n' | sort -u
    """
    if prime and prime_file:
        raise UsageError("give --prime or --prime-file, not both.")
    if output != "-" and os.path.exists(output) and os.path.samefile(output, model):
        raise UsageError("the output would replace the model; give another name to --output.")
    from ..api import load

    language_model = load(model, threads)
    vocabulary = language_model.vocabulary
    if prime_file:
        prime = _read(prime_file, vocabulary.is_bytes)
    if unknown == "skip":
        prime = _without(vocabulary.unknown(prime), prime)
    texts = language_model.texts(num_samples, length or None, prime=prime, **how)
    start = prime.encode("utf-8", "surrogateescape")
    with _opened(output) as out:
        for pieces in texts:
            end = _write(chain([start], pieces), out)
            if num_samples > 1:
                out.write(separator.encode("utf-8", "surrogateescape"))
            elif out.isatty() and end != b"\n":
                out.write(b"\n")
        out.flush()


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


def _without(characters: str, text: str) -> str:
    warn_unknown(characters)
    return text.translate(dict.fromkeys(map(ord, characters)))


def _opened(output: str) -> AbstractContextManager[BinaryIO]:
    if output != "-":
        return open(output, "wb")
    if sys.stdout is None:
        raise CharRNNError("there is nowhere to write: stdout is closed.")
    return nullcontext(sys.stdout.buffer)


def _write(pieces: Iterable[bytes], out: BinaryIO) -> bytes:
    """Write as the pieces come, showing them at once or nearly so. Returns the last byte."""
    end = b""
    shown = -FLUSH_SECONDS
    for piece in pieces:
        out.write(piece)
        end = piece[-1:] or end
        if (now := time.monotonic()) - shown >= FLUSH_SECONDS:
            out.flush()
            shown = now
    out.flush()
    return end
