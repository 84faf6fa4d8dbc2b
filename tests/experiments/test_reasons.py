"""Why a cell's result is as it is: said only where the result bears it out."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fastretina.experiments.ablations import ablations
from fastretina.experiments.cells import ExperimentPlan
from fastretina.experiments.experiment_plans import PLANS, strong, table
from fastretina.experiments.experiment_text import _verdict
from fastretina.experiments.reasons import (
    INSIDE_THE_NOISE,
    OneGrade,
    Reason,
    Shift,
    explain,
)
from fastretina.metrics.statistics import GRADE_STATISTICS
from fastretina.recipe import Recipe
from fastretina.report.experiment_file import Comparison

REASON = Reason("Because.", (Shift("base", "qwk", "worse"),))


def same(recipe: Recipe) -> Recipe:
    return recipe


def compared(
    value: float, *, clear: bool, first: str = "cell", second: str = "base"
) -> list[Comparison]:
    """Made-up comparisons of two cells, by every statistic."""
    return [
        Comparison(
            first=first,
            second=second,
            why="",
            statistic=statistic,
            value=value,
            interval=[value - 0.1, value + 0.1],
            by_seed=[value],
            mcnemar_p=None,
            verdict="",
            clear=clear,
        )
        for statistic in GRADE_STATISTICS
    ]


def test_reason_is_given_where_the_difference_is_clear_and_as_claimed():
    assert explain("cell", [REASON], compared(-0.3, clear=True), None) == ["Because."]
    better = replace(REASON, when=(Shift("base", "qwk", "better"),))
    assert explain("cell", [better], compared(0.3, clear=True), None) == ["Because."]


def test_reason_is_left_out_where_the_difference_points_the_other_way():
    assert explain("cell", [REASON], compared(0.3, clear=True), None) == []
    better = replace(REASON, when=(Shift("base", "qwk", "better"),))
    assert explain("cell", [better], compared(-0.3, clear=True), None) == []


def test_one_grade_for_all_is_never_explained_as_a_merit():
    """Its accuracy may be clearly better than that of a network that tried more."""
    better = replace(REASON, when=(Shift("base", "qwk", "better"),))
    for grade in (OneGrade(commonest=True), OneGrade(commonest=False)):
        assert explain("cell", [better], compared(0.3, clear=True), grade) == []
        assert explain("cell", [REASON], compared(-0.3, clear=True), grade)


def test_mean_that_a_collapsed_seed_has_raised_is_not_explained():
    better = replace(REASON, when=(Shift("base", "qwk", "better"),))
    raised = [replace(each, by_one_grade=True) for each in compared(0.3, clear=True)]
    assert explain("cell", [better], raised, None) == []
    assert explain("cell", [better], compared(0.3, clear=True), None) == [better.text]


def test_reason_gives_way_to_the_noise():
    noise = [INSIDE_THE_NOISE]
    assert explain("cell", [REASON], compared(-0.05, clear=False), None) == noise
    assert explain("cell", [REASON], [], None) == []  # not measured
    clear_elsewhere = [
        replace(each, clear=each.statistic == "accuracy")
        for each in compared(-0.05, clear=False)
    ]
    assert explain("cell", [REASON], clear_elsewhere, None) == []
    other = compared(-0.3, clear=True, second="another")
    assert explain("cell", [REASON], other, None) == []


def test_one_clear_reason_of_two_is_enough():
    second = Reason("And so.", (Shift("base", "accuracy", "worse"),))
    comparisons = [
        replace(each, clear=each.statistic == "accuracy", value=-0.3)
        for each in compared(-0.05, clear=False)
    ]
    assert explain("cell", [REASON, second], comparisons, None) == ["And so."]


def test_too_few_patients_are_not_taken_for_noise():
    few = [replace(each, interval=None) for each in compared(-0.3, clear=False)]
    assert explain("cell", [REASON], few, None) == []
    undefined = [replace(each, value=None) for each in few]
    assert explain("cell", [REASON], undefined, None) == []
    assert _verdict(few) == _verdict(undefined) == "too few patients to tell"
    accuracy_known = [*compared(-0.05, clear=False)[:1], *undefined[1:]]
    assert _verdict(accuracy_known) == "inside the noise"


def test_reason_with_two_conditions_needs_both():
    conditions = Shift("base", "accuracy", "worse"), *REASON.when
    reason = Reason("As both fell.", conditions)
    both = compared(-0.3, clear=True)
    assert explain("cell", [reason], both, None) == [reason.text]
    for statistic in ("accuracy", "qwk"):
        one = [replace(each, clear=each.statistic == statistic) for each in both]
        assert explain("cell", [reason], one, None) == []


def test_fall_of_balanced_accuracy_alone_is_not_called_another_one():
    cell = ablations(same, 512, True).cell("weights-max")
    whole = compared(-0.3, clear=True, first="weights-max")
    accuracy, balanced = explain(cell.name, cell.reasons, whole, None)
    assert balanced.startswith("Balanced accuracy fell as well")
    for statistic, expected in (("accuracy", [accuracy]), ("balanced_accuracy", [])):
        one = [replace(each, clear=each.statistic == statistic) for each in whole]
        assert explain(cell.name, cell.reasons, one, None) == expected


@pytest.mark.parametrize("commonest", [True, False])
def test_reason_of_a_collapse_asks_for_its_kind_of_grade(commonest: bool):
    reason = Reason("One grade.", (OneGrade(commonest=commonest),))
    assert explain("cell", [reason], [], OneGrade(commonest=commonest)) == [reason.text]
    assert explain("cell", [reason], [], OneGrade(commonest=not commonest)) == []
    assert explain("cell", [reason], [], None) == []


@pytest.mark.parametrize("plan", [PLANS[name](same, 512, True) for name in PLANS])
def test_reasons_ask_for_differences_that_the_plan_measures(plan: ExperimentPlan):
    pairs = {(pairing.first, pairing.second) for pairing in plan.pairings}
    for cell in plan.cells:
        for condition in (each for reason in cell.reasons for each in reason.when):
            if isinstance(condition, Shift):
                assert (cell.name, condition.against) in pairs, cell.name
                assert condition.statistic in GRADE_STATISTICS


def test_what_is_said_of_cells_is_true_whatever_their_results():
    """Read a new sentence for a claim about a result before it is added here."""
    plans = [plan(same, 512, True) for plan in (table, ablations, strong)]
    cells = [cell for plan in plans for cell in plan.cells]
    strong_recipe = (
        "Validation by patient, AdamW with warm-up and cosine, averaged weights, "
        "rotation, zoom and colour, BatchNorm kept in phase 1."
    )
    assert {cell.name: cell.about for cell in cells if cell.about} == {
        "base": "What the others are held against.",
        "weights-max-corrected": "The same network, its log-weights subtracted "
        "afterwards.",
        "weights-sqrt": "Half the weight in log terms.",
        "weights-after-head": "The weights begin with phase 2.",
        "jitter-0.2": "What cameras do vary by.",
        "jitter-0.5-weights-max": "The report's 15 % is the share of grade 2.",
        "one-phase": "The report calls the two phases the key.",
        "seed-given": "The report's recipe.",
        "strong-given": strong_recipe,
        "seed-by-patient": "The report's recipe.",
        "strong-by-patient": strong_recipe,
    }


@pytest.mark.parametrize(
    ("pixels", "size", "given"), [(512, 224, None), (1024, 448, None), (512, 64, 128)]
)
def test_resized_cell_is_named_by_its_pixels(pixels: int, size: int, given: int | None):
    plan = ablations(lambda recipe: replace(recipe, image_size=given), pixels, True)
    cell = plan.cell(f"resize-{size}")
    assert cell.recipe.image_size == size
    assert cell.title == f"resized to {size} of {given or pixels}"
    assert f" at {size}:" in cell.reasons[0].text
    assert "224" not in cell.title or size == 224


@pytest.mark.parametrize("size", [64, 60])
def test_images_of_the_smallest_size_have_no_resized_cell(size: int):
    plan = ablations(lambda recipe: replace(recipe, image_size=64), size, True)
    assert not [cell.name for cell in plan.cells if cell.name.startswith("resize")]
    assert not [pair for pair in plan.pairings if pair.first.startswith("resize")]
    assert len(plan.cells) == 12
