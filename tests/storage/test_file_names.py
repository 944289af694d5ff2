"""Files of any name in any place are used under that name, which is shown printable."""

import os
import shutil

import pytest
from helpers.runs import SMALL, result_of, started, stopped_after, trained

from charrnn.storage.run_files import run_files

NAMES = [
    "with spaces ",
    "quote's \"$(touch x)`touch y`\\",
    "new\nline\r\ttab",
    "-x",
    "--resume",
    "*?[a]{b}~!#%&;|<>",
    "\x1b[31m\x1b]0;title\x07\x9b2J",
    "\u202egnp.exe\u2028",
    "Grüße 東京 🙂 e\u0301",
    os.fsdecode(b"\xff\xfe not UTF-8 \xc3"),
    "%s %(x)s {0} {name}",
    "n" * 200,
    ".hidden",
]
TRAIN_OPTIONS = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]


@pytest.fixture(autouse=True)
def working_folder(tmp_path, monkeypatch):
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def run(invoke):
    """Run the command, which must show nothing unprintable."""

    def run(*words, code=0):
        result = invoke(*words)
        assert result.exit_code == code, result.stderr
        for shown in result.stderr, result.stdout:
            assert shown.replace("\n", "").isprintable(), shown
        assert "fault" not in result.stderr
        return result

    return run


@pytest.mark.parametrize("name", NAMES)
def test_files_may_have_any_name(run, working_folder, text, name):
    (working_folder / name).mkdir()
    corpus, model = os.path.join(name, name), os.path.join(name, "m" + name)
    with open(corpus, "w") as file:
        file.write(text)
    train = ["train", "--steps=3", "--sample-every=2", *TRAIN_OPTIONS, "-o", model]
    assert "charrnn sample -m " in run(*train, "--", corpus).stderr
    run(*train, "--resume", "--", corpus)
    run(*train, "--", corpus, code=2)
    before = set(os.listdir(name))
    assert before == {name} | {os.path.basename(file) for file in run_files(model)}
    run("info", "--", model)
    run("info", "--json", "--", model)
    run("sample", "-m", model, "--length", "9", "--prime-file", corpus)
    run("sample", "-m", model, "--length", "9", "-o", os.path.join(name, "out"))
    run("eval", "-m", model, "--", corpus)
    run("novelty", "--corpus", corpus, "--", corpus)
    for how in [], ["--json"], ["--sort=surprisal"], ["-m", corpus + "2", "--sort=surprisal"]:
        shutil.copy(model, corpus + "2")
        run("score", "-m", model, *how, "--", corpus)
    run("score", "-m", model, "--html", "-", "--", corpus)
    run("score", "-m", model, "--html", os.path.join(name, "page"), "--", corpus)
    run("score", "-m", model, "--html", corpus, "--", corpus, code=2)


@pytest.mark.parametrize("name", NAMES)
def test_missing_files_and_false_models_of_any_name_are_errors(
    run, working_folder, corpus_file, name
):
    for words in (
        ["info", "--", name],
        ["sample", "-m", name],
        ["sample", "-m", name, "-o", name],
        ["sample", "-m", name, "--prime-file", name],
        ["eval", "-m", name, "--", name],
        ["score", "-m", name, "--", name],
        ["novelty", "--corpus", name, "--", name],
        ["train", "--", name],
        ["train", "--resume", "-o", name, "--", corpus_file],
        ["train", "-o", os.path.join(name, name), "--", corpus_file],
    ):
        run(*words, code=1)
    assert os.listdir() == []
    (working_folder / name).write_bytes(b"a text, not a model")
    for words in ["info", "--", name], ["eval", "-m", name, "--", name]:
        run(*words, code=1)


@pytest.mark.parametrize("kind", ["in sample's --output", "in score's --html", "in train's text"])
def test_names_that_are_too_long_are_errors(run, model_file, corpus_file, kind):
    for name in "n" * 300, "x/" * 3000 + "x":
        words = {
            "in sample's --output": ["sample", "-m", model_file, "-o", name],
            "in score's --html": ["score", "-m", model_file, corpus_file, "--html", name],
            "in train's text": ["train", name],
        }[kind]
        run(*words, code=1)


# --- Places


def uninterrupted_result(corpus_file, folder):
    trained(corpus_file, folder / "whole", steps=6)
    return result_of(folder / "whole")


def test_an_output_that_is_a_link_is_written_through_it(corpus_file, tmp_path):
    expected = uninterrupted_result(corpus_file, tmp_path)
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "m.safetensors"
    link.symlink_to("elsewhere/target")
    stopped_after(started(corpus_file, link, steps=6), 3)
    trained(corpus_file, link, resume=True)
    assert result_of(link) == expected
    assert link.is_symlink()
    assert (tmp_path / "elsewhere/target").read_bytes() == expected["model"]
    assert os.listdir(tmp_path / "elsewhere") == ["target"]


def test_an_output_in_a_linked_folder_is_the_same_run(corpus_file, tmp_path):
    expected = uninterrupted_result(corpus_file, tmp_path)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to("elsewhere")
    stopped_after(started(corpus_file, tmp_path / "link" / "m", steps=6), 3)
    trained(corpus_file, tmp_path / "elsewhere" / "m", resume=True)
    assert result_of(tmp_path / "link" / "m") == expected


def test_a_broken_or_circular_link_is_an_error(run, corpus_file, working_folder):
    os.symlink("no/such/folder/m", "nowhere")
    os.symlink("circle", "circle")
    for name in "nowhere", "circle":
        assert "cannot write" in run("train", corpus_file, "-o", name, code=1).stderr
        assert "Error" in run("train", name, code=1).stderr
    assert sorted(os.listdir()) == ["circle", "nowhere"]


def test_a_run_is_resumed_in_a_folder_that_was_moved(
    corpus_file, tmp_path, working_folder, monkeypatch
):
    expected = uninterrupted_result(corpus_file, tmp_path)
    stopped_after(started(corpus_file, "m", steps=6), 3)
    working_folder.rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path / "moved")
    trained(corpus_file, "m", resume=True)
    assert result_of("m") == expected


@pytest.mark.parametrize("output", [".", "..", "/", "folder", "folder/", "new/", "./folder/../.."])
def test_an_output_that_is_a_folder_is_an_error(run, corpus_file, output):
    os.mkdir("folder")
    assert "cannot write" in run("train", corpus_file, "-o", output, code=1).stderr
    assert os.listdir() == ["folder"] and os.listdir("folder") == []
