"""What may reach a terminal: text, and no codes that a name has brought with it.

A file may be called anything. Codes in its name could colour, move or overwrite what a
terminal shows, or, as those for right-to-left text, show letters in another order.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast

# ASCII's and Latin-1's control codes, and Unicode's that end a line or turn it around.
_CODES = (
    *range(0x20),
    *range(0x7F, 0xA0),
    *(0x061C, 0x200E, 0x200F, 0x2028, 0x2029),
    *range(0x202A, 0x202F),
    *range(0x2066, 0x206A),
)
_ESCAPES = {code: chr(code).encode("unicode_escape").decode() for code in _CODES}
_IN_LINES = {code: text for code, text in _ESCAPES.items() if chr(code) not in "\n\t"}


def printable(text: str) -> str:
    r"""A text as one line without control codes: ``\n`` and ``\x1b`` stand for them."""
    return text.translate(_ESCAPES)


@contextmanager
def plain_output() -> Iterator[None]:
    """Within the block, what is printed reaches neither stdout nor stderr with codes.

    Ends of lines and tabs are left. So is a carriage return before all else, which
    progress bars begin with.
    """
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = map(_as_text, before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def _as_text(stream: TextIO) -> TextIO:
    plain: TextIO = cast(TextIO, _Plain(stream))  # all of one but its type
    return plain if stream is not None else stream


class _Plain:
    """A stream that takes no codes; all but writing is the stream's own."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        start = "\r" if text.startswith("\r") else ""
        self._stream.write(start + text.removeprefix("\r").translate(_IN_LINES))
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
