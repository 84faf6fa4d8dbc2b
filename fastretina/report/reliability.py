"""The reliability diagram: is the network as right as it is sure?"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from fastretina.metrics.calibration import cool
from fastretina.metrics.reliability import reliability
from fastretina.report.finished_run import FinishedRun
from fastretina.report.picture import Picture, blank, to_picture
from loaders.arrays import Float64, Int64

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_STYLES = (("#4269d0", "o", "-"), ("#c98500", "s", "--"))  # colour, marker, dashes


class _Side(NamedTuple):
    """One line of the diagram.

    Attributes:
        label: Text of the legend.
        bins: The bins of confidence that hold any photograph.
    """

    label: str
    bins: list[_Bin]


class _Bin(NamedTuple):
    """The photographs of similar confidence.

    Attributes:
        confidence: Mean probability of the grade given, 0 to 1.
        accuracy: Share of right grades, 0 to 1.
        share: Share of all photographs that lie here, 0 to 1.
    """

    confidence: float
    accuracy: float
    share: float


def reliability_picture(finished: FinishedRun) -> Picture:
    """How often it is right, by how sure it is; before and after the temperature."""
    sides = _sides(finished)
    figure, (axis,) = blank(4.3)
    _draw(axis, sides)
    calibration = finished.evaluation.calibration
    fitted = (
        f"The temperature was fitted on {calibration.samples:,} photographs held out "
        "of training."
        if calibration
        else "No photographs were held out to fit a temperature on."
    )
    return to_picture(
        figure,
        name="reliability",
        title="Reliability: is it as right as it is sure?",
        checkpoint=finished.checkpoint,
        alt=f"Reliability diagram. {'; '.join(map(_describe, sides))}.",
        caption=(
            "On the diagonal it is right as often as it says; below it is too sure. "
            "Larger marks hold more photographs. Error: the expected calibration error."
            f" {fitted}"
        ),
    )


def _sides(finished: FinishedRun) -> list[_Side]:
    """The network as trained; and with the temperature, where one was fitted."""
    test, evaluation = finished.test, finished.evaluation
    error = finished.scores.calibration_error
    sides = [
        _Side(f"as trained (error {error:.3f})", _bins(test.labels, test.probabilities))
    ]
    if evaluation.calibration and evaluation.calibrated:
        temperature = evaluation.calibration.temperature
        sides.append(
            _Side(
                f"temperature {temperature:.2f} "
                f"(error {evaluation.calibrated.calibration_error:.3f})",
                _bins(test.labels, cool(test.probabilities, temperature)),
            )
        )
    return sides


def _draw(axis: Axes, sides: list[_Side]) -> None:
    axis.plot([0, 1], [0, 1], color="0.7", lw=1, zorder=0)
    for side, (colour, marker, dashes) in zip(sides, _STYLES, strict=False):
        sure = [each.confidence for each in side.bins]
        right = [each.accuracy for each in side.bins]
        areas = [12 + 130 * each.share for each in side.bins]  # points squared
        axis.plot(sure, right, color=colour, ls=dashes, lw=1.4, label=side.label)
        axis.scatter(sure, right, s=areas, color=colour, marker=marker, zorder=3)
    axis.set_xlabel("probability of the grade given")
    axis.set_ylabel("share that is right")
    axis.set_xlim(0.15, 1.02)
    axis.set_ylim(-0.02, 1.02)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(loc="upper left", fontsize=8, frameon=False)


def _describe(side: _Side) -> str:
    bins = [f"{each.accuracy:.0%} at {each.confidence:.0%}" for each in side.bins]
    return f"{side.label}: right {', '.join(bins)}"


def _bins(labels: Int64, probabilities: Float64) -> list[_Bin]:
    """The bins of confidence that hold any photograph, from 0 to 1."""
    measured = reliability(labels, probabilities)
    columns = (measured.confidence, measured.accuracy, measured.samples)
    return [
        _Bin(
            float(confidence or 0.0), float(accuracy or 0.0), float(count) / len(labels)
        )
        for confidence, accuracy, count in zip(*columns, strict=True)
        if count
    ]
