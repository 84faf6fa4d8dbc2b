"""QWK of one grade alone is undefined: it is None, and everybody copes with that."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest

from fastretina.metrics.baselines import Eyes
from fastretina.metrics.bootstrap import patient_intervals, patient_resamples
from fastretina.metrics.calibration import fit_thresholds
from fastretina.metrics.comparison import Contender, compare
from fastretina.metrics.evaluation import evaluate
from fastretina.metrics.intervals import grade_intervals, score_with_intervals
from fastretina.metrics.predictions import Predictions
from fastretina.metrics.scores import quadratic_kappa
from fastretina.metrics.statistics import grade_statistics
from fastretina.metrics.text import table

HEALTHY = np.zeros(8, np.int64)
PATIENTS = [str(n // 2) for n in range(8)]


@pytest.mark.parametrize("grade", range(5))
def test_qwk_of_one_grade_alone_is_none(grade: int):
    labels = np.full(6, grade)
    assert quadratic_kappa(labels, labels) is None
    assert quadratic_kappa(labels, np.full(6, (grade + 1) % 5)) == 0
    weights = np.array([1.0, 1, 1, 1, 1, 0])
    others = np.array([*labels[:5], (grade + 1) % 5])  # one that weighs nothing
    assert quadratic_kappa(labels, others, weights) is None
    assert quadratic_kappa(others, others, weights) is None
    assert quadratic_kappa(others, others) == 1


def test_interval_of_an_undefined_qwk_is_none():
    found = grade_intervals(HEALTHY, HEALTHY, PATIENTS)
    assert found.qwk is None
    assert found.accuracy is not None
    assert found.accuracy[0] < found.accuracy[1] == 1


def test_resamples_without_a_qwk_are_left_out():
    """Of two patients one is ill: half of the resamples draw one of them alone."""
    labels, patients = np.array([0, 0, 4, 4]), ["1", "1", "2", "2"]
    qwk = patient_resamples(grade_statistics(labels, labels), patients, 60)[2]
    assert 0.3 < np.isnan(qwk).mean() < 0.7
    assert set(qwk[~np.isnan(qwk)]) == {1.0}
    found = grade_intervals(labels, labels, patients)
    assert found.qwk in ((1, 1), None)

    def half(weights: np.ndarray) -> np.ndarray:
        drawn = np.arange(weights.shape[1])
        return np.where(drawn % 3, 0.5, np.nan)[None]

    assert patient_intervals(half, PATIENTS, 60) == [(0.5, 0.5)]


def test_scores_of_one_grade_are_json_without_nan():
    found = score_with_intervals(HEALTHY, np.eye(5)[HEALTHY], PATIENTS)
    assert found.qwk is None
    assert found.intervals.qwk is None
    assert '"qwk": null' in json.dumps(asdict(found), allow_nan=False)


def test_thresholds_of_one_grade_stay_at_the_halves():
    thresholds = fit_thresholds(HEALTHY, np.eye(5)[HEALTHY])
    assert thresholds.tolist() == [0.5, 1.5, 2.5, 3.5]


def test_comparison_of_undefined_qwks_says_so():
    wrong = np.array([0, 0, 0, 0, 0, 0, 1, 1])
    sides = Contender("a", [HEALTHY, HEALTHY]), Contender("b", [HEALTHY, wrong])
    found = {each.statistic: each for each in compare(HEALTHY, *sides, PATIENTS)}
    qwk = found["qwk"]
    assert (qwk.value, qwk.interval, qwk.clear) == (None, None, False)
    assert qwk.by_seed == [None, None]
    assert qwk.verdict == "QWK: undefined, as there is one grade alone"
    assert found["accuracy"].value == pytest.approx(0.125)
    json.dumps([asdict(each) for each in found.values()], allow_nan=False)


def test_table_of_one_grade_has_a_dash_for_its_qwk():
    test = Predictions(
        rows=np.arange(8),
        keys=[f"{n // 2}_{('left', 'right')[n % 2]}" for n in range(8)],
        patients=PATIENTS,
        eyes=["left", "right"] * 4,
        labels=HEALTHY,
        probabilities=np.eye(5)[HEALTHY],
    )
    known = Eyes(names=["9_left"], patients=["9"], sides=["left"], labels=HEALTHY[:1])
    found = evaluate(test, known, test, [1.0, 2.0, 2.0, 2.0, 2.0])
    text = table(found)
    assert "QWK -, macro-F1 1.000" in text
    assert text.count("QWK -,") == 5  # as trained, two other points, two baselines
    assert "1.000 [" not in text.partition("macro-F1")[0]
    json.dumps(asdict(found), allow_nan=False)
