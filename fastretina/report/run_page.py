"""The page of a run: everything it shows, gathered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fastretina.report import (
    headline as summary,
)
from fastretina.report import (
    quality,
    tables,
)
from fastretina.report import (
    training_curves as course,
)
from fastretina.report.finished_run import FinishedRun
from fastretina.report.grade_meanings import MEANINGS, SOURCE, named
from fastretina.report.mistakes import Mistake
from fastretina.report.picture import Picture
from fastretina.report.samples import compact
from fastretina.report.template import html
from fastretina.report.thumbnails import Thumbnails
from loaders.grades import GRADES

_SECTIONS = (
    ("summary", "How good"),
    ("grades", "Grade by grade"),
    ("certainty", "How sure"),
    ("training", "Training"),
    ("mistakes", "Mistakes"),
    ("samples", "All photographs"),
    ("environment", "Config"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Figures:
    """The figures of a run's page.

    Attributes:
        confusion: as counts and as shares.
        roc: of the grades, and of the clinical cuts.
        reliability: before and after the temperature.
        curves: of loss, accuracy and QWK, as far as they were measured.
        speed: and the waiting for data.
    """

    confusion: Sequence[Picture]
    roc: Sequence[Picture]
    reliability: Picture
    curves: Sequence[Picture]
    speed: Picture

    @classmethod
    def of(cls, record: FinishedRun) -> Figures:
        """Draw them all."""
        return cls(
            confusion=quality.confusion(record),
            roc=quality.roc(record),
            reliability=quality.reliability_diagram(record),
            curves=course.curves(record),
            speed=course.speed(record),
        )

    def all(self) -> list[Picture]:
        """In the order of the page."""
        quality = [*self.confusion, *self.roc, self.reliability]
        return [*quality, *self.curves, self.speed]


def run_page(
    record: FinishedRun,
    figures: Figures,
    mistakes: Sequence[Mistake],
    thumbnails: Sequence[Thumbnails],
    missing: str | None,
) -> str:
    """The page as HTML.

    Args:
        record: of the run.
        figures: of the same.
        mistakes: to show, the surest first.
        thumbnails: of each of them; or none.
        missing: why there are none, where they were wanted.
    """
    test = record.test
    values: dict[str, Any] = {
        "title": f"{record.name}: report",
        "name": record.name,
        "checkpoint": record.checkpoint,
        "short_id": record.short_id,
        "sections": _SECTIONS,
        "banners": summary.banners(record),
        "subject": summary.subject(record),
        "in_words": summary.in_words(record),
        "tiles": summary.tiles(record),
        "beside_baselines": summary.beside_baselines(record),
        "cuts": tables.cuts(record),
        "fixed": tables.FIXED,
        "per_grade": tables.per_grade(record),
        "narrow": tables.narrow(record),
        "points": tables.operating_points(record),
        "thresholds": tables.thresholds(record),
        "certainty": tables.certainty(record),
        "together": tables.together(record),
        "confusion": figures.confusion,
        "roc": figures.roc,
        "reliability": figures.reliability,
        "curves": figures.curves,
        "speed": figures.speed,
        "mistakes": mistakes,
        "num_mistakes": int((test.grades != test.labels).sum()),
        "thumbnails_of": thumbnails,
        "missing": missing,
        "meanings": [(named(grade), MEANINGS[grade]) for grade in range(len(GRADES))],
        "source": SOURCE,
        "num_samples": len(test),
        "samples": compact(test),
        "environment": tables.environment(record),
        "weights_sha256": record.metrics["weights_sha256"],
    }
    return html("run.html.j2", values)
