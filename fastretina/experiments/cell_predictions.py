"""The predictions of a cell's runs on the test images, and their scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fastretina.experiments.cells import Cell
from fastretina.experiments.reasons import OneGrade
from fastretina.metrics.bootstrap import (
    GRADE_STATISTICS,
    defined,
    grade_statistics,
    patient_intervals,
)
from fastretina.metrics.calibration import correct_prior
from fastretina.metrics.predictions import Predictions
from fastretina.metrics.scores import collapse, score_grades
from fastretina.nn.step import class_weights
from fastretina.report.experiment_file import Score
from fastretina.run import Run
from loaders.arrays import Float64, Int64
from loaders.errors import RunError


@dataclass(frozen=True, slots=True)
class CellPredictions:
    """The predictions of a cell's finished runs on the same test images.

    Attributes:
        by_seed: the predictions of each seed.
        grades: int64[N] for each seed: the predicted grades, after any correction.
    """

    by_seed: Sequence[Predictions]
    grades: Sequence[Int64]

    @classmethod
    def of(cls, cell: Cell, runs: Sequence[Path]) -> CellPredictions:
        """Read what the runs have left; a derived cell's grades have the prior back.

        Raises:
            RunError: a file is missing or damaged.
        """
        tests = [Predictions.load(run / "test.parquet") for run in runs]
        keys = sorted(set.intersection(*(set(test.keys) for test in tests)))
        tests = [test.of_keys(keys) for test in tests]  # variants have another order
        if cell.derived is None:
            return cls(tests, [test.grades for test in tests])
        pairs = zip(tests, runs, strict=True)
        return cls(tests, [_corrected(cell, test, run) for test, run in pairs])

    def of_keys(self, keys: Sequence[str]) -> CellPredictions:
        """The predictions for these test images alone, in this order."""
        place = {key: n for n, key in enumerate(self.by_seed[0].keys)}
        chosen = np.array([place[key] for key in keys], np.int64)
        return CellPredictions(
            [test.of_keys(keys) for test in self.by_seed],
            [grades[chosen] for grades in self.grades],
        )

    @property
    def labels(self) -> Int64:
        """int64[N], the true grades."""
        return self.by_seed[0].labels

    @property
    def patients(self) -> list[str]:
        """The patient of each of the N images."""
        return self.by_seed[0].patients

    def scores(self) -> dict[str, Score]:
        """Each of ``GRADE_STATISTICS``, with its interval over test patients."""
        statistics = [grade_statistics(self.labels, grades) for grades in self.grades]

        def mean(weights: Float64) -> Float64:
            values: Float64 = np.mean([of(weights) for of in statistics], axis=0)
            return values

        alone = np.ones(len(self.labels))
        each = np.array([of(alone) for of in statistics])
        intervals = patient_intervals(mean, self.patients)
        several = len(each) > 1
        return {
            name: Score(
                mean=defined(each[:, n].mean()),
                spread=defined(each[:, n].std(ddof=1)) if several else None,
                by_seed=[defined(value) for value in each[:, n]],
                interval=intervals[n],
            )
            for n, name in enumerate(GRADE_STATISTICS)
        }

    def collapse(self) -> str | None:
        """The sentence on the first collapsed seed, with how many seeds collapsed."""
        sentences = [collapse(self.labels, grades) for grades in self.grades]
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
            for grades in self.grades
        }
        return kinds.pop() if len(kinds) == 1 else None

    def confusion(self) -> list[list[int]]:
        """The first seed's counts, true grade by predicted grade."""
        return score_grades(self.labels, self.grades[0]).confusion


def _corrected(cell: Cell, test: Predictions, run: Path) -> Int64:
    """The grades with the class weights of the run's loss undone: int64[N]."""
    counts = Run(run).config().train_counts
    if counts is None:
        raise RunError(f"{run / 'config.json'} is of an older version: no train_counts")
    weights = class_weights(cell.recipe.class_weights, counts)
    assert weights is not None, "a cell is derived from one with a weighted loss"
    grades: Int64 = correct_prior(test.probabilities, weights.tolist()).argmax(axis=1)
    return grades
