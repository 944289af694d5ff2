"""A process that starts a run again and again, in children that die, and says what was wrong.

    python crashes.py CORPUS FOLDER KIND NUMBERS SETTINGS

NUMBERS and SETTINGS are JSON. KIND is `calls`: the child kills itself at call NUMBER of those
that change the disk, for each of NUMBERS; or `moments`: it is killed after a random time, as
often as it takes to end all the same, for each of NUMBERS, a seed. What remains is then resumed,
and must become what the run is without any crash. Prints a JSON object; the children are forked,
because to import Numba takes a hundred times as long as a run.
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

SAVE_EVERY = 0  # with each step
FILES = ["m", "m.log.jsonl", "m.state.safetensors"]


def main(corpus_file, folder, kind, numbers, settings):
    os.fsync = lambda descriptor: None  # what a process has written outlives it unflushed
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
        in_a_child(lambda crashed=crashed: go_on(corpus_file, crashed, settings))
        assert result_of(crashed / "m") == expected, f"{kind} {number}: another result"
        assert files_in(crashed) == FILES, f"{kind} {number}: {files_in(crashed)}"
        shutil.rmtree(crashed)
        report["runs"] += 1
        report["deaths"] += deaths
    print(json.dumps(report))


def models_of(corpus_file, folder, settings):
    """Every model that the run writes, as bytes, and all files at the end."""
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
    """Kill and resume until a run ends by itself: how often it was killed."""
    began = time.monotonic()
    in_a_child(lambda: trained(corpus_file, folder / "timed", save_every=SAVE_EVERY, **settings))
    longest = time.monotonic() - began
    for path in folder.iterdir():
        path.unlink()
    choose, deaths = random.Random(seed), 0
    while True:
        delay = choose.uniform(0, longest)
        if not in_a_child(lambda: go_on(corpus_file, folder, settings), delay):
            return deaths
        require_whole(folder, models)
        deaths += 1
        longest *= 1.05  # a machine may be slow


def go_on(corpus_file, folder, settings):
    """Resume what a crash has left or, when that is nothing, start."""
    resume = (folder / "m.state.safetensors").exists()
    settings = {} if resume else settings
    trained(corpus_file, folder / "m", resume=resume, save_every=SAVE_EVERY, **settings)


def in_a_child(action, delay=None):
    """Whether a child that does `action` was killed, by itself or after `delay` seconds."""
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
    """What a reader finds after a crash: one of the models, whole, or none yet."""
    if (folder / "m").exists():
        assert (folder / "m").read_bytes() in models, "the model is not one of the run's"


if __name__ == "__main__":
    corpus_file, folder, kind, numbers, settings = sys.argv[1:]
    main(corpus_file, folder, kind, json.loads(numbers), json.loads(settings))
