"""Evaluation of a model on a text, compared with the functions that measure its parts."""

import math

import pytest

import charrnn
from charrnn.evaluation.baselines import baselines
from charrnn.evaluation.evaluate import Evaluation, evaluate
from charrnn.evaluation.loss import mean_loss, perplexity, windowed_loss
from charrnn.text.corpus import read_corpus


@pytest.fixture(scope="module")
def language_model(model_file):
    return charrnn.load(model_file)


@pytest.fixture(scope="module")
def corpus(language_model, corpus_file):
    return read_corpus(corpus_file, vocabulary=language_model.vocabulary)


def test_evaluation_measures_only_the_loss_by_default(language_model, corpus):
    loss = mean_loss(language_model.model, corpus.ids)
    assert evaluate(language_model.model, corpus) == Evaluation(len(corpus.ids), loss, None, None)


def test_evaluation_adds_windowed_loss_and_baselines_if_asked(language_model, corpus):
    counts = []
    result = evaluate(
        language_model.model, corpus, training_text=corpus, window=30, progress=counts.append
    )
    assert result.windowed_loss == windowed_loss(language_model.model, corpus.ids, 30)
    assert result.baselines == baselines(corpus.ids, corpus.ids, corpus.vocabulary)
    assert sum(counts) == len(corpus.ids)


def test_perplexity_is_exp_of_the_loss_and_infinite_if_that_overflows():
    assert perplexity(1.5) == math.exp(1.5)
    assert perplexity(1e6) == perplexity(math.inf) == math.inf
