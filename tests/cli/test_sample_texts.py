"""`charrnn sample`: conditions on texts, primes from a file, and several texts of a beam search.

Which texts they give: tests/generation/test_samples.py.
"""

import json

import pytest
from helpers.commands import sentence_of

import charrnn
from charrnn.generation import filters


@pytest.fixture
def model(model_file):
    return charrnn.load(model_file)


@pytest.fixture
def sample(invoke, model_file):
    def run(*arguments, model=model_file, **options):
        return invoke("sample", "-m", model, *arguments, **options)

    return run


LINES = ["--stop", "\n", "--seed", 3, "--length", 12]
HOW = {"length": 12, "stop": "\n", "seed": 3}


# --- Conditions


def test_conditions_are_those_of_the_library(sample, model, working_folder):
    plain = [s.text for s in model.samples(30, **HOW)]
    (working_folder / "known").write_text("\n".join(plain[:9]) + "\n")
    for options, conditions in [
        (["--unique"], {"unique": True}),
        (["--not-in", "known"], {"not_in": "known"}),
        (["--match", "^[MT]"], {"match": "^[MT]"}),
        (["--min-length", 11], {"min_length": 11}),
        (["--max-length", 5], {"max_length": 5}),
    ]:
        expected = [s.text for s in model.samples(20, **HOW, **conditions)]
        result = sample("-n", 20, *LINES, *options)
        assert result.stdout.split("\n") == [*expected, ""], options
        assert result.stderr.startswith("note    texts rejected: ") or expected == plain[:20]
    stdin = sample("-n", 20, *LINES, "--not-in", "-", input="\n".join(plain[:9]))
    assert stdin.stdout == sample("-n", 20, *LINES, "--not-in", "known").stdout


def test_conditions_look_at_the_prime_and_the_new_text(sample, working_folder):
    [first, second] = sample(*LINES, "-n", 2, "--prime", "TOM").stdout.splitlines()
    (working_folder / "known").write_text(first + "\n")
    how = [*LINES, "--prime", "TOM", "--omit-prime"]
    assert sample(*how, "--not-in", "known").stdout == second.removeprefix("TOM")
    assert sample(*how, "--match", "^TOM").stdout == first.removeprefix("TOM")


def test_rejected_texts_are_counted(sample, monkeypatch):
    monkeypatch.setattr(filters, "MAX_REJECTED", 50)
    how = ["--seed", 3, "--unique", "--length", 1, "--allow", "aeost"]
    result = sample("-n", 5, *how)
    assert sorted(result.stdout.split()) == list("aeost")
    assert result.stderr.startswith("note    texts rejected: ") and " repeated" in result.stderr


def test_nothing_new_is_an_error_after_the_texts_that_were_found(sample, monkeypatch):
    monkeypatch.setattr(filters, "MAX_REJECTED", 50)
    result = sample("-n", 9, "--seed", 3, "--unique", "--length", 1, "--allow", "ae")
    assert sorted(result.stdout.split()) == ["a", "e"] and result.exit_code == 1
    assert result.stderr == (
        "Error: nothing new was found: 50 texts in a row were rejected "
        f"({result.stderr.split('(')[1].split()[0]} repeated in all); ask for fewer texts, or omit "
        "a condition.\n"
    )


def test_an_output_stays_as_it_was_when_no_text_is_found(sample, working_folder, monkeypatch):
    monkeypatch.setattr(filters, "MAX_REJECTED", 50)
    (working_folder / "out").write_text("old")
    for options in ["--match", "\x00"], ["--match", "("], ["--not-in", "missing"]:
        result = sample("--length", 3, "-o", "out", *options)
        assert result.exit_code in (1, 2) and (working_folder / "out").read_text() == "old"


def test_one_file_per_text_holds_those_that_are_wanted(sample, working_folder):
    expected = sample("-n", 3, *LINES, "--unique", "--separator", "|").stdout.split("|")[:3]
    assert sample("-n", 3, *LINES, "--unique", "-o", "t{n}").exit_code == 0
    assert [(working_folder / f"t{n}").read_text() for n in (1, 2, 3)] == expected


def test_memory_does_not_grow_with_rejected_texts(model):
    wanted = filters.TextFilter(unique=True)
    for i in range(300):
        wanted.accepts(b"%d" % (i % 3), 1)
    assert wanted.rejected == {"repeated": 297} and len(wanted._accepted._table) == 8


# --- Primes


def test_each_prime_is_continued_in_order(sample, model, working_folder):
    primes = ["TOM: ", "", "MARA", "TOM: "]
    (working_folder / "primes").write_text("\n".join(primes))
    answers = list(model.answers([primes], **HOW))
    whole = "".join(a.prime + a.text + "\n" for a in answers)
    for options in ["--primes", "primes"], ["--primes", "-"]:
        data = "\n".join(primes)
        assert sample(*LINES, *options, input=data).stdout == whole
        new = sample(*LINES, *options, "--omit-prime", input=data).stdout
        assert new == "".join(a.text + "\n" for a in answers)
        with_separator = sample(*LINES, *options, "--separator", "|", input=data + "\n").stdout
        assert with_separator == "".join(a.prime + a.text + "|" for a in answers)
        found = sample(*LINES, *options, "--jsonl", input="\r\n".join(primes)).stdout.splitlines()
        assert [json.loads(line) for line in found] == [
            {
                "seed": 3,
                "index": i,
                "log_probability": a.log_probability,
                "prime": a.prime,
                "text": a.text,
            }
            for i, a in enumerate(answers)
        ]
    assert sample(*LINES, "--primes", "-", input="").stdout == ""


def test_a_process_answers_each_prime_before_the_next_comes(spawn, model_file, model):
    process = spawn(
        *("sample", "-m", model_file, "--primes", "-", "--stop", "\n", "--seed", "3", "--jsonl"),
        *("--length", "12"),
        stdin=-1,
    )
    for i, lines in enumerate([["TOM"], ["MARA", "TOM"], [""]]):
        process.stdin.write("".join(line + "\n" for line in lines).encode())
        process.stdin.flush()
        for line in lines:
            assert json.loads(process.stdout.readline())["prime"] == line, i
    process.stdin.write(b"MA")
    process.stdin.close()
    last = json.loads(process.stdout.readline())
    [expected] = model.samples(1, prime="MA", first=4, **HOW)
    assert (last["text"], last["index"]) == (expected.text, 4)
    assert process.wait(20) == 0 and process.stderr.read() == b""


def test_a_wrong_prime_is_named_by_its_number(sample, bytes_model_file, working_folder):
    (working_folder / "primes").write_bytes("TOM\nMü\nTOM\n".encode())
    message = sentence_of(sample(*LINES, "--primes", "primes", "-o", "out"), 1)
    assert message.startswith("prime 2 of primes: ") and "'ü'" in message
    assert not (working_folder / "out").exists()
    stdin = sample(*LINES, "--primes", "-", input=(working_folder / "primes").read_bytes())
    assert stdin.exit_code == 1 and stdin.stderr.startswith("Error: prime 2 of stdin: ")
    assert stdin.stdout == sample(*LINES, "--prime", "TOM").stdout + "\n"
    skipped = sample(*LINES, "--primes", "primes", "--unknown", "skip")
    assert skipped.stdout.count("\n") == 3 and skipped.stderr.count("'ü'") == 1
    assert "prime 1" in sentence_of(sample("--primes", "-", input=b"\xff\n"), 1)
    assert "prime 1" in sentence_of(sample("--primes", "-", "--mid-line", input="\nM\n"), 1)
    of_bytes = sample("--primes", "-", "--length", 3, input=b"\xff\n", model=bytes_model_file)
    assert of_bytes.stdout_bytes.startswith(b"\xff") and of_bytes.exit_code == 0


def test_a_prime_in_two_pieces_is_one_prime(sample, model, monkeypatch):
    monkeypatch.setattr("charrnn.cli.sample_primes.CHUNK_BYTES", 2)
    monkeypatch.setattr("charrnn.cli.sample_primes.BATCH", 1)
    expected = "".join(a.prime + a.text + "\n" for a in model.answers([["TOM: ", "", "M"]], **HOW))
    assert sample(*LINES, "--primes", "-", input="TOM: \n\nM").stdout == expected
    with open("primes", "w") as file:
        file.write("TOM: \n\nM")
    assert sample(*LINES, "--primes", "primes").stdout == expected


# --- Beam search


def test_all_texts_of_a_beam_search_are_written_the_likeliest_first(sample, model):
    how = ["--prime", "TOM", "--stop", "\n", "--length", 30, "--beam", 5]
    found = model.beams(5, 5, 30, prime="TOM", stop="\n")
    assert [nats for _, nats in found] == sorted((nats for _, nats in found), reverse=True)
    result = sample(*how, "--all")
    assert result.stdout == "".join(f"TOM{text.decode()}\n" for text, _ in found)
    assert result.stderr.splitlines() == [
        f"log-probability {nats:.4f} nats, including the stop" for _, nats in found
    ]
    values = [json.loads(line) for line in sample(*how, "--all", "--jsonl").stdout.splitlines()]
    assert [v["log_probability"] for v in values] == [nats for _, nats in found]
    assert sample(*how).stdout == "TOM" + found[0][0].decode()
    assert sample(*how, "--all", "-o", "b{n}").exit_code == 0
    with open("b5") as file:
        assert file.read() == "TOM" + found[4][0].decode()


def test_a_beam_search_continues_each_prime(sample, model):
    result = sample("--primes", "-", "--beam", 3, "--length", 9, "--omit-prime", input="TOM\nM\n")
    assert result.stdout == "".join(
        model.beam(3, 9, prime=prime)[0].decode() + "\n" for prime in ("TOM", "M")
    )
    assert result.stderr.count("log-probability") == 2


# --- Combinations that make no sense


@pytest.mark.parametrize(
    "options, words",
    [
        (["--primes", "x", "--prime", "a"], "give one of --prime, --prime-file and --primes"),
        (["--primes", "x", "--prime-file", "x"], "give one of --prime, --prime-file and --primes"),
        (["--primes", "x", "-n", "2"], "--num-samples"),
        (["--primes", "x", "-o", "a{n}"], "{n}"),
        (["--primes", "-", "--not-in", "-"], "stdin"),
        (["--prime-file", "-", "--not-in", "-"], "stdin"),
        (["--primes", "-", "--length", "0"], "needs an end"),
        (["--omit-prime"], "no prime to omit"),
        (["--omit-prime", "--prime", "a", "--jsonl"], "--omit-prime"),
        (["--all"], "--beam"),
        (["--beam", "2", "--all", "-n", "2"], "--num-samples"),
        (["--beam", "2", "--unique"], "--unique"),
        (["--beam", "2", "--not-in", "x", "--match", "a"], "--not-in, --match"),
        (["--beam", "2", "--min-length", "1", "--first", "3"], "--first, --min-length"),
        (["--unique", "--length", "0"], "needs an end"),
        (["--jsonl", "--length", "0"], "needs an end"),
        (["--unique", "--temperature", "0"], "temperature 0"),
        (["--match", "a", "--top-k", "1"], "top-k 1"),
        (["--match", "("], "regular expression"),
        (["--min-length", "501"], "--min-length"),
        (["--min-length", "-1"], "min length"),
        (["--max-length", "499"], "each text has --length"),
        (["--min-length", "3", "--max-length", "2"], "larger than --max-length"),
        (["--first", "-1"], "first"),
    ],
)
def test_options_that_make_no_sense_together_are_refused(
    sample, working_folder, monkeypatch, options, words
):
    output = [] if "-o" in options else ["-o", "out"]
    assert words in sentence_of(sample(*options, *output, input=""), 2)
    assert list(working_folder.iterdir()) == []


def test_an_output_never_replaces_known_texts_or_primes(sample, working_folder):
    (working_folder / "x").write_text("TOM\n")
    for name in "--not-in", "--primes":
        assert "replace" in sentence_of(sample(name, "x", "-o", "x"), 2)
    assert (working_folder / "x").read_text() == "TOM\n"
