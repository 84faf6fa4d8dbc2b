"""Which photographs `fastretina demo` has drawn: by the note that it leaves there."""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from loaders.untrusted import MOST_JSON, read_file

DEMO_NOTE = "demo.json"
NOTE_ABOUT = "made-up fundus photographs of made-up patients"


def read_note(path: Path) -> str | None:
    """What a demo run left there; another program's file of that name is none."""
    try:
        text = read_file(path, MOST_JSON).decode()
    except (OSError, UnicodeDecodeError):
        return None
    return text if NOTE_ABOUT in text else None


def count_drawn(photographs: Iterable[Path]) -> int:
    """How many of these files lie in a demo set, also where links lead to them."""

    @cache
    def is_drawn(folder: str) -> bool:
        real = Path(os.path.realpath(folder))
        return any(read_note(each / DEMO_NOTE) for each in (real, real.parent))

    return sum(
        is_drawn(os.path.dirname(os.path.realpath(path) if path.is_symlink() else path))
        for path in photographs
    )
