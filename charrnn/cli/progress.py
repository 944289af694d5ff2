"""Progress on stderr: bars on a terminal, lines of text elsewhere."""

from __future__ import annotations

import contextlib
import math
import os
import stat
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TextIO

from ..errors import escape_unprintable
from .output import echo_err, loss_in_words

if TYPE_CHECKING:
    from tqdm import tqdm

    from ..evaluation.baselines import Baselines
    from ..training.report import Report, Summary

BAR_DELAY = 1  # seconds before a bar of other work than training appears


def describe(summary: Summary) -> None:
    """Print the text's sizes, the model, the length of the run and the files it writes."""
    s = summary
    resumed = f", resumed after step {s.resumed_step:,}" if s.resumed_step else ""
    of_bytes = f" ({s.bytes:,} bytes), {s.vocab_size:,} different" if s.unit != "byte" else ""
    echo_err(f"text    {s.characters:,} {s.unit}s{of_bytes}")
    echo_err(f"split   {s.train_characters:,} for training, {s.val_characters:,} for validation")
    c, o = s.config, s.options
    ngrams = f" with {c.num_ngrams:,} n-grams" if c.num_ngrams else ""
    models = f"average of {o.ensemble} models, each " if o.ensemble > 1 else ""
    echo_err(
        f"model   {models}{c.cell} of {c.num_layers} x {c.hidden_size} units{ngrams}, "
        f"{s.parameters:,} parameters"
    )
    echo_err(
        f"steps   {s.steps:,} of {s.batch_size} x {s.seq_length} {s.unit}s, "
        f"{_rounded(s.epochs)} epochs; {o.optimizer}, learning rate {o.learning_rate:g}{resumed}"
    )
    echo_err(f"files   {', '.join(escape_unprintable(str(file)) for file in s.files)}")
    for note in s.notes:
        echo_err(f"note    {note}")


def show_baselines(b: Baselines | None, unit: str) -> None:
    """Print the baselines' losses; None: the validation text is too short for them."""
    if b is None:
        return
    echo_err("note    baselines on the validation text:")
    show_baseline_losses(b, unit)
    if b.truncated:
        echo_err(
            f"note    both learn from the last {b.train_chars:,} {unit}s before it (xz: a megabyte)"
        )
        echo_err(f"note    both are measured on the first {b.eval_chars:,} {unit}s of it")


def show_initial_loss(summary: Summary) -> None:
    """Print what the model of --init-from reaches, if there is one."""
    initial = summary.initial
    if initial is None or initial.loss is None:
        return
    lacks = f", which lacks {initial.num_new:,} of its characters" if initial.num_new else ""
    echo_err(f"start   {loss_in_words(initial.loss, summary.unit)}, with {initial.name}{lacks}")


def show_baseline_losses(b: Baselines, unit: str) -> None:
    """Print a line for each baseline."""
    units = unit if b.order == 1 else f"{unit}s"
    echo_err(f"n-gram  {loss_in_words(b.ngram, unit)}, with {b.order} {units} of context")
    if b.xz is not None:
        echo_err(f"xz      {loss_in_words(b.xz, unit)}")


@contextlib.contextmanager
def training_bar(summary: Summary, quiet: bool) -> Iterator[Callable[[Report], None]]:
    """Show a run: yields a function to call with each report."""
    if quiet:
        yield lambda report: None
    elif _on_terminal():
        with _bar(
            total=summary.steps,
            initial=summary.resumed_step,
            bar_format="{percentage:3.0f}%|{bar}| {desc}{remaining} left",
        ) as bar:
            yield lambda report: _update_bar(bar, report, summary.unit)
    else:
        yield _ReportLines(summary.unit)


@contextlib.contextmanager
def byte_bar(quiet: bool = False) -> Iterator[Callable[[int, int], None] | None]:
    """Show the reading of a text: yields a function of (bytes read, total bytes), or None."""
    if quiet or not _on_terminal():
        yield None
        return
    bar = _bar(desc="reading", unit="B", unit_scale=True, leave=False, delay=BAR_DELAY)

    def progress(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)

    with bar:
        yield progress


@contextlib.contextmanager
def text_bar(output: str, total: int | None, unit: str) -> Iterator[Callable[[int], object] | None]:
    """Show the writing of text: yields a function of numbers of `unit`s, or None.

    No bar is shown unless the text goes to a file: a pipe's reader may use the terminal.
    """
    if output == "-" and (sys.stdout is None or not _is_file(sys.stdout)):
        yield None
        return
    with char_bar(total, unit) as advance:
        yield advance


@contextlib.contextmanager
def char_bar(total: int | None, unit: str) -> Iterator[Callable[[int], object] | None]:
    """Show work on a text: yields a function of numbers of `unit`s, or None."""
    if not _on_terminal():
        yield None
        return
    how: dict[str, Any] = {"unit_scale": True, "leave": False, "delay": BAR_DELAY}
    with _bar(total=total, unit=f" {unit}s", **how) as bar:
        yield bar.update


def _is_file(stream: TextIO) -> bool:
    """Whether the stream is redirected to a regular file."""
    with contextlib.suppress(OSError, ValueError):
        return stat.S_ISREG(os.fstat(stream.fileno()).st_mode)
    return False


def show_notice(notice: str) -> None:
    """Print a sentence above the bar."""
    with contextlib.suppress(OSError, ValueError):
        _tqdm().write(notice, file=sys.stderr)


def show_text(text: str) -> None:
    """Print a text above the bar, with control characters escaped."""
    show_notice("\n".join(["---", *map(escape_unprintable, text.split("\n")), "---"]))


def _on_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()


def _tqdm() -> Any:
    """Import tqdm when it is used: it takes 20 ms."""
    from tqdm import tqdm

    return tqdm


def _bar(**how: Any) -> tqdm:
    """Show a bar on stderr."""
    bar: tqdm = _tqdm()(**how, **_bar_size(), file=sys.stderr)
    return bar


def _bar_size() -> dict[str, Any]:
    """Let tqdm follow the terminal's size; assume one if the terminal reports 0 columns."""
    with contextlib.suppress(OSError, ValueError):
        if os.get_terminal_size(sys.stderr.fileno()).columns > 0:
            return {"dynamic_ncols": True}
    return {"ncols": 80, "nrows": 24}


def _update_bar(bar: tqdm, report: Report, unit: str) -> None:
    bar.set_description_str(f"{_numbers(report, unit)}, ", refresh=False)
    bar.total = report.total_steps
    bar.update(report.step - bar.n)


class _ReportLines:
    """Prints a line for the first report and for some of the logged ones.

    A line follows each twentieth of the run and, in a long run, each minute.
    """

    def __init__(self, unit: str) -> None:
        self._unit = unit
        # (step, seconds) of the first report; code was compiled before it
        self._first: tuple[int, float] | None = None
        # step or time from which to print the next line
        self._next: tuple[float, float] = (math.inf, math.inf)

    def __call__(self, report: Report) -> None:
        now = time.monotonic()
        if self._first is None:
            self._first = report.step, report.seconds
            left = ""
        elif report.logged and (report.step >= self._next[0] or now >= self._next[1]):
            seconds = (report.seconds - self._first[1]) / (report.step - self._first[0])
            seconds *= report.total_steps - report.step
            left = f", {_tqdm().format_interval(seconds)} left"
        else:
            return
        numbers = _numbers(report, self._unit)
        echo_err(f"step {report.step:,}/{report.total_steps:,}, {numbers}{left}")
        self._next = (min(report.step + report.total_steps / 20, report.total_steps), now + 60)


def _numbers(report: Report, unit: str) -> str:
    epoch = f"epoch {report.epoch:,.2f}/{_rounded(report.total_epochs)}"
    val = "" if report.val_loss is None else f", val {report.val_loss:.3f}"
    speed = f"{report.chars_per_second:,.0f} {'bytes' if unit == 'byte' else 'chars'}/s"
    return f"{epoch}, train {report.train_loss:.3f}{val}, {speed}"


def _rounded(epochs: float) -> str:
    return f"{epochs:,.0f}" if epochs >= 1000 else f"{epochs:.4g}"
