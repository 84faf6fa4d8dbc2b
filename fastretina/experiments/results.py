"""What an experiment's runs have found, cell by cell and pair by pair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fastretina.experiments.cells import Cell, Pairing, Plan
from fastretina.metrics.bootstrap import (
    GRADE_STATISTICS,
    defined,
    grade_statistics,
    patient_intervals,
)
from fastretina.metrics.calibration import correct_prior
from fastretina.metrics.comparison import Contender, compare
from fastretina.metrics.predictions import Predictions
from fastretina.metrics.scores import collapse, score_grades
from fastretina.nn.step import class_weights
from fastretina.run import Run
from loaders.arrays import Float64, Int64

State = Literal["waiting", "done", "failed"]


@dataclass(slots=True)
class Outcome:
    """How the runs of a cell went.

    Attributes:
        runs: folders of those that are finished, by seed from the first on.
        error: why the last one that failed did.
        seconds: of wall time, all together.
    """

    runs: list[Path] = field(default_factory=list)
    error: str | None = None
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class CellScores:
    """The predictions of a cell's finished runs on the same test images.

    Attributes:
        tests: of each seed.
        grades: int64[N] of each seed: what is said in the end.
    """

    tests: Sequence[Predictions]
    grades: Sequence[Int64]

    @classmethod
    def of(cls, cell: Cell, runs: Sequence[Path]) -> CellScores:
        """Read what the runs have left; those of a derived cell, with the prior back.

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

    def of_keys(self, keys: Sequence[str]) -> CellScores:
        """The same of these test images, in this order."""
        place = {key: n for n, key in enumerate(self.tests[0].keys)}
        chosen = np.array([place[key] for key in keys], np.int64)
        return CellScores(
            [test.of_keys(keys) for test in self.tests],
            [grades[chosen] for grades in self.grades],
        )

    @property
    def labels(self) -> Int64:
        """int64[N]."""
        return self.tests[0].labels

    @property
    def patients(self) -> list[str]:
        """Of each of the N images."""
        return self.tests[0].patients

    def scores(self) -> dict[str, Any]:
        """Of each statistic the mean over seeds, their spread, and its interval."""
        statistics = [grade_statistics(self.labels, grades) for grades in self.grades]

        def mean(weights: Float64) -> Float64:
            values: Float64 = np.mean([of(weights) for of in statistics], axis=0)
            return values

        alone = np.ones(len(self.labels))
        each = np.array([of(alone) for of in statistics])
        intervals = patient_intervals(mean, self.patients)
        several = len(each) > 1
        return {
            name: {
                "mean": defined(each[:, n].mean()),
                "spread": defined(each[:, n].std(ddof=1)) if several else None,
                "by_seed": [defined(value) for value in each[:, n]],
                "interval": intervals[n],
            }
            for n, name in enumerate(GRADE_STATISTICS)
        }

    def collapse(self) -> str | None:
        """The first seed's collapse that there is, with how many seeds did."""
        told = [collapse(self.labels, grades) for grades in self.grades]
        fallen = [sentence for sentence in told if sentence]
        if not fallen:
            return None
        if len(told) == 1:
            return fallen[0]
        return f"{len(fallen)} of {len(told)} seeds: {fallen[0]}"

    def confusion(self) -> list[list[int]]:
        """Of the first seed, counts."""
        return score_grades(self.labels, self.grades[0]).confusion


def _corrected(cell: Cell, test: Predictions, run: Path) -> Int64:
    """The grades with the class weights of the run's loss undone: int64[N]."""
    weights = class_weights(cell.recipe.class_weights, _train_counts(run))
    assert weights is not None, "a cell is derived from one with a weighted loss"
    grades: Int64 = correct_prior(test.probabilities, weights.tolist()).argmax(axis=1)
    return grades


def _train_counts(run: Path) -> list[int]:
    counts: list[int] = Run(run).config()["train_counts"]
    return counts


class Collection:
    """What the runs have found by now, worked out once for each set of runs.

    The intervals of a cell take 2 s, and those of a pair 4 s.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._found: dict[tuple[str, ...], CellScores] = {}
        self._scores: dict[tuple[str, ...], dict[str, Any]] = {}
        self._comparisons: dict[tuple[str, ...], list[dict[str, Any]]] = {}

    def collect(
        self, outcomes: Mapping[str, Outcome]
    ) -> tuple[dict[str, Any], dict[str, CellScores]]:
        """The experiment as JSON, and the predictions that it rests on.

        Args:
            outcomes: by the name of the cell; of those that have runs of their own.
        """
        found: dict[str, CellScores] = {}
        keys: dict[str, tuple[str, ...]] = {}
        cells = []
        for cell in self._plan.cells:
            outcome = outcomes[cell.derived or cell.name]
            if outcome.runs:
                key = keys[cell.name] = (cell.name, *map(str, outcome.runs))
                if key not in self._found:
                    self._found[key] = CellScores.of(cell, outcome.runs)
                    self._scores[key] = _said(self._found[key])
                found[cell.name] = self._found[key]
            scores = self._scores.get(keys.get(cell.name, ()))
            cells.append(_cell_json(cell, outcome, scores))
        comparisons = []
        for pairing in self._plan.pairings:
            if pairing.first in keys and pairing.second in keys:
                both = keys[pairing.first] + keys[pairing.second]
                if both not in self._comparisons:
                    self._comparisons[both] = _compared(self._plan, pairing, found)
                comparisons += self._comparisons[both]
        return {"cells": cells, "comparisons": comparisons}, found


def _said(found: CellScores) -> dict[str, Any]:
    return {"scores": found.scores(), "collapse": found.collapse()}


def _cell_json(
    cell: Cell, outcome: Outcome, said: dict[str, Any] | None
) -> dict[str, Any]:
    done: State = "done" if outcome.runs else "waiting"
    last = Run(outcome.runs[0]).metrics() if outcome.runs else {}
    return {
        "cell": cell.name,
        "title": cell.title,
        "group": cell.data,
        "why": cell.why,
        "state": "failed" if outcome.error else done,
        "error": outcome.error,
        "parameters": last.get("parameters"),
        "seconds": round(outcome.seconds, 1) if outcome.runs else None,
        "weights": last.get("weights"),
        "runs": [str(run) for run in outcome.runs],
        "best_on_test": _best_on_test(outcome.runs[0]) if outcome.runs else None,
        **(said or {"scores": None, "collapse": None}),
    }


def _best_on_test(run: Path) -> float | None:
    """The best test accuracy of all epochs, which the report printed; not a result."""
    values = [row["test_accuracy"] for row in Run(run).log()]
    seen = [value for value in values if value is not None]
    return max(seen, default=None)


def _compared(
    plan: Plan, pairing: Pairing, found: Mapping[str, CellScores]
) -> list[dict[str, Any]]:
    """As JSON, on the test images and with the seeds that both have."""
    names = (pairing.first, pairing.second)
    tested = [set(found[name].tests[0].keys) for name in names]
    common = sorted(tested[0] & tested[1])
    first, second = (found[name].of_keys(common) for name in names)
    seeds = min(len(first.grades), len(second.grades))
    sides = [
        Contender(plan.cell(name).title, side.grades[:seeds])
        for name, side in ((pairing.first, first), (pairing.second, second))
    ]
    return [
        {
            "first": pairing.first,
            "second": pairing.second,
            "why": pairing.why,
            **difference.summary(),
        }
        for difference in compare(first.labels, sides[0], sides[1], first.patients)
    ]
