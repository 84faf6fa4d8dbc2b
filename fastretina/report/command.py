"""Write a run, or an experiment, as one page that needs nothing else.

fastretina report runs/resnet18-strong-1
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from fastretina import cli
from fastretina.outputs import ask_for_file, ask_for_folder
from fastretina.wall_clock import part
from loaders.errors import DataError, RunError
from loaders.files import refuse_link

if TYPE_CHECKING:
    from fastretina.report.finished_run import FinishedRun
    from fastretina.report.run_page import ShownMistakes

PROG = "fastretina report"
ABOUT = f"""Write a finished run as one HTML file that fetches nothing: scores with
intervals beside rules that see no photograph, curves, confusion matrix, ROC,
reliability, the worst mistakes with Grad-CAM, a table of every test photograph, config
and environment. Its figures are also written as PNGs, and a model card goes with it. An
experiment's folder becomes a page of its comparisons.

Example: {PROG} runs/resnet18-strong-1
"""
_PAGE, _FIGURES = "report.html", "figures"


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """Flags of ``fastretina.report``.

    Attributes:
        run: A run's folder, or an experiment's.
        shards: Where a run's test photographs are now, for the thumbnails of its
            mistakes; by default where they were.
        out: The page.
        mistakes: How many of a run's mistakes to show of each kind: the surest, the
            farthest off, missed referrals and missed sight-threatening disease.
        device: For Grad-CAM: auto, cpu, cuda, cuda:N or mps.
    """

    run: Annotated[Positional[Path], arg(metavar="RUN")]
    shards: Annotated[
        str | None, arg(metavar="PATH", help_behavior_hint="(default: the run's own)")
    ] = None
    out: Annotated[
        Path | None,
        arg(metavar="HTML", help_behavior_hint="(default: RUN/report.html)"),
    ] = None
    mistakes: int = 12
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.mistakes < 0:
            raise ValueError(f"--mistakes must be at least 0, got {self.mistakes}")
        if self.out is not None and self.out.suffix.lower() not in (".html", ".htm"):
            raise ValueError(f"--out must end in .html, got {self.out}")
        if self.out is not None and not self.out.parent.is_dir():
            raise ValueError(f"--out must lie in a folder that exists, got {self.out}")


def main(argv: Sequence[str] | None = None, *, prog: str = PROG) -> int:
    """Run the command; see ``--help``."""
    return cli.run(command, Options, argv, prog=prog, about=ABOUT)


def command(options: Options) -> dict[str, object]:
    """Write the page; returns the content of the JSON line.

    Raises:
        DataError: there is no run or experiment, or an unfinished or damaged one.
    """
    from fastretina.run import describe_no_run

    folder = options.run
    if (folder / "experiment.json").is_file():
        ask_for_file(options.out or folder / _PAGE)
        return _write_experiment(options)
    if (folder / "config.json").is_file():
        refuse_link(folder / _FIGURES)
        ask_for_folder(folder / _FIGURES, "RUN", "make the run's folder writable")
        ask_for_file(options.out or folder / _PAGE)
        return _write_run(options)
    raise RunError(describe_no_run(folder, "a run or an experiment"))


def _write_run(options: Options) -> dict[str, object]:
    with part("imports"):
        from fastretina.report.finished_run import read_finished_run
        from fastretina.report.model_card import write_card
        from fastretina.report.picture import save_all
        from fastretina.report.run_page import Figures, run_page
        from fastretina.run import Run
        from loaders.files import write_atomically

    with part("data"):
        finished = read_finished_run(Run(options.run))
    with part("figures"):
        figures = Figures.of(finished)
    with part("evaluation"):
        shown = _mistakes(finished, options)
    out = options.out or options.run / _PAGE
    page = run_page(finished, figures, shown).encode(errors="replace")
    pictures = figures.all()
    with part("figures"):
        save_all(pictures, options.run / _FIGURES)
    card = write_card(finished)
    write_atomically(out, page)
    print(f"{finished.checkpoint}: {len(finished.test):,} test photographs")
    print(f"page: {out}")
    print(f"figures: {options.run / _FIGURES}, model card: {card}")
    return {
        "report": str(out),
        "of": "run",
        "figures": len(pictures),
        "bytes": len(page),
        "samples": len(finished.test),
        "mistakes": len(shown.mistakes),
        "thumbnails": len(shown.thumbnails),
        "card": str(card),
        "weights_sha256": finished.result.weights_sha256,
    }


def _mistakes(finished: FinishedRun, options: Options) -> ShownMistakes:
    """The mistakes of each kind, with their thumbnails or why there are none.

    Raises:
        DataError: the shards or the device that were named can't be used.
    """
    from fastretina.report.mistakes import list_mistakes
    from fastretina.report.run_page import ShownMistakes

    shown = ShownMistakes(lists=list_mistakes(finished.test, options.mistakes))
    if not shown.mistakes:
        return shown
    with part("imports"):
        from fastretina.data.run_shards import shards_of_run
        from fastretina.nn.device import choose_again
        from fastretina.report.thumbnails import draw_thumbnails

    config = finished.config
    device = choose_again(options.device, config.precision).device
    try:
        shards = options.shards or shards_of_run(finished.folder, "test")
        thumbnails = draw_thumbnails(finished, shown.mistakes, shards, device)
        return replace(shown, thumbnails=thumbnails)
    except DataError as error:
        if options.shards is not None:
            raise
        message = f"the mistakes are shown without their photographs: {error}"
    print(f"note: {message}", file=sys.stderr)
    return replace(shown, without_photographs=f"{message[:1].upper()}{message[1:]}.")


def _write_experiment(options: Options) -> dict[str, object]:
    with part("imports"):
        from fastretina.report.experiment_figures import read_pictures
        from fastretina.report.experiment_file import read_experiment
        from fastretina.report.experiment_page import experiment_page
        from loaders.files import write_atomically

    with part("data"):
        experiment = read_experiment(options.run)
        pictures, missing = read_pictures(options.run, experiment.figures)
    for sentence in missing:
        print(f"note: {sentence}", file=sys.stderr)
    out = options.out or options.run / _PAGE
    page = experiment_page(experiment, options.run, pictures, missing, out)
    content = page.encode(errors="replace")
    write_atomically(out, content)
    done = sum(cell.state == "done" for cell in experiment.cells)
    print(f"{experiment.title}: {done} of {len(experiment.cells)} cells are done")
    print(f"page: {out}")
    return {
        "report": str(out),
        "of": "experiment",
        "figures": len(pictures),
        "bytes": len(content),
        "cells": len(experiment.cells),
        "done": done,
        "comparisons": len(experiment.comparisons),
    }
