"""The evaluation of a run: all that its predictions on test show, as one record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fastretina.metrics.baselines import (
    BASELINES,
    Baseline,
    Eyes,
    Leak,
    baselines,
    leak,
)
from fastretina.metrics.bootstrap import Interval
from fastretina.metrics.both_eyes import FusionError, FusionJudgement, judge_fusion
from fastretina.metrics.calibration import Calibration, calibrate, correct_prior
from fastretina.metrics.comparison import Contender, Difference, compare
from fastretina.metrics.intervals import (
    OperatingPoint,
    ScoresWithIntervals,
    calibration_error_with_interval,
    score_grades_with_intervals,
    score_with_intervals,
)
from fastretina.metrics.predictions import Predictions
from fastretina.wall_clock import part
from loaders.arrays import Int64


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
        gains: the network's scores less those of each rule, by the rule's name, on the
            same patients; None without training labels, or of an older version.
        leak: test images of patients in train; None without training labels.
        calibration: what was fitted on validation; None without validation.
        calibrated: what that does to test; None without validation.
        prior_corrected: scores with the class weights of the loss undone; None where
            the loss had none.
        pairs: both eyes of a patient together; None without validation, with too few
            pairs or one grade alone in it, or with no pair in test.
    """

    test: ScoresWithIntervals
    baselines: dict[str, Baseline] | None = None
    gains: dict[str, list[Difference]] | None = None
    leak: Leak | None = None
    calibration: Calibration | None = None
    calibrated: Calibrated | None = None
    prior_corrected: OperatingPoint | None = None
    pairs: FusionJudgement | None = None

    @property
    def rules(self) -> list[Baseline]:
        """The rules that see no pixel; empty without training labels."""
        return list((self.baselines or {}).values())


@part("intervals")
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
    labels, chances, patients = test.labels, test.probabilities, test.patients
    eyes = Eyes(
        names=test.keys,
        patients=patients,
        sides=test.eyes,
        labels=labels,
        patient_known=test.patient_known,
    )
    # Grades are chosen in every way first; then all of them are scored in one.
    fitted = cooled = by_thresholds = None
    if validation is not None:
        fitted = calibrate(validation.labels, validation.probabilities)
        cooled, by_thresholds = fitted.cooled(chances), fitted.grades(chances)
    undone = correct_prior(chances, weights).argmax(axis=1) if weights else None
    calibrated = prior_corrected = None
    if cooled is not None and by_thresholds is not None:
        error, interval = calibration_error_with_interval(labels, cooled, patients)
        calibrated = Calibrated(
            calibration_error=error,
            intervals=CalibrationIntervals(calibration_error=interval),
            thresholds=score_grades_with_intervals(labels, by_thresholds, patients),
        )
    if undone is not None:
        prior_corrected = score_grades_with_intervals(labels, undone, patients)
    return Evaluation(
        test=score_with_intervals(labels, chances, patients),
        baselines=baselines(known, eyes) if known else None,
        gains=_gains(known, eyes, test.grades) if known else None,
        leak=leak(known, eyes) if known else None,
        calibration=fitted,
        calibrated=calibrated,
        prior_corrected=prior_corrected,
        pairs=_judge_pairs(test, validation) if validation else None,
    )


def _gains(known: Eyes, eyes: Eyes, predicted: Int64) -> dict[str, list[Difference]]:
    """A network's grades, int64[N], against each of ``BASELINES``."""
    return {
        name: compare(
            eyes.labels,
            Contender("the network", [predicted]),
            Contender(about, [rule(known, eyes)]),
            eyes.patients,
        )
        for name, (about, rule) in BASELINES.items()
    }


def _judge_pairs(test: Predictions, validation: Predictions) -> FusionJudgement | None:
    """Both eyes together against one; None where that can't be fitted, or judged."""
    try:
        return judge_fusion(validation, test)
    except FusionError:
        return None
