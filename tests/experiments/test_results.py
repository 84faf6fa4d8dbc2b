"""What an experiment's runs have come to: scores, comparisons, and why."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fastretina.experiments.ablations import ablations
from fastretina.experiments.reasons import INSIDE_THE_NOISE
from fastretina.experiments.results import CellRuns, Collected, Collection
from fastretina.metrics.calibration import correct_prior
from fastretina.metrics.predictions import Predictions
from fastretina.recipe import RECIPES, Recipe
from fastretina.report.experiment_file import CellResult
from fastretina.run import Run
from fastretina.run_config import RunConfig, RunData


def same(recipe: Recipe) -> Recipe:
    return recipe


def made_run(folder: Path, grades: np.ndarray, labels: np.ndarray) -> Path:
    """A finished run's folder, as ``collect`` reads it."""
    folder.mkdir(parents=True)
    chances = np.full((len(labels), 5), 0.02)
    chances[np.arange(len(labels)), grades] = 0.92
    names = [f"{n // 2}_{('left', 'right')[n % 2]}" for n in range(len(labels))]
    Predictions(
        rows=np.arange(len(labels)),
        keys=names,
        patients=[str(n // 2) for n in range(len(labels))],
        eyes=[("left", "right")[n % 2] for n in range(len(labels))],
        labels=labels,
        probabilities=chances,
        about={"weights_sha256": "0" * 64},
    ).save(folder / "test.parquet")
    run = Run(folder)
    run.write_config(
        RunConfig(
            recipe=RECIPES["seed"],
            weights="none",
            shards="shards",
            data=RunData(),
            train_counts=[100, 10, 20, 4, 2],
            image_shape=(64, 64),
            square=True,
            loader="pil",
            precision="fp32",
            threads=1,
        )
    )
    ending = {"parameters": 7, "weights": "none", "seconds": 1.0}
    ending |= {"checkpoint": "last", "checkpoint_epoch": 2, "weights_sha256": "0" * 64}
    run.write_metrics(ending)
    measured = "train_loss,train_accuracy,images_per_second,wait_seconds,seconds"
    (folder / "log.csv").write_text(
        f"epoch,phase,test_accuracy,lr,{measured}\n"
        "1,head,0.9,0.1,1.5,0.5,9,0,1\n"
        "2,full,,0.1,1.5,0.5,9,0,1\n"
    )
    return folder


def collected(tmp_path: Path) -> Collected:
    plan = ablations(same, 512, leaks=False)
    labels = np.repeat(np.arange(5), [60, 8, 16, 8, 8])
    predicted = {cell.name: labels.copy() for cell in plan.trained}
    predicted["jitter-0.5-weights-max"] = np.full(100, 2)
    predicted["base"][::5] = 0
    runs = {
        name: CellRuns(runs=[made_run(tmp_path / name, grades, labels)])
        for name, grades in predicted.items()
    }
    runs["one-phase"] = CellRuns(error="it failed")
    return Collection(plan).collect(runs)


def test_collapse_verdicts_are_those_of_the_predictions(tmp_path: Path):
    cells = {cell.cell: cell for cell in collected(tmp_path).cells}
    fallen = {name for name, cell in cells.items() if cell.collapse}
    assert fallen == {"jitter-0.5-weights-max"}
    verdict = cells["jitter-0.5-weights-max"].collapse
    assert "grade 2 (Moderate)" in verdict
    assert "accuracy of 16.0% is that grade's share" in verdict
    assert cells["base"].best_on_test == 0.9
    assert (cells["one-phase"].state, cells["one-phase"].scores) == (
        "failed",
        None,
    )


def test_whys_follow_from_the_results(tmp_path: Path):
    """Every cell but the collapsed one is better than the base here."""
    cells = {cell.cell: cell for cell in collected(tmp_path).cells}
    assert cells["base"].why == "What the others are held against."
    assert cells["resize-224"].why == ""  # the reason is for a fall
    assert cells["batchnorm-eval"].why.startswith("train() lets the statistics")
    assert cells["clahe-both"].why == INSIDE_THE_NOISE  # as on train only
    assert "Here, too, it is one grade" in cells["jitter-0.5-weights-max"].why
    assert cells["one-phase"].why == "The report calls the two phases the key."


def test_comparisons_name_what_is_better_and_leave_out_what_failed(tmp_path: Path):
    comparisons = collected(tmp_path).comparisons
    pairs = {(each.first, each.second) for each in comparisons}
    assert ("one-phase", "base") not in pairs
    assert ("weights-max", "base") in pairs
    by = {(e.first, e.statistic): e for e in comparisons if e.second == "base"}
    assert by["weights-max", "accuracy"].clear
    assert "class weights max/n is better" in by["weights-max", "accuracy"].verdict
    assert by["jitter-0.5-weights-max", "accuracy"].value < -0.5


def cell_accuracy(cell: CellResult) -> float:
    assert cell.scores is not None
    return cell.scores["accuracy"].mean


def test_derived_cell_undoes_the_class_weights(tmp_path: Path):
    cells = {cell.cell: cell for cell in collected(tmp_path).cells}
    test = Predictions.load(tmp_path / "weights-max" / "test.parquet")
    corrected = correct_prior(test.probabilities, [1.0, 10.0, 5.0, 25.0, 50.0])
    accuracy = np.mean(corrected.argmax(axis=1) == test.labels)
    corrected_accuracy = cell_accuracy(cells["weights-max-corrected"])
    assert corrected_accuracy == pytest.approx(accuracy)
    assert corrected_accuracy < cell_accuracy(cells["weights-max"])
