"""Filled gaps, compared with the posterior of all possible fills."""

import json
from collections import Counter
from functools import partial
from itertools import product

import numpy as np
import pytest
from helpers import naive
from helpers.random_models import model_of, ngram_tuples

import charrnn
from charrnn.errors import CharRNNError, UsageError
from charrnn.generation import bidirectional, filling, text_filler
from charrnn.network.cells import CELLS
from charrnn.text.gaps import Gap, parse_marks
from charrnn.text.vocabulary import CharVocabulary

LETTERS = "\nabcd"


@pytest.fixture
def all_fills(monkeypatch):
    """Let no fill be dropped because others are likelier."""
    monkeypatch.setattr(filling, "MARGIN", np.inf)


def random_model(cell="lstm", **more):
    """A language model of LETTERS whose predictions depend on what came before, and its twin."""
    model, params = model_of(
        cell, **({"V": len(LETTERS), "H": 6, "scale": 1.2, "ngrams": 3} | more)
    )
    return charrnn.LanguageModel(model, CharVocabulary(LETTERS), {}), params


def log_probability(model, params, text):
    """Of `text` after the start of a line, by the reference implementation."""
    ids = np.array([LETTERS.index(c) for c in "\n" + text])
    config = model.config
    hidden = np.zeros((config.num_layers, naive.STATES[config.cell], 1, config.hidden_size))
    logits, _ = naive.forward(params, config, ids[:-1, None], hidden, ngram_tuples(model.model))
    logits = logits[:, 0] - logits[:, 0].max(1, keepdims=True)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    return log_p[np.arange(len(ids) - 1), ids[1:]].sum()


def posterior(twin, pieces, letters=LETTERS):
    """The log-probability of each text that fills the gaps, by the fills of all gaps."""
    gaps = [p for p in pieces if isinstance(p, Gap)]
    strings = [
        ["".join(c) for n in range(gap.least, gap.most + 1) for c in product(letters, repeat=n)]
        for gap in gaps
    ]
    found = {}
    for fills in product(*strings):
        parts = iter(fills)
        text = "".join(next(parts) if isinstance(p, Gap) else p for p in pieces)
        found[fills] = log_probability(*twin, text)
    return found


TEMPLATES = [
    ["ab", Gap(2, 2), "dca"],
    [Gap(1, 3), "bd\nca"],
    ["cad", Gap(3, 3)],
    ["a", Gap(1, 2), "c", Gap(1, 1), "bb"],
]


@pytest.mark.usefixtures("all_fills")
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("pieces", TEMPLATES, ids=str)
def test_a_wide_beam_finds_all_fills_by_their_posterior(cell, pieces):
    twin = random_model(cell)
    expected = posterior(twin, pieces)
    order = sorted(expected, key=expected.get, reverse=True)
    before = log_probability(*twin, pieces[0]) if isinstance(pieces[0], str) else 0.0
    total = np.logaddexp.reduce(list(expected.values()))
    texts = list(twin[0].fills(pieces, len(order), beam=1000))
    assert len(texts) == len(order)
    for text, fills in list(zip(texts, order, strict=True))[:20]:
        parts = iter(fills)
        pieces_filled = [next(parts) if isinstance(p, Gap) else p for p in pieces]
        [group] = [part for part in text if not isinstance(part, str)]
        shown = [part if isinstance(part, str) else part.text for part in text]
        assert "".join(shown) == "".join(pieces_filled)
        whole = "".join(pieces_filled)
        end = len(whole) - (len(pieces[-1]) if isinstance(pieces[-1], str) else 0)
        own = log_probability(*twin, whole[:end]) - before
        assert group.log_probability == pytest.approx(own, rel=1e-4, abs=1e-4)
        assert group.posterior == pytest.approx(np.exp(expected[fills] - total), rel=1e-3)


def test_a_narrow_beam_ranks_its_fills_by_both_sides():
    """Of the two likeliest after the left side, the first is the likelier with the right side."""
    model, params = twin = random_model(seed=4)
    for after in "abcd", "dcba", "\nab":
        all_fills = posterior(twin, ["ab", Gap(1, 1), after])
        left = {c: log_probability(model, params, "ab" + c) for c in LETTERS}
        two = sorted(left, key=left.get, reverse=True)[:2]
        best = max(two, key=lambda c: all_fills[(c,)])
        assert model.fill("ab", after, 1, beam=2)[0].text == best


@pytest.mark.parametrize("temperature", [pytest.param(1.0, marks=pytest.mark.slow), 0.5])
@pytest.mark.parametrize("pieces", [TEMPLATES[0], ["b", Gap(1, 2), "ac"]], ids=str)
def test_draws_follow_the_posterior(pieces, temperature):
    """With a beam of two, most draws must come from elsewhere."""
    twin = random_model(seed=3)
    expected = posterior(twin, pieces)
    scaled = np.array(list(expected.values())) / temperature
    p = dict(zip(expected, np.exp(scaled - np.logaddexp.reduce(scaled)), strict=True))
    count = 400
    texts = twin[0].fills(pieces, count, sample=True, seed=1, beam=2, temperature=temperature)
    drawn = Counter(part.text for text in texts for part in text if not isinstance(part, str))
    observed = np.array([drawn[fills[0]] for fills in p])
    wanted = count * np.array(list(p.values()))
    pooled = wanted < 5
    observed = np.append(observed[~pooled], observed[pooled].sum())
    wanted = np.append(wanted[~pooled], wanted[pooled].sum())
    chi_square = ((observed - wanted) ** 2 / wanted).sum()
    degrees = len(wanted) - 1
    assert chi_square < degrees + 4 * np.sqrt(2 * degrees), (observed, wanted)


def test_the_same_seed_draws_the_same(model_file):
    model = charrnn.load(model_file)
    draw = partial(model.fill, "MARA: The t", "e is", 2, sample=True, count=20)
    assert draw(seed=1) == draw(seed=1) != draw(seed=2)
    assert [f.text for f in draw(seed=1)][:2] == [f.text for f in draw(seed=1, count=2)]


def test_near_gaps_are_filled_together_and_far_ones_in_order(monkeypatch):
    model, _ = random_model()
    pieces = ["ab", Gap(1, 1), "cd", Gap(1, 1), "abcdabcd", Gap(1, 1), "a"]
    [together] = model.fills(pieces)
    assert [type(part) is str for part in together] == [True, False, True]
    assert together[1].text[1:3] == "cd" and len(together[1].text) == 13
    monkeypatch.setattr(text_filler, "CONTEXT", 3)
    [apart] = model.fills(pieces)
    assert [p if isinstance(p, str) else len(p.text) for p in apart] == [
        "ab",
        4,
        "abcdabcd",
        1,
        "a",
    ]
    first = "ab" + apart[1].text + "abcdabcd"
    assert apart[3] == model.fill(first, "a", 1)[0]


def test_only_allowed_characters_fill(model_file):
    model = charrnn.load(model_file)
    for fill in model.fill("MARA: ", "e", 3, count=40, allow="aei", beam=40):
        assert set(fill.text) <= set("aei")
    for fill in model.fill("MARA: ", "e", 2, count=20, forbid="T ", sample=True, seed=1):
        assert not set(fill.text) & set("T ")
    with pytest.raises(UsageError, match="leave no character"):
        model.fill("MARA", "", 1, allow="")


def test_a_gap_at_the_end_ends_with_the_line(model_file):
    model = charrnn.load(model_file)
    [fill] = model.fill("MARA: The tide", "")
    longer = model.fill("MARA: The tide", "\n")
    assert fill.text == longer[0].text
    assert len(model.fill("MARA", "", 7)[0].text) == 7


def test_the_longest_gap_takes_little_memory(monkeypatch):
    """Of each length some fills are considered, however many lengths there are."""
    model, _ = random_model(L=1, ngrams=1)
    rows, joined = [], filling.Beam.joined

    def counted(beams):
        rows.append(sum(len(beam.fills) for beam in beams))
        return joined(beams)

    monkeypatch.setattr(filling.Beam, "joined", staticmethod(counted))
    monkeypatch.setattr(filling, "MAX_FILLS", 90)
    for backward in None, backward_model(L=1):
        [fill] = model.fill("ab", "dca", max_length=30, beam=16, backward=backward)
        assert 1 <= len(fill.text) <= 30
    assert max(rows) == 90


def test_a_gap_of_a_record_ends_before_the_record(records_model):
    model = charrnn.load(records_model)
    fills = model.fill("a", "b", count=30, max_length=3)
    assert fills and not any("\n" in fill.text for fill in fills)
    # Nothing depends on other records.
    assert model.fill("xyz\na"[4:], "b\nab\n", count=5, max_length=3) == [
        *model.fill("ab\na", "b\nba\nab", count=5, max_length=3)
    ]


def test_bytes_are_filled_with_whole_characters(bytes_model_file):
    model = charrnn.load(bytes_model_file)
    for length in 1, 2, 3:
        [best, *_] = model.fill("Gr", "e", length, beam=300)
        assert len(best.text.encode("utf-8", "surrogateescape")) == length
        best.text.encode()
    half = model.fill("Gr", "e", 1, allow="\udcc3")[0]  # there is no whole character
    assert half.text == "\udcc3"
    for fill in model.fill("Gr", "e", 2, sample=True, count=20, seed=1):
        fill.text.encode()


@pytest.mark.parametrize("how", [{}, {"sample": True, "seed": 1}, {"max_length": 4}], ids=str)
def test_a_narrow_beam_fills_bytes_with_whole_characters(bytes_model_file, how):
    model = charrnn.load(bytes_model_file)
    other = model_of("gru", V=256, H=5, scale=0.5, seed=9, backward=True)[0]
    backward = charrnn.LanguageModel(other, model.vocabulary, {})
    for length in (None,) if "max_length" in how else range(1, 6):
        for beam, second in product((1, 2, 9), (None, backward)):
            fills = model.fill("aus ", "京", length, beam=beam, backward=second, count=3, **how)
            assert fills
            for fill in fills:
                fill.text.encode()


def test_the_rest_of_a_character_that_a_gap_cuts_may_fill_it(bytes_model_file):
    """The gap is a byte of 東: no whole character makes the text valid."""
    model = charrnn.load(bytes_model_file)
    data = "東".encode()
    for k in range(3):
        before, after = (b.decode("utf-8", "surrogateescape") for b in (data[:k], data[k + 1 :]))
        found = model.fill("aus " + before, after + "京", 1, count=256, beam=256)
        posterior = {fill.text: fill.posterior for fill in found}
        assert posterior[data[k : k + 1].decode("utf-8", "surrogateescape")] > 0


@pytest.mark.parametrize(
    "how",
    [
        {"count": 0}, {"beam": 0}, {"beam": 10_001}, {"temperature": 0}, {"seed": -1},
        {"length": 0}, {"length": 1_001}, {"max_length": 0},
    ],
)  # fmt: skip
def test_impossible_values_are_refused(model_file, how):
    with pytest.raises(UsageError):
        charrnn.load(model_file).fill("MARA", "e", **how)


# --- the command


@pytest.fixture
def fill(invoke, model_file):
    def run(text, *arguments, model=model_file):
        return invoke("fill", "-", "-m", model, *arguments, input=text)

    return run


def test_everything_but_the_gaps_is_written_as_it_was(fill, model_file):
    text = "\ufeffMARA: The [?4] is\r\n \r\n[?3] here\\[?] \u20ac" * 2
    result = fill(text.encode(), "--unknown", "skip")
    before, between, after = "\ufeffMARA: The ", " is\r\n \r\n", " here[?] \u20ac"
    shown = result.stdout_bytes.decode()
    assert len(shown) == len(2 * (before + "xxxx" + between + "xxx" + after))
    assert shown.startswith(before) and shown.endswith(after)
    assert shown[len(before) + 4 :].startswith(between)
    assert "Warning: skipped characters" in result.stderr


def test_alternatives_are_written_one_after_the_other(fill, model_file):
    texts = list(charrnn.load(model_file).fills(parse_marks("The [?4] is"), 3))
    expected = ["".join(p if isinstance(p, str) else p.text for p in text) for text in texts]
    assert len(set(expected)) == 3
    assert fill("The [?4] is", "-n", 3).stdout == "\n".join(expected) + "\n"
    assert fill("The ____ is", "-n", 3, "--mask", "_").stdout == "\n".join(expected) + "\n"
    assert fill("The [?4] is").stdout == expected[0]


def test_json_lines_have_both_sides_and_probabilities(fill):
    result = fill("The [?4] is [?2]", "--jsonl", "-n", 2)
    found = [json.loads(line) for line in result.stdout.splitlines()]
    assert [o["index"] for o in found] == [0, 1]
    for o in found:
        assert o["before"] == "The " and o["after"] == "" and o["filled"][4:8] == " is "
        assert o["log_probability"] < 0 < o["posterior"] < 1
    assert found[0]["posterior"] > found[1]["posterior"]


def test_a_text_without_a_gap_gets_a_note(fill):
    result = fill("MARA\r\n")
    assert result.stdout_bytes == b"MARA\r\n" and "note    the text has no gap" in result.stderr
    empty = fill("")
    assert (empty.exit_code, empty.stdout) == (0, "")


def test_draws_of_the_command_repeat(fill):
    draw = partial(fill, "The [?4] is", "--sample", "-n", 4)
    assert draw("--seed", 1).stdout == draw("--seed", 1).stdout != draw("--seed", 2).stdout
    assert draw("--seed", 1, "--temperature", 0.01).stdout != draw("--seed", 1).stdout


@pytest.mark.parametrize(
    "content, options, reason",
    [
        ("\u20ac[?]", [], "never seen '\u20ac'"),
        (b"\xff[?]", [], "stdin is not UTF-8: invalid byte at 0"),
        ("[?0]", [], "impossible length"),
        ("a", ["--gap", ""], "cannot mark a gap"),
        ("a", ["--mask", "ab"], "a mask is one character"),
        ("a", ["--mask", "_", "--gap", "x"], "--mask or --gap"),
        ("a", ["--mask", "_", "--max-length", "3"], "--mask or --max-length"),
        ("a", ["--seed", "3"], "give --sample, or omit --seed"),
        ("a", ["--temperature", "3"], "give --sample, or omit --temperature"),
        ("a", ["--sample", "--temperature", "0"], "temperature"),
        ("[?]", ["--allow", ""], "leave no character"),
        ("a", ["--beam", "0"], "beam"),
    ],
)
def test_wrong_input_gets_one_sentence(fill, content, options, reason):
    result = fill(content, *options)
    assert result.exit_code in (1, 2) and result.stdout == ""
    assert reason in result.stderr.splitlines()[-1]


def test_a_missing_file_is_named(invoke, model_file, tmp_path):
    result = invoke("fill", tmp_path / "missing", "-m", model_file)
    assert "missing: No such file" in result.stderr and result.exit_code == 1
    with pytest.raises(CharRNNError):
        charrnn.load(model_file).fill("\u20ac", "a", 1)


# --- with a second model, which reads backwards


def backward_model(letters=LETTERS, **more):
    model, _ = model_of("gru", V=len(letters), H=7, scale=1.2, seed=9, backward=True, **more)
    return charrnn.LanguageModel(model, CharVocabulary(letters), {})


@pytest.mark.usefixtures("all_fills")
@pytest.mark.parametrize("letters", [LETTERS, LETTERS[::-1]])
@pytest.mark.parametrize("pieces", TEMPLATES, ids=str)
def test_both_models_find_all_fills_by_the_forward_posterior(pieces, letters):
    """A wide beam finds the same fills, whatever the backward model proposes first."""
    model, _ = random_model()
    expected = list(model.fills(pieces, 10**4, beam=1000))
    found = list(model.fills(pieces, 10**4, beam=1000, backward=backward_model(letters)))
    assert len(found) == len(expected)
    for one, other in zip(found[:20], expected, strict=False):
        assert [p if isinstance(p, str) else p.text for p in one] == [
            p if isinstance(p, str) else p.text for p in other
        ]


def test_the_right_half_comes_from_the_backward_model():
    forward, differ = random_model(seed=8)[0], 0
    for after in "dca", "abc", "bbd", "\nad":
        [both] = forward.fill("ab", after, 4, beam=1, backward=backward_model())
        [(half, _)] = backward_model().beams(1, 1, 2, prime=after)
        assert both.text[2:] == half.decode()
        differ += both.text != forward.fill("ab", after, 4, beam=1)[0].text
    assert differ


def test_right_sides_that_are_read_together_give_the_same_fills(monkeypatch):
    forward, backward = random_model()[0], backward_model()
    pieces = [p for k in range(7) for p in (LETTERS[k % 5] * (k + 1), Gap(3, 3))]
    together = list(forward.fills(pieces, 3, beam=8, backward=backward))
    for count in 1, 2:
        monkeypatch.setattr(bidirectional, "READ_AHEAD", count)
        for fills, expected in zip(
            forward.fills(pieces, 3, beam=8, backward=backward), together, strict=True
        ):
            assert [fill[0] for fill in fills] == [fill[0] for fill in expected]


def test_draws_with_a_backward_model_follow_the_posterior():
    twin = random_model(seed=3)
    pieces, count = TEMPLATES[0], 400
    expected = posterior(twin, pieces)
    total = np.logaddexp.reduce(list(expected.values()))
    texts = twin[0].fills(pieces, count, sample=True, seed=1, beam=2, backward=backward_model())
    drawn = Counter(part.text for text in texts for part in text if not isinstance(part, str))
    for fills, log_p in expected.items():
        p = np.exp(log_p - total)
        assert abs(drawn[fills[0]] - count * p) < 5 * np.sqrt(count * p * (1 - p)) + 1


def test_records_are_filled_from_both_sides(tmp_path):
    (tmp_path / "list").write_text("Anna\nHanna\nJohanna\n" * 40)
    how = {"steps": 120, "hidden_size": 8, "num_layers": 1, "separator": "\n", "overwrite": True}
    models = [
        charrnn.train(tmp_path / "list", tmp_path / "m", backward=backward, **how)
        for backward in (False, True)
    ]
    assert models[0].fill("Joh", "na", 2, backward=models[1])[0].text == "an"
    assert models[0].fill("H", "a\nAnna\n", 3, backward=models[1])[0].text == "ann"


def test_models_that_do_not_fit_together_are_refused(model_file):
    forward = charrnn.load(model_file)
    with pytest.raises(UsageError, match="both models read forwards"):
        forward.fill("M", "A", 1, backward=forward)
    with pytest.raises(UsageError, match="not of the same characters"):
        forward.fill("M", "A", 1, backward=backward_model())


def test_the_command_takes_both_models_in_any_order(invoke, corpus_file, model_file, tmp_path):
    other = tmp_path / "backward"
    charrnn.train(corpus_file, other, backward=True, steps=30, hidden_size=8, num_layers=1)
    models = charrnn.load(model_file), charrnn.load(other)
    expected = "The " + models[0].fill("The ", " is", 4, backward=models[1])[0].text + " is"
    for order in (model_file, other), (other, model_file):
        arguments = [a for path in order for a in ("-m", path)]
        assert invoke("fill", "-", *arguments, input="The [?4] is").stdout == expected
    for paths, reason in (
        ((model_file, model_file), "both models read forwards"),
        ((other,), "fill needs one that reads forwards"),
        ((other, other), "fill needs one that reads forwards"),
        ((other, model_file, other), "one model or two"),
    ):
        arguments = [a for path in paths for a in ("-m", path)]
        assert reason in invoke("fill", "-", *arguments, input="a[?]").stderr
