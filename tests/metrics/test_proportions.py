"""Exact intervals of shares of few cases."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest
from scipy.stats import binomtest

from fastretina.metrics import bootstrap
from fastretina.metrics.comparison import Contender, compare
from fastretina.metrics.evaluation import evaluate
from fastretina.metrics.intervals import grade_intervals, score_with_intervals
from fastretina.metrics.predictions import Predictions
from fastretina.metrics.proportions import (
    Share,
    clopper_pearson,
    exact_intervals,
    shares_of,
)
from fastretina.metrics.text import table


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "RESAMPLES", 60)


def alone(samples: int) -> list[str]:
    return [str(n) for n in range(samples)]


def of_one(hits: list[bool], patients: list[str]) -> tuple[float, float] | None:
    cases = np.ones(len(hits), bool)
    return exact_intervals({"x": Share(cases, np.array(hits))}, patients).get("x")


@pytest.mark.parametrize(("right", "number"), [(3, 3), (0, 7), (2, 9), (29, 29)])
def test_exact_interval_is_scipys_where_every_case_is_of_another_patient(
    right: int, number: int
):
    found = of_one([n < right for n in range(number)], alone(number))
    wanted = binomtest(right, number).proportion_ci(method="exact")
    assert found == pytest.approx((wanted.low, wanted.high))
    assert clopper_pearson(right, number) == found


def test_exact_interval_of_both_eyes_is_that_of_the_patients_where_eyes_agree():
    patients = [str(n // 2) for n in range(12)]
    found = of_one([n < 8 for n in range(12)], patients)
    wanted = binomtest(4, 6).proportion_ci(method="exact")
    assert found == pytest.approx((wanted.low, wanted.high))


def test_exact_interval_counts_unequal_patients_by_kish():
    """16 / 6 cases are left of one patient with two eyes and two with one."""
    found = of_one([True] * 4, ["a", "a", "b", "c"])
    assert found == pytest.approx((0.025 ** (6 / 16), 1.0))


@pytest.mark.parametrize(
    ("right", "number", "few"),
    [
        *((15, 29, True), (15, 30, False), (4, 100, True), (5, 100, False)),
        *((96, 100, True), (95, 100, False), (100, 100, True)),
    ],
)
def test_shares_are_exact_where_patients_or_cases_are_few(
    right: int, number: int, few: bool
):
    found = of_one([n < right for n in range(number)], alone(number))
    assert (found is not None) == few


def test_exact_interval_covers_the_truth_at_least_as_often_as_it_says():
    """Over all outcomes of 12 cases, by their binomial weights."""
    ends = [clopper_pearson(right, 12) for right in range(13)]
    for truth in (0.05, 0.3, 0.5, 0.93):
        rng = np.random.default_rng(0)
        drawn = rng.binomial(12, truth, 4000)
        held = np.mean([ends[n][0] <= truth <= ends[n][1] for n in drawn])
        assert held >= 0.945, truth


def test_interval_covers_shares_of_patients_whose_eyes_partly_agree():
    """Of 8 patients with both eyes, at a truth of 0.7."""
    rng, held = np.random.default_rng(1), []
    patients = [str(n // 2) for n in range(16)]
    for _ in range(600):
        own = rng.beta(0.7 * 1.5, 0.3 * 1.5, 8)  # agreement of 0.4 between eyes
        low, high = of_one((rng.random(16) < np.repeat(own, 2)).tolist(), patients)
        held.append(low <= 0.7 <= high)
    assert np.mean(held) >= 0.95


def test_share_without_a_case_has_no_interval_and_one_patient_has_none():
    assert exact_intervals({"x": Share(np.zeros(3, bool), np.ones(3))}, alone(3)) == {}
    assert of_one([True, True], ["a", "a"]) is None


def test_shares_are_of_the_cases_that_their_names_say():
    labels, said = np.array([0, 0, 3, 2, 4, 1]), np.array([0, 2, 2, 2, 1, 1])
    shares = shares_of(labels, said)
    means = {n: s.hits[s.cases].mean() for n, s in shares.items() if s.cases.any()}
    assert means["accuracy"] == pytest.approx(3 / 6)
    assert means["recall.0"] == 1 / 2
    assert means["precision.2"] == pytest.approx(1 / 3)
    assert means["referable.sensitivity"] == pytest.approx(2 / 3)
    assert means["referable.specificity"] == pytest.approx(2 / 3)
    assert means["sight_threatening.sensitivity"] == 0
    assert means["sight_threatening.specificity"] == 1
    assert "precision.3" not in means


def made() -> tuple[np.ndarray, np.ndarray]:
    """Of 80 patients 3 have grade 4, and all of them are found."""
    labels = np.array([0] * 40 + [2] * 37 + [4] * 3)
    said = labels.copy()
    said[:8], said[40:50] = 2, 0
    return labels, said


def test_scores_of_few_cases_have_exact_intervals_and_say_so():
    labels, said = made()
    ends = score_with_intervals(labels, np.eye(5)[said], alone(80)).intervals
    assert ends.recall[4] == pytest.approx((0.292, 1.0), abs=1e-3)
    assert "recall.4" in ends.exact
    assert ends.sight_threatening.sensitivity == ends.recall[4]
    assert ends.sight_threatening.exact == ["sensitivity", "specificity"]
    assert ends.referable.exact == []
    assert "accuracy" not in ends.exact
    assert ends.accuracy[0] < 62 / 80 < ends.accuracy[1]
    assert ends.recall[1] is None


def test_scores_that_no_resample_changes_have_no_interval():
    labels, said = made()
    perfect = score_with_intervals(labels, np.eye(5)[labels], alone(80)).intervals
    for interval in (perfect.qwk, perfect.macro_f1, perfect.auc[4]):
        assert interval is None
    assert perfect.accuracy == pytest.approx((0.955, 1.0), abs=1e-3)
    flat = [
        each
        for name, value in asdict(perfect).items()
        if name not in ("exact", "referable", "sight_threatening")
        for each in (value if isinstance(value, list) else [value])
    ]
    assert all(each is None or each[0] < each[1] for each in flat)
    assert grade_intervals(labels, said, alone(80)).exact == []
    assert grade_intervals(labels[40:], said[40:], alone(40)).exact == []
    assert grade_intervals(labels[60:], said[60:], alone(20)).exact == ["accuracy"]


def test_difference_that_no_resample_changes_is_of_too_few_patients():
    labels = np.array([0, 0, 0])
    sides = Contender("a", [labels]), Contender("b", [labels + 1])
    accuracy = compare(labels, *sides, alone(3))[0]
    assert (accuracy.value, accuracy.interval, accuracy.clear) == (1, None, False)
    assert accuracy.verdict == "accuracy: too few patients to tell"


def test_table_says_which_intervals_are_exact():
    labels, said = made()
    test = Predictions(
        rows=np.arange(80),
        keys=alone(80),
        patients=alone(80),
        eyes=[""] * 80,
        labels=labels,
        probabilities=np.eye(5)[said],
    )
    text = table(evaluate(test))
    assert text.startswith(
        "80 samples; in brackets 95 % intervals over patients; exact: Clopper-Pearson, "
        "of few cases\n"
    )
    assert "sensitivity 100.0% [29.2, 100.0] exact, specificity" in text
    many = Predictions(
        rows=np.arange(1200),
        keys=alone(1200),
        patients=alone(1200),
        eyes=[""] * 1200,
        labels=np.repeat([0, 4, 0, 4], 300),
        probabilities=np.eye(5)[np.repeat([0, 4, 4, 0], 300)],
    )
    assert "exact" not in table(evaluate(many))
