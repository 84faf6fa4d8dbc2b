"""Every test sample as a row of the page's table, in as few bytes as will do."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastretina.metrics.figures import GRADE_NAMES
from fastretina.metrics.predictions import Predictions

_EYES = ("", "left", "right")


def compact(test: Predictions) -> dict[str, Any]:
    """What the page's script makes its table of: 50 bytes a sample, as JSON.

    Returns:
        ``grades`` and ``eyes``: their names; ``rows``: key, patient (0 where the key
        without its eye says it), number of the eye, true and predicted grade, and the
        probabilities of the grades 0 to 4 in thousandths.
    """
    thousandths = np.rint(1000 * test.probabilities).astype(int).tolist()
    eyes = [*_EYES, *sorted(set(test.eyes) - set(_EYES))]
    number = {eye: place for place, eye in enumerate(eyes)}
    columns = (
        test.keys,
        test.patients,
        test.eyes,
        test.labels.tolist(),
        test.grades.tolist(),
        thousandths,
    )
    rows = [
        [
            key,
            0 if key == f"{patient}_{eye}" else patient,
            number[eye],
            true,
            said,
            *chances,
        ]
        for key, patient, eye, true, said, chances in zip(*columns, strict=True)
    ]
    return {"grades": GRADE_NAMES, "eyes": eyes, "rows": rows}
