"""The figures of an experiment: curves side by side, and all confusion matrices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator

from fastretina.experiments.cell_predictions import CellPredictions
from fastretina.experiments.cells import Plan
from fastretina.experiments.results import CellRuns
from fastretina.report.experiment_file import Figure
from fastretina.run import Run
from loaders.arrays import Float64
from loaders.grades import GRADES

_COLOURS = ("#4269d0", "#ff725c", "#3ca951", "#efb118")
_ACROSS = 4  # matrices in a row
_DPI = 130


class Curve(NamedTuple):
    """How a run went, epoch by epoch; NaN where an accuracy was not measured.

    Attributes:
        epochs: their numbers.
        head_epochs: how many of them are of phase 1.
        train: accuracy on the training images.
        test: accuracy on the test images.
        majority: share of the commonest grade on test.
        checkpoint: first digits of the final weights' SHA-256.
    """

    epochs: list[int]
    head_epochs: int
    train: list[float]
    test: list[float]
    majority: float
    checkpoint: str


def draw_figures(
    folder: Path,
    plan: Plan,
    runs: Mapping[str, CellRuns],
    predictions: Mapping[str, CellPredictions],
) -> list[Figure]:
    """Draw what there is to draw, into ``folder``."""
    figures = []
    for title, names in plan.overlays.items():
        curves = {
            plan.cell(name).title: _read_curve(Run(runs[name].runs[0]))
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
    rows, metrics = run.log(), run.metrics()
    train, test = (
        [np.nan if row[column] is None else row[column] for row in rows]
        for column in ("train_accuracy", "test_accuracy")
    )
    confusion = metrics["test"]["confusion"]
    return Curve(
        epochs=[row["epoch"] for row in rows],
        head_epochs=sum(row["phase"] == "head" for row in rows),
        train=train,
        test=test,
        majority=float(max(map(sum, confusion)) / metrics["test"]["samples"]),
        checkpoint=metrics["weights_sha256"][:12],
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
                curve.epochs,
                values,
                style,
                marker="o",
                ms=3,
                color=colour,
                label=f"{name}: {word}",
            )
        _mark_phases(axes, curve)
    majority = next(iter(curves.values())).majority
    axes.axhline(majority, color="0.5", ls=":", label="always the commonest grade")
    axes.set_xlabel("epoch")
    axes.set_ylabel("accuracy")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    checkpoints = ", ".join(curve.checkpoint for curve in curves.values())
    axes.set_title(f"{title}\nweights {checkpoints}", fontsize=9)
    canvas.savefig(path, dpi=_DPI)
    caption = f"{title}: train and test accuracy by epoch"
    ends = [f"{name} ends at {_format_end(curve)}" for name, curve in curves.items()]
    return Figure(
        file=path.name,
        caption=caption,
        alt=f"{caption}; {'; '.join(ends)}; the commonest grade is {majority:.1%}",
    )


def _mark_phases(axes: Axes, curve: Curve) -> None:
    if not 0 < curve.head_epochs < len(curve.epochs):
        return
    place = curve.epochs[curve.head_epochs] - 0.5
    axes.axvline(place, color="0.8", lw=1)
    for side, word in (("right", "head "), ("left", " full")):
        axes.annotate(
            word,
            (place, 0.01),
            xycoords=("data", "axes fraction"),
            ha=side,
            color="0.4",
            fontsize=8,
        )


def _format_end(curve: Curve) -> str:
    last = curve.test[-1]
    return "an unknown test accuracy" if np.isnan(last) else f"{last:.1%} on test"


def _draw_matrices(
    path: Path, plan: Plan, predictions: Mapping[str, CellPredictions]
) -> Figure:
    """Each cell's confusion matrix, rows as shares of the true grade."""
    across = min(len(predictions), _ACROSS)
    across = 2 if len(predictions) == _ACROSS else across
    down = -(-len(predictions) // across)
    canvas = Canvas(figsize=(3.3 * across, 3.5 * down), layout="constrained")
    grid = canvas.subplots(down, across, squeeze=False).ravel()
    recalls = []
    for axes, (name, cell) in zip(grid, predictions.items(), strict=False):
        counts = np.asarray(cell.confusion())
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        _draw_matrix(axes, shares)
        weights = str(cell.tests[0].about["weights_sha256"])[:12]
        title = plan.cell(name).title
        axes.set_title(f"{title}\nweights {weights}", fontsize=8)
        recalls.append(f"{title}: recalls {_format_shares(np.diag(shares))}")
    for axes in grid[len(predictions) :]:
        axes.set_axis_off()
    canvas.supxlabel("predicted grade", fontsize=9)
    canvas.supylabel("true grade", fontsize=9)
    canvas.savefig(path, dpi=_DPI)
    return Figure(
        file=path.name,
        caption="Confusion matrices on test, rows as shares of the true grade",
        alt="; ".join(recalls),
    )


def _draw_matrix(axes: Axes, shares: Float64) -> None:
    """Draw float64[5, 5], each share written in its square."""
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(*shares.shape):
        axes.text(
            column,
            row,
            f"{shares[row, column]:.2f}",
            ha="center",
            va="center",
            fontsize=7,
            color="white" if shares[row, column] > 0.5 else "black",
        )
    axes.set_xticks(range(len(GRADES)))
    axes.set_yticks(range(len(GRADES)))
    axes.tick_params(labelsize=7)


def _format_shares(shares: Sequence[float] | Float64) -> str:
    return ", ".join(f"{share:.2f}" for share in shares)
