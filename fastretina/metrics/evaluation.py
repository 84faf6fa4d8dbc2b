"""The evaluation of a run: all that its predictions on test show, as one record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from fastretina.metrics.baselines import Baseline, Eyes, Leak, baselines, leak
from fastretina.metrics.bootstrap import (
    NO_INTERVALS,
    GradeIntervals,
    Interval,
    ScoresWithIntervals,
    grade_intervals,
    patient_intervals,
    score_with_intervals,
)
from fastretina.metrics.both_eyes import FusionError, FusionJudgement, judge_fusion
from fastretina.metrics.calibration import Calibration, calibrate, correct_prior
from fastretina.metrics.predictions import Predictions
from fastretina.metrics.scores import PER_GRADE, calibration_error, score_grades
from loaders.arrays import Float64, Int64


@dataclass(frozen=True, kw_only=True, slots=True)
class OperatingPoint:
    """Scores of another way to choose the grades from the same probabilities.

    Attributes:
        accuracy: share of samples with the true grade predicted, 0 to 1.
        balanced_accuracy: mean recall over the grades that the labels hold, 0 to 1.
        qwk: quadratic weighted kappa, -1 to 1; None where it is undefined.
        macro_f1: mean F1 over the grades that the labels hold, 0 to 1.
        confusion: 5 x 5 counts, true grade by predicted grade.
        intervals: 95 % intervals of the first four.
    """

    accuracy: float
    balanced_accuracy: float
    qwk: float | None
    macro_f1: float
    confusion: Annotated[list[Annotated[list[int], PER_GRADE]], PER_GRADE]
    intervals: GradeIntervals = NO_INTERVALS


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationIntervals:
    """95 % intervals of a ``Calibrated``, under the same names."""

    calibration_error: Interval = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibrated:
    """What a calibration that was fitted on validation does to test.

    Attributes:
        calibration_error: expected calibration error with the temperature, 0 to 1.
        intervals: its 95 % interval.
        thresholds: scores of the grades by thresholds on the expected grade.
    """

    calibration_error: float
    intervals: CalibrationIntervals = CalibrationIntervals()
    thresholds: OperatingPoint


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """All that can be said of a run's predictions on test, as ``metrics.json`` has it.

    Attributes:
        test: scores of the likeliest grades, with intervals.
        baselines: scores of rules that see no pixel; None without training labels.
        leak: test images of patients in train; None without training labels.
        calibration: what was fitted on validation; None without validation.
        calibrated: what that does to test; None without validation.
        prior_corrected: scores with the class weights of the loss undone; None where
            the loss had none.
        pairs: both eyes of a patient together; None without validation, or with too few
            pairs in it.
    """

    test: ScoresWithIntervals
    baselines: dict[str, Baseline] | None = None
    leak: Leak | None = None
    calibration: Calibration | None = None
    calibrated: Calibrated | None = None
    prior_corrected: OperatingPoint | None = None
    pairs: FusionJudgement | None = None

    @property
    def rules(self) -> list[Baseline]:
        """The rules that see no pixel; empty without training labels."""
        return list((self.baselines or {}).values())


def evaluate(
    test: Predictions,
    known: Eyes | None = None,
    validation: Predictions | None = None,
    weights: Sequence[float] | None = None,
) -> Evaluation:
    """Score predictions with intervals, beside what needs no pixel and other points.

    Args:
        test: the predictions to judge.
        known: the training images by their labels; None where there are none.
        validation: predictions on patients held out, to fit on; None where none were.
        weights: the weight of each grade in the loss, where it was weighted.
    """
    fitted = (
        calibrate(validation.labels, validation.probabilities) if validation else None
    )
    eyes = Eyes(
        names=test.keys, patients=test.patients, sides=test.eyes, labels=test.labels
    )
    return Evaluation(
        test=score_with_intervals(test.labels, test.probabilities, test.patients),
        baselines=baselines(known, eyes) if known else None,
        leak=leak(known, eyes) if known else None,
        calibration=fitted,
        calibrated=_calibrated(fitted, test) if fitted else None,
        prior_corrected=_corrected(test, weights) if weights else None,
        pairs=_paired(test, validation) if validation else None,
    )


def _paired(test: Predictions, validation: Predictions) -> FusionJudgement | None:
    """Both eyes together against one, where there are pairs enough to fit on."""
    try:
        return judge_fusion(validation, test)
    except FusionError:
        return None


def _calibrated(fitted: Calibration, test: Predictions) -> Calibrated:
    cooled = fitted.cooled(test.probabilities)

    def error(weights: Float64) -> Float64:
        return np.array([calibration_error(test.labels, cooled, weights)])

    (interval,) = patient_intervals(error, test.patients)
    return Calibrated(
        calibration_error=calibration_error(test.labels, cooled),
        intervals=CalibrationIntervals(calibration_error=interval),
        thresholds=_point(test, fitted.grades(test.probabilities)),
    )


def _corrected(test: Predictions, weights: Sequence[float]) -> OperatingPoint:
    return _point(test, correct_prior(test.probabilities, weights).argmax(axis=1))


def _point(test: Predictions, grades: Int64) -> OperatingPoint:
    """The scores of other grades, int64[N], than the likeliest."""
    scores = score_grades(test.labels, grades)
    return OperatingPoint(
        accuracy=scores.accuracy,
        balanced_accuracy=scores.balanced_accuracy,
        qwk=scores.qwk,
        macro_f1=scores.macro_f1,
        confusion=scores.confusion,
        intervals=grade_intervals(test.labels, grades, test.patients),
    )
