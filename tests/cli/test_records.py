"""Models of records on the command line: train, score, eval."""

import itertools
import json
import math

import pytest

import charrnn

SMALL = ("--hidden-size", 8, "--num-layers", 1, "--steps", 20, "-q")


def scores(invoke, model, text):
    result = invoke("score", "-m", model, "--json", "-", input=text)
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_probabilities_of_records_sum_to_one(records_model, invoke):
    lines = ["".join(s) for n in range(5) for s in itertools.product("ab", repeat=n)]
    found = scores(invoke, records_model, "".join(line + "\n" for line in lines))
    assert [line["text"] for line in found] == lines
    total = sum(math.exp(-line["nats"]) for line in found)
    longer = sum(
        math.exp(-sum(line["surprisals"][:-1])) * (1 - math.exp(-line["surprisals"][-1]))
        for line in found
        if len(line["text"]) == 4
    )
    assert 0.02 < longer < 0.9
    assert total + longer == pytest.approx(1, abs=1e-3)


def test_a_record_has_one_surprisal_wherever_it_stands(records_model, invoke):
    lines = ["ab", "", "bbbb", "ab", "a"]
    forward = scores(invoke, records_model, "\n".join(lines))
    backward = scores(invoke, records_model, "\r\n".join(lines[::-1]) + "\r\n")
    by_line = [(line["text"], line["nats"], line["surprisals"]) for line in forward]
    assert [(line["text"], line["nats"], line["surprisals"]) for line in backward] == by_line[::-1]
    assert by_line[0] == by_line[3]
    assert [line["characters"] for line in forward] == [3, 1, 5, 3, 2]


def test_score_ends_with_the_loss_that_eval_measures(records_model, invoke):
    text = "ab\n\nbbbb\nab"
    table = invoke("score", "-m", records_model, "-", input=text).stdout.splitlines()
    result = invoke("eval", "-m", records_model, "--json", "-", input=text)
    assert "1 empty records were left out" in result.stderr
    measured = json.loads(result.stdout)
    assert measured["characters"] == 3 + 5 + 3
    assert f"{measured['nats_per_character']:.4f}" == table[-1].split()[1]
    assert invoke("eval", "-m", records_model, "--window", 2, "-", input=text).exit_code == 2


def test_models_of_records_and_of_running_text_are_not_compared(records_model, model_file, invoke):
    result = invoke("score", "-m", records_model, "-m", model_file, "-", input="ab\n")
    assert result.exit_code == 2 and "records" in result.stderr


@pytest.mark.parametrize(
    ("options", "text", "separator"),
    [
        (["--records"], "ab\r\nba\r\n", "\n"),
        (["--separator", r"\0"], "a\nb\0ba\0", "\0"),
        (["--separator", r"\n%\n"], "a\nb\n%\nba\n%\n", "\n%\n"),
        (["--records", "--bytes", "--separator", ";"], "é;ba;", ";"),
    ],
)
def test_train_reads_records(options, text, separator, tmp_path, invoke):
    (tmp_path / "text").write_bytes((text * 9).encode())
    model = tmp_path / "m"
    result = invoke("train", tmp_path / "text", "-o", model, *options, *SMALL)
    assert result.exit_code == 0, result.output
    language_model = charrnn.load(model)
    assert language_model.separator == separator
    assert "\r" not in (language_model.vocabulary.characters or "")
    (tmp_path / "new").write_bytes(text.encode())
    lines = invoke("score", "-m", model, "--json", tmp_path / "new").stdout.splitlines()
    found = [json.loads(line)["text"] for line in lines]
    assert found == text.replace("\r", "").split(separator)[:-1]
    assert invoke("score", "-m", model, "--html", "-", tmp_path / "new").exit_code == 0
    assert invoke("train", tmp_path / "text", "-o", model, "--resume", *options).exit_code == 0


@pytest.mark.parametrize("typed", ["", r"\q", "日"])
def test_impossible_separators_are_usage_errors(typed, tmp_path, invoke):
    (tmp_path / "text").write_text("a\nb\n")
    options = ["--bytes"] if typed == "日" else []
    result = invoke("train", tmp_path / "text", "--separator", typed, *options)
    assert result.exit_code == 2 and "separator" in result.stderr
    assert len(list(tmp_path.iterdir())) == 1
