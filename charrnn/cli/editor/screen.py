"""The editor of `charrnn write`: the text with a suggestion, a status line and a line of help."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import termios
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TextIO

from prompt_toolkit.application import Application, run_in_terminal
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.document import Document
from prompt_toolkit.filters import Condition
from prompt_toolkit.input import create_input
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.keys import Keys
from prompt_toolkit.layout import (
    ConditionalContainer,
    FormattedTextControl,
    HSplit,
    Layout,
    ScrollOffsets,
    Window,
)
from prompt_toolkit.output import create_output
from prompt_toolkit.styles import Style

from ...errors import CharRNNError, display_path, escape_unprintable
from .document import EditedFile
from .suggestion_view import SuggestionView

if TYPE_CHECKING:
    from ...generation.suggester import Suggester

SLICE_SECONDS = 0.01  # the suggester works this long before keys are read again
AUTOSAVE_SECONDS = 10
HELP_HEIGHT, STATUS_HEIGHT = 6, 3  # a terminal with fewer rows does not show these lines
HELP = "Tab word  → character  End line  ^N another  ^_ undo  ^S save  ^Q quit"
STYLE = Style([("suggestion", "dim"), ("status", "reverse"), ("help", "dim")])
SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Editor:
    """A full-screen editor for one text, with a suggestion at the cursor.

    It draws on `terminal` and reads keys from `keyboard`.
    """

    def __init__(
        self, suggester: Suggester, file: EditedFile, text: str, keyboard: TextIO, terminal: TextIO
    ) -> None:
        self._suggester, self._file, self._keyboard = suggester, file, keyboard
        self._terminal_mode = termios.tcgetattr(keyboard)
        self._message = self._leftover_message()
        self._answers: dict[str, Callable[[], None]] = {}  # by key, while a question is shown
        self._changed = asyncio.Event()
        self._buffer = Buffer(
            document=Document(text, len(text)),
            multiline=True,
            on_text_changed=self._on_change,
            on_cursor_position_changed=self._on_change,
        )
        self._text_window = self._make_text_window()
        self._status_window = self._make_status_window()
        self._app: Application[int] = Application(
            self._make_layout(),
            style=STYLE,
            full_screen=True,
            input=create_input(keyboard),
            output=create_output(terminal),
        )

    @property
    def text(self) -> str:
        return self._buffer.text

    def suggestion(self) -> str:
        """Return the suggestion at the cursor, as far as it is drawn; "" within a line."""
        document = self._buffer.document
        if self._answers or not document.is_cursor_at_the_end_of_line:
            return ""
        self._suggester.update(document.text_before_cursor)
        return self._suggester.suggestion

    def run(self) -> int:
        """Let the user edit. Return 0, or the number of the signal that ended the session.

        A session that ends with a signal or an error autosaves the text.
        """
        return asyncio.run(self._run())

    async def _run(self) -> int:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: self._fail(context.get("exception")))
        self._handle_signals(loop)
        tasks = [loop.create_task(self._suggest_loop()), loop.create_task(self._autosave_loop())]
        for task in tasks:
            task.add_done_callback(self._on_task_done)
        result = None
        try:
            result = await self._app.run_async(handle_sigint=False, set_exception_handler=False)
        except (EOFError, OSError) as error:
            if isinstance(error, OSError) and error.errno != errno.EIO:
                raise
            result = int(signal.SIGHUP)  # the terminal is gone
        finally:
            for task in tasks:
                task.cancel()
            if result != 0:  # here the loop still handles signals, which cannot end the process
                self._file.autosave_now(self.text)
        return result

    def _handle_signals(self, loop: asyncio.AbstractEventLoop) -> None:
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup ignores SIGHUP
                loop.add_signal_handler(number, self._end, int(number))
        loop.add_signal_handler(signal.SIGINT, self._quit)

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            self._fail(task.exception())

    def _end(self, result: int) -> None:
        if not self._app.is_done:
            self._app.exit(result=result)

    def _fail(self, error: BaseException | None) -> None:
        """End the session with an error from anywhere, instead of showing it on the screen."""
        if not self._app.is_done:
            self._app.exit(exception=error or RuntimeError("the event loop failed"))

    # --- Background work

    def _on_change(self, _: Buffer) -> None:
        self._message = ""
        self._changed.set()

    async def _suggest_loop(self) -> None:
        """Extend the suggestion in short slices of time, then wait for a change."""
        while True:
            self.suggestion()  # passes the text on to the suggester
            end = time.monotonic() + SLICE_SECONDS
            while (busy := self._suggester.step()) and time.monotonic() < end:
                pass
            self._app.invalidate()
            if busy:
                await asyncio.sleep(0)
            else:
                self._changed.clear()
                await self._changed.wait()

    async def _autosave_loop(self) -> None:
        while True:
            await asyncio.sleep(AUTOSAVE_SECONDS)
            self._file.autosave(self.text)

    # --- Keys

    def _editing_keys(self) -> KeyBindings:
        keys = KeyBindings()
        suggested = Condition(lambda: bool(self.suggestion()))
        for key, part in {"right": "character", "tab": "word", "end": "line"}.items():
            keys.add(key, filter=suggested)(self._accept(part))
        keys.add("tab", filter=~suggested)(lambda _: None)
        keys.add("c-n")(self._on_another)
        keys.add("c-s")(lambda _: self._save())
        keys.add("c-z")(lambda _: run_in_terminal(self._suspend))
        for key in "c-q", "c-c":
            keys.add(key)(lambda _: self._quit())
        return keys

    def _accept(self, part: str) -> Callable[[KeyPressEvent], None]:
        """Return the key handler that inserts the next character, word or line suggested."""
        return lambda event: event.current_buffer.insert_text(getattr(self._suggester, part))

    def _on_another(self, _: KeyPressEvent) -> None:
        self._suggester.resample()
        self._changed.set()

    def _suspend(self) -> None:
        """Return to the shell until `fg`, with the terminal in the shell's own mode."""
        termios.tcsetattr(self._keyboard, termios.TCSANOW, self._terminal_mode)
        os.kill(0, signal.SIGTSTP)

    def _answer_keys(self) -> KeyBindings:
        """The keys while a question is shown: any other than its answers returns to the text."""
        keys = KeyBindings()
        keys.add(Keys.Any)(lambda event: self._answer(event.data))
        keys.add("escape", eager=True)(lambda _: self._answer(""))
        keys.add("c-c")(lambda _: self._quit())
        return keys

    # --- Saving and quitting

    def _ask(self, question: str, answers: dict[str, Callable[[], None]]) -> None:
        self._message, self._answers = question, answers
        self._app.layout.focus(self._status_window)

    def _answer(self, key: str) -> None:
        answer = self._answers.get(key.lower(), lambda: None)
        self._message, self._answers = "", {}
        self._app.layout.focus(self._text_window)
        answer()
        self._changed.set()

    def _save(self, then: Callable[[], None] = lambda: None, overwrite: bool = False) -> None:
        """Save the text and call `then`; first ask if another program has changed the file."""
        if self._file.path is None:
            self._message = "no file was given: the text is printed when you quit"
            return
        try:
            if not overwrite and self._file.changed_on_disk():
                self._ask(
                    f"another program has changed {display_path(self._file.path)}: "
                    "overwrite it? (y, n)",
                    {"y": lambda: self._save(then, overwrite=True)},
                )
                return
            self._file.save(self.text)
        except CharRNNError as error:
            self._message = str(error)
        else:
            self._message = "saved"
            then()

    def _quit(self) -> None:
        """Quit, or first ask whether to save; Ctrl-C as the answer quits as SIGINT does."""
        if self._answers:
            self._end(int(signal.SIGINT))
        elif self._file.path is None or self._file.is_saved(self.text):
            self._end(0)
        else:
            self._ask(
                f"save {display_path(self._file.path)}? (y, n, Esc)",
                {"y": lambda: self._save(lambda: self._end(0)), "n": lambda: self._end(0)},
            )

    # --- Drawing

    def _make_text_window(self) -> Window:
        view = SuggestionView(self._buffer, self.suggestion, key_bindings=self._editing_keys())
        return Window(view, wrap_lines=True, scroll_offsets=ScrollOffsets(bottom=2))

    def _make_status_window(self) -> Window:
        status = FormattedTextControl(
            self._status_line, focusable=True, show_cursor=False, key_bindings=self._answer_keys()
        )
        return Window(status, height=1, style="class:status")

    def _make_layout(self) -> Layout:
        help_window = Window(FormattedTextControl(HELP), height=1, style="class:help")
        rows: list[Any] = [
            self._text_window,
            ConditionalContainer(self._status_window, self._has_rows(STATUS_HEIGHT)),
            ConditionalContainer(help_window, self._has_rows(HELP_HEIGHT)),
        ]
        return Layout(HSplit(rows), focused_element=self._text_window)

    def _has_rows(self, rows: int) -> Condition:
        """Whether the terminal has at least `rows` rows; a question is shown on any terminal."""
        return Condition(lambda: bool(self._answers) or self._app.output.get_size().rows >= rows)

    def _status_line(self) -> str:
        name = "charrnn write"
        if self._file.path is not None:
            name = display_path(self._file.path)
            name += "" if self._file.is_saved(self.text) else " *"
        return f" {name}  {self._message or self._unknown_message()}"

    def _leftover_message(self) -> str:
        leftover = self._file.leftover_autosave()
        return f"an earlier session left {display_path(leftover)}" if leftover else ""

    def _unknown_message(self) -> str:
        unknown = self._suggester.unknown
        names = " ".join(map(escape_unprintable, unknown[:10]))
        more = " ..." if len(unknown) > 10 else ""
        return f"skipping characters the model has never seen: {names}{more}" if unknown else ""
