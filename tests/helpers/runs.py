"""Short training runs, and the files that they leave, to be compared."""

import json

from charrnn.storage.run_files import run_files
from charrnn.training.start import prepare_run

# Some 30 chunks per epoch of conftest's text; a step takes a fraction of a millisecond.
SMALL = {"hidden_size": 8, "num_layers": 1, "batch_size": 8, "seq_length": 12}
HOW = ("as_bytes", "encoding", "overwrite", "ranks", "save_every", "val_file")


class StepClock:
    """A clock that shows `seconds_at(step)` of the run that it is attached to."""

    def __init__(self, seconds_at):
        self.run, self._seconds_at = None, seconds_at

    def __call__(self):
        return self._seconds_at(self.run.progress.step) if self.run else 0.0


def started(corpus_file, output, *, resume=False, threads=1, clock=None, **more):
    """Start a small run; `more` are settings and arguments of prepare_run."""
    how = {name: more.pop(name) for name in HOW if name in more}
    how |= {"clock": clock} if clock else {}
    settings = more if resume else SMALL | more
    prepared = prepare_run(corpus_file, output, settings, resume=resume, threads=threads, **how)
    run = prepared.start()
    if isinstance(clock, StepClock):
        clock.run = run
    return run


def trained(corpus_file, output, **more):
    """Start a run and make all its steps."""
    run = started(corpus_file, output, **more)
    for _ in run:
        pass
    return run


def stopped_after(run, steps):
    """Make `steps` steps, then stop."""
    for count, _ in enumerate(run, 1):
        if count == steps:
            run.stop()


def log_of(output):
    """The lines of the log, without the measured times."""
    lines = [json.loads(line) for line in run_files(output).log.read_text().splitlines()]
    return [
        {k: v for k, v in line.items() if k not in ("seconds", "chars_per_second")}
        for line in lines
    ]


def result_of(output):
    """Everything that a run leaves and that must be the same, bit for bit, for equal runs."""
    files = run_files(output)
    return {
        "model": files.model.read_bytes(),
        "state": files.state.read_bytes(),
        "log": log_of(output),
    }


def files_in(folder):
    return sorted(path.name for path in folder.iterdir())
