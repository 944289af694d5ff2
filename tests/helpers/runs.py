"""Short runs of training, and all that they leave behind, to be compared."""

import json

from charrnn.storage.run_files import run_files
from charrnn.text.corpus import read_corpus
from charrnn.training.start import start_run

# Some 30 chunks an epoch of conftest's text; a step takes a fraction of a millisecond.
SMALL = {"hidden_size": 8, "num_layers": 1, "batch_size": 8, "seq_length": 12}


def started(corpus_file, output, *, resume=False, threads=1, **more):
    """A small run; `more` are settings, options of start_run and of read_corpus."""
    text = {name: more.pop(name) for name in ("as_bytes", "encoding") if name in more}
    how = {name: more.pop(name) for name in ("overwrite", "save_every") if name in more}
    settings = more if resume else SMALL | more
    corpus = read_corpus(corpus_file, **text)
    return start_run(corpus, settings, output, resume=resume, threads=threads, **how)


def trained(corpus_file, output, **more):
    """A run that has made all its steps."""
    run = started(corpus_file, output, **more)
    for _ in run:
        pass
    return run


def stopped_after(run, steps):
    """Make so many steps, then stop."""
    for count, _ in enumerate(run, 1):
        if count == steps:
            run.stop()


def log_of(output):
    """The lines of the log, without what is measured in seconds."""
    lines = [json.loads(line) for line in run_files(output).log.read_text().splitlines()]
    return [
        {k: v for k, v in line.items() if k not in ("seconds", "chars_per_second")}
        for line in lines
    ]


def result_of(output):
    """All that a run leaves and that must be the same, bit for bit, however it came about."""
    files = run_files(output)
    return {
        "model": files.model.read_bytes(),
        "state": files.state.read_bytes(),
        "log": log_of(output),
    }


def files_in(folder):
    return sorted(path.name for path in folder.iterdir())
