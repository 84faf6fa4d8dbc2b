"""Whether one set of predictions is better than another, on the same samples.

The interval of the difference is a paired bootstrap over patients; McNemar's exact test
asks the same of the accuracy alone. A difference whose interval holds 0 is called what
it is: inside the noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import binomtest

from fastretina.metrics.bootstrap import (
    GRADE_STATISTICS,
    grade_statistics,
    patient_intervals,
)
from loaders.arrays import Float64, Int64


class Contender(NamedTuple):
    """One side: what it is called, and its grades from each of its seeds.

    Attributes:
        name: for people.
        seeds: int64[N] each, the predicted grades.
    """

    name: str
    seeds: Sequence[Int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """The first's statistic less the second's.

    Attributes:
        statistic: one of ``GRADE_STATISTICS``.
        value: the difference of the means over seeds.
        interval: of 95 %, over patients.
        by_seed: the difference of each pair of seeds, in order.
        mcnemar_p: of the accuracy of the first seeds; None for other statistics.
        verdict: in words.
    """

    statistic: str
    value: float
    interval: list[float] | None
    by_seed: list[float]
    mcnemar_p: float | None
    verdict: str

    @property
    def clear(self) -> bool:
        """Whether the interval excludes 0, and no seed says otherwise."""
        if self.interval is None:
            return False
        low, high = self.interval
        sure = low > 0 or high < 0
        return sure and all(value * self.value > 0 for value in self.by_seed)


def compare(
    labels: Int64, first: Contender, second: Contender, patients: Sequence[str]
) -> list[Difference]:
    """Both sides, by each of ``GRADE_STATISTICS``.

    Args:
        labels: int64[N].
        first: who is asked about.
        second: whom it is compared with; the same number of seeds.
        patients: of each of the N samples.
    """
    pairs = list(zip(first.seeds, second.seeds, strict=True))
    sides = [
        (grade_statistics(labels, one), grade_statistics(labels, other))
        for one, other in pairs
    ]

    def mean_difference(weights: Float64) -> Float64:
        differences = [one(weights) - other(weights) for one, other in sides]
        mean: Float64 = np.mean(differences, axis=0)
        return mean

    everyone = np.ones(len(labels))
    by_seed = np.array([one(everyone) - other(everyone) for one, other in sides])
    intervals = patient_intervals(mean_difference, patients)
    chance = mcnemar(labels, *pairs[0])
    found = []
    for number, statistic in enumerate(GRADE_STATISTICS):
        bare = Difference(
            statistic=statistic,
            value=float(by_seed[:, number].mean()),
            interval=intervals[number],
            by_seed=by_seed[:, number].tolist(),
            mcnemar_p=chance if statistic == "accuracy" else None,
            verdict="",
        )
        found.append(_judged(bare, first.name, second.name))
    return found


def mcnemar(labels: Int64, one: Int64, other: Int64) -> float:
    """The exact two-sided p of McNemar's test: int64[N] each.

    It takes images for independent, which two eyes of a patient are not quite.
    """
    better = int(((one == labels) & (other != labels)).sum())
    worse = int(((one != labels) & (other == labels)).sum())
    if not better + worse:
        return 1.0
    return float(binomtest(better, better + worse).pvalue)


def _judged(bare: Difference, first: str, second: str) -> Difference:
    return replace(bare, verdict=_verdict(bare, first, second))


_NAMES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "qwk": "QWK",
    "macro_f1": "macro-F1",
}


def _verdict(found: Difference, first: str, second: str) -> str:
    name = _NAMES[found.statistic]
    if found.interval is None:
        return f"{name}: too few patients to tell"
    low, high = found.interval
    measured = f"{found.value:+.3f} [{low:+.3f}, {high:+.3f}]"
    if not found.clear:
        why = ""
        if not low <= 0 <= high:
            why = ", as the seeds disagree"
        return f"{name}: inside the noise ({measured}{why})"
    better, worse = (first, second) if found.value > 0 else (second, first)
    return f"{name}: {better} is better than {worse} ({measured})"


def as_json(difference: Difference) -> dict[str, Any]:
    """For an experiment's file."""
    return {**asdict(difference), "clear": difference.clear}
