"""Texts that are checked in, and written anew by ``pytest --update-golden``."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from difflib import unified_diff
from pathlib import Path

import pytest

from fastretina import __version__

FOLDER = Path(__file__).with_name("golden")
Golden = Callable[[str, str], None]


def compare(name: str, text: str, *, update: bool, folder: Path = FOLDER) -> None:
    """Fail with a diff where a file of ``tests/golden`` is not this text.

    Args:
        name: of the file, with folders.
        text: what it should be.
        update: write it instead.
        folder: where such files are.
    """
    path = folder / name
    text = text.rstrip("\n") + "\n"
    if update:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return
    golden = path.read_text(encoding="utf-8") if path.exists() else ""
    if text == golden:
        return
    lines = (whole.splitlines() for whole in (golden, text))
    diff = unified_diff(*lines, f"golden/{name}", "now", lineterm="")
    pytest.fail(
        "\n".join([*diff, "", "If that is meant: pytest --update-golden"]),
        pytrace=False,
    )


Pattern = tuple[str, str | Callable[[re.Match[str]], str]]


def _nine_digits(number: re.Match[str]) -> str:
    """Sums differ in the last digits from processor to processor."""
    return f"{float(number[0]):.9g}"


OF_RELEASE: tuple[Pattern, ...] = (
    (r"\x1b\[[0-9;]*m", ""),
    (re.escape(__version__) + r"(?![\d.])", "VERSION"),
)
_BY_PART = r'(?<="wall_seconds": \{)[^}]*'


def _no_seconds(parts: re.Match[str]) -> str:
    """The names of a command's parts, with no number of seconds."""
    return re.sub(r"[\d.]+", "N", parts[0])


OF_MINUTE: tuple[Pattern, ...] = (
    *OF_RELEASE,
    (_BY_PART, _no_seconds),
    (r"\b\d+\.\d+\.\d+[\w.+]*", "VERSION"),  # of other packages
    (r'seconds": [\d.]+', r'seconds": N'),
    (r"\b\d+\.\d{9,}(e-\d+)?\b", _nine_digits),
)
OF_MACHINE: tuple[Pattern, ...] = (
    *OF_RELEASE,
    (_BY_PART, _no_seconds),
    (r"\b\d+\.\d+\.\d+[\w.+]*", "VERSION"),  # of other packages
    (r"\b(?=[a-f]*\d)[0-9a-f]{12}\b|\b[0-9a-f]{40,64}\b", "HASH"),
    (r"\b\d{4}-\d\d-\d\d[ T]\d\d:\d\d(:\d\d)?\S*", "TIME"),
    (r"\b[\d,.]*\d (ms|s|minutes|hours|days)\b", "TIME"),
    (r"\b[\d,.]*\d (images/s|MB)", r"N \1"),
    (r"\b\d+% waiting", "N% waiting"),
    (r'(_per_second|seconds|bytes)": [\d.]+', r'\1": N'),
    (r"\b\d+(\.\d+)?e-\d+\b", "0.N"),
    (r"(?<=\d\.)\d+", "N"),
)


def steady(
    text: str,
    places: Mapping[str, str] = {},  # read only
    varying: Sequence[Pattern] = OF_MACHINE,
) -> str:
    """A command's output without what differs by release, minute or machine.

    Args:
        text: the output.
        places: what to write for parts of paths, e.g. of a temporary folder.
        varying: what differs, and what to write for it. A help text differs by release
            alone, and counts by the minute; sums differ in their last digits by the
            machine, so that by default all digits go that follow a point.
    """
    for place, name in sorted(places.items(), key=lambda item: -len(item[0])):
        text = text.replace(place, name)
    for pattern, word in varying:
        text = re.sub(pattern, word, text)
    return text
