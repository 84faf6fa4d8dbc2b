"""All that can be said of a run's predictions on test, as JSON and in words."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from textwrap import fill
from typing import Any

import numpy as np

from fastretina.formatting import format_interval
from fastretina.metrics.baselines import Eyes, Leak, baselines, leak
from fastretina.metrics.bootstrap import (
    grade_intervals,
    of_scores,
    patient_intervals,
    score_with_intervals,
)
from fastretina.metrics.both_eyes import FusionError, judge_fusion
from fastretina.metrics.calibration import Calibration, calibrate, correct_prior
from fastretina.metrics.predictions import Predictions
from fastretina.metrics.scores import FIXED_SPECIFICITY, calibration_error, score_grades
from loaders.arrays import Float64, Int64
from loaders.grades import GRADES

_CUTS = (
    ("referable", "referable DR (grade 2 or worse)"),
    ("sight_threatening", "sight-threatening DR (grade 3 or worse)"),
)
_WIDTH, _GLUE = 100, "\0"  # of a line for people
_OPERATING_POINT = ("accuracy", "balanced_accuracy", "qwk", "macro_f1", "confusion")


def appraise(
    test: Predictions,
    known: Eyes | None = None,
    validation: Predictions | None = None,
    weights: Sequence[float] | None = None,
) -> dict[str, Any]:
    """Scores with intervals, beside what needs no pixel; and other operating points.

    Args:
        test: the predictions to judge.
        known: what the labels say of the training images; None where there are none.
        validation: predictions on patients held out, to fit on; None where none were.
        weights: of the grades in the loss, where it was weighted.

    Returns:
        ``test``, ``baselines``, ``leak``, ``calibration``, ``calibrated``,
        ``prior_corrected`` and ``pairs``; each but the first may be None.
    """
    fitted = (
        calibrate(validation.labels, validation.probabilities) if validation else None
    )
    eyes = Eyes(
        names=test.keys, patients=test.patients, sides=test.eyes, labels=test.labels
    )
    return {
        "test": score_with_intervals(test.labels, test.probabilities, test.patients),
        "baselines": baselines(known, eyes) if known else None,
        "leak": leak(known, eyes)._asdict() if known else None,
        "calibration": asdict(fitted) if fitted else None,
        "calibrated": _calibrated(fitted, test) if fitted else None,
        "prior_corrected": _corrected(test, weights) if weights else None,
        "pairs": _paired(test, validation) if validation else None,
    }


def _paired(test: Predictions, validation: Predictions) -> dict[str, Any] | None:
    """Both eyes together against one, where there are pairs enough to fit on."""
    try:
        return judge_fusion(validation, test)
    except FusionError:
        return None


def _calibrated(fitted: Calibration, test: Predictions) -> dict[str, Any]:
    cooled = fitted.cooled(test.probabilities)
    grades = fitted.grades(test.probabilities)

    def error(weights: Float64) -> Float64:
        return np.array([calibration_error(test.labels, cooled, weights)])

    (interval,) = patient_intervals(error, test.patients)
    return {
        "calibration_error": calibration_error(test.labels, cooled),
        "intervals": {"calibration_error": interval},
        "thresholds": _point(test, grades),
    }


def _corrected(test: Predictions, weights: Sequence[float]) -> dict[str, Any]:
    return _point(test, correct_prior(test.probabilities, weights).argmax(axis=1))


def _point(test: Predictions, grades: Int64) -> dict[str, Any]:
    """Another operating point: the grades that are said instead, int64[N]."""
    scores = score_grades(test.labels, grades)
    kept = {name: scores[name] for name in _OPERATING_POINT}
    return {**kept, "intervals": grade_intervals(test.labels, grades, test.patients)}


def table(appraisal: Mapping[str, Any]) -> str:
    """For people: totals, baselines, then a line of the confusion matrix per grade."""
    scores = appraisal["test"]
    lines = [
        f"{scores['samples']:,} samples; in brackets 95 % intervals over patients",
        f"accuracy {of_scores(scores, 'accuracy', '.1%')}, "
        f"balanced accuracy {of_scores(scores, 'balanced_accuracy', '.1%')}",
        f"QWK {of_scores(scores, 'qwk', '.3f')}, "
        f"macro-F1 {of_scores(scores, 'macro_f1', '.3f')}, "
        f"calibration error {of_scores(scores, 'calibration_error', '.3f')}",
    ]
    lines += [_cut_line(scores, key, name) for key, name in _CUTS]
    lines += _other_points(appraisal)
    for beside in (appraisal.get("baselines") or {}).values():
        lines.append(
            f"without a pixel: {beside['about']}: accuracy {beside['accuracy']:.1%}, "
            f"QWK {beside['qwk']:.3f}, "
            f"balanced accuracy {beside['balanced_accuracy']:.1%}"
        )
    lines = [_wrapped(line) for line in lines]
    lines.append(f"{'true grade':<18}{'recall':>7}{'precision':>11}   predicted 0 to 4")
    for grade, name in enumerate(GRADES):
        counts = "".join(f"{count:>7,}" for count in scores["confusion"][grade])
        recall, precision = (
            format_interval(scores[key][grade], None, ".1%")
            for key in ("recall", "precision")
        )
        lines.append(f"{grade} {name:<16}{recall:>7}{precision:>11}  {counts}")
    return "\n".join(lines + [f"warning: {each}" for each in warnings(appraisal)])


def _wrapped(line: str) -> str:
    """Within ``_WIDTH``, with no interval torn apart."""
    whole = re.sub(r"\[[^]]*\]", lambda match: match[0].replace(" ", _GLUE), line)
    return fill(whole, _WIDTH, subsequent_indent="    ").replace(_GLUE, " ")


def warnings(appraisal: Mapping[str, Any]) -> list[str]:
    """What a reader of the score must know: a collapse, a leaking split."""
    found = [appraisal["test"]["collapse"]]
    if appraisal.get("leak"):
        found.append(Leak(**appraisal["leak"]).warning())
    return [sentence for sentence in found if sentence]


def _cut_line(scores: Mapping[str, Any], key: str, name: str) -> str:
    cut, ends = scores[key], scores.get("intervals", {}).get(key, {})
    parts = [
        f"{part} {format_interval(cut[part], ends.get(part), '.1%')}"
        for part in ("sensitivity", "specificity")
    ]
    fixed = format_interval(
        cut["sensitivity_at_specificity"],
        ends.get("sensitivity_at_specificity"),
        ".1%",
    )
    return (
        f"{name}: {', '.join(parts)}, "
        f"AUC {format_interval(cut['auc'], ends.get('auc'), '.3f')}, "
        f"sensitivity at {FIXED_SPECIFICITY:.0%} specificity {fixed}"
    )


def _other_points(appraisal: Mapping[str, Any]) -> list[str]:
    lines = []
    if calibrated := appraisal.get("calibrated"):
        temperature = appraisal["calibration"]["temperature"]
        lines.append(
            f"fitted on {appraisal['calibration']['samples']:,} validation images: "
            f"temperature {temperature:.2f}, calibration error "
            f"{of_scores(calibrated, 'calibration_error', '.3f')}; thresholds on the "
            "expected grade: "
            f"{_point_line(calibrated['thresholds'])}"
        )
    if corrected := appraisal.get("prior_corrected"):
        lines.append(f"with the class weights undone: {_point_line(corrected)}")
    if paired := appraisal.get("pairs"):
        qwk = next(d for d in paired["differences"] if d["statistic"] == "qwk")
        lines.append(
            f"both eyes of {paired['pairs']:,} patients together: QWK "
            f"{paired['fused']['qwk']:.3f}, each alone {paired['single']['qwk']:.3f}, "
            f"difference {format_interval(qwk['value'], qwk['interval'], '+.3f')}"
        )
    return lines


def _point_line(point: Mapping[str, Any]) -> str:
    return (
        f"accuracy {of_scores(point, 'accuracy', '.1%')}, "
        f"QWK {of_scores(point, 'qwk', '.3f')}, "
        f"balanced accuracy {of_scores(point, 'balanced_accuracy', '.1%')}"
    )
