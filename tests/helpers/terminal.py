"""`charrnn write` on a terminal whose screen the tests read."""

import fcntl
import multiprocessing
import os
import pty
import select
import signal
import struct
import sys
import termios
import time

import pyte

TIMEOUT = 60  # seconds, enough on a busy machine
HELP = "^Q quit"  # the end of the last line: the screen is complete
QUICK = multiprocessing.get_context("forkserver")  # starts with all modules loaded
QUICK.set_forkserver_preload(
    ["charrnn.generation.suggester", "charrnn.cli.editor.screen", "charrnn.generation.sampler"]
)
NEW = multiprocessing.get_context("spawn")


class Terminal:
    """`charrnn write` on a terminal of its own.

    `code` runs before the command; the files `stdin` and `stdout` replace the terminal. `new`
    starts a new interpreter; `shell` runs the command in a shell that, when it is suspended,
    prints "in the shell" and waits for a line before it resumes the command.
    """

    def __init__(
        self, *arguments, size=(24, 80), wait=True, new=False, shell=False, env=None, **how
    ):
        self.master, self.slave = pty.openpty()
        self.resize(*size)
        self.screen = pyte.Screen(size[1], size[0])
        self.shown, self._stream = b"", pyte.ByteStream(self.screen)
        self.before = termios.tcgetattr(self.slave)
        env = {"TERM": "xterm-256color", **(env or {})}
        self.process = (NEW if new else QUICK).Process(
            target=_in_shell if shell else _run,
            args=(os.ttyname(self.slave), os.getcwd(), list(map(str, arguments)), env),
            kwargs=how,
        )
        self.process.start()
        if wait:
            self.until(lambda: HELP in self.text)

    @property
    def text(self):
        return "\n".join(line.rstrip() for line in self.screen.display)

    def resize(self, rows, columns):
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def until(self, condition):
        """Read the output until a condition holds."""
        end = time.monotonic() + TIMEOUT
        while not condition():
            assert time.monotonic() < end, self.text
            self._read(0.2)

    def _read(self, seconds):
        if self.master >= 0 and select.select([self.master], [], [], seconds)[0]:
            data = os.read(self.master, 1 << 16)
            self.shown += data
            self._stream.feed(data)

    def type(self, keys, condition=None):
        os.write(self.master, keys if isinstance(keys, bytes) else keys.encode())
        if condition is not None:
            self.until(condition)

    def signal(self, number):
        os.kill(self.process.pid, number)

    def hang_up(self):
        os.close(self.slave)
        os.close(self.master)
        self.master = self.slave = -1

    def ended(self):
        """Wait for the end of the command, read its output and return its exit code."""
        end = time.monotonic() + TIMEOUT
        while self.process.exitcode is None:
            assert time.monotonic() < end, self.text
            self._read(0.02)
        while self.master >= 0 and select.select([self.master], [], [], 0)[0]:
            self._read(0)
        return self.process.exitcode

    @property
    def is_restored(self):
        """Whether the mode and the screen of the terminal are restored."""
        shown = self.shown
        return (
            termios.tcgetattr(self.slave) == self.before
            and shown.count(b"\x1b[?1049h") == shown.count(b"\x1b[?1049l")
            and shown.rfind(b"\x1b[?25h") >= shown.rfind(b"\x1b[?25l")  # the cursor
            and shown.rfind(b"\x1b[?2004l") >= shown.rfind(b"\x1b[?2004h")  # bracketed paste
        )

    def close(self):
        self.process.kill()
        self.process.join()
        if self.master >= 0:
            self.hang_up()


def _take(terminal, folder, env, stdin=None, stdout=None):
    """Make `terminal` the controlling terminal, with the standard streams that are not files."""
    os.setsid()
    descriptor = os.open(terminal, os.O_RDWR)
    fcntl.ioctl(descriptor, termios.TIOCSCTTY, 0)
    os.chdir(folder)
    os.environ.update(env)
    files = [
        os.open(stdin, os.O_RDONLY) if stdin else descriptor,
        os.open(stdout, os.O_WRONLY | os.O_CREAT) if stdout else descriptor,
        descriptor,
    ]
    for i, file in enumerate(files):
        os.dup2(file, i)


def _run(terminal, folder, arguments, env, code="", **streams):
    """Run the command in this process."""
    _take(terminal, folder, env, **streams)
    for number, (name, mode) in enumerate([("stdin", "r"), ("stdout", "w"), ("stderr", "w")]):
        setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    exec(code, {})
    from charrnn.cli import main

    main(["write", *arguments])


def _in_shell(terminal, folder, arguments, env):
    _take(terminal, folder, env)
    script = 'set -m; "$@"; echo in the shell; read; fg'
    command = [sys.executable, "-m", "charrnn", "write", *arguments]
    os.execvp("bash", ["bash", "-c", script, "bash", *command])
