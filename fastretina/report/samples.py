"""Every test sample as a row of the page's table, in as few bytes as will do."""

from __future__ import annotations

from typing import TypedDict

import numpy as np

from fastretina.metrics.figures import GRADE_NAMES
from fastretina.metrics.predictions import Predictions
from loaders.grades import REFERABLE

_EYES = ("", "left", "right")


class PackedSamples(TypedDict):
    """The JSON that the page's script makes its table of.

    Attributes:
        grades: Names of the grades 0 to 4.
        eyes: Names of the eyes.
        referable: Least grade of referable DR.
        rows: For each sample its key, patient (0 where the key without its eye says
            it), place of the eye in ``eyes``, true and predicted grade, and the
            probabilities of the grades 0 to 4 in thousandths.
    """

    grades: list[str]
    eyes: list[str]
    referable: int
    rows: list[list[str | int]]


def pack_samples(test: Predictions) -> PackedSamples:
    """All samples of the predictions, at about 50 bytes each as JSON."""
    thousandths = np.rint(1000 * test.probabilities).astype(int).tolist()
    eyes = [*_EYES, *sorted(set(test.eyes) - set(_EYES))]
    place = {eye: number for number, eye in enumerate(eyes)}
    columns = (
        test.keys,
        test.patients,
        test.eyes,
        test.labels.tolist(),
        test.grades.tolist(),
        thousandths,
    )
    rows: list[list[str | int]] = [
        [
            key,
            0 if key == f"{patient}_{eye}" else patient,
            place[eye],
            true,
            predicted,
            *probabilities,
        ]
        for key, patient, eye, true, predicted, probabilities in zip(
            *columns, strict=True
        )
    ]
    return {"grades": GRADE_NAMES, "eyes": eyes, "referable": REFERABLE, "rows": rows}
