"""`charrnn train`: learn a text, show how it goes, stop when told to."""

from __future__ import annotations

import logging
import os
import shlex
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, get_type_hints

import click
from click.core import ParameterSource

from ...config import (
    CELL_NAMES,
    LEARNING_RATES,
    OPTIMIZER_NAMES,
    PRECISIONS,
    SCHEDULE_NAMES,
    TrainOptions,
    check_int,
)
from ...errors import UsageError
from ..options import FILE, MODEL, echo_err, loss_in_words, threads_option, validator

if TYPE_CHECKING:
    from ...evaluation.baselines import Baselines
    from ...training.report import Report
    from ...training.run import TrainingRun
    from ...training.start import PreparedRun

# What ends a run, which is saved first, and the word for it.
SIGNALS = {signal.SIGINT: "Interrupted", signal.SIGTERM: "Terminated"}
if hasattr(signal, "SIGHUP"):
    SIGNALS[signal.SIGHUP] = "Hung up"
SAMPLE_LENGTH = 200

FIELD_TYPES = get_type_hints(TrainOptions)


class Duration(click.ParamType):
    """Seconds, from 90, 90s, 10m, 1.5h."""

    name = "duration"
    UNITS = {"s": 1, "m": 60, "h": 3600}

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        if isinstance(value, float):
            return value
        text = value.strip().lower()
        unit = text[-1:] if text[-1:] in self.UNITS else ""
        try:
            return float(text.removesuffix(unit)) * self.UNITS.get(unit, 1)
        except ValueError:
            self.fail(f"{value!r} is not a time: give seconds, or 90s, 10m, 2h.", param, ctx)


def field_option(name: str, help: str, **more: Any):
    """The option for a field of TrainOptions, which knows its type, default and limits."""
    field_type = FIELD_TYPES[name]
    more.setdefault("type", next(iter(getattr(field_type, "__args__", ())), field_type))
    return click.option(
        "--" + name.replace("_", "-"),
        default=getattr(TrainOptions, name),
        callback=validator(lambda name, value: TrainOptions(**{name: value})),
        help=help,
        **more,
    )


@click.command("train")
@click.argument("corpus", metavar="CORPUS...", nargs=-1, required=True, type=FILE)
@click.option(
    "-o",
    "--output",
    type=FILE,
    default=MODEL,
    help="The model to write. Beside it go its .log.jsonl and what --resume needs.",
)
@field_option("cell", "The kind of recurrent network.", type=click.Choice(CELL_NAMES))
@field_option("hidden_size", "Units in each layer.", show_default="128, or fitted to --time")
@field_option("num_layers", "Layers, one upon the other.")
@field_option("embedding_size", "Size of a learned code for each character; 0: none (one-hot).")
@field_option(
    "dropout",
    "Share of the units switched off at random, between layers and before the output.",
    show_default="0, or fitted to --time",
)
@field_option(
    "recurrent_dropout",
    "Share of the weights from one step to the next switched off at random.",
    show_default="0, or fitted to --time",
)
@field_option("seq_length", "Characters through which the error is followed back.")
@field_option(
    "batch_size",
    "Places in the text that are read side by side.",
    show_default="16, or with --time fewer for a short text",
)
@field_option(
    "time",
    "How long to train: 90s, 10m, 2h. Sizes that are not given are fitted to it.",
    type=Duration(),
    show_default="3m, unless --epochs or --steps is given",
)
@field_option("epochs", "Times to read the text, instead of --time.", type=float)
@field_option("steps", "Updates to make, instead of --time.", type=int)
@field_option("optimizer", "How the weights are updated.", type=click.Choice(OPTIMIZER_NAMES))
@field_option(
    "learning_rate",
    "The size of an update, at first.",
    type=float,
    show_default=", ".join(f"{name} {rate:g}" for name, rate in LEARNING_RATES.items()),
)
@field_option("schedule", "How the learning rate falls.", type=click.Choice(SCHEDULE_NAMES))
@field_option("momentum", "Momentum of sgd.")
@field_option(
    "weight_decay",
    "Decoupled weight decay of adam and cautious-adam.",
    show_default="0, or fitted to --time",
)
@field_option(
    "lr_decay", "exponential: factor on the learning rate after each epoch ...", type=float
)
@field_option("lr_decay_after", "... from this epoch on.", type=float)
@field_option("clip_value", "Limit each element of the gradient to this, up and down; 0: do not.")
@field_option("clip_norm", "Limit the length of the whole gradient to this; 0: do not.")
@field_option("val_fraction", "Share of the text, its end, held out to choose the best weights by.")
@field_option("val_chars", "Characters of it that each look reads, at most.")
@field_option(
    "patience",
    "Stop after so many looks at what is held out that were all worse than the best, while the "
    "rest is learned by heart; 0: never.",
)
@click.option(
    "--bytes", "bytes", is_flag=True, help="Learn bytes, not characters: any file will do."
)
@click.option("--encoding", default="utf-8", help="How the text is encoded.")
@field_option(
    "precision",
    "What is multiplied; all else is float32. bfloat16 needs a processor with AVX-512 BF16.",
    type=click.Choice(PRECISIONS),
)
@field_option("seed", "The same seed gives the same weights.")
@threads_option
@click.option("--resume", is_flag=True, help="Go on with the run that --output holds.")
@click.option("--overwrite", is_flag=True, help="Replace the run that --output holds.")
@click.option(
    "--sample-every",
    type=int,
    callback=validator(check_int, minimum=0),
    metavar="STEPS",
    default=0,
    help="Show a short sample on stderr every so many updates; 0: never.",
)
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but what went wrong.")
@click.pass_context
def command(
    ctx: click.Context,
    /,
    corpus: tuple[str, ...],
    output: str,
    resume: bool,
    overwrite: bool,
    sample_every: int,
    quiet: bool,
    **settings: Any,
) -> None:
    """Train a model on text files.

    Several files are joined in the order given; `-` is stdin. Ctrl-C saves the run, and --resume
    continues it exactly; options it was started with need not be given again. An existing run is
    never replaced unasked.

    \b
    Example:
      charrnn train corpus.txt
      charrnn train *.txt -o novels.safetensors --hidden-size 256 --dropout 0.2
      charrnn train corpus.txt --resume
    """
    if resume and overwrite:
        raise UsageError("give --resume or --overwrite, not both.")
    given = {name: value for name, value in settings.items() if _is_given(ctx, name)}
    if given.get("bytes") and "encoding" in given:
        raise UsageError("give --bytes or --encoding, not both.")
    encoding, as_bytes, threads = (
        given.pop(name, None) for name in ("encoding", "bytes", "threads")
    )
    if quiet:
        logging.getLogger("charrnn").setLevel(logging.WARNING)
    from ...training.start import prepare_run
    from ..progress import byte_bar, describe, show_baselines

    with byte_bar(quiet) as progress:
        prepared = prepare_run(
            corpus,
            output,
            given,
            encoding=encoding,
            as_bytes=as_bytes,
            resume=resume,
            overwrite=overwrite,
            threads=threads,
            progress=progress,
        )
    baselines = None if quiet else _baselines(prepared)
    run = prepared.start()
    if not quiet:
        describe(run.summary)
        show_baselines(baselines)
    report, received = _train(run, quiet, sample_every)
    if not run.finished:
        step = report.step if report else run.summary.resumed_step
        echo_err(f"{SIGNALS[received[0]]} after step {step:,}; the run is saved. To resume it:")
        echo_err(f"  {_resume_command(ctx)}")
        ctx.exit(128 + received[0])
    if not quiet:
        _conclude(run, report, output, baselines)


def _baselines(prepared: PreparedRun) -> Baselines | None:
    from ...evaluation.baselines import baselines

    return baselines(prepared.train_ids, prepared.val_ids, prepared.corpus.vocabulary)


def _train(
    run: TrainingRun, quiet: bool, sample_every: int
) -> tuple[Report | None, list[signal.Signals]]:
    """Train and show the progress; returns the last report and the signals received."""
    from ..progress import show_notice, show_text, training_bar

    report = None
    with _stopped_by_signals(run) as received, training_bar(run.summary, quiet) as show_report:
        for report in run:
            show_report(report)
            if report.notice:
                show_notice(report.notice)
            if sample_every and report.step % sample_every == 0 and not quiet:
                show_text(run.sample(SAMPLE_LENGTH))
        if notices := run.pop_notices():  # of the very last step
            show_notice(notices)
    return report, received


def _conclude(
    run: TrainingRun, report: Report | None, output: str, baselines: Baselines | None
) -> None:
    from ..progress import show_baseline_losses

    if report is None:
        echo_err("note    the run was finished before; nothing was left to do")
    elif report.best_val_loss is not None:
        loss = run.full_val_loss or report.best_val_loss
        echo_err(f"best    {loss_in_words(loss)} on the validation text")
        if baselines:
            show_baseline_losses(baselines)
    echo_err(f"done    charrnn sample -m {_quoted(output)}")


def _is_given(ctx: click.Context, name: str) -> bool:
    return ctx.get_parameter_source(name) is not ParameterSource.DEFAULT


@contextmanager
def _stopped_by_signals(run: TrainingRun) -> Iterator[list[signal.Signals]]:
    """Let signals save and end the run; yields the list of the signals received.

    A second Ctrl-C ends the process at once. Signals that are ignored, as under nohup, stay so.
    """
    received: list[signal.Signals] = []

    def stop(number: int, frame: object) -> None:
        received.append(signal.Signals(number))
        run.stop()
        if signal.SIGINT in before:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.getsignal(number) for number in SIGNALS}
    before = {k: handler for k, handler in before.items() if handler is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, stop)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _resume_command(ctx: click.Context) -> str:
    """The command line that was typed, with --resume."""
    words = [word for word in ctx.obj[1:] if word not in ("--resume", "--overwrite")]
    return " ".join(map(_quoted, [*ctx.command_path.split(), "--resume", *words]))


def _quoted(word: str) -> str:
    """Quote `word` for a shell, safe to print and to paste."""
    if word.isprintable():
        return shlex.quote(word)
    return "$'" + "".join(rf"\x{byte:02x}" for byte in os.fsencode(word)) + "'"
