"""The text window of the editor, with the suggestion after the cursor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prompt_toolkit.buffer import Buffer
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.layout import BufferControl, UIContent
from prompt_toolkit.layout.processors import TabsProcessor

from ...errors import escape_unprintable

TAB_WIDTH = 4  # columns


class SuggestionView(BufferControl):
    """Shows a text and, when the cursor is at the end of a line, a suggestion of any length."""

    def __init__(self, buffer: Buffer, suggestion: Callable[[], str], **options: Any) -> None:
        tabs = TabsProcessor(TAB_WIDTH, " ", " ")
        super().__init__(buffer, input_processors=[tabs], **options)
        self._suggestion = suggestion

    def create_content(self, width: int, height: int, preview_search: bool = False) -> UIContent:
        content = super().create_content(width, height, preview_search)
        first, *rest = _printable(self._suggestion()).split("\n")
        row, text_line = content.cursor_position.y, content.get_line

        def line(i: int) -> StyleAndTextTuples:
            if i == row and first:
                return [*text_line(i)[:-1], ("class:suggestion", first)]  # the cursor is on it
            if row < i <= row + len(rest):
                return [("class:suggestion", rest[i - row - 1])]
            return text_line(i if i <= row else i - len(rest))

        return UIContent(line, content.line_count + len(rest), content.cursor_position)


def _printable(text: str) -> str:
    """Return `text` without tabs and unprintable characters; newlines stay."""
    return "\n".join(map(escape_unprintable, text.replace("\t", " " * TAB_WIDTH).split("\n")))
