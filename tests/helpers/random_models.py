"""Models with random parameters and n-grams, and the same for the reference implementation."""

from dataclasses import replace

import numpy as np

from charrnn.api import LanguageModel
from charrnn.config import ModelConfig
from charrnn.network.carried_state import CarriedState
from charrnn.network.model import Model
from charrnn.text.vocabulary import UNKNOWN, CharVocabulary

from . import naive


def model_of(
    cell, V=11, H=5, L=2, seed=1, scale=2.0, ngrams=1, dtype=np.float32, threads=1, **more
):
    """A model with large random weights and the parameters of its naive twin.

    ngrams: ids of the longest n-grams, those of random ids. more: fields of ModelConfig.
    """
    ids = np.random.default_rng(seed).integers(0, V, (40, 1))
    config, table = with_ngrams(ModelConfig(V, cell, H, L, **more), ids, ngrams, seed)
    params = naive.random_params(config, np.random.default_rng(seed), scale)
    model = Model(config, dtype=dtype, threads=threads, ngrams=table)
    model.load_state_dict({name: a.astype(dtype) for name, a in params.items()})
    return model, params


def unwritable_model(**more):
    """A language model of "\\n ab" that would write little but the unknown symbol, unasked."""
    model, params = model_of("gru", V=5, **more)
    params["output.bias"][4] = 50
    model.load_state_dict({name: a.astype(np.float32) for name, a in params.items()})
    return LanguageModel(model, CharVocabulary("\n ab" + UNKNOWN), {})


def random_ngrams(ids, vocab_size, order, rng):
    """The table of a model that knows many of the n-grams in ids (T, N), and some others."""
    known, table = {(i,) for i in range(vocab_size)}, []
    for n in range(2, order + 1):
        columns = ids.T.tolist()
        found = {tuple(c[t : t + n]) for c in columns for t in range(len(c) - n + 1)}
        prefixes = sorted(p for p in known if len(p) == n - 1)
        for p in rng.permutation(len(prefixes))[:3]:
            found.add((*prefixes[p], int(rng.integers(vocab_size))))
        level = sorted(g for g in found if g[:-1] in known and rng.random() < 0.7)
        known |= set(level)
        table.append(np.array(level, np.int32).reshape(-1, n))
    return tuple(table)


def ngram_tuples(model):
    """The n-grams that a model knows, as the reference takes them."""
    return [tuple(ngram) for ngrams in model.ngrams.table for ngram in ngrams.tolist()]


def naive_start(model, state):
    """The last arguments of naive.forward and naive.loss that mean `state` of `model`."""
    before = [[i for i in column if i >= 0] for column in state.recent.T.tolist()]
    return state.hidden.astype(float), ngram_tuples(model), before


def with_ngrams(config, ids, order, seed=1):
    """The configuration extended by n-grams of up to `order` ids, of which ids (T, N) have many.

    Returns it and the table of the n-grams, none of which reaches over the end of a record.
    """
    table = random_ngrams(ids, config.vocab_size, order, np.random.default_rng(seed))
    table = tuple(a[(a[:, 1:] != config.record_end_id).all(axis=1)] for a in table)
    return replace(config, ngrams=order, num_ngrams=sum(map(len, table))), table


def problem(
    cell="lstm",
    size=(4, 3, 7, 5, 6, 2),
    dtype=np.float64,
    threads=1,
    dropout=0.0,
    ngrams=3,
    precision="float32",
    record_end_id=-1,
):
    """A model with random weights, its weights, x, y and a start state.

    size: T, N, V, H, E, L. ngrams: ids of the longest n-grams. The first row starts a text.
    """
    T, N, V, H, E, L = size
    plain = ModelConfig(V, cell, H, L, E, dropout, record_end_id=record_end_id)
    _, x, y, hidden = naive.random_problem(plain, T, N)
    recent = np.random.default_rng(2).integers(0, V, (ngrams - 1, N), dtype=np.int32)
    recent[:, 0] = -1
    config, table = with_ngrams(plain, np.concatenate([recent[:, 1:], x[:, 1:]]), ngrams)
    params = naive.random_params(config, np.random.default_rng(0))
    model = Model(config, dtype=dtype, threads=threads, precision=precision, ngrams=table)
    model.load_state_dict(params)
    return model, params, x, y, CarriedState(hidden.astype(dtype), recent)
