"""Novelty, compared with an exhaustive search, and the command `charrnn novelty`."""

import json
import tracemalloc

import numpy as np
import pytest
from helpers.commands import sentence_of
from helpers.loaded_modules import RUN, modules_after
from hypothesis import given, settings
from hypothesis import strategies as st

from charrnn.cli.commands.novelty_command import read_known, say_novelty
from charrnn.evaluation import novelty as module
from charrnn.evaluation.novelty import compare, novelty
from charrnn.text.corpus import read_corpus


def codes(text):
    return np.array([ord(c) for c in text], np.int32)


def brute_force(text, corpus, lengths):
    """(longest length, its first start, fractions by length), found by trying every window."""

    def starts(length):
        return [i for i in range(len(text) - length + 1) if text[i : i + length] in corpus]

    longest = max((k for k in range(1, len(text) + 1) if starts(k)), default=0)
    fractions = {}
    for length in lengths:
        copied = {j for i in starts(length) for j in range(i, i + length)}
        fractions[length] = len(copied) / len(text)
    return longest, (starts(longest) if longest else [0])[0], fractions


def check(text, corpus, lengths):
    found = novelty(codes(text), codes(corpus), lengths)
    assert (found.length, found.start, found.fractions) == brute_force(text, corpus, lengths)


few = st.text(st.sampled_from("ab"), min_size=1, max_size=40)
some = st.text(st.sampled_from("abcdé\u6771\U0001f600"), min_size=1, max_size=30)

rearranged = st.tuples(some, few, some).map(lambda t: (t[0] + t[1] + t[2], t[2] + t[1] + t[0]))


@pytest.mark.parametrize("table", [0, module.TABLE])
@pytest.mark.parametrize("block", [1, 5, module.BLOCK])
def test_novelty_equals_an_exhaustive_search(monkeypatch, table, block):
    monkeypatch.setattr(module, "TABLE", table)
    monkeypatch.setattr(module, "BLOCK", block)

    @settings(max_examples=100, deadline=None)
    @given(st.one_of(st.tuples(few, few), st.tuples(some, some), rearranged))
    def compare(pair):
        check(*pair, lengths=(1, 2, 3, 5, 8, 11))

    compare()


@pytest.mark.parametrize(
    "text, corpus",
    [
        ("a", "a"),
        ("a", "b"),
        ("ab" * 20, "ab" * 20),
        ("a" * 33, "a" * 32),
        ("a" * 31, "a" * 64),
        ("b" + "a" * 16 + "b", "a" * 16),
        ("abcdefgh", "abcdefg" + "bcdefgh"),
        ("zz", "a"),
        ("a" * 5, "a"),
    ],
)
@pytest.mark.parametrize("table", [0, module.TABLE])
def test_novelty_of_edge_cases_equals_an_exhaustive_search(monkeypatch, table, text, corpus):
    monkeypatch.setattr(module, "TABLE", table)
    check(text, corpus, (1, 2, 4, 15, 16, 17, 31, 32, 33, 100))


def test_novelty_finds_planted_copies():
    rng = np.random.default_rng(0)
    corpus, text = rng.integers(0, 200, 300_000), rng.integers(300, 400, 10_000)
    for start, length in (0, 19), (100, 20), (200, 49), (300, 50), (400, 99), (9900, 100):
        text[start : start + length] = corpus[7 * start : 7 * start + length]
    found = novelty(text, corpus)
    assert (found.length, found.start) == (100, 9900)
    expected = {20: 20 + 49 + 50 + 99 + 100, 50: 50 + 99 + 100, 100: 100}
    assert found.fractions == pytest.approx({k: v / 10_000 for k, v in expected.items()})


@pytest.mark.parametrize("copies", [1, 40])
def test_novelty_needs_less_than_15_bytes_per_character(copies):
    corpus = np.random.default_rng(0).integers(0, 60, 1_000_000 // copies).astype(np.uint8)
    corpus = np.tile(corpus, copies)
    text = corpus[:10_000].copy()
    tracemalloc.start()
    try:
        assert novelty(text, corpus).length == 10_000
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 15 * len(corpus)


# --- Texts


@pytest.mark.parametrize("as_bytes", [False, True])
def test_compare_finds_runs_within_one_text(tmp_path, as_bytes):
    (tmp_path / "corpus").write_bytes("abcäcb?".encode())
    corpus = read_corpus(tmp_path / "corpus", as_bytes=as_bytes)
    texts = ["xab", "cä", "z"]  # the corpus lacks x and z, and the texts are not joined
    if as_bytes:
        texts = [text.encode().decode("latin-1") for text in texts]
    result, longest = compare(texts, corpus)
    assert longest == (texts[1] if as_bytes else "ab")
    assert (result.length, result.start) == ((3, 3) if as_bytes else (2, 1))


def test_compare_of_an_empty_text_finds_nothing(tmp_path):
    (tmp_path / "corpus").write_text("abc")
    result, longest = compare([""], read_corpus(tmp_path / "corpus"))
    assert (result.length, longest) == (0, "")


# --- The command


@pytest.fixture(autouse=True)
def working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_novelty_command_shows_the_longest_run_and_fractions(invoke, working_folder):
    run = "東京 is\x1b[31m where\nI left my good umbrella, and my better one. " + "x" * 30
    (working_folder / "corpus").write_bytes(f"Once. {run}! The end.\n".encode())
    (working_folder / "text").write_bytes(f"Zoë: {run}?".encode())
    values = json.loads(invoke("novelty", "text", "--corpus", "corpus", "--json").stdout)
    copied = len(run) + 1  # and the space before it
    assert values == {
        "characters": len(run) + 6,
        "longest_run": copied,
        "longest_run_start": 4,
        "longest_run_text": " " + run,
        "copied_share": {
            "20": pytest.approx(copied / (len(run) + 6)),
            "50": pytest.approx(copied / (len(run) + 6)),
            "100": 0,
        },
    }
    result = invoke("novelty", "text", "--corpus", "corpus")
    assert result.stderr == "" and "\x1b" not in result.stdout
    rows = result.stdout.splitlines()
    assert rows[0].split() == ["characters", str(len(run) + 6)]
    assert f'{copied} characters: " 東京 is\\x1b[31m where\\nI left' in rows[1]
    assert rows[1].endswith('..."') and "x" * 30 not in rows[1]
    assert rows[2].endswith(f"{copied / (len(run) + 6):.2%}") and rows[4].endswith("0.00%")


def test_novelty_command_without_a_common_run(invoke, working_folder):
    (working_folder / "corpus").write_text("abc")
    values = json.loads(invoke("novelty", "-", "--corpus", "corpus", "--json", input="xyz").stdout)
    assert (values["longest_run"], values["longest_run_start"]) == (0, None)
    table = invoke("novelty", "-", "--corpus", "corpus", input="xyz").stdout
    assert "0 characters\n" in table


def novelty_of(invoke, *arguments, **options):
    result = invoke("novelty", "--json", *arguments, **options)
    assert result.exit_code == 0, result.stderr
    values = json.loads(result.stdout)
    assert values["longest_run_text"].isprintable() or "\n" in values["longest_run_text"]
    return values


def test_novelty_command_finds_no_run_across_two_files(invoke, working_folder):
    for name, text in {"a": "x abcdef", "b": "", "c": "ghij y\n", "long": "z abcdefghij"}.items():
        (working_folder / name).write_text(text)
    options = ["--corpus", "a", "--corpus", "b", "--corpus", "c"]
    assert novelty_of(invoke, "long", *options)["longest_run_text"] == " abcdef"
    values = novelty_of(invoke, "a", "b", "c", "--corpus", "long")
    assert (values["longest_run_text"], values["characters"]) == (" abcdef", 15)
    values = novelty_of(invoke, "b", "c", "--corpus", "a", "--corpus", "c", input="")
    assert (values["longest_run"], values["longest_run_start"]) == (7, 0)


RUSSIAN = "Съешь ещё этих мягких французских булок, да выпей чаю.\n"


@pytest.mark.parametrize(
    "text_encoding, corpus_encoding, options",
    [
        ("utf-8", "utf-8", []),
        ("utf-8", "cp1251", ["--encoding", "cp1251"]),
        ("utf-8", "cp1251", ["--corpus-encoding", "cp1251"]),
        ("cp1251", "cp1251", ["--encoding", "cp1251"]),
        ("cp1251", "utf-8", ["--encoding", "cp1251"]),
        ("cp1251", "koi8-r", ["--encoding", "cp1251", "--corpus-encoding", "koi8-r"]),
        ("utf-8", "utf-8", ["--encoding", "latin-1"]),
        ("cp1251", "cp1251", ["--encoding", "latin-1"]),
        ("utf-8", "utf-16", ["--corpus-encoding", "utf-16"]),
        ("utf-16-le", "utf-16-le", ["--encoding", "utf-16-le"]),
    ],
)
def test_novelty_compares_characters_whatever_the_encodings(
    invoke, working_folder, text_encoding, corpus_encoding, options
):
    (working_folder / "corpus").write_bytes((RUSSIAN * 9).encode(corpus_encoding))
    text = (RUSSIAN * 3).encode(text_encoding)
    values = novelty_of(invoke, "-", "--corpus", "corpus", *options, input=text)
    assert set(values["copied_share"].values()) == {1}
    assert values["longest_run"] == values["characters"]


def test_novelty_obeys_two_encodings(invoke, working_folder):
    (working_folder / "corpus").write_bytes(RUSSIAN.encode())
    given = ["--encoding", "latin-1", "--corpus-encoding", "utf-8"]
    values = novelty_of(invoke, "corpus", "--corpus", "corpus", *given)
    assert values["copied_share"]["20"] == 0


def test_novelty_notes_that_it_reads_utf_8(invoke, working_folder):
    (working_folder / "corpus").write_bytes(RUSSIAN.encode("cp1251"))
    (working_folder / "text").write_bytes(RUSSIAN.encode())
    result = invoke("novelty", "text", "--corpus", "corpus", "--encoding", "cp1251")
    assert "100.00%" in result.stdout and "note    text is in UTF-8" in result.stderr
    message = sentence_of(invoke("novelty", "text", "--corpus", "corpus"), 1)
    assert "name its encoding with --corpus-encoding (it decodes as cp1251," in message
    message = sentence_of(invoke("novelty", "corpus", "--corpus", "text"), 1)
    assert "name its encoding with --encoding (" in message and "--bytes" not in message


NAMES = [f"{a}{b}{c}" for a in "abcdefghij" for b in "aeiou" for c in "lmnr"]  # 200


@pytest.mark.parametrize("options", [[], ["--records"], ["--separator", "\n"]])
def test_copied_names_are_told_as_copied(invoke, working_folder, options):
    (working_folder / "names").write_text("\n".join(NAMES))
    values = json.loads(
        invoke(
            "novelty",
            "--json",
            "-",
            "--corpus",
            "names",
            *options,
            input="\n".join(reversed(NAMES)),
        ).stdout
    )
    assert (values["records"], values["in_corpus_share"]) == (200, 1)
    assert (values["different_share"], values["repeated_share"]) == (1, 0)
    assert ("copied_share" in values) == (not options)
    if not options:  # no run of 20 characters shows the copies
        assert values["copied_share"]["20"] == 0


def test_records_that_are_new_or_stand_twice_are_counted(invoke, working_folder):
    (working_folder / "names").write_bytes(b"anna\r\nben\r\n\r\n")
    table = invoke(
        "novelty", "--records", "-", "--corpus", "names", input="anna\nzoe\n\nanna\nfritz"
    ).stdout
    assert [row.split() for row in table.splitlines()[1:]] == [
        ["records", "4"],
        ["different", "75.00%", "(3)"],
        ["more", "than", "once", "50.00%", "(2)"],
        ["in", "the", "corpus", "50.00%", "(2)"],
    ]
    none = invoke("novelty", "--records", "--json", "-", "--corpus", "names", input="\n\n").stdout
    assert json.loads(none)["records"] == 0 and json.loads(none)["in_corpus_share"] is None
    assert "separator" in sentence_of(
        invoke("novelty", "names", "--corpus", "names", "--separator", ""), 2
    )


def test_prose_is_compared_by_runs_alone(invoke, working_folder):
    (working_folder / "prose").write_text("The tide is late, and so is he, as ever.\n" * 20)
    assert "records" not in novelty_of(invoke, "prose", "--corpus", "prose")


@pytest.mark.parametrize("as_bytes", [False, True])
def test_new_texts_that_are_records_are_compared_whole(working_folder, capsys, as_bytes):
    (working_folder / "cards").write_text("a card of más\nthan a line%%b%%c")
    known = read_known("cards", as_bytes=as_bytes)
    texts = ["a card of más\nthan a line", "b%%", "d\nb", "b"]
    say_novelty([text.encode() for text in texts], known, separator="%%")
    assert [line.split() for line in capsys.readouterr().err.splitlines()] == [
        ["records", "4"],
        ["different", "75.00%", "(3)"],
        ["more", "than", "once", "50.00%", "(2)"],
        ["in", "the", "corpus", "75.00%", "(3)"],
    ]


def test_novelty_command_reports_errors(invoke, working_folder):
    (working_folder / "corpus").write_text("abc")
    (working_folder / "empty").write_text("")
    assert "no text" in sentence_of(invoke("novelty", "-", "--corpus", "corpus", input=""), 1)
    assert "no text" in sentence_of(invoke("novelty", "corpus", "--corpus", "empty"), 1)
    assert "missing" in sentence_of(invoke("novelty", "missing", "--corpus", "corpus"), 1)
    assert "--corpus" in sentence_of(invoke("novelty", "corpus"), 2)
    assert "stdin" in sentence_of(invoke("novelty", "-", "--corpus", "-", input="abc"), 2)


def test_novelty_command_does_not_import_numba(working_folder):
    (working_folder / "text").write_text("abc")
    arguments = ["novelty", "text", "--corpus", "text"]
    assert "numba" not in modules_after(RUN.format(code=0), *arguments)
    assert "numpy" not in modules_after(RUN.format(code=0), "novelty", "--help")
