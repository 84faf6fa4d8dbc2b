"""The stages as bars: in the terminal, and as a PNG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter

from fastretina.doctor.measurements import Stage, StageKind
from fastretina.formatting import format_rate
from loaders.files import writing

_COLOURS: dict[StageKind, str] = {
    "read": "#9aa5b1",
    "decode": "#6cc5b0",
    "batch": "#4269d0",
    "ready": "#97bbf5",
    "step": "#ff725c",
    "end to end": "#3f3f46",
}
_LEAST_BAR = 10
_NARROWEST = 40


def bars(stages: Sequence[Stage], width: int, block: str = "#") -> str:
    """A line per stage, no wider than asked for: name, images/s, bar.

    Lengths are logarithmic, as a stage can be ten thousand times another.
    """
    names = max(len(stage.name) for stage in stages)
    speeds = [format_rate(stage.rate.images_per_second) for stage in stages]
    numbers = max(map(len, speeds))
    room = max(max(width, _NARROWEST) - names - numbers - 4, _LEAST_BAR)
    low, high = decades(stages)
    lines = [f"images/s; bars are logarithmic, from {_decade(low)} to {_decade(high)}"]
    for stage, speed in zip(stages, speeds, strict=True):
        share = _share(stage.rate.images_per_second, low, high)
        bar = block * max(round(room * share), 1)
        lines.append(f"{stage.name:<{names}}  {speed:>{numbers}}  {bar}")
    return "\n".join(lines)


def decades(stages: Sequence[Stage]) -> tuple[float, float]:
    """Powers of ten below the slowest and above the fastest stage."""
    speeds = [max(stage.rate.images_per_second, 1e-3) for stage in stages]
    low = math.floor(math.log10(min(speeds)) - 0.1)  # so that no bar is empty
    high = math.ceil(math.log10(max(speeds)))
    return 10.0**low, 10.0 ** max(high, low + 1)


def draw(path: Path, stages: Sequence[Stage], title: str, caption: str) -> None:
    """Write the chart as a PNG: the old one or the new one is there, never a part.

    Args:
        path: the PNG.
        stages: its bars, from top to bottom.
        title: what the bars show, in a few words.
        caption: the machine and what was measured.

    Raises:
        OSError: it can't be written.
    """
    figure = Figure(figsize=(9, 1.9 + 0.3 * len(stages)), layout="constrained")
    axis = figure.subplots()
    for place, stage in enumerate(stages):
        _bar(axis, place, stage)
    for stage in stages:
        if stage.kind == "step":  # the ceiling of what stands below it
            speed = stage.rate.images_per_second
            axis.axvline(speed, color=_COLOURS["step"], ls=":", lw=1, zorder=3)
    _style(axis, stages)
    kinds = dict.fromkeys(stage.kind for stage in stages)
    figure.legend(
        handles=[Patch(color=_COLOURS[kind], label=kind) for kind in kinds],
        loc="outside lower center",
        ncols=len(kinds),
        frameon=False,
        fontsize=8,
    )
    figure.suptitle(title, fontsize=12, x=0.01, ha="left")
    axis.set_title(caption, fontsize=8, color="0.35", loc="left")
    _save(figure, path)


def _style(axis: Axes, stages: Sequence[Stage]) -> None:
    """Scales, labels and grid: logarithmic speeds, the first stage on top."""
    low, high = decades(stages)
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter(FuncFormatter(lambda speed, _: _decade(speed)))
    axis.set_xlim(low, high * 4)  # room for the numbers
    axis.set_ylim(len(stages) - 0.4, -0.6)
    axis.set_yticks(range(len(stages)), [stage.name for stage in stages], fontsize=9)
    axis.tick_params(axis="y", length=0)
    axis.minorticks_off()
    axis.set_xlabel(
        "images/s (logarithmic). Lines across bars span all rounds; dotted: the steps"
    )
    axis.grid(axis="x", color="0.9", lw=0.8)
    axis.set_axisbelow(True)
    axis.spines[["top", "right", "left"]].set_visible(False)


def _bar(axis: Axes, place: int, stage: Stage) -> None:
    rate = stage.rate
    axis.barh(place, rate.images_per_second, 0.7, color=_COLOURS[stage.kind])
    for colour, wide in (("white", 3.0), ("0.15", 1.2)):  # seen on any bar
        ends = [rate.slowest, rate.fastest]
        axis.plot(ends, [place, place], color=colour, lw=wide, zorder=4)
    axis.annotate(
        format_rate(rate.images_per_second),
        (max(rate.fastest, rate.images_per_second), place),
        xytext=(5, 0),
        textcoords="offset points",
        va="center",
        fontsize=8,
    )


def _save(figure: Figure, path: Path) -> None:
    with writing(path) as file:
        figure.savefig(file, dpi=130, format="png")


def _share(speed: float, low: float, high: float) -> float:
    """Share of the way from low to high on a logarithmic scale, 0 to 1."""
    return math.log(max(speed, low) / low) / math.log(high / low)


def _decade(speed: float) -> str:
    return f"{speed:,.0f}" if speed >= 1 else f"{speed:g}"
