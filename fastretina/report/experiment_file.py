"""``experiment.json``: the records that an experiment writes, and a report reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fastretina.ranges import Count, Fraction, Seconds, Statistic
from fastretina.run import as_record
from loaders.errors import RunError
from loaders.untrusted import read_json

FILE = "experiment.json"
State = Literal["waiting", "begun", "done", "failed"]


@dataclass(frozen=True, slots=True)
class Score:
    """One statistic of a cell.

    Attributes:
        mean: over the seeds; None where it is undefined, as the QWK of one grade alone.
        spread: standard deviation over the seeds; None for one seed.
        by_seed: the value of each seed.
        interval: low and high end of 95 % over test patients; None where there are too
            few.
        exact: whether it is exact, as the cases are few, and not a bootstrap's.
    """

    mean: Statistic | None
    spread: Statistic | None
    by_seed: list[Statistic | None]
    interval: tuple[Statistic, Statistic] | None
    exact: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class CellResult:
    """One line of the table.

    Attributes:
        cell: the cell's name.
        title: the cell's title.
        group: the variant of the data set that it was trained on.
        why: sentences on the cell and its result; empty where it has none, or failed.
        state: ``waiting`` before its first run is finished, ``done`` after the last.
        error: why its last failed run did fail.
        parameters: weights of the network that are trained.
        seconds: wall time of its runs together.
        weights: what the network started from.
        runs: folders of its finished runs, relative to the experiment's.
        seeds: numbers of these runs' seeds; None where an older version wrote it.
        best_on_test: the best test accuracy of all epochs, which the report printed, as
            a mean over seeds; None where it was not measured, and of a derived cell.
        scores: by statistic; None before a run is finished.
        collapse: a sentence where one grade is always predicted.
    """

    cell: str
    title: str
    group: str
    why: str
    state: State
    error: str | None
    parameters: Count | None
    seconds: Seconds | None
    weights: str | None
    runs: list[str]
    best_on_test: Fraction | None
    scores: dict[str, Score] | None
    collapse: str | None
    seeds: list[Count] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """The first cell's statistic less the second's, on the same test images.

    Attributes:
        first: name of a cell.
        second: name of the cell that it is compared with.
        why: what the pair shows; may be empty.
        statistic: one of ``statistics.GRADE_STATISTICS``.
        value: the difference of the means over seeds; None where one is undefined.
        interval: low and high end of 95 % over test patients.
        by_seed: the difference of each seed that both have finished.
        seeds: the numbers of these seeds; None where an older version wrote it.
        mcnemar_p: p of McNemar's test of the accuracy; None for other statistics.
        verdict: the difference in words.
        clear: whether the interval excludes 0 and all seeds agree.
        by_one_grade: whether it is clear, and the better cell has collapsed to one
            grade in some seed, which is no merit.
    """

    first: str
    second: str
    why: str
    statistic: str
    value: Statistic | None
    interval: tuple[Statistic, Statistic] | None
    by_seed: list[Statistic | None]
    mcnemar_p: Fraction | None
    verdict: str
    clear: bool
    seeds: list[Count] | None = None
    by_one_grade: bool = False

    @property
    def shows_merit(self) -> bool:
        """Whether it is clear which cell is better, and that one tells grades apart."""
        return self.clear and not self.by_one_grade


@dataclass(frozen=True, slots=True)
class ReferenceRow:
    """What others have measured: a title and an accuracy."""

    title: str
    accuracy: Fraction


@dataclass(frozen=True, slots=True)
class Reference:
    """The rows to set beside an experiment's own, and who measured them."""

    about: str
    rows: Sequence[ReferenceRow]


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """A drawn figure: its file's name, its caption, and its text for the blind."""

    file: str
    caption: str
    alt: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ExperimentResult:
    """All of an experiment that is known by now, as its file has it.

    Attributes:
        experiment: the plan's name.
        title: the plan's title.
        about: what it is good for.
        budget: ``full``, ``small`` or ``tiny``.
        seeds: runs asked for of each cell.
        shards: the data set as it was named.
        date: when this was written, to the minute.
        seconds: wall time of all runs together.
        cells: in the plan's order.
        comparisons: one for each pair of cells and statistic.
        reference: what others have measured, if there is anything.
        figures: what is drawn in the folder.
        notes: sentences about seeds and test images that are left out.
    """

    experiment: str
    title: str
    about: str
    budget: str
    seeds: Count
    shards: str
    date: str
    seconds: Seconds
    cells: Sequence[CellResult]
    comparisons: Sequence[Comparison]
    reference: Reference | None
    figures: Sequence[Figure]
    notes: Sequence[str] = ()

    @property
    def seed_caveat(self) -> str | None:
        """A sentence on comparisons of one seed, if there are any."""
        pairs = {(each.first, each.second): each.by_seed for each in self.comparisons}
        alone = sum(len(by_seed) == 1 for by_seed in pairs.values())
        if not alone:
            return None
        who = "All pairs" if alone == len(pairs) else f"{alone} of {len(pairs)} pairs"
        return (
            f"{who} are compared by one seed: the intervals are over patients alone, "
            "and another seed might say otherwise."
        )


def read_experiment(folder: Path) -> ExperimentResult:
    """Read ``experiment.json`` from an experiment's folder.

    Raises:
        RunError: it is damaged.
    """
    path = folder / FILE
    try:
        saved = read_json(path)
    except (OSError, ValueError) as error:
        raise RunError(f"{path} is damaged ({error})") from error
    return as_record(saved, ExperimentResult, path)
