"""`charrnn train`: train a model, show the progress, save on signals."""

from __future__ import annotations

import logging
import os
import shlex
import signal
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

import click

from ...config import (
    CELL_NAMES,
    DECODING_ERRORS,
    DEFAULT_NGRAMS,
    DISTRIBUTED,
    LEARNING_RATES,
    OPTIMIZER_NAMES,
    PRECISIONS,
    SCHEDULE_NAMES,
    TrainOptions,
    check_int,
)
from ...errors import UsageError
from ..options import (
    FILE,
    MODEL,
    TEXT,
    Command,
    OptionDecorator,
    encoding_option,
    is_explicit,
    option,
    option_group,
    threads_option,
    validator,
)
from ..output import echo_err, loss_in_words, read_stdin

if TYPE_CHECKING:
    from ...evaluation.baselines import Baselines
    from ...training.ranks import Ranks
    from ...training.report import Report
    from ...training.run import TrainingRun
    from ...training.start import PreparedRun

# What ends a run, which is saved first, and the word for it.
SIGNALS = {signal.SIGINT: "Interrupted", signal.SIGTERM: "Terminated"}
if hasattr(signal, "SIGHUP"):
    SIGNALS[signal.SIGHUP] = "Hung up"
SAMPLE_LENGTH = 200

FIELD_TYPES = get_type_hints(TrainOptions)


class Duration(click.ParamType):  # type: ignore[type-arg]  # not generic before click 8.4
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


class AutoChoice(click.Choice[Any]):
    """One of several names, or `auto`, which is None: choose for me."""

    def __init__(self, choices: Sequence[str]) -> None:
        super().__init__(["auto", *choices])

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        found = super().convert(value, param, ctx)
        return None if found == "auto" else found


class Separator(click.ParamType):  # type: ignore[type-arg]  # as above
    """A string in which escapes such as \\n and \\0 stand for characters."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from ...text.records import parse_separator

        try:
            return parse_separator(TEXT.convert(value, param, ctx))
        except UsageError as error:
            self.fail(str(error), param, ctx)


def field_option(name: str, help: str, **attributes: Any) -> OptionDecorator:
    """Return the option for a field of TrainOptions, with its type, default and limits."""
    field_type = FIELD_TYPES[name]
    attributes.setdefault("type", next(iter(getattr(field_type, "__args__", ())), field_type))
    return option(
        "--" + name.replace("_", "-"),
        default=getattr(TrainOptions, name),
        callback=validator(lambda name, value: TrainOptions(**{name: value})),
        help=help,
        **attributes,
    )


@click.command("train", cls=Command)
@click.argument("corpus", metavar="[CORPUS]...", nargs=-1, type=FILE)
@option_group(
    "Model",
    field_option("cell", "Type of the recurrent cells.", type=click.Choice(CELL_NAMES)),
    field_option(
        "hidden_size", "Number of units per layer.", show_default="128, or chosen to fit --time"
    ),
    field_option(
        "num_layers", "Number of stacked layers.", show_default="2, or chosen to fit --time"
    ),
    field_option(
        "embedding_size", "Size of a learned embedding of characters; 0 uses one-hot input."
    ),
    field_option(
        "ngrams",
        "Let the frequent n-grams of 2 to this many characters have input weights of their own; "
        "1: none.",
        show_default=f"{DEFAULT_NGRAMS}, or chosen to fit --time",
    ),
    field_option(
        "ensemble",
        "Train this many such models side by side and average their logits. The model file holds "
        "one model of this many times the units.",
        show_default="1, or chosen to fit --time",
    ),
    field_option(
        "backward",
        "Read CORPUS from its end to its beginning: the model writes the text before an ending.",
        is_flag=True,
        type=bool,
    ),
    field_option(
        "init_from",
        "Initialise the weights from this model file. The new model has its cell, sizes and "
        "n-grams, and its characters besides those of CORPUS.",
        type=FILE,
    ),
    field_option(
        "prune_vocabulary",
        "With --init-from, drop the characters that CORPUS lacks.",
        is_flag=True,
        type=bool,
    ),
)
@option_group(
    "Text",
    option(
        "--files-from",
        type=FILE,
        help="Read the files that this file names, one per line or each ended by a NUL, instead of "
        "CORPUS; - is stdin.",
    ),
    option(
        "--bytes",
        "as_bytes",
        is_flag=True,
        help="Learn bytes instead of characters. This accepts any file.",
    ),
    encoding_option,
    field_option(
        "errors",
        "At bytes that are not in the encoding: fail, or replace them by U+FFFD with a warning.",
        type=click.Choice(DECODING_ERRORS),
    ),
    field_option(
        "min_count",
        "Learn one symbol for all characters that occur fewer than this many times. `charrnn "
        "sample` never writes it; `charrnn score` and `eval` use it for unknown characters.",
        show_default="1: none",
    ),
    option(
        "--records",
        is_flag=True,
        help="Each line is a record, which does not depend on the others, as in a list.",
    ),
    field_option(
        "separator",
        r"What ends a record, instead of a line feed, such as ';' or '\0'. Implies --records.",
        type=Separator(),
    ),
)
@option_group(
    "How long",
    field_option(
        "time",
        "Training time, such as 90s, 10m or 2h. Sizes that are not given are chosen to fit it.",
        type=Duration(),
        show_default="3m, unless --epochs or --steps is given",
    ),
    field_option("epochs", "Number of passes over the text, instead of --time.", type=float),
    field_option("steps", "Number of updates, instead of --time.", type=int),
)
@option_group(
    "Optimization",
    field_option("seq_length", "Backpropagation length in characters (truncated BPTT)."),
    field_option(
        "batch_size",
        "Number of parallel text streams.",
        show_default="16, or fewer for a short text with --time",
    ),
    field_option(
        "optimizer",
        "Optimizer. cautious-adam is Adam without the updates that oppose the gradient (Liang et "
        "al. 2024).",
        type=click.Choice(OPTIMIZER_NAMES),
    ),
    field_option(
        "learning_rate",
        "Initial learning rate.",
        type=float,
        show_default=", ".join(f"{name} {rate:g}" for name, rate in LEARNING_RATES.items()),
    ),
    field_option("schedule", "Schedule of the learning rate.", type=click.Choice(SCHEDULE_NAMES)),
    field_option("momentum", "Momentum of sgd."),
    field_option(
        "lr_decay",
        "With --schedule exponential, multiply the learning rate by this after each epoch.",
        type=float,
    ),
    field_option(
        "lr_decay_after",
        "With --schedule exponential, begin the decay after this many epochs.",
        type=float,
    ),
    field_option("clip_value", "Clip each element of the gradient to this magnitude; 0 disables."),
    field_option("clip_norm", "Clip the norm of the whole gradient to this; 0 disables."),
    field_option(
        "precision",
        "Precision of matrix products; weights and sums stay float32. bfloat16 needs a processor "
        "with AVX-512 BF16 that is no slower in it; auto takes it where it is faster.",
        type=AutoChoice(PRECISIONS),
        show_default="auto with --time, otherwise float32",
    ),
    field_option("seed", "Seed of the random numbers. The same seed gives the same weights."),
    threads_option,
    option(
        "--distributed",
        type=click.Choice(DISTRIBUTED),
        default="auto",
        help="Share each batch with the other processes that mpirun or srun has started: mpi; "
        "train alone: none. auto finds them by the launcher's environment.",
    ),
    field_option(
        "local_steps",
        "Let each of these processes make this many updates on its own streams before their "
        "weights are averaged, for slow networks.",
    ),
)
@option_group(
    "Regularization",
    field_option(
        "dropout",
        "Dropout rate between layers and before the output.",
        show_default="0, or chosen to fit --time",
    ),
    field_option(
        "recurrent_dropout",
        "Dropout rate on the recurrent weights (Merity et al. 2018).",
        show_default="0, or chosen to fit --time",
    ),
    field_option(
        "weight_decay",
        "Decoupled weight decay of adam and cautious-adam.",
        show_default="0, or chosen to fit --time",
    ),
)
@option_group(
    "Validation",
    field_option(
        "val_fraction",
        "Fraction of each file, from its end, reserved for validation; of records, chosen at "
        "random. The best weights are those with the lowest validation loss.",
    ),
    option(
        "--val-file",
        type=FILE,
        help="Text for validation, instead of a fraction of CORPUS. A folder stands for its files.",
    ),
    field_option("val_chars", "Maximum number of validation characters per evaluation."),
    field_option(
        "patience",
        "Stop early after this many consecutive validations worse than the best, while the "
        "training loss still falls; 0 disables.",
    ),
)
@option_group(
    "Output",
    option(
        "-o",
        "--output",
        type=FILE,
        default=MODEL,
        help="Model file to write. The log (.log.jsonl) and the state for --resume are written "
        "next to it.",
    ),
    option(
        "--resume",
        is_flag=True,
        help="Continue the run of --output. With a larger --epochs, --steps or --time than before, "
        "train it further.",
    ),
    option("--overwrite", is_flag=True, help="Replace the run of --output."),
    option(
        "--sample-every",
        type=int,
        callback=validator(check_int, minimum=0),
        metavar="STEPS",
        default=0,
        help="Print a short sample on stderr every STEPS updates; 0 disables.",
    ),
    option("-q", "--quiet", is_flag=True, help="Print only warnings and errors."),
)
@click.pass_context
def command(
    ctx: click.Context,
    /,
    corpus: tuple[str, ...],
    files_from: str | None,
    val_file: str | None,
    records: bool,
    output: str,
    resume: bool,
    overwrite: bool,
    sample_every: int,
    quiet: bool,
    distributed: str,
    **settings: Any,
) -> None:
    """Train a model on text files.

    Several files are joined in the order given, with a line end after a last line that has none.
    A folder stands for its files, sorted by name, without hidden ones; `-` is stdin. Ctrl-C saves
    the run, and --resume continues it exactly, with the options it was started with. With a larger
    --epochs, --steps or --time, it trains the run further. An existing run is replaced only with
    --overwrite.

    \b
    Example:
      charrnn train corpus.txt
      charrnn train *.txt -o novels.safetensors --hidden-size 256 --dropout 0.2
      find -name '*.py' -print0 | charrnn train --files-from -
      charrnn train corpus.txt --resume
      charrnn train corpus.txt --resume --time 20m
      charrnn train --records names.txt
      charrnn train letters.txt --init-from novels.safetensors -o letters.safetensors
    """
    if resume and overwrite:
        raise UsageError("give --resume or --overwrite, not both.")
    if corpus and files_from is not None:
        raise UsageError("give CORPUS or --files-from, not both.")
    given = {name: value for name, value in settings.items() if is_explicit(ctx, name)}
    if given.get("as_bytes") and "encoding" in given:
        raise UsageError("give --bytes or --encoding, not both.")
    if given.get("as_bytes") and "errors" in given:
        raise UsageError("give --bytes or --errors, not both.")
    if records:
        given.setdefault("separator", "\n")
    how = {name: given.pop(name, None) for name in ("encoding", "as_bytes", "threads")}
    how |= {"val_file": val_file, "resume": resume, "overwrite": overwrite}
    if quiet:
        logging.getLogger("charrnn").setLevel(logging.WARNING)
    from ...training.mpi import connect
    from ...training.ranks import leading, threads_of_rank

    ranks = connect(distributed)
    if ranks.size > 1:
        texts = {"CORPUS": corpus, "--files-from": files_from, "--output": output}
        _require_agreement(ctx, ranks, given | how | texts)
        how["threads"] = how["threads"] or threads_of_rank(ranks)
    if ranks.rank:
        _follow(ranks, how["threads"])
        return
    with leading(ranks):
        paths = list(corpus) if files_from is None else _read_names(files_from)
        how |= {"ranks": ranks}
        run, received = _lead(ctx, paths, output, given, how, quiet, sample_every)
    if not run.finished:
        word, step = SIGNALS[received[0]], run.progress.step
        echo_err(f"{word} after step {step:,}; the run is saved. To resume it:")
        echo_err(f"  {_resume_command(ctx, ranks)}")
        ctx.exit(128 + received[0])


def _require_agreement(ctx: click.Context, ranks: Ranks, options: dict[str, Any]) -> None:
    """End all ranks unless they have the same options and version; rank 0 says why."""
    from ... import __version__
    from ...training.ranks import difference

    problem = difference(ranks, {"charrnn": __version__, **options})
    if "-" in (*options["CORPUS"], options["--files-from"]):
        # MPICH 5.0 fails on more than a pipe holds, Open MPI 5.0 never ends it.
        problem = "a launcher does not forward standard input reliably: give a file."
    if problem and ranks.rank:
        ctx.exit(2)
    if problem:
        raise UsageError(problem)


def _follow(ranks: Ranks, threads: int) -> None:
    """Train with rank 0, which gets the same signals and decides when all end."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    from ...training.data_parallel import follow

    follow(ranks, threads)


def _lead(
    ctx: click.Context,
    paths: list[str],
    output: str,
    settings: Mapping[str, Any],
    how: Mapping[str, Any],
    quiet: bool,
    sample_every: int,
) -> tuple[TrainingRun, list[signal.Signals]]:
    """Train, `how` being arguments of prepare_run; returns the run and the signals received."""
    from ...training.start import prepare_run
    from ..progress import byte_bar, describe, show_baselines, show_initial_loss

    if not paths:
        raise UsageError("there is no text to learn: give files, a folder, or --files-from.")
    with byte_bar(quiet) as progress:
        prepared = prepare_run(
            paths, output, settings, progress=progress, cpu_clock=time.process_time, **how
        )
    baselines = None if quiet else _baselines(prepared)
    run = prepared.start()
    _describe_origin(run, _shared_command(ctx, how["ranks"]), prepared.limit, baselines)
    if not quiet:
        describe(run.summary)
        show_baselines(baselines, run.summary.unit)
        show_initial_loss(run.summary)
    report, received = _train(run, quiet, sample_every)
    if run.finished and not quiet:
        _conclude(run, report, output, baselines)
    return run, received


def _read_names(path: str) -> list[str]:
    """Read the list of files that --files-from names."""
    from ...text.files import split_names

    data = read_stdin() if path == "-" else Path(path).read_bytes()
    return split_names(data)


def _baselines(prepared: PreparedRun) -> Baselines | None:
    from ...evaluation.baselines import baselines

    train_ids, val_ids, _ = prepared.split
    corpus = prepared.corpus
    return baselines(train_ids, val_ids, corpus.vocabulary, corpus.record_end_id)


def _describe_origin(
    run: TrainingRun, typed: str, limit: Mapping[str, float] | None, baselines: Baselines | None
) -> None:
    """Let the model file say how it was made; of a run that goes on to a new limit, with both."""
    known = run.writer.provenance
    first = known.setdefault("command", typed)
    if limit and first != typed:
        known["command"] = f"{first} && {typed}"
    if baselines:
        known["baselines"] = asdict(baselines)


def _train(
    run: TrainingRun, quiet: bool, sample_every: int
) -> tuple[Report | None, list[signal.Signals]]:
    """Train and show the progress; returns the last report and the signals received."""
    from ..progress import show_notice, show_text, training_bar

    report = None
    with _stopped_by_signals(run) as received, training_bar(run.summary, quiet) as show_report:
        for report in run:
            show_report(report)
            if notice := report.problem if quiet else report.notice:
                show_notice(notice)
            if sample_every and report.step % sample_every == 0 and not quiet:
                show_text(run.sample(SAMPLE_LENGTH))
        last = run.pop_notices()  # since the very last step
        if notice := last.problem if quiet else last.notice:
            show_notice(notice)
    return report, received


def _conclude(
    run: TrainingRun, report: Report | None, output: str, baselines: Baselines | None
) -> None:
    from ..progress import show_baseline_losses

    if run.stopped_early:
        echo_err("note    stopped early: validation loss stopped improving (overfitting)")
    if report is None:
        echo_err("note    the run was finished before; nothing was left to do")
    elif report.best_val_loss is not None:
        loss = report.best_val_loss if run.full_val_loss is None else run.full_val_loss
        echo_err(f"best    {loss_in_words(loss, run.summary.unit)} on the validation text")
        if baselines:
            show_baseline_losses(baselines, run.summary.unit)
        if run.has_initial_best:
            echo_err("note    training did not lower the loss of --init-from, whose weights stay")
    echo_err(f"done    charrnn sample -m {_quoted(output)}")


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


def _resume_command(ctx: click.Context, ranks: Ranks) -> str:
    """The command line that was typed, with --resume."""
    words = [word for word in ctx.obj[1:] if word not in ("--resume", "--overwrite")]
    return _command_line(ctx, ranks, ["--resume", *words])


def _shared_command(ctx: click.Context, ranks: Ranks) -> str:
    """The command line that was typed, for the model file: without folders, which are private."""
    return _command_line(ctx, ranks, map(_without_folder, ctx.obj[1:]))


def _command_line(ctx: click.Context, ranks: Ranks, words: Iterable[str]) -> str:
    launcher = ["mpirun", "-n", str(ranks.size)] if ranks.size > 1 else []
    return " ".join(map(_quoted, [*launcher, *ctx.command_path.split(), *words]))


def _without_folder(word: str) -> str:
    """A word of a command line; of a path, also after `--option=`, its last part."""
    option, equals, value = word.rpartition("=") if word.startswith("--") else ("", "", word)
    name = os.path.basename(os.path.normpath(value))
    is_path = os.path.isdir(os.path.dirname(value)) and bool(name)
    return f"{option}{equals}{name if is_path else value}"


def _quoted(word: str) -> str:
    """Quote `word` for a shell, safe to print and to paste."""
    if word.isprintable():
        return shlex.quote(word)
    return "$'" + "".join(rf"\x{byte:02x}" for byte in os.fsencode(word)) + "'"
