"""`charrnn sample`: generate text."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ...config import check_float, check_int
from ...errors import CharRNNError, UsageError
from ...storage.inputs import require_not_input
from ..options import (
    FILE,
    TEXT,
    Command,
    corpus_encoding_option,
    is_explicit,
    model_option,
    option,
    option_group,
    threads_option,
    unknown_option,
    validator,
)
from ..output import echo_err, read_stdin, warn_unknown
from .novelty_command import read_known, say_novelty

if TYPE_CHECKING:
    from ...api import LanguageModel
    from ...text.corpus import Corpus
    from ...text.vocabulary import Vocabulary
    from ..sample_output import Texts, TextTee

LENGTH = 500
SAMPLING_OPTIONS = (  # without effect in a beam search, which samples nothing
    "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed", "num_samples",
)  # fmt: skip


@dataclass(frozen=True)
class SampleRequest:
    """The options of the command."""

    model: str
    threads: int | None
    length: int | None
    lines: int | None
    stop: tuple[str, ...]
    prime: str
    prime_file: str | None
    mid_line: bool
    unknown: str
    allow: str | None
    forbid: str
    repetition_penalty: float
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    seed: int | None
    beam: int | None
    num_samples: int
    separator: str
    jsonl: bool
    output: str
    novelty: str | None
    corpus_encoding: str | None

    @property
    def max_length(self) -> int | None:
        """The limit of a text's length; None: no limit."""
        if self.length is None and self.lines is None:
            return LENGTH
        return self.length or None

    @property
    def total_length(self) -> int | None:
        """The length of all texts together; None if it is not known before."""
        if self.max_length is None or self.lines or self.stop:
            return None
        return self.max_length * self.num_samples


@dataclass(frozen=True)
class Generation:
    """Texts that are generated while they are read, and metadata of each."""

    texts: Texts
    metadata: Iterable[dict[str, object]]
    log_probability: float | None = None  # nats; of a beam search


@click.command("sample", cls=Command)
@option_group(
    "Model",
    model_option,
    threads_option,
)
@option_group(
    "Length and end",
    option(
        "--length",
        type=int,
        callback=validator(check_int, minimum=0),
        show_default=f"{LENGTH}, or no limit with --lines",
        help="Maximum number of characters (bytes for a byte model); 0 means no limit.",
    ),
    option(
        "--lines",
        type=int,
        metavar="N",
        callback=validator(check_int, minimum=1),
        help="End each text after N complete lines of new text.",
    ),
    option(
        "--stop",
        type=TEXT,
        metavar="STRING",
        multiple=True,
        help="Stop before this string, which is not printed. May be repeated; the first match ends "
        "the text. The prime is not searched.",
    ),
)
@option_group(
    "Prime",
    option(
        "--prime",
        "--prompt",
        type=TEXT,
        metavar="TEXT",
        default="",
        show_default=False,
        help="Text to continue. It is printed first.",
    ),
    option(
        "--prime-file",
        type=FILE,
        help="File with the text to continue, in UTF-8; - is stdin. A newline at its end counts.",
    ),
    option(
        "--mid-line",
        is_flag=True,
        help="The text to continue starts in the middle of a line, not at its beginning.",
    ),
    unknown_option,
)
@option_group(
    "Choice of characters",
    option("--allow", type=TEXT, metavar="CHARS", help="Generate only these characters."),
    option(
        "--forbid",
        type=TEXT,
        metavar="CHARS",
        default="",
        show_default=False,
        help="Never generate these characters.",
    ),
    option(
        "--repetition-penalty",
        type=float,
        metavar="P",
        default=1.0,
        callback=validator(check_float, minimum=0, maximum=inf, exclusive_min=True),
        help="Multiply by P the log-probability of each of the last 32 characters, the prime "
        "included; above 1 makes them less likely (CTRL, Keskar et al. 2019).",
    ),
    option(
        "--temperature",
        type=float,
        default=1.0,
        callback=validator(check_float, minimum=0, maximum=inf),
        help="Sampling temperature: lower is safer, higher is bolder; 0 always chooses the most "
        "likely character.",
    ),
    option(
        "--top-k",
        type=int,
        metavar="K",
        default=0,
        callback=validator(check_int, minimum=0),
        help="Choose among the K most likely characters; 0 disables.",
    ),
    option(
        "--top-p",
        type=float,
        metavar="P",
        default=1.0,
        callback=validator(check_float, minimum=0, maximum=1, exclusive_min=True),
        help="Choose among the most likely characters whose probabilities add up to P "
        "(nucleus sampling).",
    ),
    option(
        "--min-p",
        type=float,
        metavar="P",
        default=0.0,
        callback=validator(check_float, minimum=0, maximum=1),
        help="Choose among characters at least P times as likely as the most likely one.",
    ),
    option(
        "--seed",
        type=int,
        callback=validator(check_int, minimum=0),
        show_default="random",
        help="Seed of the random numbers. The same seed gives the same text.",
    ),
    option(
        "--beam",
        type=int,
        metavar="K",
        callback=validator(check_int, minimum=1),
        help="Do not sample: find the most likely text by beam search with K hypotheses. Print "
        "its log-probability on stderr.",
    ),
)
@option_group(
    "Output",
    option(
        "-n",
        "--num-samples",
        type=int,
        metavar="N",
        default=1,
        callback=validator(check_int, minimum=1),
        help="Number of texts. Text I of seed S is the first text of seed S + I, counted from 0.",
    ),
    option(
        "--separator",
        type=TEXT,
        default="\n",
        show_default="newline",
        help="Print this after each text if there are several.",
    ),
    option(
        "--jsonl",
        is_flag=True,
        help="Write one JSON object per text and line: its seed (its log-probability with "
        "--beam), the prime and the text after the prime. Bytes that are not UTF-8 become lone "
        "surrogates (surrogateescape), which give them back.",
    ),
    option(
        "-o",
        "--output",
        type=FILE,
        default="-",
        show_default="stdout",
        help="File to write; an existing file is replaced. If the name contains {n}, write one "
        "file per text, with {n} replaced by its number, from 1.",
    ),
    option(
        "--novelty",
        type=FILE,
        metavar="CORPUS",
        help="Report on stderr how much of the new text is copied from this file, as `charrnn "
        "novelty` does.",
    ),
    corpus_encoding_option,
)
@click.pass_context
def command(ctx: click.Context, /, **options: Any) -> None:
    """Generate text with a trained model.

    The text is written as it is generated, after the prime. It starts as a line of the training
    text does, with the prime if there is one. On a terminal, a newline is added if the text does
    not end with one.

    The options for the choice of characters apply in this order: --allow and --forbid,
    --repetition-penalty, --temperature, --top-k, --top-p, --min-p.

    \b
    Example:
      charrnn sample --length 1000 --temperature 0.8 --prime "Once upon"
      charrnn sample -n 20 --seed 1 --stop $'\\n' | sort -u
      charrnn sample --lines 4 --forbid 0123456789
      charrnn sample -n 1000 --jsonl -o texts.jsonl
    """
    request = SampleRequest(**options)
    _check_usage(request, {name for name in options if is_explicit(ctx, name)})
    from ...api import load
    from ..idle_options import idle_options
    from ..sample_output import TextTee

    model = load(request.model, request.threads)
    r, lines = request, request.lines if request.max_length else None  # else, an error
    for sentence in idle_options(model.vocabulary, r.allow, r.forbid, r.stop, lines):
        echo_err(f"note    {sentence}")
    prime = _prime(request, model.vocabulary)
    known = None if request.novelty is None else _read_known(request, model.vocabulary)
    generation = _generate(request, model, prime)
    record = request.novelty is not None or request.beam is not None
    texts = TextTee(generation.texts, record, model.vocabulary.unit)
    _write(request, prime, texts, generation.metadata)
    _report(request, texts.texts(), generation.log_probability, model.vocabulary)
    if known is not None:
        say_novelty(texts.texts(), known)


def _check_usage(request: SampleRequest, explicit: set[str]) -> None:
    """Reject options that exclude each other, and outputs that would replace an input."""
    from ..sample_output import PLACEHOLDER, files_of

    r = request
    if r.prime and r.prime_file:
        raise UsageError("give --prime or --prime-file, not both.")
    if r.mid_line and not (r.prime or r.prime_file):
        raise UsageError("there is no line to continue: give --prime, or omit --mid-line.")
    if r.beam is not None and (ignored := [n for n in SAMPLING_OPTIONS if n in explicit]):
        names = ", ".join(f"--{name.replace('_', '-')}" for name in ignored)
        raise UsageError(f"a beam search does not sample: omit {names}, or omit --beam.")
    if r.jsonl and "separator" in explicit:
        raise UsageError("JSON lines have no separator: give --jsonl or --separator, not both.")
    if r.jsonl and PLACEHOLDER in r.output:
        raise UsageError(f"--jsonl writes all texts to one file: omit {PLACEHOLDER} in its name.")
    if r.corpus_encoding and not r.novelty:
        raise UsageError("--corpus-encoding is that of --novelty: give both, or omit it.")
    if r.novelty and r.length == 0 and not (r.lines or r.stop):
        raise UsageError("--novelty needs a text with an end: --length 0 has none.")
    inputs = filter(None, (r.model, r.prime_file, r.novelty))
    outputs = files_of(r.output, r.num_samples)
    require_not_input(outputs, inputs, what="the output", option="--output")


def _prime(request: SampleRequest, vocabulary: Vocabulary) -> str:
    """The text to continue, without the characters that --unknown skips."""
    prime = request.prime
    if request.prime_file:
        prime = _read_prime(request.prime_file, vocabulary)
    if request.unknown == "error":
        return prime
    skipped_characters = vocabulary.unknown(prime)
    warn_unknown(skipped_characters)
    return prime.translate(dict.fromkeys(map(ord, skipped_characters)))


def _read_prime(path: str, vocabulary: Vocabulary) -> str:
    """Read the prime from a file. For a byte model, bytes that are not UTF-8 become surrogates."""
    data = read_stdin() if path == "-" else Path(path).read_bytes()
    try:
        return vocabulary.from_utf8(data)
    except UnicodeDecodeError as error:
        raise CharRNNError(
            f"{path}: the prime is not UTF-8: invalid byte at {error.start}."
        ) from None


def _read_known(request: SampleRequest, vocabulary: Vocabulary) -> Corpus:
    """Read the corpus of --novelty: before text is generated, which may take long."""
    if request.corpus_encoding and vocabulary.is_bytes:
        raise UsageError("a model of bytes is compared in bytes: omit --corpus-encoding.")
    encoding = request.corpus_encoding or "utf-8"
    return read_known(request.novelty or "", encoding, as_bytes=vocabulary.is_bytes)


def _generate(request: SampleRequest, model: LanguageModel, prime: str) -> Generation:
    r = request
    common: dict[str, Any] = {
        "length": r.max_length, "lines": r.lines, "stop": r.stop, "prime": prime,
        "mid_line": r.mid_line, "allow": r.allow, "forbid": r.forbid,
    }  # fmt: skip
    if r.beam is not None:
        text, log_probability = model.beam(r.beam, **common)
        return Generation([[text]], [{"log_probability": log_probability}], log_probability)
    seed = int.from_bytes(os.urandom(4), "little") if r.seed is None else r.seed
    texts = model.texts(
        r.num_samples,
        temperature=r.temperature,
        repetition_penalty=r.repetition_penalty,
        top_k=r.top_k,
        top_p=r.top_p,
        min_p=r.min_p,
        seed=seed,
        **common,
    )
    return Generation(texts, ({"seed": seed + i} for i in range(r.num_samples)))


def _write(
    request: SampleRequest, prime: str, texts: TextTee, metadata: Iterable[dict[str, object]]
) -> None:
    from ..progress import text_bar
    from ..sample_output import write_objects, write_texts

    with text_bar(request.output, request.total_length, texts.unit) as texts.progressed:
        if request.jsonl:
            write_objects(texts, request.output, prime, metadata)
        else:
            separator = request.separator if request.num_samples > 1 else None
            write_texts(texts, request.output, prime, separator, request.num_samples)


def _report(
    request: SampleRequest,
    texts: list[bytes],
    log_probability: float | None,
    vocabulary: Vocabulary,
) -> None:
    """Print the log-probability of a beam search on stderr."""
    if log_probability is not None:
        [text] = texts
        length = len(vocabulary.to_symbols(text.decode("utf-8", "surrogateescape")))
        echo_err(_log_probability(log_probability, length, vocabulary.unit, bool(request.stop)))


def _log_probability(nats: float, length: int, unit: str, stopped: bool) -> str:
    if stopped:
        return f"log-probability {nats:.4f} nats, including the stop"
    mean = f" ({nats / length:.4f} per {unit})" if length else ""
    return f"log-probability {nats:.4f} nats{mean}"
