"""`charrnn sample`: its options and outputs. Its texts: test_sampler, test_beam_search."""

import dataclasses
import json
import os

import numpy as np
import pytest
from helpers.commands import on_terminal, sentence_of, train_model

import charrnn
from charrnn.config import ModelConfig
from charrnn.network.model import Model
from charrnn.storage.checkpoint import save_model
from charrnn.text.vocabulary import CharVocabulary


def saved(path, characters, **config):
    """Write the file of an untrained model."""
    model = Model(ModelConfig(len(characters), **config), np.random.default_rng(0))
    config = dataclasses.asdict(model.config)
    save_model(path, model.state_dict(), config, CharVocabulary(characters), {})
    return path


@pytest.fixture(scope="module")
def large_vocabulary(tmp_path_factory):
    characters = "\n" + "".join(map(chr, range(0x4E00, 0x4E00 + 3999)))
    return saved(tmp_path_factory.mktemp("large") / "model", characters, hidden_size=8)


@pytest.fixture(scope="module")
def slow_model(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("slow") / "model", "ab", hidden_size=512)


@pytest.fixture
def model(model_file):
    return charrnn.load(model_file)


@pytest.fixture
def sample(invoke, model_file):
    def run(*arguments, model=model_file, **options):
        return invoke("sample", "-m", model, "--seed", 3, *arguments, **options)

    return run


def test_sample_passes_its_options_to_the_library(sample, model):
    plain = model.sample(90, seed=3)
    for name, value in {
        "temperature": 0.4, "repetition_penalty": 3.0, "top_k": 3, "top_p": 0.5, "min_p": 0.4,
        "allow": "TOMAR: aeio.", "forbid": "i", "prime": "TOM",
    }.items():  # fmt: skip
        expected = model.sample(90, seed=3, **{name: value})
        assert expected != plain, name
        start = value if name == "prime" else ""
        option = f"--{name.replace('_', '-')}"
        assert sample("--length", 90, option, value).stdout == start + expected


def test_lines_end_a_text_and_an_explicit_length_limits_it(sample, model):
    text = sample("--lines", 30).stdout
    assert text == model.sample(None, lines=30, seed=3)
    assert len(text) > 500 and text.count("\n") == 30 and text.endswith("\n")
    assert sample("--lines", 30, "--length", 40).stdout == text[:40]
    assert sample("--lines", 30, "--length", 0).stdout == text
    assert "newline" in sentence_of(sample("--lines", 3, "--forbid", "\n"), 2)


def test_the_first_of_several_stops_ends_the_text(sample, model):
    whole = model.sample(500, seed=3)
    first, second = whole[200:203], whole[100:103]
    text = sample("--stop", first, "--stop", second).stdout
    assert text == model.sample(500, seed=3, stop=[first, second])
    assert text == min(whole.partition(first)[0], whole.partition(second)[0], key=len)


def test_jsonl_has_seed_index_prime_and_text(sample, model, bytes_model_file):
    result = sample("-n", 3, "--length", 20, "--prime", "TOM: ", "--jsonl", "--first", 4)
    found = [json.loads(line) for line in result.stdout.splitlines()]
    assert [{**values, "log_probability": 0} for values in found] == [
        {
            "seed": 3,
            "index": i,
            "log_probability": 0,
            "prime": "TOM: ",
            "text": model.sample(20, prime="TOM: ", seed=3, first=i),
        }
        for i in (4, 5, 6)
    ]
    odd = sample("--jsonl", "--prime", "a\udcff", "--length", 99, model=bytes_model_file)
    values = json.loads(odd.stdout)
    [expected] = charrnn.load(bytes_model_file).texts(1, 99, prime="a\udcff", seed=3)
    assert values["prime"] == "a\udcff"
    assert values["text"].encode("utf-8", "surrogateescape") == b"".join(expected)


@pytest.mark.parametrize("options", [[], ["--jsonl"], ["-n", 3], ["--beam", 2]])
def test_a_text_to_a_file_has_every_byte(invoke, bytes_model_file, working_folder, options):
    seed = [] if "--beam" in options else ["--seed", 3]
    result = invoke(
        *("sample", "-m", bytes_model_file, "--allow", "\udce9", "--length", 7, "--prime", "caf"),
        *(*options, *seed, "-o", "out"),
    )
    assert result.exit_code == 0, result.stderr
    written = (working_folder / "out").read_bytes()
    if "--jsonl" in options:
        written = json.loads(written)["text"].encode("utf-8", "surrogateescape")
    expected = {"-n": (b"caf" + b"\xe9" * 7 + b"\n") * 3, "--jsonl": b"\xe9" * 7}
    assert written == expected.get(options[0] if options else "", b"caf" + b"\xe9" * 7)


def test_jsonl_names_a_random_seed_that_reproduces_the_text(invoke, model_file, model):
    line = json.loads(invoke("sample", "-m", model_file, "--jsonl").stdout)
    assert model.sample(500, seed=line["seed"]) == line["text"]


def test_a_placeholder_in_output_writes_one_file_per_text(sample, model, working_folder):
    (working_folder / "out-03.txt").write_text("old")
    result = sample("-n", 11, "--length", 30, "--prime", "T", "-o", "out-{n}.txt")
    assert (result.exit_code, result.output) == (0, "")
    files = sorted(path.name for path in working_folder.iterdir())
    assert files == [f"out-{n:02}.txt" for n in range(1, 12)]
    texts = [(working_folder / name).read_text() for name in files]
    assert texts == ["T" + model.sample(30, prime="T", seed=3, first=i) for i in range(11)]


def test_outputs_never_replace_inputs(sample, corpus_file, tmp_path):
    before = corpus_file.read_bytes()
    for name in corpus_file, str(corpus_file).replace("corpus.txt", "corpu{n}.txt"):
        (corpus_file.parent / "corpu1.txt").unlink(missing_ok=True)
        os.link(corpus_file, corpus_file.parent / "corpu1.txt")
        message = sentence_of(sample("--novelty", corpus_file, "-o", name), 2)
        assert "replace" in message
        assert "replace" in sentence_of(sample("--prime-file", corpus_file, "-o", name), 2)
    assert corpus_file.read_bytes() == before


@pytest.mark.parametrize(
    "options, words",
    [
        (["--jsonl", "--separator", "|"], "--separator"),
        (["--jsonl", "-o", "a{n}"], "{n}"),
        (["--novelty", "x", "--length", "0"], "--novelty"),
        (["--beam", "2", "--top-k", "0", "--temperature", "1"], "--temperature, --top-k"),
        (["--prime", "a", "--prime-file", "x"], "--prime-file"),
        (["--beam", "0"], "beam"),
        (["--lines", "0"], "lines"),
        (["--min-p", "2"], "min p"),
        (["--allow", "\x1b"], r"\x1b"),
    ],
)
def test_conflicting_options_are_named(invoke, model_file, options, words):
    assert words in sentence_of(invoke("sample", "-m", model_file, *options), 2)


def test_beam_writes_the_text_of_the_library_and_its_log_probability(invoke, model_file, model):
    common = ["sample", "-m", model_file, "--length", 25, "--prime", "TOM"]
    result = invoke(*common, "--beam", 6)
    text, nats = model.beam(6, 25, prime="TOM")
    assert result.stdout_bytes == b"TOM" + text
    assert result.stderr == f"log-probability {nats:.4f} nats ({nats / 25:.4f} per character)\n"
    greedy = invoke(*common, "--temperature", 0)
    assert invoke(*common, "--beam", 1).stdout == greedy.stdout
    values = json.loads(invoke(*common, "--beam", 6, "--jsonl").stdout)
    assert values == {"log_probability": nats, "prime": "TOM", "text": text.decode()}


def test_novelty_reports_the_longest_run_of_the_new_text(
    sample, corpus_file, text, bytes_model_file
):
    result = sample("-n", 3, "--length", 100, "--prime", text[:50], "--novelty", corpus_file)
    plain = sample("-n", 3, "--length", 100, "--prime", text[:50])
    assert result.stdout == plain.stdout
    news = [part[50:150] for part in (plain.stdout[i * 151 :] for i in range(3))]
    longest = max(
        (n[i:j] for n in news for i in range(100) for j in range(i + 1, 101) if n[i:j] in text),
        key=len,
    )
    assert f"{len(longest)} characters" in result.stderr and "in runs of 20" in result.stderr
    forced = sample("--allow", "T", "--length", 5, "--novelty", corpus_file)
    assert '1 characters: "T"' in forced.stderr
    of_bytes = sample("--novelty", corpus_file, model=bytes_model_file)
    assert of_bytes.exit_code == 0 and "longest copied run" in of_bytes.stderr


@pytest.mark.parametrize("count", [1, 50])
def test_separators_are_no_text_for_novelty(sample, corpus_file, count):
    length = 20
    options = ["--temperature", 0, "--length", length, "-n", count, "--prime", "MARA: The tide is"]
    text = sample(*options).stdout[: len("MARA: The tide is") + length]
    corpus_file.with_name("same").write_text(text)
    shown = sample(*options, "--novelty", corpus_file.with_name("same")).stderr
    assert f"{length} characters" in shown and "in runs of 20 or more   100.00%" in shown


def test_novelty_decodes_its_corpus(sample, corpus_file, bytes_model_file):
    corpus = corpus_file.with_name("utf-16")
    corpus.write_bytes(corpus_file.read_bytes().decode().encode("utf-16"))
    shown = sample("--novelty", corpus, "--corpus-encoding", "utf-16").stderr
    assert shown == sample("--novelty", corpus_file).stderr != ""
    message = sentence_of(sample("--novelty", corpus), 1)
    assert "--corpus-encoding (it decodes as utf-16, " in message
    refused = sample("--novelty", corpus, "--corpus-encoding", "utf-16", model=bytes_model_file)
    assert "bytes" in sentence_of(refused, 2)
    assert "--novelty" in sentence_of(sample("--corpus-encoding", "utf-16"), 2)


def test_novelty_of_a_bytes_model_counts_bytes_and_shows_characters(
    sample, bytes_model_file, working_folder
):
    (working_folder / "corpus").write_bytes("üü".encode())
    options = ["--allow", "\udcc3\udcbc", "--prime", "\udcc3", "--length", 9, "--temperature", 9]
    shown = sample(*options, "--novelty", "corpus", model=bytes_model_file).stderr
    assert ' bytes: "' in shown and "\xc3" not in shown


def test_a_missing_novelty_corpus_is_noticed_before_text_is_written(sample, working_folder):
    message = sentence_of(sample("--novelty", "missing", "-o", "out"), 1)
    assert "missing" in message and not (working_folder / "out").exists()


def test_a_bar_is_shown_on_a_terminal_for_text_to_a_file(slow_model, model_file, working_folder):
    """It appears after a second and is erased at the end."""
    on_terminal("sample", "-m", model_file, "--length", "1")  # compile before the measurement
    long = ["sample", "-m", slow_model, "--seed", "1", "--length", "10000"]
    code, shown = on_terminal(*long, "-o", "out")
    assert code == 0 and b" characters/s" in shown and b"\n" not in shown
    assert len((working_folder / "out").read_bytes()) == 10_000
    assert b" characters/s" not in on_terminal(*long)[1]
    short = ["sample", "-m", model_file, "--length", "10"]
    assert on_terminal(*short, "-o", "out") == (0, b"")


def test_no_bar_is_shown_without_a_terminal(sample):
    assert sample("--length", 60000, "-o", "out").stderr == ""


def memory_after(spawn, length, *arguments):
    """Peak memory in bytes of `sample --length 0` until `length` bytes are read."""
    process = spawn("sample", "--length", "0", "--seed", "1", *arguments)
    while length > 0:
        length -= len(process.stdout.read(min(length, 1 << 16)))
    with open(f"/proc/{process.pid}/status") as file:
        peak = next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))
    process.kill()
    return peak * 1024


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="there is no /proc")
@pytest.mark.parametrize(
    "length, options",
    [
        (10**7, []),
        (4 * 10**6, ["--stop", "never\n\n\n", "-n", "3"]),
        (4 * 10**6, ["--lines", "1000000000"]),
    ],
)
def test_an_endless_text_takes_constant_memory(spawn, model_file, length, options):
    arguments = ["-m", model_file, *options]
    memory_after(spawn, 1, *arguments)  # compile before the measurement
    grown = memory_after(spawn, length, *arguments) - memory_after(spawn, 10**6, *arguments)
    assert grown < 2**21


def test_sampling_works_with_a_vocabulary_of_4000(invoke, large_vocabulary):
    common = ["sample", "-m", large_vocabulary, "--length", "50"]
    for options in [], ["--top-k", "40", "--top-p", "0.9"], ["--repetition-penalty", "2"]:
        result = invoke(*common, "-n", "30", *options)
        assert result.exit_code == 0 and len(result.stdout) == 30 * 51
    assert invoke(*common, "--beam", "10").exit_code == 0
    assert set(invoke(*common, "--allow", "丁丂").stdout) == set("丁丂")


# --- Options without effect


@pytest.mark.parametrize(
    "options, words",
    [
        (["--stop", r"\n"], ["--stop", r"$'\n'"]),
        (["--stop", "ż"], ["--stop 'ż'", "U+017C"]),
        (["--stop", "M\u0301"], ["--stop", "U+0301"]),
        (["--stop", ".", "--forbid", "."], ["--stop '.'"]),
        (["--stop", "MA", "--allow", "M"], ["--stop 'MA'", "'A'"]),
        (["--forbid", "żM"], ["--forbid has no effect on 'ż'"]),
        (["--forbid", r"\n"], [r"--forbid takes \n", r"$'\n'"]),
        (["--length", "9", "--lines", "2", "--forbid", "\n"], ["--lines has no effect"]),
        (["--beam", "2", "--stop", r"\t"], ["--stop", r"$'\t'"]),
        (["--stop", "\n"], []),
        (["--forbid", "M\n", "--stop", "T"], []),
    ],
)
def test_options_without_effect_are_noted(invoke, model_file, options, words):
    result = invoke("sample", "-m", model_file, "--length", "5", *options)
    notes = [line for line in result.stderr.splitlines() if not line.startswith("log-prob")]
    assert result.exit_code == 0 and bool(notes) == bool(words)
    assert all(line.startswith("note    --") for line in notes)
    assert all(word in result.stderr for word in words)


def test_a_stop_of_bytes_can_be_written(invoke, bytes_model_file):
    options = ["sample", "-m", bytes_model_file, "--length", "3"]
    assert invoke(*options, "--stop", "東").stderr == ""
    assert "'東'" in invoke(*options, "--stop", "東", "--forbid", "杰").stderr  # two common bytes


@pytest.mark.parametrize("name", ["--prime", "--stop", "--forbid", "--allow"])
def test_texts_in_options_are_utf8_in_every_locale(spawn, working_folder, name):
    model = train_model(working_folder, "model", "zażółć gęślą jaźń\n" * 30)
    env = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    options = ["sample", "-m", model, "--length", "9", "--seed", "1", name, "żół"]
    for more in {}, {f"CHARRNN_SAMPLE_{name[2:].upper()}": "żół"}:
        arguments = options[:-2] if more else options
        found = spawn(*arguments, env=env | more).communicate()
        assert found == spawn(*options, env={"PYTHONUTF8": "1"}).communicate()
        assert found[1] == b""
