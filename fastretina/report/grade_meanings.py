"""What the five grades mean to a clinician, and what follows from them.

The International Clinical Diabetic Retinopathy scale, in its own terms: C. P. Wilkinson
et al., "Proposed international clinical diabetic retinopathy and diabetic macular edema
disease severity scales", Ophthalmology 110 (2003), table 1.
"""

from __future__ import annotations

from loaders.grades import GRADES

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
CUTS = {
    "referable": "referable DR (grade 2 or worse)",
    "sight_threatening": "sight-threatening DR (grade 3 or worse)",
}


def named(grade: int) -> str:
    """E.g. ``2 Moderate``."""
    return f"{grade} {GRADES[grade]}"


def explained(grade: int) -> str:
    """E.g. ``1 Mild: microaneurysms only``."""
    return f"{named(grade)}: {MEANINGS[grade]}"
