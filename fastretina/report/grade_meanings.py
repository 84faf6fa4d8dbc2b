"""What the five grades mean to a clinician, and what follows from them.

The International Clinical Diabetic Retinopathy scale, in its own terms: C. P. Wilkinson
et al., "Proposed international clinical diabetic retinopathy and diabetic macular edema
disease severity scales", Ophthalmology 110 (2003), table 1.
"""

from __future__ import annotations

from typing import NamedTuple

from loaders.grades import GRADES, REFERABLE, SIGHT_THREATENING

SOURCE = (
    "International Clinical Diabetic Retinopathy scale "
    "(Wilkinson et al., Ophthalmology 2003)"
)
MEANINGS = (
    "no abnormalities",
    "microaneurysms only",
    "more than microaneurysms alone, such as haemorrhages or hard exudates, but less "
    "than severe",
    "more than 20 haemorrhages within the retina in each of the four quadrants, "
    "definite venous beading in two or more, or prominent intraretinal microvascular "
    "abnormalities (IRMA) in one or more; and no sign of proliferation",
    "new vessels (neovascularisation), or haemorrhage into the vitreous or before the "
    "retina",
)


class Cut(NamedTuple):
    """A clinical cut of the scale.

    Attributes:
        name: What the photographs at or beyond it show.
        least: Their least grade.
    """

    name: str
    least: int

    @property
    def title(self) -> str:
        """Name and grades, e.g. ``referable DR (grade 2 or worse)``."""
        return f"{self.name} (grade {self.least} or worse)"


CUTS = (
    Cut("referable DR", REFERABLE),
    Cut("sight-threatening DR", SIGHT_THREATENING),
)


def grade_name(grade: int) -> str:
    """Number and name of a grade, e.g. ``2 Moderate``."""
    return f"{grade} {GRADES[grade]}"


def explain_grade(grade: int) -> str:
    """Name and meaning of a grade, e.g. ``1 Mild: microaneurysms only``."""
    return f"{grade_name(grade)}: {MEANINGS[grade]}"
