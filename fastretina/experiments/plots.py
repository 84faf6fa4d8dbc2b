"""The figures of an experiment: curves side by side, and all confusion matrices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fastretina.experiments.cells import Plan
from fastretina.experiments.results import CellScores, Outcome
from fastretina.run import Run
from loaders.grades import GRADES

_COLOURS = ("#4269d0", "#ff725c", "#3ca951", "#efb118")
_ACROSS = 4  # matrices in a row
_DPI = 130


def draw(
    folder: Path,
    plan: Plan,
    outcomes: Mapping[str, Outcome],
    found: Mapping[str, CellScores],
) -> list[dict[str, str]]:
    """Draw what there is to draw; each figure's file, alt text and caption."""
    figures = []
    for title, names in plan.overlays.items():
        runs = {
            plan.cell(name).title: Run(outcomes[name].runs[0])
            for name in names
            if outcomes[name].runs
        }
        if runs:
            path = folder / f"curves_{title.lower()}.png"
            figures.append(_draw_curves(path, title, runs))
    if found:
        figures.append(_draw_matrices(folder / "confusions.png", plan, found))
    return figures


def _draw_curves(path: Path, title: str, runs: Mapping[str, Run]) -> dict[str, str]:
    """Train and test accuracy by epoch of several runs, with the phases marked."""
    figure = Figure(figsize=(8, 4.6), layout="constrained")
    axis = figure.subplots()
    ends = []
    for colour, (name, run) in zip(_COLOURS, runs.items(), strict=False):
        rows = run.log()
        epochs = [row["epoch"] for row in rows]
        for column, style, word in (
            ("train_accuracy", "--", "train"),
            ("test_accuracy", "-", "test"),
        ):
            values = _shares(rows, column)
            axis.plot(
                epochs,
                values,
                style,
                marker="o",
                ms=3,
                color=colour,
                label=f"{name}: {word}",
            )
        ends.append(f"{name} ends at {_last(rows)}")
        _mark_phases(axis, rows)
    majority = _majority(next(iter(runs.values())))
    axis.axhline(majority, color="0.5", ls=":", label="always the commonest grade")
    axis.set_xlabel("epoch")
    axis.set_ylabel("accuracy")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=8)
    axis.set_title(f"{title}\n{_checkpoints(runs)}", fontsize=9)
    figure.savefig(path, dpi=_DPI)
    caption = f"{title}: train and test accuracy by epoch"
    return {
        "file": path.name,
        "caption": caption,
        "alt": f"{caption}; {'; '.join(ends)}; the commonest grade is {majority:.1%}",
    }


def _mark_phases(axis: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    change = sum(row["phase"] == "head" for row in rows)
    if not 0 < change < len(rows):
        return
    place = rows[change]["epoch"] - 0.5
    axis.axvline(place, color="0.8", lw=1)
    for side, word in (("right", "head "), ("left", " full")):
        axis.annotate(
            word,
            (place, 0.01),
            xycoords=("data", "axes fraction"),
            ha=side,
            color="0.4",
            fontsize=8,
        )


def _draw_matrices(
    path: Path, plan: Plan, found: Mapping[str, CellScores]
) -> dict[str, str]:
    """Each cell's confusion matrix, rows as shares of the true grade."""
    across = min(len(found), _ACROSS)
    across = 2 if len(found) == _ACROSS else across
    down = -(-len(found) // across)
    figure = Figure(figsize=(3.3 * across, 3.5 * down), layout="constrained")
    axes = figure.subplots(down, across, squeeze=False).ravel()
    told = []
    for axis, (name, of) in zip(axes, found.items(), strict=False):
        counts = np.asarray(of.confusion())
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for row, column in np.ndindex(*shares.shape):
            axis.text(
                column,
                row,
                f"{shares[row, column]:.2f}",
                ha="center",
                va="center",
                fontsize=7,
                color="white" if shares[row, column] > 0.5 else "black",
            )
        weights = str(of.tests[0].about["weights_sha256"])[:12]
        axis.set_title(f"{plan.cell(name).title}\nweights {weights}", fontsize=8)
        axis.set_xticks(range(len(GRADES)))
        axis.set_yticks(range(len(GRADES)))
        axis.tick_params(labelsize=7)
        recalls = ", ".join(f"{share:.2f}" for share in np.diag(shares))
        told.append(f"{plan.cell(name).title}: recalls {recalls}")
    for axis in axes[len(found) :]:
        axis.set_axis_off()
    figure.supxlabel("predicted grade", fontsize=9)
    figure.supylabel("true grade", fontsize=9)
    figure.savefig(path, dpi=_DPI)
    return {
        "file": path.name,
        "caption": "Confusion matrices on test, rows as shares of the true grade",
        "alt": "; ".join(told),
    }


def _shares(rows: Sequence[Mapping[str, Any]], column: str) -> list[float]:
    return [np.nan if row[column] is None else row[column] for row in rows]


def _last(rows: Sequence[Mapping[str, Any]]) -> str:
    value = rows[-1]["test_accuracy"]
    return "an unknown test accuracy" if value is None else f"{value:.1%} on test"


def _majority(run: Run) -> float:
    test = run.metrics()["test"]
    return float(max(map(sum, test["confusion"])) / test["samples"])


def _checkpoints(runs: Mapping[str, Run]) -> str:
    ids = [run.metrics()["weights_sha256"][:12] for run in runs.values()]
    return f"weights {', '.join(ids)}"
