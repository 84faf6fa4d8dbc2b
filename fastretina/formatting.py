"""Numbers and notices in the form that people read them in, the same everywhere."""

from __future__ import annotations

from collections.abc import Sequence

NOTICE = "Not a medical device."  # wherever a grade is shown


def format_interval(
    value: float | None, interval: Sequence[float] | None, form: str
) -> str:
    """A score with its interval, e.g. ``82.9% [78.0, 87.4]``."""
    if value is None:
        return "-"
    if interval is None:
        return format(value, form)
    low, high = (format(end, form).rstrip("%") for end in interval)
    return f"{value:{form}} [{low}, {high}]"


def format_count(number: int, noun: str) -> str:
    """A number with its noun, e.g. ``1 thread`` or ``2,000 threads``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


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


def format_rate(speed: float) -> str:
    """Images/s for people: ``1,234``, or three digits of a slower one."""
    return f"{speed:,.0f}" if speed >= 100 else f"{speed:.3g}"
