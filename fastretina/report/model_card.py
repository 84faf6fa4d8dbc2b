"""The model card of a run, under the headings of Mitchell et al. (2019)."""

from __future__ import annotations

from pathlib import Path

from fastretina.report import headline, provenance, remarks, tables
from fastretina.report.finished_run import FinishedRun
from fastretina.report.grade_meanings import explain_grade
from fastretina.report.template import markdown
from loaders.files import write_atomically
from loaders.grades import GRADES

CARD = "model_card.md"


def write_card(finished: FinishedRun) -> Path:
    """Write ``model_card.md`` into the run's folder."""
    path = finished.folder.path / CARD
    write_atomically(path, model_card(finished).encode(errors="replace"))
    return path


def model_card(finished: FinishedRun) -> str:
    """The card as Markdown."""
    config = finished.config
    data, (height, width) = config.data, config.image_shape
    steps = data.preprocessing.steps if data.preprocessing else ()
    return markdown(
        "model_card.md.j2",
        {
            "name": finished.name,
            "result": finished.result,
            "evaluation": finished.evaluation,
            "recipe": config.recipe,
            "data": data,
            "network": headline.network_name(finished),
            "initial_weights": headline.initial_weights(finished),
            "preprocessing": ", ".join(steps) or "nothing",
            "size": f"{width} x {height} pixels",
            "grades": [explain_grade(grade) for grade in range(len(GRADES))],
            "model": headline.describe_model(finished),
            "tested_on": provenance.describe_test(finished),
            "trained_on": provenance.count_photographs(data.train, data.origin),
            "source": provenance.describe_source(
                data.origin, patients_known=finished.patients_known
            ),
            "test_source": data.test_origin
            and provenance.describe_source(
                data.test_origin, patients_known=finished.patients_known
            ),
            "shares_no_patient": finished.shares_no_patient,
            "patients_known": finished.patients_known,
            "warnings": headline.warn(finished),
            "baseline_rows": tables.baseline_rows(finished),
            "cut_rows": tables.cut_rows(finished),
            "specificity": tables.SPECIFICITY,
            "grade_rows": tables.grade_rows(finished),
            "intervals": remarks.describe_intervals(finished),
            "operating_point_rows": tables.operating_point_rows(finished),
            "thresholds": remarks.describe_thresholds(finished),
            "calibration_error": _calibration_error(finished),
        },
    )


def _calibration_error(finished: FinishedRun) -> str:
    """The error as trained, and with the temperature."""
    before = finished.scores.calibration_error
    calibration = finished.evaluation.calibration
    calibrated = finished.evaluation.calibrated
    if calibration is None or calibrated is None:
        return f"{before:.3f} (no temperature was fitted)"
    return (
        f"{before:.3f}, and {calibrated.calibration_error:.3f} with the temperature "
        f"{calibration.temperature:.2f}"
    )
