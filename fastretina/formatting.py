"""Numbers and notices in the form that people read them in, the same everywhere."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

GIB = 2**30  # bytes
NOTICE = "Not a medical device."  # wherever a grade is shown
_NARROWEST = 40  # columns


def format_interval(
    value: float | None,
    interval: Sequence[float] | None,
    form: str,
    *,
    exact: bool = False,
) -> str:
    """A score with its interval, e.g. ``82.9% [78.0, 87.4]``, and the kind of it."""
    if value is None:
        return "-"
    if interval is None:
        return format(value, form)
    low, high = (format(end, form).rstrip("%") for end in interval)
    return f"{value:{form}} [{low}, {high}]{' exact' if exact else ''}"


def format_count(number: int, noun: str) -> str:
    """A number with its noun, e.g. ``1 thread`` or ``2,000 threads``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def format_p(p: float | None) -> str:
    """The p of a test, e.g. ``0.049`` or ``< 0.001``."""
    if p is None:
        return "-"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def format_duration(seconds: float) -> str:
    """Seconds for people, e.g. ``45 s``, ``12 minutes``, ``3.2 hours``."""
    if seconds < 1:
        return f"{seconds:.2f} s"
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.0f} minutes"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} hours"
    return f"{seconds / 86400:.1f} days"


def format_gib(num_bytes: float, digits: int = 1) -> str:
    """Bytes for people, e.g. ``1.5 GiB``."""
    return f"{num_bytes / GIB:,.{digits}f} GiB"


def wrap(text: str, width: int, first: str = "", rest: str = "") -> str:
    """Break a text into lines, but never within a word.

    Args:
        text: the words, parted by any white space.
        width: columns of the terminal; less than 40 count as 40.
        first: what the first line begins with.
        rest: what the other lines begin with.
    """
    return textwrap.fill(
        text,
        max(width, _NARROWEST),
        initial_indent=first,
        subsequent_indent=rest,
        break_on_hyphens=False,
        break_long_words=False,
    )


def format_rate(speed: float) -> str:
    """Images/s for people: ``1,234``, or three digits of a slower one."""
    return f"{speed:,.0f}" if speed >= 100 else f"{speed:.3g}"
