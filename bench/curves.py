"""Curves over the number of threads: loaders beside their ceiling, and machinery."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from statistics import median

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.rows import EntrantRow
from bench.targets import MACHINERY

_BATCH = 32  # images, where it is not the batch size that is varied
_RED = "#c0392b"
_GOAL = 0.92  # of the ceiling, at any number of threads
# A colour for each loader, so that it keeps its own from plot to plot.
_COLOURS = {
    "turbo": "#1b6ca8",
    "webdataset": "#e0a458",
    "dali": "#4a8f4a",
    "dali-reader": "#7d5ba6",
    "pil": "#8a8a8a",
}

Value = Callable[[EntrantRow], float]
Spread = tuple[Value, Value]


def scaling_curves(rows: Sequence[EntrantRow]) -> Figure:
    """Speed and ceiling over the threads, the share, and speed over the batch size."""
    over_threads = [row for row in rows if row["batch_size"] == _BATCH]
    cores = max(
        (row["workers"] for row in rows if row["batch_size"] != _BATCH), default=0
    )
    over_batches = [row for row in rows if cores and row["workers"] == cores]
    figure = Figure(figsize=(15 if over_batches else 10.5, 4.6), layout="constrained")
    speeds, shares, *others = figure.subplots(1, 3 if over_batches else 2)
    _over_threads(speeds, over_threads, _speed, (_slowest, _fastest))
    ceilings = _ceilings(over_threads)
    if ceilings:
        speeds.plot(*_points(ceilings), "--", color=_RED, label="ceiling, same threads")
    _finish(speeds, "images/s", "threads (processes for pil), batch 32")
    handles, names = speeds.get_legend_handles_labels()
    figure.legend(
        handles, names, loc="outside upper right", ncols=len(names), frameon=False
    )
    _over_threads(shares, over_threads, _share, _shares)
    shares.axhline(1, color=_RED, linestyle="--", linewidth=1)
    shares.axhline(_GOAL, color="#555555", linestyle=":", linewidth=1)
    shares.annotate(
        f"goal {_GOAL:g}",
        (0.02, _GOAL),
        xycoords=("axes fraction", "data"),
        ha="left",
        va="top",
        fontsize=8,
        color="#555555",
    )
    _finish(shares, "of the ceiling of as many threads", "threads, batch 32")
    for axes in others:
        _over_batches(axes, over_batches)
        _finish(axes, "images/s", f"images in a batch, {cores} threads")
    return figure


def machinery_curves(rows: Sequence[EntrantRow]) -> Figure:
    """Speed over the threads with decoding stubbed, on a scale of powers of ten."""
    figure = Figure(figsize=(7, 4.6), layout="constrained")
    axes = figure.add_subplot()
    _over_threads(axes, rows, _speed, (_slowest, _fastest))
    for name in {row["loader"] for row in rows} & MACHINERY.keys():
        goal, colour = MACHINERY[name], _COLOURS.get(name)
        axes.axhline(goal, color=colour, linestyle=":", linewidth=1)
        axes.annotate(
            f"goal of {name}: {goal:,}",
            (0.02, goal),
            xycoords=("axes fraction", "data"),
            ha="left",
            va="bottom",
            fontsize=8,
            color=colour,
        )
    axes.set_yscale("log")
    _finish(axes, "images/s, nothing decoded", "threads", from_zero=False)
    axes.yaxis.set_minor_formatter("{x:,.0f}")
    axes.set_ylim(top=1.35 * axes.get_ylim()[1])  # for the legend
    axes.legend(frameon=False, loc="upper right", ncols=2)
    return figure


def _speed(row: EntrantRow) -> float:
    return row["images_per_second"]


def _slowest(row: EntrantRow) -> float:
    return row["slowest"]


def _fastest(row: EntrantRow) -> float:
    return row["fastest"]


def _share(row: EntrantRow) -> float:
    return row["share_of_ceiling"]


_shares: Spread = (
    lambda row: min(row.get("shares", [_share(row)])),
    lambda row: max(row.get("shares", [_share(row)])),
)


def _over_threads(
    axes: Axes, rows: Sequence[EntrantRow], value: Value, spread: Spread
) -> None:
    """A curve for each loader, on a scale of powers of two, with its spread."""
    _loaders(axes, rows, lambda row: row["workers"], value, spread)


def _over_batches(axes: Axes, rows: Sequence[EntrantRow]) -> None:
    at: Value = lambda row: row["batch_size"]  # noqa: E731
    _loaders(axes, rows, at, _speed, (_slowest, _fastest))


def _loaders(
    axes: Axes, rows: Sequence[EntrantRow], at: Value, value: Value, spread: Spread
) -> None:
    for name in dict.fromkeys(row["loader"] for row in rows):
        own = sorted((row for row in rows if row["loader"] == name), key=at)
        places = [at(row) for row in own]
        colour = _COLOURS.get(name)
        axes.plot(places, [value(row) for row in own], "o-", label=name, color=colour)
        least, most = ([of(row) for row in own] for of in spread)
        axes.fill_between(places, least, most, alpha=0.15, color=colour)
    ticks = sorted({at(row) for row in rows})
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()


def _ceilings(rows: Iterable[EntrantRow]) -> dict[int, float]:
    """The median ceiling of each number of threads, images/s."""
    found: dict[int, list[float]] = {}
    for row in rows:
        if "ceiling_images_per_second" in row:
            own = found.setdefault(row["workers"], [])
            own.append(row["ceiling_images_per_second"])
    return {threads: median(found[threads]) for threads in sorted(found)}


def _points(curve: dict[int, float]) -> tuple[list[int], list[float]]:
    return list(curve), list(curve.values())


def _finish(axes: Axes, value: str, over: str, *, from_zero: bool = True) -> None:
    axes.set(xlabel=over, ylabel=value)
    if from_zero:
        axes.set_ylim(0)
    if not value.startswith("of "):
        axes.yaxis.set_major_formatter("{x:,.0f}")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
