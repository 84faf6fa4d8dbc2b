"""What an experiment's runs have come to: scores, comparisons, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_experiments import LABELS, made_run

from fastretina.experiments.ablations import ablations
from fastretina.experiments.experiment_text import format_result
from fastretina.experiments.reasons import INSIDE_THE_NOISE
from fastretina.experiments.results import CellRuns, Collected, Collection
from fastretina.metrics.calibration import correct_prior
from fastretina.metrics.predictions import Predictions
from fastretina.metrics.statistics import GRADE_STATISTICS
from fastretina.recipe import Recipe
from fastretina.report.experiment_file import CellResult, ExperimentResult
from fastretina.run_config import RunData
from loaders.shards import Origin


def same(recipe: Recipe) -> Recipe:
    return recipe


def collected(tmp_path: Path) -> Collected:
    plan = ablations(same, 512, leaks=False)
    predicted = {cell.name: LABELS.copy() for cell in plan.trained}
    predicted["jitter-0.5-weights-max"] = np.full(100, 2)
    predicted["base"][::5] = 0
    runs = {
        name: CellRuns(runs={0: made_run(tmp_path / name, grades, LABELS)})
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
    assert cells["one-phase"].why == ""  # it has failed


def test_cell_that_failed_says_why_and_explains_nothing(tmp_path: Path):
    """One of two seeds has finished, clearly better than the base's."""
    runs = {
        "base": {0: made_run(tmp_path / "a", guesses(3), LABELS)},
        "batchnorm-eval": {0: made_run(tmp_path / "b", LABELS.copy(), LABELS)},
    }
    plan = ablations(same, 512, leaks=False)
    whole = {cell.name: CellRuns(runs=runs.get(cell.name, {})) for cell in plan.trained}
    found = {cell.cell: cell for cell in Collection(plan).collect(whole).cells}
    assert found["batchnorm-eval"].why.startswith("train() lets the statistics")
    assert found["weights-sqrt"].why == ""  # it waits
    whole["batchnorm-eval"].error = "the loss is nan"
    whole["one-phase"].error = "no memory"
    collected = Collection(plan).collect(whole)
    found = {cell.cell: cell for cell in collected.cells}
    failed = found["batchnorm-eval"]
    assert (failed.state, failed.error, failed.why) == ("failed", "the loss is nan", "")
    assert failed.scores is not None
    text = format_result(result_of(collected, 1))
    assert "- BatchNorm kept as it came in phase 1: failed: the loss is nan" in text
    assert "- one phase: all of it from the start: failed: no memory" in text
    _, _, whys = text.partition("### Why")
    assert "the report's recipe" in whys
    for name in ("BatchNorm kept", "one phase", "class weights"):
        assert name not in whys


def test_constant_cell_is_better_than_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Grade 0 for all is right more often than a network that tries."""
    monkeypatch.setattr("fastretina.metrics.bootstrap.RESAMPLES", 60)
    poor = np.array([1, 1, 2, 4, 3])[LABELS]
    runs = {
        "base": {0: made_run(tmp_path / "a", poor, LABELS)},
        "weights-sqrt": {0: made_run(tmp_path / "b", np.zeros(100, int), LABELS)},
    }
    found = collected_pair(runs)
    by = {each.statistic: each for each in found.comparisons}
    assert by["accuracy"].clear
    assert by["accuracy"].by_one_grade
    assert not by["accuracy"].shows_merit
    assert by["accuracy"].verdict.startswith(
        "accuracy: class weights sqrt(max/n) is above the report's recipe (+0."
    )
    assert by["accuracy"].verdict.endswith("but it gives one grade to all: no merit")
    assert by["qwk"].shows_merit
    assert "the report's recipe is better" in by["qwk"].verdict
    text = format_result(result_of(found, 1))
    assert (
        "| worse in balanced accuracy and QWK; higher in accuracy, but gives one "
        in (text)
    )
    turned = {**runs, "base": runs["weights-sqrt"], "weights-sqrt": runs["base"]}
    text = format_result(result_of(collected_pair(turned), 1))
    assert "better in balanced accuracy and QWK; lower in accuracy than one grade " in (
        text
    )


def test_accuracy_of_a_few_test_images_is_exact_in_the_table(tmp_path: Path):
    """50 patients: a bootstrap's; 10 of them: not."""
    for last, exact in ((100, False), (20, True)):
        labels = LABELS[::5] if exact else LABELS
        grades = np.where(np.arange(len(labels)) % 3, labels, 1)
        run = made_run(tmp_path / str(last), grades, labels)
        found = collected_pair({"base": {0: run}})
        (cell,) = [cell for cell in found.cells if cell.cell == "base"]
        assert cell.scores is not None
        assert {name for name, each in cell.scores.items() if each.exact} == (
            {"accuracy"} if exact else set()
        )
        text = format_result(result_of(found, 1))
        assert ("] exact |" in text) == exact
        assert ("exact ones (Clopper-Pearson) where cases are few" in text) == exact


def result_of(found: Collected, seeds: int) -> ExperimentResult:
    return ExperimentResult(
        experiment="ablations",
        title="Ablations",
        about="",
        budget="tiny",
        seeds=seeds,
        shards="shards",
        date="",
        seconds=1.0,
        cells=found.cells,
        comparisons=found.comparisons,
        reference=None,
        figures=[],
        notes=found.notes,
    )


def test_comparisons_name_what_is_better_and_leave_out_what_failed(tmp_path: Path):
    comparisons = collected(tmp_path).comparisons
    pairs = {(each.first, each.second) for each in comparisons}
    assert ("one-phase", "base") not in pairs
    assert ("weights-max", "base") in pairs
    by = {(e.first, e.statistic): e for e in comparisons if e.second == "base"}
    assert by["weights-max", "accuracy"].clear
    assert "class weights max/n is better" in by["weights-max", "accuracy"].verdict
    assert by["jitter-0.5-weights-max", "accuracy"].value < -0.5


def collected_pair(runs: Mapping[str, dict[int, Path]]) -> Collected:
    """What the base and the milder weights come to; no other cell has a run."""
    plan = ablations(same, 512, leaks=False)
    return Collection(plan).collect(
        {cell.name: CellRuns(runs=runs.get(cell.name, {})) for cell in plan.trained}
    )


def guesses(seed: int) -> np.ndarray:
    """The grades of a made-up run of this seed."""
    rng = np.random.default_rng(seed)
    return np.where(rng.random(len(LABELS)) < 0.2 * (seed + 1), 0, LABELS)


def test_cells_are_compared_by_the_seeds_that_both_have(tmp_path: Path):
    """Two cells that predict the same, of which one has lost its first seed."""
    runs = {
        cell: {
            seed: made_run(tmp_path / f"{cell}-seed{seed}", guesses(seed), LABELS)
            for seed in seeds
        }
        for cell, seeds in (("base", (0, 1, 2)), ("weights-sqrt", (1, 2)))
    }
    found = collected_pair(runs)
    assert [each.statistic for each in found.comparisons] == list(GRADE_STATISTICS)
    for each in found.comparisons:
        assert (each.by_seed, each.seeds) == ([0.0, 0.0], [1, 2])
    assert found.notes == [
        "class weights sqrt(max/n) against the report's recipe: seed 0 is left out, as "
        "only one of them has it."
    ]
    cells = {cell.cell: cell for cell in found.cells}
    assert cells["base"].seeds == [0, 1, 2]
    assert cells["weights-sqrt"].seeds == [1, 2]


def test_drawn_photographs_and_unknown_patients_are_said_once(tmp_path: Path):
    drawn = RunData(origin=Origin(listed=500, drawn=500))
    runs = {
        cell: {0: made_run(tmp_path / cell, guesses(0), LABELS, data=drawn)}
        for cell in ("base", "weights-sqrt")
    }
    path = tmp_path / "base" / "test.parquet"
    test = Predictions.load(path)
    replace(test, patient_known=[n > 2 for n in range(len(test))]).save(path)
    notes = collected_pair(runs).notes
    assert notes[0].startswith("Drawn photographs: all of these were made up by ")
    assert notes[1:] == [
        "The patients of 3 of 100 test photographs are unknown: the intervals take "
        "each for a patient of its own."
    ]


def test_test_images_that_could_not_be_decoded_are_counted(tmp_path: Path):
    run = made_run(tmp_path / "a", guesses(0), LABELS)
    path = run / "test.parquet"
    replace(Predictions.load(path), skipped=3).save(path)
    assert collected_pair({"base": {0: run}}).notes == [
        "the report's recipe: 3 of the test images could not be decoded."
    ]


def test_cell_is_done_once_all_its_seeds_are():
    one, path = {1: Path("run")}, Path("run")
    assert CellRuns(asked=3).state == "waiting"
    assert CellRuns(runs=one, asked=3).state == "begun"
    assert CellRuns(runs={0: path, 1: path, 2: path}, asked=3).state == "done"
    assert CellRuns(runs=one, asked=3, error="it failed").state == "failed"


def test_best_epoch_on_test_is_a_mean_over_seeds_and_no_derived_cells(tmp_path: Path):
    runs = {
        seed: made_run(tmp_path / f"seed{seed}", guesses(seed), LABELS)
        for seed in (0, 1)
    }
    log = runs[1] / "log.csv"
    log.write_text(log.read_text().replace("1,head,0.9", "1,head,0.8"))
    cells = {c.cell: c for c in collected_pair({"weights-max": runs}).cells}
    assert cells["weights-max"].best_on_test == pytest.approx(0.85)
    assert cells["weights-max-corrected"].scores is not None
    assert cells["weights-max-corrected"].best_on_test is None


def test_table_says_how_many_seeds_a_line_is_of(tmp_path: Path):
    runs = {
        "base": {s: made_run(tmp_path / f"a{s}", guesses(s), LABELS) for s in (0, 1)},
        "weights-sqrt": {1: made_run(tmp_path / "b1", guesses(0), LABELS)},
    }
    found = collected_pair(runs)
    result = result_of(found, 2)
    lines = format_result(result).splitlines()
    assert any(line.startswith("| the report's recipe | ") for line in lines)
    short = "| class weights sqrt(max/n) (1 of 2 seeds) | "
    assert any(line.startswith(short) for line in lines)
    assert found.notes[0] in "\n".join(lines)
    assert (
        "All pairs are compared by one seed: the intervals are over patients alone, "
        "and another seed might say otherwise."
    ) in lines


def test_cells_without_a_common_seed_are_not_compared(tmp_path: Path):
    runs = {
        "base": {0: made_run(tmp_path / "a", guesses(0), LABELS)},
        "weights-sqrt": {1: made_run(tmp_path / "b", guesses(0), LABELS)},
    }
    found = collected_pair(runs)
    assert not found.comparisons
    assert found.notes == [
        "class weights sqrt(max/n) against the report's recipe is not compared: no "
        "seed is finished in both."
    ]


def test_test_images_that_are_left_out_are_counted(tmp_path: Path):
    base = {
        0: made_run(tmp_path / "a0", guesses(0), LABELS),
        1: made_run(tmp_path / "a1", guesses(1)[:-6], LABELS[:-6]),
    }
    other = {
        seed: made_run(tmp_path / f"b{seed}", guesses(seed)[4:], LABELS[4:], first=4)
        for seed in (0, 1)
    }
    found = collected_pair({"base": base, "weights-sqrt": other})
    assert found.comparisons[0].value == 0
    assert found.comparisons[0].seeds == [0, 1]
    assert found.notes == [
        "the report's recipe: 6 of 100 test images are left out, as not all of its "
        "seeds have them.",
        "class weights sqrt(max/n) against the report's recipe: 10 of 100 test images "
        "are left out, as only one of them has them.",
    ]
    apart = {0: made_run(tmp_path / "c", guesses(0), LABELS, first=100)}
    found = collected_pair({"base": base, "weights-sqrt": apart})
    assert not found.comparisons
    assert found.notes[-1].endswith("is not compared: no test image is in both.")


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
