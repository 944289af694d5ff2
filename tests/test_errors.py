"""Words for file names and system errors in messages."""

import errno
import os
from pathlib import Path

import pytest

from charrnn.errors import (
    CharRNNError,
    display_path,
    error_reason,
    escape_unprintable,
    list_of_paths,
    os_errors_as,
)


def test_unprintable_characters_are_escaped_and_others_unchanged():
    assert escape_unprintable("é日🙂 \\'") == "é日🙂 \\'"
    escaped = escape_unprintable("\x1b[31m\n\x9b\u202e\udcff\U0010ffff")
    assert escaped == r"\x1b[31m\n\x9b\u202e\udcff\U0010ffff"


def test_a_path_of_any_type_is_displayed_printable():
    for path in "a\nb", b"a\nb", Path("a\nb"):
        assert display_path(path) == r"a\nb"
    assert display_path(b"\xff") == r"\udcff"


def test_one_path_or_several_become_a_list():
    for path in "ab", b"ab", Path("ab"):
        assert list_of_paths(path) == [path]
        assert list_of_paths(iter([path, "c"])) == [path, "c"]


def test_the_reason_of_a_system_error_has_no_number_and_no_file_name():
    error = OSError(errno.ENOENT, os.strerror(errno.ENOENT), "file")
    assert error_reason(error) == "No such file or directory"
    assert error_reason(ValueError("embedded null byte")) == "embedded null byte"


@pytest.mark.parametrize(
    "error, reason",
    [
        (OSError(errno.EIO, "Input/output error", "x"), "Input/output error"),
        (ValueError("embedded null byte"), "embedded null byte"),
    ],
)
def test_system_errors_become_errors_for_the_user(error, reason):
    with pytest.raises(CharRNNError) as caught, os_errors_as("cannot read x"):
        raise error
    assert str(caught.value) == f"cannot read x: {reason}."
    assert caught.value.__cause__ is error


def test_other_errors_pass_unchanged():
    with pytest.raises(KeyError), os_errors_as("cannot read x"):
        raise KeyError
