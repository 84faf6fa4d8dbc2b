"""What an experiment's runs have left, read and scored cell by cell and pair by pair.

runs/CELL-seedN/test.parquet  ->  CellPredictions  ->  CellResult, Comparison
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from fastretina.experiments.cell_predictions import CellPredictions
from fastretina.experiments.cells import Cell, ExperimentPlan, Pairing
from fastretina.experiments.reasons import OneGrade, explain
from fastretina.metrics.comparison import Contender, compare
from fastretina.report.experiment_file import CellResult, Comparison, Score
from fastretina.run import Run


@dataclass(slots=True)
class CellRuns:
    """The runs of a cell, as far as they went.

    Attributes:
        runs: folders of the finished ones, by seed from the first on.
        error: why the last one that failed did.
        seconds: wall time of all together.
    """

    runs: list[Path] = field(default_factory=list)
    error: str | None = None
    seconds: float = 0.0


class _Scored(NamedTuple):
    """A cell's finished runs, worked out."""

    predictions: CellPredictions
    scores: dict[str, Score]
    collapse: str | None
    collapsed_to: OneGrade | None


class Collected(NamedTuple):
    """What the runs have come to by now.

    Attributes:
        cells: in the plan's order.
        comparisons: one for each statistic of pairs whose cells have finished runs.
        predictions: what the scores rest on, by the name of the cell.
    """

    cells: list[CellResult]
    comparisons: list[Comparison]
    predictions: dict[str, CellPredictions]


class Collection:
    """The scores of an experiment's runs, worked out once for each set of runs.

    The intervals of a cell take 2 s, and those of a pair 4 s.
    """

    def __init__(self, plan: ExperimentPlan) -> None:
        self._plan = plan
        self._scored: dict[tuple[str, ...], _Scored] = {}
        self._comparisons: dict[tuple[str, ...], list[Comparison]] = {}

    def collect(self, runs: Mapping[str, CellRuns]) -> Collected:
        """Score all runs that are finished.

        Args:
            runs: by the name of the cell, for cells with runs of their own.
        """
        scored: dict[str, _Scored] = {}
        for cell in self._plan.cells:
            own = runs[cell.derived or cell.name]
            if own.runs:
                scored[cell.name] = self._score(cell, own.runs)
        predictions = {name: each.predictions for name, each in scored.items()}
        comparisons = [
            comparison
            for pairing in self._plan.pairings
            if pairing.first in scored and pairing.second in scored
            for comparison in self._compare(pairing, runs, predictions)
        ]
        cells = [
            _cell_result(
                cell,
                runs[cell.derived or cell.name],
                scored.get(cell.name),
                comparisons,
            )
            for cell in self._plan.cells
        ]
        return Collected(cells, comparisons, predictions)

    def _score(self, cell: Cell, runs: Sequence[Path]) -> _Scored:
        key = (cell.name, *map(str, runs))
        if key not in self._scored:
            predictions = CellPredictions.of(cell, runs)
            self._scored[key] = _Scored(
                predictions,
                predictions.scores(),
                predictions.collapse(),
                predictions.collapsed_to(),
            )
        return self._scored[key]

    def _compare(
        self,
        pairing: Pairing,
        runs: Mapping[str, CellRuns],
        predictions: Mapping[str, CellPredictions],
    ) -> list[Comparison]:
        cells = [self._plan.cell(name) for name in (pairing.first, pairing.second)]
        key = tuple(
            word
            for cell in cells
            for word in (cell.name, *map(str, runs[cell.derived or cell.name].runs))
        )
        if key not in self._comparisons:
            self._comparisons[key] = _compared(self._plan, pairing, predictions)
        return self._comparisons[key]


def _cell_result(
    cell: Cell, runs: CellRuns, scored: _Scored | None, comparisons: list[Comparison]
) -> CellResult:
    first = Run(runs.runs[0]).result() if runs.runs else None
    result = CellResult(
        cell=cell.name,
        title=cell.title,
        group=cell.data,
        why=cell.about,
        state="failed" if runs.error else "done" if runs.runs else "waiting",
        error=runs.error,
        parameters=first.parameters if first else None,
        seconds=round(runs.seconds, 1) if runs.runs else None,
        weights=first.weights if first else None,
        runs=[str(run) for run in runs.runs],
        best_on_test=_best_on_test(runs.runs[0]) if runs.runs else None,
        scores=None,
        collapse=None,
    )
    if scored is None:
        return result
    reasons = explain(cell.name, cell.reasons, comparisons, scored.collapsed_to)
    return replace(
        result,
        why=" ".join([cell.about, *reasons] if cell.about else reasons),
        scores=scored.scores,
        collapse=scored.collapse,
    )


def _best_on_test(run: Path) -> float | None:
    """The best test accuracy of all epochs, which the report printed; not a result."""
    values = [row.test_accuracy for row in Run(run).log()]
    return max((value for value in values if value is not None), default=None)


def _compared(
    plan: ExperimentPlan, pairing: Pairing, predictions: Mapping[str, CellPredictions]
) -> list[Comparison]:
    """Compare two cells on the test images and with the seeds that both have."""
    names = (pairing.first, pairing.second)
    tested = [set(predictions[name].by_seed[0].keys) for name in names]
    common = sorted(tested[0] & tested[1])
    first, second = (predictions[name].of_keys(common) for name in names)
    seeds = min(len(first.grades), len(second.grades))
    sides = [
        Contender(plan.cell(name).title, side.grades[:seeds])
        for name, side in ((pairing.first, first), (pairing.second, second))
    ]
    return [
        Comparison(
            first=pairing.first,
            second=pairing.second,
            why=pairing.why,
            **asdict(difference),
        )
        for difference in compare(first.labels, sides[0], sides[1], first.patients)
    ]
