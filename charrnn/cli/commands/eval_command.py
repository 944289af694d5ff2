"""`charrnn eval`: how well a model predicts a text."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import click

from ...config import check_int
from ..options import (
    FILE,
    echo_err,
    json_option,
    loss_in_words,
    model_option,
    print_json,
    print_table,
    threads_option,
    unknown_option,
    validator,
    warn_unknown,
)

if TYPE_CHECKING:
    from ...text.corpus import Corpus


@click.command("eval")
@click.argument("texts", metavar="TEXT...", nargs=-1, required=True, type=FILE)
@model_option
@json_option
@unknown_option
@click.option(
    "--corpus",
    multiple=True,
    type=FILE,
    show_default=False,
    help="What the model has learned from, without TEXT: also measure an n-gram and xz that "
    "learn from it. Give it again to add a file.",
)
@click.option(
    "--window",
    type=int,
    callback=validator(check_int, minimum=1),
    metavar="CHARACTERS",
    help="Also predict from within windows of so many characters, knowing nothing of what is "
    "before each.",
)
@click.option("--encoding", default="utf-8", help="How the text is encoded.")
@threads_option
def command(texts, model, json, unknown, corpus, window, encoding, threads) -> None:
    """Measure how well a model predicts a text.

    The lower the numbers, the better. Each character is predicted from all before it, in one pass
    over the text; the mean is over all characters but the first. Several files are read as one
    text; `-` is stdin.

    The n-gram counts what follows 0 to 5 characters in the last 3,000,000 characters of --corpus,
    and the best is shown; xz is shown their last megabyte. Both are measured on the first 500,000
    characters of TEXT, and not at all on fewer than 200.

    \b
    Example:
      charrnn eval held-out.txt
      charrnn eval held-out.txt --corpus novels.txt
      charrnn eval --json held-out.txt | jq .bits_per_character
    """
    from ...api import load
    from ...text.corpus import read_corpus
    from ..progress import byte_bar, char_bar

    language_model = load(model, threads)

    def read(paths: tuple[str, ...]) -> Corpus:
        how = {"encoding": encoding, "vocabulary": language_model.vocabulary, "unknown": unknown}
        with byte_bar() as progress:
            found = read_corpus(paths, progress=progress, **how)
        warn_unknown(found.skipped_characters)
        return found

    text = read(texts)
    train = read(corpus) if corpus else None
    from ...evaluation.loss import mean_loss, windowed_loss

    with char_bar(len(text.ids)) as measured:
        nats = mean_loss(language_model.model, text.ids, measured)
    more = []  # (name in JSON, name in the table, nats per character)
    if window:
        cold = windowed_loss(language_model.model, text.ids, window)
        more.append(("window", f"in windows of {window:,}", cold))
    if train:
        more += _baselines(train, text)
    if json:
        values = {**_in_nats_and_bits("", nats), "perplexity": _perplexity(nats)}
        values["characters"] = len(text.ids)
        for name, _, loss in more:
            values |= _in_nats_and_bits(f"{name}_", loss)
        print_json(values)
    else:
        rows = [
            ("characters", f"{len(text.ids):,}"),
            ("nats per character", f"{nats:.4f}"),
            ("bits per character", f"{nats / math.log(2):.4f}"),
            ("perplexity", f"{_perplexity(nats):.4f}"),
        ]
        print_table(rows + [(name, loss_in_words(loss)) for _, name, loss in more])


def _baselines(train: Corpus, text: Corpus) -> list[tuple[str, str, float]]:
    """What the text costs an n-gram and xz; nothing, said so, for one that is too short."""
    from ...evaluation.baselines import LEAST_CHARS, baselines

    found = baselines(train.ids, text.ids, text.vocabulary)
    if found is None:
        echo_err(
            f"Warning: fewer than {LEAST_CHARS} characters tell nothing of an n-gram or of xz."
        )
        return []
    ngram = f"n-gram, looking back {found.order}"
    return [("ngram", ngram, found.ngram), ("xz", "xz", found.xz)]


def _perplexity(nats: float) -> float:
    return math.exp(nats) if nats < 700 else math.inf


def _in_nats_and_bits(prefix: str, nats: float) -> dict[str, float]:
    bits = nats / math.log(2)
    return {f"{prefix}nats_per_character": nats, f"{prefix}bits_per_character": bits}
