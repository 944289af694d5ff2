"""Start a run again and again in child processes that die; report what was wrong.

    python crashes.py CORPUS FOLDER KIND NUMBERS SETTINGS

NUMBERS and SETTINGS are JSON. With KIND `calls`, for each of NUMBERS the child kills itself at the
call with this number among those that change the disk. With `moments`, each of NUMBERS is a seed:
the child is killed after a random time and the run resumed, until it ends by itself. What remains
is then resumed, and its result must equal that of a run without a crash. Prints a JSON object.
Children are forked, because importing Numba takes a hundred times as long as a run.
"""

import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path

from faults import At, Calls
from runs import files_in, result_of, started, trained

SAVE_EVERY = 0  # seconds: save after each step
FILES = ["m", "m.log.jsonl", "m.state.safetensors"]


def main(corpus_file, folder, kind, numbers, settings):
    os.fsync = lambda descriptor: None  # data outlive a killed process without it
    folder = Path(folder)
    models = models_of(corpus_file, folder / "whole", settings)
    expected = result_of(folder / "whole" / "m")
    report = {"runs": 0, "deaths": 0, "calls": count_calls(corpus_file, folder, settings)}
    for number in numbers:
        crashed = folder / f"{number}"
        crashed.mkdir()
        deaths = {"calls": die_at_a_call, "moments": die_at_moments}[kind](
            corpus_file, crashed, number, settings, models
        )
        in_a_child(lambda crashed=crashed: resume_or_start(corpus_file, crashed, settings))
        assert result_of(crashed / "m") == expected, f"{kind} {number}: another result"
        assert files_in(crashed) == FILES, f"{kind} {number}: {files_in(crashed)}"
        shutil.rmtree(crashed)
        report["runs"] += 1
        report["deaths"] += deaths
    print(json.dumps(report))


def models_of(corpus_file, folder, settings):
    """All model files that the run writes, as bytes."""
    folder.mkdir()
    models = set()
    for _ in started(corpus_file, folder / "m", save_every=SAVE_EVERY, **settings):
        if (folder / "m").exists():
            models.add((folder / "m").read_bytes())
    return models | {(folder / "m").read_bytes()}


def count_calls(corpus_file, folder, settings):
    at = At(None)
    with Calls(at).installed():
        trained(corpus_file, folder / "m", save_every=SAVE_EVERY, **settings)
    return at.count


def die_at_a_call(corpus_file, folder, number, settings, models):
    def run():
        with Calls(At(lambda: os.kill(os.getpid(), signal.SIGKILL), {number})).installed():
            trained(corpus_file, folder / "m", save_every=SAVE_EVERY, **settings)

    died = in_a_child(run)
    require_whole(folder, models)
    return died


def die_at_moments(corpus_file, folder, seed, settings, models):
    """Kill and resume a run until it ends by itself; returns how often it was killed."""
    started_at = time.monotonic()
    in_a_child(lambda: trained(corpus_file, folder / "timed", save_every=SAVE_EVERY, **settings))
    longest = time.monotonic() - started_at
    for path in folder.iterdir():
        path.unlink()
    choose, deaths = random.Random(seed), 0
    while True:
        delay = choose.uniform(0, longest)
        if not in_a_child(lambda: resume_or_start(corpus_file, folder, settings), delay):
            return deaths
        require_whole(folder, models)
        deaths += 1
        longest *= 1.05  # a machine may be slow


def resume_or_start(corpus_file, folder, settings):
    """Resume the run, or start it if the crash left no state."""
    resume = (folder / "m.state.safetensors").exists()
    settings = {} if resume else settings
    trained(corpus_file, folder / "m", resume=resume, save_every=SAVE_EVERY, **settings)


def in_a_child(action, delay=None):
    """Run `action` in a child; returns whether the child was killed (after `delay` seconds)."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            action()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    if delay is not None:
        time.sleep(delay)
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the run failed"
    return os.WIFSIGNALED(status)


def require_whole(folder, models):
    """Check that the model file is complete, or does not exist yet."""
    if (folder / "m").exists():
        assert (folder / "m").read_bytes() in models, "the model is not one of the run's"


if __name__ == "__main__":
    corpus_file, folder, kind, numbers, settings = sys.argv[1:]
    main(corpus_file, folder, kind, json.loads(numbers), json.loads(settings))
