"""What `charrnn write` shows: the text, the suggestion after the cursor, two lines below."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import termios
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TextIO

from prompt_toolkit.application import Application, run_in_terminal
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.document import Document
from prompt_toolkit.filters import Condition
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.input import create_input
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.keys import Keys
from prompt_toolkit.layout import (
    BufferControl,
    ConditionalContainer,
    FormattedTextControl,
    HSplit,
    Layout,
    ScrollOffsets,
    UIContent,
    Window,
)
from prompt_toolkit.layout.processors import TabsProcessor
from prompt_toolkit.output import create_output
from prompt_toolkit.styles import Style

from ...errors import CharRNNError, display_path, escape_unprintable
from .document import Draft

if TYPE_CHECKING:
    from ...generation.suggester import Suggester

SLICE_SECONDS = 0.01  # of thinking between two looks at the keyboard
KEEP_SECONDS = 10  # between two times that the text is kept, in case of a crash
HELP_HEIGHT, STATUS_HEIGHT = 6, 3  # rows of a terminal that has room for these lines
TAB = 4  # columns
HELP = "Tab word  → character  End line  ^N another  ^_ undo  ^S save  ^Q leave"
STYLE = Style([("suggestion", "dim"), ("status", "reverse"), ("help", "dim")])
SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Editor:
    """A terminal with a text to edit and a companion who follows it."""

    def __init__(
        self, companion: Suggester, draft: Draft, text: str, keyboard: TextIO, terminal: TextIO
    ) -> None:
        self._companion, self._draft, self._keyboard = companion, draft, keyboard
        self._mode = termios.tcgetattr(keyboard)
        self._message = f"there is a {display_path(old)}, too" if (old := draft.left_over()) else ""
        self._answers: dict[str, Callable[[], None]] = {}  # to the question in the message
        self._changed = asyncio.Event()
        self._buffer = Buffer(
            document=Document(text, len(text)),
            multiline=True,
            on_text_changed=self._on_change,
            on_cursor_position_changed=self._on_change,
        )
        self._text = Window(
            _TextWithSuggestion(
                self._buffer,
                self.suggestion,
                input_processors=[TabsProcessor(TAB, " ", " ")],
                key_bindings=self._editing_keys(),
            ),
            wrap_lines=True,
            scroll_offsets=ScrollOffsets(bottom=2),
        )
        self._status = Window(
            FormattedTextControl(
                self._status_line,
                focusable=True,
                show_cursor=False,
                key_bindings=self._answer_keys(),
            ),
            height=1,
            style="class:status",
        )
        help_line = Window(FormattedTextControl(HELP), height=1, style="class:help")
        self._app: Application[int] = Application(
            Layout(
                HSplit(
                    [
                        self._text,
                        ConditionalContainer(self._status, self._has_rows(STATUS_HEIGHT)),
                        ConditionalContainer(help_line, self._has_rows(HELP_HEIGHT)),
                    ]
                ),
                focused_element=self._text,
            ),
            style=STYLE,
            full_screen=True,
            input=create_input(keyboard),
            output=create_output(terminal),
        )

    @property
    def text(self) -> str:
        return self._buffer.text

    def suggestion(self) -> str:
        """What the model would write at the cursor, as far as it has got; at ends of lines only."""
        document = self._buffer.document
        if self._answers or not document.is_cursor_at_the_end_of_line:
            return ""
        self._companion.update(document.text_before_cursor)
        return self._companion.suggestion

    def run(self) -> int:
        """Let the user write. Returns 0, or the signal that ended it; then the text is kept.

        On errors it is kept, too.
        """
        return asyncio.run(self._run())

    async def _run(self) -> int:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: self._fail(context.get("exception")))
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
                loop.add_signal_handler(number, self._end, number)
        loop.add_signal_handler(signal.SIGINT, self._leave)
        tasks = [loop.create_task(self._think()), loop.create_task(self._keep_now_and_then())]
        for task in tasks:
            task.add_done_callback(lambda t: t.cancelled() or self._fail(t.exception()))
        end = None
        try:
            end = await self._app.run_async(handle_sigint=False, set_exception_handler=False)
        except (EOFError, OSError) as error:
            if isinstance(error, OSError) and error.errno != errno.EIO:
                raise
            end = signal.SIGHUP  # the terminal is gone
        finally:
            for task in tasks:
                task.cancel()
            if end != 0:  # in here, where signals cannot end the process
                self._draft.keep_now(self.text)
        return end

    def _end(self, result: int) -> None:
        if not self._app.is_done:
            self._app.exit(result=result)

    def _fail(self, error: BaseException | None) -> None:
        """An error anywhere ends the session, rather than being shown on the screen."""
        if not self._app.is_done:
            self._app.exit(exception=error or RuntimeError("the event loop failed"))

    # --- Between the keys

    def _on_change(self, _: Buffer) -> None:
        self._message = ""
        self._changed.set()

    async def _think(self) -> None:
        """Have the companion work whenever there is something to do, in short slices."""
        while True:
            self.suggestion()  # follows the text
            end = time.monotonic() + SLICE_SECONDS
            while (busy := self._companion.step()) and time.monotonic() < end:
                pass
            self._app.invalidate()
            if busy:
                await asyncio.sleep(0)
            else:
                self._changed.clear()
                await self._changed.wait()

    async def _keep_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(KEEP_SECONDS)
            self._draft.keep(self.text)

    # --- Keys

    def _editing_keys(self) -> KeyBindings:
        keys = KeyBindings()
        suggested = Condition(lambda: bool(self.suggestion()))
        for key, part in {"right": "character", "tab": "word", "end": "line"}.items():
            keys.add(key, filter=suggested)(self._take(part))
        keys.add("tab", filter=~suggested)(lambda _: None)
        keys.add("c-n")(self._on_another)
        keys.add("c-s")(lambda _: self._save())
        keys.add("c-z")(lambda _: run_in_terminal(self._stop))
        for key in "c-q", "c-c":
            keys.add(key)(lambda _: self._leave())
        return keys

    def _take(self, part: str) -> Callable[[KeyPressEvent], None]:
        return lambda event: event.current_buffer.insert_text(getattr(self._companion, part))

    def _on_another(self, _: KeyPressEvent) -> None:
        self._companion.resample()
        self._changed.set()

    def _stop(self) -> None:
        """Let the shell go on, until it calls back; the mode is the shell's, to the last flag."""
        termios.tcsetattr(self._keyboard, termios.TCSANOW, self._mode)
        os.kill(0, signal.SIGTSTP)

    def _answer_keys(self) -> KeyBindings:
        """The keys while a question is asked: one that is no answer returns to the text."""
        keys = KeyBindings()
        keys.add(Keys.Any)(lambda event: self._answer(event.data))
        keys.add("escape", eager=True)(lambda _: self._answer(""))
        keys.add("c-c")(lambda _: self._leave())
        return keys

    # --- Saving and leaving

    def _ask(self, question: str, answers: dict[str, Callable[[], None]]) -> None:
        self._message, self._answers = question, answers
        self._app.layout.focus(self._status)

    def _answer(self, key: str) -> None:
        answer = self._answers.get(key.lower(), lambda: None)
        self._message, self._answers = "", {}
        self._app.layout.focus(self._text)
        answer()
        self._changed.set()

    def _save(self, then: Callable[[], None] = lambda: None, replace: bool = False) -> None:
        """Save, unless there is something to ask first or it fails, and `then` go on."""
        draft = self._draft
        if draft.path is None:
            self._message = "there is no file: the text is printed when you leave"
            return
        try:
            if not replace and draft.is_foreign():
                self._ask(
                    f"another program has changed {display_path(draft.path)}: replace it? (y, n)",
                    {"y": lambda: self._save(then, replace=True)},
                )
                return
            draft.save(self.text)
        except CharRNNError as error:
            self._message = str(error)
        else:
            self._message = "saved"
            then()

    def _leave(self) -> None:
        """Leave, or ask first; Ctrl-C as the answer leaves as an interruption does."""
        if self._answers:
            self._end(signal.SIGINT)
        elif self._draft.path is None or self._draft.is_saved(self.text):
            self._end(0)
        else:
            self._ask(
                f"save {display_path(self._draft.path)}? (y, n, Esc)",
                {"y": lambda: self._save(lambda: self._end(0)), "n": lambda: self._end(0)},
            )

    # --- Drawing

    def _has_rows(self, rows: int) -> Condition:
        """Is there room? What is asked is always shown."""
        return Condition(lambda: bool(self._answers) or self._app.output.get_size().rows >= rows)

    def _status_line(self) -> str:
        name = "charrnn write"
        if self._draft.path is not None:
            name = display_path(self._draft.path)
            name += "" if self._draft.is_saved(self.text) else " *"
        return f" {name}  {self._message or self._unread()}"

    def _unread(self) -> str:
        unknown = self._companion.unknown
        names = " ".join(map(escape_unprintable, unknown[:10])) + (
            " ..." if len(unknown) > 10 else ""
        )
        return f"the model has never seen, and skips: {names}" if unknown else ""


class _TextWithSuggestion(BufferControl):
    """A text with a suggestion of any number of lines after the cursor, the end of its line."""

    def __init__(self, buffer: Buffer, suggestion: Callable[[], str], **options) -> None:
        super().__init__(buffer, **options)
        self._suggestion = suggestion

    def create_content(self, width: int, height: int, preview_search: bool = False) -> UIContent:
        content = super().create_content(width, height, preview_search)
        first, *rest = _drawable(self._suggestion()).split("\n")
        row, text_line = content.cursor_position.y, content.get_line

        def line(i: int) -> StyleAndTextTuples:
            if i == row and first:
                return [*text_line(i)[:-1], ("class:suggestion", first)]  # the cursor is on it
            if row < i <= row + len(rest):
                return [("class:suggestion", rest[i - row - 1])]
            return text_line(i if i <= row else i - len(rest))

        return UIContent(line, content.line_count + len(rest), content.cursor_position)


def _drawable(text: str) -> str:
    """`text` as it can be shown, its line ends as they are."""
    return "\n".join(map(escape_unprintable, text.replace("\t", " " * TAB).split("\n")))
