"""Why a cell's result is as it is: said only where the result bears it out."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fastretina.experiments.ablations import ablations
from fastretina.experiments.cells import Plan
from fastretina.experiments.plans import PLANS, strong, table
from fastretina.experiments.reasons import (
    INSIDE_THE_NOISE,
    OneGrade,
    Reason,
    Shift,
    explain,
)
from fastretina.metrics.bootstrap import GRADE_STATISTICS
from fastretina.recipe import Recipe
from fastretina.report.experiment_file import Comparison

REASON = Reason("Because.", Shift("base", "qwk", "worse"))


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
    better = replace(REASON, when=Shift("base", "qwk", "better"))
    assert explain("cell", [better], compared(0.3, clear=True), None) == ["Because."]


def test_reason_is_left_out_where_the_difference_points_the_other_way():
    assert explain("cell", [REASON], compared(0.3, clear=True), None) == []
    better = replace(REASON, when=Shift("base", "qwk", "better"))
    assert explain("cell", [better], compared(-0.3, clear=True), None) == []


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
    second = Reason("And so.", Shift("base", "accuracy", "worse"))
    comparisons = [
        replace(each, clear=each.statistic == "accuracy", value=-0.3)
        for each in compared(-0.05, clear=False)
    ]
    assert explain("cell", [REASON, second], comparisons, None) == ["And so."]


@pytest.mark.parametrize("commonest", [True, False])
def test_reason_of_a_collapse_asks_for_its_kind_of_grade(commonest: bool):
    reason = Reason("One grade.", OneGrade(commonest=commonest))
    assert explain("cell", [reason], [], OneGrade(commonest=commonest)) == [reason.text]
    assert explain("cell", [reason], [], OneGrade(commonest=not commonest)) == []
    assert explain("cell", [reason], [], None) == []


@pytest.mark.parametrize("plan", [PLANS[name](same, 512, True) for name in PLANS])
def test_reasons_ask_for_differences_that_the_plan_measures(plan: Plan):
    pairs = {(pairing.first, pairing.second) for pairing in plan.pairings}
    for cell in plan.cells:
        for reason in cell.reasons:
            if isinstance(reason.when, Shift):
                assert (cell.name, reason.when.against) in pairs, cell.name
                assert reason.when.statistic in GRADE_STATISTICS


def test_no_cell_explains_a_result_that_is_not_there():
    plans = [plan(same, 512, True) for plan in (table, ablations, strong)]
    for cell in (cell for plan in plans for cell in plan.cells):
        assert "fall" not in cell.about
        assert "better" not in cell.about
        assert "worse" not in cell.about


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
