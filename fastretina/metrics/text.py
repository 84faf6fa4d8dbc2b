"""An evaluation in words: scores, baselines, warnings and the confusion matrix."""

from __future__ import annotations

import re
from textwrap import fill

from fastretina.formatting import format_interval
from fastretina.metrics.baselines import Leak
from fastretina.metrics.evaluation import Evaluation
from fastretina.metrics.intervals import CutIntervals, GradeIntervals, OperatingPoint
from fastretina.metrics.roc_steps import FIXED_SPECIFICITY
from fastretina.metrics.scores import CutScores, Scores, never_predicted
from loaders.grades import GRADES, REFERABLE, SIGHT_THREATENING

_WIDTH, _GLUE = 100, "\0"  # columns of a line for people; keeps an interval whole
_EXACT = "; exact: Clopper-Pearson, of few cases"


def table(evaluation: Evaluation) -> str:
    """Text: totals, baselines, then a line of the confusion matrix per grade."""
    scores, ends = evaluation.test, evaluation.test.intervals
    error = format_interval(scores.calibration_error, ends.calibration_error, ".3f")
    lines = [
        f"accuracy {_accuracy(scores, ends)}, balanced accuracy "
        f"{format_interval(scores.balanced_accuracy, ends.balanced_accuracy, '.1%')}",
        f"QWK {format_interval(scores.qwk, ends.qwk, '.3f')}, "
        f"macro-F1 {format_interval(scores.macro_f1, ends.macro_f1, '.3f')}, "
        f"calibration error {error}",
        f"referable DR (grade {REFERABLE} or worse): "
        f"{_cut_line(scores.referable, ends.referable)}",
        f"sight-threatening DR (grade {SIGHT_THREATENING} or worse): "
        f"{_cut_line(scores.sight_threatening, ends.sight_threatening)}",
        *_other_points(evaluation),
    ]
    for rule in evaluation.rules:
        lines.append(
            f"without a pixel: {rule.about}: accuracy {rule.accuracy:.1%}, "
            f"QWK {format_interval(rule.qwk, None, '.3f')}, "
            f"balanced accuracy {rule.balanced_accuracy:.1%}"
        )
    kinds = _EXACT if any("] exact" in line for line in lines) else ""
    about = "samples; in brackets 95 % intervals over patients"
    lines = [f"{scores.samples:,} {about}{kinds}", *lines]
    known = warnings(scores, evaluation.leak)
    lines = [_wrapped(line) for line in lines] + _grade_lines(scores)
    return "\n".join(lines + [f"warning: {each}" for each in known])


def _grade_lines(scores: Scores) -> list[str]:
    """The confusion matrix with recall and precision, a line for each grade."""
    lines = [f"{'true grade':<18}{'recall':>7}{'precision':>11}   predicted 0 to 4"]
    for grade, name in enumerate(GRADES):
        counts = "".join(f"{count:>7,}" for count in scores.confusion[grade])
        recall = format_interval(scores.recall[grade], None, ".1%")
        precision = format_interval(scores.precision[grade], None, ".1%")
        lines.append(f"{grade} {name:<16}{recall:>7}{precision:>11}  {counts}")
    return lines


def _wrapped(line: str) -> str:
    """Within ``_WIDTH``, with no interval torn apart."""
    whole = re.sub(
        r"\[[^]]*\]( exact)?", lambda match: match[0].replace(" ", _GLUE), line
    )
    return fill(whole, _WIDTH, subsequent_indent="    ").replace(_GLUE, " ")


def warnings(scores: Scores, leak: Leak | None) -> list[str]:
    """What a reader must know: collapse, a grade never predicted, leak, doubt."""
    sentences = [scores.collapse, never_predicted(scores.confusion)]
    if leak is not None:
        sentences += [leak.warning(), leak.doubt()]
    return [sentence for sentence in sentences if sentence]


def _accuracy(scores: Scores | OperatingPoint, ends: GradeIntervals) -> str:
    exact = "accuracy" in ends.exact
    return format_interval(scores.accuracy, ends.accuracy, ".1%", exact=exact)


def _cut_line(cut: CutScores, ends: CutIntervals) -> str:
    sensitivity, specificity = (
        format_interval(value, interval, ".1%", exact=name in ends.exact)
        for name, value, interval in (
            ("sensitivity", cut.sensitivity, ends.sensitivity),
            ("specificity", cut.specificity, ends.specificity),
        )
    )
    fixed = format_interval(
        cut.sensitivity_at_specificity, ends.sensitivity_at_specificity, ".1%"
    )
    return (
        f"sensitivity {sensitivity}, specificity {specificity}, "
        f"AUC {format_interval(cut.auc, ends.auc, '.3f')}, "
        f"sensitivity at {FIXED_SPECIFICITY:.0%} specificity {fixed}"
    )


def _other_points(evaluation: Evaluation) -> list[str]:
    lines = []
    if (after := evaluation.calibrated) and (fitted := evaluation.calibration):
        ends = after.intervals.calibration_error
        error = format_interval(after.calibration_error, ends, ".3f")
        lines.append(
            f"fitted on {fitted.samples:,} validation images: "
            f"temperature {fitted.temperature:.2f}, calibration error {error}; "
            f"thresholds on the expected grade: {_point_line(after.thresholds)}"
        )
    if corrected := evaluation.prior_corrected:
        lines.append(f"with the class weights undone: {_point_line(corrected)}")
    if paired := evaluation.pairs:
        qwk = paired.difference("qwk")
        lines.append(
            f"both eyes of {paired.pairs:,} patients together: QWK "
            f"{format_interval(paired.fused.qwk, None, '.3f')}, each alone "
            f"{format_interval(paired.single.qwk, None, '.3f')}, difference "
            f"{format_interval(qwk.value, qwk.interval, '+.3f')}"
        )
    return lines


def _point_line(point: OperatingPoint) -> str:
    ends = point.intervals
    balanced = format_interval(point.balanced_accuracy, ends.balanced_accuracy, ".1%")
    return (
        f"accuracy {_accuracy(point, ends)}, "
        f"QWK {format_interval(point.qwk, ends.qwk, '.3f')}, "
        f"balanced accuracy {balanced}"
    )
