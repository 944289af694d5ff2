"""Run the command and read its output."""

import contextlib
import json
import os
import pty
import re
import sys

import click

import charrnn
from charrnn.cli import main


def options_of(command):
    return [p for p in main.commands[command].params if isinstance(p, click.Option)]


def sentence_of(result, code):
    """The message of a failed command: one line after "Error:", without a traceback."""
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    head, _, message = result.stderr.partition("Error: ")
    assert head == "" or head.startswith("Usage: charrnn "), result.stderr
    assert message.count("\n") == 1 and message.endswith("\n"), result.stderr
    return message.strip()


def on_terminal(*arguments, answers=()):
    """Run the command on a terminal. Returns the exit code and the bytes shown.

    `answers` are pairs of bytes to wait for and bytes to type then.
    """
    pid, terminal = pty.fork()
    if pid == 0:
        command = [sys.executable, "-m", "charrnn", *map(os.fspath, arguments)]
        os.execve(sys.executable, command, {**os.environ, "COLUMNS": "100", "TERM": "xterm"})
    shown, since, answers = b"", 0, list(answers)
    with contextlib.suppress(OSError):  # Linux reports the end like this
        while data := os.read(terminal, 4096):
            shown += data
            while answers and answers[0][0] in shown[since:]:
                since = len(shown)
                os.write(terminal, answers.pop(0)[1])
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), shown


def objects(result):
    assert result.exit_code == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def unpainted(text):
    return re.sub(r"\x1b\[(0|38;5;16;48;5;\d+)m", "", text)


def train_model(folder, name, text, **options):
    (folder / "corpus").write_bytes(text.encode())
    sizes = {"hidden_size": 12, "num_layers": 1, "batch_size": 4, "steps": 60}
    charrnn.train(folder / "corpus", folder / name, **sizes, **options)
    return folder / name
