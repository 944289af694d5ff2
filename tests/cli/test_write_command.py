"""`charrnn write`: the suggestions, the editor on a terminal, the file and its autosave."""

import contextlib
import os
import signal

import pytest

import charrnn
from charrnn.generation.suggester import Suggester

pytest.importorskip("pyte")
pytest.importorskip("prompt_toolkit")

from helpers.terminal import HELP, Terminal  # noqa: E402

RIGHT, END, UP, TAB = b"\x1b[C", b"\x1b[F", b"\x1b[A", b"\t"
CTRL_C, CTRL_N, CTRL_Q, CTRL_S, CTRL_Z = b"\x03", b"\x0e", b"\x11", b"\x13", b"\x1a"


@pytest.fixture(scope="module")
def model(model_file):
    return charrnn.load(model_file, threads=1)


def suggester_of(model, text="", **how):
    return Suggester(model.model, model.vocabulary, text, **{"length": 30, "seed": 5} | how)


# --- On a terminal


@pytest.fixture
def terminal(model_file, tmp_path, monkeypatch):
    """Start `charrnn write` on a terminal, in an empty folder."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    with contextlib.ExitStack() as stack:

        def start(*arguments, model=model_file, **options):
            arguments = ("-m", model, "--seed", "5", "--temperature", "1", *arguments)
            terminal = Terminal(*arguments, **options)
            stack.callback(terminal.close)
            return terminal

        yield start


def test_editor_accepts_parts_of_a_suggestion_and_prints_the_text(terminal, model, tmp_path):
    t = terminal("--prime", "TOM: ", "--length", "50", stdout=tmp_path / "out")
    expected = model.sample(200, prime="TOM: ", seed=5)
    first = ("TOM: " + expected[:50]).split("\n")[0].rstrip()
    t.until(lambda: t.screen.display[0].rstrip() == first)
    text = "TOM: "
    for key, part in (RIGHT, "character"), (TAB, "word"), (END, "line"):
        suggester = suggester_of(model, text, length=50, seed=5)
        suggester._drawn = expected[len(text) - 5 :][:50]
        text += getattr(suggester, part)
        lines = (text + expected[len(text) - 5 :][:50]).split("\n")
        t.type(key, lambda lines=lines: t.text.startswith("\n".join(lines[:2]).rstrip()))
    at = (len(text) - text.rfind("\n") - 1, text.count("\n"))
    t.until(lambda: (t.screen.cursor.x, t.screen.cursor.y) == at)
    t.type("ü東\r!", lambda: "never seen: ü 東" in t.text)
    t.type(CTRL_Q)
    assert t.ended() == 0 and t.is_restored
    assert (tmp_path / "out").read_text() == text + "ü東\n!"
    assert os.listdir() == []


def test_editor_replaces_a_suggestion_and_undoes_an_accepted_one(terminal, model):
    t = terminal("--prime", "TOM: ", "--length", "20")
    others = [
        model.sample(20, prime="TOM: ", seed=5, first=i).split("\n")[0].rstrip() for i in range(3)
    ]
    for i, other in enumerate(others):
        t.type(CTRL_N if i else b"", lambda o=other: t.screen.display[0].rstrip() == "TOM: " + o)
    t.type(TAB, lambda: t.screen.cursor.x > 5 or t.screen.cursor.y > 0)
    t.type(b"\x1f", lambda: (t.screen.cursor.x, t.screen.cursor.y) == (5, 0))  # Ctrl-_
    assert t.screen.display[0].startswith("TOM: " + others[-1])  # it was extended after Tab
    t.type(CTRL_C)
    assert t.ended() == 0 and t.is_restored
    assert t.shown.endswith(b"TOM: \r\n")


def test_end_accepts_a_record_and_begins_the_next(terminal, records_model, tmp_path):
    t = terminal("--prime", "bb\na", model=records_model, stdout=tmp_path / "out")
    for row in 1, 2, 3:
        t.until(lambda row=row: len(t.screen.display[row].strip()) > (row == 1))
        t.type(END, lambda row=row: t.screen.cursor.y == row + 1)
    t.type(CTRL_Q)
    assert t.ended() == 0
    lines = (tmp_path / "out").read_text().split("\n")
    assert lines[0] == "bb" and lines[1][0] == "a" and lines[4:] == [""]
    assert all(line and set(line) <= {"a", "b"} for line in lines[:4])


def test_suggestions_appear_at_line_ends_only(terminal):
    t = terminal("--prime", "TOM: one\nTOM: two", "--length", "60")
    t.until(lambda: len(t.screen.display[1].rstrip()) > 8)
    t.type(b"\x1b[D", lambda: t.screen.display[1].rstrip() == "TOM: two")  # left
    t.type(RIGHT, lambda: len(t.screen.display[1].rstrip()) > 8)
    t.type(UP, lambda: len(t.screen.display[0].rstrip()) > 8)
    t.type(b"!", lambda: t.screen.display[0].startswith("TOM: one!"))
    t.type(CTRL_Q)
    assert t.ended() == 0
    assert t.shown.endswith(b"TOM: one!\r\nTOM: two\r\n")


def test_file_is_saved_on_request_and_keeps_its_bytes_and_mode(terminal):
    with open("poem.txt", "wb") as file:
        file.write(b"TOM: \xff\r\n")
    os.chmod("poem.txt", 0o640)
    t = terminal("poem.txt")
    t.type("abc", lambda: "poem.txt *" in t.text)
    t.type(CTRL_S, lambda: "poem.txt  saved" in t.text)
    with open("poem.txt", "rb") as file:
        assert file.read() == b"TOM: \xff\r\nabc"
    assert os.stat("poem.txt").st_mode & 0o777 == 0o640
    t.type(b"d" + CTRL_Q, lambda: "save poem.txt? (y, n, Esc)" in t.text)
    t.type(b"\x1b", lambda: "Esc)" not in t.text)
    t.type(b"e" + CTRL_Q, lambda: "save poem.txt? (y, n, Esc)" in t.text)
    t.type(b"y")
    assert t.ended() == 0 and t.is_restored
    with open("poem.txt", "rb") as file:
        assert file.read() == b"TOM: \xff\r\nabcde"
    assert os.listdir() == ["poem.txt"]


def test_file_is_not_saved_when_declined(terminal):
    t = terminal("poem.txt", "--prime", "TOM: ")
    t.type(b"abc" + CTRL_C, lambda: "save poem.txt? (y, n, Esc)" in t.text)
    t.type(b"n")
    assert t.ended() == 0 and t.is_restored
    assert os.listdir() == [] and b"abc\r\n" not in t.shown


def test_file_changed_by_another_program_is_overwritten_after_asking(terminal):
    t = terminal("poem.txt")
    t.type("mine", lambda: "poem.txt *" in t.text)
    with open("poem.txt", "w") as file:
        file.write("theirs")
    t.type(CTRL_S, lambda: "another program has changed poem.txt" in t.text)
    t.type("n", lambda: "another program" not in t.text)
    t.type(CTRL_C, lambda: "save poem.txt?" in t.text)
    t.type("y", lambda: "another program has changed poem.txt" in t.text)
    with open("poem.txt") as file:
        assert file.read() == "theirs"
    t.type("y")
    assert t.ended() == 0
    with open("poem.txt") as file:
        assert file.read() == "mine"


def autosaved(name):
    """The text in an autosave, which is for its owner alone."""
    with open(name, encoding="utf-8") as file:
        assert os.fstat(file.fileno()).st_mode & 0o777 == 0o600
        return file.read()


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_signal_ends_the_editor_and_autosaves(terminal, number, code):
    with open("poem.txt", "w") as file:
        file.write("before")
    with open("poem.txt.unsaved", "w") as file:
        file.write("older")
    t = terminal("poem.txt")
    assert "an earlier session left poem.txt.unsaved" in t.text
    t.type(" after", lambda: "before after" in t.text)
    t.signal(number)
    assert t.ended() == code and t.is_restored
    assert b"the unsaved text is in poem.txt.unsaved2\r\n" in t.shown
    assert autosaved("poem.txt.unsaved2") == "before after"
    for name, content in ("poem.txt", "before"), ("poem.txt.unsaved", "older"):
        with open(name) as file:
            assert file.read() == content


def test_ctrl_c_at_the_question_autosaves(terminal):
    t = terminal("poem.txt")
    t.type("abc", lambda: "poem.txt *" in t.text)
    t.type(CTRL_C, lambda: "save poem.txt?" in t.text)
    t.signal(signal.SIGINT)  # the same, from outside
    assert t.ended() == 130 and t.is_restored
    assert autosaved("poem.txt.unsaved") == "abc"
    assert os.listdir() == ["poem.txt.unsaved"]


def test_saved_text_is_not_autosaved(terminal):
    with open("poem.txt", "w") as file:
        file.write("before")
    t = terminal("poem.txt")
    t.signal(signal.SIGTERM)
    assert t.ended() == 143
    assert os.listdir() == ["poem.txt"]


def test_closed_terminal_ends_the_editor_and_autosaves(terminal):
    t = terminal(new=True)
    t.type("abc", lambda: t.text.startswith("abc"))
    t.hang_up()
    assert t.ended() == 129
    assert autosaved("charrnn-write.unsaved") == "abc"


@pytest.mark.parametrize(
    "fault",
    [
        "import charrnn.generation.suggester as c\n"
        "def resample(self): raise ValueError('a fault')\n"
        "c.Suggester.resample = resample",
        "import charrnn.generation.suggester as c\n"
        "step = c.Suggester.step\n"
        "def faulty(self):\n"
        "    if '!' in self._text: raise ValueError('a fault')\n"
        "    return step(self)\n"
        "c.Suggester.step = faulty",
        "import charrnn.cli.editor.screen as s\n"
        "line = s.Editor._status_line\n"
        "def faulty(self):\n"
        "    if '!' in self.text: raise ValueError('a fault')\n"
        "    return line(self)\n"
        "s.Editor._status_line = faulty",
    ],
    ids=["key", "background", "drawing"],
)
def test_error_restores_the_terminal_and_autosaves(terminal, fault):
    t = terminal(code=fault)
    t.type("abc", lambda: t.text.startswith("abc"))
    t.type(b"!" + CTRL_N)
    assert t.ended() == 1 and t.is_restored
    assert b"the unsaved text is in charrnn-write.unsaved\r\n" in t.shown
    assert b"a fault" in t.shown and b"Traceback" not in t.shown
    assert autosaved("charrnn-write.unsaved") == "abc!"


def test_killed_editor_leaves_a_recent_autosave(terminal):
    t = terminal(code="import charrnn.cli.editor.screen as s; s.AUTOSAVE_SECONDS = 0.01")
    t.type("abc", lambda: t.text.startswith("abc"))
    t.until(lambda: os.path.exists("charrnn-write.unsaved") and autosaved("charrnn-write.unsaved"))
    t.until(lambda: autosaved("charrnn-write.unsaved") == "abc")
    t.signal(signal.SIGKILL)
    assert t.ended() == -9
    assert autosaved("charrnn-write.unsaved") == "abc"


def test_autosave_is_deleted_after_quitting(terminal):
    t = terminal(code="import charrnn.cli.editor.screen as s; s.AUTOSAVE_SECONDS = 0.01")
    t.type("abc", lambda: os.path.exists("charrnn-write.unsaved"))
    t.type(CTRL_Q)
    assert t.ended() == 0
    assert os.listdir() == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_failing_stdout_autosaves(terminal):
    t = terminal(stdout="/dev/full")
    t.type("abc", lambda: t.text.startswith("abc"))
    t.type(CTRL_Q)
    assert t.ended() == 1
    assert b"cannot write to stdout" in t.shown
    assert autosaved("charrnn-write.unsaved") == "abc"


def test_failing_save_shows_an_error_and_can_be_repeated(terminal):
    os.mkdir("folder")
    t = terminal("folder/poem.txt")
    t.type("abc", lambda: "poem.txt *" in t.text)
    os.rename("folder", "moved")
    t.type(CTRL_S, lambda: "cannot write folder/poem.txt: there is no folder" in t.text)
    t.type("d", lambda: "cannot write" not in t.text)
    os.rename("moved", "folder")
    t.type(CTRL_S, lambda: "saved" in t.text)
    t.type(CTRL_Q)
    assert t.ended() == 0
    with open("folder/poem.txt") as file:
        assert file.read() == "abcd"


def test_editor_starts_with_the_text_from_stdin(terminal):
    os.mkfifo("pipe")
    t = terminal("-", stdin="pipe", wait=False)
    with open("pipe", "wb") as pipe:
        pipe.write(b"from a pipe: \xff")
    t.until(lambda: HELP in t.text)
    t.type("abc", lambda: "abc" in t.text)
    t.type(CTRL_Q)
    assert t.ended() == 0 and t.is_restored
    assert t.shown.endswith(b"from a pipe: \xffabc\r\n")


def test_editor_survives_tiny_and_large_windows(terminal):
    t = terminal("poem.txt")
    t.type("abc", lambda: t.text.startswith("abc"))
    for rows, columns in (3, 20), (1, 2), (1, 1), (50, 200):
        t.screen.resize(rows, columns)
        t.resize(rows, columns)
        os.kill(t.process.pid, signal.SIGWINCH)
        t.type("d")
    t.until(lambda: t.text.startswith("abcdddd") and HELP in t.text)
    t.type(CTRL_C, lambda: "save poem.txt?" in t.text)
    t.type("y")
    assert t.ended() == 0 and t.is_restored


def test_tiny_window_shows_text_and_questions(terminal):
    t = terminal("poem.txt", size=(2, 40), wait=False)
    t.until(lambda: b"\x1b[?1049h" in t.shown)
    t.type("abc", lambda: t.screen.display[0].startswith("abc") and HELP not in t.text)
    t.type(CTRL_C, lambda: "save poem.txt?" in t.text)
    t.type("n")
    assert t.ended() == 0 and t.is_restored


def test_ctrl_z_suspends_and_fg_resumes(terminal):
    t = terminal(shell=True)
    t.type("abc", lambda: t.text.startswith("abc"))
    t.type(CTRL_Z, lambda: b"in the shell" in t.shown)
    assert t.is_restored
    t.type("\r")
    t.type("d", lambda: t.shown.count(b"\x1b[?1049h") == 2 and t.text.startswith("abcd"))
    t.type(CTRL_Q)
    assert t.ended() == 0 and t.is_restored


def test_editor_escapes_control_characters(terminal):
    with open("poem.txt", "w") as file:
        file.write("TOM: \x1b]0;evil\x07\x1b[31m")
    t = terminal("poem.txt")
    t.until(lambda: "^[]0;evil^G^[[31m" in t.text)
    assert b"\x1b]0;evil" not in t.shown
    t.type(CTRL_Q)
    assert t.ended() == 0


def test_suggested_bytes_that_are_not_utf8_are_escaped(terminal, bytes_model_file):
    t = terminal("--temperature", "5", "--length", "200", model=bytes_model_file)
    t.until(lambda: "\\x" in t.text or "\\udc" in t.text)
    t.type(CTRL_Q)
    assert t.ended() == 0 and t.is_restored


# --- Usage errors


def refused(t, code):
    """The message of a command that fails without having drawn on the terminal."""
    assert t.ended() == code and t.is_restored
    assert b"\x1b" not in t.shown and b"Traceback" not in t.shown
    return t.text


def test_write_rejects_a_dumb_terminal(terminal):
    t = terminal(env={"TERM": "dumb"}, wait=False)
    assert "TERM=dumb" in refused(t, 2)


def test_write_rejects_a_missing_terminal(terminal, invoke):
    result = invoke("write")
    assert result.exit_code == 2 and "needs a terminal" in result.stderr
    assert "needs a terminal" in refused(terminal(stdin="/dev/null", wait=False), 2)


def test_write_without_prompt_toolkit_says_what_to_install(terminal):
    t = terminal(code="import sys; sys.modules['prompt_toolkit'] = None", wait=False, new=True)
    assert "pip install 'charrnn[write]'" in refused(t, 1).replace("\n", "")


def test_write_rejects_unusable_files(terminal, model_file, tmp_path):
    with open("poem.txt", "w") as file:
        file.write("text")
    cases = {
        (str(model_file),): ("replace the model", 2),
        ("poem.txt", "--prime", "a"): ("--prime is for a new one", 2),
        ("nowhere/poem.txt",): ("there is no folder", 1),
        (".",): ("it is a folder", 1),
    }
    for arguments, (sentence, code) in cases.items():
        t = terminal(*arguments, wait=False)
        assert sentence in refused(t, code).replace("\n", "")
    assert sorted(os.listdir()) == ["poem.txt"]
