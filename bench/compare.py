"""What has changed between two runs of the benchmarks, beyond the noise."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb
from statistics import median
from typing import NamedTuple

from scipy.stats import mannwhitneyu

from bench.rows import BenchmarkRun, EntrantRow, rows_of

_CHANCE = 0.02  # that two runs of the same differ as much
_LEAST = 0.03  # smaller changes are not worth a word


class SpeedChange(NamedTuple):
    """How the speed of an entrant changed, from an old run to a new one.

    Attributes:
        line: the finish line.
        entrant: the entrant's name.
        ratio: the new share of the ceiling to the old one, which a faster machine does
            not change; the ratio of images/s where there is no ceiling.
        chance: probability that two runs of the same differ as much; ``None`` with so
            few rounds that no difference would be told from the noise.
    """

    line: str
    entrant: str
    ratio: float
    chance: float | None

    @property
    def verdict(self) -> str:
        """``faster``, ``SLOWER``, or why it is neither."""
        if self.chance is None:
            return "too few rounds to tell"
        if self.chance > _CHANCE or abs(self.ratio - 1) < _LEAST:
            return "within the noise"
        return "faster" if self.ratio > 1 else "SLOWER"


def changes(old: BenchmarkRun, new: BenchmarkRun) -> list[SpeedChange]:
    """The changes of all entrants that are in both runs."""
    before = {_key(row): row for row in rows_of(old)}
    return [
        _change(before[_key(row)], row) for row in rows_of(new) if _key(row) in before
    ]


def _key(row: EntrantRow) -> tuple[str, str]:
    """What is compared: pillow-simd takes the place of Pillow."""
    return row["line"], row["entrant"].replace("pillow-simd", "Pillow")


def _change(old: EntrantRow, new: EntrantRow) -> SpeedChange:
    then, now = _values(old), _values(new)
    if not ("shares" in old and "shares" in new):
        then, now = [old["images_per_second"]], [new["images_per_second"]]
    chance = None
    if _least_chance(len(then), len(now)) <= _CHANCE:
        chance = float(mannwhitneyu(then, now).pvalue)
    return SpeedChange(new["line"], new["entrant"], median(now) / median(then), chance)


def _least_chance(then: int, now: int) -> float:
    """What the test gives where all of one run's rounds beat all of the other's.

    5 rounds against 5 reach 0.008, 4 against 4 only 0.029.
    """
    return 2 / comb(then + now, now)


def _values(row: EntrantRow) -> Sequence[float]:
    return list(row.get("shares") or [row["images_per_second"]])


def format_changes(changes: Sequence[SpeedChange]) -> str:
    """A table in Markdown, what changed first."""
    lines = ["| line | | new / old | |", "| --- | --- | --- | --- |"]
    quiet = ("within the noise", "too few rounds to tell")
    for change in sorted(changes, key=lambda change: change.verdict in quiet):
        cells = (change.line, change.entrant, f"{change.ratio:.2f}", change.verdict)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
