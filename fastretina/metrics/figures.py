"""The pictures of a run: its curves and its confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator

from fastretina.run import LoggedEpoch
from fastretina.wall_clock import part
from loaders.files import writing
from loaders.grades import GRADES

CURVES = {  # panel to its lines: a column of log.csv, and whose it is
    "loss": {"train_loss": "train"},
    "accuracy": {
        "train_accuracy": "train",
        "validation_accuracy": "validation",
        "test_accuracy": "test",
    },
    "QWK": {"validation_qwk": "validation", "test_qwk": "test"},
}
GRADE_NAMES = [f"{grade} {name}" for grade, name in enumerate(GRADES)]
# The lighter half of Blues: black stands out from all of it by 8.6 to 1, by 4.6 where
# a page in a dark scheme turns the figure over.
MATRIX_COLOURS = LinearSegmentedColormap.from_list(
    "pale blues", colormaps["Blues"](np.linspace(0, 0.5, 256))
)
_STYLES = {
    "train": ("#4269d0", "o"),
    "validation": ("#c98500", "s"),
    "test": ("#e0503f", "^"),
}


@part("figures")
def draw_curves(
    path: Path, rows: Sequence[LoggedEpoch], majority: float, title: str
) -> None:
    """Loss, accuracy and QWK by epoch, with the phases marked.

    Args:
        path: the PNG to write.
        rows: the epochs of the run.
        majority: share of the most frequent grade: what a constant predictor scores.
        title: names the run.
    """
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    axes = figure.subplots(1, len(CURVES))
    for axis, panel in zip(axes, CURVES, strict=True):
        draw_panel(axis, panel, rows, majority)
    figure.suptitle(title, fontsize=10, parse_math=False)
    with writing(path) as file:
        figure.savefig(file, dpi=130, format="png")


def draw_panel(
    axis: Axes, panel: str, rows: Sequence[LoggedEpoch], majority: float
) -> None:
    """One of ``CURVES`` by epoch; the arguments are those of ``draw_curves``."""
    epochs = [row.epoch for row in rows]
    for column, whose in CURVES[panel].items():
        values = [getattr(row, column) for row in rows]
        if any(value is not None for value in values):
            points = [np.nan if value is None else value for value in values]
            colour, marker = _STYLES[whose]
            axis.plot(epochs, points, marker=marker, ms=3.5, color=colour, label=whose)
    if panel == "accuracy":
        axis.axhline(majority, color="0.45", ls=":", label="always the commonest grade")
    mark_phases(axis, rows)
    axis.set_ylabel(panel)
    if axis.get_legend_handles_labels()[0]:
        axis.legend(fontsize=8, edgecolor="none", framealpha=0.85)


def mark_phases(axis: Axes, rows: Sequence[LoggedEpoch], *, named: bool = True) -> None:
    """Epochs along x, and a line where the whole network begins to be trained."""
    epochs = [row.epoch for row in rows]
    change = sum(row.phase == "head" for row in rows)
    if 0 < change < len(rows):
        axis.axvline(epochs[change] - 0.5, color="0.7", lw=1)
        for side, word in (("right", "head "), ("left", " full")) if named else ():
            axis.annotate(
                word,
                (epochs[change] - 0.5, 1.01),
                xycoords=("data", "axes fraction"),
                ha=side,
                color="0.4",
                fontsize=8,
            )
    axis.set_xlabel("epoch")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.spines[["top", "right"]].set_visible(False)


@part("figures")
def draw_confusion(path: Path, confusion: Sequence[Sequence[int]], title: str) -> None:
    """The confusion matrix, each row as shares of the true grade, counts below."""
    figure = Figure(figsize=(5.6, 5), layout="constrained")
    axis = figure.subplots()
    image = draw_matrix(axis, confusion, "both")
    axis.set_title(title, fontsize=10, parse_math=False)
    figure.colorbar(image, ax=axis, shrink=0.8, label="share of the true grade")
    with writing(path) as file:
        figure.savefig(file, dpi=130, format="png")


def draw_matrix(
    axis: Axes,
    confusion: Sequence[Sequence[int]],
    cells: Literal["both", "counts", "shares"],
) -> AxesImage:
    """The confusion matrix, coloured by the shares of each true grade.

    Args:
        axis: to draw on.
        confusion: K x K counts, true grade by predicted grade.
        cells: what stands in them: shares of the true grade, counts, or both.
    """
    counts = np.asarray(confusion)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    texts = {
        "both": "{share:.2f}\n{count:,}",
        "counts": "{count:,}",
        "shares": "{share:.1%}",
    }
    image = axis.imshow(shares, cmap=MATRIX_COLOURS, vmin=0, vmax=1)
    for row, column in np.ndindex(*counts.shape):
        share = shares[row, column]
        axis.text(
            column,
            row,
            texts[cells].format(share=share, count=counts[row, column]),
            ha="center",
            va="center",
            fontsize=8,
            color="black",
        )
    axis.set_xticks(
        range(len(counts)), GRADE_NAMES, rotation=30, ha="right", fontsize=8
    )
    axis.set_yticks(range(len(counts)), GRADE_NAMES, fontsize=8)
    axis.set_xlabel("predicted grade")
    axis.set_ylabel("true grade")
    return image
