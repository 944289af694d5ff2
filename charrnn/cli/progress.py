"""How a training run is shown on stderr: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import contextlib
import math
import os
import stat
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TextIO

from tqdm import tqdm

from ..errors import escape_unprintable
from .output import echo_err, loss_in_words

if TYPE_CHECKING:
    from ..evaluation.baselines import Baselines
    from ..training.report import Report, Summary

LONG = 1  # seconds that reading, measuring or writing must take to be shown


def describe(summary: Summary) -> None:
    """Say what there is to learn from, what will be trained and which files it writes."""
    s = summary
    go_on = f", going on after step {s.resumed_step:,}" if s.resumed_step else ""
    echo_err(f"text    {s.characters:,} characters ({s.bytes:,} bytes), {s.vocab_size:,} different")
    echo_err(f"split   {s.train_characters:,} to learn from, {s.val_characters:,} held out")
    c, o = s.config, s.options
    echo_err(
        f"model   {c.cell} of {c.num_layers} x {c.hidden_size} units, {s.parameters:,} parameters"
    )
    echo_err(
        f"steps   {s.steps:,} of {s.batch_size} x {s.seq_length} characters, "
        f"{_rounded(s.epochs)} epochs; {o.optimizer}, learning rate {o.learning_rate:g}{go_on}"
    )
    echo_err(f"files   {', '.join(escape_unprintable(str(file)) for file in s.files)}")
    for note in s.notes:
        echo_err(f"note    {note}")


def show_baselines(b: Baselines | None) -> None:
    """Say what there is to beat; nothing, where too little is held out to tell."""
    if b is None:
        return
    echo_err("beat    on the text held out, what learns from the rest without a network:")
    back = f"what follows {b.order} characters" if b.order > 1 else "what follows each character"
    echo_err(f"n-gram  {loss_in_words(b.ngram)}, by counting {back if b.order else 'characters'}")
    echo_err(f"xz      {loss_in_words(b.xz)}, by compression")
    if b.truncated:
        echo_err(
            f"note    both learn from the last {b.train_chars:,} characters before it "
            "(xz: a megabyte)"
        )
        echo_err(f"note    both are measured on the first {b.eval_chars:,} characters of it")


@contextlib.contextmanager
def following(summary: Summary, quiet: bool) -> Iterator[Callable[[Report], None]]:
    """Gives what is to be called with every report of the run."""
    if quiet:
        yield lambda report: None
    elif _on_terminal():
        with tqdm(
            total=summary.steps,
            initial=summary.resumed_step,
            bar_format="{percentage:3.0f}%|{bar}| {desc}{remaining} left",
            **_size(),
            file=sys.stderr,
        ) as bar:
            yield lambda report: _advance(bar, report)
    else:
        yield _Lines()


@contextlib.contextmanager
def reading(quiet: bool = False) -> Iterator[Callable[[int, int], None] | None]:
    """Gives what is to be called with (bytes read, bytes in all), or None; large texts show."""
    if quiet or not _on_terminal():
        yield None
        return
    bar = tqdm(
        desc="reading",
        unit="B",
        unit_scale=True,
        leave=False,
        delay=LONG,
        **_size(),
        file=sys.stderr,
    )

    def progress(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)

    with bar:
        yield progress


@contextlib.contextmanager
def writing(output: str, total: int | None) -> Iterator[Callable[[int], object] | None]:
    """Gives what is to be called with every number of characters written to a file, or None.

    A bar is shown after a while, if text goes to a file: a pipe's reader may use the terminal.
    """
    if output == "-" and not _is_file(sys.stdout):
        yield None
        return
    with measuring(total) as measured:
        yield measured


@contextlib.contextmanager
def measuring(total: int | None) -> Iterator[Callable[[int], object] | None]:
    """Gives what is to be called with every number of characters done, or None; long work shows."""
    if not _on_terminal():
        yield None
        return
    with tqdm(
        total=total, unit=" characters", unit_scale=True, leave=False, delay=LONG, **_size(),
        file=sys.stderr,
    ) as bar:  # fmt: skip
        yield bar.update


def _is_file(stream: TextIO | None) -> bool:
    """Whether the stream has been redirected to a regular file."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return stat.S_ISREG(os.fstat(stream.fileno()).st_mode)
    return False


def show_notice(notice: str) -> None:
    """Show a sentence above the bar."""
    with contextlib.suppress(OSError, ValueError):
        tqdm.write(notice, file=sys.stderr)


def show_text(text: str) -> None:
    """Show a piece of text above the bar, without the control characters it may hold."""
    show_notice("\n".join(["---", *map(escape_unprintable, text.split("\n")), "---"]))


def _on_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()


def _size() -> dict[str, Any]:
    """Let tqdm follow the size of the terminal, or assume one: some say that it is 0."""
    with contextlib.suppress(OSError, ValueError):
        if os.get_terminal_size(sys.stderr.fileno()).columns > 0:
            return {"dynamic_ncols": True}
    return {"ncols": 80, "nrows": 24}


def _advance(bar: tqdm, report: Report) -> None:
    bar.set_description_str(f"{_numbers(report)}, ", refresh=False)
    bar.total = report.total_steps
    bar.update(report.step - bar.n)


class _Lines:
    """Writes a line for the first report and for some of those that go into the log.

    For each twentieth of the run there is one and, in a long run, for each minute.
    """

    def __init__(self):
        self._first = None  # (step, time) of the first report: before it, code was compiled
        self._next = (math.inf, math.inf)  # step or time from which to write again

    def __call__(self, report: Report) -> None:
        now = time.monotonic()
        if self._first is None:
            self._first = report.step, now
            left = ""
        elif report.logged and (report.step >= self._next[0] or now >= self._next[1]):
            seconds = (now - self._first[1]) / (report.step - self._first[0])
            seconds *= report.total_steps - report.step
            left = f", {tqdm.format_interval(seconds)} left"
        else:
            return
        numbers = _numbers(report)
        echo_err(f"step {report.step:,}/{report.total_steps:,}, {numbers}{left}")
        self._next = (min(report.step + report.total_steps / 20, report.total_steps), now + 60)


def _numbers(report: Report) -> str:
    epoch = f"epoch {report.epoch:,.2f}/{_rounded(report.total_epochs)}"
    val = "" if report.val_loss is None else f", val {report.val_loss:.3f}"
    speed = f"{report.chars_per_second:,.0f} chars/s"
    return f"{epoch}, train {report.train_loss:.3f}{val}, {speed}"


def _rounded(epochs: float) -> str:
    return f"{epochs:,.0f}" if epochs >= 1000 else f"{epochs:.4g}"
