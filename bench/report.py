"""``python -m bench.report``: a Markdown table and plots of the last benchmarks."""

from __future__ import annotations

import functools
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tyro.conf import Positional

from bench.rows import BenchmarkRun, describe_commit, describe_date, rows_of
from fastretina import cli
from loaders.errors import DataError
from loaders.files import write_atomically

PROG = "python -m bench.report"
ABOUT = (
    "Write a table in Markdown, plots and the numbers of a run of the benchmarks, "
    "with the machine that they were taken on. Example: pytest bench --benchmark-only "
    f"&& {PROG} --out bench/results"
)

_FREE = re.compile(r", [\d.,]+ GiB free$")  # what ends the disk of a card


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """What to report.

    Attributes:
        results: JSON that pytest-benchmark wrote; of several files, what is measured
            again in a later one counts.
        out: Folder for the table, the plots and the numbers; without it, the table is
            printed.
        name: Name of the files in it; by default loaders, the processor and the month.
        compare: JSON of an older run, to tell what has changed beyond the noise.
    """

    results: Positional[tuple[Path, ...]] = (Path(".benchmarks/latest.json"),)
    out: Path | None = None
    name: str | None = None
    compare: Path | None = None


def report(options: Options) -> dict[str, Any]:
    """Write, or print, what was measured.

    Raises:
        DataError: a file is not of these benchmarks.
    """
    from bench import tables
    from bench.targets import targets as targets_of

    run = merged([read(path) for path in options.results])
    targets = targets_of(run)
    summary: dict[str, Any] = {
        "results": [str(path) for path in options.results],
        "entrants": len(rows_of(run)),
        "ratios_held": sum(target.met for target in targets),
        "ratios": len(targets),
    }
    if options.compare is not None:
        return summary | _compare(read(options.compare), run)._asdict()
    if options.out is None:
        print(tables.markdown(run))
        return summary
    file = _write(run, options.out, options.name or _stem(run))
    return summary | {"report": str(file)}


class _Comparison(NamedTuple):
    """How many entrants are in two runs, and how many changed beyond the noise."""

    compared: int
    faster: int
    slower: int


def _compare(old: BenchmarkRun, new: BenchmarkRun) -> _Comparison:
    from bench import compare

    changes = compare.changes(old, new)
    print(compare.format_changes(changes))
    verdicts = [change.verdict for change in changes]
    return _Comparison(len(changes), verdicts.count("faster"), verdicts.count("SLOWER"))


def _write(run: BenchmarkRun, out: Path, stem: str) -> Path:
    """Write the table, the plots and the numbers; returns the table's file."""
    from bench import plots, tables

    out.mkdir(parents=True, exist_ok=True)
    names = plots.draw(run, out, stem)
    text = tables.markdown(run, names)
    write_atomically(out / f"{stem}.md", text.encode())
    write_atomically(out / f"{stem}.json", json.dumps(slim(run), indent=1).encode())
    print(f"{out / stem}.md, .json" + "".join(f", {name}" for name in names))
    return out / f"{stem}.md"


def read(path: Path) -> BenchmarkRun:
    """The JSON of a run of the benchmarks.

    Raises:
        DataError: it is missing, or something else.
    """
    try:
        run: BenchmarkRun = json.loads(path.read_text())
        if rows_of(run):
            return run
    except FileNotFoundError:
        raise DataError(
            f"{path} is missing: pytest bench --benchmark-only writes it"
        ) from None
    except (ValueError, KeyError, TypeError, UnicodeDecodeError):
        pass
    raise DataError(f"{path} holds no benchmarks of loaders: run them again")


def merged(runs: Sequence[BenchmarkRun]) -> BenchmarkRun:
    """One run of several: a finish line as the last of them measured it.

    Lines are races of their own, so nothing is set against what did not run beside it.
    Date and commit are those of the newest; a line of another run has its own.

    Raises:
        DataError: they were taken on different machines, or with other packages.
    """
    return functools.reduce(_with_newer, runs)


def _with_newer(old: BenchmarkRun, new: BenchmarkRun) -> BenchmarkRun:
    _refuse_other_machine(_card(old), _card(new))
    lines = {row["line"] for row in rows_of(new)}
    kept = [
        entry
        for entry in old["benchmarks"]
        if entry["extra_info"].get("line") not in lines
    ]
    skipped = {
        who: why
        for who, why in old["commit_info"].get("skipped", {}).items()
        if who.partition(":")[0] not in lines
    } | new["commit_info"].get("skipped", {})
    newest = max(new, old, key=lambda run: run["datetime"])
    origins = _origins(old) | _origins(new)
    usual = _origin(newest)
    older = {line: origin for line, origin in origins.items() if origin != usual}
    return {
        **newest,
        "benchmarks": kept + new["benchmarks"],
        "commit_info": {**newest["commit_info"], "skipped": skipped, "older": older},
    }


def _origins(run: BenchmarkRun) -> dict[str, str]:
    """Date and commit of each finish line, in words."""
    older = run["commit_info"].get("older") or {}
    return {row["line"]: older.get(row["line"], _origin(run)) for row in rows_of(run)}


def _origin(run: BenchmarkRun) -> str:
    return f"{describe_date(run)}, commit {describe_commit(run)}"


def _refuse_other_machine(old: Mapping[str, object], new: Mapping[str, object]) -> None:
    """Raise `DataError` where two cards differ in more than the room on the disk."""
    for what in {**old, **new}:
        values = [_FREE.sub("", str(card.get(what))) for card in (old, new)]
        if values[0] != values[1]:
            raise DataError(
                f"runs must be of one machine to be merged, got {what} "
                f"{values[0]} and {values[1]}: report them one by one"
            )


def slim(run: BenchmarkRun) -> dict[str, Any]:
    """A run without what pytest-benchmark adds about machine and git."""
    kept = ("id", "dirty", "skipped", "older")
    return {
        "datetime": run["datetime"],
        "machine_info": {"card": _card(run)},
        "commit_info": {key: run["commit_info"].get(key) for key in kept},
        "benchmarks": [
            {
                "group": entry["group"],
                "name": entry["name"],
                "extra_info": entry["extra_info"],
                "seconds": entry["stats"].get("data", []),
            }
            for entry in run["benchmarks"]
        ],
    }


def _card(run: BenchmarkRun) -> dict[str, object]:
    """The machine; empty where pytest-benchmark's JSON has none."""
    return run["machine_info"].get("card", {})


def _stem(run: BenchmarkRun) -> str:
    card = _card(run)
    processor = re.sub(r"[^a-z0-9]+", "-", str(card.get("processor", "")).lower())
    cores = card.get("cores granted", "")
    month = run["datetime"][:7].replace("-", "")
    return f"loaders_{processor.strip('-')}-{cores}-cores_{month}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return cli.run(report, Options, argv, prog=PROG, about=ABOUT)


if __name__ == "__main__":
    sys.exit(main())
