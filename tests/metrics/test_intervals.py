"""Every interval against the slow way: scikit-learn asked anew for each resample.

SciPy's bootstrap draws the patients, and scikit-learn scores each resample by the
samples' weights; the intervals of the package must be the same to 1e-9.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pytest
import sklearn
from sklearn import metrics as sk

from bench.slow_scores import (
    slow_calibration,
    slow_grades,
    slow_resamples,
    slow_scores,
)
from fastretina.metrics import bootstrap
from fastretina.metrics.bootstrap import patient_intervals, patient_resamples
from fastretina.metrics.comparison import Contender, compare
from fastretina.metrics.intervals import (
    calibration_error_with_interval,
    grade_intervals,
    score_with_intervals,
)
from fastretina.metrics.proportions import exact_intervals, shares_of
from fastretina.metrics.roc_steps import RocSteps
from fastretina.metrics.scores import score
from fastretina.metrics.statistics import (
    GRADE_STATISTICS,
    SCORE_STATISTICS,
    grade_statistics,
    once,
    score_statistics,
)

EXACTLY = 1e-9
NAN = math.nan


class Case(NamedTuple):
    """Labels int64[N], probabilities float64[N, 5], patients."""

    labels: np.ndarray
    chances: np.ndarray
    patients: list[str]


def made(samples: int, seed: int, grades: tuple[int, ...] = (0, 1, 2, 3, 4)) -> Case:
    rng = np.random.default_rng(seed)
    shares = np.array([0.5, 0.15, 0.2, 0.1, 0.05])[list(grades)]
    labels = rng.choice(grades, samples, p=shares / shares.sum())
    logits = rng.normal(size=(samples, 5))
    logits[np.arange(samples), labels] += 1
    chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return Case(labels, chances, [str(n // 2) for n in range(samples)])


def tied() -> Case:
    """Probabilities in quarters, so that half a dozen values are all there are."""
    case = made(90, 3)
    quarters = np.round(case.chances * 4)
    quarters[:, 0] += quarters.sum(axis=1) == 0
    return case._replace(chances=quarters / quarters.sum(axis=1, keepdims=True))


CASES = {
    "plain": made(120, 0),
    "patients of one to six eyes": made(90, 1)._replace(
        patients=[str(int(math.sqrt(n))) for n in range(90)]
    ),
    "absent grades": made(60, 2, (0, 3)),
    "ties": tied(),
    "no doubts": Case(
        made(70, 4).labels, np.eye(5)[made(70, 5).labels], ["a", "b"] * 35
    ),
    "all right": Case(
        made(40, 6).labels, np.eye(5)[made(40, 6).labels], list("abcd") * 10
    ),
    "one grade": made(30, 7, (2,)),
    "one grade, always right": Case(
        np.zeros(12, int), np.eye(5)[np.zeros(12, int)], [str(n) for n in range(12)]
    ),
    "always the same answer": made(50, 8)._replace(
        chances=np.tile([0.6, 0.1, 0.1, 0.1, 0.1], (50, 1))
    ),
    "two patients": Case(np.array([0, 0, 4, 4]), np.eye(5)[[0, 0, 4, 2]], list("aabb")),
    "three patients": made(6, 9),
    "one patient": made(6, 10)._replace(patients=["7"] * 6),
    "sure beyond 1": Case(
        np.array([0, 1, 2, 3]), np.eye(5)[[0, 1, 2, 4]] * (1 + 1e-15), list("abcd")
    ),
}
FEW = 8  # resamples, which scikit-learn takes 20 ms for


@cache
def slow_scores_drawn(name: str) -> np.ndarray:
    """The scores of a case in each resample, float64[28, FEW]."""
    return slow_resamples(slow_scores(*CASES[name][:2]), CASES[name].patients, FEW)


def slow_interval(values: np.ndarray) -> tuple[float, float] | None:
    known = values[~np.isnan(values)]
    if not len(known) or len(known) < len(values) / 2:
        return None
    low, high = np.percentile(known, [2.5, 97.5])
    return low, high


def slow_intervals(drawn: np.ndarray) -> list[tuple[float, float] | None]:
    ends = map(slow_interval, drawn)
    return [None if each and each[0] == each[1] else each for each in ends]


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(bootstrap, "RESAMPLES", FEW)
    with sklearn.config_context(assume_finite=True, skip_parameter_validation=True):
        yield


def assert_same(found: object, wanted: object) -> None:
    if wanted is None or found is None:
        assert found is wanted
    else:
        assert found == pytest.approx(wanted, abs=EXACTLY)


@pytest.mark.parametrize("case", CASES)
def test_every_resample_and_interval_is_scikit_learns(case: str):
    labels, chances, patients = CASES[case]
    guess = chances.argmax(axis=1)
    fast = score_statistics(labels, guess, chances)
    drawn = patient_resamples(fast, patients)
    wanted = slow_scores_drawn(case)
    assert drawn.shape == wanted.shape
    for name, one, other in zip(SCORE_STATISTICS, drawn, wanted, strict=True):
        assert one == pytest.approx(other, abs=EXACTLY, nan_ok=True), name
    found = score_with_intervals(labels, chances, patients).intervals
    slow = dict(zip(SCORE_STATISTICS, slow_intervals(wanted), strict=True))
    slow.update(exact_intervals(shares_of(labels, guess), patients))
    for name, interval in slow.items():
        assert_same(named(found, name), interval)


@pytest.mark.parametrize("case", CASES)
def test_every_score_is_scikit_learns(case: str):
    labels, chances, _ = CASES[case]
    found = score(labels, chances)
    slow = slow_scores(labels, chances)(np.ones(len(labels)))
    for name, wanted in zip(SCORE_STATISTICS, slow, strict=True):
        assert_same(named(found, name), None if math.isnan(wanted) else wanted)
    matrix = sk.confusion_matrix(labels, chances.argmax(axis=1), labels=range(5))
    assert found.confusion == matrix.tolist()


def named(scores: object, name: str) -> Any:
    """What ``scores`` or intervals hold of e.g. ``recall.3`` or ``referable.auc``."""
    first, _, part = name.partition(".")
    value = getattr(scores, first)
    if not part:
        return value
    return value[int(part)] if part.isdigit() else getattr(value, part)


@pytest.mark.parametrize("case", ["plain", "ties", "one grade", "three patients"])
def test_intervals_of_other_grades_and_of_a_temperature_are_the_slow_ones(case: str):
    labels, chances, patients = CASES[case]
    guess = np.roll(chances.argmax(axis=1), 3)
    found = grade_intervals(labels, guess, patients)
    slow = slow_intervals(slow_resamples(slow_grades(labels, guess), patients, FEW))
    for name, wanted in zip(GRADE_STATISTICS, slow, strict=True):
        if name not in found.exact:
            assert_same(getattr(found, name), wanted)
    cooled = Case(labels, np.minimum(chances * 1.2, 1), patients)
    _, interval = calibration_error_with_interval(*cooled)
    drawn = slow_resamples(slow_calibration(*cooled[:2]), patients, FEW)
    assert_same(interval, slow_intervals(drawn)[0])


@pytest.mark.parametrize("case", ["plain", "one grade, always right", "two patients"])
def test_intervals_of_a_difference_are_the_slow_ones(case: str):
    """Of the mean over two seeds, of one side less the other, in the same resamples."""
    labels, chances, patients = CASES[case]
    guess = chances.argmax(axis=1)
    sides = [[guess, np.roll(guess, 1)], [np.roll(guess, 2), np.zeros_like(guess)]]
    slow = [[slow_grades(labels, each) for each in side] for side in sides]

    def mean_difference(weights: np.ndarray) -> list[float]:
        one, other = (np.array([of(weights) for of in side]) for side in slow)
        return (one - other).mean(axis=0).tolist()

    drawn = slow_resamples(mean_difference, patients, FEW)
    one, other = (Contender(str(n), side) for n, side in enumerate(sides))
    for difference, values in zip(
        compare(labels, one, other, patients), drawn, strict=True
    ):
        wanted = slow_interval(values)
        if wanted is not None and wanted[0] == wanted[1] and difference.value:
            wanted = None
        assert_same(difference.interval, wanted)


@pytest.mark.parametrize("size", [1, 3, 7, 8, 1000])
def test_resamples_are_the_same_in_blocks_of_any_size(
    size: int, monkeypatch: pytest.MonkeyPatch
):
    case = CASES["plain"]
    fast = grade_statistics(case.labels, case.chances.argmax(axis=1))
    whole = patient_resamples(fast, case.patients)
    monkeypatch.setattr(bootstrap, "_BLOCK", size * len(case.labels))
    blocks: list[int] = []

    def watched(weights: np.ndarray) -> np.ndarray:
        blocks.append(weights.shape[1])
        return fast(weights)

    assert np.array_equal(patient_resamples(watched, case.patients), whole)
    assert max(blocks) == min(size, FEW)
    assert sum(blocks) == FEW


def test_memory_of_a_large_test_split_is_bounded():
    """A block's weights are 16 MB at most, but for a split beyond two million."""
    sizes = []

    def watched(weights: np.ndarray) -> np.ndarray:
        sizes.append(weights.nbytes)
        return weights[:1]

    patient_resamples(watched, np.arange(300_000) // 2, 13)
    assert len(sizes) == 3
    assert max(sizes) <= 16_000_000


def test_undefined_resamples_leave_an_interval_where_most_are_defined():
    """Of two patients one is ill: half of the resamples draw one of them alone."""
    labels, patients = np.array([0, 0, 4, 4]), list("aabb")
    drawn = patient_resamples(grade_statistics(labels, labels), patients, 60)
    assert 0.3 < np.isnan(drawn[2]).mean() < 0.7
    for undefined, wanted in ((29, (0.5, 0.5)), (30, (0.5, 0.5)), (31, None)):
        values = np.full((1, 60), 0.5)
        values[0, :undefined] = NAN
        found = patient_intervals(lambda w, v=values: v[:, : w.shape[1]], patients, 60)
        assert found == [wanted]


def test_drawn_roc_curve_is_scikit_learns():
    """Its corners but for those on a straight line, and the area below."""
    for case in (CASES["plain"], CASES["ties"], CASES["no doubts"]):
        truth, chance = case.labels >= 2, case.chances[:, 2:].sum(axis=1)
        false, found = RocSteps.of(truth, chance).curve()
        wanted, hits, _ = sk.roc_curve(truth, chance, drop_intermediate=False)
        assert (false[0], found[0], false[-1], found[-1]) == (0, 0, 1, 1)
        assert sk.auc(false, found) == pytest.approx(sk.auc(wanted, hits))
        corners = set(zip(false.round(9), found.round(9), strict=True))
        assert corners <= set(zip(wanted.round(9), hits.round(9), strict=True))


@pytest.mark.slow
def test_a_thousand_resamples_of_a_test_split_are_the_slow_ones(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(bootstrap, "RESAMPLES", 1000)
    case = made(2000, 11)
    guess = case.chances.argmax(axis=1)
    fast = score_statistics(case.labels, guess, case.chances)
    found = patient_resamples(fast, case.patients)
    wanted = slow_resamples(slow_scores(*case[:2]), case.patients, 1000)
    assert found == pytest.approx(wanted, abs=EXACTLY)


def test_statistics_of_one_weighting_are_those_of_repeated_samples():
    case = CASES["ties"]
    times = np.random.default_rng(2).integers(0, 4, len(case.labels))
    rows = np.repeat(np.arange(len(case.labels)), times)
    guess = case.chances.argmax(axis=1)
    weighted = score_statistics(case.labels, guess, case.chances)
    alone = score_statistics(case.labels[rows], guess[rows], case.chances[rows])
    found = weighted(times[:, None].astype(float))[:, 0]
    assert found == pytest.approx(once(alone, len(rows)), nan_ok=True)
