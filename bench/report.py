"""``python -m bench.report``: a Markdown table and plots of the last benchmarks."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from bench.tables import rows_of
from fastretina.cli import run
from loaders.errors import DataError
from loaders.files import write_atomically

PROG = "python -m bench.report"
ABOUT = (
    "Write a table in Markdown, plots and the numbers of a run of the benchmarks, "
    "with the machine that they were taken on. Example: pytest bench --benchmark-only "
    f"&& {PROG} --out bench/results"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """What to report.

    Attributes:
        results: JSON that pytest-benchmark wrote; of several files, what is measured
            again in a later one counts.
        out: Folder for the table, the plots and the numbers; without it, the table is
            printed.
        name: Of the files in it; by default loaders, the processor and the month.
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

    told = merged([read(path) for path in options.results])
    bars = tables.bars(told)
    last: dict[str, Any] = {
        "results": [str(path) for path in options.results],
        "entrants": len(tables.rows_of(told)),
        "ratios_held": sum(bar.met for bar in bars),
        "ratios": len(bars),
    }
    if options.compare is not None:
        from bench import compare

        found = compare.changes(read(options.compare), told)
        print(compare.words(found))
        verdicts = [change.verdict for change in found]
        return last | {
            "compared": len(found),
            "faster": verdicts.count("faster"),
            "slower": verdicts.count("SLOWER"),
        }
    if options.out is None:
        print(tables.markdown(told))
        return last
    from bench import plots

    options.out.mkdir(parents=True, exist_ok=True)
    stem = options.name or _stem(told)
    names = plots.draw(told, options.out, stem)
    text = tables.markdown(told, names)
    write_atomically(options.out / f"{stem}.md", text.encode())
    write_atomically(
        options.out / f"{stem}.json", json.dumps(slim(told), indent=1).encode()
    )
    print(f"{options.out / stem}.md, .json" + "".join(f", {name}" for name in names))
    return last | {"report": str(options.out / f"{stem}.md")}


def read(path: Path) -> dict[str, Any]:
    """The JSON of a run.

    Raises:
        DataError: it is missing, or something else.
    """
    try:
        told: dict[str, Any] = json.loads(path.read_text())
        if any("line" in one["extra_info"] for one in told["benchmarks"]):
            return told
    except FileNotFoundError:
        raise DataError(
            f"{path} is missing: pytest bench --benchmark-only writes it"
        ) from None
    except (ValueError, KeyError, TypeError, UnicodeDecodeError):
        pass
    raise DataError(f"{path} holds no benchmarks of loaders: run them again")


def merged(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One run of several: a finish line as the last of them measured it.

    Lines are races of their own, so nothing is set against what did not run beside it.
    """
    told, *later = runs
    for one_more in later:
        lines = {row["line"] for row in rows_of(one_more)}
        kept = [
            one
            for one in told["benchmarks"]
            if one["extra_info"].get("line") not in lines
        ]
        skipped = {
            who: why
            for who, why in told["commit_info"].get("skipped", {}).items()
            if who.partition(":")[0] not in lines
        } | one_more["commit_info"].get("skipped", {})
        told = told | {
            "benchmarks": kept + one_more["benchmarks"],
            "commit_info": told["commit_info"] | {"skipped": skipped},
        }
    return told


def slim(told: dict[str, Any]) -> dict[str, Any]:
    """Without what pytest-benchmark adds about machine and git."""
    kept = ("group", "name", "extra_info")
    return {
        "datetime": told["datetime"],
        "machine_info": {"card": told["machine_info"].get("card", {})},
        "commit_info": {
            key: told["commit_info"].get(key) for key in ("id", "dirty", "skipped")
        },
        "benchmarks": [
            {key: one[key] for key in kept} | {"seconds": one["stats"].get("data", [])}
            for one in told["benchmarks"]
        ],
    }


def _stem(told: dict[str, Any]) -> str:
    card = told["machine_info"].get("card", {})
    processor = re.sub(r"[^a-z0-9]+", "-", str(card.get("processor", "")).lower())
    cores = card.get("cores granted", "")
    month = told["datetime"][:7].replace("-", "")
    return f"loaders_{processor.strip('-')}-{cores}-cores_{month}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run(report, Options, argv, prog=PROG, about=ABOUT)


if __name__ == "__main__":
    sys.exit(main())
