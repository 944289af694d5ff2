"""The folder of compiled code: what another user could have put there is not read."""

import os
import pickle

import pytest

from charrnn.network import code_folder
from charrnn.network.code_folder import CodeFolder

STRANGER = 54_321
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")


@pytest.fixture
def base(tmp_path):
    return tmp_path / "base"


@pytest.fixture
def folder(base):
    """A folder base/charrnn/code with one file."""
    folder = CodeFolder(str(base / "charrnn/code"))
    folder.write("file", b"code")
    return folder


def is_read(folder):
    try:
        return folder.read("file") == b"code"
    except PermissionError:
        return False


def test_folders_are_made_so_that_others_can_read_them_but_not_write(base):
    old = os.umask(0)
    try:
        CodeFolder(str(base / "charrnn/code")).write("file", b"code")
    finally:
        os.umask(old)
    parts = [base, base / "charrnn", base / "charrnn/code", base / "charrnn/code/file"]
    assert [path.stat().st_mode & 0o777 for path in parts] == [0o755] * 3 + [0o644]


@pytest.mark.parametrize("part", ["", "charrnn", "charrnn/code", "charrnn/code/file"])
@pytest.mark.parametrize("mode", [0o777, 0o757, 0o702])
def test_nothing_is_read_or_written_if_others_can_write_a_part_of_the_path(
    base, folder, part, mode
):
    assert is_read(folder)
    (base / part).chmod(mode)
    assert not is_read(folder)
    if part != "charrnn/code/file":
        with pytest.raises(PermissionError, match="can be written by other users"):
            folder.write("new", b"code")


@pytest.mark.parametrize("part, expected", [("", True), ("charrnn", True), ("charrnn/code", False)])
def test_sticky_folder_may_be_passed_but_not_hold_code(base, folder, part, expected):
    """In a sticky folder such as /tmp nobody can rename what belongs to another user."""
    (base / part).chmod(0o1777)
    assert is_read(folder) == expected


@pytest.mark.parametrize("part", ["", "charrnn"])
def test_group_of_this_user_alone_may_write_the_folders_on_the_way(base, folder, part, monkeypatch):
    """Some systems give each user such a group, and let it write all that the user makes."""
    (base / part).chmod(0o775)
    user, group = os.getuid() or STRANGER, (base / part).stat().st_gid

    def is_read_with(members=(), name="ada", primary=group):
        class User:
            pw_name, pw_uid, pw_gid = "ada", user, primary

        class Group:
            gr_name, gr_gid, gr_mem = name, group, list(members)

        monkeypatch.setattr("pwd.getpwuid", lambda uid: User)
        monkeypatch.setattr("grp.getgrgid", lambda gid: Group)
        return is_read(folder)

    assert is_read_with() and is_read_with(members=["ada"])
    assert not is_read_with(members=["bob"])
    assert not is_read_with(name="users")
    assert not is_read_with(primary=group + 1)
    (base / part).chmod(0o777)
    assert not is_read_with()


@needs_root
@pytest.mark.parametrize("part", ["", "charrnn", "charrnn/code", "charrnn/code/file"])
def test_nothing_is_read_if_a_part_of_the_path_belongs_to_another_user(base, folder, part):
    os.chown(base / part, STRANGER, -1)
    assert not is_read(folder)


@needs_root
@pytest.mark.parametrize("owner, expected", [(0, True), (STRANGER, False)])
def test_links_are_followed_only_if_they_belong_to_a_trusted_user(base, folder, owner, expected):
    """Or another user could choose among this user's folders, such as an unpacked archive."""
    (base / "charrnn").rename(base / "elsewhere")
    (base / "charrnn").symlink_to("../base/./elsewhere")
    os.chown(base / "charrnn", owner, -1, follow_symlinks=False)
    assert is_read(folder) == expected
    (base / "charrnn").unlink()
    (base / "charrnn").symlink_to(base / "elsewhere")
    os.chown(base / "charrnn", owner, -1, follow_symlinks=False)
    assert is_read(folder) == expected


def test_circular_links_are_refused(base, folder):
    (base / "charrnn").rename(base / "elsewhere")
    (base / "charrnn").symlink_to("charrnn")
    with pytest.raises(OSError):
        folder.read("file")


def test_file_that_is_a_link_is_not_read(base, folder):
    file = base / "charrnn/code/file"
    file.rename(base / "elsewhere")
    file.symlink_to(base / "elsewhere")
    with pytest.raises(OSError):
        folder.read("file")


@pytest.mark.parametrize("swapped", ["charrnn", "charrnn/code"])
def test_folder_that_is_swapped_between_check_and_use_is_not_read(
    base, folder, swapped, monkeypatch
):
    """The owner of a folder renames what is in it just after it was checked."""
    evil = base / "evil" / os.path.relpath(base / "charrnn/code", base / swapped)
    evil.mkdir(parents=True)
    (evil / "file").write_bytes(b"evil")
    check = code_folder._check

    def swap_after_check(info, users, path):
        check(info, users, path)
        if path == folder.path:
            (base / swapped).rename(base / "old")
            (base / "evil").rename(base / swapped)

    monkeypatch.setattr(code_folder, "_check", swap_after_check)
    assert folder.read("file") == b"code"
    assert (base / "old").exists()


@needs_root
def test_folder_of_root_is_read_but_not_written_by_other_users(base, folder, monkeypatch):
    """As in a container whose image was built by root."""
    before = sorted(base.rglob("*"))
    monkeypatch.setattr("os.getuid", lambda: STRANGER)
    assert is_read(folder)
    with pytest.raises(PermissionError, match="belongs to another user"):
        folder.write("file", b"new")
    assert is_read(folder) and sorted(base.rglob("*")) == before


@needs_root
def test_folder_of_the_owner_of_the_package_is_read(base, folder, monkeypatch, tmp_path):
    package = tmp_path / "code_folder.py"
    package.touch()
    os.chown(package, STRANGER, -1)
    for path in base, *base.rglob("*"):
        os.chown(path, STRANGER, -1)
    assert not is_read(folder)
    monkeypatch.setattr(code_folder, "__file__", str(package))
    assert is_read(folder)


@needs_root
def test_users_outside_a_user_namespace_are_not_taken_for_the_owner_of_the_package(
    base, folder, monkeypatch, tmp_path
):
    """They all appear as one user there, root as well, if it is not mapped."""
    package = tmp_path / "code_folder.py"
    package.touch()
    for path in package, base, *base.rglob("*"):
        os.chown(path, code_folder.NOBODY, -1)
    monkeypatch.setattr(code_folder, "__file__", str(package))
    assert not is_read(folder)


def test_failed_write_leaves_no_file(base, folder, monkeypatch):
    def fail(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError):
        folder.write("new", pickle.dumps(1))
    assert [path.name for path in (base / "charrnn/code").iterdir()] == ["file"]


def test_no_descriptor_stays_open(base, folder):
    descriptors = "/proc/self/fd"
    if not os.path.isdir(descriptors):
        pytest.skip("there is no /proc")
    before = len(os.listdir(descriptors))
    folder.read("file")
    folder.write("file", b"code")
    (base / "charrnn").chmod(0o777)
    is_read(folder)
    assert len(os.listdir(descriptors)) == before
