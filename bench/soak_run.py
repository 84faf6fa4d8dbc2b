"""Run all soaks, print what has grown, and draw it.

python -m bench.soak_run --out bench/results/soak.json         # the long form
python -m bench.soak_run --only dali-reader --rounds 100
python -m bench.soak_run --draw bench/results/soak.json        # the plot again
python -m bench.soak_run --gather build/soak --out bench/results/soak.json
"""

from __future__ import annotations

import json
import sys
import tempfile
from concurrent.futures import (
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    as_completed,
)
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import tyro

from bench.soak import LARGE, SOAKS, Soak, soak, soak_shards
from bench.soak_plot import draw
from bench.soak_results import (
    Soaked,
    SoakResults,
    gather_results,
    new_results,
    read_results,
    write_results,
)
from loaders import missing
from loaders.cores import granted_cores


@dataclass(frozen=True)
class Options:
    """What to run.

    Attributes:
        out: file for the numbers, as JSON.
        only: loaders; all by default.
        rounds: the most of each soak.
        images: the most of a data set; less than 28,100 leaves out what takes longest.
        jobs: soaks at once; one per granted core by default.
        draw: numbers to draw again, in place of a run.
        gather: folder of what ``make torture`` has kept of its soaks, to be taken in
            place of a run.
        plot: the plot's file.
        cache: folder where the photographs are kept between runs.
    """

    out: Path | None = None
    only: tuple[str, ...] = ()
    rounds: int = 1000
    images: int = LARGE
    jobs: int | None = None
    draw: Path | None = None
    gather: Path | None = None
    plot: Path = Path("docs/images/soak.png")
    cache: Path | None = None


def run(options: Options) -> SoakResults:
    """Run soaks side by side, each in a process of its own, and print what they do."""
    results = new_results()
    chosen = [
        replace(what, rounds=min(what.rounds, options.rounds))
        for what in SOAKS
        if what.loader in (options.only or (what.loader,))
        and what.images <= options.images
        and missing(what.loader) is None
    ]
    with (
        tempfile.TemporaryDirectory(prefix="soak-") as folder,
        ThreadPoolExecutor(options.jobs or granted_cores()) as threads,
    ):
        cache = options.cache or Path(folder)
        waiting = []
        for number, what in enumerate(chosen):
            shards = soak_shards(cache, what.images)
            kept = Path(folder) / f"images-{number}"
            waiting.append(threads.submit(_in_process, what, shards, kept))
        for done in as_completed(waiting):
            soaked = done.result()
            results.soaks.append(soaked)
            grown = "; ".join(soaked.excess) or "nothing"
            print(f"{soaked.what.name}: grows by {grown}", flush=True)
            if options.out is not None:
                write_results(options.out, results)
    order = {what.name: place for place, what in enumerate(chosen)}
    results.soaks.sort(key=lambda soaked: order[soaked.what.name])
    return results


def _in_process(what: Soak, shards: Path, kept: Path) -> Soaked:
    """Run a soak in a new process, as one that has run another is warm."""
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        return Soaked(what, process.submit(soak, what, shards, kept).result())


def main() -> int:
    options = tyro.cli(Options, description=__doc__)
    if options.draw is not None:
        draw(read_results(options.draw), options.plot)
        return 0
    results = gather_results(options.gather) if options.gather else run(options)
    if options.out is not None:
        write_results(options.out, results)
        draw(results, options.plot)
    growing = [each.what.name for each in results.soaks if each.excess]
    line = {"soaks": len(results.soaks), "growing": growing, **asdict(results.totals())}
    print(json.dumps(line))
    return 1 if growing else 0


if __name__ == "__main__":
    sys.exit(main())
