"""`charrnn eval`: the loss of a model on a text."""

from __future__ import annotations

import math
from itertools import compress
from typing import TYPE_CHECKING, Literal

import click

from ...config import UNKNOWN_NATS, check_int
from ...errors import UsageError
from ..options import (
    FILE,
    Command,
    charged_unknown_option,
    encoding_option,
    errors_option,
    json_option,
    mix_option,
    mixed_models_option,
    option,
    threads_option,
    validator,
)
from ..output import echo_err, loss_in_words, print_json, print_table, warn_unknown

if TYPE_CHECKING:
    from ...evaluation.evaluate import Evaluation
    from ...text.corpus import Corpus
    from ...text.reader import OnUndecodable


@click.command("eval", cls=Command, short_help="Measure the loss of a model on a text.")
@click.argument("texts", metavar="TEXT...", nargs=-1, required=True, type=FILE)
@mixed_models_option
@mix_option
@json_option()
@charged_unknown_option
@option(
    "--corpus",
    multiple=True,
    type=FILE,
    show_default=False,
    help="Training text of the model, without TEXT. Also measure an n-gram model and xz on it as "
    "baselines. May be repeated; the files are joined in order.",
)
@option(
    "--window",
    type=int,
    callback=validator(check_int, minimum=1),
    metavar="CHARACTERS",
    help="Also measure the loss in windows of this length, each predicted without the text "
    "before it.",
)
@option(
    "--adapt",
    is_flag=True,
    help="Also measure the loss while a copy of the model learns from TEXT (dynamic "
    "evaluation, Krause et al. 2018). Each character is predicted before it is learned from.",
)
@encoding_option
@errors_option
@threads_option
def command(
    texts: tuple[str, ...],
    models: tuple[str, ...],
    mix: tuple[float, ...] | None,
    as_json: bool,
    unknown: Literal["error", "skip", "count"],
    corpus: tuple[str, ...],
    window: int | None,
    adapt: bool,
    encoding: str,
    errors: OnUndecodable,
    threads: int | None,
) -> None:
    """Measure the loss of a model, or of a mixture of models, on a text.

    Lower is better. Each character is predicted from all characters before it, in one pass over the
    text, the first one as the first of a line. Several files are read as one text; `-` is stdin. A
    model of records reads each record on its own, with its end.

    The n-gram model is the best of those with 0 to 5 characters of context. It counts the last
    3,000,000 characters of --corpus; xz compresses after their last megabyte. Both are measured on
    the first 500,000 characters of TEXT, which must have at least 200.

    \b
    Example:
      charrnn eval test.txt
      charrnn eval test.txt --corpus novels.txt
      charrnn eval test.txt --adapt
      charrnn eval test.txt -m plays.safetensors -m novels.safetensors --mix 0.7,0.3
      charrnn eval --json test.txt | jq .bits_per_character
    """
    if len(models) > 1:
        _check_mixture(window, adapt, unknown)
    from ...text.corpus import read_corpus
    from ...text.reader import EncodingOptions
    from ..mixed_models import load_models
    from ..progress import byte_bar, char_bar

    model = load_models(models, mix, threads)
    if window is not None and model.separator is not None:
        raise UsageError("--window is for models of running text: this one is of records.")

    def read(paths: tuple[str, ...]) -> Corpus:
        with byte_bar() as progress:
            found = read_corpus(
                paths,
                encoding=encoding,
                vocabulary=model.vocabulary,
                unknown="error" if unknown == "error" else "skip",
                errors=errors,
                separator=model.separator,
                progress=progress,
                options=EncodingOptions(errors="--errors replace"),
            )
        warn_unknown(found.skipped_characters)
        if found.num_empty:
            echo_err(f"note    {found.num_empty:,} empty records were left out")
        return found

    if model.backward:
        echo_err(
            "note    the model reads backwards: each character is predicted from those after it"
        )
    text = read(texts)
    training_text = read(corpus) if corpus else None
    from ...api import LanguageModel
    from ...evaluation.evaluate import evaluate, evaluate_mixture
    from ...evaluation.unknown import count_nats

    with char_bar((1 + adapt) * len(text.ids), text.vocabulary.unit) as measured:
        if isinstance(model, LanguageModel):
            charged = unknown == "count" and text.num_skipped
            result = evaluate(
                model.model,
                text,
                training_text=training_text,
                window=window,
                adapt=adapt,
                unknown_nats=count_nats(model.training) if charged else UNKNOWN_NATS,
                progress=measured,
            )
        else:
            result = evaluate_mixture(
                model.parts, text, training_text=training_text, progress=measured
            )
    unit = model.vocabulary.unit
    if training_text and result.baselines is None:
        _warn_too_short(unit)
    if adapt:
        _warn_unadapted(len(text.ids), unit)
    if as_json:
        print_json(_object(result))
    else:
        print_table(_rows(result, window, unit))


def _check_mixture(window: int | None, adapt: bool, unknown: str) -> None:
    """Reject options that several models do not have."""
    is_given = window is not None, adapt, unknown == "count"
    if names := list(compress(("--window", "--adapt", "--unknown count"), is_given)):
        raise UsageError(f"{' and '.join(names)} measure one model: give one -m, or omit them.")


def _warn_too_short(unit: str) -> None:
    from ...evaluation.baselines import MIN_EVAL_CHARS

    echo_err(f"Warning: the n-gram and xz are not measured on fewer than {MIN_EVAL_CHARS} {unit}s.")


def _warn_unadapted(count: int, unit: str) -> None:
    from ...evaluation.adaptation import STEPS

    if count <= STEPS:
        echo_err(f"Warning: --adapt has no effect on fewer than {STEPS + 1} {unit}s.")


def _object(result: Evaluation) -> dict[str, object]:
    from ...evaluation.loss import perplexity

    values: dict[str, object] = {
        **_in_nats_and_bits("", result.loss),
        "perplexity": perplexity(result.loss),
        "characters": result.characters,
        "unknown": result.unknown,
    }
    if result.windowed_loss is not None:
        values |= _in_nats_and_bits("window_", result.windowed_loss)
    if result.adapted_loss is not None:
        values |= _in_nats_and_bits("adapted_", result.adapted_loss)
    if baselines := result.baselines:
        values |= _in_nats_and_bits("ngram_", baselines.ngram)
        if baselines.xz is not None:
            values |= _in_nats_and_bits("xz_", baselines.xz)
    return values


def _in_nats_and_bits(prefix: str, nats: float) -> dict[str, float]:
    bits = nats / math.log(2)
    return {f"{prefix}nats_per_character": nats, f"{prefix}bits_per_character": bits}


def _rows(result: Evaluation, window: int | None, unit: str) -> list[tuple[str, str]]:
    from ...evaluation.loss import perplexity

    rows = [
        (f"{unit}s", f"{result.characters:,}"),
        (f"nats per {unit}", f"{result.loss:.4f}"),
        (f"bits per {unit}", f"{result.loss / math.log(2):.4f}"),
        ("perplexity", f"{perplexity(result.loss):.4f}"),
    ]
    if result.unknown:
        nats = result.unknown_nats
        cost = "read as the unknown symbol" if nats is None else f"{nats:.4g} nats each"
        rows.insert(1, ("unknown characters", f"{result.unknown:,}, {cost}"))
    if result.windowed_loss is not None:
        rows.append((f"in windows of {window:,}", loss_in_words(result.windowed_loss, unit)))
    if result.adapted_loss is not None:
        rows.append(("adapting to the text", loss_in_words(result.adapted_loss, unit)))
    if baselines := result.baselines:
        rows.append((f"n-gram, context {baselines.order}", loss_in_words(baselines.ngram, unit)))
        if baselines.xz is not None:
            rows.append(("xz", loss_in_words(baselines.xz, unit)))
    return rows
