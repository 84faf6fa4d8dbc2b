"""An exception as one line of a result."""

from __future__ import annotations

_LONGEST = 300  # characters


def describe_error(error: BaseException) -> str:
    """The type and the first line of the message, cut where it is very long."""
    text = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {text}"[:_LONGEST]
