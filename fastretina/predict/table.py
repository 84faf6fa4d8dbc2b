"""The table of predictions that ``fastretina.predict`` prints, and the notes beside it.

Graded  ->  Prediction  ->  a row of columns  ->  CSV or JSON
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from fastretina.metrics.both_eyes import Fusion
from fastretina.metrics.calibration import Calibration
from fastretina.metrics.predictions import PROBABILITIES
from fastretina.predict.network import Graded, calibrated
from loaders.arrays import Float64
from loaders.errors import DataError
from loaders.formulas import guarded
from loaders.grades import GRADES

Row = dict[str, object]  # by the name of the column

_DIGITS = 4
_NAMED = 3  # images, in a note on many


class Fused(NamedTuple):
    """The grade of an eye by both eyes of its patient.

    Attributes:
        fellow: the fellow eye's photograph; None where it keeps its own grade.
        grade: the likeliest grade; None where the eye can't be graded.
        probabilities: one for each grade, rounded, and never calibrated: the second
            stage and the network alone are on one scale; None where it can't be graded.
    """

    fellow: str | None
    grade: int | None
    probabilities: list[float] | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """What is printed of one photograph.

    Attributes:
        image: the photograph, as it was named.
        grade: the likeliest grade; None after an error.
        probabilities: one for each grade, rounded; None after an error.
        error: why it can't be decoded.
        warning: why it can't be graded, though it can be decoded.
        threshold_grade: the grade by the run's thresholds, with ``--calibrated``.
        fused: the grade by both eyes, with ``--pairs``.
    """

    image: str
    grade: int | None
    probabilities: list[float] | None
    error: str | None
    warning: str | None
    threshold_grade: int | None = None
    fused: Fused | None = None

    @classmethod
    def of(cls, graded: Graded, calibration: Calibration | None) -> Prediction:
        """A photograph's prediction by itself, without its fellow eye.

        Args:
            graded: the photograph.
            calibration: gives calibrated probabilities and the grade by thresholds.
        """
        prediction = cls(
            image=str(graded.path),
            grade=None,
            probabilities=None,
            error=graded.error or None,
            warning=graded.warning or None,
        )
        if graded.probabilities is None:
            return prediction
        shown = calibrated(graded, calibration).probabilities
        assert shown is not None
        by_threshold = None
        if calibration is not None:
            by_threshold = int(calibration.grades(graded.probabilities[None])[0])
        return replace(
            prediction,
            grade=graded.grade,
            probabilities=_rounded(shown),
            threshold_grade=by_threshold,
        )

    def row(self, calibration: Calibration | None) -> Row:
        """Name each column's value; those after ``warning`` are asked for by flags."""
        columns: Row = {
            "image": self.image,
            "grade": self.grade,
            "name": None if self.grade is None else GRADES[self.grade],
            **_columns(PROBABILITIES, self.probabilities),
            "error": self.error,
            "warning": self.warning,
        }
        if calibration is not None:
            columns["threshold_grade"] = self.threshold_grade
        if self.fused is not None:
            columns["fellow"] = self.fused.fellow
            columns["fused_grade"] = self.fused.grade
            names = [f"fused_{name}" for name in PROBABILITIES]
            columns |= _columns(names, self.fused.probabilities)
        return columns


def fuse_eyes(
    predictions: Sequence[Prediction],
    graded: Sequence[Graded],
    fellows: Mapping[int, int],
    fusion: Fusion,
) -> list[Prediction]:
    """The predictions with what both eyes of a patient give together.

    An eye without a fellow, or with one that can't be graded, keeps its own grade and
    the probabilities that the network gave.

    Args:
        predictions: one for each photograph.
        graded: the same photographs, not calibrated.
        fellows: the position of the fellow eye's photograph, by a photograph's own.
        fusion: takes the network's probabilities, not the calibrated ones.
    """
    fused = [_alone(each) for each in graded]
    for place, other in fellows.items():
        own, fellow = graded[place].probabilities, graded[other].probabilities
        if own is None or fellow is None or graded[other].warning:
            continue
        both: Float64 = fusion.fused(own[None], fellow[None])[0]
        fused[place] = Fused(
            str(graded[other].path), int(both.argmax()), _rounded(both)
        )
    return [
        replace(each, fused=both) for each, both in zip(predictions, fused, strict=True)
    ]


def _alone(graded: Graded) -> Fused:
    """The grade of an eye that has no gradable fellow: its own."""
    if graded.probabilities is None:
        return Fused(None, None, None)
    return Fused(None, graded.grade, _rounded(graded.probabilities))


def notes(predictions: Sequence[Prediction]) -> list[str]:
    """A line for each warning, and one for all eyes that are graded alone."""
    lines = [
        f"warning: {each.image}: {each.warning}" for each in predictions if each.warning
    ]
    alone = [
        each.image
        for each in predictions
        if each.fused is not None and each.fused.fellow is None and not each.error
    ]
    if alone:
        more = ", ..." if len(alone) > _NAMED else ""
        lines.append(
            f"note: {len(alone)} of {len(predictions)} images have no gradable fellow "
            f"eye among them and keep their own grade: "
            f"{', '.join(alone[:_NAMED])}{more}"
        )
    return lines


def refuse_failed(predictions: Sequence[Prediction]) -> None:
    """Raise ``DataError`` where some could not be graded."""
    failed = [each for each in predictions if each.error]
    if failed:
        raise DataError(
            f"{len(failed)} of {len(predictions)} images can't be graded: "
            f"{failed[0].image}: {failed[0].error}"
        )


def as_csv(rows: Sequence[Row]) -> str:
    """A header and a line for each row; no text is one that a spreadsheet computes."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        cells = row.items()
        writer.writerow({n: guarded(c) if isinstance(c, str) else c for n, c in cells})
    return text.getvalue()


def as_json(rows: Sequence[Row]) -> str:
    """A list of objects."""
    return json.dumps(rows, indent=1) + "\n"


def _columns(names: Sequence[str], values: Sequence[float] | None) -> Row:
    if values is None:
        return dict.fromkeys(names)
    return dict(zip(names, values, strict=True))


def _rounded(probabilities: Float64) -> list[float]:
    return [round(float(value), _DIGITS) for value in probabilities]
