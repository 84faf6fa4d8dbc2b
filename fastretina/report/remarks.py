"""Sentences beside the tables: intervals, calibration, thresholds, both eyes."""

from __future__ import annotations

from fastretina.formatting import format_interval
from fastretina.metrics.proportions import FEW_CASES, FEW_PATIENTS
from fastretina.report.finished_run import FinishedRun

_ABOUT_ONE = 0.1  # from 1: a temperature that nobody would notice


def describe_intervals(finished: FinishedRun) -> str:
    """What kinds of interval there are, and why some score has none, in sentences."""
    scores, ends = finished.scores, finished.scores.intervals
    values = [*scores.recall, *scores.precision, *scores.auc]
    intervals = [*ends.recall, *ends.precision, *ends.auc]
    exact = list(ends.exact)
    for _, cut, cut_ends in finished.cuts:
        values += [cut.sensitivity, cut.specificity, cut.auc]
        intervals += [cut_ends.sensitivity, cut_ends.specificity, cut_ends.auc]
        exact += cut_ends.exact
    sentences = [
        "Intervals are 95%, from a bootstrap over patients, whose eyes are drawn "
        "together."
    ]
    if exact:
        sentences.append(
            "Those marked exact are Clopper and Pearson's, for shares of fewer than "
            f"{FEW_PATIENTS} patients, or of which fewer than {FEW_CASES} cases are "
            "right, or wrong; they count a patient's eyes as if these always agreed, "
            "so they are rather too wide than too narrow."
        )
    pairs = list(zip(values, intervals, strict=True))
    if any(value is not None and interval is None for value, interval in pairs):
        sentences.append(
            "A score without an interval is one that the photographs are too few to be "
            "sure of."
        )
    if any(each is not None and each[0] == each[1] for each in intervals):
        sentences.append(  # of a run that an older version has finished
            "An interval without width says that the photographs are too few for the "
            "bootstrap to vary, not that the score is sure."
        )
    return " ".join(sentences)


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
