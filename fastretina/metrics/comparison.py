"""Whether one set of predictions is better than another, on the same samples.

The interval of the difference is a paired bootstrap over patients; McNemar's exact test
asks the same of the accuracy alone. A difference whose interval holds 0 is called what
it is: inside the noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from scipy.special import bdtr

from fastretina.metrics.bootstrap import Interval, patient_intervals, with_width
from fastretina.metrics.scores import collapse
from fastretina.metrics.statistics import (
    GRADE_STATISTICS,
    defined,
    grade_statistics,
    once,
)
from loaders.arrays import Float64, Int64


class Contender(NamedTuple):
    """One side of a comparison.

    Attributes:
        name: what people call it.
        seeds: the predicted grades int64[N] from each of its seeds.
    """

    name: str
    seeds: Sequence[Int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """One statistic of the first side less that of the second.

    Attributes:
        statistic: one of ``GRADE_STATISTICS``.
        value: the difference of the means over seeds; None where it is undefined, as
            the QWK of one grade alone.
        interval: low and high end of 95 %, over patients; None where there is none.
        by_seed: the difference of each pair of seeds, in order; None as above.
        mcnemar_p: p of McNemar's test between the first seeds; None where the statistic
            is not the accuracy.
        verdict: what the difference shows, in words.
        clear: whether the interval excludes 0, and no seed says otherwise.
        by_one_grade: whether it is clear, and the better side has collapsed to one
            grade in some seed, which is no merit.
    """

    statistic: str
    value: float | None
    interval: Interval
    by_seed: list[float | None]
    mcnemar_p: float | None
    verdict: str
    clear: bool
    by_one_grade: bool = False


def compare(
    labels: Int64, first: Contender, second: Contender, patients: Sequence[str]
) -> list[Difference]:
    """Compare two sides by each of ``GRADE_STATISTICS``.

    Args:
        labels: int64[N], the true grades.
        first: the side that is asked about.
        second: the side that it is compared with; the same number of seeds.
        patients: the patient of each of the N samples.
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

    number = len(labels)
    by_seed = np.array(
        [once(one, number) - once(other, number) for one, other in sides]
    )
    intervals = patient_intervals(mean_difference, patients)
    chance = mcnemar(labels, *pairs[0])
    differences = []
    for number, statistic in enumerate(GRADE_STATISTICS):
        value = defined(by_seed[:, number].mean())
        values = [defined(each) for each in by_seed[:, number]]
        # One without width says that nothing differs, or that nothing is known.
        interval = with_width(intervals[number]) if value else intervals[number]
        bare = Difference(
            statistic=statistic,
            value=value,
            interval=interval,
            by_seed=values,
            mcnemar_p=chance if statistic == "accuracy" else None,
            verdict="",
            clear=_is_clear(value, interval, values),
        )
        better, worse = (first, second) if (value or 0) > 0 else (second, first)
        fallen = _describe_collapse(labels, better) if bare.clear else ""
        differences.append(
            replace(
                bare,
                verdict=_verdict(bare, better.name, worse.name, fallen),
                by_one_grade=bool(fallen),
            )
        )
    return differences


def _describe_collapse(labels: Int64, side: Contender) -> str:
    """That a side gives one grade to all, in how many seeds; empty if it doesn't."""
    number = sum(collapse(labels, grades) is not None for grades in side.seeds)
    if not number:
        return ""
    seeds = len(side.seeds)
    where = f" in {number} of {seeds} seeds" if seeds > 1 else ""
    return f"but it gives one grade to all{where}: no merit"


def mcnemar(labels: Int64, one: Int64, other: Int64) -> float:
    """The exact two-sided p of a test on int64[N] answers (McNemar 1947).

    It takes images for independent, which two eyes of a patient are not quite.
    """
    better = int(((one == labels) & (other != labels)).sum())
    worse = int(((one != labels) & (other == labels)).sum())
    if not better + worse:
        return 1.0
    # Of a fair coin, both tails are alike; scipy.stats would take a second to import.
    return min(1.0, 2 * float(bdtr(min(better, worse), better + worse, 0.5)))


def _is_clear(
    value: float | None, interval: Interval, by_seed: Sequence[float | None]
) -> bool:
    """Whether the interval excludes 0, and no seed says otherwise."""
    if interval is None or value is None:
        return False
    low, high = interval
    same = [each is not None and each * value > 0 for each in by_seed]
    return (low > 0 or high < 0) and all(same)


_NAMES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "qwk": "QWK",
    "macro_f1": "macro-F1",
}


def _verdict(difference: Difference, better: str, worse: str, fallen: str) -> str:
    name = _NAMES[difference.statistic]
    if difference.value is None:
        return f"{name}: undefined, as there is one grade alone"
    if difference.interval is None:
        return f"{name}: too few patients to tell"
    low, high = difference.interval
    measured = f"{difference.value:+.3f} [{low:+.3f}, {high:+.3f}]"
    if not difference.clear:
        why = ""
        if not low <= 0 <= high:
            why = ", as the seeds disagree"
        return f"{name}: inside the noise ({measured}{why})"
    if fallen:
        return f"{name}: {better} is above {worse} ({measured}), {fallen}"
    return f"{name}: {better} is better than {worse} ({measured})"
