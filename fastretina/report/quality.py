"""What the predictions on test are worth, drawn: confusion, ROC, reliability."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
from sklearn.metrics import roc_curve

from fastretina.formatting import format_interval
from fastretina.metrics.calibration import cool, reliability
from fastretina.metrics.figures import GRADE_NAMES, draw_matrix
from fastretina.report.finished_run import FinishedRun
from fastretina.report.grade_meanings import CUTS
from fastretina.report.picture import GRADE_LOOKS, Picture, blank, finished
from loaders.grades import REFERABLE, SIGHT_THREATENING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LEAST = {"referable": REFERABLE, "sight_threatening": SIGHT_THREATENING}


def confusion(record: FinishedRun) -> list[Picture]:
    """The confusion matrix twice: as counts, and as shares of each true grade."""
    return [_matrix(record, "counts"), _matrix(record, "shares")]


def _matrix(record: FinishedRun, kind: Literal["counts", "shares"]) -> Picture:
    counts = np.asarray(record.scores["confusion"])
    figure, (axis,) = blank(4.1)
    draw_matrix(axis, counts.tolist(), kind)
    rows = []
    for name, row in zip(GRADE_NAMES, counts, strict=True):
        total = max(int(row.sum()), 1)
        form = "{:,}" if kind == "counts" else "{:.1%}"
        cells = ", ".join(
            form.format(n if kind == "counts" else n / total) for n in row
        )
        rows.append(f"true {name} ({row.sum():,}): {cells}")
    within = np.abs(np.subtract.outer(range(len(counts)), range(len(counts)))) <= 1
    near = counts[within].sum() / counts.sum()
    return finished(
        figure,
        name=f"confusion_{kind}",
        title=f"Confusion matrix: {kind}",
        checkpoint=record.checkpoint,
        alt=f"Confusion matrix, {kind} of predicted 0 to 4. {'; '.join(rows)}.",
        caption=(
            "A row holds the photographs of one true grade; right answers are on the "
            f"diagonal. {near:.1%} of all are at most one grade off."
            if kind == "counts"
            else "Each row adds up to 100%; on the diagonal stands the recall."
        ),
    )


def roc(record: FinishedRun) -> list[Picture]:
    """ROC curves of each grade against all others, and of the two clinical cuts."""
    return [_roc_of_grades(record), _roc_of_cuts(record)]


def _roc_of_grades(record: FinishedRun) -> Picture:
    test, areas = record.test, record.scores["auc"]
    ends = record.intervals.get("auc") or [None] * len(areas)
    figure, (axis,) = blank(4.3)
    words = []
    for grade, (area, end) in enumerate(zip(areas, ends, strict=True)):
        words.append(f"{GRADE_NAMES[grade]} {format_interval(area, end, '.3f')}")
        if area is None:
            continue
        colour, dashes = GRADE_LOOKS[grade]
        false, true, _ = roc_curve(test.labels == grade, test.probabilities[:, grade])
        label = f"{GRADE_NAMES[grade]}: {area:.3f}"
        axis.plot(false, true, color=colour, ls=dashes, lw=1.6, label=label)
    _dress_roc(axis, "AUC")
    return finished(
        figure,
        name="roc_grades",
        title="ROC: each grade against all others",
        checkpoint=record.checkpoint,
        alt=f"ROC curves, one grade against all others. AUC: {', '.join(words)}.",
        caption=(
            "How well the probability of a grade tells its photographs from all "
            "others: an area (AUC) of 0.5 is guessing, 1 is perfect."
        ),
    )


def _roc_of_cuts(record: FinishedRun) -> Picture:
    test = record.test
    figure, (axis,) = blank(4.3)
    words = []
    looks = (GRADE_LOOKS[0], GRADE_LOOKS[3])
    for (cut, least), (colour, dashes) in zip(_LEAST.items(), looks, strict=True):
        found, ends = record.scores[cut], record.intervals.get(cut) or {}
        words.append(
            f"{CUTS[cut]}: AUC {format_interval(found['auc'], ends.get('auc'), '.3f')}"
        )
        if found["auc"] is None:
            continue
        chances = test.probabilities[:, least:].sum(axis=1)
        false, true, _ = roc_curve(test.labels >= least, chances)
        label = f"grade {least} or worse: {found['auc']:.3f}"
        axis.plot(false, true, color=colour, ls=dashes, lw=1.8, label=label)
        at = (1 - found["specificity"], found["sensitivity"])
        axis.plot(*at, "o", color=colour, ms=7, mec="white", mew=1.2, zorder=5)
        words.append(
            f"as graded, sensitivity {found['sensitivity']:.1%} at specificity "
            f"{found['specificity']:.1%}"
        )
    _dress_roc(axis, "AUC")
    return finished(
        figure,
        name="roc_cuts",
        title="ROC: referable and sight-threatening",
        checkpoint=record.checkpoint,
        alt=f"ROC curves of the clinical cuts. {'; '.join(words)}.",
        caption=(
            "Referable is grade 2 or worse, sight-threatening grade 3 or worse, by the "
            "sum of these grades' probabilities. Dots: the grades as they are given."
        ),
    )


def _dress_roc(axis: Axes, title: str) -> None:
    axis.plot([0, 1], [0, 1], color="0.7", lw=1, zorder=0)
    axis.set_xlabel("1 - specificity (false alarms)")
    axis.set_ylabel("sensitivity (found)")
    axis.set_xlim(-0.02, 1.02)
    axis.set_ylim(-0.02, 1.02)
    axis.set_aspect("equal")
    axis.spines[["top", "right"]].set_visible(False)
    if len(axis.get_lines()) > 1:
        axis.legend(title=title, loc="lower right", fontsize=8, title_fontsize=8)


def reliability_diagram(record: FinishedRun) -> Picture:
    """How often it is right, by how sure it is; before and after the temperature."""
    test, saved = record.test, record.metrics.get("calibration")
    sides = [("as trained", test.probabilities, record.scores["calibration_error"])]
    if saved:
        cooled = cool(test.probabilities, saved["temperature"])
        error = record.metrics["calibrated"]["calibration_error"]
        sides.append((f"temperature {saved['temperature']:.2f}", cooled, error))
    figure, (axis,) = blank(4.3)
    axis.plot([0, 1], [0, 1], color="0.7", lw=1, zorder=0)
    words = []
    looks = (("#4269d0", "o", "-"), ("#c98500", "s", "--"))
    for (name, chances, error), (colour, marker, dashes) in zip(
        sides, looks, strict=False
    ):
        sure, right, sizes = _bins(test.labels, chances)
        label = f"{name} (error {error:.3f})"
        axis.plot(sure, right, color=colour, ls=dashes, lw=1.4, label=label)
        axis.scatter(sure, right, s=sizes, color=colour, marker=marker, zorder=3)
        points = zip(sure, right, strict=True)
        told_bins = ", ".join(f"{right:.0%} at {sure:.0%}" for sure, right in points)
        words.append(f"{label}: right {told_bins}")
    axis.set_xlabel("probability of the grade given")
    axis.set_ylabel("share that is right")
    axis.set_xlim(0.15, 1.02)
    axis.set_ylim(-0.02, 1.02)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(loc="upper left", fontsize=8, frameon=False)
    fitted = (
        f" The temperature was fitted on {saved['samples']:,} photographs held out of "
        "training."
        if saved
        else " No photographs were held out to fit a temperature on."
    )
    return finished(
        figure,
        name="reliability",
        title="Reliability: is it as right as it is sure?",
        checkpoint=record.checkpoint,
        alt=f"Reliability diagram. {'; '.join(words)}.",
        caption=(
            "On the diagonal it is right as often as it says; below it is too sure. "
            "Larger marks hold more photographs. Error: the expected calibration error."
            + fitted
        ),
    )


def _bins(
    labels: npt.NDArray[np.int64], chances: npt.NDArray[np.float64]
) -> tuple[list[float], list[float], list[float]]:
    """Of the bins with samples: confidence, accuracy, and the area of the mark."""
    found = reliability(labels, chances)
    there = [place for place, count in enumerate(found.samples) if count]
    sizes = [12 + 130 * found.samples[p] / len(labels) for p in there]
    return _at(found.confidence, there), _at(found.accuracy, there), sizes


def _at(values: Sequence[float | None], places: Sequence[int]) -> list[float]:
    return [float(values[place] or 0.0) for place in places]
