"""The table that ``fastretina.predict`` answers with, and what it remarks beside it."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fastretina.metrics.both_eyes import Fusion
from fastretina.metrics.calibration import Calibration
from fastretina.predict.network import Graded, calibrated
from loaders.errors import DataError
from loaders.grades import GRADES

Row = dict[str, Any]

_DIGITS = 4
_CHANCES = [f"p{grade}" for grade in range(len(GRADES))]
_FUSED = [f"fused_{name}" for name in _CHANCES]
_NAMED = 3  # images, in a remark on many


def row(graded: Graded, calibration: Calibration | None) -> Row:
    """One photograph's row; the columns after ``warning`` are asked for by flags.

    Args:
        graded: the photograph.
        calibration: to give calibrated probabilities with, and the grade by thresholds.
    """
    columns = ("image", "grade", "name", *_CHANCES, "error", "warning")
    found: Row = dict.fromkeys(columns) | {"image": str(graded.path)}
    found["error"], found["warning"] = graded.error or None, graded.warning or None
    if calibration is not None:
        found["threshold_grade"] = None
    if graded.chances is None:
        return found
    if calibration is not None:
        found["threshold_grade"] = int(calibration.grades(graded.chances[None])[0])
    shown = calibrated(graded, calibration).chances
    assert shown is not None
    found |= {"grade": graded.grade, "name": GRADES[graded.grade]}
    return found | _rounded(_CHANCES, shown)


def add_fused(
    rows: Sequence[Row],
    graded: Sequence[Graded],
    fellows: Mapping[int, int],
    fusion: Fusion,
) -> None:
    """Add to each row what both eyes say together.

    An eye without a fellow, or with one that can't be graded, keeps its own grade and
    probabilities; its ``fellow`` stays empty.

    Args:
        rows: one for each photograph.
        graded: the same photographs.
        fellows: for a photograph's position that of its fellow.
        fusion: takes the network's probabilities, not the calibrated ones.
    """
    for each in rows:
        each |= {"fellow": None, "fused_grade": each["grade"]}
        each |= {f"fused_{name}": each[name] for name in _CHANCES}
    for place, other in fellows.items():
        own, fellow = graded[place].chances, graded[other].chances
        if own is None or fellow is None or graded[other].warning:
            continue
        fused = fusion.fused(own[None], fellow[None])[0]
        rows[place]["fellow"] = str(graded[other].path)
        rows[place]["fused_grade"] = int(fused.argmax())
        rows[place] |= _rounded(_FUSED, fused)


def remarks(rows: Sequence[Row]) -> list[str]:
    """A line for each warning, and one for all eyes that are graded alone."""
    lines = [
        f"warning: {each['image']}: {each['warning']}"
        for each in rows
        if each["warning"]
    ]
    alone = [
        each["image"]
        for each in rows
        if "fellow" in each and not each["fellow"] and not each["error"]
    ]
    if alone:
        more = ", ..." if len(alone) > _NAMED else ""
        lines.append(
            f"note: {len(alone)} of {len(rows)} images have no gradable fellow eye "
            f"among them and keep their own grade: {', '.join(alone[:_NAMED])}{more}"
        )
    return lines


def refuse_failed(rows: Sequence[Row]) -> None:
    """Raise ``DataError`` where some could not be graded."""
    failed = [each for each in rows if each["error"]]
    if failed:
        raise DataError(
            f"{len(failed)} of {len(rows)} images can't be graded: "
            f"{failed[0]['image']}: {failed[0]['error']}"
        )


def as_csv(rows: Sequence[Row]) -> str:
    """A header and a line for each row."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def as_json(rows: Sequence[Row]) -> str:
    """A list of objects."""
    return json.dumps(rows, indent=1) + "\n"


def _rounded(names: Sequence[str], chances: npt.NDArray[np.float64]) -> Row:
    return {
        name: round(float(chance), _DIGITS)
        for name, chance in zip(names, chances, strict=True)
    }
