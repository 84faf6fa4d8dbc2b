"""The figures of an experiment: curves side by side, and all confusion matrices."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure as Canvas

from fastretina.experiments.cell_predictions import CellPredictions
from fastretina.experiments.cells import ExperimentPlan
from fastretina.experiments.results import CellRuns
from fastretina.metrics.evaluation import Evaluation
from fastretina.metrics.figures import draw_matrix, mark_phases
from fastretina.report.experiment_file import Figure
from fastretina.run import LoggedEpoch, Run, as_record
from loaders.arrays import Float64
from loaders.files import writing

_COLOURS = ("#4269d0", "#ff725c", "#3ca951", "#efb118")
_ACROSS = 4  # matrices in a row
_DPI = 130


class Curve(NamedTuple):
    """How a run went, epoch by epoch; NaN where an accuracy was not measured.

    Attributes:
        rows: of ``log.csv``.
        train: accuracy on the training images.
        test: accuracy on the test images.
        majority: share of the commonest grade on test.
        checkpoint: first digits of the final weights' SHA-256.
    """

    rows: list[LoggedEpoch]
    train: list[float]
    test: list[float]
    majority: float
    checkpoint: str


def draw_figures(
    folder: Path,
    plan: ExperimentPlan,
    runs: Mapping[str, CellRuns],
    predictions: Mapping[str, CellPredictions],
) -> list[Figure]:
    """Draw what there is to draw, of each cell's first seed, into ``folder``."""
    figures = []
    for title, names in plan.overlays.items():
        curves = {
            plan.cell(name).title: _read_curve(Run(runs[name].first))
            for name in names
            if runs[name].runs
        }
        if curves:
            path = folder / f"curves_{title.lower()}.png"
            figures.append(_draw_curves(path, title, curves))
    if predictions:
        figures.append(_draw_matrices(folder / "confusions.png", plan, predictions))
    return figures


def _read_curve(run: Run) -> Curve:
    rows, path = run.log(), run.path / "metrics.json"
    scores = as_record(run.metrics(), Evaluation, path).test
    train, test = (
        [np.nan if value is None else value for value in values]
        for values in (
            [row.train_accuracy for row in rows],
            [row.test_accuracy for row in rows],
        )
    )
    return Curve(
        rows=rows,
        train=train,
        test=test,
        majority=max(map(sum, scores.confusion)) / scores.samples,
        checkpoint=run.result().weights_sha256[:12],
    )


def _draw_curves(path: Path, title: str, curves: Mapping[str, Curve]) -> Figure:
    """Train and test accuracy by epoch of several runs, with the phases marked."""
    canvas = Canvas(figsize=(8, 4.6), layout="constrained")
    axes = canvas.subplots()
    for colour, (name, curve) in zip(_COLOURS, curves.items(), strict=False):
        for values, style, word in (
            (curve.train, "--", "train"),
            (curve.test, "-", "test"),
        ):
            axes.plot(
                [row.epoch for row in curve.rows],
                values,
                style,
                marker="o",
                ms=3,
                color=colour,
                label=f"{name}: {word}",
            )
    first = next(iter(curves.values()))
    majority = first.majority
    mark_phases(axes, first.rows)  # the same in all curves
    axes.axhline(majority, color="0.5", ls=":", label="always the commonest grade")
    axes.set_ylabel("accuracy")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.legend(frameon=False, fontsize=8)
    checkpoints = ", ".join(curve.checkpoint for curve in curves.values())
    canvas.suptitle(f"{title}\nweights {checkpoints}", fontsize=9)
    with writing(path) as file:
        canvas.savefig(file, dpi=_DPI, format="png")
    caption = f"{title}: train and test accuracy by epoch, of each cell's first seed"
    ends = [f"{name} ends at {_format_end(curve)}" for name, curve in curves.items()]
    return Figure(
        file=path.name,
        caption=caption,
        alt=f"{caption}; {'; '.join(ends)}; the commonest grade is {majority:.1%}",
    )


def _format_end(curve: Curve) -> str:
    last = curve.test[-1]
    return "an unknown test accuracy" if np.isnan(last) else f"{last:.1%} on test"


def _draw_matrices(
    path: Path, plan: ExperimentPlan, predictions: Mapping[str, CellPredictions]
) -> Figure:
    """Each cell's confusion matrix, rows as shares of the true grade."""
    across = min(len(predictions), _ACROSS)
    across = 2 if len(predictions) == _ACROSS else across
    down = -(-len(predictions) // across)
    canvas = Canvas(figsize=(4 * across, 3.9 * down), layout="constrained")
    grid = canvas.subplots(down, across, squeeze=False).ravel()
    recalls = []
    for axes, (name, cell) in zip(grid, predictions.items(), strict=False):
        counts = np.asarray(cell.confusion())
        recall = np.diag(counts) / np.maximum(counts.sum(axis=1), 1)
        draw_matrix(axes, counts.tolist(), "shares")
        weights = (cell.first.source.weights_sha256 or "unknown")[:12]
        title = plan.cell(name).title
        axes.set_title(f"{title}\nweights {weights}", fontsize=8)
        recalls.append(f"{title}: recalls {_format_shares(recall)}")
    for axes in grid[len(predictions) :]:
        axes.set_axis_off()
    with writing(path) as file:
        canvas.savefig(file, dpi=_DPI, format="png")
    return Figure(
        file=path.name,
        caption="Confusion matrices on test, rows as shares of the true grade; of each "
        "cell's first seed",
        alt="; ".join(recalls),
    )


def _format_shares(shares: Float64) -> str:
    return ", ".join(f"{share:.2f}" for share in shares)
