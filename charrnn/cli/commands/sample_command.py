"""`charrnn sample`: generate text."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from math import inf
from typing import TYPE_CHECKING, Any, cast

import click

from ...config import check_float, check_int
from ...errors import UsageError
from ..options import (
    FILE,
    TEXT,
    Command,
    corpus_encoding_option,
    is_explicit,
    mix_option,
    mixed_models_option,
    option,
    option_group,
    threads_option,
    unknown_option,
    validator,
)
from ..output import echo_err
from ..sample_request import LENGTH, SampleRequest, check_end, check_usage
from .novelty_command import read_known, say_novelty

if TYPE_CHECKING:
    from ...api import LanguageModel
    from ...generation.samples import Sample
    from ...text.corpus import Corpus
    from ...text.vocabulary import Vocabulary
    from ...text_generator import TextGenerator
    from ..sample_output import Answer, TextTee


@click.command("sample", cls=Command)
@option_group(
    "Model",
    mixed_models_option,
    mix_option,
    threads_option,
)
@option_group(
    "Length and end",
    option(
        "--length",
        type=int,
        callback=validator(check_int, minimum=0),
        show_default=f"{LENGTH}, or no limit with --lines",
        help="Maximum number of characters (bytes for a byte model); 0 means no limit. Longer "
        "records are left out, not cut.",
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
    option(
        "--min-length",
        type=int,
        metavar="N",
        default=0,
        callback=validator(check_int, minimum=0),
        help="Write only texts of at least N characters, counted as by --length.",
    ),
    option(
        "--max-length",
        type=int,
        metavar="N",
        callback=validator(check_int, minimum=0),
        help="Write only texts of at most N characters, counted as by --length, which cuts a text.",
    ),
)
@option_group(
    "Choice of texts",
    option("--unique", is_flag=True, help="Write no text twice."),
    option(
        "--not-in",
        type=FILE,
        help="Write no text that stands in this file in UTF-8; - is stdin. A text of one line is "
        "compared with the lines of the file, one of several lines is searched in it. The newline "
        "at the end of a text does not count. Records are compared with records.",
    ),
    option(
        "--match",
        type=TEXT,
        metavar="REGEX",
        help="Write only texts in which this regular expression of Python (re.search) is found.",
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
        "--primes",
        type=FILE,
        help="File with a text to continue on each line, in UTF-8; - is stdin. Each is continued "
        "once, and the texts are written in this order. Those of the lines that stdin has so far "
        "are written before it is read again.",
    ),
    option("--omit-prime", is_flag=True, help="Print only the new text, not the prime."),
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
        "--first",
        type=int,
        metavar="I",
        default=0,
        callback=validator(check_int, minimum=0),
        help="Number of the first text among those of the seed, which are independent of each "
        "other and of those of other seeds.",
    ),
    option(
        "--beam",
        type=int,
        metavar="K",
        callback=validator(check_int, minimum=1),
        help="Do not sample: find the most likely text by beam search with K hypotheses. Print "
        "its log-probability on stderr.",
    ),
    option(
        "--all",
        is_flag=True,
        help="Write the K most likely texts that the beam search finds, the most likely first.",
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
        help="Number of texts. None depends on the others.",
    ),
    option(
        "--separator",
        type=TEXT,
        show_default="newline, or the end of a record",
        help="Print this after each text if there are several, or --primes is given; always after "
        "a record.",
    ),
    option(
        "--jsonl",
        is_flag=True,
        help="Write one JSON object per text and line: its seed and its index, from 0 (without "
        "--beam), its log-probability under the model in nats, which no other option changes, the "
        "prime and the text after the prime. Bytes that are not UTF-8 become lone surrogates "
        "(surrogateescape), which give them back.",
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

    --unique, --not-in and --match look at the prime and the new text together. After 100,000 texts
    in a row that they, --min-length or --max-length reject, an error ends the command.

    With several models, each character has the weighted mean of its probabilities in them. Their
    characters are united; a model skips those that it does not know.

    A model that reads backwards (`charrnn train --backward`) writes the text before the prime, the
    ending; --lines counts newlines from the end. Nothing is shown before a text is complete.

    A model of records (`charrnn train --records`) writes records: -n 20 is twenty lines if lines
    are its records. The model ends each of them. A record that is longer than --length is not
    written and does not count; a note on stderr tells their number. Its log-probability includes
    its end. --lines, --stop and --mid-line are for running text.

    \b
    Example:
      charrnn sample --length 1000 --temperature 0.8 --prime "Once upon"
      charrnn sample -n 20 --seed 1 --stop $'\\n' | sort -u
      charrnn sample --lines 4 --forbid 0123456789
      charrnn sample -n 1000 --jsonl -o texts.jsonl
      charrnn sample -n 1000 --stop $'\\n' --unique --not-in names.txt --match '^A'
      charrnn sample --primes - --stop $'\\n' --jsonl < beginnings.txt
      charrnn sample -m names.safetensors -n 20 --unique --not-in names.txt
      charrnn sample -m plays.safetensors -m novels.safetensors --mix 0.7,0.3
    """
    request = SampleRequest(**options)
    check_usage(request, {name for name in options if is_explicit(ctx, name)})
    from ..idle_options import idle_options
    from ..mixed_models import load_models
    from ..sample_output import TextTee

    model = load_models(request.models, request.mix, request.threads)
    check_end(request, model.separator is not None)
    r, lines = request, request.lines if request.length_limit else None  # else, an error
    for sentence in idle_options(model.vocabulary, r.allow, r.forbid, r.stop, lines):
        echo_err(f"note    {sentence}")
    known = None if request.novelty is None else _read_known(request, model.vocabulary)
    if request.beam is None:
        answers = _sampled(request, model)
    else:
        answers = _searched(request, cast("LanguageModel", model))  # see check_usage
    end, unit = model.record_end, model.vocabulary.unit
    texts = TextTee(answers, known is not None, unit, with_prime=bool(end))
    _write(request, texts, end)
    if known is not None:
        say_novelty(texts.texts(), known, end.decode("utf-8", "surrogateescape") or None)


def _read_known(request: SampleRequest, vocabulary: Vocabulary) -> Corpus:
    """Read the corpus of --novelty: before text is generated, which may take long."""
    if request.corpus_encoding and vocabulary.is_bytes:
        raise UsageError("a model of bytes is compared in bytes: omit --corpus-encoding.")
    encoding = request.corpus_encoding or "utf-8"
    return read_known(request.novelty or "", encoding, as_bytes=vocabulary.is_bytes)


def _common(request: SampleRequest) -> dict[str, Any]:
    """The options of sampling and of beam search."""
    r = request
    return {
        "length": r.length_limit, "lines": r.lines, "stop": r.stop, "mid_line": r.mid_line,
        "allow": r.allow, "forbid": r.forbid,
    }  # fmt: skip


def _sampled(request: SampleRequest, model: TextGenerator) -> Iterator[Answer]:
    """Sample texts. Those that may be written before they are complete come in pieces."""
    from ...generation.seeds import fresh_seed
    from ..sample_output import Answer
    from ..sample_primes import prime_batches, read_prime

    r = request
    how = _common(r) | {
        "temperature": r.temperature, "repetition_penalty": r.repetition_penalty,
        "top_k": r.top_k, "top_p": r.top_p, "min_p": r.min_p, "first": r.first,
        "seed": fresh_seed() if r.seed is None else r.seed,
    }  # fmt: skip
    conditions: dict[str, Any] = {
        "unique": r.unique, "not_in": r.not_in, "match": r.match, "min_length": r.min_length,
        "max_length": r.max_length,
    }  # fmt: skip
    if r.primes is not None:
        batches = prime_batches(r, model.vocabulary, model.record_end)
        samples = model.answers(batches, **how, **conditions)
    else:
        prime = read_prime(r, model.vocabulary)
        if not r.needs_whole_texts:
            texts = model.texts(r.num_samples, prime=prime, **how)
            return (Answer(prime, pieces, backward=model.backward) for pieces in texts)
        samples = model.samples(r.num_samples, prime=prime, **how, **conditions)
    return (
        Answer(sample.prime, [sample.data], _metadata(sample), model.backward) for sample in samples
    )


def _metadata(sample: Sample) -> dict[str, object]:
    return {
        "seed": sample.seed, "index": sample.index, "log_probability": sample.log_probability,
    }  # fmt: skip


def _searched(request: SampleRequest, model: LanguageModel) -> Iterator[Answer]:
    """Search for the most likely texts; report each log-probability after its text is written."""
    from ..sample_output import Answer
    from ..sample_primes import prime_batches, read_prime

    r = request
    if r.primes is None:
        primes = iter([read_prime(r, model.vocabulary)])
    else:
        primes = chain.from_iterable(prime_batches(r, model.vocabulary, model.record_end))
    for prime in primes:
        for text, nats in model.beams(r.beam or 1, r.num_texts, prime=prime, **_common(r)):
            yield Answer(prime, [text], {"log_probability": nats}, model.backward)
            length = len(model.vocabulary.to_symbols(text.decode("utf-8", "surrogateescape")))
            end = "the end" if model.separator else "the stop" if r.stop else ""
            echo_err(_log_probability(nats, length, model.vocabulary.unit, end))


def _log_probability(nats: float, length: int, unit: str, end: str) -> str:
    if end:
        return f"log-probability {nats:.4f} nats, including {end}"
    mean = f" ({nats / length:.4f} per {unit})" if length else ""
    return f"log-probability {nats:.4f} nats{mean}"


def _write(request: SampleRequest, texts: TextTee, record_end: bytes) -> None:
    """Write the texts; those of a model of records each with its end."""
    from ..progress import text_bar
    from ..sample_output import write_objects, write_texts

    r = request
    total = None if record_end else r.total_length
    with text_bar(r.output, total, texts.unit) as texts.progressed:
        if r.jsonl:
            write_objects(texts, r.output)
        else:
            end = record_end or b"\n"
            if r.separator is not None:
                end = r.separator.encode("utf-8", "surrogateescape")
            separator = None if r.is_single and not record_end else end
            write_texts(texts, r.output, separator, r.num_texts, r.omit_prime)
