"""A default evaluation draws patients 1,000 times, though other tests draw fewer."""

from __future__ import annotations

import importlib.util
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from fastretina.metrics import bootstrap, intervals
from fastretina.metrics.comparison import Contender, compare
from fastretina.metrics.evaluation import evaluate
from fastretina.metrics.predictions import Predictions

LABELS = np.arange(120) % 5
PATIENTS = [str(n // 2) for n in range(120)]


@pytest.fixture(scope="module")
def fresh() -> ModuleType:
    """The module as its file has it, which no conftest has patched."""
    spec = importlib.util.find_spec("fastretina.metrics.bootstrap")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_default_is_a_thousand_resamples(fresh: ModuleType):
    assert fresh.RESAMPLES == 1000

    def first(weights: np.ndarray) -> np.ndarray:
        return weights[:1]

    assert fresh.patient_resamples(first, PATIENTS).shape == (1, 1000)


def test_interval_of_the_default_is_the_percentile_one(fresh: ModuleType):
    """Of 60 patients: 1,000 draws find the binomial's ends, 3 draws never do."""
    right = np.repeat(np.arange(60) < 45, 2)
    (interval,) = fresh.patient_intervals(
        lambda weights: right[None] @ weights / weights.sum(axis=0), PATIENTS
    )
    assert interval == pytest.approx([38 / 60, 51 / 60], abs=0.02)


@pytest.mark.parametrize("function", ["grade_intervals", "score_with_intervals"])
def test_scores_draw_the_default(function: str, monkeypatch: pytest.MonkeyPatch):
    asked = watch(monkeypatch)
    answers = LABELS if function == "grade_intervals" else np.eye(5)[LABELS]
    getattr(intervals, function)(LABELS, answers, PATIENTS)
    assert asked == [7]


def test_evaluation_and_comparison_draw_the_default(monkeypatch: pytest.MonkeyPatch):
    asked = watch(monkeypatch)
    test = Predictions(
        rows=np.arange(120),
        keys=[f"{n // 2}_{('left', 'right')[n % 2]}" for n in range(120)],
        patients=PATIENTS,
        eyes=["left", "right"] * 60,
        labels=LABELS,
        probabilities=np.eye(5)[LABELS],
    )
    evaluate(test, None, test, [1.0] * 5)
    compare(LABELS, Contender("a", [LABELS]), Contender("b", [LABELS]), PATIENTS)
    assert len(asked) >= 5
    assert set(asked) == {7}


def watch(patch: pytest.MonkeyPatch) -> list[int]:
    """How many resamples each drawing of patients has made; 7 by default."""
    drawn: list[int] = []
    real = bootstrap.patient_resamples

    def counted(*args: Any) -> np.ndarray:
        found = real(*args)
        drawn.append(found.shape[1])
        return found

    patch.setattr(bootstrap, "RESAMPLES", 7)
    patch.setattr(bootstrap, "patient_resamples", counted)
    return drawn
