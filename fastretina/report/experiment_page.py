"""The page of an experiment: who was compared, who won, and whether that is sure."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from fastretina.formatting import format_count, format_interval, format_p
from fastretina.report.experiment_file import (
    CellResult,
    Comparison,
    ExperimentResult,
    Reference,
    Score,
)
from fastretina.report.picture import Picture
from fastretina.report.template import html

SCORES = (  # name, title and format
    ("accuracy", "Accuracy", ".1%"),
    ("balanced_accuracy", "Balanced accuracy", ".1%"),
    ("qwk", "QWK", ".3f"),
    ("macro_f1", "Macro-F1", ".3f"),
)
_TITLES = {name: title for name, title, _ in SCORES}
_UNKNOWN = Score(mean=None, spread=None, by_seed=[], interval=None)


class ScoreText(NamedTuple):
    """A score of a cell, formatted.

    Attributes:
        value: The mean to sort by; empty where it is unknown, or of one grade for all.
        text: Mean and spread over seeds.
        interval: 95% interval; empty where it is unknown.
    """

    value: float | str
    text: str
    interval: str


class CellRow(NamedTuple):
    """A row of the table of cells.

    Attributes:
        cell: The cell.
        seeds: How many seeds it is of, where it is not all of them; or empty.
        scores: Its scores by name.
        links: Name and relative URL of its runs' own pages.
    """

    cell: CellResult
    seeds: str
    scores: Mapping[str, ScoreText]
    links: Sequence[tuple[str, str]]


class DifferenceRow(NamedTuple):
    """A row of the table of a pair of cells, formatted."""

    statistic: str
    value: str
    by_seed: str
    p: str
    verdict: str
    clear: bool


class Pair(NamedTuple):
    """Two cells, by their titles, and their differences in each score."""

    first: str
    second: str
    why: str
    rows: Sequence[DifferenceRow]


class ReferenceTextRow(NamedTuple):
    """Scores of somebody else, formatted, by name."""

    title: str
    scores: Mapping[str, str]


def experiment_page(
    experiment: ExperimentResult,
    folder: Path,
    pictures: Sequence[Picture],
    missing: Sequence[str],
    out: Path,
) -> str:
    """The page as HTML.

    Args:
        experiment: What the page shows.
        folder: Where the experiment lies, with its runs.
        pictures: Figures of the experiment.
        missing: Sentences about figures that can't be shown.
        out: Where the page will lie; its links are relative to that.
    """
    qwk = [each for each in experiment.comparisons if each.statistic == "qwk"]
    return html(
        "experiment.html.j2",
        {
            "title": f"{experiment.title}: report",
            "experiment": experiment,
            "sections": _sections(experiment, bool(pictures or missing)),
            "state": _count_states(experiment),
            "best": _describe_best(experiment),
            "clear": [each.verdict for each in qwk if each.shows_merit],
            "unclear": _describe_unclear(qwk),
            "seed_caveat": experiment.seed_caveat,
            "score_columns": SCORES,
            "rows": [
                CellRow(
                    cell,
                    _count_seeds(cell, experiment.seeds),
                    _score_texts(cell),
                    _links(folder, cell, out),
                )
                for cell in experiment.cells
            ],
            "comparisons": _pairs(experiment),
            "pictures": pictures,
            "missing": missing,
            "reference": experiment.reference,
            "reference_rows": _reference_rows(experiment.reference),
        },
    )


def _sections(experiment: ExperimentResult, figures: bool) -> list[tuple[str, str]]:
    """Id and name of the sections that the page has."""
    sections = [("summary", "Summary"), ("cells", "Cells")]
    if experiment.comparisons:
        sections.append(("comparisons", "Comparisons"))
    if figures:
        sections.append(("figures", "Figures"))
    if experiment.reference:
        sections.append(("reference", "Reference"))
    return sections


def _count_states(experiment: ExperimentResult) -> str:
    """How many cells are done, begun, failed and waiting, and how many seeds."""
    cells, seeds = experiment.cells, experiment.seeds
    counts = {
        state: sum(cell.state == state for cell in cells)
        for state in ("done", "begun", "failed", "waiting")
    }
    parts = [f"{count} {state}" for state, count in counts.items() if count]
    text = f"{len(cells)} cells: {', '.join(parts) or 'none'}"
    finished, asked = sum(len(cell.runs) for cell in cells), seeds * len(cells)
    each = f"{format_count(seeds, 'seed')} each"
    if finished < asked:
        return f"{text}; {each}, of which {finished} of {asked} are finished"
    return f"{text}; {each}"


def _count_seeds(cell: CellResult, asked: int) -> str:
    finished = len(cell.runs)
    return f"{finished} of {asked} seeds" if 0 < finished < asked else ""


def _describe_best(experiment: ExperimentResult) -> str | None:
    """The cell of the highest mean QWK, in a sentence that claims no more.

    A cell that has collapsed to one grade is never it.
    """
    known = [
        (mean, cell)
        for cell in experiment.cells
        if cell.state in ("begun", "done")
        and (mean := _score_of(cell, "qwk").mean) is not None
    ]
    if not known:
        return None
    fallen = [cell.title for _, cell in known if cell.collapse]
    left_out = f"left out, as collapsed to one grade: {', '.join(fallen)}"
    if len(fallen) == len(known):
        return f"None; {left_out}"
    mean, cell = max(
        (pair for pair in known if not pair[1].collapse), key=lambda pair: pair[0]
    )
    qwk = format_interval(mean, _score_of(cell, "qwk").interval, ".3f")
    seeds = _count_seeds(cell, experiment.seeds)
    best = f"Highest QWK: {cell.title}, {qwk}{f', by {seeds}' if seeds else ''}"
    return f"{best}; {left_out}" if fallen else best


def _describe_unclear(comparisons: Sequence[Comparison]) -> str:
    """Why none of these is clear, by what their verdicts say."""
    kinds = Counter(
        "undefined, as there is one grade alone"
        if each.value is None
        else "of one grade for all, which is no merit"
        if each.by_one_grade
        else "of too few patients to tell"
        if each.interval is None
        else "inside the noise"
        for each in comparisons
    )
    if not kinds:
        return "No difference was measured."
    if len(kinds) == 1:
        return f"No difference is: all are {next(iter(kinds))}."
    parts = [
        f"{count} {'is' if count == 1 else 'are'} {w}" for w, count in kinds.items()
    ]
    return f"No difference is: {'; '.join(parts)}."


def _score_of(cell: CellResult, name: str) -> Score:
    return (cell.scores or {}).get(name, _UNKNOWN)


def _score_texts(cell: CellResult) -> dict[str, ScoreText]:
    texts = {}
    for name, _, form in SCORES:
        text = _score_text(_score_of(cell, name), form)
        texts[name] = text._replace(value="") if cell.collapse else text
    return texts


def _score_text(score: Score, form: str) -> ScoreText:
    text = format_interval(score.mean, None, form)
    if score.spread is not None:
        text = f"{text} ± {format(score.spread, form).rstrip('%')}"
    shown = format_interval(score.mean, score.interval, form, exact=score.exact)
    interval = shown.partition(" ")[2]
    return ScoreText("" if score.mean is None else score.mean, text, interval)


def _links(folder: Path, cell: CellResult, out: Path) -> list[tuple[str, str]]:
    """Name and relative URL of the runs' own pages, as far as there are any."""
    links = []
    for place, run in enumerate(cell.runs):
        page = folder / run / "report.html"
        if page.is_file():
            path = os.path.relpath(page.resolve(), out.parent.resolve())
            seed = cell.seeds[place : place + 1] if cell.seeds else ()
            name = f"seed {seed[0]}" if seed else f"run {place + 1}"
            links.append((name, quote(Path(path).as_posix())))
    return links


def _pairs(experiment: ExperimentResult) -> list[Pair]:
    """The comparisons of two cells together, with the cells' titles."""
    titles = {cell.cell: cell.title for cell in experiment.cells}
    by_pair = groupby(experiment.comparisons, lambda each: (each.first, each.second))
    pairs = []
    for (first, second), group in by_pair:
        comparisons = list(group)
        pairs.append(
            Pair(
                first=titles.get(first, first),
                second=titles.get(second, second),
                why=next((each.why for each in comparisons if each.why), ""),
                rows=[_difference_row(each) for each in comparisons],
            )
        )
    return pairs


def _difference_row(comparison: Comparison) -> DifferenceRow:
    by_seed = [f"{value:+.3f}" for value in comparison.by_seed if value is not None]
    return DifferenceRow(
        statistic=_TITLES.get(comparison.statistic, comparison.statistic),
        value=format_interval(comparison.value, comparison.interval, "+.3f"),
        by_seed=", ".join(by_seed) or "-",
        p=format_p(comparison.mcnemar_p),
        verdict=comparison.verdict,
        clear=comparison.shows_merit,
    )


def _reference_rows(reference: Reference | None) -> list[ReferenceTextRow]:
    """Of others the accuracy is known, and no other score."""
    unknown = dict.fromkeys(_TITLES, "-")
    return [
        ReferenceTextRow(row.title, unknown | {"accuracy": f"{row.accuracy:.1%}"})
        for row in (reference.rows if reference else ())
    ]
