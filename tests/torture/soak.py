"""Campaign: loaders that run for long grow by nothing, as ``bench.soak`` measures it.

A case is one of its soaks; ``test_soak`` runs short ones. What was measured is kept in
build/soak, for the plot: ``python -m bench.soak_run --gather build/soak --out ...``.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from bench.soak import SOAKS, excess, soak, soak_shards
from bench.soak_results import Soaked, new_results, write_results
from loaders import missing
from torture.campaign import Case, Counts, Fault, Skip
from torture.child import in_child

KEPT = Path(__file__).parents[2] / "build" / "soak"

_SECONDS = 600  # for a case, however busy the machine is


class Soaking:
    """Each case has a process of its own, which looks at itself between rounds."""

    name, share, least, in_tests = "soak", 12.0, len(SOAKS), 0

    def __init__(self, rounds: int | None = None) -> None:
        self._rounds = rounds

    def prepare(self, folder: Path) -> None:
        self._folder = folder

    def run(self, case: Case) -> Counts:
        what = SOAKS[case.number % len(SOAKS)]
        if reason := missing(what.loader):
            raise Skip(reason)
        if self._rounds is not None:
            what = replace(what, rounds=self._rounds)
        kept = case.folder / "images"
        shards = soak_shards(self._folder, what.images)
        levels = in_child(soak, what, shards, kept, seconds=_SECONDS)
        if self._rounds is None:
            KEPT.mkdir(parents=True, exist_ok=True)
            file = KEPT / f"{case.number % len(SOAKS):02}.json"
            write_results(file, new_results([Soaked(what, levels)]))
        if grown := excess(levels):
            raise Fault(f"{what.name}: grows, {'; '.join(grown)}")
        return {what.kind: what.rounds}

    def close(self) -> None:
        """Nothing is held."""
