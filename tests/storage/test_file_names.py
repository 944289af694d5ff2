"""Files of any name, in any place: used under that name, and shown without its escapes."""

import os
import shutil

import pytest
from helpers.runs import SMALL, result_of, stopped_after, trained
from helpers.runs import started as run_of

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
TRAIN = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]


@pytest.fixture(autouse=True)
def working_folder(tmp_path, monkeypatch):
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def run(invoke):
    """The command; what it shows holds nothing raw."""

    def run(*words, code=0):
        result = invoke(*words)
        assert result.exit_code == code, result.stderr
        for display_path in result.stderr, result.stdout:
            assert display_path.replace("\n", "").isprintable(), display_path
        assert "fault" not in result.stderr
        return result

    return run


@pytest.mark.parametrize("name", NAMES)
def test_any_name_for_any_file(run, working_folder, text, name):
    (working_folder / name).mkdir()
    corpus, model = os.path.join(name, name), os.path.join(name, "m" + name)
    with open(corpus, "w") as file:
        file.write(text)
    train = ["train", "--steps=3", "--sample-every=2", *TRAIN, "-o", model]
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
def test_any_name_for_what_is_not_there_or_no_model(run, working_folder, corpus_file, name):
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
    (working_folder / name).write_bytes(b"no model, but a text")
    for words in ["info", "--", name], ["eval", "-m", name, "--", name]:
        run(*words, code=1)


@pytest.mark.parametrize("kind", ["in sample's --output", "in score's --html", "in train's text"])
def test_names_that_no_file_can_have(run, model_file, corpus_file, kind):
    for name in "n" * 300, "x/" * 3000 + "x":
        words = {
            "in sample's --output": ["sample", "-m", model_file, "-o", name],
            "in score's --html": ["score", "-m", model_file, corpus_file, "--html", name],
            "in train's text": ["train", name],
        }[kind]
        run(*words, code=1)


# --- Places


def expected_of(corpus_file, folder):
    trained(corpus_file, folder / "whole", steps=6)
    return result_of(folder / "whole")


def test_an_output_that_is_a_link(corpus_file, tmp_path):
    expected = expected_of(corpus_file, tmp_path)
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "m.safetensors"
    link.symlink_to("elsewhere/target")
    stopped_after(run_of(corpus_file, link, steps=6), 3)
    trained(corpus_file, link, resume=True)
    assert result_of(link) == expected
    assert link.is_symlink()
    assert (tmp_path / "elsewhere/target").read_bytes() == expected["model"]
    assert os.listdir(tmp_path / "elsewhere") == ["target"]


def test_an_output_in_a_folder_that_is_a_link(corpus_file, tmp_path):
    expected = expected_of(corpus_file, tmp_path)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to("elsewhere")
    stopped_after(run_of(corpus_file, tmp_path / "link" / "m", steps=6), 3)
    trained(corpus_file, tmp_path / "elsewhere" / "m", resume=True)
    assert result_of(tmp_path / "link" / "m") == expected


def test_a_link_that_leads_nowhere_or_in_a_circle(run, corpus_file, working_folder):
    os.symlink("no/such/folder/m", "nowhere")
    os.symlink("circle", "circle")
    for name in "nowhere", "circle":
        assert "cannot write" in run("train", corpus_file, "-o", name, code=1).stderr
        assert "Error" in run("train", name, code=1).stderr
    assert sorted(os.listdir()) == ["circle", "nowhere"]


def test_a_relative_output_in_a_folder_that_moves(
    corpus_file, tmp_path, working_folder, monkeypatch
):
    """The run goes on where it is found, and what it wrote is found from there."""
    expected = expected_of(corpus_file, tmp_path)
    stopped_after(run_of(corpus_file, "m", steps=6), 3)
    working_folder.rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path / "moved")
    trained(corpus_file, "m", resume=True)
    assert result_of("m") == expected


@pytest.mark.parametrize("output", [".", "..", "/", "folder", "folder/", "new/", "./folder/../.."])
def test_an_output_that_is_a_folder(run, corpus_file, output):
    os.mkdir("folder")
    assert "cannot write" in run("train", corpus_file, "-o", output, code=1).stderr
    assert os.listdir() == ["folder"] and os.listdir("folder") == []
