"""The figures of docs/reliability.md, from what ``make torture`` and the soaks printed.

    make torture | tee /tmp/said; tail -1 /tmp/said > bench/results/torture.json
    python -m bench.soak_run --gather build/soak --out bench/results/soak.json
    cd tests; python -m torture.page        # writes them into the page

Each part stands between two comments, which name it.
"""

from __future__ import annotations

import re
from importlib import import_module
from inspect import getdoc
from pathlib import Path

import msgspec

from bench.soak import LIMITS, WARM
from bench.soak_results import SoakResults, read_results
from torture.campaigns import CAMPAIGNS

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reliability.md"
TORTURE = ROOT / "bench" / "results" / "torture.json"
SOAK = ROOT / "bench" / "results" / "soak.json"


class Printed(msgspec.Struct):
    """The last line of ``make torture``.

    Attributes:
        seed: of all draws.
        minutes: that it took.
        faults: of all campaigns.
        campaigns: by name, what each has counted.
    """

    seed: int
    minutes: float
    faults: int
    campaigns: dict[str, dict[str, int | dict[str, int]]]


def torture_table(printed: Printed) -> str:
    """A row for each campaign, and the run's seed."""
    rows = ["| campaign | what is tried | cases | of these | faults |"]
    rows.append("| --- | --- | --- | --- | --- |")
    for name, counts in printed.campaigns.items():
        about = {n: c for n, c in counts.items() if n not in ("cases", "faults")}
        rows.append(
            f"| `{name}` | {tried(name)} | {counts['cases']:,} | {_counted(about)} | "
            f"{counts['faults']:,} |"
        )
    rows.append("")
    rows.append(
        f"Seed {printed.seed}, {printed.minutes:g} minutes, faults in all: "
        f"{printed.faults:,}."
    )
    return "\n".join(rows)


def tried(name: str) -> str:
    """What a campaign does, by the first line of its module."""
    module, _, _ = CAMPAIGNS[name].partition(":")
    about = getdoc(import_module(f"torture.{module}")) or ""
    first = " ".join(about.partition("\n\n")[0].split())
    return first.removeprefix("Campaign: ").rstrip(".").replace("``", "`")


def _counted(counts: dict[str, int | dict[str, int]]) -> str:
    parts = []
    for name, count in counts.items():
        if isinstance(count, dict):  # why cases were skipped
            parts += [f"{number:,} skipped: {why}" for why, number in count.items()]
        else:
            parts.append(f"{name.replace('_', ' ')} {count:,}")
    return ", ".join(parts).replace("|", "/")


def soak_text(results: SoakResults) -> str:
    """What was soaked, and what the worst has grown by, beside the limits."""
    totals = results.totals()
    longest = max(soaked.what.rounds for soaked in results.soaks)
    growing = sum(bool(soaked.excess) for soaked in results.soaks)
    return (
        f"{len(results.soaks)} soaks, {totals.epochs:,} epochs of {totals.images:,} "
        f"images in all, {totals.abandoned:,} epochs left midway, {totals.opened:,} "
        f"loaders opened and closed; up to {longest:,} rounds a process. The most that "
        f"one has grown by, its first {WARM:.0%} left out: {totals.most_memory_mb:.1f} "
        f"MB, its workers {totals.most_children_mb:.1f} MB (limits "
        f"{LIMITS['memory_mb']:g} MB). Soaks beyond a limit: {growing}."
        f"\n\n{results.about}, {results.date}."
    )


def with_figures(page: str) -> str:
    """The page with its parts as the saved results have them."""
    printed = msgspec.json.decode(TORTURE.read_bytes(), type=Printed)
    parts = {"torture": torture_table(printed), "soak": soak_text(read_results(SOAK))}
    for name, text in parts.items():
        begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        page, found = re.subn(
            f"{begin}.*?{end}",
            lambda _, whole=f"{begin}\n{text}\n{end}": whole,  # type: ignore[misc]
            page,
            flags=re.DOTALL,
        )
        assert found == 1, f"{PAGE} must hold one {begin}"
    return page


if __name__ == "__main__":
    PAGE.write_text(with_figures(PAGE.read_text()))
