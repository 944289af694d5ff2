"""Starting a run: its options, lock, saved state and text, each taken once.

`prepare_run` does everything that can fail quickly, without importing Numba; the caller may use the
corpus before `PreparedRun.start` plans the run.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ..config import DEFAULT_NGRAMS, LIMITS, SAVE_EVERY, TrainOptions, train_options
from ..errors import (
    FilePath,
    UsageError,
    display_path,
    escape_unprintable,
    list_of_paths,
)
from ..storage.checkpoint import corrupt_file
from ..storage.inputs import require_not_input
from ..storage.run_files import RunFiles, RunLock, acquire_run, run_files
from ..text.corpus import Corpus, read_corpus, require_varied
from ..text.files import expand_folders
from ..text.ngrams import NgramTable, count_ngrams
from ..text.reader import EncodingOptions, OnUndecodable, codec_name, fingerprint_of_start
from ..text.splitting import TextSplit, split_corpus
from ..text.streams import BatchStreams, RecordStreams, clamp_batch_shape
from ..text.vocabulary import CharVocabulary
from .initial_model import InitialModel, InitialWeights
from .ranks import ONE_RANK, Ranks
from .state import State, corrupt_if_invalid, read_state
from .stopwatch import STALL_FACTOR
from .text_notes import text_notes

if TYPE_CHECKING:  # these import Numba, which loads slowly
    from .planner import Plan
    from .run import TrainingRun

LEAVE_OUT = "leave the option out to resume it, or start another run with -o."


def prepare_run(
    paths: FilePath | Iterable[FilePath],
    output: FilePath,
    settings: Mapping[str, Any],
    *,
    val_file: FilePath | None = None,
    encoding: str | None = None,
    as_bytes: bool | None = None,
    resume: bool = False,
    overwrite: bool = False,
    threads: int | None = None,
    save_every: float = SAVE_EVERY,
    progress: Callable[[int, int], None] | None = None,
    clock: Callable[[], float] = time.monotonic,
    cpu_clock: Callable[[], float] | None = None,
    ranks: Ranks = ONE_RANK,
) -> PreparedRun:
    """Lock the run `output`, read its state with `resume`, and read its text.

    `paths` are text files or folders of them, "-" is standard input, `settings` are fields of
    TrainOptions. `val_file`, a file or folder, is the validation text; by default a part of the
    text is. With `resume`, settings, encoding and as_bytes default to those of the run and
    must agree with them.
    `threads` None: all usable cores. `save_every` is the least time between two saves, in seconds.
    `progress(done, total)` is called while the text is read, with numbers of bytes. `clock` returns
    seconds; the time limit of the run starts when the text has been read. `cpu_clock` returns
    seconds of the processor: with it, a stall between reading and training does not count. `ranks`
    train together, and this is rank 0; the others call `data_parallel.follow`.

    Raises UsageError for impossible settings, CharRNNError for a text or an output that cannot be
    used. Nothing is written then, and the lock is released.
    """
    files = run_files(output)
    paths = expand_folders(list_of_paths(paths), excluded=files)
    val_paths = [] if val_file is None else expand_folders([val_file], excluded=files)
    requested = train_options(settings)
    if ranks.size > 1:
        _check_ensemble(requested.ensemble, ranks)
        requested = replace(requested, ensemble=1)
    elif requested.local_steps > 1 and not resume:
        raise UsageError("--local-steps is for several processes: start them with mpirun.")
    limit: dict[str, float] | None = None
    if val_paths and settings.get("val_fraction") is not None:
        raise UsageError("give --val-file or --val-fraction, not both.")
    _check_precision(requested.precision, resume)
    require_not_input(files, paths + val_paths, what="the run", kind="the text", option="-o")
    if overwrite:
        _require_no_earlier_batch(files)
    lock = acquire_run(output, resume=resume, overwrite=overwrite)
    try:
        state = read_state(files.state) if resume else None
        if state is not None:
            _check_settings(settings, state)
            limit = _other_limit(requested.limit, state)
            _check_encoding(encoding, as_bytes, state)
            _check_ensemble(state.options.ensemble, ranks)
            encoding, as_bytes = state.encoding, state.encoding == "bytes"
        reading = requested if state is None else state.requested
        if as_bytes and reading.min_count > 1:
            raise UsageError(
                "a model of bytes has no unknown bytes: give --bytes or --min-count, not both."
            )
        initial: InitialModel | None = None
        extend: Callable[[CharVocabulary], CharVocabulary] | None = None
        if state is not None and state.characters is not None:
            extend = partial(_saved_vocabulary, state.characters, files)
        elif state is None and requested.init_from is not None:
            initial = InitialModel(requested, settings, bool(as_bytes))
            extend = initial.vocabulary
        corpus = read_corpus(
            paths + val_paths,
            extend=extend,
            encoding=encoding or "utf-8",
            as_bytes=bool(as_bytes),
            folder=files.model.parent,
            apart_from=len(paths) if val_paths else None,
            min_count=reading.min_count,
            errors=cast(OnUndecodable, reading.errors),
            separator=reading.separator,
            progress=progress,
            options=EncodingOptions("--encoding", "--bytes", "--errors replace"),
        )
        corpus = _identified(corpus, len(val_paths), state)
        _check_text(corpus, state, files)
        options = requested if state is None else state.options
        first_val_file = len(paths) if val_paths else None
        parts = split_corpus(
            corpus, options.val_fraction, options.seed, first_val_file, files.model.parent
        )
        notes = () if state else tuple(text_notes(corpus, parts, has_val_file=bool(val_paths)))
        requested = replace(requested, **initial.settings) if initial else requested
        if (requested if state is None else state.requested).backward:
            parts = parts.reversed(corpus.record_end_id, files.model.parent)
        started_at, cpu_started_at = clock(), cpu_clock() if cpu_clock else 0.0
    except BaseException:
        lock.release()
        raise
    return PreparedRun(
        corpus=corpus,
        split=parts,
        notes=notes,
        requested=requested,
        initial=initial,
        state=state,
        limit=limit,
        files=files,
        lock=lock,
        threads=threads,
        save_every=save_every,
        clock=clock,
        started_at=started_at,
        cpu_clock=cpu_clock,
        cpu_started_at=cpu_started_at,
        ranks=ranks,
    )


@dataclass(eq=False)
class PreparedRun:
    """A run that is locked and whose text is read and split. Call `start` once.

    The lock is released when the run ends, or with this object. Fields as of `prepare_run`.
    """

    corpus: Corpus
    split: TextSplit
    notes: tuple[str, ...]  # on the text
    requested: TrainOptions
    initial: InitialModel | None  # that a new run starts from
    state: State | None  # of a run that is resumed
    limit: dict[str, float] | None  # another length for it
    files: RunFiles
    lock: RunLock
    threads: int | None
    save_every: float
    clock: Callable[[], float]
    started_at: float  # when the time limit started, by the clock ...
    cpu_clock: Callable[[], float] | None
    cpu_started_at: float  # ... and by the processor's clock
    ranks: Ranks = ONE_RANK

    def start(self) -> TrainingRun:
        """Plan a new run, or take up the saved one; iterate over the result to train.

        Raises CharRNNError for a text or a machine too small for the run and for a damaged state.
        Nothing is written then, and the lock is released.
        """
        try:
            return self._start()
        except BaseException:
            self.lock.release()
            raise

    def _start(self) -> TrainingRun:
        from ..network.cores import usable_cores
        from ..network.precision import fastest_precision, slower_bfloat16
        from .planner import Plan, with_defaults
        from .run import TrainingRun

        threads = self.threads or usable_cores()
        state, self.state = self.state, None  # three times as large as the model
        initial, self.initial = self.initial, None
        weights = initial.weights(self.corpus.vocabulary) if initial else None
        if state is not None:
            requested, streams = state.requested, self._saved_streams(state)
            ngrams = state.ngrams
            plan = Plan(state.config, state.options)
        else:
            requested = with_defaults(self.requested)
            if requested.precision is None:
                requested = replace(requested, precision=fastest_precision())
            streams, ngrams, plan = self._plan(requested, threads, weights)
        unit = self.corpus.vocabulary.unit
        fitted = _notes(requested, plan, len(self.split.val_ids), unit)
        is_resumed_bfloat16 = state is not None and plan.options.precision == "bfloat16"
        slower = slower_bfloat16() if is_resumed_bfloat16 else ""
        shared = _describe_ranks(self.ranks.size, plan.options.local_steps, state)
        notes = (*self.notes, *filter(None, [plan.summary, slower]), *shared, *fitted)
        return TrainingRun(
            corpus=self.corpus,
            streams=streams,
            train_ids=self.split.train_ids,
            val_ids=self.split.val_ids,
            requested=requested,
            plan=plan,
            ngrams=ngrams,
            notes=notes,
            files=self.files,
            lock=self.lock,
            threads=threads,
            save_every=self.save_every,
            clock=self.clock,
            initial=weights,
            state=state,
            limit=self.limit,
            ranks=self.ranks,
        )

    def _plan(
        self, requested: TrainOptions, threads: int, initial: InitialWeights | None
    ) -> tuple[BatchStreams, NgramTable, Plan]:
        from .model_choice import TextSizes
        from .planner import make_plan, make_streams, measure_chars_per_second

        train_ids, vocabulary = self.split.train_ids, self.corpus.vocabulary
        streams = make_streams(train_ids, requested, self._streams(requested.seed))
        order, end_id = requested.ngrams or DEFAULT_NGRAMS, self.corpus.record_end_id
        if initial:
            ngrams = initial.ngrams
        else:
            ngrams = count_ngrams(train_ids, len(vocabulary), order, end_id)
        sizes = TextSizes(
            vocab_size=len(vocabulary),
            num_train=len(train_ids),
            num_val=len(self.split.val_ids),
            num_ngrams=sum(map(len, ngrams)),
            unit=vocabulary.unit,
            record_end_id=end_id,
        )
        measure = partial(measure_chars_per_second, streams, threads, ngrams, self.ranks)
        plan = make_plan(streams, sizes, requested, measure, self._seconds_used)
        return streams, ngrams[: plan.config.ngrams - 1], plan

    def _seconds_used(self) -> float:
        """Seconds since the time limit started, without a stall: this work uses the processor."""
        seconds = self.clock() - self.started_at
        if self.cpu_clock is None:
            return seconds
        busy = self.cpu_clock() - self.cpu_started_at
        return busy if seconds > STALL_FACTOR * busy + 1 else seconds

    def _saved_streams(self, state: State) -> BatchStreams:
        """Cut the text into the streams of a saved run. Raises CharRNNError if it cannot be."""
        shape = state.options.batch_size, state.options.seq_length
        with corrupt_if_invalid(self.files.state):
            fits = (
                state.config.vocab_size == len(self.corpus.vocabulary)
                and state.config.record_end_id == self.corpus.record_end_id
                and state.hidden.shape[2] == state.options.batch_size
                and clamp_batch_shape(len(self.split.train_ids), *shape) == shape
            )
            if not fits:
                raise corrupt_file("it does not fit its text")
        return self._streams(state.options.seed)(self.split.train_ids, *shape)

    def _streams(self, seed: int) -> Callable[..., BatchStreams]:
        """What cuts the training text into streams."""
        end_id = self.corpus.record_end_id
        if end_id < 0:
            return BatchStreams
        return partial(RecordStreams, end_id=end_id, seed=seed, folder=self.files.model.parent)


def _check_precision(precision: str | None, resume: bool) -> None:
    """Raise UsageError for a precision that this processor lacks, before a long text is read.

    A new run is also refused one that is slower here than float32.
    """
    if precision is not None:
        from .trainer import require_precision

        require_precision(precision)
    if precision == "bfloat16" and not resume:
        from ..network.precision import slower_bfloat16

        if slower := slower_bfloat16():
            raise UsageError(f"{slower}: train in float32, the default.")


def _describe_ranks(count: int, local_steps: int, state: State | None) -> list[str]:
    """Notes on what several processes do, and that a resumed run has as many as before."""
    notes = []
    if count > 1:
        each = f", and average their weights after {local_steps:,} updates" * (local_steps > 1)
        notes.append(f"{count} processes share the streams of each batch{each}")
    if state is not None and state.ranks not in (0, count):
        notes.append(
            f"the run had {state.ranks} process{'es' * (state.ranks > 1)} until now; it goes on "
            f"with {count}, but not in the same bits"
        )
    return notes


def _check_ensemble(count: int | None, ranks: Ranks) -> None:
    """Raise UsageError for several models that several processes would have to share."""
    if ranks.size > 1 and count not in (None, 1):
        raise UsageError(
            f"{ranks.size} processes train one model together, not {count}: leave out --ensemble, "
            "or give --distributed none."
        )


def _saved_vocabulary(characters: str, files: RunFiles, own: CharVocabulary) -> CharVocabulary:
    """The saved vocabulary of a run whose text has the vocabulary `own`."""
    with corrupt_if_invalid(files.state):
        if not set(own.characters) <= set(characters):
            raise corrupt_file("it does not know the characters of its text")
        return CharVocabulary(characters, own.separator)


def _identified(corpus: Corpus, num_val_files: int, state: State | None) -> Corpus:
    """The corpus with a fingerprint that also tells how its files are split.

    Runs of state files before version 4 read several files as one text, and still do.
    """
    if state is not None and not num_val_files and state.fingerprint == corpus.fingerprint:
        return replace(corpus, file_starts=corpus.file_starts[:1])
    if len(corpus.file_starts) == 1:
        return corpus
    description = f"{corpus.fingerprint} {corpus.file_starts} {num_val_files}"
    return replace(corpus, fingerprint=hashlib.sha256(description.encode()).hexdigest())


def _check_text(corpus: Corpus, state: State | None, files: RunFiles) -> None:
    """Raise CharRNNError for a text that holds nothing to learn, or is not the saved run's."""
    require_varied(corpus)
    if state is None or state.fingerprint == corpus.fingerprint:
        return
    if state.fingerprint == corpus.glued_fingerprint:
        raise UsageError(
            f"the run of {display_path(files.state)} joined these files without line ends between "
            "them: resume it with `cat FILES | charrnn train - --resume`, or start another with -o."
        )
    if _has_grown(corpus, state):
        raise UsageError(
            f"the text has grown since the run of {display_path(files.state)}: start a new run "
            f"from its model, with --init-from {display_path(files.model)} -o NEW."
        )
    raise UsageError(
        f"the text is not the one that {display_path(files.state)} was trained on: "
        "give the same files in the same order, and the same --val-file."
    )


def _has_grown(corpus: Corpus, state: State) -> bool:
    """Whether the text is one file that begins with the text of the saved run and goes on."""
    [name, *others] = corpus.names
    if others or name == "-" or not 0 < state.num_bytes < corpus.num_bytes:
        return False
    with contextlib.suppress(OSError):
        return fingerprint_of_start(name, state.num_bytes, state.encoding) == state.fingerprint
    return False


def _require_no_earlier_batch(files: RunFiles) -> None:
    """Raise UsageError if the run would replace the one that an earlier batch of xargs made."""
    xargs_started_at = _xargs_started_at()
    if xargs_started_at is None or not files.state.exists():
        return
    if files.state.stat().st_mtime >= xargs_started_at:
        raise UsageError(
            f"{display_path(files.model)} has just been trained by the same xargs, which starts "
            "one run per batch of files: give all files to one run, with --files-from -."
        )


def _xargs_started_at() -> float | None:
    """When the xargs that started this process began, by time.time(); None: it was not xargs."""
    with contextlib.suppress(OSError):
        head, _, fields = Path(f"/proc/{os.getppid()}/stat").read_text("latin-1").rpartition(")")
        if head.endswith("(xargs"):
            ticks_since_boot = int(fields.split()[19])  # starttime in proc_pid_stat(5)
            age = time.clock_gettime(time.CLOCK_BOOTTIME)
            age -= ticks_since_boot / os.sysconf("SC_CLK_TCK")
            return time.time() - age
    return None


def _check_encoding(encoding: str | None, as_bytes: bool | None, state: State) -> None:
    """Raise UsageError for an encoding, or bytes, that is not the saved run's."""
    if as_bytes is None:
        as_bytes = state.encoding == "bytes" and encoding is None
    if as_bytes != (state.encoding == "bytes"):
        units = ("on characters", "on bytes")
        raise _other_setting(units[not as_bytes], units[as_bytes])
    if encoding is not None and not as_bytes and codec_name(encoding) != state.encoding:
        raise UsageError(
            f"the encoding {escape_unprintable(encoding)} is not the one that the run was started "
            f"with, {escape_unprintable(state.encoding)}: {LEAVE_OUT}"
        )


def _check_settings(settings: Mapping[str, Any], state: State) -> None:
    """Raise UsageError for a setting that differs from that of the saved run.

    A setting may be given as it was asked for, or as it was chosen.
    """
    requested = asdict(state.requested)
    chosen = requested | asdict(state.config) | asdict(state.options)
    for name, value in settings.items():
        if name not in LIMITS and value not in (None, requested[name], chosen[name]):
            raise _other_setting(f"with {name.replace('_', ' ')} {chosen[name]}", value)


def _other_limit(limit: dict[str, float], state: State) -> dict[str, float] | None:
    """`limit` if the saved run has another one; None if it is the same, or empty."""
    own = state.requested.limit | {"steps": state.options.steps}
    return limit if limit.items() - own.items() else None


def _other_setting(started: str, asked: object) -> UsageError:
    return UsageError(f"the run was started {started}, not {asked}: {LEAVE_OUT}")


def _notes(requested: TrainOptions, plan: Plan, num_val: int, unit: str) -> Iterator[str]:
    """Sentences on what was fitted to the text."""
    for name in "batch_size", "seq_length":
        asked, used = getattr(requested, name), getattr(plan.options, name)
        if asked not in (None, used):
            yield f"the text is short: {name.replace('_', ' ')} {asked} became {used}"
    max_chars = plan.options.val_chars
    if not num_val:
        yield "there is no validation text: the last weights are saved, not the best"
    elif num_val > max_chars + 1:
        yield f"each validation reads {max_chars:,} {unit}s of the validation text"
