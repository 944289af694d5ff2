"""Any bytes as a text, a prime or an argument are accepted, or refused in one sentence."""

import encodings.aliases

import pytest
from click.testing import CliRunner
from helpers.runs import SMALL, log_of
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from charrnn.api import read_model
from charrnn.cli import main
from charrnn.text.streams import split

QUICK = settings(
    deadline=None,
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
ODD_TEXTS = [
    "e\u0301 \u00e9 a\u0308\u0323\u0301",  # combining marks
    "\U0001f9d1\u200d\U0001f680 \U0001d518 \U0010ffff",  # astral planes, joined
    "\u05e9\u05dc\u05d5\u05dd \u202eabc\u202c \u200f",  # right to left
    "a\rb\r\nc\n\x00\x85\u2028\u2029\x0c\x1c",  # every line end, and NUL
    "\ufeffmid\ufeffdle\ufeff",  # byte-order marks
    "\x1b[31m\x1b]0;title\x07\x9b2J\x7f",  # terminal escape sequences
    "\ufffe\uffff\ufdd0\U0001fffe\ue000",  # noncharacters, a private-use character
]
any_text = st.sampled_from(ODD_TEXTS) | st.text(max_size=60)
any_bytes = (
    st.binary(max_size=80)
    | any_text.map(lambda text: text.encode("utf-8", "replace"))
    | st.builds(lambda a, b, n: (a + b) * n, st.binary(max_size=9), st.binary(), st.integers(1, 9))
)
TRAIN_OPTIONS = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("texts")


def run(*words, **options):
    """Run the command; nothing unprintable may reach stderr."""
    result = CliRunner().invoke(main, list(map(str, words)), prog_name="charrnn", **options)
    assert result.exit_code in (0, 1, 2), result.stderr
    assert result.stderr.replace("\n", "").isprintable(), result.stderr
    if result.exit_code:
        _, found, message = result.stderr.rpartition("Error: ")
        assert found and message.count("\n") == 1 and "fault" not in message, result.stderr
    return result


def train(folder, data, *words):
    (folder / "text").write_bytes(data)
    return run(
        *["train", folder / "text", "-o", folder / "m", "--overwrite", "--steps", "2"],
        *["--sample-every", "1", *TRAIN_OPTIONS, *words],
    )


@QUICK
@given(any_bytes, st.booleans())
@example(b"\xef\xbb\xbf", False)
@example(b"\xef\xbb\xbfab", False)
def test_training_learns_or_refuses_any_text(folder, data, as_bytes):
    """A text with two different characters is learned, and the model knows all its characters."""
    result = train(folder, data, *["--bytes"] * as_bytes)
    try:
        text = data if as_bytes else data.decode().removeprefix("\ufeff")
    except UnicodeDecodeError:
        assert result.exit_code == 1 and "byte offset" in result.stderr
        return
    assert (result.exit_code == 0) == (len(set(text)) > 1), result.stderr
    if result.exit_code == 0:
        known = read_model(folder / "m").vocabulary
        assert known.is_bytes if as_bytes else known.characters == "".join(sorted(set(text)))


ENCODINGS = sorted({*encodings.aliases.aliases.values(), "undefined", "idna", "punycode"})


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of unicode_escape
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_training_accepts_every_encoding_of_python_or_refuses_the_text(folder, encoding):
    for data in b"ab\\x\xff\x00\xd8\x80ab", "\ufeffaé🙂\n".encode("utf-16"), b"ab+-\\N{}~\x1b$B":
        result = train(folder, data, f"--encoding={encoding}")
        if result.exit_code == 0:
            assert run("sample", "-m", folder / "m", "--length", "5").exit_code == 0


COMMANDS = [["eval"], ["score"], ["score", "--json"], ["score", "--html=-"], ["novelty"]]


@pytest.mark.parametrize("kind", ["characters", "bytes"])
@QUICK
@given(data=any_bytes, command=st.sampled_from(COMMANDS), skip=st.booleans())
def test_reading_commands_show_nothing_unprintable(
    folder, model_file, bytes_model_file, kind, data, command, skip
):
    (folder / "text").write_bytes(data)
    if command == ["novelty"]:
        model = ["--corpus", folder / "text"]
    else:
        model = ["-m", {"characters": model_file, "bytes": bytes_model_file}[kind]]
        model += ["--unknown", "skip"] * skip
    result = run(*command, folder / "text", *model)
    if command != ["score", "--html=-"]:  # a browser shows the page
        assert result.stdout.replace("\n", "").isprintable()


@pytest.mark.parametrize("kind", ["characters", "bytes"])
@QUICK
@given(
    data=any_bytes,
    prime=st.text(st.characters(exclude_categories=())) | st.sampled_from(["\udcff", "\ud800a"]),
    skip=st.booleans(),
)
def test_a_prime_is_printed_unchanged_or_refused(
    folder, model_file, bytes_model_file, kind, data, prime, skip
):
    model = {"characters": model_file, "bytes": bytes_model_file}[kind]
    words = ["sample", "-m", model, "--length", "3", *["--unknown", "skip"] * skip]
    (folder / "prime").write_bytes(data)
    for how in [f"--prime-file={folder / 'prime'}"], ["--prime-file=-"]:
        result = run(*words, *how, input=data)
        if kind == "bytes" and result.exit_code == 0:
            assert result.stdout_bytes.startswith(data)
    result = run(*words, f"--prime={prime}", f"--stop={prime or 'a'}")
    if result.exit_code == 0 and not skip:
        assert result.stdout_bytes.startswith(prime.encode("utf-8", "surrogateescape"))


B, T = SMALL["batch_size"], SMALL["seq_length"]
LENGTHS = sorted({max(0, n + d) for n in (0, 2, B, T, B * T, 4 * B * T, 4 * T) for d in (-1, 0, 1)})


@pytest.mark.parametrize("val_fraction", ["0", "0.1", "0.9"])
@pytest.mark.parametrize("as_bytes", [False, True])
def test_texts_of_every_boundary_length_are_learned_or_refused(folder, as_bytes, val_fraction):
    for length in LENGTHS:
        text = ("ab🙂\n" * length)[:length]
        words = ["--val-fraction", val_fraction, *["--bytes"] * as_bytes]
        result = train(folder, data := text.encode(), *words)
        learned = len(split(data if as_bytes else text, float(val_fraction))[0])
        assert (result.exit_code == 0) == (learned >= 2), (length, result.stderr)
        if learned >= 2:
            assert log_of(folder / "m")[-1]["step"] == 2
            assert run("sample", "-m", folder / "m", "--length", "2").exit_code == 0
            assert run("eval", "-m", folder / "m", folder / "text").exit_code == 0
