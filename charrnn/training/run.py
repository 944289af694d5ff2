"""Training: stateful truncated backpropagation through time, in a run that can be resumed.

A run is an iterator of reports and never prints. Its state file holds everything needed after a
crash: a run that was interrupted and resumed equals, bit for bit, one that never was.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace

import numpy as np

from ..config import TrainOptions
from ..errors import CharRNNError
from ..generation.sampler import SamplingOptions, generate
from ..generation.seeds import rng_of_text
from ..network.averaging import is_average
from ..network.carried_state import CarriedState
from ..network.model import Model
from ..network.optimizers import SCHEDULES
from ..storage.checkpoint import StoredStart, corrupt_file
from ..storage.run_files import RunFiles, RunLock
from ..text.corpus import Corpus
from ..text.disk_ids import Ids
from ..text.ngrams import NgramTable
from ..text.reversal import reading_order
from ..text.streams import BatchStreams
from .ensemble import Ensemble
from .extension import extend
from .initial_model import InitialWeights, not_an_average
from .line_ends import text_starts
from .model_choice import MAX_EPOCHS, max_epochs
from .pacing import Pacer, log_interval, validation_interval
from .planner import Plan
from .progress import Progress
from .ranks import ONE_RANK, Ranks
from .recovery import Diverged, Recovery
from .report import Initial, Notices, Report, log_record, make_report, summarize
from .run_writer import BestWeights, RunWriter
from .state import State, corrupt_if_invalid
from .validation import Validation


class TrainingRun:
    """A model in training. Iterate over it, once, to train; each step yields a Report.

    `stop()` ends the iteration after the current step and saves; `finished` says whether all steps
    were made, `stopped_early` whether overfitting ended it. Afterwards `model` has the last
    weights, the model file the best ones, and `full_val_loss` is their loss on the whole validation
    text if validations read a part of it.

    Iterating raises Diverged when training keeps diverging, and CharRNNError when the run cannot be
    saved: at once when it starts, later only if the last attempt fails, too. The run lock is
    released at the end, also after an error.

    `requested` are the options that the user asked for. `initial` are the weights that a new run
    starts from. `state` is the saved state of a resumed run, and `limit` its new length, see
    `extend`. `clock` returns seconds. `ranks` share the batch; this is rank 0.
    """

    def __init__(
        self,
        *,
        corpus: Corpus,
        streams: BatchStreams,
        train_ids: Ids,
        val_ids: Ids,
        requested: TrainOptions,
        plan: Plan,
        ngrams: NgramTable,
        notes: tuple[str, ...],
        files: RunFiles,
        lock: RunLock,
        threads: int,
        save_every: float,
        clock: Callable[[], float],
        initial: InitialWeights | None = None,
        state: State | None = None,
        limit: Mapping[str, float] | None = None,
        ranks: Ranks = ONE_RANK,
    ) -> None:
        self.corpus, self.streams, self.files, self.requested = corpus, streams, files, requested
        self.config, self.options = plan.config, plan.options
        self.finished = self.stopped_early = False
        self.full_val_loss: float | None = None
        self._lock, self._save_every, self._stopping = lock, save_every, False
        self._num_ranks = ranks.size
        self._notices: list[str] = []
        self.rng = np.random.default_rng(self.options.seed)
        self.ensemble = Ensemble(self.config, self.options, self.rng, threads, ngrams, ranks)
        self._starts = text_starts(train_ids, corpus.vocabulary, corpus.record_end_id)
        self.writer = RunWriter(files, self.model.config, corpus.vocabulary, ngrams, clock)
        self.progress = Progress(self.options.steps, plan.deadline)
        seconds_before = self._restore(state) if state is not None else 0.0
        if limit:
            length = limit, streams.num_chunks, seconds_before
            extension = extend(self.progress, requested, self.options, *length)
            self.requested, self.options = extension.requested, extension.options
            notes = (*notes, extension.note)
        val_chars = min(self.options.val_chars, len(val_ids))
        most_steps = self._most_steps(len(train_ids))
        self.pacer = Pacer(self.progress, streams, clock, most_steps, seconds_before, val_chars)
        if state is None and plan.deadline is not None:
            self.pacer.align_last_epoch()
        self.recovery = Recovery(self.progress, self.options, self.ensemble, self.writer)
        self.validation = Validation(
            self.model, val_ids, self.options.val_chars, self.ensemble.workspace
        )
        begun = None if initial is None else self._begin_with(initial)
        sizes = len(val_ids), plan.config, self.options, self.progress
        self.summary = summarize(corpus, streams, *sizes, files, notes, begun)

    def _most_steps(self, num_train: int) -> int:
        """The most updates of a run with a time: more overfit. An extended run may make more."""
        is_extended = self.progress.extended_step > 0
        epochs = MAX_EPOCHS if is_extended else max_epochs(num_train, self.config)
        return max(1, int(epochs * self.streams.num_chunks))

    def _begin_with(self, initial: InitialWeights) -> Initial:
        """Start from the weights of an earlier model, which is the best one so far.

        Raises CharRNNError when it is not the average of as many models as this run trains.
        """
        parameters = self.model.parameters
        parameters.load_state_dict(initial.tensors)
        if not is_average(parameters, self.options.ensemble):
            raise not_an_average(initial.name)
        self.model.pack()
        self.ensemble.restart(parameters, self.options.seed)
        loss = self.validation.loss()
        if loss is not None:
            self.progress.val_loss = self.progress.best_val_loss = loss
            self._record_best(initial.start)
        return Initial(initial.name, initial.num_new, loss)

    @property
    def has_initial_best(self) -> bool:
        """Whether the best weights are those of the earlier model that the run started from."""
        best, losses = self.progress.best_val_loss, [loss for _, _, loss in self.progress.history]
        return best is not None and best not in losses

    @property
    def model(self) -> Model:
        """The model in training, as of the last validation if it is an average of several."""
        return self.ensemble.model

    def stop(self) -> None:
        """Save and end the run after the current step; safe to call from a signal handler."""
        self._stopping = True

    def __iter__(self) -> Iterator[Report]:
        if not self._lock.release.alive:
            raise CharRNNError("the run has ended: start it again with resume to continue it.")
        try:
            self.pacer.start()
            with self.pacer.saving():
                self.writer.begin(self._state())
            while self.progress.step < self.progress.total_steps and not self._may_stop:
                try:
                    report = self._step()
                except Diverged as error:
                    self._notices.append(self.recovery.recover(error))
                else:
                    yield report
            self._end()
        finally:
            self._lock.release()

    def pop_notices(self) -> Notices:
        """Return the notices that no report has had yet."""
        problems = [*self._notices, *filter(None, [self.writer.pop_notice()])]
        self._notices.clear()
        return Notices(_sentences(problems + self.pacer.pop_notices()), _sentences(problems))

    def sample(self, length: int) -> str:
        """Generate a text of `length` characters from the current weights.

        Of a model of records, it has the whole records, one on each line. The run is not affected.
        """
        self.ensemble.average()
        rng, no_prime = rng_of_text(self.options.seed, 0), np.empty(0, np.int32)
        start = self._starts.start(self.model)
        options = SamplingOptions(allowed=self.corpus.vocabulary.writable)
        ids = generate(self.model, no_prime, rng, options, start)
        return self._shown([next(ids) for _ in range(length)])

    def _shown(self, ids: list[int]) -> str:
        """The text of `ids`, or their whole records; a part of one if there is no whole one."""
        vocabulary, end_id = self.corpus.vocabulary, self.corpus.record_end_id
        order = reading_order(self.config.backward)
        if end_id in ids:
            *records, _ = vocabulary.symbols(ids).split(vocabulary.symbols([end_id]))
            texts = (vocabulary.encode_symbols(record[order]) for record in records)
            return "\n".join(text.decode("utf-8", "replace") for text in texts)
        return vocabulary.decode(ids[order])

    # --- one step

    def _step(self) -> Report:
        """Make one update; validate, log and save when it is time to."""
        learning_rate = self._update()
        progress = self.progress
        moved = self.pacer.count_step()
        interval = validation_interval(progress.total_steps, self.streams.num_chunks)
        is_last = progress.step == progress.total_steps
        is_due = self._ranks_agree and progress.step % interval < self.options.local_steps
        validate = is_last or (is_due and self.pacer.may_validate)
        if validate:
            self.ensemble.synchronize()
            self._validate()
            moved = self.pacer.replan() or moved
        if moved:
            self.ensemble.reset_state()
        logged = validate or progress.step % log_interval(progress.total_steps) == 0
        report = make_report(
            progress, self.streams, learning_rate, *self.pacer.measure_rate(), logged
        )
        if logged:
            self.writer.log(log_record(report, validate, progress.extended_step))
            progress.loss_sum, progress.loss_count = 0.0, 0
        if self._ranks_agree and self.writer.is_due(self._save_every):
            self.recovery.check_weights()
            with self.pacer.saving():
                self.writer.save_all(self._state())
        return replace(report, **self.pop_notices()._asdict())

    @property
    def _ranks_agree(self) -> bool:
        """Whether all ranks have the same weights, which they have after each round of steps."""
        steps = self.progress.step - self.progress.last_recovery_step
        return steps % self.options.local_steps == 0

    @property
    def _may_stop(self) -> bool:
        return self._stopping and self._ranks_agree

    def _update(self) -> float:
        """Train on the next chunk; returns the learning rate."""
        progress, num_chunks = self.progress, self.streams.num_chunks
        epoch, k = divmod(progress.step + progress.chunk_offset, num_chunks)
        if k == 0:
            self.ensemble.reset_state()
        if progress.step == 0 and self.requested.init_from:
            self.ensemble.learn_new_characters()
        x, y = self.streams.chunk(k, epoch)
        dropout_seed = int(self.rng.integers(2**32)) if self.ensemble.needs_dropout_seed else 0
        loss, gradient_norm = self.ensemble.compute(x, y, dropout_seed)
        self.recovery.check_update(loss, gradient_norm)
        learning_rate = self._learning_rate()
        self.ensemble.update(learning_rate)
        progress.record_step(loss, x.size)
        return learning_rate

    def _learning_rate(self) -> float:
        o, progress = self.options, self.progress
        factor = SCHEDULES[o.schedule](
            progress.schedule_fraction,
            epoch=progress.step // self.streams.num_chunks,
            decay=o.lr_decay,
            decay_after=o.lr_decay_after,
        )
        return self.recovery.base_learning_rate * factor * progress.warm_up

    # --- validation and the best weights

    def _validate(self) -> None:
        """Measure the validation loss; record the weights if they are the best; stop early."""
        self.recovery.check_weights()
        progress = self.progress
        with self.pacer.validating():
            self.ensemble.average()
            loss = self.validation.loss()
        self.recovery.check_val_loss(loss)
        progress.record_validation(loss)
        if self._is_best(loss):
            progress.best_val_loss = loss
            self._record_best()
            with self.pacer.saving():
                self.writer.save_model_if_due()
        elif progress.step < progress.total_steps and progress.should_stop_early(
            self.options.patience
        ):
            progress.set_total_steps(progress.step)
            self.stopped_early = True

    def _is_best(self, loss: float | None) -> bool:
        """Without a validation text, the latest weights are the best."""
        best = self.progress.best_val_loss
        return loss is None or best is None or not self.writer.has_best or loss < best

    def _record_best(self, stored: StoredStart | None = None) -> None:
        """Record the current weights, which are finite, as the best.

        stored: where texts start; by default, at line ends of the training text.
        """
        progress = self.progress
        training = {
            "steps": progress.step,
            "total_steps": progress.total_steps,
            "epochs": progress.step / self.streams.num_chunks,
            "characters": self.streams.chars_in_chunks(progress.step),
            "train_loss": progress.history[-1][1] if progress.history else None,
            "val_loss": progress.val_loss,
            "history": list(progress.history),
            "options": asdict(self.options) | self.requested.limit,
        }
        parameters = self.writer.best_buffer()
        parameters.flat[:] = self.model.parameters.flat
        if stored is None:
            start = self._starts.start(self.model, self.ensemble.workspace)
            stored = StoredStart(int(start.ids[0]), *start.states)
        self.writer.set_best(BestWeights(parameters, training, stored))

    # --- end, state

    def _end(self) -> None:
        self.finished = self.progress.step >= self.progress.total_steps
        self.recovery.check_weights()
        self.ensemble.average()
        if self.validation.is_empty or not self.writer.has_best:
            self._record_best()
        if self.finished and self.validation.is_partial:
            self._validate_best_on_full_split()
        self.writer.save_last(self._state())

    def _validate_best_on_full_split(self) -> None:
        """Record the best weights' loss on the whole validation text in the model file."""
        best = self.writer.load_best()
        self.full_val_loss = self.validation.full_loss(best.parameters)
        training = best.training | {"val_loss": self.full_val_loss}
        self.writer.set_best(best._replace(training=training))

    def _state(self) -> State:
        carried, members = self.ensemble.get_state(), self.ensemble.members
        return State(
            config=self.config,
            options=self.options,
            requested=self.requested,
            fingerprint=self.corpus.fingerprint,
            encoding=self.corpus.encoding,
            num_bytes=self.corpus.num_bytes,
            characters=self.corpus.vocabulary.characters if self.requested.init_from else None,
            progress=self.progress,
            rng=self.rng,
            hidden=carried.hidden,
            ngrams=self.model.ngrams.table,
            recent=carried.recent,
            members=tuple(member.get_state() for member in members),
            ranks=self._num_ranks,
        )

    def _restore(self, state: State) -> float:
        """Continue from a saved state; returns its seconds of training.

        Raises CharRNNError when the state does not fit its options.
        """
        progress = state.progress
        updates = progress.step - progress.last_recovery_step
        with corrupt_if_invalid(self.files.state):
            if progress.total_steps > self.options.steps and progress.deadline is None:
                raise corrupt_file("it does not fit its options")
            for trainer, member in zip(self.ensemble.members, state.members, strict=True):
                trainer.set_state(member, updates)
        self.ensemble.set_state(CarriedState(state.hidden, state.recent))
        self.rng, self.progress = state.rng, progress
        self.writer.has_best = progress.best_val_loss is not None and self.files.model.exists()
        if self.writer.has_best:
            self.writer.keep_provenance()
        if progress.best_val_loss is not None and progress.step == 0:
            self._restore_initial_best(progress.best_val_loss)
        return self.writer.resume_log(progress.step)

    def _restore_initial_best(self, loss: float) -> None:
        """Record the weights that the run started from as the best, unless the model file has them.

        A run that was killed when it began may have saved its state only. Texts then start at line
        ends of the new text.
        """
        with contextlib.suppress(CharRNNError):
            if self.writer.has_best and self.writer.load_best().training.get("val_loss") == loss:
                return
        self.ensemble.average()
        self._record_best()


def _sentences(notices: list[str]) -> str | None:
    return " ".join(sentence[0].upper() + sentence[1:] for sentence in notices) or None
