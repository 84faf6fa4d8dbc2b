"""Intervals of all scores of a test split: 1,000 resamples of its 7,026 images.

An image counts once, however many resamples it is in. What is compared with is
scikit-learn asked anew for each resample, which is timed on some of them alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np
import pytest

from bench.entrant import Entrant, EntrantResult, Round
from bench.race import Rules, RunRace
from bench.replay import HandOver, clock
from bench.slow_scores import slow_resamples, slow_scores
from fastretina.metrics.bootstrap import RESAMPLES, patient_resamples
from fastretina.metrics.intervals import score_with_intervals
from fastretina.metrics.statistics import score_statistics
from loaders.arrays import Float64, Int64

LINE = "intervals"
_IMAGES, _SMALL = 7026, 200  # the course's test split; for --small
_SHARES = (0.735, 0.07, 0.15, 0.025, 0.02)  # of its grades
_SLOW_SHARE = 50  # of the resamples, one in so many is left to scikit-learn
_DRAWS = "patients drawn, nothing asked of them"


class _Split(NamedTuple):
    """A made-up test split: int64[N], float64[N, 5], and whose each image is."""

    labels: Int64
    probabilities: Float64
    patients: list[str]

    @classmethod
    def of(cls, images: int) -> _Split:
        """Two eyes of each patient, and a network that is right of four in five."""
        rng = np.random.default_rng(1)
        labels = rng.choice(len(_SHARES), images, p=_SHARES)
        logits = rng.normal(size=(images, len(_SHARES))) + np.log(_SHARES)
        logits[np.arange(images), labels] += 2
        odds = np.exp(logits)
        chances = odds / odds.sum(axis=1, keepdims=True)
        return cls(labels, chances, [str(n // 2) for n in range(images)])


class _Asking:
    """A ``Runner`` that takes resamples of a test split."""

    def __init__(
        self, images: int, take: Callable[[_Split], object], share: int = 1
    ) -> None:
        self._split, self._take, self._share = _Split.of(images), take, share

    def check(self) -> str:
        """Some resamples are the same by scikit-learn; also warms up."""
        labels, chances, patients = self._split
        statistics = score_statistics(labels, chances.argmax(axis=1), chances)
        found = patient_resamples(statistics, patients, 2)
        wanted = slow_resamples(slow_scores(labels, chances), patients, 2)
        assert np.allclose(found, wanted, rtol=0, atol=1e-9, equal_nan=True)
        self._take(self._split)
        return "scores as scikit-learn's"

    def run_round(self, number: int, first_only: bool = False) -> Round:
        """All resamples that it takes; see ``Runner``."""
        begun = time.perf_counter()
        self._take(self._split)
        seconds = time.perf_counter() - begun
        return Round(len(self._split.labels) // self._share, seconds, seconds)


def _at_once(split: _Split) -> None:
    score_with_intervals(*split)


def _one_by_one(split: _Split) -> None:
    slow = slow_scores(split.labels, split.probabilities)
    slow_resamples(slow, split.patients, RESAMPLES // _SLOW_SHARE)


def _drawn(split: _Split) -> None:
    patient_resamples(lambda weights: weights[:1], split.patients)


@contextmanager
def _asking(
    images: int, take: Callable[[_Split], object], share: int
) -> Iterator[_Asking]:
    yield _Asking(images, take, share)


def entrants(small: bool) -> list[Entrant]:
    """Ours, scikit-learn, and the draws alone as ceiling."""
    images = _SMALL if small else _IMAGES
    return [
        Entrant("all resamples at once", partial(_asking, images, _at_once, 1)),
        Entrant(
            "scikit-learn, resample by resample",
            partial(_asking, images, _one_by_one, _SLOW_SHARE),
            kind="peer",
        ),
        Entrant(_DRAWS, partial(_asking, images, _drawn, 1), kind="ceiling"),
    ]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    metafunc.parametrize("name", [entrant.name for entrant in entrants(small=False)])


@pytest.fixture(scope="module")
def results(
    run_race: RunRace, rules: Rules, pytestconfig: pytest.Config
) -> dict[str, EntrantResult]:
    rules = replace(rules, ceiling_of=_DRAWS, num_openings=0)
    return run_race(entrants(pytestconfig.getoption("small")), rules)


@pytest.mark.benchmark(timer=clock)
def bench_intervals(
    name: str, hand_over: HandOver, results: dict[str, EntrantResult]
) -> None:
    hand_over(LINE, results, name)
