"""Commands on models with n-grams, compared with the reference implementation.

Its weights, n-grams and start come from the model file without charrnn's help.
"""

import base64
import json
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import naive
from helpers.commands import objects
from safetensors import safe_open

import charrnn
from charrnn.generation.suggester import Suggester


def twin_of(path):
    """The model in a file as the reference takes it."""
    with safe_open(path, "np") as file:
        params = {name: file.get_tensor(name).astype(float) for name in file.keys()}  # noqa: SIM118
        content = json.loads(file.metadata()["charrnn"])
    config = SimpleNamespace(record_end_id=-1, **content["config"])
    symbols = content["vocabulary"] or "".join(map(chr, range(256)))
    ids = {symbol: i for i, symbol in enumerate(symbols)}
    ngrams = []
    for n, joined in enumerate(content["ngrams"], 2):
        parts = [joined[i : i + n] for i in range(0, len(joined), n)]
        ngrams += [tuple(ids[symbol] for symbol in part) for part in parts]
    shape = config.num_layers, naive.STATES[config.cell], -1, config.hidden_size
    start = content["start"]
    states = np.frombuffer(base64.b64decode(start["states"]), "<f4").reshape(shape)
    before = [[i for i in column if i >= 0] for column in np.array(start["recent"]).T.tolist()]
    return SimpleNamespace(
        params=params, config=config, symbols=symbols, ids=ids, ngrams=ngrams,
        states=states.astype(float), before=before, line_end=start["id"],
    )  # fmt: skip


def run(twin, ids, k=0):
    """The logits (n + 1, V) before each of ids and after the last, from start k."""
    x = np.array([twin.line_end, *ids])[:, None]
    state = twin.states[:, :, k : k + 1]
    logits, _ = naive.forward(twin.params, twin.config, x, state, twin.ngrams, [twin.before[k]])
    return logits[:, 0]


def nats_of(twin, text):
    ids = [twin.ids[symbol] for symbol in text]
    return [naive.cross_entropy(p, i) for p, i in zip(run(twin, ids), ids, strict=False)]


def coldest(twin, prime, length, k=0):
    """The text at temperature 0 after the prime."""
    ids = [twin.ids[symbol] for symbol in prime]
    for _ in range(length):
        ids.append(int(np.argmax(run(twin, ids, k)[-1])))
    return "".join(twin.symbols[i] for i in ids[len(prime) :])


@pytest.fixture(scope="module", params=["one-hot", "embedding", "four", "gru"])
def model_file(request, corpus_file, tmp_path_factory):
    """A model that has learned some of the text, so that its n-grams matter."""
    more = {
        "one-hot": {"cell": "lstm"},
        "embedding": {"cell": "rnn", "embedding_size": 5},
        "four": {"cell": "lstm-peephole", "ngrams": 4},
        "gru": {"cell": "gru", "num_layers": 2},
    }[request.param]
    path = tmp_path_factory.mktemp("ngrams") / "model.safetensors"
    how = {"hidden_size": 12, "num_layers": 1, "steps": 25, "batch_size": 4} | more
    charrnn.train(corpus_file, path, **how)
    return path


@pytest.fixture(scope="module")
def twin(model_file):
    found = twin_of(model_file)
    assert len(found.ngrams) == found.config.num_ngrams > 50
    assert {len(ngram) for ngram in found.ngrams} == set(range(2, found.config.ngrams + 1))
    return found


TEXT = "MARA: The tide is late.\nTOM: Then wait, he has never\n\nfailed: MARA"


def test_the_file_has_weights_of_ngrams_that_are_used(twin):
    name = "embedding.weight" if twin.config.embedding_size else "rnn.weight_ih_l0"
    table = twin.params[name] if twin.config.embedding_size else twin.params[name].T
    assert len(table) == len(twin.symbols) + len(twin.ngrams)
    assert np.abs(table[len(twin.symbols) :]).max() > 0.01
    without = SimpleNamespace(**vars(twin) | {"ngrams": []})
    without.params = twin.params | {
        name: table[: len(twin.symbols)] if twin.config.embedding_size
        else table[: len(twin.symbols)].T
    }  # fmt: skip
    assert np.abs(np.array(nats_of(twin, TEXT)) - nats_of(without, TEXT)).max() > 0.01


def test_score_gives_the_surprisals_of_the_reference(invoke, model_file, twin):
    found = objects(invoke("score", "-m", model_file, "--json", "-", input=TEXT))
    flat = [nats for line in found for nats in line["surprisals"]]
    np.testing.assert_allclose(flat, nats_of(twin, TEXT), atol=1e-4)


def test_eval_gives_the_mean_surprisal_of_the_reference(invoke, model_file, twin):
    (found,) = objects(invoke("eval", "-m", model_file, "--json", "-", input=TEXT))
    assert found["nats_per_character"] == pytest.approx(np.mean(nats_of(twin, TEXT)), abs=1e-5)


@pytest.mark.parametrize("prime", ["M", "TOM: The", "x"])
def test_sample_gives_the_likeliest_text_of_the_reference(invoke, model_file, twin, prime):
    """Each seed has another start unless the temperature is 0; unknown characters are skipped."""
    for seed, temperature in (0, 0), (1, 1e-30), (5, 1e-30):
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0,)))
        number = rng.integers(len(twin.before)) if temperature else 0
        how = ["--prime", prime, "--length", 40, "--temperature", temperature, "--seed", seed]
        result = invoke("sample", "-m", model_file, "--unknown", "skip", "--jsonl", *how)
        known = prime if prime != "x" else ""
        (found,) = objects(result)
        assert found["text"] == coldest(twin, known, 40, number)


def test_beam_finds_the_log_probability_of_the_reference(invoke, model_file, twin):
    how = ["--prime", "MARA", "--length", 12, "--beam", 3, "--jsonl"]
    (found,) = objects(invoke("sample", "-m", model_file, *how))
    nats = nats_of(twin, "MARA" + found["text"])[4:]
    assert found["log_probability"] == pytest.approx(-sum(nats), abs=1e-3)


def test_write_suggests_the_likeliest_text_of_the_reference(model_file, twin):
    model = charrnn.load(model_file, threads=1)
    suggester = Suggester(model.model, model.vocabulary, "TOM: ", length=20, temperature=0, seed=0)
    for text in "TOM: ", "TOM: The", "TOM", "MARA: Th":
        suggester.update(text)
        while suggester.step():
            pass
        assert suggester.suggestion == coldest(twin, text, 20)


def test_inspect_shows_the_activations_of_the_reference(invoke, model_file, twin):
    found = objects(invoke("inspect", "-m", model_file, "--unit", "1.4", "--json", "-", input=TEXT))
    flat = [value for line in found for value in line["values"]]
    x = np.array([twin.line_end, *(twin.ids[symbol] for symbol in TEXT)])
    state, read, expected = twin.states[:, :, :1], list(twin.before[0]), []
    for i in x:
        _, state = naive.forward(
            twin.params, twin.config, np.array([[i]]), state, twin.ngrams, [read]
        )
        read.append(int(i))
        expected.append(state[0, 0, 0, 3])
    np.testing.assert_allclose(flat, expected[1:], atol=1e-4)


def test_score_of_a_model_of_bytes_equals_the_reference(invoke, bytes_model_file):
    twin = twin_of(bytes_model_file)
    assert twin.ngrams
    data = "Grüße aus 東京\nça".encode()
    result = invoke("eval", "-m", bytes_model_file, "--json", "-", input=data)
    (found,) = objects(result)
    expected = sum(nats_of(twin, data.decode("latin-1")))
    assert found["nats_per_character"] * found["characters"] == pytest.approx(expected, rel=1e-4)


def test_ngrams_1_trains_as_a_text_without_frequent_ngrams(corpus_file, tmp_path, monkeypatch):
    """A model that may know n-grams, but finds none, has the weights of one that may not."""
    how = {"hidden_size": 8, "num_layers": 1, "steps": 20, "dropout": 0.1}
    plain = charrnn.train(corpus_file, tmp_path / "plain", ngrams=1, **how)
    monkeypatch.setattr("charrnn.text.ngrams.MIN_COUNTS", dict.fromkeys((2, 3, 4), 10**9))
    model = charrnn.train(corpus_file, tmp_path / "m", **how)
    assert (model.config.ngrams, model.config.num_ngrams) == (3, 0)
    for name, weights in plain.model.state_dict().items():
        np.testing.assert_array_equal(model.model.state_dict()[name], weights, err_msg=name)
    assert model.loss(TEXT) == plain.loss(TEXT)
    assert model.sample(40, seed=1) == plain.sample(40, seed=1)
