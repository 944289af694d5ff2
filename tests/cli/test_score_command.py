"""`charrnn score`: the surprisal of lines and characters, in a table, JSON and a page."""

import itertools
import json
import math
import os
import re
import tracemalloc
from pathlib import Path

import click
import numpy as np
import pytest
from helpers.commands import objects, on_terminal, options_of, sentence_of, train_model, unpainted
from helpers.html_pages import EVIL, Page
from helpers.loaded_modules import RUN, modules_after
from helpers.logits import text_logits

import charrnn
from charrnn.cli import line_scores, main
from charrnn.cli.commands.score_command import open_scorer
from charrnn.cli.render import html, scores
from charrnn.cli.render.characters import escape_character, fitting_count
from charrnn.cli.render.color import (
    DARK,
    LIGHT,
    TERMINAL,
    UNKNOWN_LEVEL,
    color_levels,
    colorize,
)
from charrnn.config import UNKNOWN_NATS
from charrnn.evaluation.loss import STEPS, StreamingScorer, surprisals
from charrnn.evaluation.unknown import count_nats

FORMAT_1 = Path(__file__).parents[1] / "golden" / "format-1-lstm.safetensors"


def nats_of(path, data):
    """The surprisal of each character or byte."""
    model = charrnn.load(path)
    return np.concatenate(list(surprisals(model.model, model.vocabulary.encode(data))))


# --- What a model finds


@pytest.mark.parametrize("sizes", [[1] * 9, [1000], [0, 1, 0, 2, STEPS, STEPS + 1, 3, 700], [0]])
def test_streaming_scorer_gives_the_surprisals_for_pieces_of_any_size(model_file, text, sizes):
    model = charrnn.load(model_file)
    ids = model.vocabulary.encode(text)[: sum(sizes)]
    reader = StreamingScorer(model.model)
    ends = np.cumsum(sizes)
    found = [reader.read(ids[end - n : end]) for n, end in zip(sizes, ends, strict=True)]
    assert [len(f) for f in found] == sizes
    found = np.concatenate(found)["nats"]
    expected = nats_of(model_file, text)[: len(ids)]
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("top", [1, 3, 24, 99])
def test_a_reader_tells_what_was_expected(model_file, text, top):
    model = charrnn.load(model_file)
    ids = model.vocabulary.encode(text)[:600]
    p = np.exp(text_logits(model.model, ids))
    p /= p.sum(axis=1, keepdims=True)
    found = StreamingScorer(model.model, top).read(ids)
    order = np.argsort(-p, axis=1)[:, :top]
    likeliest = np.take_along_axis(p, order, 1)
    assert found["probability"].shape == (len(ids), min(top, len(model.vocabulary)))
    np.testing.assert_allclose(found["probability"], likeliest, atol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(p, found["expected"], 1), likeliest, atol=1e-5)


# --- JSON


def test_json_has_the_surprisal_of_each_character(invoke, model_file, corpus_file, text):
    found = objects(invoke("score", "-m", model_file, "--json", corpus_file))
    nats = nats_of(model_file, text)
    assert [f["text"] for f in found] == text.splitlines()
    assert [f["line"] for f in found] == list(range(1, len(found) + 1))
    flat = [n for f in found for n in f["surprisals"]]
    np.testing.assert_allclose(flat, nats, atol=6e-5)
    start = 0
    for f in found:
        part = nats[start : (start := start + len(f["text"]) + 1)]
        assert f["characters"] == len(part)
        assert f["nats"] == pytest.approx(np.sum(part), rel=1e-5)
        assert f["nats_per_character"] == pytest.approx(np.mean(part), rel=1e-5)


@pytest.mark.parametrize("data", ["M\n", "\nM", "\n\n\n", "MARA", "M\nT\n\nM", "\nMARA: The\n\n"])
def test_json_has_all_lines_of_odd_texts(invoke, model_file, data):
    text = data
    found = objects(invoke("score", "-m", model_file, "--json", "-", input=text))
    lines_ = text.split("\n")
    assert [f["text"] for f in found] == (lines_ if lines_[-1] else lines_[:-1])
    assert sum(f["characters"] for f in found) == len(text)
    whole = charrnn.load(model_file).loss(text) * len(text)
    assert sum(f["nats"] for f in found) == pytest.approx(whole, rel=1e-5)


def test_a_model_of_format_1_does_not_predict_the_first_character(invoke):
    text = "\nMARA: The\n\n"
    found = objects(invoke("score", "-m", FORMAT_1, "--json", "-", input=text))
    assert (found[0]["characters"], found[0]["nats_per_character"]) == (0, None)
    table = invoke("score", "-m", FORMAT_1, "-", input=text).stdout
    assert re.search(r"^ +1 +- +$", table, re.MULTILINE)
    assert "at least two characters" in invoke("score", "-m", FORMAT_1, "-", input="M").stderr


def test_score_and_eval_count_the_same_characters(invoke, model_file):
    for path, count in (model_file, 10), (FORMAT_1, 9):
        found = objects(invoke("score", "-m", path, "--json", "-", input="MARA: The\n"))
        values = json.loads(invoke("eval", "-m", path, "--json", "-", input="MARA: The\n").stdout)
        assert sum(f["characters"] for f in found) == values["characters"] == count
        nats = sum(f["nats"] for f in found)
        assert nats == pytest.approx(values["nats_per_character"] * count, rel=1e-5)


def test_a_model_of_format_1_beside_a_newer_one_scores_the_same_characters(invoke, model_file):
    for models in [(model_file, FORMAT_1), (FORMAT_1, model_file)]:
        options = [option for model in models for option in ("-m", model)]
        [line] = objects(invoke("score", *options, "--json", "-", input="MARA: The\n"))
        assert line["characters"] == 9


@pytest.mark.parametrize("block, piece", [(1, 1), (7, 3), (40, 41), (STEPS + 1, 2)])
def test_blocks_and_pieces_do_not_change_the_scores(
    invoke, model_file, text, monkeypatch, block, piece
):
    text = text[:700]
    options = "score", "-m", model_file, "-"
    before = [invoke(*options, *more, input=text).stdout for more in ([], ["--json"])]
    monkeypatch.setattr(line_scores, "BLOCK", block)
    monkeypatch.setattr(line_scores, "PIECE", piece)
    table, found = (invoke(*options, *more, input=text) for more in ([], ["--json"]))
    assert table.stdout == before[0]
    for a, b in zip(objects(found), map(json.loads, before[1].splitlines()), strict=True):
        nats = np.array([a.pop("surprisals"), b.pop("surprisals")], float)
        np.testing.assert_allclose(*nats, atol=2e-4)
        assert (a.pop("text"), a) == (b.pop("text"), pytest.approx(b, rel=1e-4))


# --- The table


def test_table_has_the_values_of_json(invoke, model_file, corpus_file, text):
    result = invoke("score", "-m", model_file, corpus_file)
    assert result.stderr == ""
    head, *rows, last = result.stdout.splitlines()
    assert head.split() == ["line", "nats/char", "text"]
    found = objects(invoke("score", "-m", model_file, "--json", corpus_file))
    for row, f in zip(rows, found, strict=True):
        assert row == f"{f['line']:>6}  {f['nats_per_character']:>9.4f}  {f['text']}"
    nats = charrnn.load(model_file).loss(text)
    bits = f"{len(text):,} characters, {nats / math.log(2):.4f} bits per character"
    assert last == f"   all  {nats:>9.4f}  {bits}"


@pytest.mark.parametrize("more", [[], ["--json"], ["--html", "-"]])
def test_sort_surprisal_puts_the_most_surprising_lines_first(
    invoke, model_file, text, monkeypatch, more
):
    monkeypatch.setattr(scores, "BUFFER_SIZE", 100)
    options = ["score", "-m", model_file, "-", *more]
    text = text[:900] + "taT.M\n" + text[:200]
    split = re.compile("(?=<b>)|(?=</pre>)" if "--html" in more else "(?<=\n)").split
    in_order = split(invoke(*options, input=text).stdout)
    by_surprisal = split(invoke(*options, "--sort", "surprisal", input=text).stdout)
    assert sorted(in_order) == sorted(by_surprisal) and in_order != by_surprisal
    found = objects(invoke(*options[:4], "--json", "--sort", "surprisal", input=text))
    means = [f["nats_per_character"] for f in found]
    assert means == sorted(means, reverse=True)
    assert found[0]["text"].endswith("taT.M")
    if not more:
        assert [row.split()[0] for row in by_surprisal[1:-2]] == [str(f["line"]) for f in found]


def test_long_lines_are_shortened_on_a_terminal_only(invoke, model_file, working_folder):
    (working_folder / "t").write_text("MARA: " + "The tide is late. " * 20 + "\n" + "M" * 81 + "\n")
    arguments = "score", "-m", model_file, "t"
    whole = invoke(*arguments).stdout.splitlines()
    code, shown = on_terminal(*arguments)
    rows = shown.decode().splitlines()
    assert code == 0 and len(whole[1]) > 300
    assert rows[1] == whole[1][:97] + "..." and rows[2:] == whole[2:] and len(rows[2]) == 100


@pytest.mark.parametrize(
    "strings, max_width, count",
    [("abcd", 4, 4), ("abcde", 4, 1), ("東京", 4, 2), ("東京都", 4, 0), ("東京都", 5, 1)]
    + [("e\u0301" * 4, 4, 8), (["\\x1b"] * 2, 8, 2), (["\\x1b"] * 2, 7, 1), ("", 4, 0)]
    + [("abcde", None, 5)],
)
def test_fitting_count_leaves_columns_for_an_ellipsis(strings, max_width, count):
    assert fitting_count(list(strings), max_width) == count


# --- Colour


def test_color_needs_a_terminal_or_force_color_and_no_no_color(
    invoke, model_file, corpus_file, monkeypatch
):
    arguments = "score", "-m", model_file, corpus_file
    plain = invoke(*arguments).stdout
    forced = invoke(*arguments, "--color", env={"FORCE_COLOR": "1"}).stdout
    assert invoke(*arguments, "--color").stdout == plain
    assert invoke(*arguments, env={"FORCE_COLOR": "1"}).stdout == plain
    assert "\x1b[38;5;16;48;5;" in forced and unpainted(forced) == plain
    both = {"FORCE_COLOR": "1", "NO_COLOR": "1"}
    assert invoke(*arguments, "--color", env=both).stdout == plain
    assert on_terminal(*arguments, "--color")[1].decode().replace("\r\n", "\n") == forced
    monkeypatch.setenv("NO_COLOR", "1")
    assert on_terminal(*arguments, "--color")[1].decode().replace("\r\n", "\n") == plain


def test_color_levels_are_whole_nats():
    nats = np.array([math.nan, 0, 0.99, 1, 1.5, 4.99, 5, 700, math.inf])
    assert color_levels(nats) == [0, 0, 0, 1, 1, 4, 5, 5, 5]
    shown = colorize(list("abcde"), [0, 1, 1, 5, 0])
    assert shown == "a\x1b[38;5;16;48;5;230mbc\x1b[0m\x1b[38;5;16;48;5;203md\x1b[0me"
    assert len(TERMINAL) == len(LIGHT) == len(DARK) == 11


MARKED = ["e\u0301", "a\u0323\u0302", "\u0915\u093e", "\u1112\u1161\u11ab", "\U0001f44d\U0001f3fd"]


@pytest.mark.parametrize("grapheme", MARKED)
@pytest.mark.parametrize("levels", [(0, 3), (3, 0), (1, 3)])
def test_a_letter_and_its_marks_have_one_color(grapheme, levels):
    levels = [levels[0], *[levels[1]] * (len(grapheme) - 1)]
    shown = colorize(["x", *grapheme, "y"], [2, *levels, 0])
    expected = f"\x1b[38;5;16;48;5;222mx\x1b[0m\x1b[38;5;16;48;5;215m{grapheme}\x1b[0my"
    assert shown == expected
    titles = [f"title {i}" for i in range(len(grapheme))]
    page = Page("<pre>" + html.line("1", grapheme + "\n", [*levels, 0], [*titles, "newline"]))
    assert page.characters[0] == [{"class": "s3", "data-t": "\n".join(titles)}, grapheme]
    assert page.characters[1][0]["data-t"] == "newline"


def test_an_unknown_mark_marks_its_letter(invoke, model_file):
    shown = invoke(
        "score", "-m", model_file, "--color", "--unknown", "skip", "-",
        input="MARA: The\u0301 tide", env={"FORCE_COLOR": "1"},
    ).stdout  # fmt: skip
    assert f";{TERMINAL[UNKNOWN_LEVEL]}me\u0301\x1b[0m" in shown
    assert colorize("\u0301a", [5, 0]) == "\x1b[38;5;16;48;5;203m\u0301\x1b[0ma"


def test_each_character_has_the_color_of_its_surprisal(invoke, model_file, text):
    env = {"FORCE_COLOR": "1"}
    shown = invoke("score", "-m", model_file, "--color", "-", input=text, env=env).stdout
    found = objects(invoke("score", "-m", model_file, "--json", "-", input=text))
    for row, f in zip(shown.splitlines()[1:-1], found, strict=True):
        expected = colorize(list(f["text"]), color_levels(np.array(f["surprisals"], float)))
        assert row[17:].strip() == expected


# --- The page


def test_page_shows_the_surprisal_and_the_expected_characters(
    invoke, model_file, corpus_file, text, working_folder
):
    result = invoke("score", "-m", model_file, "--html", "page.html", corpus_file)
    assert (result.exit_code, result.output) == (0, "")
    content = (working_folder / "page.html").read_text("utf-8")
    assert invoke("score", "-m", model_file, "--html", "-", corpus_file).stdout == content
    page = Page(content)
    assert "".join(shown for _, shown in page.characters) == text
    nats = nats_of(model_file, text)
    model = charrnn.load(model_file)
    logits = text_logits(model.model, model.vocabulary.encode(text))
    for (attributes, _), n, z in zip(page.characters, nats, logits, strict=True):
        assert attributes["data-t"].startswith(f"{n:.2f} nats ({math.exp(-n):.1%}); expected: ")
        likeliest = re.findall(r"“(.*?)” ([\d.]+)%", attributes["data-t"])
        p = np.exp(z) / np.exp(z).sum()
        expected = [escape_character(model.vocabulary.characters[i]) for i in np.argsort(-p)]
        assert [name for name, _ in likeliest] == expected[:3]
        assert [float(q) for _, q in likeliest] == pytest.approx(np.sort(100 * p)[:-4:-1], abs=0.06)
        level = min(int(n), 5)
        assert (f"s{level}" in attributes.get("class", "")) == (level > 0)
    assert f"{charrnn.load(model_file).loss(text):.4f} nats" in content
    assert "http:" not in content and "https:" not in content and "url(" not in content


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-16", "cp1251"])
@pytest.mark.parametrize("command", ["score", "inspect"])
def test_pages_on_stdout_are_utf8_whatever_the_terminal_has(
    spawn, bytes_model_file, working_folder, encoding, command
):
    (working_folder / "text").write_text("Grüße aus 東京, ☠\n", "utf-8")
    options = [command, "-m", bytes_model_file, "text", *["--unit", "1.1"] * (command == "inspect")]
    process = spawn(*options, "--html", "-", env={"PYTHONIOENCODING": encoding})
    shown = process.communicate()[0].decode("utf-8")
    assert process.returncode == 0 and '<meta charset="utf-8">' in shown
    for character in "üß東☠":
        assert character in "".join(c for _, c in Page(shown).characters)


def test_page_escapes_the_text(invoke, evil_model_file, working_folder):
    name = "<img src=x>.txt"
    (working_folder / name).write_bytes((EVIL * 3).encode())
    content = invoke("score", "-m", evil_model_file, "--html", "-", name).stdout_bytes.decode()
    page = Page(content)
    assert page.tags == {"html", "meta", "title", "style", "h1", "p", "i", "pre", "b"}
    assert all(a.keys() <= {"class", "data-t"} for a, _ in page.characters)
    shown = "".join(escape_character(c) if c != "\n" else c for c in EVIL)
    assert "".join(c for _, c in page.characters) == 3 * shown
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", content)


def test_page_escapes_the_expected_characters():
    title = "expected: \u201c\"><b>'&\u201d 0.0%"
    page = html.line("<b>1", "a", [2], [title])
    ((attributes, shown),) = Page(f"<pre>{page}</pre>").characters
    assert (shown, attributes.keys()) == ("a", {"class", "data-t"})
    assert attributes["data-t"].endswith("“\"><b>'&” 0.0%")


def test_page_never_replaces_its_text_or_model(invoke, model_file, working_folder, text):
    (working_folder / "text").write_text(text)
    before = model_file.read_bytes()
    for page in "text", model_file:
        message = sentence_of(invoke("score", "-m", model_file, "--html", page, "text"), 2)
        assert "--html" in message
    assert (working_folder / "text").read_text() == text and model_file.read_bytes() == before
    sentence_of(invoke("score", "-m", model_file, "--html", "no/page", "text"), 1)
    sentence_of(invoke("score", "-m", model_file, "--html", "page", "missing"), 1)
    assert not (working_folder / "page").exists()


# --- Odd characters and bytes


@pytest.mark.parametrize("more", [[], ["--color"], ["--json"], ["--sort", "surprisal"]])
def test_output_escapes_control_characters(invoke, evil_model_file, more):
    options = ["score", "-m", evil_model_file, "-", *more]
    shown = unpainted(invoke(*options, input=EVIL * 3, env={"FORCE_COLOR": "1"}).stdout)
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", shown)
    if "--json" in more:
        assert json.loads(shown.splitlines()[0])["text"] + "\n" == EVIL
    else:
        assert r"\x1b[31m\x9b1m\u202e\r\x00\x07\t</pre>" in shown


def test_a_model_of_bytes_scores_whole_characters(invoke, bytes_model_file):
    data = "Grüße aus 東京\n".encode() + b"a\xffb\xe6\x9d\n\xe6\n" + "京".encode()
    options = ["score", "-m", bytes_model_file, "-"]
    found = objects(invoke(*options, "--json", input=data))
    texts = [f["text"].encode("utf-8", "surrogateescape") for f in found]
    assert texts == data.split(b"\n")
    assert sum(f["characters"] for f in found) == len(data)
    nats = nats_of(bytes_model_file, data)
    flat = [n for f in found for n in f["surprisals"]]
    decoded = data.decode("utf-8", "surrogateescape")
    ends = np.cumsum([len(c.encode("utf-8", "surrogateescape")) for c in decoded])
    sums = [nats[a:b].sum() for a, b in itertools.pairwise([0, *ends])]
    np.testing.assert_allclose(flat, sums, atol=1e-3)
    for more in [], ["--color"]:
        shown = unpainted(invoke(*options, *more, input=data, env={"FORCE_COLOR": "1"}).stdout)
        rows = [row[17:].strip() for row in shown.splitlines()[1:-1]]
        assert rows == ["Grüße aus 東京", r"a\xffb\xe6\x9d", r"\xe6", "京"]
    page = Page(invoke(*options, "--html", "-", input=data).stdout)
    assert "".join(c for _, c in page.characters) == "Grüße aus 東京\na\\xffb\\xe6\\x9d\n\\xe6\n京"
    assert any(r"“\xe6”" in a["data-t"] for a, _ in page.characters)


def test_unknown_characters_are_an_error_or_skipped(invoke, model_file, text):
    text = text[:300]
    odd = "ü" + text[:50] + "\x1bü" + text[50:] + "ü"
    options = ["score", "-m", model_file, "-", "--json"]
    message = sentence_of(invoke(*options, input=odd), 1)
    assert "'ü'" in message and r"'\x1b'" in message and "--unknown skip" in message
    skipped = invoke(*options, "--unknown", "skip", input=odd)
    assert "'ü'" in skipped.stderr
    found, expected = objects(skipped), objects(invoke(*options, input=text))
    assert "\n".join(f["text"] for f in found).strip("\n") == odd.strip("\n")
    given = zip(odd, [n for f in found for n in f["surprisals"]], strict=False)
    given = list(given)
    assert [n for c, n in given if c not in "ü\x1b"] == [
        n for f in expected for n in f["surprisals"]
    ]
    assert [n for c, n in given if c in "ü\x1b"] == [UNKNOWN_NATS] * 4
    assert sum(f["unknown"] for f in found) == 4 and found[0]["unknown"] > 0
    expected_nats = sum(f["nats"] for f in expected) + 4 * UNKNOWN_NATS
    assert sum(f["nats"] for f in found) == pytest.approx(expected_nats)
    characters = sum(f["characters"] for f in expected) + 4
    assert sum(f["characters"] for f in found) == characters
    table = invoke(*options[:-1], "--unknown", "skip", input=odd).stdout.splitlines()
    assert table[0].split() == ["line", "nats/char", "unknown", "text"]
    assert [int(row.split()[2]) for row in table[1:]] == [*(f["unknown"] for f in found), 4]
    assert float(table[-1].split()[1]) == pytest.approx(expected_nats / characters, abs=1e-4)
    assert f"unknown ones cost {UNKNOWN_NATS:g} nats each" in table[-1]


def test_a_model_without_newline_scores_lines(invoke, working_folder):
    model = train_model(working_folder, "model", "to be or not to be " * 30)
    found = objects(
        invoke("score", "-m", model, "--json", "--unknown", "skip", "-", input="to be\nor not\n")
    )
    assert [f["text"] for f in found] == ["to be", "or not"]
    assert found[0]["surprisals"][-1] == UNKNOWN_NATS
    assert (found[0]["characters"], found[0]["unknown"]) == (6, 1)


@pytest.mark.parametrize("odd", ["MАRA", "☠MARA", "☠", "☠☠☠☠", "\u0301", "MARA☠"])
@pytest.mark.parametrize("place", ["first", "middle", "last"])
def test_a_line_with_an_unknown_character_is_the_most_surprising(invoke, model_file, odd, place):
    """`MАRA` has a Cyrillic А; an unreadable line at the start or end had no surprisal at all."""
    lines_ = ["MARA: The tide is late.", "taT.M", "MARA:"]
    lines_.insert({"first": 0, "middle": 2, "last": 3}[place], odd)
    text = "\n".join(lines_) + "\n" * (place != "last")
    options = ["score", "-m", model_file, "-", "--unknown", "skip", "--sort", "surprisal"]
    assert invoke(*options, input=text).stdout.splitlines()[1].split()[2:] == [
        str(sum(c not in "MAR" for c in odd)),
        odd if odd[0] != "\u0301" else "\u0301",
    ]
    found = objects(invoke(*options, "--json", input=text))
    assert found[0]["text"] == odd and found[0]["unknown"] > 0
    assert [f["unknown"] for f in found[1:]] == [0, 0, 0]


def test_a_counted_character_costs_its_share_and_sorts_by_the_sum(invoke, model_file):
    nats = count_nats(charrnn.load(model_file).training)
    assert 0 < nats < UNKNOWN_NATS
    text = "MARA: The tide is late, and so is hé.\ntaT.MMMMMMMTaaa::\nMARA: The tide.\n"
    options = ["score", "-m", model_file, "-", "--unknown", "count"]
    found = objects(invoke(*options, "--json", input=text))
    skipped = objects(invoke(*options[:-1], "skip", "--json", input=text))
    assert [f["unknown"] for f in found] == [1, 0, 0]
    assert found[0]["surprisals"][text.index("é")] == pytest.approx(nats, abs=1e-4)
    assert found[0]["nats"] == pytest.approx(skipped[0]["nats"] - UNKNOWN_NATS + nats)
    assert found[1:] == skipped[1:]
    ranked = [*options, "--sort", "surprisal", "--json"]
    expected = sorted(found, key=lambda f: -f["nats_per_character"])
    assert objects(invoke(*ranked, input=text)) == expected
    assert expected[0] == found[1]  # the strangest line, whose characters are all known
    shown = invoke(*options, input=text)
    assert f"each costs {nats:.4g} nats" in shown.stderr
    assert f"unknown ones cost {nats:.4g} nats each" in shown.stdout


def test_models_share_the_cost_of_a_counted_character(invoke, model_file, alphabets):
    paths = [model_file, alphabets["digits"]]
    nats = max(count_nats(charrnn.load(path).training) for path in paths)
    options = ["score", "-m", paths[0], "-m", paths[1], "--json", "-", "--unknown"]
    [counted] = objects(invoke(*options, "count", input="éMARA"))
    [skipped] = objects(invoke(*options, "skip", input="éMARA"))
    assert [m["unknown"] for m in counted["models"]] == [1, 5]
    for here, there in zip(counted["models"], skipped["models"], strict=True):
        charged = here["unknown"] * (nats - UNKNOWN_NATS)
        assert here["nats"] == pytest.approx(there["nats"] + charged, abs=1e-3)


def test_an_unknown_symbol_scores_every_character(invoke, working_folder, text):
    """A line with a rare character is scored as any other with a rare one."""
    model = train_model(working_folder, "rare", text + "é\n日\n", min_count=2)
    options = ["score", "-m", model, "--json", "-"]
    results = [invoke(*options, input=f"MARA: Th{c} tide\n") for c in "é🙂"]
    assert [r.stderr for r in results] == ["", ""]
    first, second = ([f | {"text": ""} for f in objects(r)] for r in results)
    assert first == second and first[0]["unknown"] == 0
    names = invoke(*options[:-2], "--html", "-", "-", input="é日é日\n").stdout
    assert "\udfff" not in names
    table = invoke("eval", "-m", model, "-", input="MARA: Thé\n").stdout
    assert re.search(r"unknown characters +1, read as the unknown symbol", table)
    assert "a symbol for all others" in invoke("info", model).stdout
    assert json.loads(invoke("info", "--json", model).stdout)["vocabulary"].endswith("\udfff")


def test_colors_and_pages_mark_unknown_characters(invoke, model_file):
    options = ["score", "-m", model_file, "-", "--unknown", "skip"]
    text = "MARA: Thе tide\n"  # with a Cyrillic е
    shown = invoke(*options, "--color", input=text, env={"FORCE_COLOR": "1"}).stdout
    assert f"\x1b[38;5;16;48;5;{TERMINAL[UNKNOWN_LEVEL]}mе\x1b[0m" in shown
    content = invoke(*options, "--html", "-", input=text).stdout
    page = Page(content)
    marked = [a for a, c in page.characters if c == "е"]
    assert marked == [{"class": "c5", "data-t": "unknown to the model, counted as 50 nats"}]
    assert not any("c5" in a.get("class", "") for a, c in page.characters if c != "е")
    assert "1 of them unknown" in content and '<i class="c5">unknown to the model' in content
    assert "unknown" not in invoke(*options, "--html", "-", input="MARA: The\n").stdout


def test_warning_and_help_state_the_cost_of_an_unknown_character(invoke, model_file):
    shown = invoke("score", "-m", model_file, "-", "--unknown", "skip", input="MАRA").stderr
    assert "'А' (U+0410)" in shown and f"{UNKNOWN_NATS:g} nats" in shown
    help_words = " ".join(invoke("score", "--help").stdout.split())
    assert help_words.count(f"{UNKNOWN_NATS:g} nats") == 2


# --- Several models


def test_several_models_are_compared_line_by_line(
    invoke, model_file, other_model_file, text, working_folder
):
    text = text[:200] + "\n" + text[100:250][::-1] + "\n"
    options = ["score", "-m", model_file, "-m", other_model_file, "-"]
    found = objects(invoke(*options, "--json", input=text))
    alone = [
        objects(invoke("score", "-m", m, "--json", "-", input=text))
        for m in (model_file, other_model_file)
    ]
    likeliest = []
    for f, a, b in zip(found, *alone, strict=True):
        assert [m["model"] for m in f["models"]] == ["model", "other"]
        assert [m["nats"] for m in f["models"]] == pytest.approx([a["nats"], b["nats"]])
        likeliest.append("model" if a["nats"] < b["nats"] else "other")
        assert f["likeliest"] == likeliest[-1] and f["characters"] == a["characters"]
    assert set(likeliest) == {"model", "other"}
    head, *rows, last = invoke(*options, input=text).stdout.splitlines()
    assert head.split() == ["line", "model", "other", "likeliest", "posterior", "text"]
    assert [row.split()[3] for row in rows] == likeliest
    counts = f"model {likeliest.count('model')}, other {likeliest.count('other')}"
    assert last.endswith(f"{len(text)} characters; likeliest model by line: {counts}")
    totals = [sum(f["nats"] for f in a) / len(text) for a in alone]
    assert [float(n) for n in last.split()[1:3]] == pytest.approx(totals, abs=1e-4)
    by_surprisal = objects(invoke(*options, "--json", "--sort", "surprisal", input=text))
    best = [min(m["nats_per_character"] for m in f["models"]) for f in by_surprisal]
    assert best == sorted(best, reverse=True)


def test_equal_models_have_no_likeliest_and_are_named_by_path(invoke, model_file, text):
    found = objects(
        invoke("score", "-m", model_file, "-m", model_file, "--json", "-", input=text[:99])
    )
    assert {f["likeliest"] for f in found} == {None}
    assert {m["model"] for f in found for m in f["models"]} == {str(model_file)}


def test_each_model_reads_its_characters_and_is_charged_for_others(
    invoke, model_file, evil_model_file, text
):
    options = ["score", "-m", model_file, "-m", evil_model_file, "-", "--json"]
    assert "'M'" in sentence_of(invoke(*options, input="late\nMrs b\n"), 1)
    scored = "alatest <b>\nMrs\n"
    found = objects(invoke(*options, "--unknown", "skip", input=scored))
    assert sum(f["characters"] for f in found) == len(scored)
    for i, (path, trained_on) in enumerate([(model_file, text), (evil_model_file, EVIL)]):
        known = "".join(c for c in scored if c in trained_on)
        unknown = len(scored) - len(known)
        assert sum(f["models"][i]["unknown"] for f in found) == unknown > 0
        whole = charrnn.load(path).loss(known) * len(known) + UNKNOWN_NATS * unknown
        assert sum(f["models"][i]["nats"] for f in found) == pytest.approx(whole, rel=1e-5)


@pytest.fixture(scope="module")
def alphabets(tmp_path_factory):
    """Models of words, of digits and of Japanese, by name."""
    folder = tmp_path_factory.mktemp("alphabets")
    texts = {"words": "the tide is late.\n", "digits": "20.24.7\n", "kana": "うみは3おそい。\n"}
    return {n: train_model(folder, f"{n}.safetensors", t * 40) for n, t in texts.items()}


@pytest.mark.parametrize("order", [*itertools.permutations(["words", "digits", "kana"])])
def test_the_model_that_reads_a_line_wins_whatever_others_are_compared(invoke, alphabets, order):
    lines_ = {"the late tide!": "words", "2024.72": "digits", "うみはaおそい": "kana", "☠☠": None}
    text = "".join(line + "\n" for line in lines_)
    for names in order, order[:2]:
        models = [word for name in names for word in ("-m", alphabets[name])]
        options = ["score", *models, "--unknown", "skip", "-"]
        found = objects(invoke(*options, "--json", input=text))
        for f in found:
            expected = lines_[f["text"]]
            assert f["likeliest"] == expected or expected not in names, f
        best = objects(invoke(*options, "--json", "--sort", "surprisal", input=text))
        unread = [min(m["unknown"] for m in f["models"]) for f in best]
        assert best[0]["text"] == "☠☠" or unread[0] > 1
        table = invoke(*options, input=text).stdout.splitlines()
        counts = ["/".join(str(m["unknown"]) for m in f["models"]) for f in found]
        assert [row.split()[1 + len(names)] for row in table[1:-1]] == counts


def test_a_large_alphabet_does_not_decide_about_a_line_that_no_model_reads(invoke, alphabets):
    options = ["score", "-m", alphabets["digits"], "-m", alphabets["kana"], "--unknown", "skip"]
    found = objects(invoke(*options, "--json", "-", input="3\n☠☠"))
    assert (found[1]["likeliest"], found[1]["characters"]) == (None, 2)
    assert [m["nats"] for m in found[1]["models"]] == [2 * UNKNOWN_NATS] * 2


# --- Usage, pipes, size


def test_score_rejects_wrong_usage(invoke, model_file, bytes_model_file, corpus_file):
    one, two = ["score", "-m", model_file, corpus_file], ["-m", model_file]
    assert "-m" in sentence_of(invoke(*one, *two, "--color"), 2)
    assert "-m" in sentence_of(invoke(*one, *two, "--html", "page"), 2)
    assert "--json" in sentence_of(invoke(*one, "--json", "--html", "page"), 2)
    assert "bytes" in sentence_of(invoke(*one, "-m", bytes_model_file), 2)
    assert "--sort" in sentence_of(invoke(*one, "--sort", "odd"), 2)
    assert "TEXT" in sentence_of(invoke("score", "-m", model_file), 2)


def test_score_rejects_unusable_texts(invoke, model_file):
    options = ["score", "-m", model_file, "-"]
    assert "no text" in sentence_of(invoke(*options, input=""), 1)
    assert "--encoding" in sentence_of(invoke(*options, input=b"\xff\xfe\xfd"), 1)
    assert "no character" in sentence_of(invoke(*options, "--unknown", "skip", input="üüü"), 1)
    assert "charrnn train" in sentence_of(invoke("score", "-", input="MARA"), 1)


def test_score_options_have_help_and_errors_do_not_import_numba(invoke):
    shown = invoke("score", "-h").stdout
    for option in options_of("score"):
        assert option.help and option.opts[-1] in shown
    assert "model.safetensors" in shown
    assert not {"numba", "numpy"} & modules_after(RUN.format(code=0), "score", "--help")
    assert "numba" not in modules_after(RUN.format(code=1), "score", "-m", "missing", "missing")


def test_several_models_can_be_set_in_the_environment(invoke, model_file, other_model_file):
    env = {"CHARRNN_SCORE_MODEL": os.pathsep.join(map(str, (model_file, other_model_file)))}
    assert "likeliest" in invoke("score", "-", input="MARA", env=env).stdout


def test_a_closed_pipe_is_no_error(spawn, model_file, corpus_file):
    for more in [], ["--json", "--sort", "surprisal"]:
        read, write = os.pipe()
        os.close(read)
        process = spawn("score", "-m", model_file, *more, corpus_file, stdout=write)
        os.close(write)
        assert (process.communicate()[1], process.returncode) == (b"", 0)


class Idle(StreamingScorer):
    """A reader that finds nothing, quickly."""

    def read(self, ids):
        return self.unscored(len(ids))


@pytest.mark.parametrize("line", ["MARA: The tide is late.\n", "MARA: The tide is late. "])
def test_memory_does_not_grow_with_the_text(model_file, working_folder, monkeypatch, line):
    monkeypatch.setattr("charrnn.evaluation.loss.StreamingScorer", Idle)
    monkeypatch.setattr("charrnn.text.spool.SMALL_BYTES", 1000)
    monkeypatch.setattr(line_scores, "PIECE", 500)
    monkeypatch.setattr(line_scores, "BLOCK", 1000)
    peaks = []
    for count in 500, 2_000:
        (working_folder / "text").write_text(line * count)
        scorer = open_scorer(["text"], [model_file], "utf-8", "error")
        with open(os.devnull, "w") as out:
            tracemalloc.start()
            renderer = scores.TableRenderer(scorer, out, color=False)
            scores.write_scores(renderer, scorer, "position", out)
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0] + 1e4


@pytest.mark.parametrize("command", ["score", "novelty"])
def test_every_option_can_be_set_in_the_environment(command):
    context = click.Context(main, info_name="charrnn", **main.context_settings)
    context = click.Context(main.commands[command], parent=context, info_name=command)
    for option in options_of(command):
        name = option.opts[-1].removeprefix("--").upper().replace("-", "_")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(f"CHARRNN_{command.upper()}_{name}", "7")
            assert option.resolve_envvar_value(context) == "7", name
        assert option.help
