"""The plot of all soaks: what each holds, beside what it held once it was warm."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bench.soak import FOLDER, LARGE, LIMITS, MEMORY, WARM, WHAT
from bench.soak_results import Soaked, SoakResults

_COLOURS = {
    "pil": "#7a7a7a",
    "turbo": "#1b6ca8",
    "dali": "#3a923a",
    "dali-reader": "#c25b1e",
    "webdataset": "#8456a8",
}
_DASHES: dict[str | None, Literal["-", "--", ":"]] = {
    None: "-",
    MEMORY: "--",
    FOLDER: ":",
}
_CACHES = {None: "no cache", MEMORY: "--cache memory", FOLDER: "--cache DIR"}
_COLUMNS = {
    "memory_mb": "memory, MB",
    "descriptors": "descriptors",
    "threads": "threads",
    "mappings": "mappings",
}
_REACH = {"memory_mb": 12.0, "descriptors": 4.5, "threads": 4.5, "mappings": 24.0}


def draw(results: SoakResults, path: Path) -> None:
    """Write the plot: a row for each way, a column for each thing that may grow."""
    rows = _rows(results)
    figure = Figure(figsize=(11, 0.9 + 1.9 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), len(_COLUMNS), squeeze=False, sharex="row")
    for (title, soaks), line in zip(rows.items(), grid, strict=True):
        for (name, label), axes in zip(_COLUMNS.items(), line, strict=True):
            _panel(axes, name, soaks)
            if axes in grid[0]:
                axes.set_title(label, fontsize=10, fontweight="bold")
        line[0].set_ylabel(title, fontsize=9)
    for axes in grid[-1]:
        axes.set_xlabel("rounds", fontsize=8)
    loaders = [
        name for name in _COLOURS if any(s.what.loader == name for s in results.soaks)
    ]
    keys = [Line2D([], [], color=_COLOURS[name], label=name) for name in loaders]
    keys += [
        Line2D([], [], color="black", linestyle=dash, label=_CACHES[cache])
        for cache, dash in _DASHES.items()
    ]
    keys.append(Line2D([], [], color="#cc3333", linewidth=0.8, label="limit of growth"))
    figure.legend(
        handles=keys,
        loc="outside lower center",
        ncols=len(keys),
        fontsize=8,
        frameon=False,
    )
    figure.suptitle(
        "What a process holds after each epoch, beside what it held once warm",
        x=0.01,
        ha="left",
        fontweight="bold",
    )
    about = f"{results.about}, {results.date}"
    figure.text(0.99, 0.985, about, fontsize=7, ha="right", va="top", color="#666666")
    figure.savefig(path, dpi=130)


def _rows(results: SoakResults) -> dict[str, list[Soaked]]:
    """The soaks of each row, by its title."""
    rows: dict[str, list[Soaked]] = {}
    for soaked in results.soaks:
        what = soaked.what
        title = f"{WHAT[what.kind]}\nof {what.images:,} images"
        if what.images != LARGE and what.kind == "opened":
            title = "loaders opened\nand closed"
        rows.setdefault(title, []).append(soaked)
    return rows


def _panel(axes: Axes, name: str, soaks: list[Soaked]) -> None:
    longest = max(soaked.what.rounds for soaked in soaks)
    axes.axvspan(0, WARM * longest, color="#f2f2f2", linewidth=0)
    axes.axhline(LIMITS[name] or 0.5, color="#cc3333", linewidth=0.8)
    for soaked in soaks:
        rounds, held = [0], [0.0]
        values = [float(getattr(level, name)) for level in soaked.levels]
        if name == "memory_mb":
            values = [
                value + level.children_mb
                for value, level in zip(values, soaked.levels, strict=True)
            ]
        rounds = [level.round for level in soaked.levels]
        warm = values[int(WARM * len(values)) :]
        start = median(warm[: max(len(warm) // 10, 1)])
        held = [value - start for value in values]
        axes.plot(
            rounds,
            held,
            color=_COLOURS[soaked.what.loader],
            linestyle=_DASHES[soaked.what.cache],
            linewidth=1.1,
            alpha=0.85,
        )
    axes.set_ylim(-_REACH[name], _REACH[name])
    axes.set_xlim(0, longest)
    axes.tick_params(labelsize=7)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
