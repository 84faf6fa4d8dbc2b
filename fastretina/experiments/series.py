"""The runs of an experiment, one after the other, and their report.

ExperimentPlan x seeds  --make_variant, run_in_process-->  runs/CELL-seedN/
--Collection-->  CellResult, Comparison, notes  -->  experiment.json, after every run
--draw_figures, format_result-->  curves_*.png, confusions.png, table.md, at the end
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

from fastretina import cli
from fastretina.experiments.cells import GIVEN, Cell, ExperimentPlan
from fastretina.experiments.flags import Options
from fastretina.experiments.results import CellRuns, Collection
from fastretina.experiments.variants import make_variant
from fastretina.formatting import format_duration
from fastretina.interrupts import Stopper
from fastretina.progress import report_progress
from fastretina.report.experiment_file import (
    FILE,
    CellResult,
    ExperimentResult,
    Figure,
    Reference,
    ReferenceRow,
)
from fastretina.run import Run, as_record
from fastretina.train.options import TrainOptions
from loaders.errors import DataError, NoShards, RunError
from loaders.files import make_inner_folder, refuse_link, write_atomically
from loaders.place import place
from loaders.shards import read_manifest
from loaders.untrusted import read_json

# The end of a run is not its training: a start, predictions and intervals.
_AROUND_A_RUN = 20.0  # seconds


class Series:
    """An experiment in its folder."""

    def __init__(
        self, plan: ExperimentPlan, options: Options, seconds: Mapping[str, float]
    ) -> None:
        self._plan = plan
        self._options = options
        self._seconds = seconds
        self._folder = options.folder
        self._collection = Collection(plan)
        self._failed: dict[tuple[str, int], str] = {}

    def train(self) -> None:
        """Train all that is not finished: every cell with one seed, then the next.

        Raises:
            RunError: a finished run was trained or tested on other data.
            KeyboardInterrupt: after the run in progress has saved.
        """
        self._refuse_other_data()
        left = [(c, n) for c, n in self._runs() if not self._finished(c, n)]
        done = len(self._runs()) - len(left)
        if done:
            report_progress(f"{done} of {len(self._runs())} runs are finished already")
        for turn, (cell, number) in enumerate(left):
            ahead = sum(self._expected(c) for c, _ in left[turn:])
            report_progress(
                f"[{done + turn + 1}/{len(self._runs())}] {self._name(cell, number)}: "
                f"about {format_duration(self._expected(cell))}, all of it "
                f"{format_duration(ahead)}"
            )
            error = self._run(cell, number)
            if error is not None:
                error = " ".join(error.split())  # on one line, in table and page
                self._failed[cell.name, number] = error
                name = self._name(cell, number)
                print(f"failed: {name}: {error}", file=sys.stderr, flush=True)
            self._write(figures=False)

    def report(self) -> dict[str, object]:
        """Write figures, tables and ``experiment.json``, and print the table.

        Raises:
            RunError: some runs have failed; all else is written.
        """
        from fastretina.experiments.experiment_text import format_result

        result = self._write(figures=True)
        text = format_result(result)
        write_atomically(self._folder / "table.md", text + "\n")
        print(text)
        if self._failed:
            (name, number), error = next(iter(self._failed.items()))
            raise RunError(
                f"{len(self._failed)} of {len(self._runs())} runs failed, the others "
                f"are in {self._folder}; the first: {name}-seed{number}: {error}"
            )
        return {
            "experiment": self._plan.name,
            "out": str(self._folder),
            "runs": len(self._runs()),
            "seconds": result.seconds,
            "cells": {
                cell.cell: {name: score.mean for name, score in cell.scores.items()}
                for cell in result.cells
                if cell.scores is not None
            },
            "clear": [each.verdict for each in result.comparisons if each.shows_merit],
        }

    def _runs(self) -> list[tuple[Cell, int]]:
        """Every cell and its seeds, by seed first: a first table is there soonest."""
        first = self._plan.trained[0].recipe.seed
        numbers = range(first, first + self._options.seeds)
        return [(cell, number) for number in numbers for cell in self._plan.trained]

    @staticmethod
    def _name(cell: Cell, number: int) -> str:
        return f"{cell.name}-seed{number}"

    def _path(self, cell: Cell, number: int) -> Path:
        return self._folder / "runs" / self._name(cell, number)

    def _finished(self, cell: Cell, number: int) -> bool:
        return (self._path(cell, number) / "metrics.json").exists()

    def _refuse_other_data(self) -> None:
        """Make sure that finished runs are of the data that there is now.

        Raises:
            RunError: one is not; what an older version did not record is passed over.
        """
        variants = [GIVEN, *self._plan.variants]
        now = {variant: self._fingerprint(variant) for variant in variants}
        for cell, number in self._runs():
            if not self._finished(cell, number):
                continue
            path = self._path(cell, number)
            data = Run(path).config().data
            for variant, trained in (
                (cell.data, data.fingerprint),
                (cell.test, data.test_fingerprint),
            ):
                if None not in (trained, now[variant]) and trained != now[variant]:
                    raise RunError(
                        f"{path} is of other data than {self._place(variant)} has now: "
                        "choose another --out"
                    )

    def _place(self, variant: str) -> str:
        """Where a variant of the data set lies, or is to lie."""
        if variant == GIVEN:
            return self._options.shards
        return str(self._folder / "data" / variant)

    def _fingerprint(self, variant: str) -> str | None:
        """That of a variant; None where it is not made."""
        try:
            return read_manifest(place(self._place(variant))).fingerprint
        except NoShards:
            return None

    def _expected(self, cell: Cell) -> float:
        return self._seconds[cell.name] + _AROUND_A_RUN

    def _run(self, cell: Cell, number: int) -> str | None:
        """Train one run; why it failed, or None.

        Raises:
            KeyboardInterrupt: after it has saved.
        """
        from fastretina.experiments.worker import run_in_process

        path = self._path(cell, number)
        try:
            shards, test = (self._shards(each) for each in (cell.data, cell.test))
        except DataError as error:
            return str(error)
        except OSError as error:
            return cli.describe_os_error(error)
        make_inner_folder(path.parent)
        log = path.with_suffix(".log")
        for each in (path, log):
            refuse_link(each)
        begun = (path / "config.json").exists()
        options = TrainOptions(
            recipe=replace(cell.recipe, seed=number),
            shards=shards,
            test_shards=None if test == shards else test,
            loading=self._options.loading,
            device=self._options.device,
            threads=self._options.threads,
            out=path,
            resume=path if begun else None,
        )
        begun_at = time.monotonic()
        try:
            return run_in_process(options, log, Stopper())
        except KeyboardInterrupt:
            raise KeyboardInterrupt("the same command goes on where it was") from None
        finally:
            self._add_time(path.name, time.monotonic() - begun_at)

    def _times(self) -> dict[str, float]:
        """Wall seconds of each run, evaluations included; a killed one's are lost."""
        path = self._folder / "times.json"
        if not path.exists():
            return {}
        try:
            return as_record(read_json(path), dict[str, float], path)
        except (OSError, ValueError) as error:
            raise RunError(f"{path} is damaged ({error}): remove it") from error

    def _add_time(self, name: str, seconds: float) -> None:
        times = self._times()
        times[name] = round(times.get(name, 0.0) + seconds, 1)
        write_atomically(self._folder / "times.json", json.dumps(times) + "\n")

    def _shards(self, variant: str) -> str:
        given = self._options.shards
        if variant == GIVEN:
            return given
        return str(make_variant(variant, given, self._folder / "data"))

    def _cell_runs(self) -> dict[str, CellRuns]:
        """The runs of each trained cell by now."""
        asked = self._options.seeds
        cells = {cell.name: CellRuns(asked=asked) for cell in self._plan.trained}
        times = self._times()
        for cell, number in self._runs():
            of_cell = cells[cell.name]
            if self._finished(cell, number):
                path = self._path(cell, number)
                of_cell.runs[number] = path
                of_cell.seconds += times.get(path.name, 0.0)
            of_cell.error = self._failed.get((cell.name, number), of_cell.error)
        return cells

    def _write(self, *, figures: bool) -> ExperimentResult:
        """Write ``experiment.json`` of what there is by now; returns its content."""
        runs = self._cell_runs()
        collected = self._collection.collect(runs)
        drawn: list[Figure] = []
        if figures:
            from fastretina.experiments.drawing import draw_figures

            drawn = draw_figures(self._folder, self._plan, runs, collected.predictions)
        plan, options = self._plan, self._options
        result = ExperimentResult(
            experiment=plan.name,
            title=plan.title,
            about=plan.about,
            budget=options.budget,
            seeds=options.seeds,
            shards=options.shards,
            date=time.strftime("%Y-%m-%d %H:%M"),
            seconds=round(sum(each.seconds for each in runs.values()), 1),
            cells=[self._relative(cell) for cell in collected.cells],
            comparisons=collected.comparisons,
            reference=_reference(plan),
            figures=drawn,
            notes=collected.notes,
        )
        path = self._folder / FILE
        write_atomically(path, json.dumps(asdict(result), indent=1) + "\n")
        return result

    def _relative(self, cell: CellResult) -> CellResult:
        """The cell with its run folders relative to the experiment's."""
        runs = [os.path.relpath(run, self._folder) for run in cell.runs]
        return replace(cell, runs=runs)


def _reference(plan: ExperimentPlan) -> Reference | None:
    if not plan.reference:
        return None
    rows = [ReferenceRow(title, accuracy) for title, accuracy in plan.reference]
    return Reference(plan.reference_about, rows)
