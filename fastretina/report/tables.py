"""The tables of a run's page, each cell as people read it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from fastretina.formatting import format_interval
from fastretina.metrics.bootstrap import of_scores
from fastretina.metrics.scores import FIXED_SPECIFICITY
from fastretina.report.finished_run import FinishedRun
from fastretina.report.grade_meanings import CUTS, named
from loaders.grades import GRADES

_POINT = (
    ("accuracy", ".1%"),
    ("balanced_accuracy", ".1%"),
    ("qwk", ".3f"),
    ("macro_f1", ".3f"),
)


def per_grade(record: FinishedRun) -> list[dict[str, str]]:
    """A row per grade: how many there are, recall, precision, AUC with intervals."""
    scores, intervals = record.scores, record.intervals
    rows = []
    for grade in range(len(GRADES)):
        row = {"name": named(grade), "support": f"{sum(scores['confusion'][grade]):,}"}
        for key, form in (("recall", ".1%"), ("precision", ".1%"), ("auc", ".3f")):
            ends = (intervals.get(key) or [None] * len(GRADES))[grade]
            row[key] = format_interval(scores[key][grade], ends, form)
        rows.append(row)
    return rows


def narrow(record: FinishedRun) -> str:
    """A sentence where a grade's interval has no width, as it promises too much."""
    found = [
        ends
        for key in ("recall", "precision", "auc")
        for ends in record.intervals.get(key) or []
        if ends is not None and ends[0] == ends[1]
    ]
    if not found:
        return ""
    return (
        " An interval without width says that the photographs are too few for the "
        "bootstrap to vary, not that the score is sure."
    )


def cuts(record: FinishedRun) -> list[dict[str, str]]:
    """A row per clinical cut: sensitivity, specificity, AUC with intervals."""
    rows = []
    for cut, name in CUTS.items():
        found, ends = record.scores[cut], record.intervals.get(cut) or {}
        forms = {
            "sensitivity": ".1%",
            "specificity": ".1%",
            "auc": ".3f",
            "sensitivity_at_specificity": ".1%",
        }
        rows.append(
            {
                "name": name[:1].upper() + name[1:],
                **{
                    k: format_interval(found[k], ends.get(k), form)
                    for k, form in forms.items()
                },
            }
        )
    return rows


FIXED = f"{FIXED_SPECIFICITY:.0%}"


def operating_points(record: FinishedRun) -> list[dict[str, str]]:
    """A row per way of choosing the grade from the probabilities; one at least."""
    rows = [_point("The likeliest grade", record.scores)]
    if calibrated := record.metrics.get("calibrated"):
        rows.append(
            _point("Thresholds on the expected grade", calibrated["thresholds"])
        )
    if corrected := record.metrics.get("prior_corrected"):
        rows.append(_point("The likeliest, class weights undone", corrected))
    return rows


def _point(name: str, scores: Mapping[str, Any]) -> dict[str, str]:
    found = {"intervals": scores.get("intervals") or {}, **scores}
    return {"name": name, **{k: of_scores(found, k, form) for k, form in _POINT}}


def thresholds(record: FinishedRun) -> str | None:
    """Where the thresholds lie, in a sentence; None where none were fitted."""
    saved = record.metrics.get("calibration")
    if not saved:
        return None
    ends = sorted(saved["thresholds"])
    parts = [f"{grade} below {end:.2f}" for grade, end in enumerate(ends)]
    return (
        "The expected grade is the mean of 0 to 4 by their probabilities. Fitted on "
        f"{saved['samples']:,} photographs held out of training, for the best QWK "
        f"there: grade {', '.join(parts)}, and {len(ends)} from there on. Test "
        "photographs had no say in it."
    )


def certainty(record: FinishedRun) -> str:
    """How far its probabilities can be believed, in a sentence or two."""
    error = of_scores(record.scores, "calibration_error", ".3f")
    sentence = (
        "As trained, its probabilities are off by "
        f"{error} on average (expected calibration error)"
    )
    saved = record.metrics.get("calibration")
    calibrated = record.metrics.get("calibrated")
    if not saved or not calibrated:
        return f"{sentence}."
    temperature = saved["temperature"]
    if abs(temperature - 1) < _ABOUT_ONE:
        side = "about as sure as it is right"
    else:
        side = "too sure" if temperature > 1 else "not sure enough"
    return (
        f"{sentence}. A temperature of {temperature:.2f} fitted them best on the "
        f"photographs held out, which says that it is {side}; with it they are off by "
        f"{calibrated['calibration_error']:.3f} on test. The likeliest grade stays the "
        "same."
    )


def together(record: FinishedRun) -> str | None:
    """What both eyes of a patient together are worth; None where it wasn't tried."""
    paired = record.metrics.get("pairs")
    if not paired:
        return None
    by = {each["statistic"]: each for each in paired["differences"]}
    differences = ", ".join(
        f"{name} {format_interval(by[key]['value'], by[key]['interval'], '+.3f')}"
        for key, name in (("accuracy", "accuracy"), ("qwk", "QWK"))
    )
    clear = by["qwk"]["clear"] or by["accuracy"]["clear"]
    return (
        f"Both eyes together, for the {paired['pairs']:,} test patients who have both, "
        f"by a second stage fitted on {paired['fitted_on']:,} pairs held out: "
        f"{differences} against each eye alone"
        f"{'' if clear else ', which is inside the noise'}."
    )


_ABOUT_ONE = 0.1  # a temperature that nobody would notice


def environment(record: FinishedRun) -> list[tuple[str, list[tuple[str, str]]]]:
    """Config and environment: groups of a name and its value."""
    config = record.config
    flat = {
        name: value for name, value in config.items() if not isinstance(value, dict)
    }
    kept = ("checkpoint", "checkpoint_epoch", "weights_sha256", "seconds", "parameters")
    outcome = {name: record.metrics[name] for name in kept if name in record.metrics}
    groups: list[tuple[str, Mapping[str, Any]]] = [
        ("Checkpoint", outcome),
        ("Where and how it ran", flat),
        ("Recipe", asdict(record.recipe)),
        ("Data", config["data"]),
        ("Decoding", config.get("decoding") or {}),
        ("Versions", config.get("versions") or {}),
    ]
    shown = [(name, list(_flattened(values))) for name, values in groups]
    return [(name, rows) for name, rows in shown if rows]


def _flattened(
    values: Mapping[str, Any], before: str = ""
) -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flattened(value, f"{before}{name}.")
        elif isinstance(value, list):
            yield f"{before}{name}", ", ".join(map(str, value)) or "none"
        else:
            yield f"{before}{name}", "none" if value is None else str(value)
