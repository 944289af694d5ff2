"""Kills, power cuts and disk errors: a run loses nothing and leaves no partial file."""

import contextlib
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
from helpers.faults import At, Calls, Refuses
from helpers.namespaces import NAMESPACE, can_mount
from helpers.powercut import Disk
from helpers.runs import files_in, result_of, started, trained

from charrnn.errors import CharRNNError
from charrnn.storage.atomic import warn_once
from charrnn.storage.checkpoint import load_state
from charrnn.training import run_writer
from charrnn.training.start import prepare_run

HELPERS = Path(__file__).parents[1] / "helpers"
FILES = ["m", "m.log.jsonl", "m.state.safetensors"]
# Seven steps of half a millisecond; each validates, logs and saves.
SHORT = {"steps": 7, "dropout": 0.2, "seed": 5}


@pytest.fixture(scope="module")
def expected(corpus_file, tmp_path_factory):
    """The result of the short run without any fault."""
    output = tmp_path_factory.mktemp("expected") / "m"
    trained(corpus_file, output, save_every=0, **SHORT)
    return result_of(output)


@pytest.fixture(scope="module")
def models(corpus_file, tmp_path_factory):
    """All model files that the short run writes, as bytes."""
    output = tmp_path_factory.mktemp("models") / "m"
    run = started(corpus_file, output, save_every=0, **SHORT)
    return {output.read_bytes() for _ in run if output.exists()}


@pytest.fixture(autouse=True)
def fast_retries(monkeypatch):
    monkeypatch.setattr(run_writer, "RETRY_DELAYS", (0.0, 0.0))


def resumed(corpus_file, output):
    """Resume the run, or start it if it has left no state."""
    resume = output.with_name("m.state.safetensors").exists()
    return trained(corpus_file, output, resume=resume, **({} if resume else SHORT))


# --- kill -9


def crashes(corpus_file, folder, kind, numbers, settings, timeout=60):
    """Return the report of tests/helpers/crashes.py, which fails when a run does not survive."""
    arguments = [corpus_file, folder, kind, json.dumps(list(numbers)), json.dumps(settings)]
    command = [sys.executable, HELPERS / "crashes.py", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_run_killed_at_random_moments_resumes_exactly(corpus_file, tmp_path):
    report = crashes(corpus_file, tmp_path, "moments", range(10), SHORT)
    assert report["runs"] == 10 and report["deaths"] >= 5


def test_a_run_killed_around_calls_that_write_resumes_exactly(corpus_file, tmp_path):
    """Kills before, during and after writes, between flushing and renaming, and so on."""
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
def test_runs_killed_at_many_random_moments_resume_exactly(corpus_file, tmp_path, settings, runs):
    report = crashes(corpus_file, tmp_path, "moments", range(runs), settings, timeout=300)
    assert report["runs"] == runs and report["deaths"] >= runs


@pytest.mark.slow
def test_a_run_killed_around_every_call_that_writes_resumes_exactly(corpus_file, tmp_path):
    (tmp_path / "count").mkdir()
    calls = crashes(corpus_file, tmp_path / "count", "calls", [], SHORT)["calls"]
    (tmp_path / "crash").mkdir()
    numbers = range(1, calls + 1)
    report = crashes(corpus_file, tmp_path / "crash", "calls", numbers, SHORT, timeout=400)
    assert report["deaths"] == report["runs"] == calls


# --- power cuts


def states_after_power_cuts(corpus_file, folder, **disk):
    """Map what the disk may hold, at all moments of the short run, to the step it must not lose."""
    disk = Disk(**disk)
    with Calls(disk.at).installed():
        run = started(corpus_file, folder / "m", save_every=0, **SHORT)
        for report in run:
            disk.promised = report.step
    return disk.remains


def require_sound(corpus_file, folder, remains, promised, expected, models):
    """Check that what a power cut left has a complete model or none, and resumes exactly."""
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
def test_power_cuts_lose_what_is_not_flushed(
    corpus_file, tmp_path, expected, models, no_flushing, deaf_to
):
    """This shows that test_power_cuts_lose_nothing can fail."""
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
    """Return an `at` that counts calls and lets those with these numbers fail at any point.

    Removing always succeeds, and opening does not fail after it has created a file.
    """

    def fail():
        raise OSError(error, os.strerror(error))

    return At(fail, numbers, but=("unlink", "unlinked", "opened"))


def trained_through_errors(corpus_file, folder, at, expected, models):
    """Run with the errors that `at` raises; check the files; return whether the run succeeded."""
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
    # Notices alternate: something fails, all is saved again, it may fail again.
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
    """Let every stride-th call fail, each in its own run; `lasting`: and all calls after it."""
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
@pytest.mark.parametrize(
    "error", [errno.ENOSPC, pytest.param(errno.EMFILE, marks=pytest.mark.slow)]
)
def test_a_run_survives_disk_errors(
    corpus_file, tmp_path, expected, models, no_flushing, error, lasting
):
    survived = errors_at_every(23, corpus_file, tmp_path, expected, models, error, lasting)
    assert survived == 0 if lasting else survived > 0.6


@pytest.mark.slow
@pytest.mark.parametrize(
    ("error", "lasting"), [(errno.EIO, False), (errno.EROFS, True)], ids=["once", "from then on"]
)
def test_a_run_survives_a_disk_error_at_every_call(
    corpus_file, tmp_path, expected, models, no_flushing, error, lasting
):
    errors_at_every(1, corpus_file, tmp_path, expected, models, error, lasting)


def test_a_run_survives_a_limit_of_file_size(corpus_file, tmp_path, expected):
    """For some steps, the system itself refuses writes beyond the limit."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    notices = {}
    try:
        for report in started(corpus_file, tmp_path / "m", save_every=0, **SHORT):
            if report.notice:
                notices[report.step] = report.notice
                assert report.problem == report.notice  # shown with --quiet, too
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
    assert "File too large. Training continues" in notices[3] and "saved again" in notices[5]
    assert result_of(tmp_path / "m") == expected


def test_a_run_survives_a_lack_of_file_descriptors(corpus_file, tmp_path, expected):
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


def test_a_run_on_a_full_disk_ends_with_an_error_and_can_be_resumed(corpus_file, tmp_path):
    """The error says which step is saved."""
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
def test_a_run_survives_a_disk_that_is_full_for_a_while(corpus_file, tmp_path):
    """Another file fills a tmpfs."""
    command = [*NAMESPACE, "sh", "-c", FULL_DISK, "sh", tmp_path]
    command += [sys.executable, HELPERS / "smalldisk.py", corpus_file, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"4": "No space left on device", "7": "saved again"}


# --- file systems that lack an operation


ENOTSUPP = 524  # of Linux


@pytest.fixture
def warnings(caplog):
    """The warnings of the test, each of which is logged once per process."""
    warn_once.cache_clear()
    yield lambda: [record.getMessage() for record in caplog.records]
    warn_once.cache_clear()


UNSUPPORTED = [errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EBADF, errno.EPERM, ENOTSUPP]


@pytest.mark.parametrize("error", [*UNSUPPORTED, errno.EROFS])
def test_a_run_is_saved_without_flushing(corpus_file, tmp_path, expected, warnings, error):
    with Calls(Refuses("fsync", error)).installed():
        run = started(corpus_file, tmp_path / "m", save_every=0, **SHORT)
        assert [report.notice for report in run] == [None] * 7
    assert result_of(tmp_path / "m") == expected
    [warning] = warnings()
    assert f"the file system of {tmp_path} cannot flush files" in warning


@pytest.mark.parametrize("error", [*UNSUPPORTED, errno.EACCES])
def test_a_run_is_saved_where_permissions_cannot_be_set(
    corpus_file, tmp_path, expected, warnings, error
):
    """With the mode of all files, as on FAT and CIFS, there is nothing to tell."""
    with Calls(Refuses("chmod", error)).installed():
        run = started(corpus_file, tmp_path / "m", save_every=0, **SHORT)
        assert [report.notice for report in run] == [None] * 7
    assert result_of(tmp_path / "m") == expected and warnings() == []
    (tmp_path / "m").chmod(0o666)
    with Calls(Refuses("chmod", error)).installed():
        trained(corpus_file, tmp_path / "m", overwrite=True, **SHORT)
    assert len(warnings()) == 1 and "cannot set permissions" in warnings()[0]


def test_a_private_file_stays_private_where_permissions_cannot_be_set(corpus_file, tmp_path):
    trained(corpus_file, tmp_path / "m", **SHORT)
    for name in FILES:
        (tmp_path / name).chmod(0o600)
    with Calls(Refuses("chmod", errno.EPERM)).installed():
        trained(corpus_file, tmp_path / "m", overwrite=True, **SHORT)
    assert {(tmp_path / name).stat().st_mode & 0o777 for name in FILES} == {0o600}


@pytest.mark.parametrize("error", UNSUPPORTED + [errno.ENOLCK])
def test_a_run_is_trained_without_locks(
    corpus_file, tmp_path, expected, warnings, monkeypatch, error
):
    def refuse(*args):
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr("fcntl.flock", refuse)
    trained(corpus_file, tmp_path / "m", **SHORT)
    assert result_of(tmp_path / "m") == expected and files_in(tmp_path) == FILES
    [warning] = warnings()
    assert "has no locks" in warning and "start no second run" in warning


@pytest.mark.parametrize("name", ["open", "write", "fsync", "replace"])
def test_a_failure_at_the_first_or_last_save_is_no_failure(corpus_file, tmp_path, expected, name):
    (tmp_path / "count").mkdir()
    with Calls(count := Refuses(name, errno.EBUSY, {})).installed():
        run = started(corpus_file, tmp_path / "count" / "m", save_every=100, **SHORT)
        before = count.count
        for report in run:
            if report.step == 7:
                last = count.count
    for number in before + 1, before + 2, last + 1, last + 2, count.count:
        folder = tmp_path / f"{number}"
        folder.mkdir(exist_ok=True)
        with Calls(Refuses(name, errno.EBUSY, {number})).installed():
            trained(corpus_file, folder / "m", save_every=100, overwrite=True, **SHORT)
        assert result_of(folder / "m") == expected
        assert files_in(folder) == FILES


@pytest.mark.parametrize("old", [False, True], ids=["new", "replaced"])
@pytest.mark.parametrize("lost", ["state", "model"])
def test_a_failed_run_says_what_is_saved(corpus_file, tmp_path, old, lost):
    """Of an older run that is replaced, the model may remain."""
    if old:
        trained(corpus_file, tmp_path / "m", **SHORT)
    run = started(corpus_file, tmp_path / "m", overwrite=old, save_every=100, **SHORT)
    path = tmp_path / {"state": "m.state.safetensors", "model": "m"}[lost]
    with pytest.raises(CharRNNError) as caught, contextlib.ExitStack() as faults:
        for report in run:
            if report.step == 1:
                at = Refuses("replace", errno.EIO)
                only = lambda name, p, data=None: at(name, p) if path.name in p else None  # noqa
                faults.enter_context(Calls(only).installed())
    message = str(caught.value)
    assert "was after step 0, and --resume continues from there; the model is " in message
    assert message.endswith("the best so far.") and ("not the best" in message) == (lost == "model")
    resumed(corpus_file, tmp_path / "m")


# --- files and folders that are removed or moved


def through(corpus_file, output, events, **settings):
    """Train, call events[step]() after that step; return the notices by step."""
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
def test_a_file_replaced_by_a_folder_does_not_stop_other_files(
    corpus_file, tmp_path, expected, name
):
    path = tmp_path / name

    def replace():
        path.unlink()
        path.mkdir()

    def mend():
        path.rmdir()
        # A state must not refer to a best model that is not on disk.
        saved = load_state(tmp_path / FILES[2])[1] if name != FILES[2] else None
        steps.append(saved and saved["progress"]["step"])

    steps = []
    notices = through(corpus_file, tmp_path / "m", {2: replace, 4: mend})
    assert list(notices) == [3, 5] and "it is a folder" in notices[3]
    assert steps == [{"m": 2, "m.log.jsonl": 4}.get(name)]
    assert result_of(tmp_path / "m") == expected


def test_a_truncated_or_changed_log_is_repaired(corpus_file, tmp_path, expected):
    path = tmp_path / "m.log.jsonl"
    cut = {3: lambda: os.truncate(path, 30), 5: lambda: path.write_bytes(b"\0" * 70)}
    through(corpus_file, tmp_path / "m", cut)
    assert result_of(tmp_path / "m") == expected


def test_a_run_survives_a_folder_that_is_moved_and_moved_back(corpus_file, tmp_path, expected):
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    events = {2: lambda: here.rename(there), 4: lambda: there.rename(here)}
    notices = through(corpus_file, here / "m", events)
    assert list(notices) == [3, 5] and "there is no folder" in notices[3]
    assert result_of(here / "m") == expected
    assert files_in(here) == FILES


def test_a_run_survives_a_folder_that_is_removed_and_created_again(corpus_file, tmp_path, expected):
    folder = tmp_path / "folder"
    folder.mkdir()
    events = {2: lambda: shutil.rmtree(folder), 5: folder.mkdir}
    assert list(through(corpus_file, folder / "m", events)) == [3, 6]
    assert result_of(folder / "m") == expected
    assert files_in(folder) == FILES


def test_a_run_whose_folder_is_removed_ends_with_an_error(corpus_file, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(CharRNNError, match="there is no folder .* after step 2"):
        through(corpus_file, folder / "m", {2: lambda: shutil.rmtree(folder)})
    assert files_in(tmp_path) == []


def test_a_run_resumes_in_a_folder_that_was_moved(corpus_file, tmp_path, expected):
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    run = started(corpus_file, here / "m", **SHORT)
    for report in run:
        if report.step == 3:
            run.stop()
    here.rename(there)
    resumed(corpus_file, there / "m")
    assert result_of(there / "m") == expected


def test_a_run_resumed_without_its_model_writes_another(corpus_file, tmp_path, models):
    run = started(corpus_file, tmp_path / "m", **SHORT)
    for report in run:
        if report.step == 3:
            run.stop()
    (tmp_path / "m").unlink()
    resumed(corpus_file, tmp_path / "m")
    assert (tmp_path / "m").exists()
    assert result_of(tmp_path / "m")["model"] in models


# --- logs after a crash


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
def test_a_run_resumes_with_a_damaged_log(corpus_file, tmp_path, expected, damage):
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


def test_a_run_resumes_without_its_log(corpus_file, tmp_path, expected):
    run = started(corpus_file, tmp_path / "m", **SHORT)
    for report in run:
        if report.step == 3:
            run.stop()
    (tmp_path / "m.log.jsonl").unlink()
    resumed(corpus_file, tmp_path / "m")
    assert result_of(tmp_path / "m") == expected | {"log": expected["log"][3:]}


# --- two runs on one output


def test_a_second_run_on_an_output_is_refused(corpus_file, tmp_path, expected):
    """It is refused before its text is read, and does not affect the first."""
    run = started(corpus_file, tmp_path / "m", **SHORT)
    for how in {}, {"overwrite": True}, {"resume": True}:
        with pytest.raises(CharRNNError, match=f"process {os.getpid()} is training"):
            prepare_run("missing", tmp_path / "m", {}, **how)
        with pytest.raises(CharRNNError, match=f"process {os.getpid()} is training"):
            started(corpus_file, tmp_path / "m", **how)
    assert len(list(run)) == 7
    assert result_of(tmp_path / "m") == expected
    started(corpus_file, tmp_path / "m", resume=True)


def test_a_failed_run_releases_its_lock(corpus_file, tmp_path):
    run = started(corpus_file, tmp_path / "m", **SHORT)
    run.ensemble.members[0].optimizer.step = None
    with pytest.raises(TypeError):
        list(run)
    with pytest.raises(CharRNNError) as caught:
        started(corpus_file, tmp_path / "m", resume=True, seed=8)
    assert files_in(tmp_path) == ["m.log.jsonl", "m.state.safetensors"]
    trained(corpus_file, tmp_path / "m", resume=True)
    assert "seed 5, not 8" in str(caught.value)


@pytest.mark.parametrize("settings", [{"hidden_size": 9}, {"val_fraction": 0.9999}], ids=str)
def test_a_run_that_cannot_start_releases_its_lock(corpus_file, tmp_path, settings):
    """The errors' tracebacks, which refer to the lock, are still alive."""
    trained(corpus_file, tmp_path / "m", **SHORT)
    with pytest.raises(CharRNNError) as resumed_with_others:
        started(corpus_file, tmp_path / "m", resume=True, **settings)
    with pytest.raises(CharRNNError) as missing_text:
        prepare_run("missing", tmp_path / "m", settings, overwrite=True)
    assert files_in(tmp_path) == FILES
    assert resumed_with_others and missing_text


def test_a_prepared_run_that_is_dropped_releases_its_lock(corpus_file, tmp_path):
    prepared = prepare_run(corpus_file, tmp_path / "m", SHORT)
    assert files_in(tmp_path) == [".m.lock"]
    del prepared
    assert files_in(tmp_path) == []


def test_a_run_that_cannot_be_planned_releases_its_lock(corpus_file, tmp_path):
    prepared = prepare_run(corpus_file, tmp_path / "m", {"val_fraction": 0.9999, "steps": 2})
    with pytest.raises(CharRNNError, match="too short"):
        prepared.start()
    assert files_in(tmp_path) == []
