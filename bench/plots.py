"""Plots of what was measured: bars with their spread, and the curves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median

from matplotlib.figure import Figure

from bench.curves import machinery_curves, scaling_curves
from bench.lines import LINES, ceiling_of, lines_of
from bench.rows import BenchmarkRun, EntrantRow, rows_of

_CURVES = {"scaling": scaling_curves, "machinery": machinery_curves}
_COLOURS = {
    "ours": "#1b6ca8",
    "report": "#b8b8b8",
    "peer": "#e0a458",
    "ceiling": "#8a8a8a",
}
_KINDS = {"ours": "fastretina", "report": "the course report's", "peer": "others"}


def draw(run: BenchmarkRun, folder: Path, stem: str) -> list[str]:
    """Write all plots that there are numbers for; returns their names."""
    lines = lines_of(rows_of(run))
    names = []
    for line in ("batch", "ready"):
        if line in lines:
            names.append(f"{stem}_{line}.png")
            _bars(line, lines[line], _caption(run)).savefig(folder / names[-1], dpi=130)
    for line, curves in _CURVES.items():
        if line in lines:
            names.append(f"{stem}_{line}.png")
            figure = curves(lines[line])
            figure.suptitle(_plain(line), x=0.01, ha="left", fontweight="bold")
            _sign(figure, _caption(run))
            figure.savefig(folder / names[-1], dpi=130)
    return names


def _caption(run: BenchmarkRun) -> str:
    card = run["machine_info"].get("card", {})
    return (
        f"{card.get('processor')}, {card.get('cores granted')} cores, GPU "
        f"{card.get('GPU')}, torch {card.get('torch')}, DALI {card.get('DALI')}, "
        f"{run['datetime'][:10]}"
    )


def _plain(line: str) -> str:
    return LINES.get(line, line).replace("*", "")


def _bars(line: str, rows: Sequence[EntrantRow], caption: str) -> Figure:
    """A bar for each entrant with its slowest and fastest round, and the ceiling."""
    figure = Figure(figsize=(9, 1.6 + 0.36 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    places = range(len(rows), 0, -1)
    speeds = [row["images_per_second"] for row in rows]
    spread = [
        [row["images_per_second"] - row["slowest"] for row in rows],
        [row["fastest"] - row["images_per_second"] for row in rows],
    ]
    colours = [_COLOURS[row["kind"]] for row in rows]
    axes.barh(places, speeds, xerr=spread, color=colours, ecolor="#333333", capsize=2)
    ceiling = median(row["ceiling_images_per_second"] for row in rows)
    axes.axvline(ceiling, color="#c0392b", linewidth=1.2, linestyle="--")
    axes.text(
        ceiling,
        len(rows) + 0.75,
        f"ceiling {ceiling:,.0f}",
        color="#c0392b",
        ha="center",
        va="bottom",
        fontsize=9,
    )
    for place, row in zip(places, rows, strict=True):
        text = f"  {row['images_per_second']:,.0f}"
        if row.get("stores", "").startswith("raw"):
            text += "  (decodes no JPEGs)"
        axes.text(row["fastest"], place, text, va="center", fontsize=9)
    axes.set_yticks(list(places), [row["entrant"] for row in rows])
    axes.set_xlim(0, max(ceiling, *(row["fastest"] for row in rows)) * 1.12)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel(f"images/s (ceiling: {ceiling_of(line)})")
    axes.set_title(_plain(line), loc="left", fontweight="bold", pad=18)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    kinds = [kind for kind in _KINDS if any(row["kind"] == kind for row in rows)]
    handles = [axes.barh(0, 0, color=_COLOURS[kind]) for kind in kinds]
    axes.set_ylim(0.3, len(rows) + 0.7)
    axes.legend(
        handles,
        [_KINDS[kind] for kind in kinds],
        loc="lower right",
        bbox_to_anchor=(ceiling / axes.get_xlim()[1] - 0.01, 0),
        frameon=False,
    )
    _sign(figure, caption)
    return figure


def _sign(figure: Figure, caption: str) -> None:
    figure.supxlabel(caption, x=0.01, ha="left", fontsize=8, color="#555555")
