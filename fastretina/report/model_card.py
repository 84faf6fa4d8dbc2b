"""The model card of a run, under the headings of Mitchell et al. (2019)."""

from __future__ import annotations

from pathlib import Path

from fastretina.report import headline as summary
from fastretina.report import tables
from fastretina.report.finished_run import FinishedRun, read_finished_run
from fastretina.report.grade_meanings import explained
from fastretina.report.template import markdown
from fastretina.run import Run
from loaders.files import write_atomically
from loaders.grades import GRADES

CARD = "model_card.md"


def write_card(run: Run) -> Path:
    """Write ``model_card.md`` into a finished run's folder, from its own numbers.

    Raises:
        RunError: the run is not finished, or damaged.
    """
    path = run.path / CARD
    write_atomically(path, card(read_finished_run(run)).encode(errors="replace"))
    return path


def card(record: FinishedRun) -> str:
    """The card as Markdown."""
    config, metrics = record.config, record.metrics
    data, recipe = config["data"], record.recipe
    return markdown(
        "model_card.md.j2",
        {
            "record": record,
            "config": config,
            "metrics": metrics,
            "recipe": recipe,
            "data": data,
            "arch": summary.network(record),
            "beginning": summary.beginning(record),
            "preprocessing": _preprocessing(record),
            "size": "{1} x {0} pixels".format(*config["image_shape"]),
            "grades": [explained(grade) for grade in range(len(GRADES))],
            "subject": summary.subject(record),
            "num_patients": summary.count(summary.num_patients(record), "patient"),
            "num_test": f"{len(record.test):,}",
            "num_train": summary.count(data.get("train"), "photograph"),
            "leak": metrics.get("leak"),
            "banners": summary.banners(record),
            "scores": summary.beside_baselines(record),
            "cuts": tables.cuts(record),
            "fixed": tables.FIXED,
            "per_grade": tables.per_grade(record),
            "narrow": tables.narrow(record),
            "points": tables.operating_points(record),
            "thresholds": tables.thresholds(record),
            "calibration_error": _calibration(record),
        },
    )


def _preprocessing(record: FinishedRun) -> str:
    """What was done to the photographs when shards were written."""
    how = record.config["data"].get("preprocessing") or {}
    return ", ".join(how.get("steps") or []) or "nothing"


def _calibration(record: FinishedRun) -> str:
    before = record.scores["calibration_error"]
    after = record.metrics.get("calibrated")
    if not after:
        return f"{before:.3f} (no temperature was fitted)"
    temperature = record.metrics["calibration"]["temperature"]
    return (
        f"{before:.3f}, and {after['calibration_error']:.3f} with the temperature "
        f"{temperature:.2f}"
    )
