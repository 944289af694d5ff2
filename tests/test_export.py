"""Models exported as a web page, whose JavaScript runs in Node; in a browser: test_browser.py."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from importlib.resources import files

import numpy as np
import pytest
from helpers.random_models import model_of
from helpers.runs import trained

import charrnn
from charrnn.evaluation.loss import mean_loss
from charrnn.export.page import MAX_LOSS, choose_bits, export_page
from charrnn.network.carried_state import CarriedState
from charrnn.network.cells import CELLS
from charrnn.network.stack import forward
from charrnn.network.start import TextStart
from charrnn.text.vocabulary import SEPARATOR, UNKNOWN, ByteVocabulary, CharVocabulary

NODE = shutil.which("node")
needs_node = pytest.mark.skipif(NODE is None, reason="needs Node.js")
LETTERS = "\nabcdefghij"

# Reads {model, ids, states...} from stdin and writes the probabilities after each id.
RUN = """
const { Model, probabilities, write, decoder } = require(process.argv[1]);
const { page, ids, prime, count, seed, temperature } = JSON.parse(require("fs").readFileSync(0));
const model = new Model(page), { state } = model.start(0);
const p = ids.map((id) => probabilities(model.step(state, id)));
const toText = decoder(model), written = write(model, prime, temperature, seed);
const text = [], surprises = [];
for (let n = 0; n < count; n++) {
  const { id, surprise } = written.next().value;
  text.push(toText(id));
  surprises.push(surprise);
}
console.log(JSON.stringify({ p, text: text.join(""), surprises, read: model.encode(prime) }));
"""


class Page(HTMLParser):
    """The text of each element with an id, and all tags."""

    def __init__(self, text):
        super().__init__()
        self.texts, self.tags, self._open = {}, [], None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self._open = dict(attributes).get("id", tag)

    def handle_endtag(self, tag):
        self._open = None

    def handle_data(self, data):
        self.texts[self._open] = self.texts.get(self._open, "") + data


def page_of(model, vocabulary, bits=32, title="t", description="d"):
    return b"".join(export_page(model, vocabulary, title, description, bits)).decode()


def run(model, vocabulary, ids=(), prime="", count=0, seed=1, temperature=1.0, bits=32):
    """What the page's program computes of the model that its page holds."""
    page = json.loads(Page(page_of(model, vocabulary, bits)).texts["model"])
    given = {
        "page": page, "ids": list(map(int, ids)), "prime": prime, "count": count, "seed": seed,
        "temperature": temperature,
    }  # fmt: skip
    source = files("charrnn.export").joinpath("sampler.js")
    result = subprocess.run(
        [NODE, "-e", RUN, str(source)], input=json.dumps(given), capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def expected_probabilities(model, ids):
    logits, _ = forward(model, np.array(ids, np.int32)[:, None], model.start.first.states)
    logits = logits[:, 0].astype(float)
    p = np.exp(logits - logits.max(1, keepdims=True))
    return p / p.sum(1, keepdims=True)


@needs_node
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("layers, embedding", [(1, 0), (3, 6)])
def test_the_page_predicts_what_the_model_does(cell, layers, embedding):
    model, _ = model_of(cell, V=11, H=7, L=layers, ngrams=4, scale=0.7, embedding_size=embedding)
    ids = np.random.default_rng(0).integers(0, 11, 60)
    found = run(model, CharVocabulary(LETTERS), ids)
    np.testing.assert_allclose(found["p"], expected_probabilities(model, ids), atol=1e-6)


@needs_node
@pytest.mark.parametrize("bits, tolerance", [(16, 2e-3), (8, 0.05)])
def test_rounded_weights_predict_nearly_the_same(bits, tolerance):
    model, _ = model_of("lstm", V=11, H=16, ngrams=3, scale=0.5)
    ids = np.random.default_rng(0).integers(0, 11, 60)
    found = run(model, CharVocabulary(LETTERS), ids, bits=bits)
    np.testing.assert_allclose(found["p"], expected_probabilities(model, ids), atol=tolerance)


@needs_node
@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("embedding", [0, 8])
def test_the_blocks_of_an_average_are_exported_alone(corpus_file, tmp_path, cell, embedding):
    settings = {"ensemble": 2, "hidden_size": 16, "num_layers": 2, "cell": cell, "steps": 20}
    trained(corpus_file, tmp_path / "m", embedding_size=embedding, **settings)
    model = charrnn.load(tmp_path / "m")
    assert len(page_of(model.model, model.vocabulary)) > 1000
    page = json.loads(Page(page_of(model.model, model.vocabulary)).texts["model"])
    assert page["blocks"] == 2
    ids = model.vocabulary.encode("MARA: The tide is here.\nTOM:")
    found = run(model.model, model.vocabulary, ids)
    np.testing.assert_allclose(found["p"], expected_probabilities(model.model, ids), atol=1e-5)


@needs_node
def test_records_and_special_symbols_are_exported():
    vocabulary = CharVocabulary("ab" + SEPARATOR + "c" + UNKNOWN, "; ")
    model, _ = model_of("gru", V=5, ngrams=3, record_end_id=2, scale=0.7)
    ids = [2, 0, 1, 2, 3, 3, 2, 2, 0]
    found = run(model, vocabulary, ids, prime="aXc", count=200)
    np.testing.assert_allclose(found["p"], expected_probabilities(model, ids), atol=1e-6)
    assert found["read"] == [0, 4, 3]
    assert set(found["text"]) <= set("abc; ") and "; " in found["text"]


@needs_node
def test_bytes_become_whole_characters(bytes_model_file):
    model = charrnn.load(bytes_model_file)
    found = run(model.model, model.vocabulary, [71, 114], prime="Grü", count=300, temperature=0.5)
    assert found["read"] == list("Grü".encode())
    expected = expected_probabilities(model.model, [71, 114])
    np.testing.assert_allclose(found["p"], expected, atol=1e-6)
    assert "ü" in found["text"] or "ß" in found["text"]


@needs_node
def test_a_large_vocabulary_is_exported():
    vocabulary = CharVocabulary("".join(map(chr, range(0x4E00, 0x4E00 + 4000))))
    model, _ = model_of("lstm", V=4000, H=4, L=1, ngrams=2, scale=0.5)
    ids = [0, 3999, 17]
    found = run(model, vocabulary, ids, prime="\u4e01", count=5)
    np.testing.assert_allclose(found["p"], expected_probabilities(model, ids), atol=1e-6)
    assert len(found["text"]) == 5 and found["read"] == [1]


@needs_node
def test_texts_start_where_the_model_starts(model_file):
    """The text of temperature 0 is that of `sample`; its surprises are the model's losses."""
    model = charrnn.load(model_file)
    for prime in "", "MARA", "\nTOM":
        expected = model.sample(60, prime=prime, temperature=0)
        found = run(model.model, model.vocabulary, prime=prime, count=60, temperature=0)
        assert found["text"] == expected
    losses = model.losses("MARA" + run(model.model, model.vocabulary, prime="MARA", count=60,
                                       temperature=0)["text"])  # fmt: skip
    found = run(model.model, model.vocabulary, prime="MARA", count=60, temperature=0)
    np.testing.assert_allclose(found["surprises"], losses[4:], rtol=1e-4, atol=1e-5)


@needs_node
def test_draws_follow_the_probabilities():
    model, _ = model_of("rnn", V=3, H=2, L=1, scale=0.0)
    model.load_state_dict(
        model.state_dict() | {"output.bias": np.log([0.2, 0.3, 0.5]).astype(np.float32)}
    )
    found = run(model, CharVocabulary("abc"), count=20_000)["text"]
    assert [found.count(c) / 20_000 for c in "abc"] == pytest.approx([0.2, 0.3, 0.5], abs=0.015)
    same, other = (run(model, CharVocabulary("abc"), count=50, seed=s)["text"] for s in (1, 2))
    assert same == found[:50] != other


@needs_node
def test_the_program_of_the_page_is_free_of_syntax_errors():
    for name in "sampler.js", "worker.js", "page.js":
        path = files("charrnn.export").joinpath(name)
        assert subprocess.run([NODE, "--check", str(path)]).returncode == 0


def test_eight_bits_are_taken_if_they_lose_little(model_file):
    model = charrnn.load(model_file)
    bits, lost = choose_bits(model.model, model.vocabulary)
    assert bits == 8 and abs(lost) < MAX_LOSS
    rough, _ = model_of("lstm", V=11, H=24, L=3, scale=3.0)
    rough.start = TextStart(CarriedState(*rough.zero_state(1)), np.array([0]))
    assert choose_bits(rough, CharVocabulary(LETTERS))[0] == 16
    assert np.isfinite(mean_loss(rough, np.arange(11, dtype=np.int32)))


# --- the page


HOSTILE = "</script><script>alert(1)</script><!-- & \" ' @MODEL@ \u2028"


def test_hostile_titles_and_vocabularies_stay_text():
    characters = "".join(dict.fromkeys("\n<script>/!-&\"'@\u2028abc"))
    model, _ = model_of("rnn", V=len(characters), H=3)
    page = page_of(model, CharVocabulary(characters), title=HOSTILE, description=HOSTILE)
    parsed = Page(page)
    assert [tag for tag, _ in parsed.tags].count("script") == 4
    assert parsed.texts["title"] == HOSTILE and parsed.texts["h1"] == HOSTILE
    assert json.loads(parsed.texts["model"])["characters"] == characters
    assert "alert(1)" not in re.sub("<title>.*?</title>|<h1>.*?</h1>|<p>.*?</p>", "", page)


def test_the_page_asks_for_nothing(model_file):
    model = charrnn.load(model_file)
    page = page_of(model.model, model.vocabulary)
    policy = next(a["content"] for t, a in Page(page).tags if a.get("http-equiv"))
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy and "http" not in re.sub("http-equiv", "", page)
    for tag, attributes in Page(page).tags:
        assert not {"src", "href", "onclick", "onload", "style"} & attributes.keys(), tag
    labels = {a["for"] for t, a in Page(page).tags if t == "label"}
    inputs = {a["id"] for t, a in Page(page).tags if t in ("input", "textarea")}
    assert inputs == labels


def test_bytes_have_no_list_of_characters():
    model, _ = model_of("rnn", V=256, H=2, L=1)
    assert json.loads(Page(page_of(model, ByteVocabulary())).texts["model"])["characters"] is None


# --- the command


def test_export_writes_a_page(invoke, model_file, tmp_path):
    page = tmp_path / "page.html"
    command = "export", "-m", model_file, "-o", page, "--title", "Tides <&>"
    result = invoke(*command)
    assert result.exit_code == 0 and result.stdout == ""
    assert "weights in 8 bits, which lose" in result.stderr
    before = page.read_bytes()
    assert Page(before.decode()).texts["title"] == "Tides <&>"
    assert "exists: give --overwrite" in invoke(*command).stderr
    assert page.read_bytes() == before
    assert invoke(*command, "--overwrite", "--exact").exit_code == 0
    assert len(page.read_bytes()) > len(before)


@pytest.mark.parametrize(
    "arguments, reason",
    [
        (["-o", "page.pdf"], "cannot tell the format of page.pdf: give a name"),
        (["-o", "page"], "give a name that ends with .html"),
        (["-o", "no/such/page.html"], "cannot write"),
        (["-o", "{folder}/x.html"], "exists"),
        ([], "--output"),
        (["-m", "missing", "-o", "a.html"], "no such file: missing"),
    ],
)
def test_impossible_exports_are_refused(
    invoke, model_file, tmp_path, monkeypatch, arguments, reason
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.html").mkdir()
    arguments = [a.format(folder=tmp_path) for a in arguments]
    result = invoke("export", *([] if "-m" in arguments else ["-m", model_file]), *arguments)
    assert result.exit_code in (1, 2) and reason in result.stderr.splitlines()[-1]
    assert [p.name for p in tmp_path.iterdir()] == ["x.html"]


# --- what a stranger wants to know of a model


def test_info_shows_a_sample(invoke, model_file, bytes_model_file):
    for path in model_file, bytes_model_file:
        expected = charrnn.load(path).sample(80, temperature=0.7, seed=0)
        found = json.loads(invoke("info", path, "--sample", "--json").stdout)
        assert found["sample"] == expected and "sample" not in invoke("info", path, "--json").stdout
        shown = invoke("info", path, "--sample").stdout.splitlines()
        assert shown[-1].startswith("sample ") and shown[-1].isprintable()
