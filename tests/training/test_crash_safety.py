"""Runs that are killed, cut off from power or from their disk: nothing is lost, nothing is torn."""

import errno
import itertools
import json
import os
import random
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.faults import At, Calls
from helpers.namespaces import NAMESPACE, can_mount
from helpers.powercut import Disk
from helpers.runs import files_in, result_of, started, trained

from charrnn.api import start
from charrnn.errors import CharRNNError
from charrnn.storage.checkpoint import load_state

HELPERS = Path(__file__).parents[1] / "helpers"
FILES = ["m", "m.log.jsonl", "m.state.safetensors"]
# Seven steps of half a millisecond; each is validated, logged and saved.
SHORT = {"steps": 7, "dropout": 0.2, "seed": 5}


@pytest.fixture(scope="module")
def expected(corpus_file, tmp_path_factory):
    """What the short run leaves when nothing happens to it."""
    output = tmp_path_factory.mktemp("expected") / "m"
    trained(corpus_file, output, save_every=0, **SHORT)
    return result_of(output)


@pytest.fixture(scope="module")
def models(corpus_file, tmp_path_factory):
    """Every model that the short run writes."""
    output = tmp_path_factory.mktemp("models") / "m"
    run = started(corpus_file, output, save_every=0, **SHORT)
    return {output.read_bytes() for _ in run if output.exists()}


def resumed(corpus_file, output):
    """Resume the run or, when nothing of it is there, start it."""
    resume = output.with_name("m.state.safetensors").exists()
    return trained(corpus_file, output, resume=resume, **({} if resume else SHORT))


# --- kill -9


def crashes(corpus_file, folder, kind, numbers, settings, timeout=60):
    """What tests/crashes.py reports; it fails when a run does not survive its crashes."""
    arguments = [corpus_file, folder, kind, json.dumps(list(numbers)), json.dumps(settings)]
    command = [sys.executable, HELPERS / "crashes.py", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_killed_at_random_moments(corpus_file, tmp_path):
    report = crashes(corpus_file, tmp_path, "moments", range(10), SHORT)
    assert report["runs"] == 10 and report["deaths"] >= 5


def test_killed_around_calls_that_write(corpus_file, tmp_path):
    """Before, in the middle of and after a write, between flushing and renaming, ..."""
    (tmp_path / "count").mkdir()
    calls = crashes(corpus_file, tmp_path / "count", "calls", [], SHORT)["calls"]
    numbers = random.Random(0).sample(range(1, calls + 1), 40)
    (tmp_path / "crash").mkdir()
    report = crashes(corpus_file, tmp_path / "crash", "calls", numbers, SHORT)
    assert report["deaths"] == 40


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "runs"),
    [
        (SHORT, 100),
        ({"steps": 60, "cell": "gru", "optimizer": "sgd", "hidden_size": 24}, 25),
        ({"steps": 30, "val_fraction": 0.0, "optimizer": "rmsprop", "num_layers": 2}, 25),
        ({"steps": 50, "val_fraction": 0.6, "cell": "rnn", "embedding_size": 4}, 25),
    ],
    ids=str,
)
def test_killed_at_many_random_moments(corpus_file, tmp_path, settings, runs):
    report = crashes(corpus_file, tmp_path, "moments", range(runs), settings, timeout=300)
    assert report["runs"] == runs and report["deaths"] >= runs


@pytest.mark.slow
def test_killed_around_every_call_that_writes(corpus_file, tmp_path):
    (tmp_path / "count").mkdir()
    calls = crashes(corpus_file, tmp_path / "count", "calls", [], SHORT)["calls"]
    (tmp_path / "crash").mkdir()
    numbers = range(1, calls + 1)
    report = crashes(corpus_file, tmp_path / "crash", "calls", numbers, SHORT, timeout=400)
    assert report["deaths"] == report["runs"] == calls


# --- power cuts


def states_after_power_cuts(corpus_file, folder, **disk):
    """{what the disk may hold: the step that must not be lost} for all moments of the short run."""
    disk = Disk(**disk)
    with Calls(disk.at).installed():
        run = started(corpus_file, folder / "m", save_every=0, **SHORT)
        for report in run:
            disk.promised = report.step
    return disk.remains


def require_sound(corpus_file, folder, remains, promised, expected, models):
    """What a power cut has left holds a whole model or none, and can be resumed to the same end."""
    for name, content in remains:
        (folder / name).write_bytes(content)
    assert not (folder / "m").exists() or (folder / "m").read_bytes() in models
    if promised >= 0:
        assert started(corpus_file, folder / "m", resume=True).summary.resumed_step >= promised
    resumed(corpus_file, folder / "m")
    assert result_of(folder / "m") == expected
    assert files_in(folder) == FILES


@pytest.fixture
def no_flushing(monkeypatch):
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


def test_power_cuts_lose_nothing(corpus_file, tmp_path, expected, models, no_flushing):
    states = states_after_power_cuts(corpus_file, tmp_path, deaf_to="")
    assert len(states) > 60
    for i, (remains, promised) in enumerate(states.items()):
        folder = tmp_path / f"{i}"
        folder.mkdir()
        require_sound(corpus_file, folder, remains, promised, expected, models)


@pytest.mark.parametrize("deaf_to", ["files", "folders"])
def test_power_cuts_would_lose_what_is_not_flushed(
    corpus_file, tmp_path, expected, models, no_flushing, deaf_to
):
    """The test before this one is able to fail."""
    failures = 0
    states = states_after_power_cuts(corpus_file, tmp_path, deaf_to=deaf_to)
    for i, (remains, promised) in enumerate(itertools.islice(states.items(), 0, None, 9)):
        folder = tmp_path / f"{i}"
        folder.mkdir()
        try:
            require_sound(corpus_file, folder, remains, promised, expected, models)
        except (AssertionError, CharRNNError):
            failures += 1
    assert failures


# --- errors of the disk


def fails_at(numbers, error):
    """An `at` that counts calls and makes those of the numbers fail, at any point of them.

    But removing always succeeds, and opening does not fail once it has made a file.
    """

    def fail():
        raise OSError(error, os.strerror(error))

    return At(fail, numbers, but=("unlink", "unlinked", "opened"))


def trained_through_errors(corpus_file, folder, at, expected, models):
    """Run with the errors that `at` raises; whether it ended well. What is left is always sound."""
    notices = []
    try:
        with Calls(at).installed():
            run = started(corpus_file, folder / "m", save_every=0, **SHORT)
            for report in run:
                notices += [report.notice] if report.notice else []
                assert not (folder / "m").exists() or (folder / "m").read_bytes() in models
                assert not [name for name in files_in(folder) if name.endswith(".tmp")]
        ended_well = True
    except CharRNNError as error:
        assert "cannot write" in str(error) and str(error).isprintable()
        ended_well = False
    assert set(files_in(folder)) <= set(FILES), files_in(folder)
    # First something fails, then all is saved again, then it may fail again.
    for i, notice in enumerate(notices):
        assert ("saved again" if i % 2 else "cannot write") in notice
    if not ended_well:
        resumed(corpus_file, folder / "m")
    assert result_of(folder / "m") == expected
    return ended_well


def count_of_calls(corpus_file, folder):
    at = fails_at((), 0)
    with Calls(at).installed():
        trained(corpus_file, folder / "m", save_every=0, **SHORT)
    return at.count


def errors_at_every(stride, corpus_file, tmp_path, expected, models, error, lasting):
    """Let every stride-th call fail, each in a run of its own; or all calls from it on."""
    calls = count_of_calls(corpus_file, tmp_path)
    survived = 0
    for number in range(1, calls + 1, stride):
        folder = tmp_path / f"{number}"
        folder.mkdir()
        at = fails_at(range(number, 10**9) if lasting else {number}, error)
        survived += trained_through_errors(corpus_file, folder, at, expected, models)
        shutil.rmtree(folder)
    return survived / len(range(1, calls + 1, stride))


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EMFILE])
def test_errors_of_the_disk(corpus_file, tmp_path, expected, models, no_flushing, error, lasting):
    survived = errors_at_every(23, corpus_file, tmp_path, expected, models, error, lasting)
    assert survived == 0 if lasting else survived > 0.6


@pytest.mark.slow
@pytest.mark.parametrize(
    ("error", "lasting"), [(errno.EIO, False), (errno.EROFS, True)], ids=["once", "from then on"]
)
def test_errors_at_every_call(corpus_file, tmp_path, expected, models, no_flushing, error, lasting):
    errors_at_every(1, corpus_file, tmp_path, expected, models, error, lasting)


def test_a_quota(corpus_file, tmp_path, expected):
    """No file may grow beyond a limit for some steps: the system's own error, found in writing."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    notices = {}
    try:
        for report in started(corpus_file, tmp_path / "m", save_every=0, **SHORT):
            if report.notice:
                notices[report.step] = report.notice
            if report.step == 2:
                before = result_of(tmp_path / "m")
                resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
            if report.step == 4:
                assert files_in(tmp_path) == [".m.lock", *FILES]
                after = result_of(tmp_path / "m")
                assert (after["model"], after["state"]) == (before["model"], before["state"])
                resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(notices) == [3, 5]
    assert "File too large. Training goes on" in notices[3] and "saved again" in notices[5]
    assert result_of(tmp_path / "m") == expected


def test_no_descriptors_left(corpus_file, tmp_path, expected):
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    notices = {}
    try:
        for report in started(corpus_file, tmp_path / "m", save_every=0, **SHORT):
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            if report.notice:
                notices[report.step] = report.notice
            if report.step in (2, 3):
                resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert list(notices) == [3, 5] and "Too many open files" in notices[3]
    assert result_of(tmp_path / "m") == expected


def test_a_disk_that_stays_full(corpus_file, tmp_path):
    """The end is an error that says what is saved; what is saved is whole and goes on."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    run = started(corpus_file, tmp_path / "m", save_every=0, **SHORT)
    try:
        with pytest.raises(CharRNNError, match="File too large; what has been saved .* step 4, "):
            for report in run:
                if report.step == 4:
                    before = result_of(tmp_path / "m")
                    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert files_in(tmp_path) == FILES
    assert result_of(tmp_path / "m") | {"log": None} == before | {"log": None}
    assert started(corpus_file, tmp_path / "m", resume=True).summary.resumed_step == 4


FULL_DISK = """
mount -t tmpfs -o size=200k none "$1" && shift && exec "$@"
"""


@pytest.mark.slow
@pytest.mark.skipif(not can_mount(), reason="no file system can be mounted here")
def test_a_small_disk(corpus_file, tmp_path):
    """A tmpfs that another file fills for a while."""
    command = [*NAMESPACE, "sh", "-c", FULL_DISK, "sh", tmp_path]
    command += [sys.executable, HELPERS / "smalldisk.py", corpus_file, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"4": "No space left on device", "7": "saved again"}


# --- files and folders that go


def through(corpus_file, output, events, **settings):
    """Train, calling events[step]() after that step; gives the notices by step."""
    notices = {}
    for report in started(corpus_file, output, save_every=0, **(SHORT | settings)):
        if report.notice:
            notices[report.step] = report.notice
        events.get(report.step, lambda: None)()
    return notices


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("step", [1, 4, 6, 7])
def test_a_file_removed_is_written_again(corpus_file, tmp_path, expected, name, step):
    assert through(corpus_file, tmp_path / "m", {step: (tmp_path / name).unlink}) == {}
    assert result_of(tmp_path / "m") == expected


@pytest.mark.parametrize("name", FILES)
def test_a_file_replaced_by_a_folder(corpus_file, tmp_path, expected, name):
    """It cannot be written, and what can be is."""
    path = tmp_path / name

    def replace():
        path.unlink()
        path.mkdir()

    def mend():
        path.rmdir()
        # A state must not tell of a best model that is not on the disk.
        saved = load_state(tmp_path / FILES[2])[1] if name != FILES[2] else None
        steps.append(saved and saved["progress"]["step"])

    steps = []
    notices = through(corpus_file, tmp_path / "m", {2: replace, 4: mend})
    assert list(notices) == [3, 5] and "it is a folder" in notices[3]
    assert steps == [{"m": 2, "m.log.jsonl": 4}.get(name)]
    assert result_of(tmp_path / "m") == expected


def test_a_log_cut_short_or_changed_is_mended(corpus_file, tmp_path, expected):
    path = tmp_path / "m.log.jsonl"
    cut = {3: lambda: os.truncate(path, 30), 5: lambda: path.write_bytes(b"\0" * 70)}
    through(corpus_file, tmp_path / "m", cut)
    assert result_of(tmp_path / "m") == expected


def test_the_folder_is_moved_and_comes_back(corpus_file, tmp_path, expected):
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    events = {2: lambda: here.rename(there), 4: lambda: there.rename(here)}
    notices = through(corpus_file, here / "m", events)
    assert list(notices) == [3, 5] and "there is no folder" in notices[3]
    assert result_of(here / "m") == expected
    assert files_in(here) == FILES


def test_the_folder_is_removed_and_made_anew(corpus_file, tmp_path, expected):
    folder = tmp_path / "folder"
    folder.mkdir()
    events = {2: lambda: shutil.rmtree(folder), 5: folder.mkdir}
    assert list(through(corpus_file, folder / "m", events)) == [3, 6]
    assert result_of(folder / "m") == expected
    assert files_in(folder) == FILES


def test_the_folder_is_gone_for_good(corpus_file, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(CharRNNError, match="there is no folder .* after step 2"):
        through(corpus_file, folder / "m", {2: lambda: shutil.rmtree(folder)})
    assert files_in(tmp_path) == []


def test_a_folder_moved_between_two_runs(corpus_file, tmp_path, expected):
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    run = started(corpus_file, here / "m", **SHORT)
    for report in run:
        if report.step == 3:
            run.stop()
    here.rename(there)
    resumed(corpus_file, there / "m")
    assert result_of(there / "m") == expected


def test_a_run_resumed_without_its_model_makes_another(corpus_file, tmp_path, models):
    run = started(corpus_file, tmp_path / "m", **SHORT)
    for report in run:
        if report.step == 3:
            run.stop()
    (tmp_path / "m").unlink()
    resumed(corpus_file, tmp_path / "m")
    assert (tmp_path / "m").exists()
    assert result_of(tmp_path / "m")["model"] in models


# --- logs that a crash has left


@pytest.mark.parametrize(
    "damage",
    [
        lambda log: b"",
        lambda log: log[:-1],
        lambda log: log[:-20],
        lambda log: log + b'{"step": 4',
        lambda log: log + b'{"step": 7, "seconds": 1.0}\n',
        lambda log: log + b"\0" * 500,
        lambda log: log + b"\xff\xfe\n" + b"[" * 100_000,
        lambda log: log + b'{"step": "4"}\n[1]\nnull\n{}\n{"step": NaN}\n',
        lambda log: log + b'{"step": 3, "seconds": 1e999}\n',
        lambda log: log.replace(b'"seconds": ', b'"seconds": "x'),
    ],
)
def test_whatever_is_left_of_a_log_the_run_goes_on(corpus_file, tmp_path, expected, damage):
    run = started(corpus_file, tmp_path / "m", **SHORT)
    for report in run:
        if report.step == 3:
            run.stop()
    log = tmp_path / "m.log.jsonl"
    whole = log.read_bytes()
    log.write_bytes(damage(whole))
    resumed(corpus_file, tmp_path / "m")
    result = result_of(tmp_path / "m")
    if damage(whole).startswith(whole):
        assert result == expected
    assert result | {"log": None} == expected | {"log": None}
    assert all(line in expected["log"] for line in result["log"])
    assert result["log"][-4:] == expected["log"][3:]


def test_a_log_that_is_missing(corpus_file, tmp_path, expected):
    run = started(corpus_file, tmp_path / "m", **SHORT)
    for report in run:
        if report.step == 3:
            run.stop()
    (tmp_path / "m.log.jsonl").unlink()
    resumed(corpus_file, tmp_path / "m")
    assert result_of(tmp_path / "m") == expected | {"log": expected["log"][3:]}


# --- two runs on one output


def test_a_second_run_is_refused_at_once(corpus_file, tmp_path, expected):
    """Before its text is looked for; and what it would have replaced is left alone."""
    run = started(corpus_file, tmp_path / "m", **SHORT)
    for how in {}, {"overwrite": True}, {"resume": True}:
        with pytest.raises(CharRNNError, match=f"process {os.getpid()} is training"):
            start("missing", tmp_path / "m", **how)
        with pytest.raises(CharRNNError, match=f"process {os.getpid()} is training"):
            started(corpus_file, tmp_path / "m", **how)
    assert len(list(run)) == 7
    assert result_of(tmp_path / "m") == expected
    started(corpus_file, tmp_path / "m", resume=True)


def test_a_run_that_fails_holds_nothing(corpus_file, tmp_path):
    run = started(corpus_file, tmp_path / "m", **SHORT)
    run.learner.optimizer.step = None
    with pytest.raises(TypeError):
        list(run)
    with pytest.raises(CharRNNError) as kept:
        started(corpus_file, tmp_path / "m", resume=True, steps=8)
    assert files_in(tmp_path) == ["m.log.jsonl", "m.state.safetensors"]
    trained(corpus_file, tmp_path / "m", resume=True)
    assert kept
