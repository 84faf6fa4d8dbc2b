"""Labels that have slid by a row are found, and no others."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from fastretina.metrics.fellow_agreement import (
    describe_chance_agreement,
    find_chance_agreement,
)

SIDES = ("left", "right")


def cohort(pairs: int, seed: int = 0) -> tuple[list[str], list[str], list[int]]:
    """Patients, sides and grades of eyes that agree in 87 % of the pairs."""
    rng = np.random.default_rng(seed)
    left = rng.choice(5, pairs, p=[0.74, 0.07, 0.15, 0.02, 0.02])
    near = np.clip(left + rng.choice([-1, 1], pairs), 0, 4)
    right = np.where(rng.random(pairs) < 0.87, left, near)
    patients = [str(n // 2) for n in range(2 * pairs)]
    return (
        patients,
        list(SIDES) * pairs,
        np.column_stack([left, right]).ravel().tolist(),
    )


def slid(grades: list[int], row: int = 0) -> list[int]:
    """The grades without that row's, and the last one twice."""
    return [*grades[:row], *grades[row + 1 :], grades[-1]]


@pytest.mark.parametrize("pairs", [150, 500, 3000])
def test_grades_that_have_slid_are_found(pairs: int) -> None:
    patients, sides, grades = cohort(pairs)
    assert find_chance_agreement(patients, sides, grades) is None
    found = find_chance_agreement(patients, sides, slid(grades))
    assert found is not None
    assert (found.pairs, found.first, found.everywhere) == (pairs, 0, True)
    assert abs(found.qwk) < 0.2 < 0.42
    assert found.qwk < found.high < 0.42


def test_the_row_from_which_grades_have_slid_is_told_about() -> None:
    patients, sides, grades = cohort(3000)
    found = find_chance_agreement(patients, sides, slid(grades, 4001))
    assert found is not None
    assert 3500 <= found.first <= 4500
    assert found.pairs < 1000


def test_first_photographs_alone_are_not_taken_for_all() -> None:
    patients, sides, grades = cohort(1000)
    rng = np.random.default_rng(3)
    mixed = [*rng.permutation(grades[:500]).tolist(), *grades[500:]]
    found = find_chance_agreement(patients, sides, mixed)
    assert found is not None
    assert (found.pairs, found.first, found.everywhere) == (250, 0, False)
    said = describe_chance_agreement(found, "0_left")
    assert said.startswith("from about 0_left on, fellow eyes agree by chance")


@pytest.mark.parametrize("pairs", [1, 5, 20, 60, 100])
def test_small_sets_raise_no_false_alarm(pairs: int) -> None:
    for seed in range(20):
        assert find_chance_agreement(*cohort(pairs, seed)) is None


def test_what_tells_nothing_is_no_alarm() -> None:
    assert find_chance_agreement([], [], []) is None
    nobody = [str(n) for n in range(500)]
    assert find_chance_agreement(nobody, [""] * 500, [0, 1] * 250) is None
    patients, sides, _ = cohort(500)
    assert find_chance_agreement(patients, sides, [0] * 1000) is None


def test_real_labels_raise_no_false_alarm(real_data: Path) -> None:
    with (real_data / "course_labels" / "kaggle_trainLabels.csv").open() as file:
        rows = list(csv.DictReader(file))
    names = [row["image"].rsplit("_", 1) for row in rows]
    patients, sides = [name[0] for name in names], [name[1] for name in names]
    grades = [int(row["level"]) for row in rows]
    assert find_chance_agreement(patients, sides, grades) is None
    found = find_chance_agreement(patients, sides, slid(grades, 23_417))
    assert found is not None
    assert 23_000 <= found.first <= 24_000
