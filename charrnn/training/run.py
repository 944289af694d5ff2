"""Training: stateful truncated backpropagation through time, as a run that can stop and go on.

A run is an iterator of reports. It never prints. All it would need to go on after a crash is in its
state file, so that interrupted and resumed is bit for bit the same as never interrupted.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from ..arithmetic import ceil_div
from ..config import ModelConfig, TrainOptions, tensor_shapes
from ..errors import CharRNNError
from ..evaluation.loss import Validator
from ..generation.sampler import generate
from ..network.model import Model
from ..network.optimizers import SCHEDULES
from ..network.parameters import Parameters
from ..storage.checkpoint import Arrays, corrupt_file, load_model
from ..storage.run_files import RunFiles, RunLock
from ..text.corpus import Corpus
from ..text.streams import BatchStreams, clamp_batch_shape, split
from .planner import MOST_PASSES, Plan
from .report import Report, Summary
from .run_writer import BestWeights, RunWriter
from .state import Progress, State, corrupt_if_invalid
from .trainer import Trainer

MAX_STEPS = 2**53  # a run without end; `epochs` may ask for infinitely many
DIVERGED = 3.0  # times the first loss, beyond which a run has blown up (char-rnn's measure)
MAX_RECOVERIES = 5  # from blowing up, each with half the learning rate of the one before
OFF_PLAN = 0.01  # share of its steps by which a plan may be wrong about the time
TIMED_AGAIN = 0.04  # share of the time after which the plan is looked at again
OVERTIME = 1.02  # times the time, after which a run ends wherever its plan is
VALIDATION_ROWS = 50  # streams the held-out text is cut into


class Diverged(CharRNNError):
    """The loss or the gradients have become infinite or far too large: how, and what to do."""

    def __init__(self, how: str, advice: str) -> None:
        super().__init__(f"{how}; {advice}")
        self.how = how


class TrainingRun:
    """A model in training. Iterate, once, to train; each step gives a Report.

    `stop()` ends the iteration after the step in hand, saved; `finished` tells whether all steps
    were made. After either, `model` holds the last weights, the model file the best. When training
    blows up it goes on from the best weights with half the learning rate. The iteration raises
    Diverged when that has not helped a few times, and CharRNNError when the run cannot be saved:
    at its start at once, later only if the last attempt fails, too.
    """

    def __init__(
        self,
        corpus: Corpus,
        plan: Plan,
        files: RunFiles,
        hold: RunLock,
        threads: int,
        save_every: float,
    ) -> None:
        self.corpus, self.files, self.finished, self._stopping = corpus, files, False, False
        self.config, self.options = config, options = plan.config, plan.options
        self._hold, self._save_every = hold, save_every
        train_ids, val_ids = split(corpus.ids, options.val_fraction)
        shape = clamp_batch_shape(len(train_ids), options.batch_size, options.seq_length)
        self.streams = BatchStreams(train_ids, *shape)
        self.rng = np.random.default_rng(options.seed)
        self.learner = Trainer(config, options, self.rng, threads, *shape)
        self._held_out = val_ids[: TrainOptions.val_chars + 1]
        self._validation = self._validation_of(options.val_chars)
        self.progress = Progress(total_steps=self._all_steps(), deadline=plan.seconds)
        if plan.seconds is not None:
            self._end_with_a_pass()
        self._saves = RunWriter(files, config, corpus.vocabulary)
        self.held_out_loss: float | None = None  # of the best weights, once the run has finished
        self._has_best = False  # in memory or, a run resumed, in the model file
        self._seconds_before = 0.0  # of training, in processes before this one
        self._notices: list[str] = []
        notes = (*filter(None, [plan.why]), *self._notes(len(val_ids)))
        self.summary = self._summarize(len(train_ids), len(val_ids), notes)

    @property
    def model(self) -> Model:
        return self.learner.model

    def _validation_of(self, most: int) -> Validator | None:
        """What measures the loss on `most` of what is held out; None if that is too little."""
        ids = self._held_out
        if len(ids) < 2:
            return None
        rows = max(1, min(VALIDATION_ROWS, len(ids) // 200, most // 200))
        return Validator(self.model, ids, rows, most, self.learner.workspace)

    def _all_steps(self) -> int:
        """Updates of the whole run, as far as is known now."""
        if self.options.steps is not None:
            return self.options.steps
        steps = self.options.epochs * self.streams.num_chunks
        return max(1, round(min(steps, MAX_STEPS)))

    @property
    def _log_every(self) -> int:
        return max(1, self.progress.total_steps // 200)

    @property
    def _validate_every(self) -> int:
        """Steps between validations: an epoch, but 10 to 100 of them a run."""
        total = self.progress.total_steps
        least, most = ceil_div(total, 100), ceil_div(total, 10)
        return min(max(self.streams.num_chunks, least), most)

    def _summarize(self, train_characters: int, val_characters: int, notes) -> Summary:
        steps = self.progress.total_steps
        return Summary(
            characters=len(self.corpus.ids),
            bytes=self.corpus.num_bytes,
            vocab_size=self.config.vocab_size,
            train_characters=train_characters,
            val_characters=val_characters,
            parameters=self.config.num_parameters(),
            steps=steps,
            epochs=steps / self.streams.num_chunks,
            batch_size=self.streams.batch_size,
            seq_length=self.streams.seq_length,
            files=tuple(self.files),
            notes=notes,
            resumed_step=0,
            config=self.config,
            options=self.options,
        )

    def _notes(self, val_characters: int) -> Iterator[str]:
        for name in "batch size", "seq length":
            asked, used = (getattr(o, name.replace(" ", "_")) for o in (self.options, self.streams))
            if used != asked:
                yield f"the text is short: {name} {asked} became {used}"
        if not val_characters:
            yield "nothing is held out: the last weights are kept, not the best"
        elif val_characters > self.options.val_chars + 1:
            most = f"{self.options.val_chars:,}"
            yield f"validation reads {most} characters of what is held out, here and there"

    def stop(self) -> None:
        """Ask the run to save and end after the step in hand; safe from a signal handler."""
        self._stopping = True

    def __iter__(self) -> Iterator[Report]:
        if not self._hold.release.alive:
            raise CharRNNError("the run has ended: start it again with resume to go on.")
        try:
            self._begin()
            while self.progress.step < self.progress.total_steps and not self._stopping:
                try:
                    report = self._advance()
                except Diverged as error:
                    self._recover(error)
                else:
                    yield report
            self._end()
        finally:
            self._hold.release()

    def _begin(self) -> None:
        self._began = time.monotonic()
        self._speed_since = self._timed_since = (self.progress.step, self._seconds_before)
        self._first_step = self.progress.step + 1
        self._saves.begin(self._state())

    def _end(self) -> None:
        self.finished = self.progress.step >= self.progress.total_steps
        self._require_finite()
        if self._validation is None or not self._has_best:
            self._keep()
        if self.finished and len(self._held_out) > self.options.val_chars + 1:
            self._measure_best()
        self._saves.all(self._state())
        self._saves.require_all()

    def _measure_best(self) -> None:
        """Let the model file tell the loss on all that is held out: validation read a part."""
        best, last = self._best(), self.model.state_dict()
        self.model.load_state_dict(best.tensors)
        try:
            self.held_out_loss = self._validation_of(len(self._held_out)).loss()
        finally:
            self.model.load_state_dict(last)
        self._saves.keep(
            BestWeights(best.tensors, best.training | {"val_loss": self.held_out_loss})
        )

    def _advance(self) -> Report:
        """One update of the weights, with what comes after some of them."""
        learning_rate = self._update()
        at = self.progress
        if at.deadline is not None and self._seconds() > OVERTIME * at.deadline:
            at.plan(at.step)  # the machine has become slow since the plan was looked at
        validate = at.step % self._validate_every == 0 or at.step == at.total_steps
        if validate:
            self._validate()
            self._keep_to_time()
        logged = validate or at.step % self._log_every == 0
        report = self._report(learning_rate, logged)
        if logged:
            self._saves.log(_log_line(report, validate))
            at.loss_sum, at.loss_count = 0.0, 0
        if self._saves.age >= self._save_every:
            self._require_finite()
            self._saves.all(self._state())
        return replace(report, notice=self.news())

    def _update(self) -> float:
        """One step of truncated BPTT and of the optimizer; returns its learning rate."""
        at = self.progress
        k = (at.step + at.shift) % self.streams.num_chunks
        if k == 0:
            self.learner.reset_state()
        x, y = self.streams.chunk(k)
        seed = int(self.rng.integers(2**32)) if self.learner.needs_dropout_seed else None
        loss, gradient_norm = self.learner.compute(x, y, seed)
        self._check(loss, gradient_norm)
        learning_rate = self._learning_rate(at.step // self.streams.num_chunks)
        self.learner.update(learning_rate)
        at.count(loss, x.size)
        return learning_rate

    def _learning_rate(self, epoch: int) -> float:
        o, at = self.options, self.progress
        factor = SCHEDULES[o.schedule](
            at.done, epoch=epoch, decay=o.lr_decay, decay_after=o.lr_decay_after
        )
        return o.learning_rate * factor * 0.5**at.recoveries

    def _check(self, loss: float, gradient_norm: float) -> None:
        """Raise Diverged before a bad gradient reaches the weights."""
        at = self.progress
        first_loss = loss if at.first_loss is None else at.first_loss
        finite = math.isfinite(loss) and math.isfinite(gradient_norm)
        if not (finite and loss <= DIVERGED * first_loss + 1):
            how = f"loss {loss:.4g}, gradient norm {gradient_norm:.4g}"
            raise self._diverged(at.step + 1, how)

    def _diverged(self, step: int, how: str) -> Diverged:
        kept = self._has_best and self._saves.has_model
        rate = self.options.learning_rate * 0.5**self.progress.recoveries
        return Diverged(
            f"training has blown up at step {step:,} ({how})",
            f"{'the best model so far is kept' if kept else 'none is kept'}: try a smaller "
            f"--learning-rate than {rate:g}.",
        )

    def _recover(self, error: Diverged) -> None:
        """Go back to the best weights, halve the learning rate; after a few times, give up."""
        at = self.progress
        if at.recoveries >= MAX_RECOVERIES:
            raise error
        at.recoveries += 1
        at.restarted = at.step
        self.learner.reset(_flat(self._last_good(), self.config))
        since = "the best weights so far" if self._has_best else "the first weights"
        self._notices.append(f"{error.how}: it goes on from {since} with half the learning rate.")

    def _last_good(self) -> Arrays:
        """The best weights; before there are any, the first."""
        if self._has_best:
            return self._best().tensors
        return Model(self.config, np.random.default_rng(self.options.seed)).state_dict()

    def _best(self) -> BestWeights:
        """The best weights, from memory or the model file."""
        if self._saves.best:
            return self._saves.best
        file = load_model(self.files.model, tensor_shapes)
        return BestWeights(file.tensors, file.training)

    def _require_finite(self) -> None:
        """Raise Diverged before bad weights are saved: good gradients can make them."""
        arrays = self.model.parameters.flat, *self.learner.optimizer.arrays.values()
        if not all(np.isfinite(array).all() for array in arrays):
            raise self._diverged(self.progress.step, "a weight is infinite or not a number")

    def _validate(self) -> None:
        """Measure the held-out text; keep the weights if they are the best so far."""
        self._require_finite()
        at = self.progress
        loss = self._validation.loss() if self._validation is not None else None
        if loss is not None and not math.isfinite(loss):
            raise self._diverged(at.step, f"validation loss {loss:.4g}")
        at.val_loss = loss
        at.history.append([at.step, at.loss_sum / at.loss_count, loss])
        best = at.best_val_loss
        if best is None or not self._has_best or loss < best:
            at.best_val_loss = loss
            self._keep()
            self._saves.model()
        elif at.step < at.total_steps and at.should_stop_early(self.options.patience):
            at.plan(at.step)
            self._notices.append(
                "stopped early: what is held out is predicted no better, while the rest is "
                "learned by heart."
            )

    def _keep_to_time(self) -> None:
        """Fit the steps that are left to the time that is left, at the speed of the last ones."""
        at, seconds = self.progress, self._seconds()
        step_then, then = self._timed_since
        over = at.step == at.total_steps  # stopped early, or all of the schedule is behind
        if at.deadline is None or over or seconds - then < TIMED_AGAIN * at.deadline:
            return
        steps, took = at.step - step_then, seconds - then
        self._timed_since = at.step, seconds
        total = at.step + max(0, int((at.deadline - seconds) * steps / took))
        total = max(at.step, min(total, MOST_PASSES * self.streams.num_chunks))
        if abs(total - at.total_steps) > OFF_PLAN * at.total_steps:
            at.plan(total)
        self._end_with_a_pass()

    def _end_with_a_pass(self) -> None:
        """Once no more than a pass over the text is left, go on reading where it ends with it.

        What is held out comes next in the text and tells of the same: on plays, runs that end
        elsewhere in it are worse by 0.02 to 0.05 nats (tests/bench/LOG.md). Not sooner: as the
        plan follows the clock, parts of the text would be passed over again and again.
        """
        at, chunks = self.progress, self.streams.num_chunks
        shift = -at.total_steps % chunks
        if at.total_steps - at.step <= chunks and shift != at.shift:
            at.shift = shift
            self.learner.reset_state()

    def _seconds(self) -> float:
        """Of training, all processes together."""
        return self._seconds_before + time.monotonic() - self._began

    def _report(self, learning_rate: float, logged: bool) -> Report:
        at, seconds = self.progress, self._seconds()
        chars = self.streams.chars_in_chunks(at.step)
        step_then, then = self._speed_since
        speed = (chars - self.streams.chars_in_chunks(step_then)) / max(seconds - then, 1e-9)
        if at.step == self._first_step:  # which may have waited for code to be compiled
            self._speed_since = at.step, seconds
        return Report(
            step=at.step,
            total_steps=at.total_steps,
            epoch=at.step / self.streams.num_chunks,
            total_epochs=at.total_steps / self.streams.num_chunks,
            chars=chars,
            train_loss=at.loss_sum / at.loss_count,
            val_loss=at.val_loss,
            best_val_loss=at.best_val_loss,
            learning_rate=learning_rate,
            chars_per_second=speed,
            seconds=seconds,
            logged=logged,
        )

    def _keep(self) -> None:
        """Let the weights of now, which are finite, be the best."""
        at = self.progress
        training = {
            "steps": at.step,
            "total_steps": at.total_steps,
            "epochs": at.step / self.streams.num_chunks,
            "characters": self.streams.chars_in_chunks(at.step),
            "train_loss": at.history[-1][1] if at.history else None,
            "val_loss": at.val_loss,
            "history": list(at.history),
            "options": asdict(self.options),
        }
        # In the place of those before, which no file needs any more.
        tensors = self.model.state_dict(into=self._saves.best and self._saves.best.tensors)
        self._saves.keep(BestWeights(tensors, training))
        self._has_best = True

    def news(self) -> str | None:
        """What is to be told and was not yet, in sentences, if anything."""
        news = [*self._notices, *filter(None, [self._saves.news()])]
        self._notices.clear()
        return " ".join(sentence[0].upper() + sentence[1:] for sentence in news) or None

    def _state(self) -> State:
        flat = {"weights": self.model.parameters.flat} | self.learner.optimizer.arrays
        return State(
            config=self.config,
            options=self.options,
            fingerprint=self.corpus.fingerprint,
            encoding=self.corpus.encoding,
            progress=self.progress,
            rng=self.rng,
            hidden=self.learner.stack.get_state(),
            groups={name: _tensors(array, self.config) for name, array in flat.items()},
        )

    def restore(self, state: State) -> None:
        """Go back to where a saved state was. Raises CharRNNError for one of another run."""
        flat = {"weights": self.model.parameters.flat} | self.learner.optimizer.arrays
        longer = state.progress.total_steps > self._all_steps() and not state.progress.deadline
        if state.groups.keys() != flat.keys() or longer:
            with corrupt_if_invalid(self.files.state):
                raise corrupt_file("it is not of its options")
        for name, array in flat.items():
            array[:] = _flat(state.groups[name], self.config)
        self.model.pack()
        self.learner.stack.set_state(state.hidden)
        self.rng, self.progress = state.rng, state.progress
        at = self.progress
        self.learner.optimizer.steps = at.step - at.restarted
        self._has_best = bool(at.history) and self.files.model.exists()
        self._seconds_before = self._saves.go_on(at.step)
        epochs = at.total_steps / self.streams.num_chunks
        self.summary = replace(
            self.summary, resumed_step=at.step, steps=at.total_steps, epochs=epochs
        )

    def sample(self, length: int) -> str:
        """A text of so many characters from the weights of now; the run is not affected."""
        vocabulary = self.corpus.vocabulary
        prime = np.array([vocabulary.line_start])
        ids = generate(self.model, prime, np.random.default_rng(self.options.seed))
        return vocabulary.decode([next(ids) for _ in range(length)])


def _log_line(report: Report, validated: bool) -> dict[str, Any]:
    return {
        "step": report.step,
        "epoch": report.epoch,
        "chars": report.chars,
        "train_loss": report.train_loss,
        "val_loss": report.val_loss if validated else None,
        "learning_rate": report.learning_rate,
        "chars_per_second": round(report.chars_per_second, 1),
        "seconds": round(report.seconds, 3),
    }


def _tensors(flat: np.ndarray, config: ModelConfig) -> Arrays:
    """What lies in an array of the layout of the weights, by tensor name, seldom copied."""
    return Parameters(config, flat.dtype, flat).tensors()


def _flat(tensors: Arrays, config: ModelConfig) -> np.ndarray:
    """The reverse of `_tensors`."""
    parameters = Parameters(config)
    parameters.load_state_dict(tensors)
    return parameters.flat
