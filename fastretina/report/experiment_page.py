"""The page of an experiment: who was compared, who won, and whether that is sure."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any
from urllib.parse import quote

from PIL import Image

from fastretina.formatting import format_interval
from fastretina.report.experiment_file import SCORES, Experiment
from fastretina.report.picture import Picture
from fastretina.report.template import html

_STATISTICS = {name: title for name, title, _ in SCORES}


def experiment_page(
    experiment: Experiment,
    pictures: Sequence[Picture],
    missing: Sequence[str],
    out: Path,
) -> str:
    """The page as HTML.

    Args:
        experiment: what it shows.
        pictures: its figures.
        missing: sentences about figures that could not be had.
        out: where the page will lie; links are relative to it.
    """
    cells = experiment.cells
    done = [cell for cell in cells if cell["state"] == "done"]
    values: dict[str, Any] = {
        "title": f"{experiment.title}: report",
        "experiment": experiment,
        "sections": _sections(experiment, pictures, missing),
        "state": _state(cells),
        "best": _best(done),
        "clear": [
            _stated(each)
            for each in experiment.comparisons
            if each["clear"] and each["statistic"] == "qwk"  # the rest are below
        ],
        "score_columns": SCORES,
        "cells": [_row(experiment, cell, out) for cell in cells],
        "comparisons": _by_pair(experiment),
        "pictures": pictures,
        "missing": missing,
        "reference": _reference(experiment.reference),
    }
    return html("experiment.html.j2", values)


def _sections(
    experiment: Experiment, pictures: Sequence[Picture], missing: Sequence[str]
) -> list[tuple[str, str]]:
    found = [("summary", "Summary"), ("cells", "Cells")]
    if experiment.comparisons:
        found.append(("comparisons", "Comparisons"))
    if pictures or missing:
        found.append(("figures", "Figures"))
    if experiment.reference:
        found.append(("reference", "Reference"))
    return found


def _state(cells: Sequence[Mapping[str, Any]]) -> str:
    counts = {
        state: sum(cell["state"] == state for cell in cells)
        for state in ("done", "failed", "waiting")
    }
    others = [f"{count} {state}" for state, count in counts.items() if count]
    return f"{len(cells)} cells: {', '.join(others) or 'none'}"


def _best(done: Sequence[Mapping[str, Any]]) -> str | None:
    """The cell of the highest mean QWK, in a sentence that claims no more."""
    known = [
        (cell, found["mean"])
        for cell in done
        if (found := cell["scores"].get("qwk")) and found["mean"] is not None
    ]
    if not known:
        return None
    cell, mean = max(known, key=lambda pair: pair[1])
    shown = format_interval(mean, cell["scores"]["qwk"]["interval"], ".3f")
    return f"Highest QWK: {cell['title']}, {shown}"


def _stated(comparison: Mapping[str, Any]) -> str:
    return comparison["verdict"] or (
        f"{comparison['statistic']}: {comparison['first']} against "
        f"{comparison['second']}"
    )


def _row(experiment: Experiment, cell: Mapping[str, Any], out: Path) -> dict[str, Any]:
    scores = {}
    for name, _, form in SCORES:
        found = cell["scores"].get(name) or {}
        mean, spread = found.get("mean"), found.get("spread")
        text = format_interval(mean, None, form)
        scores[name] = {
            "value": "" if mean is None else mean,
            "text": text if spread is None else f"{text} ± {_spread(spread, form)}",
            "interval": format_interval(mean, found.get("interval"), form).partition(
                " "
            )[2],
        }
    return {**cell, "scores": scores, "links": _links(experiment, cell, out)}


def _spread(spread: float, form: str) -> str:
    return format(spread, form).rstrip("%")


def _links(
    experiment: Experiment, cell: Mapping[str, Any], out: Path
) -> list[tuple[str, str]]:
    """Name and relative URL of the runs' own pages, as far as there are any."""
    found = []
    for number, run in enumerate(cell["runs"], start=1):
        page = experiment.folder / run / "report.html"
        if page.is_file():
            path = os.path.relpath(page.resolve(), out.parent.resolve())
            found.append((f"run {number}", quote(Path(path).as_posix())))
    return found


def _by_pair(experiment: Experiment) -> list[dict[str, Any]]:
    """The comparisons of two cells together, with the cells' titles."""
    titles = {cell["cell"]: cell["title"] for cell in experiment.cells}

    def pair(comparison: Mapping[str, Any]) -> tuple[str, str]:
        return comparison["first"], comparison["second"]

    return [
        {
            "first": titles.get(first, first),
            "second": titles.get(second, second),
            "why": next((each["why"] for each in found if each["why"]), ""),
            "rows": [_difference(each) for each in found],
        }
        for (first, second), group in groupby(experiment.comparisons, pair)
        for found in [list(group)]
    ]


def _difference(comparison: Mapping[str, Any]) -> dict[str, Any]:
    interval, chance = comparison["interval"], comparison["mcnemar_p"]
    statistic = comparison["statistic"]
    return {
        "statistic": _STATISTICS.get(statistic, statistic),
        "value": format_interval(comparison["value"], interval, "+.3f"),
        "by_seed": ", ".join(f"{value:+.3f}" for value in comparison["by_seed"]) or "-",
        "chance": "-"
        if chance is None
        else "< 0.001"
        if chance < 0.001
        else f"{chance:.3f}",
        "verdict": comparison["verdict"],
        "clear": comparison["clear"],
    }


def _reference(reference: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if reference is None:
        return None
    rows = [
        {
            "title": row["title"],
            **{
                name: format_interval(row[name], None, form) for name, _, form in SCORES
            },
        }
        for row in reference["rows"]
    ]
    return {"about": reference["about"], "rows": rows}


def read_pictures(experiment: Experiment) -> tuple[list[Picture], list[str]]:
    """The figures in the experiment's folder, and what is to be said of others."""
    pictures, missing = [], []
    for figure in experiment.figures:
        path = experiment.folder / figure["file"]
        try:
            if not path.resolve().is_relative_to(experiment.folder.resolve()):
                raise OSError("it lies outside of the experiment's folder")
            png = path.read_bytes()
            with Image.open(io.BytesIO(png)) as image:
                if image.format != "PNG":
                    raise OSError("it is no PNG")
                width, height = image.size
        except (OSError, ValueError) as error:
            missing.append(
                f"The figure {figure['file']} is left out: {_reason(error)}."
            )
            continue
        pictures.append(
            Picture(
                name=Path(figure["file"]).stem,
                png=png,
                width=width,
                height=height,
                alt=figure["alt"],
                caption=figure["caption"],
            )
        )
    return pictures, missing


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return "it is no image" if "cannot identify" in str(error) else str(error)
