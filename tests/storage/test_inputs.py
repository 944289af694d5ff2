"""No output may replace an input."""

import pytest

from charrnn.errors import UsageError
from charrnn.storage.inputs import require_not_input


def check(outputs, inputs, **options):
    require_not_input(outputs, inputs, what="the page", option="--html", **options)


@pytest.fixture(autouse=True)
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in "input", "other", "new\nline":
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "link").symlink_to("input")


def test_an_output_that_is_an_input_is_a_usage_error(tmp_path):
    sentence = "the page would replace input; give another name to --html."
    for output in "input", "./input", b"input", tmp_path / "input", "link":
        with pytest.raises(UsageError) as caught:
            check(["missing", output], ["other", "input"])
        assert str(caught.value) == sentence


def test_an_input_is_named_with_its_kind_in_printable_characters():
    with pytest.raises(UsageError) as caught:
        check(["new\nline"], ["new\nline"], kind="the text")
    assert str(caught.value) == (
        r"the page would replace the text new\nline; give another name to --html."
    )


def test_other_files_and_missing_files_are_accepted():
    check(["other"], ["input", "missing"])
    check(["missing"], ["input", "missing"])
    check([], ["input"])
    check(["input"], [])


def test_a_dash_is_a_stream_and_no_file(tmp_path):
    (tmp_path / "-").write_bytes(b"")
    check(["-"], ["-", "./-"])
    check(["./-"], ["-"])
    with pytest.raises(UsageError):
        check(["./-"], ["./-"])
