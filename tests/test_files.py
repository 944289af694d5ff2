"""Files that are replaced whole, a log that heals, a hold that one process has."""

import errno
import os
import resource
from pathlib import Path

import pytest

from charrnn.errors import CharRNNError
from charrnn.files import require_writable, run_files, write_atomically


def test_the_files_of_a_run():
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


def test_permissions_are_those_of_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "out", [])
    finally:
        os.umask(before)
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o640


def test_the_temporary_file_is_a_hidden_neighbour(tmp_path):
    def chunks():
        (temporary,) = tmp_path.iterdir()
        assert temporary.name.startswith(".out.")
        assert temporary.name.endswith(".tmp")
        yield b""

    write_atomically(tmp_path / "out", chunks())


def test_a_name_of_the_greatest_length(tmp_path):
    for name in ("n" * 255, "日" * 85):
        write_atomically(tmp_path / name, [b"x"])
        assert (tmp_path / name).read_bytes() == b"x"


def test_the_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
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


@pytest.mark.parametrize("size", [100, 10_000_000])  # found in flushing, found in writing
def test_a_disk_that_is_full(tmp_path, size):
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
def test_an_error_in_making_the_content_passes_through(tmp_path, error):
    def chunks():
        yield b"some"
        raise error

    with pytest.raises(error):
        write_atomically(tmp_path / "out", chunks())
    assert list(tmp_path.iterdir()) == []


def test_a_symbolic_link_stays(tmp_path):
    (tmp_path / "folder").mkdir()
    target, link = tmp_path / "folder" / "target", tmp_path / "link"
    link.symlink_to(target)
    for content in (b"first", b"second"):
        write_atomically(link, [content])
        assert link.is_symlink()
        assert target.read_bytes() == content
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("write", [require_writable, lambda path: write_atomically(path, [b"x"])])
def test_what_cannot_be_written(tmp_path, write):
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


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_folder_that_may_not_be_written(tmp_path):
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
