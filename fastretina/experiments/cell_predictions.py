"""The predictions of a cell's runs on the test images, and their scores."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fastretina.experiments.cells import Cell
from fastretina.experiments.reasons import OneGrade
from fastretina.metrics.bootstrap import patient_intervals, with_width
from fastretina.metrics.calibration import correct_prior
from fastretina.metrics.predictions import Predictions
from fastretina.metrics.proportions import accuracy_share, exact_intervals
from fastretina.metrics.scores import collapse, score_grades
from fastretina.metrics.statistics import (
    GRADE_STATISTICS,
    defined,
    grade_statistics,
    once,
)
from fastretina.nn.step import class_weights
from fastretina.report.experiment_file import Score
from fastretina.run import Run
from loaders.arrays import Float64, Int64
from loaders.errors import RunError


@dataclass(frozen=True, slots=True)
class CellPredictions:
    """The predictions of a cell's finished runs on the same test images.

    Attributes:
        by_seed: the predictions of each run, by the number of its seed.
        grades: int64[N] by seed as well: the predicted grades, after any correction.
        left_out: number of test images that some of the seeds lack, and so all.
    """

    by_seed: Mapping[int, Predictions]
    grades: Mapping[int, Int64]
    left_out: int = 0

    @classmethod
    def of(cls, cell: Cell, runs: Mapping[int, Path]) -> CellPredictions:
        """Read what the runs have left; a derived cell's grades have the prior back.

        Args:
            cell: whose runs they are.
            runs: their folders by seed, one at least.

        Raises:
            RunError: a file is missing or damaged.
        """
        whole = {n: Predictions.load(run / "test.parquet") for n, run in runs.items()}
        tested = [set(test.keys) for test in whole.values()]
        keys = sorted(set.intersection(*tested))
        # Sorted, as variants have another order.
        tests = {seed: test.of_keys(keys) for seed, test in whole.items()}
        grades = {
            seed: test.grades if cell.derived is None else _corrected(cell, test, run)
            for (seed, test), run in zip(tests.items(), runs.values(), strict=True)
        }
        return cls(tests, grades, len(set.union(*tested)) - len(keys))

    def narrowed(self, seeds: Iterable[int], keys: Sequence[str]) -> CellPredictions:
        """The predictions of these seeds, for these test images in this order."""
        place = {key: n for n, key in enumerate(self.keys)}
        chosen = np.array([place[key] for key in keys], np.int64)
        return CellPredictions(
            {seed: self.by_seed[seed].of_keys(keys) for seed in seeds},
            {seed: self.grades[seed][chosen] for seed in seeds},
        )

    @property
    def first(self) -> Predictions:
        """The predictions of the first seed that is finished."""
        return next(iter(self.by_seed.values()))

    @property
    def keys(self) -> list[str]:
        """The names of the N images."""
        return self.first.keys

    @property
    def labels(self) -> Int64:
        """int64[N], the true grades."""
        return self.first.labels

    @property
    def patients(self) -> list[str]:
        """The patient of each of the N images."""
        return self.first.patients

    def scores(self) -> dict[str, Score]:
        """Each of ``GRADE_STATISTICS``, with its interval over test patients."""
        statistics = [
            grade_statistics(self.labels, grades) for grades in self.grades.values()
        ]

        def mean(weights: Float64) -> Float64:
            values: Float64 = np.mean([of(weights) for of in statistics], axis=0)
            return values

        each = np.array([once(of, len(self.labels)) for of in statistics])
        found = map(with_width, patient_intervals(mean, self.patients))
        intervals = dict(zip(GRADE_STATISTICS, found, strict=True))
        accuracy = accuracy_share(self.labels, *self.grades.values())
        exact = exact_intervals({"accuracy": accuracy}, self.patients)
        intervals.update(exact)
        several = len(each) > 1
        return {
            name: Score(
                mean=defined(each[:, n].mean()),
                spread=defined(each[:, n].std(ddof=1)) if several else None,
                by_seed=[defined(value) for value in each[:, n]],
                interval=intervals[name],
                exact=name in exact,
            )
            for n, name in enumerate(GRADE_STATISTICS)
        }

    def collapse(self) -> str | None:
        """The sentence on the first collapsed seed, with how many seeds collapsed."""
        sentences = [collapse(self.labels, each) for each in self.grades.values()]
        collapsed = [sentence for sentence in sentences if sentence]
        if not collapsed:
            return None
        if len(sentences) == 1:
            return collapsed[0]
        return f"{len(collapsed)} of {len(sentences)} seeds: {collapsed[0]}"

    def collapsed_to(self) -> OneGrade | None:
        """The kind of grade that every seed has collapsed to, if they all agree."""
        commonest = int(np.bincount(self.labels).argmax())
        kinds = {
            OneGrade(commonest=int(np.bincount(grades).argmax()) == commonest)
            if collapse(self.labels, grades)
            else None
            for grades in self.grades.values()
        }
        return kinds.pop() if len(kinds) == 1 else None

    def confusion(self) -> list[list[int]]:
        """The first seed's counts, true grade by predicted grade."""
        grades = next(iter(self.grades.values()))
        return score_grades(self.labels, grades).confusion


def _corrected(cell: Cell, test: Predictions, run: Path) -> Int64:
    """The grades with the class weights of the run's loss undone: int64[N]."""
    counts = Run(run).config().train_counts
    if counts is None:
        raise RunError(f"{run / 'config.json'} is of an older version: no train_counts")
    weights = class_weights(cell.recipe.class_weights, counts)
    assert weights is not None, "a cell is derived from one with a weighted loss"
    grades: Int64 = correct_prior(test.probabilities, weights.tolist()).argmax(axis=1)
    return grades
