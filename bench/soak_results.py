"""What soaks have measured, as a file of JSON has it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

import msgspec

from bench.soak import LIMITS, Level, Soak, excess, growth
from fastretina.measure.machine import host_facts, package_facts
from loaders.files import write_atomically


@dataclass(frozen=True, slots=True)
class Soaked:
    """A soak and what was seen."""

    what: Soak
    levels: list[Level]

    @property
    def growth(self) -> dict[str, float]:
        """What it has grown by, see ``soak.growth``."""
        return growth(self.levels)

    @property
    def excess(self) -> list[str]:
        """What it has grown by beyond noise."""
        return excess(self.levels)


@dataclass(frozen=True, slots=True)
class Totals:
    """Of all soaks together.

    Attributes:
        epochs: epochs taken to their ends by one loader.
        abandoned: epochs left midway.
        opened: loaders opened and closed.
        images: images of the epochs that were taken to their ends.
        most_memory_mb: the most that one has grown by, MB.
        most_children_mb: the same of its workers.
    """

    epochs: int
    abandoned: int
    opened: int
    images: int
    most_memory_mb: float
    most_children_mb: float


@dataclass(frozen=True, slots=True)
class SoakResults:
    """All soaks of a run.

    Attributes:
        about: the machine and the packages.
        date: day of the run.
        soaks: as they were run.
    """

    about: str
    date: str
    soaks: list[Soaked]

    def totals(self) -> Totals:
        """What was done, and how much was found."""
        rounds = dict.fromkeys(("epochs", "abandoned", "opened"), 0)
        images = 0
        for soaked in self.soaks:
            rounds[soaked.what.kind] += soaked.what.rounds
            if soaked.what.kind == "epochs":
                images += soaked.what.rounds * soaked.what.images
        most = {
            name: round(max((each.growth[name] for each in self.soaks), default=0), 2)
            for name in LIMITS
        }
        return Totals(
            rounds["epochs"],
            rounds["abandoned"],
            rounds["opened"],
            images,
            most["memory_mb"],
            most["children_mb"],
        )


def new_results(soaks: Sequence[Soaked] = ()) -> SoakResults:
    """Those of soaks of today, on this machine."""
    host, packages = host_facts(), package_facts()
    about = (
        f"{host.processor}, {host.cores_granted} cores, torch {packages.torch}, "
        f"DALI {packages.dali}"
    )
    return SoakResults(about, str(date.today()), [*soaks])


def gather_results(folder: Path) -> SoakResults:
    """Put the files of a folder together, each of which holds the results of a run.

    Raises:
        ValueError: there are none, or they are of different days or machines.
    """
    parts = [read_results(path) for path in sorted(folder.glob("*.json"))]
    if len({(part.about, part.date) for part in parts}) != 1:
        raise ValueError(f"{folder} must hold soaks of one day and machine")
    soaks = [soaked for part in parts for soaked in part.soaks]
    return SoakResults(parts[0].about, parts[0].date, soaks)


def write_results(path: Path, results: SoakResults) -> None:
    """Write them as JSON, a line a soak."""
    head = f'{{"about": {_json(results.about)}, "date": {_json(results.date)},'
    soaks = ",\n".join(_json(_columns(each)) for each in results.soaks)
    write_atomically(path, f'{head} "soaks": [\n{soaks}\n]}}\n')


def _columns(soaked: Soaked) -> dict[str, object]:
    """A soak with its levels as columns, which are shorter."""
    names = Level.__dataclass_fields__
    columns = {
        name: [round(float(getattr(level, name)), 2) for level in soaked.levels]
        for name in names
    }
    return {"what": asdict(soaked.what), "levels": columns}


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


class _SavedSoak(msgspec.Struct):
    what: Soak
    levels: dict[str, list[float]]


class _Saved(msgspec.Struct):
    about: str
    date: str
    soaks: list[_SavedSoak]


def read_results(path: Path) -> SoakResults:
    """Read what ``write_results`` has written."""
    saved = msgspec.json.decode(path.read_bytes(), type=_Saved)
    soaks = [Soaked(each.what, _levels(each.levels)) for each in saved.soaks]
    return SoakResults(saved.about, saved.date, soaks)


def _levels(columns: dict[str, list[float]]) -> list[Level]:
    rows = zip(*columns.values(), strict=True)
    records = [dict(zip(columns, row, strict=True)) for row in rows]
    return msgspec.convert(records, list[Level], strict=False)
