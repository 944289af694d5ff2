"""Training: stateful truncated backpropagation through time, as a run that can stop and go on.

A run is an iterator of reports. It never prints. All it would need to go on after a crash is in its
state file, so that interrupted and resumed is bit for bit the same as never interrupted.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from .checkpoint import Arrays, damaged, save_model
from .config import LEARNING_RATES, ModelConfig, TrainOptions, field_names
from .corpus import Corpus, Streams, fit, split
from .errors import CharRNNError, UsageError
from .evaluate import Validation
from .files import FilePath, Hold, Log, RunFiles, claim, explained, run_files, shown
from .jit import usable_cores
from .model import Model, Parameters, Stack
from .optim import OPTIMIZERS, SCHEDULES, clip_norm_, clip_value_, norm
from .plan import Plan, fit_to_time
from .sample import generate
from .state import Progress, State, blamed_on, read_state

DEFAULT_TIME = 180.0  # seconds
MAX_STEPS = 2**53  # a run without end; `epochs` may ask for infinitely many
DIVERGED = 3.0  # times the first loss, beyond which a run has blown up (char-rnn's measure)
VALIDATION_ROWS = 50  # streams the held-out text is cut into
VALIDATION_CHARS = 500_000  # at most so many of its characters are read during training


class Diverged(CharRNNError):
    """The loss or the gradients have become infinite or far too large."""


@dataclass(frozen=True)
class Summary:
    """What a run has before it starts."""

    characters: int
    bytes: int
    vocab_size: int
    train_characters: int
    val_characters: int
    parameters: int
    steps: int  # updates of the whole run
    epochs: float
    batch_size: int
    seq_length: int
    files: tuple[Path, ...]  # that will be written
    notes: tuple[str, ...]  # what was fitted to the text
    resumed_step: int  # 0: a new run
    config: ModelConfig
    options: TrainOptions


@dataclass(frozen=True)
class Report:
    """How training goes, after one step. Losses in nats per character."""

    step: int
    total_steps: int
    epoch: float  # passes over the training text so far
    chars: int  # characters read so far
    train_loss: float  # mean since the last logged report
    val_loss: float | None  # the latest
    best_val_loss: float | None
    learning_rate: float
    chars_per_second: float  # of this process
    seconds: float  # of training, all processes together
    logged: bool  # whether it is a line of the log
    notice: str | None = None  # a sentence to show: saving has failed, or succeeds again


def start_run(
    corpus: Corpus,
    settings: dict[str, Any],
    output: FilePath,
    *,
    resume: bool = False,
    overwrite: bool = False,
    threads: int | None = None,
    save_every: float = 30.0,
) -> Run:
    """A run on `corpus`, new or resumed. `settings` are fields of ModelConfig and TrainOptions.

    With `resume` the settings must agree with those the run was started with; others are taken
    from it. `save_every` is the least time between two saves of the state, in seconds.

    Raises UsageError or CharRNNError, before anything is written.
    """
    hold = claim(output, resume=resume, overwrite=overwrite)
    try:
        files = run_files(output)
        threads = threads or usable_cores()
        state = read_state(files.state) if resume else None
        if state is not None:
            _require_the_same(corpus, settings, state, files)
            chosen = Plan(state.config, state.options)
        else:
            chosen = _planned(corpus, settings, threads)
        run = Run(corpus, *chosen[:2], files, hold, threads, save_every)
        if chosen.why:
            run.summary = replace(run.summary, notes=(chosen.why, *run.summary.notes))
        if state is not None:
            run.restore(state)
        return run
    except BaseException:
        hold.release()
        raise


def _planned(corpus: Corpus, settings: dict[str, Any], threads: int) -> Plan:
    """The settings of a new run; what they leave open is fitted to the time it may take."""
    began = time.monotonic()
    config = ModelConfig(len(corpus.vocabulary), **_fields_of(ModelConfig, settings))
    options = TrainOptions(**_fields_of(TrainOptions, settings))
    if options.learning_rate is None:
        options = replace(options, learning_rate=LEARNING_RATES[options.optimizer])
    if options.epochs or options.steps:
        if options.time:
            raise UsageError("give one of --time, --epochs and --steps.")
        return Plan(config, options)
    options = replace(options, time=options.time or DEFAULT_TIME)
    train_ids, val_ids = split(corpus.ids, options.val_fraction)
    num_val = min(len(val_ids), VALIDATION_CHARS)
    return fit_to_time(train_ids, num_val, config, options, threads, settings.keys(), began)


def _fields_of(cls: type, settings: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name in field_names(cls)}


def _require_the_same(
    corpus: Corpus, settings: dict[str, Any], state: State, files: RunFiles
) -> None:
    """Refuse a text or settings other than those of the run, and a state of no possible run."""
    if state.fingerprint != corpus.fingerprint:
        raise UsageError(
            f"the text is not the one that {shown(files.state)} was trained on: give the same "
            "files in the same order, with the same encoding."
        )
    for name, value in settings.items():
        before = (asdict(state.config) | asdict(state.options))[name]
        if value != before:
            raise UsageError(
                f"the run was started with {name.replace('_', ' ')} {before}, not {value}: leave "
                "the option out to resume it, or start another run with -o."
            )
    with blamed_on(files.state):
        train_ids, _ = split(corpus.ids, state.options.val_fraction)
        rows, _ = fit(len(train_ids), state.options.batch_size, state.options.seq_length)
        if (state.config.vocab_size, state.hidden.shape[2]) != (len(corpus.vocabulary), rows):
            raise damaged("its model is not of its text")


class Run:
    """A model in training. Iterate, once, to train; each step gives a Report.

    `stop()` ends the iteration after the step in hand, saved; `finished` tells whether all steps
    were made. After either, `model` holds the last weights, the model file the best. The iteration
    raises Diverged, and CharRNNError when the run cannot be saved: at its start at once, later
    only if the last attempt fails, too.
    """

    def __init__(
        self,
        corpus: Corpus,
        config: ModelConfig,
        options: TrainOptions,
        files: RunFiles,
        hold: Hold,
        threads: int,
        save_every: float,
    ) -> None:
        self.corpus, self.config, self.options, self.files = corpus, config, options, files
        self.finished, self._stopping = False, False
        self._hold, self._save_every = hold, save_every
        train_ids, val_ids = split(corpus.ids, options.val_fraction)
        batch_size, seq_length = fit(len(train_ids), options.batch_size, options.seq_length)
        self.streams = Streams(train_ids, batch_size, seq_length)
        self.total_steps = self._plan()
        self.rng = np.random.default_rng(options.seed)
        self.model = Model(config, self.rng, threads=threads)
        self.stack = Stack(self.model, batch_size, seq_length, training=True)
        self.optimizer = self._make_optimizer()
        self._validation = self._make_validation(val_ids[: VALIDATION_CHARS + 1])
        self._log_every = max(1, self.total_steps // 200)
        self._validate_every = self._validation_interval()
        self.progress = Progress()
        self._log, self._seconds_before = Log(files.log), 0.0
        # The best weights and what the model file tells of them, once there are any.
        self._best: tuple[Arrays, dict[str, Any]] | None = None
        self._best_is_saved = False
        self._has_best = False  # here or, a run resumed, in the model file
        self._failures: dict[str, CharRNNError] = {}  # what could not be written, and why
        self._failures_are_told = False
        self.summary = self._summarize(len(train_ids), len(val_ids))

    def _plan(self) -> int:
        """Updates of the whole run."""
        if self.options.steps is not None:
            return self.options.steps
        steps = self.options.epochs * self.streams.num_chunks
        return max(1, round(min(steps, MAX_STEPS)))

    def _validation_interval(self) -> int:
        """Steps between validations: an epoch, but 10 to 100 of them a run."""
        least, most = -(-self.total_steps // 100), -(-self.total_steps // 10)
        return min(max(self.streams.num_chunks, least), most)

    def _make_optimizer(self):
        own = {"adam": ("weight_decay",), "sgd": ("momentum",)}.get(self.options.optimizer, ())
        options = {name: getattr(self.options, name) for name in own}
        flat = self.model.parameters.flat
        make = OPTIMIZERS[self.options.optimizer]
        return make(flat.size, flat.dtype, self.model.team, **options)

    def _make_validation(self, ids: np.ndarray) -> Validation | None:
        if len(ids) < 2:
            return None
        return Validation(self.model, ids, max(1, min(VALIDATION_ROWS, len(ids) // 200)))

    def _summarize(self, train_characters: int, val_characters: int) -> Summary:
        return Summary(
            characters=len(self.corpus.ids),
            bytes=self.corpus.num_bytes,
            vocab_size=self.config.vocab_size,
            train_characters=train_characters,
            val_characters=val_characters,
            parameters=self.config.num_parameters(),
            steps=self.total_steps,
            epochs=self.total_steps / self.streams.num_chunks,
            batch_size=self.stack.batch_size,
            seq_length=self.stack.steps,
            files=tuple(self.files),
            notes=self._notes(val_characters),
            resumed_step=0,
            config=self.config,
            options=self.options,
        )

    def _notes(self, val_characters: int) -> tuple[str, ...]:
        notes = []
        for name, used in ("batch size", self.stack.batch_size), ("seq length", self.stack.steps):
            asked = getattr(self.options, name.replace(" ", "_"))
            if used != asked:
                notes.append(f"the text is short: {name} {asked} became {used}")
        if not val_characters:
            notes.append("nothing is held out: the last weights are kept, not the best")
        elif val_characters > VALIDATION_CHARS + 1:
            notes.append(f"validation reads {VALIDATION_CHARS:,} characters of what is held out")
        return tuple(notes)

    def stop(self) -> None:
        """Ask the run to save and end after the step in hand; safe from a signal handler."""
        self._stopping = True

    def __iter__(self) -> Iterator[Report]:
        if not self._hold.release.alive:
            raise CharRNNError("the run has ended: start it again with resume to go on.")
        try:
            self._begin()
            while self.progress.step < self.total_steps and not self._stopping:
                yield self._advance()
            self._end()
        finally:
            self._hold.release()

    def _begin(self) -> None:
        self._began = time.monotonic()
        self._chars_before = self.streams.chars_until(self.progress.step)
        self._write_state()  # first: what it belongs to may replace another run
        self._log.flush()

    def _end(self) -> None:
        self.finished = self.progress.step >= self.total_steps
        if self._validation is None or not self._has_best:
            self._keep()
        self._save()
        for error in self._failures.values():
            raise CharRNNError(
                f"{str(error).rstrip('.')}; what has been saved is the run as it was after step "
                f"{self._saved_step:,}, and --resume goes on from there."
            ) from error

    def _advance(self) -> Report:
        """One update of the weights, with what comes after some of them."""
        learning_rate = self._update()
        at = self.progress
        validate = at.step % self._validate_every == 0 or at.step == self.total_steps
        if validate:
            self._validate()
        logged = validate or at.step % self._log_every == 0
        report = self._report(learning_rate, logged)
        if logged:
            self._add_to_log(report, validate)
            at.loss_sum, at.loss_count = 0.0, 0
        if time.monotonic() - self._saved >= self._save_every:
            self._save()
        return replace(report, notice=self._news()) if self._has_news() else report

    def _update(self) -> float:
        """One step of truncated BPTT and of the optimizer; returns its learning rate."""
        at = self.progress
        epoch, k = divmod(at.step, self.streams.num_chunks)
        if k == 0:
            self.stack.set_state(self.model.zero_state(self.stack.batch_size))
        x, y = self.streams.chunk(k)
        seed = int(self.rng.integers(2**32)) if self.config.dropout else None
        loss = self.stack.loss_and_gradients(x, y, seed)
        gradients = self.stack.gradients.flat
        self._check(loss, gradients)
        self._clip(gradients)
        learning_rate = self.options.learning_rate * self._schedule(epoch)
        self.optimizer.step(self.model.parameters.flat, gradients, learning_rate)
        self.model.pack()
        self.stack.carry(len(x))
        at.step += 1
        at.loss_sum += loss * x.size
        at.loss_count += x.size
        return learning_rate

    def _schedule(self, epoch: int) -> float:
        o = self.options
        return SCHEDULES[o.schedule](
            self.progress.step,
            total_steps=self.total_steps,
            epoch=epoch,
            decay=o.lr_decay,
            decay_after=o.lr_decay_after,
        )

    def _check(self, loss: float, gradients: np.ndarray) -> None:
        """Raise Diverged before a bad gradient reaches the weights."""
        at = self.progress
        if at.first_loss is None:
            at.first_loss = loss
        self._gradient_norm = norm(gradients, self.model.team)
        if not (math.isfinite(self._gradient_norm) and loss <= DIVERGED * at.first_loss + 1):
            how = f"loss {loss:.4g}, gradient norm {self._gradient_norm:.4g}"
            raise self._diverged(at.step + 1, how)

    def _diverged(self, step: int, how: str) -> Diverged:
        kept = self._has_best and "model" not in self._failures
        return Diverged(
            f"training has blown up at step {step:,} ({how}); "
            f"{'the best model so far is kept' if kept else 'none is kept'}: try a smaller "
            f"--learning-rate than {self.options.learning_rate:g}."
        )

    def _require_finite(self) -> None:
        """Raise Diverged before bad weights are saved: good gradients can make them."""
        arrays = self.model.parameters.flat, *self.optimizer.arrays.values()
        if not all(np.isfinite(array).all() for array in arrays):
            raise self._diverged(self.progress.step, "a weight is infinite or not a number")

    def _clip(self, gradients: np.ndarray) -> None:
        if self.options.clip_value:
            clip_value_(gradients, self.options.clip_value)
            self._gradient_norm = norm(gradients, self.model.team)
        if self.options.clip_norm:
            clip_norm_(gradients, self.options.clip_norm, length=self._gradient_norm)

    def _validate(self) -> None:
        """Measure the held-out text; keep the weights if they are the best so far."""
        at = self.progress
        if self._validation is not None:
            at.val_loss = self._validation.loss()
            if not math.isfinite(at.val_loss):
                raise self._diverged(at.step, f"validation loss {at.val_loss:.4g}")
        at.history.append([at.step, at.loss_sum / at.loss_count, at.val_loss])
        best = at.best_val_loss
        if best is None or not self._has_best or at.val_loss < best:
            at.best_val_loss = at.val_loss
            self._keep()
            self._attempt("model", self._write_model)

    def _report(self, learning_rate: float, logged: bool) -> Report:
        at, seconds = self.progress, time.monotonic() - self._began
        chars = self.streams.chars_until(at.step)
        return Report(
            step=at.step,
            total_steps=self.total_steps,
            epoch=at.step / self.streams.num_chunks,
            chars=chars,
            train_loss=at.loss_sum / at.loss_count,
            val_loss=at.val_loss,
            best_val_loss=at.best_val_loss,
            learning_rate=learning_rate,
            chars_per_second=(chars - self._chars_before) / seconds if seconds else 0.0,
            seconds=self._seconds_before + seconds,
            logged=logged,
        )

    def _add_to_log(self, report: Report, validated: bool) -> None:
        line = {
            "step": report.step,
            "epoch": report.epoch,
            "chars": report.chars,
            "train_loss": report.train_loss,
            "val_loss": report.val_loss if validated else None,
            "learning_rate": report.learning_rate,
            "chars_per_second": round(report.chars_per_second, 1),
            "seconds": round(report.seconds, 3),
        }
        self._log.append(json.dumps(line))
        self._attempt("log", self._log.write)

    def _keep(self) -> None:
        """Let the weights of now be the best, in memory."""
        self._require_finite()
        at = self.progress
        training = {
            "steps": at.step,
            "total_steps": self.total_steps,
            "epochs": at.step / self.streams.num_chunks,
            "characters": self.streams.chars_until(at.step),
            "train_loss": at.history[-1][1] if at.history else None,
            "val_loss": at.val_loss,
            "history": list(at.history),
            "options": asdict(self.options),
        }
        self._best, self._best_is_saved = (self.model.state_dict(), training), False
        self._has_best = True

    def _save(self) -> None:
        """Bring all files up to date: those that the state tells of first, it last."""
        self._require_finite()
        self._saved = time.monotonic()
        self._attempt("log", self._log.flush)
        if self._attempt("model", self._write_model):
            self._attempt("state", self._write_state)

    def _attempt(self, what: str, write: Callable[[], None]) -> bool:
        """Whether `write` succeeds; a failure is kept, and the next save is another chance."""
        try:
            write()
        except CharRNNError as error:
            self._failures[what] = error
            return False
        self._failures.pop(what, None)
        return True

    def _has_news(self) -> bool:
        return bool(self._failures) != self._failures_are_told

    def _news(self) -> str:
        """What to tell when saving begins to fail, and when it succeeds again."""
        self._failures_are_told = bool(self._failures)
        for error in self._failures.values():
            return f"Saving has failed, {error} Training goes on, and will try to save again."
        return "The run is saved again."

    def _write_model(self) -> None:
        """Write the best model, unless the file has it."""
        if self._best and not (self._best_is_saved and self.files.model.exists()):
            tensors, training = self._best
            vocabulary = self.corpus.vocabulary
            save_model(self.files.model, tensors, asdict(self.config), vocabulary, training)
            self._best_is_saved = True

    def _write_state(self) -> None:
        flat = {"weights": self.model.parameters.flat} | self.optimizer.arrays
        State(
            config=self.config,
            options=self.options,
            fingerprint=self.corpus.fingerprint,
            encoding=self.corpus.encoding,
            progress=self.progress,
            rng=self.rng,
            hidden=self.stack.get_state(),
            groups={name: _tensors(array, self.config) for name, array in flat.items()},
        ).save(self.files.state)
        self._saved, self._saved_step = time.monotonic(), self.progress.step

    def restore(self, state: State) -> None:
        """Go back to where a saved state was. Raises CharRNNError for one of another run."""
        flat = {"weights": self.model.parameters.flat} | self.optimizer.arrays
        if state.groups.keys() != flat.keys() or state.progress.step > self.total_steps:
            with blamed_on(self.files.state):
                raise damaged("it is not of its options")
        for name, array in flat.items():
            array[:] = _flat(state.groups[name], self.config)
        self.model.pack()
        self.stack.set_state(state.hidden)
        self.optimizer.steps = state.progress.step
        self.rng, self.progress = state.rng, state.progress
        self._has_best = bool(state.progress.history) and self.files.model.exists()
        self.summary = replace(self.summary, resumed_step=state.progress.step)
        content, self._seconds_before = _log_until(state.progress.step, self.files.log)
        self._log = Log(self.files.log, content)

    def sample(self, length: int) -> str:
        """A text of so many characters from the weights of now; the run is not affected."""
        vocabulary = self.corpus.vocabulary
        prime = np.array([vocabulary.line_start])
        ids = generate(self.model, prime, np.random.default_rng(self.options.seed))
        return vocabulary.decode([next(ids) for _ in range(length)])


def _tensors(flat: np.ndarray, config: ModelConfig) -> Arrays:
    """What lies in an array of the layout of the weights, by tensor name, seldom copied."""
    return Parameters(config, flat.dtype, flat).tensors()


def _flat(tensors: Arrays, config: ModelConfig) -> np.ndarray:
    """The reverse of `_tensors`."""
    parameters = Parameters(config)
    parameters.load_state_dict(tensors)
    return parameters.flat


def _log_until(step: int, path: Path) -> tuple[bytes, float]:
    """The lines of a log up to that of `step`, and the seconds of training then.

    Those after it will be made, and written, again; a crash may have cut the last one short.
    """
    content, seconds = b"", 0.0
    with explained(f"cannot read {shown(path)}"), contextlib.suppress(FileNotFoundError):
        for line in path.read_bytes().splitlines(keepends=True):
            try:
                values = json.loads(line)
                time_then = float(values["seconds"])
                sound = values["step"] <= step and math.isfinite(time_then)
            except (ValueError, LookupError, TypeError, OverflowError, RecursionError):
                break
            if not sound or not line.endswith(b"\n"):
                break
            seconds = time_then
            content += line
    return content, seconds
