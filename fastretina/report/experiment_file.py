"""``experiment.json``, checked: cells, comparisons, a reference, figures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from fastretina.report.json_values import (
    Interval,
    items,
    mapping,
    number,
    optional_interval,
    optional_number,
    text,
    whole,
)
from loaders.errors import RunError

FILE = "experiment.json"
SCORES = (  # name, title and format
    ("accuracy", "Accuracy", ".1%"),
    ("balanced_accuracy", "Balanced accuracy", ".1%"),
    ("qwk", "QWK", ".3f"),
    ("macro_f1", "Macro-F1", ".3f"),
)


class SeedScore(NamedTuple):
    """One score of a cell over its seeds.

    Attributes:
        mean: Mean over seeds; None where it is unknown.
        spread: Standard deviation over seeds; None where it is unknown.
        interval: 95% interval of the mean; None where it is unknown.
    """

    mean: float | None = None
    spread: float | None = None
    interval: Interval | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One of the configurations that are compared.

    Attributes:
        cell: Name of the cell.
        title: Name for people.
        group: Group that it belongs to; may be empty.
        why: What it is there for; may be empty.
        state: ``done``, ``failed`` or ``waiting``.
        error: Why it failed; else empty.
        parameters: Number of the network's parameters; None where it is unknown.
        seconds: Time that its runs took, s; None where it is unknown.
        runs: Folders of its runs, relative to the experiment's.
        scores: Scores by name; empty of a cell that is not done.
        collapse: A sentence where a run gives one grade to all; else empty.
    """

    cell: str
    title: str
    group: str
    why: str
    state: str
    error: str
    parameters: float | None
    seconds: float | None
    runs: Sequence[str]
    scores: Mapping[str, SeedScore]
    collapse: str

    def score(self, name: str) -> SeedScore:
        """The score of that name, empty where there is none."""
        return self.scores.get(name, SeedScore())


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """One score of one cell against that of another.

    Attributes:
        first: Name of the one cell.
        second: Name of the other cell.
        statistic: Name of the score.
        value: Score of the first less that of the second; None where it is unknown.
        interval: 95% interval of the difference; None where it is unknown.
        by_seed: The difference of each seed.
        mcnemar_p: p of McNemar's test; None where it was not made.
        verdict: What follows, in a sentence; may be empty.
        clear: Whether the interval leaves out 0.
        why: What the comparison asks; may be empty.
    """

    first: str
    second: str
    statistic: str
    value: float | None
    interval: Interval | None
    by_seed: Sequence[float]
    mcnemar_p: float | None
    verdict: str
    clear: bool
    why: str


class ReferenceRow(NamedTuple):
    """Scores of somebody else, by name; None where they are unknown."""

    title: str
    scores: Mapping[str, float | None]


class Reference(NamedTuple):
    """Numbers of others to set beside, and a sentence about them."""

    about: str
    rows: Sequence[ReferenceRow]


class FigureFile(NamedTuple):
    """A figure of the experiment.

    Attributes:
        file: Path of a PNG, relative to the experiment's folder.
        alt: What the figure shows, for who can't see it.
        caption: How to read the figure; may be empty.
    """

    file: str
    alt: str
    caption: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Experiment:
    """The content of ``experiment.json``.

    Attributes:
        folder: Folder that holds the file.
        name: Name of the experiment.
        title: Name for people.
        about: What is asked, in sentences.
        budget: What each cell was given.
        seeds: Number of runs of each cell.
        cells: The configurations that are compared.
        comparisons: Comparisons of pairs of cells.
        reference: Numbers of others; None where there are none.
        figures: The experiment's own figures.
    """

    folder: Path
    name: str
    title: str
    about: str
    budget: str
    seeds: int
    cells: Sequence[Cell]
    comparisons: Sequence[Comparison]
    reference: Reference | None
    figures: Sequence[FigureFile]


def read_experiment(folder: Path) -> Experiment:
    """Read ``experiment.json``.

    Raises:
        RunError: it is damaged.
    """
    path = folder / FILE
    try:
        raw = mapping(json.loads(path.read_text(encoding="utf-8")))
        return Experiment(
            folder=folder,
            name=text(raw, "experiment"),
            title=text(raw, "title"),
            about=text(raw, "about"),
            budget=text(raw, "budget"),
            seeds=whole(raw["seeds"]),
            cells=[_cell(mapping(each)) for each in items(raw["cells"])],
            comparisons=[
                _comparison(mapping(each)) for each in _listed(raw, "comparisons")
            ],
            reference=_reference(raw.get("reference")),
            figures=[_figure(mapping(each)) for each in _listed(raw, "figures")],
        )
    except (OSError, ValueError) as error:
        raise RunError(f"{path} is damaged ({error})") from error
    except KeyError as error:
        raise RunError(f"{path} is damaged: no {error.args[0]!r}") from error


def _listed(raw: Mapping[str, object], name: str) -> list[object]:
    """The items under a name; none where nothing is there."""
    return items(raw.get(name) or [])


def _words(raw: Mapping[str, object], name: str) -> str:
    """The text under a name; empty where nothing is there."""
    return str(raw.get(name) or "")


def _cell(raw: Mapping[str, object]) -> Cell:
    scores = mapping(raw.get("scores") or {})
    cell = text(raw, "cell")
    return Cell(
        cell=cell,
        title=_words(raw, "title") or cell,
        group=_words(raw, "group"),
        why=_words(raw, "why"),
        state=_words(raw, "state") or "waiting",
        error=_words(raw, "error"),
        parameters=optional_number(raw.get("parameters")),
        seconds=optional_number(raw.get("seconds")),
        runs=[str(run) for run in _listed(raw, "runs")],
        scores={name: _score(mapping(score)) for name, score in scores.items()},
        collapse=_words(raw, "collapse"),
    )


def _score(raw: Mapping[str, object]) -> SeedScore:
    return SeedScore(
        mean=optional_number(raw.get("mean")),
        spread=optional_number(raw.get("spread")),
        interval=optional_interval(raw.get("interval")),
    )


def _comparison(raw: Mapping[str, object]) -> Comparison:
    by_seed = [number(each) for each in _listed(raw, "by_seed") if each is not None]
    return Comparison(
        first=text(raw, "first"),
        second=text(raw, "second"),
        statistic=_words(raw, "statistic"),
        value=optional_number(raw.get("value")),
        interval=optional_interval(raw.get("interval")),
        by_seed=by_seed,
        mcnemar_p=optional_number(raw.get("mcnemar_p")),
        verdict=_words(raw, "verdict"),
        clear=bool(raw.get("clear")),
        why=_words(raw, "why"),
    )


def _reference(value: object) -> Reference | None:
    if not value:
        return None
    raw = mapping(value)
    rows = [mapping(each) for each in _listed(raw, "rows")]
    return Reference(_words(raw, "about"), [_reference_row(row) for row in rows])


def _reference_row(raw: Mapping[str, object]) -> ReferenceRow:
    scores = {name: optional_number(raw.get(name)) for name, _, _ in SCORES}
    return ReferenceRow(str(raw["title"]), scores)


def _figure(raw: Mapping[str, object]) -> FigureFile:
    return FigureFile(text(raw, "file"), text(raw, "alt"), _words(raw, "caption"))
