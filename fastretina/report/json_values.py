"""Values out of a JSON file, each checked to be of its kind before it is used."""

from __future__ import annotations

from collections.abc import Mapping

Interval = tuple[float, float]  # low and high


def mapping(value: object) -> Mapping[str, object]:
    """A JSON object.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(value, dict):
        raise ValueError(f"an object was expected, got {value!r}")
    return value


def items(value: object) -> list[object]:
    """The items of a JSON array.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(value, list):
        raise ValueError(f"a list was expected, got {value!r}")
    return value


def text(raw: Mapping[str, object], name: str) -> str:
    """The text under a name.

    Raises:
        KeyError: nothing is there.
        ValueError: something else is.
    """
    value = raw[name]
    if not isinstance(value, str):
        raise ValueError(f"{name} must be text, got {value!r}")
    return value


def number(value: object) -> float:
    """A number.

    Raises:
        ValueError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"a score must be a number, got {value!r}")
    return float(value)


def optional_number(value: object) -> float | None:
    """A number, or None as it is.

    Raises:
        ValueError: it is neither.
    """
    return None if value is None else number(value)


def whole(value: object) -> int:
    """A whole number.

    Raises:
        ValueError: it is none.
    """
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"a whole number was expected, got {value!r}")
    return value


def optional_whole(value: object) -> int | None:
    """A whole number, or None as it is.

    Raises:
        ValueError: it is neither.
    """
    return None if value is None else whole(value)


def optional_interval(value: object) -> Interval | None:
    """``[low, high]``; None where it or an end of it is absent.

    Raises:
        ValueError: it is something else.
    """
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError(f"an interval must be [low, high], got {value!r}")
    low, high = (optional_number(end) for end in value)
    return None if low is None or high is None else (low, high)
