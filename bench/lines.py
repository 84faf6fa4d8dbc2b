"""The finish lines: their titles and order, and what a speed is set against."""

from __future__ import annotations

from collections.abc import Sequence

from bench.rows import EntrantRow

LINES = {
    "read": "To *read*: JPEG bytes in memory",
    "batch": "To *batch*: uint8 on the device",
    "ready": "To *ready*: float32, normalised, channels-last",
    "step": "To *step*: ResNet18 at 512 pixels trained on",
    "shard": "Sharding",
    "intervals": "Intervals of all scores: 1,000 resamples, each image counted once",
    "decode, 1 thread": "Decoders on one thread",
    "scaling": "Other workers and batch sizes, to *batch*",
    "machinery": "The machinery alone: decoding stubbed",
    "cache": "Images that are kept decoded, to *batch*, from the second epoch on",
    "verify": "Comparing images with their checksums, to *batch*",
    "features": "Phase `head` from its second epoch on: ResNet18 at 512 pixels",
    "pause": "The pause between two epochs",
}
_CEILINGS = {
    "read": "copying the bytes in memory, on one thread",
    "cache": "`turbo` without a cache",
    "verify": "`turbo` that compares none",
    "features": "passes through the backbone, fed by `turbo`",
    "step": "the step in bf16, channels-last, on a synthetic batch",
    "intervals": "drawing the patients alone",
}
_WITHOUT = ("machinery", "pause")  # nothing is known that they could not beat
_DECODE_ONLY = "libjpeg-turbo alone on the same threads"


def lines_of(rows: Sequence[EntrantRow]) -> dict[str, list[EntrantRow]]:
    """Rows by finish line, the best of each first."""
    lines: dict[str, list[EntrantRow]] = {}
    for row in rows:
        lines.setdefault(row["line"], []).append(row)
    order = {line: place for place, line in enumerate(LINES)}
    return {
        line: sorted(lines[line], key=_worst_last)
        for line in sorted(lines, key=lambda line: (order.get(line, 99), line))
    }


def _worst_last(row: EntrantRow) -> float:
    return row.get("pause_ms", -row["images_per_second"])


def ceiling_of(line: str) -> str:
    """What a finish line's speeds are set against; empty where that is nothing."""
    return "" if line in _WITHOUT else _CEILINGS.get(line, _DECODE_ONLY)
