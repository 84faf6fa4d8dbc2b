"""How a run went, epoch by epoch: its curves, and how fast it was fed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fastretina.metrics.figures import CURVES, draw_panel, mark_phases
from fastretina.report.finished_run import FinishedRun
from fastretina.report.picture import Picture, blank, to_picture
from fastretina.run import LoggedEpoch

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_FORMS = {"loss": ".3f", "accuracy": ".1%", "QWK": ".3f"}
_CAPTIONS = {
    "loss": "The training loss.",
    "accuracy": "Share of photographs graded right. Dotted: what the commonest grade "
    "alone would score on test.",
    "QWK": "Agreement beyond chance on the photographs held out.",
}
_PHASES = "Left of the line only the head was trained, right of it the whole network."
_NOTHING = 0.05  # of the time: faster loading wins no more than that


def curve_pictures(finished: FinishedRun) -> list[Picture]:
    """Loss, accuracy and QWK by epoch; what was not measured is left out."""
    return [
        _curve(finished, panel) for panel in CURVES if _measured(finished.log, panel)
    ]


def _measured(rows: Sequence[LoggedEpoch], panel: str) -> list[str]:
    """The columns of a panel that hold anything."""
    return [
        column
        for column in CURVES[panel]
        if any(getattr(row, column) is not None for row in rows)
    ]


def _curve(finished: FinishedRun, panel: str) -> Picture:
    rows, scores = finished.log, finished.scores
    chosen = finished.result.checkpoint_epoch
    majority = max(map(sum, scores.confusion)) / scores.samples
    figure, (axis,) = blank(3.1)
    draw_panel(axis, panel, rows, majority)
    if any(row.epoch == chosen for row in rows):
        axis.axvline(chosen, color="0.5", lw=6, alpha=0.18, zorder=0)
    lines = "; ".join(
        f"{CURVES[panel][column]}: {_describe_line(rows, column, _FORMS[panel])}"
        for column in _measured(rows, panel)
    )
    both_phases = len({row.phase for row in rows}) == 2
    phases = f" {_PHASES}" if both_phases else ""
    return to_picture(
        figure,
        name=f"curve_{panel.lower()}",
        title=panel if panel == "QWK" else panel.capitalize(),
        checkpoint=finished.checkpoint,
        alt=f"{panel} by epoch, {_describe_epochs(rows)}. {lines}.",
        caption=(
            f"{_CAPTIONS[panel]}{phases} "
            f"Shaded: epoch {chosen}, whose weights are reported."
        ),
    )


def _describe_line(rows: Sequence[LoggedEpoch], column: str, form: str) -> str:
    """First, last and best value of a column that is measured at least once."""
    values = [
        (value, row.epoch)
        for row in rows
        if (value := getattr(row, column)) is not None
    ]
    best = (min if column.endswith("loss") else max)(values, key=lambda pair: pair[0])
    first, last, peak = (
        f"{value:{form}} in epoch {epoch}"
        for value, epoch in (values[0], values[-1], best)
    )
    return f"{first}, {last}, best {peak}"


def _describe_epochs(rows: Sequence[LoggedEpoch]) -> str:
    """Number of epochs, and of each phase where there are two."""
    heads = sum(row.phase == "head" for row in rows)
    if not 0 < heads < len(rows):
        return f"{len(rows)} epochs"
    return (
        f"{len(rows)} epochs, the first {heads} of the head alone, then of the whole "
        "network"
    )


def speed_picture(finished: FinishedRun) -> Picture:
    """Images/s, and the share of the time that was waited for data, by epoch."""
    rows, config = finished.log, finished.config
    figure, (above, below) = blank(3.9, rows=2)
    _draw_rates(above, rows)
    _draw_waiting(below, rows)
    rates = [row.images_per_second for row in rows]
    shares = [row.wait_share for row in rows]
    overall = _wait_share(rows)
    advice = (
        "faster loading would win next to nothing."
        if overall < _NOTHING
        else "fastretina doctor tells what would load faster."
    )
    return to_picture(
        figure,
        name="speed",
        title="Speed of training, and waiting for data",
        checkpoint=finished.checkpoint,
        alt=(
            f"Training speed by epoch, {_describe_epochs(rows)}: "
            f"{min(rates):,.0f} to {max(rates):,.0f} images/s. Share of the time "
            f"waited for data: {min(shares):.1%} to {max(shares):.1%}, "
            f"{overall:.1%} overall."
        ),
        caption=(
            f"Loader {config.loader} on {config.device}, "
            f"{config.precision}; evaluations are left out. "
            f"{overall:.1%} of the training time was waited for data: {advice}"
        ),
    )


def _draw_rates(axis: Axes, rows: Sequence[LoggedEpoch]) -> None:
    rates = [row.images_per_second for row in rows]
    axis.bar([row.epoch for row in rows], rates, color="#4269d0", width=0.75)
    axis.set_ylabel("images/s")
    axis.set_ylim(0, 1.08 * max(*rates, 1e-9))
    mark_phases(axis, rows)
    axis.set_xlabel("")


def _draw_waiting(axis: Axes, rows: Sequence[LoggedEpoch]) -> None:
    percents = [100 * row.wait_share for row in rows]
    axis.bar([row.epoch for row in rows], percents, color="#c98500", width=0.75)
    axis.set_ylabel("waiting for data, %")
    axis.set_ylim(0, max(5.0, min(100.0, 1.2 * max(percents))))
    mark_phases(axis, rows, named=False)


def _wait_share(rows: Sequence[LoggedEpoch]) -> float:
    """Share of all training time that was waited for data, 0 to 1."""
    seconds = sum(row.seconds for row in rows)
    waited = sum(row.wait_seconds for row in rows)
    return min(waited / seconds, 1.0) if seconds else 0.0
