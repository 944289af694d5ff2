"""`charrnn plot`: training logs, and charts and figures of them."""

import json
import math
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from helpers.training_logs import line_of, lines_of, write_log

from charrnn.cli.render.chart import Axis, PlotLine, chart
from charrnn.evaluation.training_log import Curve


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty folder that every test runs in, with the default size of the terminal."""
    monkeypatch.chdir(tmp_path)
    for name in ("COLUMNS", "LINES", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def write(folder):
    return lambda name, lines, end="": write_log(folder / name, lines, end)


def sentence_of(result, code=1):
    assert result.exit_code == code and result.stdout == "" and "Traceback" not in result.stderr
    message = result.stderr.partition("Error: ")[2]
    assert message.count("\n") == 1 and "fault" not in message, result.stderr
    return message.strip()


def field_of(text, marks="┤│|+"):
    """The rows of the chart between the axes, without the numbers on the left."""
    rows = [re.match(rf" *[\d.,e+-]*([{marks}])(.*)", row) for row in text.splitlines()]
    return [row[2] for row in rows if row and not row[2].startswith("-")]


@pytest.mark.parametrize("low, high", [(0, 1), (1.23, 1.29), (0, 12_345), (-3, 900), (2, 2.0001)])
@pytest.mark.parametrize("most", [1, 2, 5, 9])
def test_axis_ticks_are_few_and_round_and_on_the_axis(low, high, most):
    ticks, decimals = Axis(low, high, 100).ticks(most)
    assert len(ticks) <= most + 1
    for tick in ticks:
        assert low - 1e-9 <= tick <= high + 1e-9
        assert float(f"{tick:.{decimals}f}") == pytest.approx(tick, abs=(high - low) * 1e-6)
    if most >= 5:
        steps = np.diff(ticks)
        assert len(ticks) >= 2 and steps == pytest.approx(steps[0])
        assert f"{steps[0]:e}"[0] in "125"


# --- The chart


def drawn(x, y, *, width=40, height=13, **more):
    lines = [PlotLine(Curve(np.array(x, float), np.array(y, float)), "*", **more)]
    return chart(lines, width, height, "steps", ascii_only=True)


def losses_shown(rows):
    """The numbers on the axis of the losses, from above."""
    return [float(m[1]) for row in rows if (m := re.match(r" *([\d.]+)\+", row))]


def test_chart_omits_losses_of_the_first_twentieth():
    """The loss of 9 at step 0 is off the chart; at step 5, after a twentieth, it is on it."""
    late = drawn([0, 5, 100], [9, 1, 2])
    assert min(losses_shown(late)) > 0.9 and max(losses_shown(late)) < 2.1
    early = drawn([0, 5, 100], [1, 9, 2])
    assert max(losses_shown(early)) > 6
    for rows, marks in (late, 30), (early, 30):
        field = field_of("\n".join(rows[:-3]))
        assert sum(row.count("*") for row in field) >= marks


def test_line_rises_from_corner_to_corner():
    field = field_of("\n".join(drawn([0, 5, 100], [0, 0, 1])[:-3]))
    columns = [[i for i, c in enumerate(row) if c == "*"] for row in reversed(field)]
    filled = [c for c in columns if c]
    assert filled[-1][-1] == max(map(len, field)) - 1
    starts = [c[0] for c in filled]
    assert starts == sorted(starts) and len(filled) >= 9


def test_marks_are_at_their_step_and_loss_by_the_numbers_on_the_axes():
    rows = drawn([0, 10, 20, 30], [1.0, 3.0, 3.0, 2.0], dotted=True, width=37, height=26)
    labels = {float(m[1]): r for r, row in enumerate(rows) if (m := re.match(r" *([\d.]+)\+", row))}
    per_row = (max(labels) - min(labels)) / (labels[min(labels)] - labels[max(labels)])
    margin = rows[-3].index("+")
    ticks = [i for i, c in enumerate(rows[-3]) if c == "+"][1:]
    numbers = [float(n) for n in rows[-2].split()]
    per_column = (numbers[-1] - numbers[0]) / (ticks[-1] - ticks[0])
    left, top = numbers[0] - ticks[0] * per_column, max(labels) + labels[max(labels)] * per_row
    found = sorted(
        (left + column * per_column, top - r * per_row)
        for r, row in enumerate(rows[:-3])
        for column in [i for i, c in enumerate(row) if c == "*" and i > margin]
    )
    for (step, loss), expected in zip(found, [(10, 3), (20, 3), (30, 2)], strict=True):
        assert step == pytest.approx(expected[0], abs=per_column)
        assert loss == pytest.approx(expected[1], abs=per_row)


def test_braille_characters_have_the_dots_of_unicode():
    curve = Curve(np.array([0.0, 1.0]), np.array([1.0, 1.0]))
    rows = chart([PlotLine(curve, "a", dotted=True)], 40, 8, "", ascii_only=False)
    [row] = [row for row in field_of("\n".join(rows)) if row.strip()]
    # The middle of 20 dots is the tenth from below, in the third cell from below its second.
    assert set(row.strip()) <= set("⠄⠠⠂⠐ ") and len(row) > 30


def test_chart_of_one_run_marks_its_best_validation_loss(invoke, write):
    write("model.log.jsonl", lines_of(200, best=120))
    out = invoke("plot").stdout
    rows = out.splitlines()
    assert len(rows) == 23 and max(map(len, rows)) <= 80
    assert rows[0] == "model, nats per character"
    assert "best 1.5000 ● at 2 min, last 1.9000" in rows[1]
    assert "last 1.0100" in rows[2]
    assert out.count("●") == 2 and "\x1b" not in out and rows[-1].strip() == "minutes"
    [(r, column)] = [(r, row.index("●")) for r, row in enumerate(field_of(out)) if "●" in row]
    width = len(rows[-3]) - rows[-3].index("└") - 1
    assert column == pytest.approx(width * 120 / 200, abs=1)


def test_ascii_chart_on_request_and_without_unicode(invoke, write, monkeypatch):
    log = write("model.log.jsonl", lines_of(200, best=120))
    out = invoke("plot", "--ascii").stdout
    assert out.isascii() and out.count("O") == 2 and "**" in out
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "charrnn", "plot", str(log)]
    narrow = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert narrow.stdout == out


@pytest.mark.parametrize(
    "axis, shown",
    [
        ("seconds", "minutes"),
        ("steps", "steps"),
        ("epochs", "epochs"),
        ("chars", "characters"),
    ],
)
def test_x_axis_has_the_unit_asked_for(invoke, write, axis, shown):
    write("model.log.jsonl", lines_of(200, best=120))
    rows = invoke("plot", "-x", axis).stdout.splitlines()
    assert rows[-1].strip() == shown
    ticks = [float(n.replace(",", "")) for n in rows[-2].split()]
    end = {"seconds": 200 / 60, "steps": 200, "epochs": 2, "chars": 200_000}[axis]
    assert ticks[0] == 0 and end * 0.8 <= ticks[-1] <= end
    at = {"seconds": "2 min", "steps": "120 steps", "epochs": "1.2 epochs"}
    assert f"at {at.get(axis, '120,000 characters')}" in rows[1]


@pytest.mark.parametrize(
    "seconds, shown",
    [(100, "seconds"), (119, "seconds"), (120, "minutes"), (7199, "minutes"), (7200, "hours")],
)
def test_time_axis_has_a_suitable_unit(invoke, write, seconds, shown):
    write("model.log.jsonl", [line_of(1), line_of(2, seconds=seconds)])
    assert invoke("plot").stdout.splitlines()[-1].strip() == shown


def test_chart_of_several_runs_has_a_table_and_letters(invoke, write):
    write("small.log.jsonl", lines_of(200, best=120))
    write("large.log.jsonl", lines_of(400, best=390, floor=1.2))
    write("new.log.jsonl", [line_of(i) for i in range(1, 9)])
    out = invoke("plot", "small.log.jsonl", "large.safetensors", "new.log.jsonl").stdout
    rows = out.splitlines()
    assert len(rows) == 23 and max(map(len, rows)) <= 80
    assert re.fullmatch(r"a small +1\.5000  2 min +1\.9000 +1\.0100", rows[1])
    assert re.fullmatch(r"b large +1\.2000  6\.5 min +1\.2250 +1\.0050", rows[2])
    assert re.fullmatch(r"c new +-  no validation yet +2\.0000", rows[3])
    field = "".join(field_of(out))
    assert field.count("A") == field.count("B") == 1 and field.count("C") == 0
    assert field.count("a") > 2 and field.count("b") > 2 and field.count("c") >= 1


def test_runs_of_the_same_name_are_named_by_path(invoke, write, folder):
    for name in "xy":
        (folder / name).mkdir()
        write(f"{name}/model.log.jsonl", lines_of(50, 30))
    rows = invoke("plot", "x/model.log.jsonl", "y/model.safetensors").stdout.splitlines()
    assert rows[1].startswith("a x/model ") and rows[2].startswith("b y/model ")
    same = invoke("plot", "x/model.safetensors", "x/model.log.jsonl", "x/model.state.safetensors")
    assert same.stdout.startswith("model, nats")


def test_long_run_names_are_shortened(invoke, write):
    names = ["a" * 150, "b" * 150]
    for name in names:
        write(f"{name}.log.jsonl", lines_of(50, 30))
    rows = invoke("plot", *(f"{name}.log.jsonl" for name in names)).stdout.splitlines()
    assert max(map(len, rows)) <= 80 and "...aaa" in rows[1] and "1.5000" in rows[1]


def test_chart_fills_the_terminal(invoke, write):
    write("model.log.jsonl", lines_of(200, best=120))
    for columns, rows in ((40, 15), (132, 50)):
        env = {"COLUMNS": str(columns), "LINES": str(rows)}
        drawn = invoke("plot", env=env).stdout.splitlines()
        assert len(drawn) == rows - 1
        assert columns - 2 <= max(map(len, drawn[3:])) <= columns
    assert invoke("plot", env={"COLUMNS": "1", "LINES": "1"}).exit_code == 0


def test_chart_has_colors_on_terminals_only(write):
    pty = pytest.importorskip("pty")
    log = write("model.log.jsonl", lines_of(200, best=120))
    for more, colored in (({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, True)):
        controller, terminal = pty.openpty()
        command = [sys.executable, "-m", "charrnn", "plot", str(log)]
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80", "LINES": "24", **more}
        process = subprocess.Popen(command, env=environment, stdout=terminal)
        os.close(terminal)
        out = b""
        try:
            while data := os.read(controller, 4096):
                out += data
        except OSError:
            pass
        os.close(controller)
        assert process.wait(20) == 0
        assert (b"\x1b[38;5;" in out) == colored
        text = re.sub(r"\x1b\[[0-9;]*m", "", out.decode())
        assert max(map(len, text.splitlines())) <= 80 and text.count("\n") == 23
        assert ("●" in text) == (more.get("TERM") != "dumb")


def test_chart_of_extreme_losses(invoke, write):
    cases = {
        "one": [line_of(1)],
        "one of validation": [line_of(1, None, 2.0)],
        "equal": [line_of(i, 2.0, 2.0) for i in range(5)],
        "zero": [line_of(0, 0.0, 0.0, seconds=0)] * 3,
        "large": [line_of(i, 10.0**i, -(10.0**i)) for i in range(15)],
        "small": [line_of(i, 1 + 1e-15 * i, 1.0) for i in range(9)],
        "no order": [line_of(i, i, i) for i in (5, 1, 9, 2)],
        "diverging": [*lines_of(100, 90), line_of(101, 1e14, 1e14)],
        "nothing but NaN but one": [*[line_of(i, math.nan) for i in range(9)], line_of(9)],
    }
    for name, lines in cases.items():
        write("a.log.jsonl", lines)
        write("b.log.jsonl", lines_of(30, 20))
        for arguments in (["a.log.jsonl"], ["a.log.jsonl", "b.log.jsonl"]):
            for option in ["--ascii"], []:
                result = invoke("plot", *arguments, *option)
                assert result.exit_code == 0, (name, result.stderr)
                assert len(result.stdout.splitlines()) == 23, name
                assert any(row.strip() for row in field_of(result.stdout)), name
                assert max(map(len, result.stdout.splitlines())) <= 80, name


def test_chart_of_a_long_log(invoke, folder):
    line = json.dumps(line_of(1234567, 1.5, 1.25))
    with open("a.log.jsonl", "w") as file:
        for step in range(100_000):
            file.write(line.replace("1234567", str(step)).replace("1.25", f"{1 + step % 7}") + "\n")
    result = invoke("plot", "a.log.jsonl", "--x-axis", "steps")
    assert result.exit_code == 0 and "best 1.0000" in result.stdout
    # Validation is the mean of 1 to 7.
    [row] = [row for row in result.stdout.splitlines() if row.lstrip().startswith("4")]
    assert len(row) > 70


# --- Errors


def test_run_without_losses_is_omitted_or_an_error(invoke, write):
    write("model.log.jsonl", [])
    assert "only just begun" in sentence_of(invoke("plot"))
    write("model.log.jsonl", [], '{"step": 1, "epo')
    assert "only just begun" in sentence_of(invoke("plot"))
    write("other.log.jsonl", lines_of(30, 20))
    both = invoke("plot", "model.safetensors", "other.log.jsonl")
    assert both.exit_code == 0 and both.stdout.startswith("other, ")
    assert "model is omitted" in both.stderr


def test_run_without_validation_has_a_chart(invoke, write):
    write("model.log.jsonl", [line_of(1), line_of(2)])
    result = invoke("plot")
    assert result.exit_code == 0 and "validation  none yet" in result.stdout


def test_damaged_lines_are_reported(invoke, write):
    write("model.log.jsonl", [line_of(1)], "{\n{\n" + json.dumps(line_of(2)))
    result = invoke("plot")
    assert result.exit_code == 0 and "damaged lines skipped: 2" in result.stderr


def test_plot_reports_missing_files(invoke, write, model_file, folder):
    assert "'charrnn train' writes" in sentence_of(invoke("plot"))
    assert "nothing.safetensors" in sentence_of(invoke("plot", "nothing.safetensors"))
    (folder / "model.safetensors").write_bytes(model_file.read_bytes())
    message = sentence_of(invoke("plot", "model.safetensors"))
    assert message == "model.safetensors has no log: model.log.jsonl is missing."
    assert "cannot read" in sentence_of(invoke("plot", str(folder)))


def test_run_names_are_escaped(invoke, write):
    write("a\x1b[31m.log.jsonl", lines_of(30, 20))
    assert invoke("plot", "a\x1b[31m.log.jsonl").stdout.startswith(r"a\x1b[31m, nats")


def test_plot_reads_a_log_from_stdin(invoke, write):
    data = write("a", lines_of(30, 20)).read_bytes()
    assert invoke("plot", "-", input=data).stdout.startswith("stdin, nats per character")


def test_chart_rejects_more_runs_than_letters(invoke, write):
    names = [write(f"{i}.log.jsonl", [line_of(1)]) for i in range(27)]
    assert "26 runs" in sentence_of(invoke("plot", *names), 2)
    assert invoke("plot", *names[:26]).exit_code == 0


# --- Figures


def test_figure_without_matplotlib_is_an_error_that_says_what_to_install(
    invoke, write, folder, monkeypatch
):
    write("model.log.jsonl", lines_of(30, 20))
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    message = sentence_of(invoke("plot", "-o", "a.png"))
    assert "pip install 'charrnn[plot]'" in message and not (folder / "a.png").exists()


def test_figure_of_an_unknown_format_is_an_error(invoke, write):
    write("model.log.jsonl", lines_of(30, 20))
    for name in ("a.gif", "a", "png", ""):
        assert ".png, .svg or .pdf" in sentence_of(invoke("plot", "-o", name), 2)


HEADS = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}


@pytest.mark.parametrize("kind", HEADS)
def test_figure_files_are_reproducible(invoke, write, folder, kind):
    pytest.importorskip("matplotlib")
    write("model.log.jsonl", lines_of(200, 120))
    for name in f"a.{kind}", f"b.{kind.upper()}":
        result = invoke("plot", "-o", name, "-x", "epochs")
        assert (result.exit_code, result.output) == (0, "")
    first = (folder / f"a.{kind}").read_bytes()
    assert first.startswith(HEADS[kind]) and first == (folder / f"b.{kind.upper()}").read_bytes()
    assert sorted(p.name for p in folder.iterdir()) == [
        f"a.{kind}",
        f"b.{kind.upper()}",
        "model.log.jsonl",
    ]


def test_figure_shows_the_losses(write, folder):
    """The lines of the Matplotlib axes, as the picture itself is hard to read."""
    figure = pytest.importorskip("matplotlib.figure")
    from charrnn.cli.render.figure import _draw
    from charrnn.cli.render.run_curves import AxisUnit, read_runs

    write("_$a$.log.jsonl", lines_of(200, 120))
    write("b.log.jsonl", [line_of(1, 2.5), line_of(2, 2.25)])
    axes = figure.Figure().add_subplot()
    runs = read_runs(("_$a$.log.jsonl", "b.log.jsonl"), "steps")
    _draw(axes, runs, AxisUnit(1, "steps"))
    train, val, best, other, *_ = axes.get_lines()
    assert list(train.get_xdata()) == list(range(1, 201))
    assert list(val.get_xdata()) == list(range(10, 201, 10)) and min(val.get_ydata()) == 1.5
    assert (*best.get_xdata(), *best.get_ydata()) == (120, 1.5)
    assert list(other.get_ydata()) == [2.5, 2.25]
    texts = [text.get_text() for text in axes.get_legend().get_texts()]
    assert texts == [
        r"_\$a\$, validation: best 1.5000", r"_\$a\$, training: last 1.0100",
        "b, training: last 2.2500",
    ]  # fmt: skip
    low, high = axes.get_ylim()
    assert low < 1.0 and 2.25 < high < 2.5  # without the first losses, 3 and 2.5
    assert axes.get_xlabel() == "steps" and axes.get_ylabel() == "nats per character"


def test_figure_of_many_points_and_runs_is_a_small_file(invoke, write, folder):
    pytest.importorskip("matplotlib")
    names = [write(f"日{i}.log.jsonl", lines_of(3000, 1500)) for i in range(12)]
    result = invoke("plot", *names, "-o", "a.svg")
    assert (result.exit_code, result.output) == (0, "")
    ElementTree.parse(folder / "a.svg")
    assert (folder / "a.svg").stat().st_size < 2_000_000


def test_figure_never_replaces_a_log(invoke, write, folder):
    pytest.importorskip("matplotlib")
    log = write("a.svg", lines_of(30, 20))
    before = log.read_bytes()
    assert "replace" in sentence_of(invoke("plot", "a.svg", "-o", "a.svg"), 2)
    assert log.read_bytes() == before
    assert "no folder" in sentence_of(invoke("plot", "a.svg", "-o", "no/a.png"))
    assert [p.name for p in folder.iterdir()] == ["a.svg"]
