"""The command line: output, files, messages and exit codes, for good and bad input."""

import io
import json
import math
import os
import re
import shlex
import signal
import subprocess
import sys
import time

import click
import numpy as np
import pytest
from helpers.commands import on_terminal, options_of, sentence_of

import charrnn
from charrnn.cli import main, progress, reported, sample_output
from charrnn.config import CELL_NAMES, UNKNOWN_NATS, TrainOptions, tensor_shapes
from charrnn.storage import checkpoint
from charrnn.training.progress import Progress
from charrnn.training.run import TrainingRun

TINY = ("--hidden-size", "8", "--num-layers", "1", "--batch-size", "4", "--seq-length", "10")
every_command = pytest.mark.parametrize("command", main.commands)


def long_name(option):
    """The first long name: --prime for --prime, --prompt."""
    return next(name for name in option.opts if name.startswith("--"))


# --- Help, options, environment


def test_options_of_one_name_take_the_same_values_in_all_commands():
    """A command may lack the last values, which make no sense for it, as --unknown count."""
    types, values = {}, {}
    for name, command in main.commands.items():
        for option in options_of(name):
            kind = option.type.name, option.is_flag
            assert types.setdefault(long_name(option), kind) == kind, (command.name, option)
            choices = tuple(getattr(option.type, "choices", ()))
            known = values.get(long_name(option), choices)
            values[long_name(option)] = longest = max(known, choices, key=len)
            assert known == longest[: len(known)] and choices == longest[: len(choices)], option


@every_command
def test_help_describes_every_option(invoke, command):
    text = invoke(command, "-h").stdout
    for option in options_of(command):
        assert option.help, option
        assert option.opts[-1] in text


@every_command
def test_help_has_no_line_wider_than_the_terminal(spawn, command):
    out, _ = spawn(command, "--help", env={"COLUMNS": "80"}).communicate()
    options = out.decode().partition("Example:")[2].partition("\n\n")[2]
    assert options.startswith(("Model:", "Options:"))
    assert max(map(len, options.splitlines())) <= 80


@every_command
def test_help_shows_defaults_in_words(invoke, command):
    text = " ".join(invoke(command, "--help").stdout.split())
    for default in re.findall(r"\[default: (.*?)\]", text):
        assert not default.startswith(("(", '"')), default


@pytest.mark.parametrize("command", ["train", "sample"])
def test_help_groups_every_option_under_a_heading(command):
    assert all(option.heading for option in options_of(command))


def test_help_lists_options_under_their_headings(invoke):
    text = invoke("train", "--help").stdout
    headings = re.findall(r"^(\S.*):$", text, re.MULTILINE)
    assert headings == [
        "Model", "Text", "How long", "Optimization", "Regularization", "Validation", "Output",
    ]  # fmt: skip
    regularization = text.partition("\nRegularization:\n")[2].partition("\n\n")[0]
    assert re.findall(r"^  (--\S+)", regularization, re.MULTILINE) == [
        "--dropout", "--recurrent-dropout", "--weight-decay",
    ]  # fmt: skip


def test_charrnn_without_arguments_prints_its_help(invoke):
    result = invoke()
    assert result.exit_code in (0, 2)  # click 8.1 and newer
    assert result.output.strip() == invoke("--help").output.strip()


@pytest.mark.parametrize(
    "command, variable, value, parameter, expected",
    [
        ("train corpus", "TRAIN_HIDDEN_SIZE", "7", "hidden_size", 7),
        ("train corpus", "TRAIN_BYTES", "1", "as_bytes", True),
        ("info", "INFO_JSON", "1", "as_json", True),
        ("plot", "PLOT_ASCII", "true", "ascii_only", True),
        ("plot", "PLOT_X_AXIS", "steps", "x_axis", "steps"),
        ("score text", "SCORE_SORT", "surprisal", "sort", "surprisal"),
        ("score text", "SCORE_MODEL", f"a{os.pathsep}b", "models", ("a", "b")),
        ("sample", "SAMPLE_PRIME", "7", "prime", "7"),
    ],
)
def test_environment_variables_are_named_after_the_options(
    monkeypatch, command, variable, value, parameter, expected
):
    monkeypatch.setenv(f"CHARRNN_{variable}", value)
    name, *arguments = command.split()
    main_context = click.Context(main, info_name="charrnn", **main.context_settings)
    context = main.commands[name].make_context(name, arguments, main_context)
    assert context.params[parameter] == expected


def test_train_has_the_defaults_of_the_dataclasses():
    defaults = {p.name: p.default for p in options_of("train")}
    for field in TrainOptions.__dataclass_fields__.values():
        assert defaults[field.name] == field.default


def test_options_can_be_set_in_the_environment(invoke, model_file):
    env = {"CHARRNN_SAMPLE_LENGTH": "7", "CHARRNN_SAMPLE_MODEL": str(model_file)}
    assert len(invoke("sample", env=env).stdout) == 7
    assert len(invoke("sample", "--length", "3", env=env).stdout) == 3


def test_version_and_help_are_printed(invoke):
    assert invoke("--version").stdout == f"charrnn {charrnn.__version__}\n"
    assert invoke("-h").stdout == invoke("--help").stdout
    assert re.search(r"\n  train +\w", invoke("-h").stdout)


def test_python_m_charrnn_runs_the_command(spawn):
    out, err = spawn("--version").communicate()
    assert (out, err) == (f"python -m charrnn {charrnn.__version__}\n".encode(), b"")


def test_a_mistyped_option_gets_a_suggestion(invoke):
    assert "--learning-rate" in sentence_of(invoke("train", "x", "--learnin-rate", "1"), 2)


# --- Wrong usage: exit code 2


@pytest.mark.parametrize(
    "option, values",
    {
        "hidden-size": "0 -1 x 1.5",
        "num-layers": "0 -1",
        "embedding-size": "-1 x",
        "ngrams": "0 5 x",
        "dropout": "1 -0.1 nan inf",
        "recurrent-dropout": "1 -0.1 nan inf",
        "seq-length": "0 -1",
        "batch-size": "0 -1",
        "epochs": "0 -1 nan inf",
        "steps": "0 -1 x",
        "learning-rate": "0 -1 nan inf x",
        "momentum": "1 -1 nan",
        "weight-decay": "-1 nan inf",
        "lr-decay": "0 1.1 nan",
        "lr-decay-after": "-1 nan",
        "clip-value": "-1 nan inf",
        "clip-norm": "-1 nan inf",
        "val-fraction": "1 -0.1 nan",
        "val-chars": "0 x",
        "patience": "-1 x",
        "seed": "-1 x",
        "threads": "0 -1",
        "sample-every": "-1 x",
        "cell": "x LSTM",
        "optimizer": "x",
        "schedule": "x",
        "precision": "x bf16",
    }.items(),
)
def test_train_refuses_impossible_values(invoke, corpus_file, working_folder, option, values):
    for value in values.split():
        message = sentence_of(invoke("train", corpus_file, f"--{option}", value), 2)
        assert f"--{option}" in message and value in message
    assert list(working_folder.iterdir()) == []


@pytest.mark.parametrize(
    "option, values",
    {
        "length": "-1 x 1.5",
        "min-length": "-1 x 1.5",
        "max-length": "-1 x 1.5",
        "first": "-1 x",
        "temperature": "-0.1 nan inf -inf x",
        "top-k": "-1 x",
        "top-p": "2 0 -1 nan 1.01",
        "seed": "-1 x",
        "num-samples": "0 -1",
        "unknown": "x",
        "threads": "0",
    }.items(),
)
def test_sample_refuses_impossible_values(invoke, model_file, option, values):
    for value in values.split():
        message = sentence_of(invoke("sample", "-m", model_file, f"--{option}", value), 2)
        assert f"--{option}" in message and value in message


@pytest.mark.parametrize(
    "arguments",
    [
        "train {text} --resume --overwrite",
        "train {text} --bytes --encoding latin-1",
        "train {text} --bytes --errors replace",
        "train {text} --bytes --min-count 2",
        "sample -m {model} --prime a --prime-file b",
        "sample -m {model} --mid-line",
        "sample -m {model} -o {model}",
        "train",
        "eval",
    ],
)
def test_conflicting_options_are_refused_and_write_nothing(
    invoke, corpus_file, model_file, arguments
):
    before = model_file.read_bytes()
    sentence_of(invoke(*arguments.format(text=corpus_file, model=model_file).split()), 2)
    assert model_file.read_bytes() == before


@pytest.mark.parametrize(
    "arguments",
    [
        "eval {text} --corpus {text} --window 9",
        "score {text}",
        "sample --beam 2 --length 5",
        "sample --length 30 --novelty {text}",
        "sample --length 30 --jsonl",
        "train {text} --bytes --epochs 1 -o out",
        "train {text} --bytes --time 1 -o out",
    ],
)
def test_bytes_are_not_called_characters(invoke, bytes_model_file, arguments):
    command, *words = arguments.format(text=bytes_model_file.with_name("corpus.txt")).split()
    options = TINY if command == "train" else ["-m", bytes_model_file]
    result = invoke(command, *words, *options)
    assert result.exit_code == 0, result.stderr
    info = invoke("info", bytes_model_file).stdout
    assert not re.search(r"character|nats/char|chars/s", result.stdout + result.stderr + info)
    assert "per byte" in info


# --- Bad input: one sentence, nothing written


@pytest.mark.parametrize(
    "arguments",
    [
        "train {bad}",
        "train {bad} --encoding ascii",
        "train {empty}",
        "eval -m {model} {bad}",
        "eval -m {model} {utf16}",
        "eval -m {model} {text} --corpus {bad}",
        "score -m {model} {bad}",
        "score -m {model} {utf16}",
        "inspect -m {model} {bad}",
        "inspect -m {model} {utf16}",
        "novelty {bad} --corpus {text}",
        "novelty {text} --corpus {bad}",
        "novelty {surrogate} --corpus {text} --encoding raw-unicode-escape",
        "sample -m {model} --novelty {bad}",
        "sample -m {model} --prime-file {bad}",
        "sample -m {model} --prime é",
    ],
)
def test_an_error_names_only_options_of_the_command(
    invoke, corpus_file, model_file, working_folder, arguments
):
    texts = {
        "bad": "Grüße\n".encode("latin-1"),
        "utf16": "Grüße\n".encode("utf-16-le") * 9,
        "empty": b"",
        "surrogate": rb"a\ud800",
    }
    for name, data in texts.items():
        (working_folder / name).write_bytes(data)
    files = dict(zip(texts, texts, strict=True)) | {"text": corpus_file, "model": model_file}
    command, *words = arguments.format(**files).split()
    result = invoke(command, *words)
    assert result.exit_code in (1, 2), result.output
    named = set(re.findall(r"--[a-z-]+", result.stderr.partition("Error: ")[2]))
    assert named <= {name for option in options_of(command) for name in option.opts}


def test_stdin_is_called_so(invoke, model_file):
    for command in ["score"], ["eval"], ["inspect"]:
        options = ["-m", model_file, "-", "--unknown", "skip"]
        message = sentence_of(invoke(*command, *options, input="\u1234" * 9), 1)
        assert "no character of standard input" in message
    page = invoke("score", "-m", model_file, "-", "--html", "-", input="TOM: Then\n").stdout
    assert "standard input: surprisal" in page


BAD_TEXTS = {
    "missing": (None, "missing"),
    "empty": (b"", "empty"),
    "one character": (b"a" * 1000, "'a'"),
    "a single character": (b"a", "a"),
    "latin-1": (b"abcd " * 20 + "Grüße".encode("latin-1"), "102"),
}


@pytest.mark.parametrize("name", BAD_TEXTS)
def test_train_refuses_a_bad_text_and_writes_nothing(invoke, working_folder, tmp_path, name):
    data, expected = BAD_TEXTS[name]
    path = tmp_path / "missing"
    if data is not None:
        path = tmp_path / "text.txt"
        path.write_bytes(data)
    assert expected in sentence_of(invoke("train", path, *TINY, "--val-fraction", "0.5"), 1)
    assert list(working_folder.iterdir()) == []


def test_train_on_invalid_utf8_suggests_encoding_and_bytes(invoke, tmp_path):
    (tmp_path / "text").write_bytes(b"\xff\xfe\xfd")
    message = sentence_of(invoke("train", tmp_path / "text"), 1)
    assert "--encoding" in message and "--bytes" in message


@pytest.mark.parametrize(
    "arguments",
    [
        "train {bad} -o out",
        "eval -m {model} --unknown count {bad}",
        "score -m {model} --unknown count {bad}",
        "novelty {bad} --corpus {text}",
        "novelty {text} --corpus {bad}",
    ],
)
def test_undecodable_bytes_are_replaced_with_a_warning(
    invoke, working_folder, corpus_file, model_file, arguments
):
    (working_folder / "bad").write_bytes(corpus_file.read_bytes() + b"\xff\xfe\n")
    command, *words = arguments.format(bad="bad", model=model_file, text=corpus_file).split()
    words += TINY if command == "train" else []
    strict = sentence_of(invoke(command, *words), 1)
    assert "replace such bytes with --errors replace" in strict
    result = invoke(command, *words, "--errors", "replace")
    assert result.exit_code == 0, result.stderr
    assert "2 bytes of bad cannot be decoded: U+FFFD stands for them" in result.stderr


def test_train_names_a_folder_given_as_text(invoke, tmp_path):
    assert str(tmp_path) in sentence_of(invoke("train", tmp_path), 1)


@pytest.fixture
def unfinished_files(working_folder):
    """Two files without a newline at their end in a folder, and a hidden file."""
    (working_folder / "texts").mkdir()
    for name in "a", "b":
        (working_folder / "texts" / name).write_text(f"{name}bcd\n" * 40 + "zzyzx")
    (working_folder / "texts" / ".hidden").write_bytes(b"\xff")
    return working_folder / "texts"


def test_train_puts_a_line_end_between_files_with_a_note(invoke, unfinished_files):
    files = [unfinished_files / name for name in ("a", "b")]
    result = invoke("train", *files, *TINY, "--steps", "2")
    assert "text    411 characters" in result.stderr
    [note] = [line for line in result.stderr.splitlines() if "line end" in line]
    assert note.startswith(f"note    the last line of {files[0]} has no end")
    quiet = invoke("train", *files, *TINY, "--steps", "2", "--quiet", "--overwrite")
    assert (quiet.exit_code, quiet.stderr) == (0, "")


@pytest.mark.parametrize("end", ["\n", "\0"])
def test_train_reads_folders_and_lists_of_files(invoke, unfinished_files, end):
    train = ["train", *TINY, "--steps", "2", "-o"]
    a, b = unfinished_files / "a", unfinished_files / "b"
    invoke(*train, "given", a, b)
    invoke(*train, "folder", unfinished_files)
    names = "".join(f"{path}{end}" for path in (a, b))
    assert invoke(*train, "stdin", "--files-from", "-", input=names).exit_code == 0
    (unfinished_files.parent / "list").write_text(names)
    assert invoke(*train, "list-model", "--files-from", "list").exit_code == 0
    given, *others = map(charrnn.load, ("given", "folder", "stdin", "list-model"))
    for other in others:
        assert other.vocabulary.characters == given.vocabulary.characters
        for name, weights in given.model.state_dict().items():
            assert np.array_equal(weights, other.model.state_dict()[name]), name


def test_a_run_in_the_folder_of_its_text_resumes(invoke, unfinished_files):
    output = unfinished_files / "model.safetensors"
    assert invoke("train", unfinished_files, *TINY, "--steps", "2", "-o", output).exit_code == 0
    result = invoke("train", unfinished_files, "-o", output, "--resume")
    assert (result.exit_code, "finished before" in result.stderr) == (0, True), result.stderr


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["a", "--files-from", "list"], "not both"),
        (["--files-from", "list"], "no text to learn"),
        ([], "--files-from"),
    ],
)
def test_train_needs_files_or_a_list_of_them(invoke, working_folder, arguments, words):
    (working_folder / "list").write_text("\n")
    assert words in sentence_of(invoke("train", *arguments), 2)
    assert "nowhere" in sentence_of(invoke("train", "--files-from", "nowhere"), 1)


def test_a_run_that_glued_its_files_is_not_resumed_with_a_line_end(invoke, unfinished_files):
    files = [unfinished_files / name for name in ("a", "b")]
    glued = b"".join(file.read_bytes() for file in files)
    assert invoke("train", "-", *TINY, "--steps", "2", input=glued).exit_code == 0
    refused = invoke("train", *files, "--resume")
    assert refused.exit_code == 2
    assert "cat FILES | charrnn train - --resume" in refused.stderr.splitlines()[-1]
    assert invoke("train", "-", "--resume", input=glued).exit_code == 0


def test_train_notes_a_text_in_utf_16_without_its_mark(invoke, tmp_path):
    (tmp_path / "text").write_bytes("some words\n".encode("utf-16-le") * 40)
    result = invoke("train", tmp_path / "text", *TINY, "--steps", "2", "--quiet")
    assert "looks like UTF-16-LE" in result.stderr
    assert "--encoding utf-16-le" in result.stderr
    options = ["--encoding", "utf-16-le", "--overwrite", "--quiet"]
    assert invoke("train", tmp_path / "text", *TINY, "--steps", "2", *options).stderr == ""


def test_train_refuses_an_unknown_encoding(invoke, corpus_file):
    assert "klingon" in sentence_of(invoke("train", corpus_file, "--encoding", "klingon"), 2)


@pytest.mark.parametrize("output", ["no/such/folder/model", "file/model", "folder", ""])
def test_train_finds_an_impossible_output_before_it_reads(invoke, working_folder, output):
    (working_folder / "file").write_text("")
    (working_folder / "folder").mkdir()
    # The text is bad, too: the message must be about the output.
    result = invoke("train", "missing.txt", "-o", output)
    assert "cannot write" in sentence_of(result, 1)
    assert {p.name for p in working_folder.iterdir()} == {"file", "folder"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_train_finds_that_a_folder_is_not_writable(invoke, working_folder, corpus_file):
    (working_folder / "folder").mkdir(mode=0o500)
    assert "cannot write" in sentence_of(invoke("train", corpus_file, "-o", "folder/model"), 1)


def test_train_never_replaces_its_own_text(invoke, text, working_folder):
    path = working_folder / "corpus.safetensors"
    path.write_text(text)
    sentence_of(invoke("train", path, "-o", path, "--overwrite", *TINY), 2)
    assert path.read_text() == text


def damaged_models(model_file):
    data = model_file.read_bytes()
    flipped = bytearray(data)
    flipped[-5] ^= 4
    return {
        "empty": b"",
        "truncated": data[:-9],
        "header only": data[:12],
        "text": b"This is not a model, but a text about models.",
        "flipped bit": bytes(flipped),
    }


COMMANDS = {"sample": ["sample", "-m"], "eval": ["eval", "missing.txt", "-m"], "info": ["info"]}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("kind", ["empty", "truncated", "header only", "text", "flipped bit"])
def test_a_damaged_model_is_named(invoke, model_file, working_folder, command, kind):
    (working_folder / "bad").write_bytes(damaged_models(model_file)[kind])
    assert sentence_of(invoke(*COMMANDS[command], "bad"), 1).startswith("bad: ")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_missing_model_says_how_to_make_one(invoke, command):
    message = sentence_of(invoke(*COMMANDS[command], "nothing.safetensors"), 1)
    assert "nothing.safetensors" in message and "charrnn train" in message


@pytest.mark.parametrize("command", COMMANDS)
def test_a_model_of_a_newer_format_is_refused(
    invoke, model_file, working_folder, monkeypatch, command
):
    file = checkpoint.load_model(model_file, tensor_shapes)
    monkeypatch.setattr(checkpoint, "_version_of", lambda *_: 99)
    checkpoint.save_model("new", file.tensors, file.config, file.vocabulary, file.training)
    monkeypatch.undo()
    monkeypatch.chdir(working_folder)
    assert "version 99" in sentence_of(invoke(*COMMANDS[command], "new"), 1)


def test_escapes_in_names_do_not_reach_the_terminal(spawn):
    evil = b"\x1b[31m\xff"
    for arguments in (
        ["eval", "x", "-m", evil],
        [b"--" + evil],
        ["info", evil],
        ["train", "x", "-o", evil + b"/x"],
    ):
        process = spawn(*arguments)
        _, err = process.communicate()
        assert process.returncode in (1, 2)
        assert b"\x1b" not in err and b"\xff" not in err
        assert rb"\x1b[31m" in err and b"Traceback" not in err


@pytest.mark.parametrize(
    "error, message, code",
    [
        (MemoryError("3 TB"), "there is not enough memory: 3 TB.", 1),
        (OSError(28, "No space left on device", "a\nb"), r"a\nb: No space left on device.", 1),
        (OSError(28, "No space left on device"), "No space left on device.", 1),
        (charrnn.CharRNNError("it failed."), "it failed.", 1),
        (charrnn.UsageError("wrong option."), "wrong option.", 2),
        (ZeroDivisionError("oh"), "ZeroDivisionError('oh')", 1),
    ],
)
def test_every_error_becomes_one_sentence_and_an_exit_code(
    invoke, monkeypatch, error, message, code
):
    def fail(path):
        raise error

    monkeypatch.setattr("charrnn.api.read_model", fail)
    assert message in sentence_of(invoke("info"), code)
    debugged = invoke("info", env={"CHARRNN_DEBUG": "1"})
    assert debugged.exit_code == code and "Traceback" in debugged.stderr


# --- sample


def test_sample_writes_what_the_library_writes(invoke, model_file):
    result = invoke("sample", "-m", model_file, "--seed", 3, "--length", 50)
    assert result.stdout == charrnn.load(model_file).sample(50, seed=3)
    assert len(result.stdout) == 50 and result.stderr == ""


def test_sample_writes_500_characters_by_default(invoke, model_file):
    assert len(invoke("sample", "-m", model_file).stdout) == 500


def test_sample_without_a_seed_writes_a_new_text_each_time(invoke, model_file):
    assert invoke("sample", "-m", model_file).stdout != invoke("sample", "-m", model_file).stdout


def test_texts_of_all_seeds_differ_and_do_not_depend_on_their_number(invoke, model_file):
    common = ["sample", "-m", model_file, "--length", "40", "--prime", "TOM:"]

    def texts(seed, *options):
        found = invoke(*common, "--seed", seed, "--separator", "|", *options).stdout
        return found.removesuffix("|").split("|")

    three = texts(5, "-n", 3)
    assert three == [*texts(5), *texts(5, "--first", 1), *texts(5, "--first", 2)]
    assert texts(5, "-n", 300)[:3] == three
    assert len({*texts(5, "-n", 90), *texts(6, "-n", 90), *texts(7, "-n", 90)}) == 270


def test_sample_with_a_newline_as_stop_writes_one_text_per_line(invoke, model_file):
    text = invoke("sample", "-m", model_file, "-n", "5", "--stop", "\n").stdout
    assert text.count("\n") == 5 and text.endswith("\n")


def test_temperature_0_equals_top_k_1(invoke, model_file):
    texts = {invoke("sample", "-m", model_file, "--temperature", "0").stdout for _ in range(2)}
    greedy = {invoke("sample", "-m", model_file, "--top-k", "1").stdout}
    assert len(texts) == 1 and texts == greedy


def test_prompt_is_another_name_of_prime(invoke, model_file):
    options = ["sample", "-m", model_file, "--seed", "1", "--length", "60"]
    primed = invoke(*options, "--prime", "MARA: The tide")
    assert invoke(*options, "--prompt", "MARA: The tide").stdout == primed.stdout
    assert primed.stdout.startswith("MARA: The tide")


def test_the_prime_is_printed_and_changes_the_text(invoke, model_file):
    def text(*options):
        return invoke("sample", "-m", model_file, "--length", "60", "--seed", "1", *options).stdout

    primed = text("--prime", "MARA: The tide")
    assert primed.startswith("MARA: The tide") and len(primed) == 14 + 60
    assert primed[14:] != text()
    assert text("--prime", "") == text() == text("--prime", "\n")[1:]


def test_the_prime_is_read_from_a_file_and_from_stdin(invoke, model_file, working_folder):
    (working_folder / "prime").write_bytes("\ufeffTOM: Then\n".encode())
    options = ["sample", "-m", model_file, "--seed", "1"]
    expected = invoke(*options, "--prime", "TOM: Then\n").stdout
    assert expected.startswith("TOM: Then\n")
    assert invoke(*options, "--prime-file", "prime").stdout == expected
    assert invoke(*options, "--prime-file", "-", input=b"TOM: Then\n").stdout == expected


def test_sample_names_the_fault_of_a_prime_file(invoke, model_file, working_folder):
    (working_folder / "prime").write_bytes(b"abc\xff")
    options = ["sample", "-m", model_file, "--prime-file"]
    assert "byte at 3" in sentence_of(invoke(*options, "prime"), 1)
    assert "missing" in sentence_of(invoke(*options, "missing"), 1)
    assert str(working_folder) in sentence_of(invoke(*options, working_folder), 1)


def test_unknown_characters_of_a_prime_are_named_or_skipped(invoke, model_file, working_folder):
    options = ["sample", "-m", model_file, "--seed", "1", "-o", "out", "--prime", "TOM\x1b: ünd"]
    message = sentence_of(invoke(*options), 1)
    assert "'ü'" in message and r"'\x1b'" in message and "--unknown skip" in message
    assert not (working_folder / "out").exists()
    skipped = invoke(*options, "--unknown", "skip")
    assert skipped.exit_code == 0 and "'ü'" in skipped.stderr and r"'\x1b'" in skipped.stderr
    expected = invoke("sample", "-m", model_file, "--seed", "1", "--prime", "TOM: nd").stdout
    assert (working_folder / "out").read_text() == expected


def test_stop_ends_the_text_before_it(invoke, model_file):
    def text(*options):
        return invoke("sample", "-m", model_file, "--seed", "2", "--prime", "T", *options).stdout

    whole = text()
    stop = whole[100:103]
    assert text("--stop", stop) == "T" + whole[1:].partition(stop)[0]
    assert text("--stop", "T" + whole[1:4]) == whole  # the prime does not count
    sentence_of(invoke("sample", "-m", model_file, "--stop", ""), 2)


def test_sample_writes_to_a_file(invoke, model_file, working_folder):
    result = invoke("sample", "-m", model_file, "--seed", "1", "-o", "out")
    assert result.stdout == result.stderr == ""
    expected = invoke("sample", "-m", model_file, "--seed", "1").stdout
    assert (working_folder / "out").read_text() == expected
    assert "folder/out" in sentence_of(invoke("sample", "-m", model_file, "-o", "folder/out"), 1)


class Recorder(io.BytesIO):
    """Records the contents at each flush."""

    def __init__(self):
        super().__init__()
        self.shown = []

    def flush(self):
        self.shown.append(self.getvalue())


def test_text_is_flushed_while_it_is_generated(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("charrnn.cli.sample_output.time.monotonic", lambda: clock[0])

    def pieces():
        for i in range(10):
            yield b"%d" % i
            clock[0] += 0.02

    out = Recorder()
    sample_output.write_pieces(pieces(), out)
    assert out.shown == [b"0", b"0123", b"0123456", b"0123456789", b"0123456789"]


def test_a_stream_of_bytes_never_shows_half_a_character(bytes_model_file):
    model = charrnn.load(bytes_model_file)
    [pieces] = model.texts(1, 3000, seed=1)
    pieces = list(pieces)
    whole = b"".join(pieces)
    assert not whole.isascii()
    assert "".join(p.decode("utf-8", "replace") for p in pieces) == whole.decode("utf-8", "replace")


def test_a_pipe_closed_early_ends_sample_without_an_error(spawn, model_file):
    process = spawn("sample", "-m", model_file, "--length", "0")
    assert len(process.stdout.read(10)) == 10
    process.stdout.close()
    assert process.wait(20) == 0
    assert process.stderr.read() == b""


def test_a_pipe_closed_before_the_start_is_no_error(spawn, model_file):
    for arguments in ["sample", "-m", model_file], ["info", model_file], ["--help"]:
        read, write = os.pipe()
        os.close(read)
        process = spawn(*arguments, stdout=write)
        os.close(write)
        assert (process.communicate()[1], process.returncode) == (b"", 0)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_a_full_disk_is_an_error(spawn, model_file):
    with open("/dev/full", "wb") as full:
        process = spawn("sample", "-m", model_file, stdout=full)
        _, err = process.communicate()
    assert process.returncode == 1
    assert b"No space left" in err and err.count(b"\n") == 1


def test_a_closed_stdout_is_an_error(model_file):
    command = f"{shlex.quote(sys.executable)} -m charrnn sample -m {shlex.quote(str(model_file))}"
    result = subprocess.run(["sh", "-c", f"{command} >&-"], capture_output=True, text=True)
    assert result.returncode == 1 and "closed" in result.stderr
    assert "Traceback" not in result.stderr


def test_an_interrupted_sample_exits_with_130_and_no_message(spawn, model_file):
    process = spawn("sample", "-m", model_file, "--length", "100000000")
    process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (130, b"")


def test_sample_adds_a_final_newline_on_a_terminal_only(model_file, invoke):
    text = charrnn.load(model_file).sample(500, seed=1)
    line = text.index("\n") + 1
    for length in line - 1, line:
        arguments = ["sample", "-m", model_file, "--seed", "1", "--length", str(length)]
        assert invoke(*arguments).stdout == text[:length]
        assert on_terminal(*arguments) == (0, text[: line - 1].encode() + b"\r\n")


# --- eval and info


def test_eval_agrees_with_the_library(invoke, model_file, corpus_file, text):
    result = invoke("eval", "-m", model_file, "--json", corpus_file)
    values = json.loads(result.stdout)
    nats = charrnn.load(model_file).loss(text)
    assert values == {
        "nats_per_character": pytest.approx(nats, rel=1e-12),
        "bits_per_character": pytest.approx(nats / math.log(2), rel=1e-12),
        "perplexity": pytest.approx(math.exp(nats), rel=1e-12),
        "characters": len(text),
        "unknown": 0,
    }
    table = invoke("eval", "-m", model_file, corpus_file).stdout
    assert f"{nats:.4f}" in table and f"{nats / math.log(2):.4f}" in table


def test_eval_reads_stdin_and_several_files(invoke, model_file, corpus_file, text):
    options = ["eval", "-m", model_file, "--json"]
    piped = invoke(*options, "-", input=text.encode())
    assert piped.stdout == invoke(*options, corpus_file).stdout
    twice = invoke(*options, corpus_file, corpus_file)
    assert json.loads(twice.stdout)["characters"] == 2 * len(text)


def test_eval_names_or_skips_unknown_characters(invoke, model_file, text):
    options = ["eval", "-m", model_file, "--json", "-"]
    assert "'ü'" in sentence_of(invoke(*options, input=f"ü{text}ü".encode()), 1)
    skipped = invoke(*options, "--unknown", "skip", input=f"ü{text}ü".encode())
    assert "'ü'" in skipped.stderr
    found = json.loads(skipped.stdout)
    known = json.loads(invoke(*options, input=text.encode()).stdout)
    characters, nats = known["characters"], known["nats_per_character"]
    assert (found["characters"], found["unknown"], known["unknown"]) == (characters + 2, 2, 0)
    charged = (nats * characters + 2 * UNKNOWN_NATS) / (characters + 2)
    assert found["nats_per_character"] == pytest.approx(charged)


def test_eval_charges_all_losses_for_unknown_characters(invoke, model_file, corpus_file, text):
    options = ["eval", "-m", model_file, "--corpus", corpus_file, "--window", "50", "-"]
    known = json.loads(invoke(*options, "--json", input=text).stdout)
    odd = text + "東" * len(text)
    found = json.loads(invoke(*options, "--json", "--unknown", "skip", input=odd).stdout)
    for key in "nats_per_character", "window_nats_per_character", "ngram_nats_per_character":
        assert found[key] == pytest.approx((known[key] + UNKNOWN_NATS) / 2, rel=1e-3)
    rows = invoke(*options, "--unknown", "skip", input=odd).stdout.splitlines()
    assert rows[1] == f"{'unknown characters':<{rows[0].index(rows[0].split()[1])}}" + (
        f"{len(text):,}, {UNKNOWN_NATS:g} nats each"
    )
    help_words = " ".join(invoke("eval", "--help").stdout.split())
    assert f"{UNKNOWN_NATS:g} nats each" in help_words and "-log(1/(n + 1))" in help_words


def test_eval_refuses_texts_that_are_too_short(invoke, model_file):
    assert invoke("eval", "-m", model_file, "-", input=b"M").exit_code == 0
    sentence_of(invoke("eval", "-m", model_file, "-", input=b""), 1)


def test_info_describes_the_model(invoke, model_file):
    values = json.loads(invoke("info", model_file, "--json").stdout)
    model = charrnn.load(model_file)
    assert values["config"] == vars(model.config)
    assert values["vocabulary"] == model.vocabulary.characters
    assert values["training"]["total_steps"] == 30
    assert values["parameters"] == model.config.num_parameters()
    table = invoke("info", model_file).stdout
    for expected in "lstm", f"{values['parameters']:,}", "of 30 steps", "bits", "24 characters":
        assert expected in table


def test_info_tells_the_command_and_the_baselines(invoke, corpus_file, tmp_path):
    """Without the folders of files, which are private; of a longer run, all commands."""
    model = tmp_path / "model"
    command = ["train", str(corpus_file), f"--output={model}", *TINY]
    assert invoke(*command, "--steps", "4").exit_code == 0
    first = " ".join(["charrnn train corpus.txt --output=model", *TINY, "--steps 4"])
    training = json.loads(invoke("info", model, "--json").stdout)["training"]
    assert training["command"] == first and 0 < training["baselines"]["ngram"] < 3
    assert invoke(*command, "--resume", "--steps", "6").exit_code == 0
    shown = invoke("info", model).stdout
    both = first + " && " + first.replace("--steps 4", "--resume --steps 6")
    assert f"command            {both}\n" in shown
    assert re.search("loss of an n-gram +[0-9.]+ nats", shown)
    assert invoke(*command, "--resume").exit_code == 0
    assert f"command            {both}\n" in invoke("info", model).stdout


def test_info_of_a_hostile_file_shows_only_what_it_understands(invoke, model_file, tmp_path):
    model = charrnn.load(model_file)
    model.training.update(command="a\x1b[31mb", baselines={"ngram": "x", "xz": 1.5})
    model.save(tmp_path / "hostile")
    shown = invoke("info", tmp_path / "hostile").stdout
    assert r"command            a\x1b[31mb" in shown and "\x1b" not in shown
    assert "loss of xz" in shown and "n-gram  " not in shown
    model.training.update(command=["a"], baselines=[1])
    model.save(tmp_path / "hostile", overwrite=True)
    assert "command" not in invoke("info", tmp_path / "hostile").stdout


def test_info_shows_no_raw_control_characters(invoke, tmp_path):
    (tmp_path / "text").write_bytes(b"a\x00b\x1b[31m\r\n" * 100)
    invoke("train", tmp_path / "text", *TINY, "--steps", "1", "-o", "model")
    table = invoke("info", "model").stdout
    assert r"\x1b" in table and r"\x00" in table
    assert "\x1b" not in table and "\x00" not in table


@pytest.mark.parametrize("encoding", [None, "latin-1"])
def test_a_narrow_terminal_encoding_causes_no_internal_error(spawn, tmp_path, encoding):
    (tmp_path / "text").write_text("Grüße aus 東京\n" * 50, encoding="utf-8")
    narrow = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}
    if encoding:
        narrow["PYTHONIOENCODING"] = encoding
    for arguments in (
        ["train", tmp_path / "text", *TINY, "--steps", "2", "--sample-every", "1", "-o", "ü"],
        ["info", "ü"],
        ["sample", "-m", "ü", "--prime", "Ω"],
    ):
        process = spawn(*arguments, env=narrow)
        _, err = process.communicate()
        assert process.returncode == (1 if "Ω" in arguments else 0), err
        assert b"Traceback" not in err and b"fault" not in err


LONG_COMMANDS = {
    "eval": ["eval"],
    "score": ["score", "--html", "page.html"],
    "novelty": ["novelty", "--corpus", "corpus"],
}


@pytest.mark.parametrize("name", LONG_COMMANDS)
@pytest.mark.parametrize("long", [0, 1000])
def test_long_work_shows_a_bar_on_a_terminal(
    invoke, model_file, corpus_file, working_folder, monkeypatch, name, long
):
    (working_folder / "corpus").write_bytes(corpus_file.read_bytes())
    model = ["-m", model_file] if name != "novelty" else []
    arguments = [*LONG_COMMANDS[name], *model, corpus_file]
    in_a_pipe = invoke(*arguments)
    monkeypatch.setattr(progress, "_on_terminal", lambda: True)
    monkeypatch.setattr(progress, "BAR_DELAY", long)
    on_a_terminal = invoke(*arguments)
    assert (in_a_pipe.exit_code, on_a_terminal.exit_code) == (0, 0)
    assert in_a_pipe.stderr == "" and on_a_terminal.stdout == in_a_pipe.stdout
    assert ("\r" in on_a_terminal.stderr) == (long == 0)
    assert on_a_terminal.stderr.split("\r")[-1].strip() == ""  # the bar is erased


# --- train


def test_train_describes_the_run_on_stderr_alone(invoke, corpus_file, working_folder, text):
    result = invoke("train", corpus_file, *TINY, "--steps", "40")
    assert result.exit_code == 0 and result.stdout == ""
    held_out = len(text) // 10
    for expected in (
        f"{len(text):,} characters",
        f"{len(set(text))} different",
        f"{len(text) - held_out:,} for training, {held_out:,} for validation",
        "40 of 4 x 10",
        "model.safetensors, model.state.safetensors, model.log.jsonl",
        "charrnn sample -m model.safetensors",
    ):
        assert expected in result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith("step ")]
    assert 10 <= len(lines) <= 21 and lines[-1].startswith("step 40/40, ")
    assert re.search(r"train \d\.\d+, val \d\.\d+, [\d,]+ chars/s, 00:00 left", lines[-1])
    assert "\r" not in result.stderr
    files = {"model.safetensors", "model.state.safetensors", "model.log.jsonl"}
    assert {p.name for p in working_folder.iterdir()} == files


@pytest.mark.parametrize("quiet", [[], ["--quiet"]])
def test_early_stopping_is_no_warning(invoke, corpus_file, monkeypatch, quiet):
    monkeypatch.setattr(TrainingRun, "_is_best", lambda run, loss: not run.writer.has_best)
    monkeypatch.setattr(Progress, "should_stop_early", lambda progress, patience: True)
    result = invoke("train", corpus_file, *TINY, "--epochs", "3", *quiet)
    assert result.exit_code == 0
    assert ("note    stopped early: validation loss" in result.stderr) == (not quiet)
    assert result.stderr == "" or not quiet


def test_train_with_quiet_prints_nothing(invoke, corpus_file):
    result = invoke("train", corpus_file, *TINY, "--steps", "3", "-q", "--sample-every", "1")
    assert (result.exit_code, result.output) == (0, "")


@pytest.mark.parametrize("cell", CELL_NAMES)
def test_train_accepts_every_cell(invoke, corpus_file, cell):
    assert invoke("train", corpus_file, *TINY, "--steps", "2", "--cell", cell).exit_code == 0
    assert cell in invoke("info").stdout
    assert len(invoke("sample").stdout) == 500


def test_train_passes_its_options_to_the_library(invoke, corpus_file):
    options = {"embedding_size": 5, "dropout": 0.25, "optimizer": "sgd", "learning_rate": 0.5}
    words = [w for k, v in options.items() for w in (f"--{k.replace('_', '-')}", str(v))]
    assert invoke("train", corpus_file, *TINY, "--steps", "2", *words).exit_code == 0
    info = json.loads(invoke("info", "--json").stdout)
    assert options.items() <= (info["config"] | info["training"]["options"]).items()


def test_train_shrinks_the_batch_to_a_short_text_with_a_notice(invoke, tmp_path):
    (tmp_path / "text").write_bytes(b"to be or not to be\n" * 10)
    result = invoke("train", tmp_path / "text", "--hidden-size", "8", "--steps", "2")
    assert result.exit_code == 0 and "the text is short" in result.stderr


def test_train_reads_bytes_from_stdin(invoke):
    data = bytes(np.random.default_rng(0).integers(0, 256, 2000, np.uint8))
    result = invoke("train", "-", "--bytes", *TINY, "--steps", "2", input=data)
    assert result.exit_code == 0, result.stderr
    assert "256 bytes" in invoke("info").stdout
    assert len(invoke("sample", "--length", "900", "--prime", "Ω").stdout_bytes) <= 902


def test_sample_every_shows_samples_on_stderr(invoke, corpus_file):
    result = invoke("train", corpus_file, *TINY, "--steps", "4", "--sample-every", "2")
    assert result.stderr.count("---\n") == 4 and result.stdout == ""


def test_divergence_at_the_last_step_is_reported(invoke, corpus_file, monkeypatch):
    validate = TrainingRun._validate

    def fails_at_the_end(run):
        validate(run)
        if run.progress.step == run.progress.total_steps:
            raise run.recovery.diverged(run.progress.step, "validation loss nan")

    monkeypatch.setattr(TrainingRun, "_validate", fails_at_the_end)
    result = invoke("train", corpus_file, *TINY, "--steps", "10", "--quiet")
    assert result.exit_code == 0
    assert "diverged at step 10 (validation loss nan)" in result.stderr


def test_train_replaces_a_run_only_with_overwrite(invoke, corpus_file, working_folder):
    options = ["train", corpus_file, *TINY, "--steps", "3", "-q"]
    assert invoke(*options).exit_code == 0
    before = {p.name: p.read_bytes() for p in working_folder.iterdir()}
    message = sentence_of(invoke(*options, "--seed", "9"), 2)
    assert "--resume" in message and "--overwrite" in message
    assert {p.name: p.read_bytes() for p in working_folder.iterdir()} == before
    assert invoke(*options, "--seed", "9", "--overwrite").exit_code == 0
    assert (working_folder / "model.safetensors").read_bytes() != before["model.safetensors"]


def test_persistent_divergence_suggests_another_learning_rate(invoke, corpus_file, working_folder):
    options = ["--optimizer", "sgd", "--learning-rate", "1e30", "--clip-norm", "0"]
    result = invoke("train", corpus_file, *TINY, "--steps", "50", *options)
    assert result.exit_code == 1 and "Traceback" not in result.stderr
    assert "--learning-rate" in result.stderr.splitlines()[-1]


def test_resume_uses_the_options_of_the_run(invoke, corpus_file):
    options = ["train", corpus_file, *TINY, "--steps", "10", "--learning-rate", "0.01"]
    assert invoke(*options).exit_code == 0
    resumed = invoke("train", corpus_file, "--resume")
    assert resumed.exit_code == 0, resumed.stderr
    assert "1 x 8 units" in resumed.stderr and "after step 10" in resumed.stderr
    assert "nothing was left to do" in resumed.stderr
    assert invoke(*options, "--resume").exit_code == 0
    message = sentence_of(invoke("train", corpus_file, "--resume", "--learning-rate", "0.02"), 2)
    assert "learning rate" in message and "0.01" in message


def test_resume_refuses_another_text_and_a_missing_run(invoke, corpus_file, tmp_path, text):
    (tmp_path / "other").write_text(text[::-1])
    assert "no run" in sentence_of(invoke("train", corpus_file, "--resume"), 1)
    assert invoke("train", corpus_file, *TINY, "--steps", "2").exit_code == 0
    sentence_of(invoke("train", tmp_path / "other", "--resume"), 2)


def test_resume_decodes_the_text_like_the_run(invoke, corpus_file):
    for how in ["--bytes"], ["--encoding", "latin-1"]:
        options = ["train", corpus_file, *TINY, "--steps", "2", "--overwrite", *how]
        assert invoke(*options).exit_code == 0
        assert invoke("train", corpus_file, "--resume").exit_code == 0


# --- Signals


def started(spawn, corpus_file, *options, **how):
    """A training process that has made its first steps."""
    arguments = ["train", corpus_file, *TINY, "--steps", "200000", *options]
    process = spawn(*arguments, **how)
    for line in process.stderr:
        if line.startswith(b"step "):
            return process
    pytest.fail("training did not start")


@pytest.mark.parametrize(
    "number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_saves_the_run_and_prints_the_command_to_resume(
    spawn, corpus_file, working_folder, number, code
):
    process = started(spawn, corpus_file, "-o", "a run.safetensors")
    process.send_signal(number)
    _, err = process.communicate(timeout=20)
    assert process.returncode == code, err
    command = shlex.split(err.decode().splitlines()[-1])
    assert command[:4] == ["python", "-m", "charrnn", "train"] and "--resume" in command
    assert (working_folder / "a run.safetensors").exists()
    # The printed command continues the run from where it stopped.
    step = int(re.search(r"after step ([\d,]+)", err.decode())[1].replace(",", ""))
    again = spawn(*command[3:])
    lines = iter(again.stderr.readline, b"")
    assert any(f"resumed after step {step:,}".encode() in line for line in lines)
    again.send_signal(number)


def test_a_second_interrupt_ends_train_at_once(spawn, corpus_file, monkeypatch, tmp_path):
    # A run that ignores stop() simulates a long step.
    code = (
        "import sys, charrnn.cli; from charrnn.training.run import TrainingRun;"
        "TrainingRun.stop = lambda self: None;"
        "charrnn.cli.main(sys.argv[1:])"
    )
    arguments = ["train", corpus_file, *TINY, "--steps", "200000"]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], stderr=subprocess.PIPE
    )
    try:
        while not process.stderr.readline().startswith(b"step "):
            pass
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 130 and b"Traceback" not in err


@pytest.mark.parametrize("how", ["cause", "context"])
def test_an_error_caused_by_an_interrupt_exits_with_130(how):
    with pytest.raises(click.exceptions.Exit) as found, reported():
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as interrupt:
            if how == "cause":
                raise SystemError("a result with an exception set") from interrupt
            raise SystemError("another")  # noqa: B904
    assert found.value.exit_code == 130


def test_train_keeps_ignoring_an_ignored_hangup(spawn, corpus_file):
    def ignore():
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    process = started(spawn, corpus_file, preexec_fn=ignore)
    process.send_signal(signal.SIGHUP)
    time.sleep(0.3)
    assert process.poll() is None


def test_train_continues_after_its_stderr_is_closed(spawn, corpus_file, working_folder):
    arguments = ["train", corpus_file, *TINY, "--steps", "2000"]
    process = spawn(*arguments)
    process.stderr.readline()
    process.stderr.close()
    assert process.wait(30) == 0
    assert (working_folder / "model.safetensors").exists()


def test_train_shows_a_bar_on_a_terminal_and_ctrl_c_stops_it(corpus_file):
    arguments = ["train", corpus_file, *TINY, "--steps", "20000", "--sample-every", "100"]
    code, shown = on_terminal(*arguments, answers=[(b"---", b""), (b"val ", b"\x03")])
    assert code == 130
    assert b"\r" in shown and b"chars/s" in shown and b"left" in shown and b"epoch" in shown
    assert b"--resume" in shown.splitlines()[-1]


def test_the_command_to_resume_can_be_pasted_for_any_file_name(spawn, corpus_file, working_folder):
    evil = "a\x1b[31m 'b\udcff"
    process = started(spawn, corpus_file, "-o", evil, "--overwrite")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    hint = err.splitlines()[-1]
    assert hint.isascii() and b"\x1b" not in hint and b"--overwrite" not in hint
    echoed = subprocess.run(
        ["bash", "-c", b"printf '%s\\0' " + hint], capture_output=True, check=True
    ).stdout.split(b"\0")
    assert os.fsencode(evil) in echoed and b"--resume" in echoed
