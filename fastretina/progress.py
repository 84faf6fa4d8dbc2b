"""Progress on stderr: a bar on a terminal, elsewhere a line now and then.

With ``--quiet`` there is none. Warnings, errors and results are no progress.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tqdm import tqdm

SECONDS = 30.0  # between two lines
_LINE = "{desc}: {percentage:.0f}%, {rate_fmt}, {remaining} left{postfix}"
_hushed = False


@contextmanager
def hushed(quiet: bool) -> Iterator[None]:
    """Within the block there is no progress, where ``quiet`` says so."""
    global _hushed
    before, _hushed = _hushed, quiet or _hushed
    try:
        yield
    finally:
        _hushed = before


def is_quiet() -> bool:
    """Whether the user wants no progress."""
    return _hushed


def hidden() -> bool | None:
    """What tqdm's ``disable`` takes: true if quiet, None for a terminal alone."""
    return True if _hushed else None


def report_progress(text: str) -> None:
    """A line of progress, unless quiet."""
    if not _hushed:
        print(text, file=sys.stderr, flush=True)


def progress_bar(
    desc: str, total: int, *, done: int = 0, shown: bool = True
) -> tqdm[Any]:
    """Progress through images: share, images/s and the time that is left.

    Args:
        desc: what is done.
        total: number of images.
        done: number of images that are done already.
        shown: whether this process may speak.
    """
    from tqdm import tqdm

    on_terminal = sys.stderr.isatty()
    return tqdm(
        desc=desc,
        total=total,
        initial=done,
        unit=" images",
        leave=False,
        disable=_hushed or not shown,
        **({} if on_terminal else _as_lines()),
    )


def _as_lines() -> dict[str, Any]:
    """What makes a bar of tqdm's a line of its own every so many seconds."""
    return {
        "file": _Lines(),
        "bar_format": _LINE,
        "mininterval": SECONDS,
        "maxinterval": SECONDS,
        "miniters": 1,
        "delay": SECONDS,
    }


class _Lines:
    """Takes what is drawn over and over in one line, as lines of stderr."""

    def write(self, text: str) -> None:
        line = text.strip()
        if line:
            print(line, file=sys.stderr, flush=True)

    def flush(self) -> None:
        """Nothing is held back."""
