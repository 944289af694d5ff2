"""`charrnn eval`: how well a model predicts a text."""

from __future__ import annotations

import math

import click

from .common import (
    FILE,
    json_option,
    model_option,
    print_json,
    print_table,
    threads_option,
    unknown_option,
    warn_unknown,
)


@click.command("eval")
@click.argument("texts", metavar="TEXT...", nargs=-1, required=True, type=FILE)
@model_option
@json_option
@unknown_option
@click.option("--encoding", default="utf-8", help="How the text is encoded.")
@threads_option
def command(texts, model, json, unknown, encoding, threads) -> None:
    """Measure how well a model predicts a text.

    The lower the numbers, the better. Each character is predicted from all before it, in one pass
    over the text; the mean is over all characters but the first. Several files are read as one
    text; `-` is stdin.

    \b
    Example:
      charrnn eval held-out.txt
      charrnn eval --json held-out.txt | jq .bits_per_character
    """
    from ..api import load
    from ..corpus import read_corpus

    language_model = load(model, threads)
    corpus = read_corpus(
        texts, encoding=encoding, vocabulary=language_model.vocabulary, unknown=unknown
    )
    warn_unknown(corpus.left_out)
    from ..evaluate import mean_loss

    nats = mean_loss(language_model.model, corpus.ids)
    bits = nats / math.log(2)
    perplexity = math.exp(nats) if nats < 700 else math.inf
    if json:
        print_json(
            {
                "nats_per_character": nats,
                "bits_per_character": bits,
                "perplexity": perplexity,
                "characters": len(corpus.ids),
            }
        )
    else:
        print_table(
            [
                ("characters", f"{len(corpus.ids):,}"),
                ("nats per character", f"{nats:.4f}"),
                ("bits per character", f"{bits:.4f}"),
                ("perplexity", f"{perplexity:.4f}"),
            ]
        )
