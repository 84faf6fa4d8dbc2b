"""Sentences beside the tables: calibration, thresholds, both eyes, zero width."""

from __future__ import annotations

from fastretina.formatting import format_interval
from fastretina.report.finished_run import FinishedRun

_ABOUT_ONE = 0.1  # from 1: a temperature that nobody would notice


def describe_zero_width(finished: FinishedRun) -> str:
    """A sentence where a grade's interval has no width, as it promises too much."""
    ends = finished.scores.intervals
    intervals = (*ends.recall, *ends.precision, *ends.auc)
    if not any(each is not None and each[0] == each[1] for each in intervals):
        return ""
    return (
        " An interval without width says that the photographs are too few for the "
        "bootstrap to vary, not that the score is sure."
    )


def describe_thresholds(finished: FinishedRun) -> str | None:
    """Where the thresholds lie; None where none were fitted."""
    calibration = finished.evaluation.calibration
    if calibration is None:
        return None
    thresholds = calibration.thresholds
    parts = [f"{grade} below {end:.2f}" for grade, end in enumerate(thresholds)]
    return (
        "The expected grade is the mean of 0 to 4 by their probabilities. Fitted on "
        f"{calibration.samples:,} photographs held out of training, for the best QWK "
        f"there: grade {', '.join(parts)}, and {len(thresholds)} from there on. Test "
        "photographs had no say in it."
    )


def describe_calibration(finished: FinishedRun) -> str:
    """How far the probabilities can be believed, in a sentence or two."""
    scores = finished.scores
    error = format_interval(
        scores.calibration_error, scores.intervals.calibration_error, ".3f"
    )
    sentence = (
        "As trained, its probabilities are off by "
        f"{error} on average (expected calibration error)"
    )
    calibration = finished.evaluation.calibration
    calibrated = finished.evaluation.calibrated
    if calibration is None or calibrated is None:
        return f"{sentence}."
    temperature = calibration.temperature
    if abs(temperature - 1) < _ABOUT_ONE:
        side = "about as sure as it is right"
    else:
        side = "too sure" if temperature > 1 else "not sure enough"
    return (
        f"{sentence}. A temperature of {temperature:.2f} fitted them best on the "
        f"photographs held out, which says that it is {side}; with it they are off by "
        f"{calibrated.calibration_error:.3f} on test. The likeliest grade stays the "
        "same."
    )


def describe_both_eyes(finished: FinishedRun) -> str | None:
    """What both eyes of a patient together are worth; None where it wasn't tried."""
    both = finished.evaluation.pairs
    if both is None:
        return None
    accuracy, qwk = both.difference("accuracy"), both.difference("qwk")
    clear = qwk.clear or accuracy.clear
    return (
        f"Both eyes together, for the {both.pairs:,} test patients who have both, "
        f"by a second stage fitted on {both.fitted_on:,} pairs held out: "
        f"accuracy {format_interval(accuracy.value, accuracy.interval, '+.3f')}, "
        f"QWK {format_interval(qwk.value, qwk.interval, '+.3f')} against each eye alone"
        f"{'' if clear else ', which is inside the noise'}."
    )
