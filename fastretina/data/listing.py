"""What the labels of a data set list, in whatever layout they are kept."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fastretina.data.left_out import LeftOutFiles
from fastretina.data.patient_names import PatientEye
from loaders.course import Listed


@dataclass(frozen=True, slots=True)
class Listing:
    """What the labels say: N rows, and what else their layout knows already.

    Attributes:
        rows: name and grade of each image, in the order of the source.
        splits: ``train`` or ``test`` for each row; None where the labels have no test
            split.
        paths: name to image file; None where the images are still to be found.
        patients: name to the cell of the column of patients; None where none was named.
        eyes: whose eye each row's image shows; None where names and ``patients`` tell.
        warnings: what was noticed, one line each.
        read: files that were read, beside ``paths``.
        left_out: what of these files is not taken.
    """

    rows: list[Listed]
    splits: list[str] | None = None
    paths: dict[str, Path] | None = None
    patients: dict[str, str] | None = None
    eyes: list[PatientEye] | None = None
    warnings: tuple[str, ...] = ()
    read: tuple[Path, ...] = ()
    left_out: tuple[LeftOutFiles, ...] = ()
