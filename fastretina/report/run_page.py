"""The page of a run: everything it shows, gathered.

FinishedRun  ->  sentences, tables, Figures, mistakes  ->  run.html.j2  ->  HTML
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fastretina.report import headline, remarks, tables
from fastretina.report.confusion import confusion_pictures
from fastretina.report.finished_run import FinishedRun
from fastretina.report.grade_meanings import MEANINGS, SOURCE, grade_name
from fastretina.report.mistakes import Mistake, MistakeList, distinct
from fastretina.report.picture import Picture
from fastretina.report.reliability import reliability_picture
from fastretina.report.roc import roc_pictures
from fastretina.report.samples import pack_samples
from fastretina.report.template import html
from fastretina.report.thumbnails import Thumbnails
from fastretina.report.tiles import tiles
from fastretina.report.training_curves import curve_pictures, speed_picture

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
        confusion: Confusion matrix as counts and as shares.
        roc: ROC curves of the grades, and of the clinical cuts.
        reliability: Reliability before and after the temperature.
        curves: Loss, accuracy and QWK by epoch, as far as they were measured.
        speed: Images/s and the share of waiting, by epoch.
    """

    confusion: Sequence[Picture]
    roc: Sequence[Picture]
    reliability: Picture
    curves: Sequence[Picture]
    speed: Picture

    @classmethod
    def of(cls, finished: FinishedRun) -> Figures:
        """Draw the figures of a run."""
        return cls(
            confusion=confusion_pictures(finished),
            roc=roc_pictures(finished),
            reliability=reliability_picture(finished),
            curves=curve_pictures(finished),
            speed=speed_picture(finished),
        )

    def all(self) -> list[Picture]:
        """Every figure, in the order of the page."""
        quality = [*self.confusion, *self.roc, self.reliability]
        return [*quality, *self.curves, self.speed]


@dataclass(frozen=True, kw_only=True, slots=True)
class ShownMistakes:
    """The mistakes that a page shows.

    Attributes:
        lists: The mistakes, by kind.
        thumbnails: Images of each mistake by its place; or none at all.
        without_photographs: Why there are none, where they were wanted.
    """

    lists: Sequence[MistakeList]
    thumbnails: Mapping[int, Thumbnails] = field(default_factory=dict)
    without_photographs: str | None = None

    @property
    def mistakes(self) -> list[Mistake]:
        """Every mistake that is shown, once."""
        return distinct(self.lists)

    @property
    def homes(self) -> dict[int, MistakeList]:
        """The list that shows each mistake in full, by its place; others link to it."""
        return {
            each.place: some for some in reversed(self.lists) for each in some.shown
        }


def run_page(finished: FinishedRun, figures: Figures, shown: ShownMistakes) -> str:
    """The page as HTML."""
    test = finished.test
    return html(
        "run.html.j2",
        {
            "title": f"{finished.name}: report",
            "name": finished.name,
            "checkpoint": finished.checkpoint,
            "short_id": finished.short_id,
            "sections": _SECTIONS,
            **_texts(finished),
            **_rows(finished),
            "tiles": tiles(finished),
            "figures": figures,
            "mistake_lists": shown.lists,
            "mistakes": shown.mistakes,
            "homes": shown.homes,
            "thumbnails": shown.thumbnails,
            "without_photographs": shown.without_photographs,
            "num_mistakes": int((test.grades != test.labels).sum()),
            "num_samples": len(test),
            "samples": pack_samples(test),
            "meanings": [(grade_name(n), text) for n, text in enumerate(MEANINGS)],
            "source": SOURCE,
            "weights_sha256": finished.result.weights_sha256,
        },
    )


def _texts(finished: FinishedRun) -> dict[str, object]:
    """The sentences of the page, by the template's names."""
    return {
        "model": headline.describe_model(finished),
        "score_sentences": headline.describe_scores(finished),
        "warnings": headline.warn(finished),
        "intervals": remarks.describe_intervals(finished),
        "thresholds": remarks.describe_thresholds(finished),
        "calibration": remarks.describe_calibration(finished),
        "both_eyes": remarks.describe_both_eyes(finished),
    }


def _rows(finished: FinishedRun) -> dict[str, object]:
    """The tables of the page, by the template's names."""
    return {
        "baseline_rows": tables.baseline_rows(finished),
        "cut_rows": tables.cut_rows(finished),
        "specificity": tables.SPECIFICITY,
        "grade_rows": tables.grade_rows(finished),
        "operating_point_rows": tables.operating_point_rows(finished),
        "environment": tables.environment(finished),
    }
