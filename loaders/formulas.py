"""Text in a CSV that a spreadsheet would compute; an apostrophe keeps it text.

Spreadsheets take a cell that begins with ``=``, ``+``, ``-`` or ``@`` (some also their
full-width forms), a tab or the end of a line for a formula, which may start programs or
send off what stands beside it. A photograph may be called anything. That holds where
the file is read with its own separator, the comma: one that cuts cells elsewhere makes
other cells of them.
"""

from __future__ import annotations

import re
from pathlib import Path

from loaders.untrusted import read_json

NOTE = "split.json"  # beside CSVs that were written here
GUARDED = "names_guarded"  # its key

# Text that begins with apostrophes and such a character gets one more, so that all can
# be read back.
_FORMULA = re.compile(r"'*[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")


def guarded(text: str) -> str:
    """A cell that no spreadsheet computes."""
    return f"'{text}" if _FORMULA.match(text) else text


def unguarded(cell: str) -> str:
    """The text of which ``guarded`` has made the cell."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def names_are_guarded(folder: Path) -> bool:
    """Whether the note in a folder says that the names in its CSVs are guarded.

    Other people's files are taken at their word: there, an apostrophe is a name's own.
    """
    try:
        note = read_json(folder / NOTE)
    except (OSError, ValueError):
        return False
    return isinstance(note, dict) and note.get(GUARDED) is True
