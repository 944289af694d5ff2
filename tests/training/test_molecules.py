"""Molecules as SMILES strings: the grammar that the tests write them by, and a model of them."""

import random
from itertools import product

import pytest
from helpers.molecules import END, any_molecule, molecules, parses


def test_written_molecules_parse():
    texts = molecules(200, seed=3)
    assert len(set(texts)) == 200
    assert all(map(parses, texts))
    tokens = ["[nH]", "[N+](=O)[O-]", "[NH3+]", "Cl", "Br", "#", "=", "2", "(=", "s"]
    assert all(any(token in text for text in texts) for token in tokens)


@pytest.mark.parametrize(
    "text",
    [
        *("C", "CC(=O)O", "N#CC", "C(F)(F)(F)F", "OC(C(C)C)Br", "C[N+](=O)[O-]", "CC(=C)C[NH3+]"),
        *("C1CC1", "C1=CC1", "C12CCC1C2", "C1CC2CCC12", "C1CC(C2CC2)C1", "C1CC1C1CC1"),
        *("c1ccccc1", "c1ncccc1O", "c1ccoc1", "Cc1c[nH]cc1", "c1ccc(c2cscc2)cc1", "C1c2ccccc2C1"),
    ],
)
def test_valid_molecule_parses(text):
    assert parses(text)


@pytest.mark.parametrize(
    "text",
    [
        *("", "X", "C C", "C\n", "()", "(C)C", "C()C", "C(C", "CC)", "C=", "=C", "C==C", "C(C)="),
        *("F=C", "FCF(C)", "C(C)(C)(C)(C)C", "O=O=O", "C#C(C)C", "[O-]C", "C[NH3+]C", "C[N+]"),
        *("C1CC", "C1", "C1C1", "C1C=1C", "C2CC2", "C12CC12", "C1C(C1)C", "C1C(C2CC2)CF1"),
        *("c1cccc1", "c1ccccc2", "c1cccccc1", "c1ocoo1", "c1cccco1", "C=c1ccccc1", "c"),
    ],
)
def test_text_that_is_no_molecule_does_not_parse(text):
    assert not parses(text)


class MoreTokens(Exception):
    """The rules ask for one of these tokens."""


def texts_written(tokens, most):
    """All texts of up to `most` of `tokens` that the rules can write."""
    found, todo = set(), [[]]

    def choose(options):
        if (token := next(script, None)) is None:
            raise MoreTokens(options)
        return token

    while todo:
        start = todo.pop()
        script = iter(start)
        try:
            any_molecule(choose)
            found.add("".join(start))
        except MoreTokens as more:
            (options,) = more.args
            todo += [
                [*start, t] for t in options if t == END or (t in tokens and len(start) < most)
            ]
    return found


@pytest.mark.parametrize(("tokens", "most"), [("CO=1", 5), ("Cc()", 5), ("C=()", 5), ("co1", 7)])
def test_exactly_the_texts_parse_that_the_rules_can_write(tokens, most):
    texts = ("".join(t) for n in range(most + 1) for t in product(tokens, repeat=n))
    parsed = set(filter(parses, texts))
    assert parsed == texts_written(tokens, most) and len(parsed) > 3


def corrupted(text, rng):
    at = rng.randrange(len(text))
    return text[:at] + rng.choice("CNOFcno()=#12") + text[at + 1 :]


@pytest.mark.slow
def test_a_model_of_molecules_writes_molecules(tmp_path, invoke):
    """A random character in place of another one spoils most molecules."""
    texts = molecules(6000, seed=1)
    rng = random.Random(0)
    assert sum(parses(corrupted(text, rng)) for text in texts) < 0.4 * len(texts)
    (tmp_path / "corpus").write_text("\n".join(texts))
    model = tmp_path / "m"
    settings = "--records --num-layers 1 --hidden-size 128 --epochs 8 --weight-decay 0.05 -q"
    assert invoke("train", tmp_path / "corpus", "-o", model, *settings.split()).exit_code == 0
    result = invoke("sample", "-m", model, "-n", 500, "--length", 300, "--seed", 1)
    written = result.stdout.splitlines()
    assert len(written) == 500 and sum(map(parses, written)) > 350
    assert len(set(filter(parses, written)) - set(texts)) > 300
