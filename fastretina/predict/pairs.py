"""Which of several photographs are the two eyes of one patient, by their names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fastretina.data.patient_names import read_name
from fastretina.metrics.both_eyes import FELLOW
from loaders.course import strip_suffix
from loaders.errors import DataError


def fellow_positions(paths: Sequence[Path]) -> dict[int, int]:
    """Where each photograph's fellow eye lies, by position, if it is there.

    Args:
        paths: named as ``data.patient_names`` reads them, in whatever folders.

    Raises:
        DataError: an eye is there twice, and nobody can tell whose fellow is which.
    """
    places: dict[tuple[str, str], int] = {}
    for place, path in enumerate(paths):
        patient, side, known = read_name(strip_suffix(path.name))
        if not known:
            continue
        first = places.setdefault((patient, side), place)
        if first != place:
            raise DataError(
                f"with --pairs each eye must be one photograph, got {paths[first]} and "
                f"{path}; leave one of them out"
            )
    return {
        place: places[patient, FELLOW[side]]
        for (patient, side), place in places.items()
        if (patient, FELLOW[side]) in places
    }
