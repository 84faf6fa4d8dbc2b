"""The pictures of a run: its curves and its confusion matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from loaders._course import GRADES

_PANELS = (
    ("loss", (("train_loss", "train"),)),
    (
        "accuracy",
        (
            ("train_accuracy", "train"),
            ("validation_accuracy", "validation"),
            ("test_accuracy", "test"),
        ),
    ),
    ("QWK", (("validation_qwk", "validation"), ("test_qwk", "test"))),
)
_COLOURS = {"train": "#4269d0", "validation": "#efb118", "test": "#ff725c"}


def draw_curves(
    path: Path, rows: Sequence[Mapping[str, Any]], majority: float, title: str
) -> None:
    """Loss, accuracy and QWK by epoch, with the phases marked.

    Args:
        path: the PNG.
        rows: of ``log.csv``.
        majority: share of the most frequent grade: what a constant predictor scores.
        title: names the run.
    """
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    axes = figure.subplots(1, len(_PANELS))
    epochs = [row["epoch"] for row in rows]
    change = sum(row["phase"] == "head" for row in rows)
    for axis, (name, lines) in zip(axes, _PANELS, strict=True):
        for column, label in lines:
            values = [row[column] for row in rows]
            if any(value is not None for value in values):
                points = [np.nan if value is None else value for value in values]
                axis.plot(
                    epochs, points, "o-", ms=3, color=_COLOURS[label], label=label
                )
        if name == "accuracy":
            axis.axhline(
                majority, color="0.5", ls=":", label="always the commonest grade"
            )
        if 0 < change < len(rows):
            axis.axvline(epochs[change] - 0.5, color="0.7", lw=1)
            for side, word in (("right", "head "), ("left", " full")):
                axis.annotate(
                    word,
                    (epochs[change] - 0.5, 1.01),
                    xycoords=("data", "axes fraction"),
                    ha=side,
                    color="0.4",
                    fontsize=8,
                )
        axis.set_xlabel("epoch")
        axis.set_ylabel(name)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.spines[["top", "right"]].set_visible(False)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(frameon=False, fontsize=8)
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=130)


def draw_confusion(path: Path, confusion: Sequence[Sequence[int]], title: str) -> None:
    """The confusion matrix, each row as shares of the true grade, counts below."""
    counts = np.asarray(confusion)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure = Figure(figsize=(5.6, 5), layout="constrained")
    axis = figure.subplots()
    image = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(*counts.shape):
        dark = shares[row, column] > 0.5
        axis.text(
            column,
            row,
            f"{shares[row, column]:.2f}\n{counts[row, column]:,}",
            ha="center",
            va="center",
            fontsize=8,
            color="white" if dark else "black",
        )
    names = [f"{grade} {name}" for grade, name in enumerate(GRADES)]
    axis.set_xticks(range(len(names)), names, rotation=30, ha="right", fontsize=8)
    axis.set_yticks(range(len(names)), names, fontsize=8)
    axis.set_xlabel("predicted grade")
    axis.set_ylabel("true grade")
    axis.set_title(title, fontsize=10)
    figure.colorbar(image, ax=axis, shrink=0.8, label="share of the true grade")
    figure.savefig(path, dpi=130)
