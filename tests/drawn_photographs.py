"""Drawn fundus photographs: claims about real ones can be tested by everyone."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

EYES = ("left", "right")


@cache
def drawn_photograph(
    patient: int, eye: str = "left", grade: int = 0, size: int = 256
) -> bytes:
    """A JPEG as ``fastretina.demo`` draws it, the same at every call."""
    from fastretina.demo.camera import encode_photograph
    from fastretina.demo.fundus import draw_eye

    return encode_photograph(*draw_eye(7, patient, eye, grade, size))


def drawn_course(root: Path, splits: dict[str, Sequence[int]], size: int = 96) -> Path:
    """Both eyes of each split's patients in the course's layout; returns ``root``."""
    (root / "data").mkdir(parents=True)
    for split, patients in splits.items():
        names, grades = [], []
        for patient in patients:
            for eye in EYES:
                grade = patient % 5
                photograph = drawn_photograph(patient, eye, grade, size)
                name = f"{patient}_{eye}"
                (root / "data" / f"{name}.jpeg").write_bytes(photograph)
                names.append(name)
                grades.append(str(grade))
        (root / f"{split}_img.csv").write_text("\n".join(names) + "\n")
        (root / f"{split}_label.csv").write_text("\n".join(grades) + "\n")
    return root
