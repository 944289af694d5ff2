"""Atomic writing, the run lock and the run log."""

import errno
import fcntl
import os
import resource
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from charrnn.errors import CharRNNError
from charrnn.storage.atomic import require_writable, write_atomically
from charrnn.storage.run_files import RunLock, RunLog, acquire_run, run_files


def test_the_files_of_a_run_are_named_after_the_model():
    assert run_files("a.b/model.safetensors") == (
        Path("a.b/model.safetensors"),
        Path("a.b/model.state.safetensors"),
        Path("a.b/model.log.jsonl"),
    )
    assert run_files(b"\xff").state == Path("\udcff.state.safetensors")
    assert run_files(Path("v1.2")) == (
        Path("v1.2"),
        Path("v1.2.state.safetensors"),
        Path("v1.2.log.jsonl"),
    )


def test_writing_replaces_the_file_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "out"
    for content in (b"first", b"second"):
        write_atomically(path, [content[:2], content[2:]])
        assert path.read_bytes() == content
        assert list(tmp_path.iterdir()) == [path]


def test_a_new_file_has_the_permissions_of_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "out", [])
    finally:
        os.umask(before)
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o640


def test_the_temporary_file_is_hidden_in_the_same_folder(tmp_path):
    def chunks():
        (temporary,) = tmp_path.iterdir()
        assert temporary.name.startswith(".out.")
        assert temporary.name.endswith(".tmp")
        yield b""

    write_atomically(tmp_path / "out", chunks())


def test_a_name_of_the_greatest_length_can_be_written(tmp_path):
    for name in ("n" * 255, "日" * 85):
        write_atomically(tmp_path / name, [b"x"])
        assert (tmp_path / name).read_bytes() == b"x"


def test_the_file_is_flushed_before_it_is_renamed(tmp_path, monkeypatch):
    calls = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)

        def spy(*args, name=name, real=real):
            size = os.fstat(args[0]).st_size if name == "fsync" else None
            folder = name == "fsync" and os.path.samestat(os.fstat(args[0]), tmp_path.stat())
            calls.append((name, "folder" if folder else size))
            real(*args)

        monkeypatch.setattr(os, name, spy)
    write_atomically(tmp_path / "out", [b"abc"])
    assert calls == [("fsync", 3), ("replace", None), ("fsync", "folder")]


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, step, number):
    path = tmp_path / "out\n"
    path.write_bytes(b"old")

    def fail(*args):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(CharRNNError, match=f"cannot write .*: {os.strerror(number)}") as caught:
        write_atomically(path, [b"new"])
    assert str(caught.value).isprintable()
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize("size", [100, 10_000_000])  # detected when flushing, when writing
def test_a_full_disk_leaves_the_old_file(tmp_path, size):
    path = tmp_path / "out"
    path.write_bytes(b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50, limits[1]))
    try:
        with pytest.raises(CharRNNError, match="cannot write .*: File too large"):
            write_atomically(path, [b"x" * size])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_an_error_of_the_content_passes_unchanged(tmp_path, error):
    def chunks():
        yield b"some"
        raise error

    with pytest.raises(error):
        write_atomically(tmp_path / "out", chunks())
    assert list(tmp_path.iterdir()) == []


def test_a_symbolic_link_is_preserved(tmp_path):
    (tmp_path / "folder").mkdir()
    target, link = tmp_path / "folder" / "target", tmp_path / "link"
    link.symlink_to(target)
    for content in (b"first", b"second"):
        write_atomically(link, [content])
        assert link.is_symlink()
        assert target.read_bytes() == content
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("write", [require_writable, lambda path: write_atomically(path, [b"x"])])
def test_paths_that_cannot_be_written_are_errors(tmp_path, write):
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    os.mkfifo(tmp_path / "pipe")
    for path, reason in [
        (tmp_path / "no\nfolder" / "out", r"there is no folder .*no\\nfolder"),
        (tmp_path / "file" / "out", "there is no folder"),
        (tmp_path, "it is a folder"),
        (tmp_path / "pipe", "a device, not a file"),
        (tmp_path / "loop" / "out", "there is no folder"),
        (tmp_path / ("n" * 256), "name too long"),
        ("a\0b", "null"),
    ]:
        with pytest.raises(CharRNNError, match=f"cannot write .*{reason}") as caught:
            write(path)
        assert str(caught.value).isprintable()
    assert {p.name for p in tmp_path.iterdir()} == {"file", "loop", "pipe"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everything")
def test_a_read_only_folder_is_an_error(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(CharRNNError, match="Permission denied"):
        require_writable(tmp_path / "out")


def test_require_writable_changes_nothing(tmp_path):
    path = tmp_path / "out"
    require_writable(path)
    assert list(tmp_path.iterdir()) == []
    path.write_bytes(b"old")
    require_writable(path)
    assert path.read_bytes() == b"old"


# --- The run lock


OWNER = """
import sys, time
from charrnn.storage.run_files import RunLock
lock = RunLock(sys.argv[1])
print("locked", flush=True)
time.sleep(60)
"""


@pytest.fixture
def start_owner():
    """Start a process that locks a run."""
    processes = []

    def start(output):
        command = [sys.executable, "-c", OWNER, os.fspath(output)]
        processes.append(subprocess.Popen(command, stdout=subprocess.PIPE))
        assert processes[-1].stdout.readline() == b"locked\n"
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_run_is_locked_until_its_process_ends(tmp_path, start_owner, number):
    process = start_owner(tmp_path / "m")
    for output in "m", "m.safetensors":  # both have the state m.state.safetensors
        with pytest.raises(CharRNNError, match=rf"process {process.pid} is training .*/m"):
            RunLock(tmp_path / output)
    RunLock(tmp_path / "other").release()
    process.send_signal(number)
    process.wait()
    RunLock(tmp_path / "m").release()
    assert list(tmp_path.iterdir()) == []


def test_a_run_lock_excludes_its_own_process_too(tmp_path):
    lock = RunLock(tmp_path / "m")
    assert (tmp_path / ".m.lock").read_text() == f"{os.getpid()}\n"
    with pytest.raises(CharRNNError, match=f"process {os.getpid()}"):
        RunLock(tmp_path / "m")
    lock.release()
    lock.release()
    RunLock(tmp_path / "m").release()


def test_a_run_lock_ends_with_its_object(tmp_path):
    lock = RunLock(tmp_path / "m")
    del lock
    assert list(tmp_path.iterdir()) == []


def test_a_run_lock_applies_to_all_names_of_the_file(tmp_path, monkeypatch):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    (tmp_path / "link.safetensors").symlink_to(tmp_path / "folder" / "m.safetensors")
    lock = RunLock(tmp_path / "folder" / "m.safetensors")
    monkeypatch.chdir(tmp_path / "folder")
    for name in "m", "./m.safetensors", "../link/m", "../link.safetensors":
        with pytest.raises(CharRNNError, match="is training"):
            RunLock(name)
    lock.release()


def test_a_lock_file_left_by_a_crash_is_no_lock(tmp_path):
    for content in b"", b"1\n", b"\x1b[31m" * 9:
        (tmp_path / ".m.lock").write_bytes(content)
        lock = RunLock(tmp_path / "m")
        assert (tmp_path / ".m.lock").read_text() == f"{os.getpid()}\n"
        lock.release()


def test_a_lock_file_without_a_process_number_still_locks(tmp_path):
    lock = RunLock(tmp_path / "m")
    (tmp_path / ".m.lock").write_bytes(b"\x1b[31m")
    with pytest.raises(CharRNNError, match="another process is training"):
        RunLock(tmp_path / "m")
    lock.release()


def test_releasing_a_lock_in_a_moved_folder_does_not_touch_the_new_lock(tmp_path):
    (tmp_path / "folder").mkdir()
    first = RunLock(tmp_path / "folder" / "m")
    (tmp_path / "folder").rename(tmp_path / "moved")
    (tmp_path / "folder").mkdir()
    second = RunLock(tmp_path / "folder" / "m")
    first.release()
    with pytest.raises(CharRNNError, match="is training"):
        RunLock(tmp_path / "folder" / "m")
    second.release()


def test_a_lock_file_that_is_a_link_is_never_written(tmp_path):
    (tmp_path / "precious").write_bytes(b"precious")
    (tmp_path / ".m.lock").symlink_to(tmp_path / "precious")
    with pytest.raises(CharRNNError, match="cannot write .*/m: "):
        RunLock(tmp_path / "m")
    assert (tmp_path / "precious").read_bytes() == b"precious"


def test_many_processes_lock_a_run_one_at_a_time(tmp_path):
    """Each process adds 1 to a number in a file, which only the lock protects."""
    code = """
import sys
from pathlib import Path
from charrnn.errors import CharRNNError
from charrnn.storage.run_files import RunLock
count = Path(sys.argv[1] + ".count")
for _ in range(50):
    while True:
        try:
            lock = RunLock(sys.argv[1])
            break
        except CharRNNError:
            pass
    count.write_text(str(int(count.read_text()) + 1))
    lock.release()
"""
    (tmp_path / "m.count").write_text("0")
    command = [sys.executable, "-c", code, os.fspath(tmp_path / "m")]
    for process in [subprocess.Popen(command) for _ in range(4)]:
        assert process.wait() == 0
    assert (tmp_path / "m.count").read_text() == "200"
    assert [path.name for path in tmp_path.iterdir()] == ["m.count"]


def test_a_file_system_without_locks_is_no_error(tmp_path, monkeypatch):
    def refuse(*args):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", refuse)
    RunLock(tmp_path / "m").release()
    monkeypatch.setattr("fcntl.flock", lambda *args: (_ for _ in ()).throw(OSError(errno.EIO, "x")))
    with pytest.raises(CharRNNError, match="cannot write"):
        RunLock(tmp_path / "m")


def test_a_lock_of_another_computer_is_an_error_that_says_how_to_remove_it(tmp_path, monkeypatch):
    """A file server may keep the lock of a process that has ended, too."""

    def locked(*args):
        raise BlockingIOError(errno.EAGAIN, "locked")

    dead = subprocess.Popen(["true"])
    dead.wait()
    monkeypatch.setattr("fcntl.flock", locked)
    (tmp_path / ".m.lock").write_text(f"{dead.pid}\n")
    with pytest.raises(CharRNNError) as caught:
        RunLock(tmp_path / "m")
    assert f"process {dead.pid}, which does not run on this computer, is train" in str(caught.value)
    assert f"remove {tmp_path}/.m.lock if it has ended" in str(caught.value)


def test_a_file_system_that_numbers_files_anew_can_be_locked(tmp_path, monkeypatch):
    """Its lock file seems to be replaced at each look."""
    monkeypatch.setattr("os.path.samestat", lambda *_: False)
    RunLock(tmp_path / "m").release()


def test_a_refused_run_is_not_left_locked(tmp_path):
    (tmp_path / "m").write_bytes(b"")
    for how, error in (
        ({"resume": False, "overwrite": False}, "exists: --resume"),
        ({"resume": True, "overwrite": False}, "no run to resume"),
    ):
        with pytest.raises(CharRNNError, match=error) as refused:
            acquire_run(tmp_path / "m", **how)
        RunLock(tmp_path / "m").release()
        assert refused  # the traceback refers to the lock, which is released nevertheless
    acquire_run(tmp_path / "m", resume=False, overwrite=True).release()
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


# --- The log


def test_a_log_restores_its_file_after_any_harm(tmp_path):
    path = tmp_path / "log"
    log = RunLog(path, b"0\n")
    harms = [
        lambda: None,
        path.unlink,
        lambda: path.write_bytes(b""),
        lambda: os.truncate(path, 1),
        lambda: path.write_bytes(b"other"),
        lambda: None,
    ]
    expected = b"0\n"
    for i, harm in enumerate(harms, 1):
        log.append(str(i))
        expected += b"%d\n" % i
        log.write()
        assert path.read_bytes() == expected
        harm()
    log.flush()
    assert path.read_bytes() == expected


def test_a_log_that_cannot_be_written_is_written_later(tmp_path):
    (tmp_path / "folder").mkdir()
    log = RunLog(tmp_path / "folder" / "log")
    log.append("1")
    log.write()
    (tmp_path / "folder").rename(tmp_path / "moved")
    for line in "23":
        log.append(line)
        with pytest.raises(CharRNNError, match="there is no folder"):
            log.write()
    (tmp_path / "moved").rename(tmp_path / "folder")
    log.write()
    assert (tmp_path / "folder" / "log").read_bytes() == b"1\n2\n3\n"


# --- Files left by a crash


def temporary_name(path):
    """Return the name of the temporary file that exists while `path` is written."""

    def chunks():
        names.extend(p.name for p in path.parent.iterdir() if p.name.endswith(".tmp"))
        yield b""

    names = []
    write_atomically(path, chunks())
    (name,) = names
    return name


@pytest.mark.parametrize("name", ["out", "n" * 250])
def test_a_temporary_file_left_by_a_crash_is_replaced(tmp_path, name):
    path = tmp_path / name
    left = tmp_path / temporary_name(path)
    left.write_bytes(b"stale and longer than the new content")
    write_atomically(path, [b"new"])
    assert path.read_bytes() == b"new"
    left.write_bytes(b"stale")
    require_writable(path)
    left.symlink_to(tmp_path / "precious")  # replaced, not followed
    write_atomically(path, [b"newer"])
    assert path.read_bytes() == b"newer"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_a_folder_that_cannot_be_flushed_is_an_error(tmp_path, monkeypatch, number):
    """A failed flush may lose the new name. A file system that cannot flush folders is no error."""
    flush = os.fsync

    def failing(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(error, os.strerror(error))
        flush(descriptor)

    monkeypatch.setattr("os.fsync", failing)
    error = number
    with pytest.raises(CharRNNError, match="cannot write"):
        write_atomically(tmp_path / "out", [b"x"])
    error = errno.EINVAL
    write_atomically(tmp_path / "out", [b"y"])


@pytest.mark.parametrize("error", [None, errno.ENOTSUP])
def test_on_macos_the_drive_writes_its_cache_if_it_can(tmp_path, monkeypatch, error):
    asked = []

    def fcntl_(descriptor, request):
        asked.append(request)
        if error:
            raise OSError(error, os.strerror(error))

    monkeypatch.setattr("charrnn.storage.atomic.sys.platform", "darwin")
    monkeypatch.setattr(fcntl, "F_FULLFSYNC", 51, raising=False)
    monkeypatch.setattr(fcntl, "fcntl", fcntl_)
    write_atomically(tmp_path / "out", [b"x"])
    assert asked == [51, 51]  # the file, then its name in the folder
    assert (tmp_path / "out").read_bytes() == b"x"
