"""ROC curves of a run: of each grade, and of the two clinical cuts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from fastretina.formatting import format_interval
from fastretina.metrics.figures import GRADE_NAMES
from fastretina.metrics.intervals import CutIntervals
from fastretina.metrics.roc_steps import RocSteps
from fastretina.metrics.scores import CutScores
from fastretina.report.finished_run import FinishedRun
from fastretina.report.grade_meanings import Cut
from fastretina.report.picture import (
    GRADE_STYLES,
    LineStyle,
    Picture,
    blank,
    to_picture,
)
from loaders.arrays import Bool, Float64

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_CUT_STYLES = (GRADE_STYLES[0], GRADE_STYLES[3])


class _Curve(NamedTuple):
    """One ROC curve to draw.

    Attributes:
        label: Text of the legend.
        truth: bool[N], the photographs to be found.
        probabilities: float64[N], how probable the network holds each for one.
        style: Colour and dashes of the line.
        width: Width of the line, points.
        dot: False alarms and sensitivity of the grades as given, 0 to 1; or None.
    """

    label: str
    truth: Bool
    probabilities: Float64
    style: LineStyle
    width: float
    dot: tuple[float, float] | None = None


def roc_pictures(finished: FinishedRun) -> list[Picture]:
    """ROC curves of each grade against all others, and of the two clinical cuts."""
    return [_roc_of_grades(finished), _roc_of_cuts(finished)]


def _roc_of_grades(finished: FinishedRun) -> Picture:
    test, areas = finished.test, finished.scores.auc
    curves = [
        _Curve(
            label=f"{GRADE_NAMES[grade]}: {area:.3f}",
            truth=test.labels == grade,
            probabilities=test.probabilities[:, grade],
            style=GRADE_STYLES[grade],
            width=1.6,
        )
        for grade, area in enumerate(areas)
        if area is not None
    ]
    figure, (axis,) = blank(4.3)
    _draw_roc(axis, curves)
    intervals = finished.scores.intervals.auc
    texts = [
        f"{name} {format_interval(area, interval, '.3f')}"
        for name, area, interval in zip(GRADE_NAMES, areas, intervals, strict=True)
    ]
    return to_picture(
        figure,
        name="roc_grades",
        title="ROC: each grade against all others",
        checkpoint=finished.checkpoint,
        alt=f"ROC curves, one grade against all others. AUC: {', '.join(texts)}.",
        caption=(
            "How well the probability of a grade tells its photographs from all "
            "others: an area (AUC) of 0.5 is guessing, 1 is perfect."
        ),
    )


def _roc_of_cuts(finished: FinishedRun) -> Picture:
    cuts = finished.cuts
    curves = [
        _curve_of_cut(finished, cut, scores, style)
        for (cut, scores, _), style in zip(cuts, _CUT_STYLES, strict=True)
        if scores.auc is not None
    ]
    figure, (axis,) = blank(4.3)
    _draw_roc(axis, curves)
    texts = "; ".join(_describe_cut(*each) for each in cuts)
    referable, sight_threatening = (cut.least for cut, *_ in cuts)
    return to_picture(
        figure,
        name="roc_cuts",
        title="ROC: referable and sight-threatening",
        checkpoint=finished.checkpoint,
        alt=f"ROC curves of the clinical cuts. {texts}.",
        caption=(
            f"Referable is grade {referable} or worse, sight-threatening grade "
            f"{sight_threatening} or worse, by the sum of these grades' probabilities. "
            "Dots: the grades as they are given."
        ),
    )


def _curve_of_cut(
    finished: FinishedRun, cut: Cut, scores: CutScores, style: LineStyle
) -> _Curve:
    test = finished.test
    sensitivity, specificity = scores.sensitivity, scores.specificity
    if sensitivity is None or specificity is None:
        dot = None
    else:
        dot = (1 - specificity, sensitivity)
    return _Curve(
        label=f"grade {cut.least} or worse: {scores.auc:.3f}",
        truth=test.labels >= cut.least,
        probabilities=test.probabilities[:, cut.least :].sum(axis=1),
        style=style,
        width=1.8,
        dot=dot,
    )


def _describe_cut(cut: Cut, scores: CutScores, ends: CutIntervals) -> str:
    text = f"{cut.title}: AUC {format_interval(scores.auc, ends.auc, '.3f')}"
    if scores.auc is None:
        return text
    return (
        f"{text}; as graded, sensitivity {scores.sensitivity:.1%} at specificity "
        f"{scores.specificity:.1%}"
    )


def _draw_roc(axis: Axes, curves: Sequence[_Curve]) -> None:
    """All curves, the diagonal of guessing, and a legend with the areas."""
    for curve in curves:
        colour, dashes = curve.style
        false_alarms, found = RocSteps.of(curve.truth, curve.probabilities).curve()
        axis.plot(
            false_alarms,
            found,
            color=colour,
            ls=dashes,
            lw=curve.width,
            label=curve.label,
        )
        if curve.dot:
            axis.plot(
                *curve.dot, "o", color=colour, ms=7, mec="white", mew=1.2, zorder=5
            )
    axis.plot([0, 1], [0, 1], color="0.7", lw=1, zorder=0)
    axis.set_xlabel("1 - specificity (false alarms)")
    axis.set_ylabel("sensitivity (found)")
    axis.set_xlim(-0.02, 1.02)
    axis.set_ylim(-0.02, 1.02)
    axis.set_aspect("equal")
    axis.spines[["top", "right"]].set_visible(False)
    if curves:
        axis.legend(title="AUC", loc="lower right", fontsize=8, title_fontsize=8)
