"""`charrnn sample` and other commands that write or read with a model of records."""

import json
import math

import pytest
from helpers.commands import objects, sentence_of

import charrnn


@pytest.fixture
def sample(invoke, records_model):
    def run(*arguments, **options):
        return invoke("sample", "-m", records_model, *arguments, **options)

    return run


@pytest.fixture(scope="module")
def of_bytes(tmp_path_factory):
    """A model of records of bytes, which end with the byte 255."""
    folder = tmp_path_factory.mktemp("bytes")
    (folder / "list").write_bytes(b"ab\xffb\xe9\xffaab\xff" * 20)
    how = {"as_bytes": True, "separator": "\xff", "hidden_size": 8, "num_layers": 1, "steps": 20}
    charrnn.train(folder / "list", folder / "m", **how)
    return folder / "m"


def test_n_records_are_n_lines(sample):
    for count in 1, 20:
        result = sample("-n", count, "--seed", 1, "--length", 6)
        lines = result.stdout.split("\n")
        assert len(lines) == count + 1 and lines[-1] == ""
        assert all(0 < len(line) <= 6 for line in lines[:-1])


def test_cut_records_are_counted_on_stderr(sample):
    result = sample("-n", 50, "--length", 1, "--seed", 1)
    assert set(result.stdout.split()) == {"a", "b"} and len(result.stdout) == 100
    assert "note    texts rejected:" in result.stderr and " too long" in result.stderr


def test_a_separator_is_that_of_the_model_or_a_given_one(sample, invoke, of_bytes):
    found = sample("-n", 9, "--seed", 1).stdout
    assert sample("-n", 9, "--seed", 1, "--separator", "; ").stdout == found.replace("\n", "; ")
    data = invoke("sample", "-m", of_bytes, "-n", 9, "--length", 5).stdout_bytes
    assert data.count(b"\xff") == 9 and data.endswith(b"\xff")


def test_conditions_are_on_records(sample, working_folder):
    (working_folder / "known").write_bytes(b"ab\r\nb\nbb\n")
    options = ("--unique", "--not-in", "known", "--match", "^a|b$", "--min-length", 2)
    result = sample("-n", 8, "--length", 4, *options, "-o", "out", "--novelty", "known")
    found = (working_folder / "out").read_text().splitlines()
    assert len(set(found)) == 8 and not {"ab", "b", "bb"} & set(found)
    assert all(len(f) >= 2 and (f[0] == "a" or f[-1] == "b") for f in found)
    rows = [row.split() for row in result.stderr.splitlines()]
    assert ["records", "8"] in rows and not any("copied" in row for row in rows)


def test_novelty_compares_whole_records_of_bytes(invoke, of_bytes, working_folder):
    (working_folder / "known").write_bytes(b"ab\xffb\xffa\xff")
    options = ("-n", 30, "--seed", 1, "--length", 3, "--prime", "a", "--novelty", "known")
    result = invoke("sample", "-m", of_bytes, *options, "-o", "out")
    records = (working_folder / "out").read_bytes().split(b"\xff")[:-1]
    known = sum(r in (b"ab", b"b", b"a") for r in records)
    assert 0 < known < 30
    [row] = [r for r in result.stderr.splitlines() if r.startswith("in the corpus")]
    assert row.endswith(f"({known})")


def test_each_prime_is_continued_to_the_end_of_its_record(sample, working_folder):
    (working_folder / "primes").write_bytes(b"ab\n\nb\r\n")
    lines = sample("--primes", "primes", "--seed", 1).stdout.splitlines()
    new = sample("--primes", "-", "--omit-prime", "--seed", 1, input="ab\n\nb").stdout.splitlines()
    assert lines == ["ab" + new[0], new[1], "b" + new[2]]
    found = objects(sample("--primes", "primes", "--jsonl", "--seed", 1))
    assert [f["prime"] + f["text"] for f in found] == lines


def test_jsonl_has_the_log_probability_of_score(sample, invoke, records_model, working_folder):
    found = objects(sample("-n", 20, "--jsonl", "--length", 9, "--temperature", 0.7))
    (working_folder / "list").write_text("".join(f["text"] + "\n" for f in found))
    scored = objects(invoke("score", "-m", records_model, "--json", "list"))
    assert [f["log_probability"] for f in found] == pytest.approx(
        [-s["nats"] for s in scored], abs=1e-3
    )


def test_all_beams_are_records(sample):
    result = sample("--beam", 20, "--all", "--length", 3)
    assert len(result.stdout.splitlines()) == 14 == result.stderr.count("including the end")
    found = objects(sample("--beam", 5, "--all", "--jsonl"))
    values = [f["log_probability"] for f in found]
    assert values == sorted(values, reverse=True) and len(values) == 5


@pytest.mark.parametrize(
    "options",
    [
        ("--lines", 2),
        ("--stop", "a"),
        ("--prime", "a", "--mid-line"),
        ("--prime", "ab\n"),
        ("--forbid", "\n"),
        ("--beam", 2, "--stop", "a"),
        ("--beam", 2, "--prime", "ab\n"),
        ("--length", 3, "--min-length", 4),
        ("--temperature", 0, "--unique"),
    ],
)
def test_impossible_options_are_refused_before_writing(sample, options, working_folder):
    (working_folder / "out").write_text("old")
    sentence_of(sample(*options, "-o", "out"), 2)
    assert (working_folder / "out").read_text() == "old"


def test_a_prime_of_a_file_that_ends_its_record_is_named(invoke, of_bytes, working_folder):
    (working_folder / "primes").write_bytes(b"a\nb\xff\n")
    message = sentence_of(invoke("sample", "-m", of_bytes, "--primes", "primes"), 1)
    assert message.startswith("prime 2 of primes: it already ends the record")


def test_novelty_needs_no_length_of_records(sample, invoke, model_file, working_folder):
    (working_folder / "known").write_text("ab\n")
    assert sample("--length", 0, "--novelty", "known").exit_code == 0
    options = ("--length", 0, "--novelty", "known")
    assert "has none" in sentence_of(invoke("sample", "-m", model_file, *options), 2)


def test_info_tells_the_separator(invoke, records_model, model_file, of_bytes):
    for path, expected in (records_model, "\n"), (model_file, None), (of_bytes, "\xff"):
        assert json.loads(invoke("info", "--json", path).stdout)["separator"] == expected


def test_inspect_reads_each_record_on_its_own(invoke, records_model):
    def values(text):
        result = invoke("inspect", "-m", records_model, "--unit", "1.3", "--json", "-", input=text)
        return {f["text"]: f["values"] for f in objects(result)}

    one, other = values("ab\nbba\n"), values("bba\r\n\nab")
    assert one == other and len(one) == 2
    result = invoke("inspect", "-m", records_model, "-", input="ab\n\nbba\n" * 40)
    assert "40 empty records were left out" in result.stderr and result.exit_code == 0


def test_the_posterior_is_that_of_equal_priors(invoke, records_model, tmp_path, working_folder):
    (tmp_path / "list").write_text("bbb\nbba\nbb\n" * 20)
    how = {"separator": "\n", "hidden_size": 8, "num_layers": 1, "steps": 20}
    charrnn.train(tmp_path / "list", tmp_path / "other", **how)
    options = ["score", "-m", records_model, "-m", tmp_path / "other", "-"]
    text = "ab\nbbb\naab\nbb\n"
    for found in objects(invoke(*options, "--json", input=text)):
        a, b = (m["nats"] for m in found["models"])
        posterior = [m["posterior"] for m in found["models"]]
        assert posterior == pytest.approx([1 / (1 + math.exp(a - b)), 1 / (1 + math.exp(b - a))])
        row = invoke(*options, input=text).stdout.splitlines()[found["line"]].split()
        assert row[-2:] == [f"{max(posterior):.2%}", found["text"]]
