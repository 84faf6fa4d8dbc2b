"""Metrics against numbers worked out by hand, and against the course report."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score, confusion_matrix

from fastretina.metrics.confusion_matrices import kappas
from fastretina.metrics.scores import collapse, quadratic_kappa, score

# The course report's normalised confusion matrix times its test counts.
REPORT = [
    [4798, 31, 316, 1, 5],
    [359, 15, 114, 0, 0],
    [306, 14, 733, 11, 19],
    [7, 1, 103, 42, 22],
    [13, 0, 42, 5, 67],
]


def sure(predicted: list[int], classes: int = 5) -> np.ndarray:
    """Probabilities of somebody who has no doubts: float64[N, 5]."""
    return np.eye(classes)[predicted]


def from_matrix(matrix: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    cells = [(t, p, n) for t, row in enumerate(matrix) for p, n in enumerate(row)]
    counts = [n for _, _, n in cells]
    labels = np.repeat([t for t, _, _ in cells], counts)
    return labels, np.repeat([p for _, p, _ in cells], counts)


def test_score_reproduces_the_course_report():
    rates = [
        [9.31e-01, 6.02e-03, 6.13e-02, 1.94e-04, 9.70e-04],
        [7.36e-01, 3.07e-02, 2.34e-01, 0.00e00, 0.00e00],
        [2.83e-01, 1.29e-02, 6.77e-01, 1.02e-02, 1.76e-02],
        [4.00e-02, 5.71e-03, 5.89e-01, 2.40e-01, 1.26e-01],
        [1.02e-01, 0.00e00, 3.31e-01, 3.94e-02, 5.28e-01],
    ]
    counts = [5153, 488, 1082, 175, 127]
    rounded = np.rint(np.array(rates) * np.array(counts)[:, None]).astype(int)
    assert np.abs(rounded - REPORT).max() <= 1  # the report's rates have 3 digits
    labels, predicted = from_matrix(rounded.tolist())
    found = score(labels, sure(predicted.tolist()))
    assert found.accuracy == pytest.approx(0.805, abs=5e-4)
    assert found.qwk == pytest.approx(0.702, abs=5e-4)
    assert found.balanced_accuracy == pytest.approx(0.481, abs=5e-4)
    assert found.recall[1] == pytest.approx(0.031, abs=5e-4)
    assert found.referable.sensitivity == pytest.approx(0.754, abs=5e-4)
    assert found.referable.specificity == pytest.approx(0.923, abs=5e-4)
    assert found.confusion == rounded.tolist()
    assert found.collapse is None


def test_score_against_a_hand_computation():
    labels = np.array([0, 0, 0, 1, 2, 2, 3, 4])
    predicted = [0, 0, 1, 1, 2, 0, 4, 4]
    found = score(labels, sure(predicted))
    assert found.samples == 8
    assert found.accuracy == 5 / 8
    assert found.recall == [2 / 3, 1, 1 / 2, 0, 1]
    assert found.precision == [2 / 3, 1 / 2, 1, None, 1 / 2]
    assert found.balanced_accuracy == pytest.approx((2 / 3 + 1 + 1 / 2 + 0 + 1) / 5)
    assert found.confusion == [
        [2, 1, 0, 0, 0],
        [0, 1, 0, 0, 0],
        [1, 0, 1, 0, 0],
        [0, 0, 0, 0, 1],
        [0, 0, 0, 0, 1],
    ]
    # Squared distances observed: 1 + 4 + 1 = 6. Expected by chance, from the margins
    # (3, 1, 2, 1, 1) and (3, 2, 1, 0, 2): 291/8 = sum of n_i m_j (i - j)^2 / 8.
    true, said = np.array([3, 1, 2, 1, 1]), np.array([3, 2, 1, 0, 2])
    squares = (np.arange(5)[:, None] - np.arange(5)) ** 2
    expected = (np.outer(true, said) * squares).sum() / 8
    assert found.qwk == pytest.approx(1 - 6 / expected)
    # Referable: true 2, 2, 3, 4 of which 2, 4, 4 are called so; of the rest, none.
    assert found.referable.sensitivity == 3 / 4
    assert found.referable.specificity == 1
    assert found.referable.auc == pytest.approx(7 / 8)  # one tie with all 4: 1/2


def test_score_ranks_by_the_probability_of_grade_2_or_worse():
    labels = np.array([0, 1, 2, 3])
    chances = np.array(
        [
            [0.5, 0.1, 0.2, 0.1, 0.1],  # 0.4
            [0.6, 0.3, 0.0, 0.0, 0.1],  # 0.1
            [0.7, 0.0, 0.0, 0.3, 0.0],  # 0.3: referable, below one that is not
            [0.4, 0.0, 0.2, 0.2, 0.2],  # 0.6
        ]
    )
    assert score(labels, chances).referable.auc == pytest.approx(3 / 4)


def test_score_of_a_perfect_predictor():
    labels = np.array([0, 1, 2, 3, 4, 4])
    found = score(labels, sure(labels.tolist()))
    assert found.accuracy == found.qwk == found.balanced_accuracy == 1
    for cut in ("referable", "sight_threatening"):
        assert set(asdict(getattr(found, cut)).values()) == {1}
    assert found.auc == [1] * 5
    assert found.macro_f1 == 1
    assert found.calibration_error == 0
    assert found.collapse is None


def test_score_of_absent_grades_is_none_and_left_out_of_the_mean():
    found = score(np.array([0, 0, 3, 3]), sure([0, 0, 3, 0]))
    assert found.recall == [1, None, None, 0.5, None]
    assert found.balanced_accuracy == 0.75
    assert np.shape(found.confusion) == (5, 5)


@pytest.mark.parametrize("grade", range(5))
def test_score_of_a_single_grade_is_json(grade: int):
    labels = np.full(4, grade)
    right, wrong = (score(labels, sure([g] * 4)) for g in (grade, (grade + 1) % 5))
    assert (right.accuracy, right.qwk) == (1, None)
    assert (wrong.accuracy, wrong.qwk) == (0, 0)
    assert right.referable.auc is None
    assert right.collapse is None  # one grade is all there is to be said
    assert "NaN" not in json.dumps([asdict(right), asdict(wrong)])
    mixed = score(labels, sure([grade, grade, grade, (grade + 1) % 5]))
    assert mixed.qwk == 0


def test_qwk_of_a_constant_predictor_is_0():
    labels = np.array([0] * 70 + [1] * 10 + [2] * 12 + [3] * 5 + [4] * 3)
    for grade in range(5):
        assert quadratic_kappa(labels, np.full(100, grade)) == 0


def test_qwk_can_be_negative():
    assert quadratic_kappa(np.array([0, 4]), np.array([4, 0])) == -1


@pytest.mark.parametrize("lacking", [(), (3,), (1, 2), (0, 3)], ids=str)
def test_kappa_weighs_by_the_grades_not_by_their_rank_among_those_there(
    lacking: tuple[int, ...],
):
    """1 - sum(w * observed) / sum(w * by chance), w the squared distance of grades."""
    rng = np.random.default_rng(1)
    grades = [grade for grade in range(5) if grade not in lacking]
    true, guess = rng.choice(grades, 60), rng.choice(grades, 60)
    guess[:30] = true[:30]
    apart = (true - guess) ** 2
    by_chance = np.mean([(one - other) ** 2 for one in true for other in guess])
    wanted = 1 - apart.mean() / by_chance
    assert quadratic_kappa(true, guess) == pytest.approx(wanted, abs=1e-12)
    assert quadratic_kappa(true, guess, np.ones(60)) == pytest.approx(wanted, abs=1e-12)
    matrix = confusion_matrix(true, guess, labels=range(5))
    assert kappas(matrix) == pytest.approx(wanted, abs=1e-12)


def test_kappas_of_many_matrices_are_scikit_learns():
    rng = np.random.Generator(np.random.PCG64(2))
    cases = [(rng.integers(0, 5, 30), rng.integers(0, 5, 30)) for _ in range(20)]
    constant, other = np.full(30, 2), np.full(30, 3)
    cases += [(constant, other), (cases[0][0], constant), (constant, cases[0][1])]
    matrices = [confusion_matrix(*each, labels=range(5)) for each in cases]
    wanted = [
        cohen_kappa_score(*each, labels=range(5), weights="quadratic") for each in cases
    ]
    assert kappas(np.array(matrices)) == pytest.approx(wanted, abs=1e-12)
    agreed = confusion_matrix(constant, constant, labels=range(5))
    found = kappas(np.array([matrices[0], agreed]))
    assert found[0] == pytest.approx(wanted[0], abs=1e-12)
    assert np.isnan(found[1])


# ---- the collapse alarm


def course_like() -> np.ndarray:
    return np.repeat(range(5), [5153, 488, 1082, 175, 127])


@pytest.mark.parametrize(("grade", "share"), [(0, "73.4%"), (2, "15.4%")])
def test_collapse_names_the_constant_predictor(grade: int, share: str):
    labels = course_like()
    sentence = collapse(labels, np.full(len(labels), grade))
    assert sentence is not None
    assert sentence.startswith("constant predictor: 100.0% of the predictions")
    assert f"grade {grade}" in sentence
    assert f"accuracy of {share}" in sentence


def test_collapse_sees_through_a_handful_of_exceptions():
    labels = course_like()
    predicted = np.zeros(len(labels), np.int64)
    predicted[:20] = 2
    predicted[-20:] = 4
    assert "constant predictor" in str(collapse(labels, predicted))


def test_collapse_keeps_quiet_about_predictors_that_learned():
    labels, predicted = from_matrix(REPORT)
    assert collapse(labels, predicted) is None
    assert collapse(labels, labels) is None


def test_collapse_keeps_quiet_about_a_good_predictor_of_a_rare_grade():
    labels = np.array([0] * 995 + [4] * 5)
    assert collapse(labels, labels) is None
    half = labels.copy()
    half[-3:] = 0
    assert collapse(labels, half) is None
    assert collapse(labels, np.zeros(1000, np.int64)) is not None


def test_probability_that_is_no_number_is_refused():
    chances = np.full((4, 5), 0.2)
    chances[2, 1] = np.nan
    with pytest.raises(ValueError, match="probabilities must be finite"):
        score(np.arange(4), chances)
