"""What an experiment's runs have left, read and scored cell by cell and pair by pair.

runs/CELL-seedN/test.parquet  ->  CellPredictions  ->  CellResult, Comparison
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from fastretina.experiments.cell_predictions import CellPredictions
from fastretina.experiments.cells import Cell, ExperimentPlan, Pairing
from fastretina.experiments.reasons import OneGrade, explain
from fastretina.metrics.comparison import Contender, compare
from fastretina.metrics.predictions import Predictions
from fastretina.report.experiment_file import CellResult, Comparison, Score, State
from fastretina.report.provenance import warn_of_drawn
from fastretina.run import Run


@dataclass(slots=True)
class CellRuns:
    """The runs of a cell, as far as they went.

    Attributes:
        runs: folders of the finished ones, by the number of their seed, in order.
        asked: number of runs that there are to be.
        error: why the last one that failed did.
        seconds: wall time of all together.
    """

    runs: dict[int, Path] = field(default_factory=dict)
    asked: int = 1
    error: str | None = None
    seconds: float = 0.0

    @property
    def state(self) -> State:
        """How far they are; a failure is told first."""
        if self.error:
            return "failed"
        if len(self.runs) >= self.asked:
            return "done"
        return "begun" if self.runs else "waiting"

    @property
    def first(self) -> Path:
        """The folder of the first one that is finished; there must be one."""
        return next(iter(self.runs.values()))


class _Scored(NamedTuple):
    """A cell's finished runs, worked out."""

    predictions: CellPredictions
    scores: dict[str, Score]
    collapse: str | None
    collapsed_to: OneGrade | None


class _Compared(NamedTuple):
    """A pair's comparisons, and a sentence about whatever they leave out."""

    comparisons: list[Comparison]
    notes: list[str]


class Collected(NamedTuple):
    """What the runs have come to by now.

    Attributes:
        cells: in the plan's order.
        comparisons: one for each statistic of pairs whose cells share finished seeds.
        notes: sentences about seeds and test images that are left out.
        predictions: what the scores rest on, by the name of the cell.
    """

    cells: list[CellResult]
    comparisons: list[Comparison]
    notes: list[str]
    predictions: dict[str, CellPredictions]


class Collection:
    """The scores of an experiment's runs, worked out once for each set of runs.

    The intervals of a cell take 2 s, and those of a pair 4 s.
    """

    def __init__(self, plan: ExperimentPlan) -> None:
        self._plan = plan
        self._scored: dict[tuple[str, ...], _Scored] = {}
        self._compared: dict[tuple[str, ...], _Compared] = {}

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
        compared = [
            self._compare(pairing, runs, predictions)
            for pairing in self._plan.pairings
            if pairing.first in scored and pairing.second in scored
        ]
        comparisons = [each for pair in compared for each in pair.comparisons]
        cells = [
            _cell_result(
                cell,
                runs[cell.derived or cell.name],
                scored.get(cell.name),
                comparisons,
            )
            for cell in self._plan.cells
        ]
        notes = _data_notes(runs)
        notes += [
            note
            for cell in self._plan.cells
            if cell.name in scored
            for note in _cell_notes(cell, predictions[cell.name])
        ]
        notes += [note for pair in compared for note in pair.notes]
        return Collected(cells, comparisons, notes, predictions)

    def _score(self, cell: Cell, runs: Mapping[int, Path]) -> _Scored:
        key = (cell.name, *map(str, runs.values()))
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
    ) -> _Compared:
        cells = [self._plan.cell(name) for name in (pairing.first, pairing.second)]
        key = tuple(
            word
            for cell in cells
            for word in (
                cell.name,
                *map(str, runs[cell.derived or cell.name].runs.values()),
            )
        )
        if key not in self._compared:
            self._compared[key] = _compared(self._plan, pairing, predictions)
        return self._compared[key]


def _cell_result(
    cell: Cell, runs: CellRuns, scored: _Scored | None, comparisons: list[Comparison]
) -> CellResult:
    first = Run(runs.first).result() if runs.runs else None
    result = CellResult(
        cell=cell.name,
        title=cell.title,
        group=cell.data,
        why="",
        state=runs.state,
        error=runs.error,
        parameters=first.parameters if first else None,
        seconds=round(runs.seconds, 1) if runs.runs else None,
        weights=first.weights if first else None,
        runs=[str(run) for run in runs.runs.values()],
        seeds=list(runs.runs),
        best_on_test=None if cell.derived else _best_on_test(runs.runs.values()),
        scores=None,
        collapse=None,
    )
    if scored is None:
        return result
    result = replace(result, scores=scored.scores, collapse=scored.collapse)
    if runs.state == "failed":  # what it would have shown is not known
        return result
    reasons = explain(cell.name, cell.reasons, comparisons, scored.collapsed_to)
    return replace(
        result, why=" ".join([cell.about, *reasons] if cell.about else reasons)
    )


def _best_on_test(runs: Iterable[Path]) -> float | None:
    """The mean of the runs' best test accuracies of all epochs; not a result.

    None where a run has none.
    """
    best = []
    for run in runs:
        values = [row.test_accuracy for row in Run(run).log()]
        best.append(max((each for each in values if each is not None), default=None))
    known = [each for each in best if each is not None]
    return fmean(known) if known and len(known) == len(best) else None


def _data_notes(runs: Mapping[str, CellRuns]) -> list[str]:
    """What must be known of the photographs, which all runs share: the first one's."""
    first = next((path for own in runs.values() for path in own.runs.values()), None)
    if first is None:
        return []
    notes = []
    if drawn := warn_of_drawn(Run(first).config().data):
        notes.append(f"{drawn[:1].upper()}{drawn[1:]}.")
    test = Predictions.load(first / "test.parquet")
    if unknown := list(test.patient_known).count(False):
        notes.append(
            f"The patients of {unknown:,} of {len(test):,} test photographs are "
            "unknown: the intervals take each for a patient of its own."
        )
    return notes


def _cell_notes(cell: Cell, predictions: CellPredictions) -> list[str]:
    notes = []
    skipped = max(each.skipped for each in predictions.by_seed.values())
    if skipped:
        notes.append(
            f"{cell.title}: {skipped} of the test images could not be decoded."
        )
    if predictions.left_out:
        total = len(predictions.keys) + predictions.left_out
        notes.append(
            f"{cell.title}: {predictions.left_out} of {total} test images are left "
            "out, as not all of its seeds have them."
        )
    return notes


def _compared(
    plan: ExperimentPlan, pairing: Pairing, predictions: Mapping[str, CellPredictions]
) -> _Compared:
    """Compare two cells on the test images and with the seeds that both have."""
    whole = [predictions[name] for name in (pairing.first, pairing.second)]
    titles = [plan.cell(name).title for name in (pairing.first, pairing.second)]
    seeds = sorted(set(whole[0].by_seed) & set(whole[1].by_seed))
    keys = sorted(set(whole[0].keys) & set(whole[1].keys))
    notes = _pair_notes(titles, whole, seeds, keys)
    if not seeds or not keys:
        return _Compared([], notes)
    first, second = (side.narrowed(seeds, keys) for side in whole)
    differences = compare(
        first.labels,
        Contender(titles[0], list(first.grades.values())),
        Contender(titles[1], list(second.grades.values())),
        first.patients,
    )
    comparisons = [
        Comparison(
            first=pairing.first,
            second=pairing.second,
            why=pairing.why,
            seeds=seeds,
            **asdict(difference),
        )
        for difference in differences
    ]
    return _Compared(comparisons, notes)


def _pair_notes(
    titles: Sequence[str],
    cells: Sequence[CellPredictions],
    seeds: Sequence[int],
    keys: Sequence[str],
) -> list[str]:
    """What of either cell is left out of their comparison, as the other lacks it."""
    pair, notes = " against ".join(titles), []
    either = set(cells[0].by_seed) | set(cells[1].by_seed)
    if not seeds:
        notes.append(f"{pair} is not compared: no seed is finished in both.")
    elif len(seeds) < len(either):
        alone = ", ".join(map(str, sorted(either - set(seeds))))
        notes.append(f"{pair}: seed {alone} is left out, as only one of them has it.")
    total = len(set(cells[0].keys) | set(cells[1].keys))
    if not keys:
        notes.append(f"{pair} is not compared: no test image is in both.")
    elif len(keys) < total:
        notes.append(
            f"{pair}: {total - len(keys)} of {total} test images are left out, as only "
            "one of them has them."
        )
    return notes
