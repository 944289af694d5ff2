"""`charrnn inspect`: units constructed to match a feature, the report, one unit, the embedding."""

import re
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from helpers.commands import objects, on_terminal, options_of, sentence_of, unpainted
from helpers.html_pages import EVIL, Page
from helpers.loaded_modules import RUN, modules_after
from helpers.naive import SIGMOID_GATES
from helpers.random_models import model_of

import charrnn
from charrnn.cli.commands import inspect_command
from charrnn.cli.render import activations, embedding
from charrnn.cli.render.color import colorize, signed_color_levels
from charrnn.config import CELL_NAMES, ModelConfig
from charrnn.evaluation import activations as inspection
from charrnn.evaluation.activations import HiddenUnit
from charrnn.evaluation.text_features import features
from charrnn.storage.checkpoint import save_model
from charrnn.text.vocabulary import CharVocabulary


def random_model(path, characters, cell, H):
    """The file of such a model."""
    model, _ = model_of(cell, len(characters), H)
    save_model(path, model.state_dict(), asdict(model.config), CharVocabulary(characters), {})


# --- Units constructed to match a feature


CHARACTERS = 'abc "\n'
INPUT_WEIGHTS = {  # (gate, unit): the weight of each character, None: of the others
    ("i", 0): {None: 20, "\n": -20},  # unit 1 adds 0.1 per character until the line ends
    ("f", 0): {None: 20, "\n": -20},
    ("g", 0): {None: 0.1},
    ("i", 1): {None: -20, '"': 20},  # unit 2 flips at a quotation mark
    ("f", 1): {None: 20, '"': -20},
    ("g", 1): {'"': 5},
    ("o", 1): {None: 20},
}


@pytest.fixture(scope="session")
def made_model_file(tmp_path_factory):
    """An LSTM whose c counts in unit 1, and whose unit 2 is open within quotes."""
    config = ModelConfig(len(CHARACTERS), "lstm", 12, 1)
    rng = np.random.default_rng(0)
    tensors = {name: rng.normal(size=shape) for name, shape in config.tensor_shapes().items()}
    w_ih = tensors["rnn.weight_ih_l0"].reshape(4, 12, -1)
    w_hh = tensors["rnn.weight_hh_l0"].reshape(4, 12, -1)
    w_hh[:, :2] = w_ih[:, :2] = 0
    for name in "rnn.bias_ih_l0", "rnn.bias_hh_l0":
        tensors[name].reshape(4, 12)[:, :2] = 0
    for (gate, unit), weights in INPUT_WEIGHTS.items():
        for k, c in enumerate(CHARACTERS):
            w_ih["ifgo".index(gate), unit, k] = weights.get(c, weights.get(None, 0))
    w_hh["ifgo".index("g"), 1, 1] = -20
    path = tmp_path_factory.mktemp("made") / "made.safetensors"
    save_model(path, tensors, asdict(config), CharVocabulary(CHARACTERS), {})
    return path


@pytest.fixture(scope="session")
def quotes():
    """Lines of random length, with quotes here and there, each closed before an empty line."""
    rng = np.random.default_rng(5)
    lines = ["".join(rng.choice(list("abc "), rng.integers(1, 30))) for _ in range(60)]
    return "\n".join(line + rng.choice(["", '"', ' "a b" ']) for line in lines) + "\n"


def test_report_finds_the_units_that_count_and_that_detect_quotes_first(
    invoke, made_model_file, quotes
):
    result = invoke("inspect", "-m", made_model_file, "-", input=quotes)
    assert (result.exit_code, result.stderr) == (0, "")
    head, *rows = result.stdout.split("\n\n")[0].splitlines()
    assert head.split() == ["correlation", "unit", "feature"]
    rows = {row[23:]: row.split()[:2] for row in rows}
    assert rows["position in the line"] == ["1.000", "1.1c"]
    assert rows["inside double quotes"][1][:3] == "1.2"
    assert float(rows["inside double quotes"][0]) > 0.99
    assert set(list(rows)[:2]) == {"position in the line", "inside double quotes"}
    assert not {"digit", "upper case", "inside ( )"} & set(", ".join(rows).split(", "))


def test_json_of_a_counting_unit_has_its_count(invoke, made_model_file, quotes):
    found = objects(
        invoke("inspect", "-m", made_model_file, "--unit", "1.1c", "--json", "-", input=quotes)
    )
    assert [f["text"] for f in found] == quotes.splitlines()
    assert [f["line"] for f in found] == list(range(1, len(found) + 1))
    for f in found:
        tenths = np.tanh(0.1) * np.append(np.arange(1, len(f["text"]) + 1), 0)
        np.testing.assert_allclose(f["values"], tenths, atol=1e-3)


# --- The report and the activation of one unit


def test_report_has_the_same_values_in_table_and_json(invoke, made_model_file, quotes):
    arguments = "inspect", "-m", made_model_file, "-"
    table = invoke(*arguments, input=quotes).stdout
    (found,) = objects(invoke(*arguments, "--json", input=quotes))
    assert found["characters"] == len(quotes)
    for f in found["matches"]:
        assert f"{f['correlation']:>11.3f}  {f['unit']:<8}  {f['feature']}\n" in table
    if found["unmatched"]:
        assert f"          -  none      {', '.join(found['unmatched'])}\n" in table
    for g in found["gates"]:
        fractions = f"{g['fraction_closed']:>11.1%}  {g['fraction_open']:>9.1%}"
        assert f"{g['layer']:>5}  {g['gate']:<8}  {fractions}\n" in table
        for state in "closed", "open":
            mean = np.mean(g[f"unit_fractions_{state}"])
            assert mean == pytest.approx(g[f"fraction_{state}"], abs=1e-5)
    assert [g["gate"] for g in found["gates"]] == list(SIGMOID_GATES["lstm"])


@pytest.mark.parametrize("cell", CELL_NAMES)
def test_inspect_reports_gates_and_units_of_every_cell(invoke, text, cell):
    Path("text").write_text(text)
    random_model("model", "".join(sorted(set(text))), cell, 6)
    table = invoke("inspect", "-m", "model", "text").stdout
    found = table.split("\n\n")[1].splitlines()
    if cell == "rnn":
        assert found == ["gates     rnn has none"]
    else:
        assert [row.split()[:2] for row in found[1:]] == [
            [k, g] for k in "12" for g in SIGMOID_GATES[cell]
        ]
    assert bool(re.search(r"\d\.\d+[hc]  ", table)) == ("lstm" in cell)
    result = invoke("inspect", "-m", "model", "--unit", "2.6c", "text")
    if "lstm" in cell:
        assert result.stdout.startswith("unit 2.6c: 0 is ")
    else:
        assert cell in sentence_of(result, 1) and "--unit 2.6" in sentence_of(result, 1)
    assert invoke("inspect", "-m", "model", "--unit", "2.6", "text").exit_code == 0


def test_digits_are_below_their_characters(invoke, made_model_file):
    text = 'a b"c\n\n' + "abc" * 7 + "\n"
    env = {"COLUMNS": "10"}
    shown = invoke(
        "inspect", "-m", made_model_file, "--unit", "1.1c", "-", input=text, env=env
    ).stdout
    low, high = (f"{v * np.tanh(0.1):.3f}" for v in (0, 21))
    expected = ['a b"c', "01122", "", "", "abcabcabca", "0112233344", "bcabcabcab", "5566677889"]
    expected = "\n".join([f"unit 1.1c: 0 is {low}, 9 is {high}", "", *expected, "c", "9", ""])
    # 10 of 21 is 4.29 of 9 and so on: rounded tenths, from the values themselves.
    values = np.arange(1, 22) * 9 / 21
    assert "".join(f"{v:.0f}" for v in values) == "".join(
        expected.splitlines()[k] for k in (7, 9, 11)
    )
    assert shown == expected


def test_digits_are_below_wide_and_escaped_characters():
    shown = list(activations._fold(["\u6771", "\\x1b", "e", "\u0301", "x"], [1, 2, 3, 4, 5], 6))
    assert shown == [("\u6771\\x1b", "1 2"), ("e\u0301x", "35")]
    assert list(activations._fold([], [], 6)) == [("", "")]
    assert list(activations._fold(["\\x1b"], [7], 2)) == [("\\x1b", "7")]


def test_color_needs_a_terminal_or_force_color_and_no_no_color(
    invoke, made_model_file, quotes, monkeypatch
):
    arguments = "inspect", "-m", made_model_file, "--unit", "1.1c", "text"
    Path("text").write_text(quotes)
    plain = invoke(*arguments).stdout
    forced = invoke(*arguments, env={"FORCE_COLOR": "1"}).stdout
    assert "\x1b" not in plain and "\x1b[38;5;16;48;5;203m" in forced
    head, _, body = unpainted(forced).partition("\n\n")
    assert body == quotes and head.startswith("unit 1.1c:  -")
    assert invoke(*arguments, env={"FORCE_COLOR": "1", "NO_COLOR": "1"}).stdout == plain
    assert on_terminal(*arguments)[1].decode().replace("\r\n", "\n") == forced
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in on_terminal(*arguments)[1].decode()


def test_each_character_has_the_color_of_its_value(invoke, made_model_file):
    text, env = "abcabcabcab", {"FORCE_COLOR": "1"}
    options = "inspect", "-m", made_model_file, "--unit", "1.1c", "-"
    shown = invoke(*options, input=text, env=env).stdout
    levels = np.rint(5 * np.arange(1, 12) / 11).astype(int).tolist()
    assert shown.split("\n\n")[1] == colorize(list(text), levels) + "\n"


@pytest.mark.parametrize(
    "found, levels",
    [([0.0, 0, 0], [0, 0, 0]), ([-1.0, 0.05, 0.11, 1], [-5, 0, 1, 5]), ([2.0, -4], [2, -5])],
)
def test_signed_color_levels_are_relative_to_the_largest_magnitude(found, levels):
    assert signed_color_levels(np.array(found)) == levels


def test_page_shows_the_value_of_each_character(invoke, made_model_file, quotes):
    arguments = "inspect", "-m", made_model_file, "--unit", "1.1c", "-"
    result = invoke(*arguments, "--html", "page.html", input=quotes)
    assert (result.exit_code, result.output) == (0, "")
    content = Path("page.html").read_text("utf-8")
    assert invoke(*arguments, "--html", "-", input=quotes).stdout == content
    page = Page(content)
    assert "".join(shown for _, shown in page.characters) == quotes
    values = [v for f in objects(invoke(*arguments, "--json", input=quotes)) for v in f["values"]]
    levels = signed_color_levels(np.array(values))
    for (attributes, _), value, level in zip(page.characters, values, levels, strict=True):
        assert float(attributes["data-t"]) == pytest.approx(value, abs=1e-4)
        assert (f"s{level}" in attributes.get("class", "")) == (level > 0)
    assert "http:" not in content and "https:" not in content and "url(" not in content


@pytest.mark.parametrize("more", [[], ["--json"], ["--html", "-"]])
def test_output_escapes_control_characters(invoke, evil_model_file, more):
    options = ["inspect", "-m", evil_model_file, "--unit", "1.2", "-", *more]
    for env in {}, {"FORCE_COLOR": "1"}:
        shown = unpainted(invoke(*options, input=EVIL * 3, env=env).stdout)
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", shown)


# --- The embedding of the characters


def test_embedding_shows_similar_characters_close_together(invoke):
    config = ModelConfig(7, "gru", 4, 1)
    tensors = {name: np.zeros(shape) for name, shape in config.tensor_shapes().items()}
    tensors["output.weight"][:] = [
        *([1, 0, 0, 0], [0.9, 0.05, 0, 0], [-1, 0.6, 0, 0], [-0.9, 0.6, 0, 0]),
        *([0, -0.6, 0, 0], [0, -0.6, 0, 0], [0, -0.6, 0, 0]),
    ]
    save_model("model", tensors, asdict(config), CharVocabulary("ab\u6771d \n\x1b"), {})
    env = {"COLUMNS": "40"}
    shown = invoke("inspect", "-m", "model", "--embedding", env=env).stdout
    chart, _, table = re.split(r"\n\n(axes .*)\n\n", shown)
    rows = chart.split("\n")
    assert len(rows) == 12 and max(map(len, rows)) <= 40
    places = {c: (k, row.index(c)) for k, row in enumerate(rows) for c in row if c != " "}
    assert set(places) == set("ab\u6771d\u2423\u21b5")
    near = lambda p, q: abs(p[0] - q[0]) * 2 + abs(p[1] - q[1]) < 6  # noqa: E731
    pairs = {c + d for c in places for d in places if c < d and near(places[c], places[d])}
    assert pairs == {"ab", "d\u6771", "\u21b5\u2423"}
    first = {row.split()[0]: row.split()[2] for row in table.splitlines()[1:]}
    assert first["a"] == "b" and first["b"] == "a" and first["\u6771"] == "d"
    assert first["\\x1b"] in "\u2423\u21b5" and "\x1b" not in shown
    (found,) = objects(invoke("inspect", "-m", "model", "--embedding", "--json"))
    assert [c["character"] for c in found["characters"]] == list("ab\u6771d \n\x1b")
    assert found["characters"][0]["nearest"][0] == "b"
    assert sum(found["variance_fractions"]) == pytest.approx(1)


def test_characters_at_one_point_are_shifted_or_omitted():
    names = [chr(ord("a") + k % 26) for k in range(300)]
    rows = list(embedding._chart(names, np.zeros((300, 2)), 40))
    assert sum(len(row.replace(" ", "")) for row in rows) == 10  # a quarter of an ellipse
    assert rows[-1][0] == "a" and not any(rows[:9])


def test_embedding_of_a_model_of_bytes(invoke, bytes_model_file):
    shown = invoke("inspect", "-m", bytes_model_file, "--embedding").stdout
    assert r"\xe6" in shown and not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f]", shown)
    (found,) = objects(invoke("inspect", "-m", bytes_model_file, "--embedding", "--json"))
    assert [c["character"] for c in found["characters"]] == list(range(256))


# --- Bytes, unknown characters, sizes, usage


def test_values_of_a_model_of_bytes_are_per_character(invoke, bytes_model_file):
    data = "Gr\u00fc\u00dfe aus \u6771\u4eac\n".encode() * 3 + b"a\xffb\xe6\x9d\n\xe6"
    options = ["inspect", "-m", bytes_model_file, "-"]
    found = objects(invoke(*options, "--unit", "1.4", "--json", input=data))
    text = data.decode("utf-8", "surrogateescape")
    assert [f["text"] for f in found] == text.split("\n")
    model = charrnn.load(bytes_model_file).model
    whole = inspection.values(model, np.frombuffer(data, np.uint8), HiddenUnit(0, 0, 3))
    ends = np.cumsum([len(c.encode("utf-8", "surrogateescape")) for c in text]) - 1
    flat = [v for f in found for v in f["values"]]
    np.testing.assert_allclose(flat, whole[ends], atol=1e-5)


def test_report_of_a_model_of_bytes_correlates_the_last_byte_of_a_character(
    invoke, bytes_model_file
):
    text = "Gr\u00fc\u00dfe aus \u6771\u4eac\n\u00e7a va?\n" * 9
    data = text.encode()
    (found,) = objects(invoke("inspect", "-m", bytes_model_file, "--json", "-", input=data))
    assert found["characters"] == len(text)
    ends = np.cumsum([len(c.encode()) for c in text]) - 1
    second = ends >= len(data) // 2
    model = charrnn.load(bytes_model_file).model
    assert len(found["matches"]) > 3
    for f in found["matches"]:
        number, state = int(f["unit"][2:-1]) - 1, "hc".index(f["unit"][-1])
        whole = inspection.values(
            model, np.frombuffer(data, np.uint8), HiddenUnit(0, state, number)
        )
        feature = features(text)[f["feature"]]
        expected = np.corrcoef(feature[second], whole[ends][second])[0, 1]
        assert f["correlation"] == pytest.approx(expected, abs=1e-4)


def test_only_the_start_of_a_long_text_is_read(invoke, made_model_file, quotes, monkeypatch):
    monkeypatch.setattr(inspect_command, "MAX_CHARACTERS", 300)
    for more in [], ["--unit", "1.2"]:
        options = ["inspect", "-m", made_model_file, *more, "-"]
        result, beginning = (invoke(*options, input=t) for t in (quotes, quotes[:300]))
        assert result.stdout == beginning.stdout and beginning.stderr == ""
        assert f"first 300 of {len(quotes):,} characters" in result.stderr


@pytest.mark.parametrize("data", ["a", "ab", "\n", "abcabcabc", '"' * 50, "\n" * 9, "a b" * 200])
def test_inspect_accepts_odd_texts(invoke, made_model_file, data):
    options = ["inspect", "-m", made_model_file, "-"]
    for more in [], ["--json"], ["--unit", "1.3"], ["--unit", "1.3c", "--html", "-"]:
        result = invoke(*options, *more, input=data)
        assert (result.exit_code, result.stderr) == (0, ""), result.output
    assert "layer  gate" in invoke(*options, input=data).stdout


def test_inspect_rejects_unusable_texts_and_units(invoke, made_model_file, bytes_model_file):
    options = ["inspect", "-m", made_model_file, "-"]
    assert "no text" in sentence_of(invoke(*options, input=""), 1)
    assert "'x'" in sentence_of(invoke(*options, input="abxc"), 1)
    skipped = invoke(*options, "--unknown", "skip", input="abxc" * 9)
    assert skipped.stdout == invoke(*options, input="abc" * 9).stdout and "'x'" in skipped.stderr
    assert "--encoding" in sentence_of(invoke(*options, input=b"\xff\xfe\xfd"), 1)
    assert "charrnn train" in sentence_of(invoke("inspect", "-", input="a"), 1)
    for unit in "1", "1.0", "0.1", "1.2x", "-1.2", "1.2 ", "\u0661.1", "":
        assert "--unit" in sentence_of(invoke(*options, "--unit", unit, input="a"), 2)
    for unit in "1.13", "2.1", "1.999999999", "2.1c":
        message = sentence_of(invoke(*options, "--unit", unit, input="a"), 1)
        assert f"no unit {unit}:" in message and "units 1 to 12" in message
    assert "give a text" in sentence_of(invoke("inspect", "-m", made_model_file), 2)


def test_inspect_rejects_wrong_usage(invoke, made_model_file, quotes):
    Path("text").write_text(quotes)
    one, unit = ["inspect", "-m", made_model_file], ["--unit", "1.1"]
    for more in ["text"], unit, ["--html", "page"]:
        assert "--embedding" in sentence_of(invoke(*one, "--embedding", *more), 2)
    assert "--html" in sentence_of(invoke(*one, "text", "--html", "page"), 2)
    assert "--html" in sentence_of(invoke(*one, *unit, "--json", "text", "--html", "page"), 2)
    before = made_model_file.read_bytes()
    for page in "text", made_model_file:
        assert "--html" in sentence_of(invoke(*one, *unit, "text", "--html", page), 2)
    assert made_model_file.read_bytes() == before and Path("text").read_text() == quotes
    sentence_of(invoke(*one, *unit, "text", "--html", "no/page"), 1)


def test_inspect_options_have_help_and_errors_do_not_import_numba(invoke):
    shown = invoke("inspect", "-h").stdout
    for option in options_of("inspect"):
        assert option.help and option.opts[-1] in shown
    assert not {"numba", "numpy"} & modules_after(RUN.format(code=0), "inspect", "--help")
    assert "numba" not in modules_after(RUN.format(code=1), "inspect", "-m", "missing", "missing")
    assert "numba" not in modules_after(RUN.format(code=2), "inspect", "--unit", "x", "missing")
