"""How a run went, epoch by epoch: its curves, and how fast it was fed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastretina.metrics.figures import CURVES, draw_panel, mark_phases
from fastretina.report.finished_run import FinishedRun
from fastretina.report.picture import Picture, blank, finished

_FORMS = {"loss": ".3f", "accuracy": ".1%", "QWK": ".3f"}
_CAPTIONS = {
    "loss": "The training loss.",
    "accuracy": "Share of photographs graded as people did. Dotted: what the commonest "
    "grade alone would score on test.",
    "QWK": "Agreement beyond chance on the photographs held out.",
}
_PHASES = "Left of the line only the head was trained, right of it the whole network."


def curves(record: FinishedRun) -> list[Picture]:
    """Loss, accuracy and QWK by epoch; what was not measured is left out."""
    return [_curve(record, panel) for panel in CURVES if _measured(record.log, panel)]


def _measured(rows: Sequence[Mapping[str, Any]], panel: str) -> list[str]:
    """The columns of a panel that hold anything."""
    return [
        column
        for column in CURVES[panel]
        if any(row[column] is not None for row in rows)
    ]


def _curve(record: FinishedRun, panel: str) -> Picture:
    rows, scores = record.log, record.scores
    majority = max(map(sum, scores["confusion"])) / scores["samples"]
    figure, (axis,) = blank(3.1)
    draw_panel(axis, panel, rows, majority)
    chosen = record.metrics["checkpoint_epoch"]
    if any(row["epoch"] == chosen for row in rows):
        axis.axvline(chosen, color="0.5", lw=6, alpha=0.18, zorder=0)
    told = [
        _told(rows, column, whose, _FORMS[panel])
        for column, whose in CURVES[panel].items()
        if column in _measured(rows, panel)
    ]
    both = len({row["phase"] for row in rows}) == 2
    caption = " ".join(
        [
            _CAPTIONS[panel],
            *([_PHASES] if both else []),
            f"Shaded: epoch {chosen}, whose weights are reported.",
        ]
    )
    return finished(
        figure,
        name=f"curve_{panel.lower()}",
        title=panel if panel == "QWK" else panel.capitalize(),
        checkpoint=record.checkpoint,
        alt=f"{panel} by epoch, {len(rows)} epochs{_phases(rows)}. {'; '.join(told)}.",
        caption=caption,
    )


def _told(rows: Sequence[Mapping[str, Any]], column: str, whose: str, form: str) -> str:
    there = [row for row in rows if row[column] is not None]
    first, last = there[0], there[-1]
    best = (min if column.endswith("loss") else max)(there, key=lambda row: row[column])
    return (
        f"{whose}: {first[column]:{form}} in epoch {first['epoch']}, "
        f"{last[column]:{form}} in epoch {last['epoch']}, "
        f"best {best[column]:{form}} in epoch {best['epoch']}"
    )


def _phases(rows: Sequence[Mapping[str, Any]]) -> str:
    heads = sum(row["phase"] == "head" for row in rows)
    if not 0 < heads < len(rows):
        return ""
    return f", the first {heads} of the head alone, then of the whole network"


def speed(record: FinishedRun) -> Picture:
    """Images/s, and the share of the time that was waited for data, by epoch."""
    rows = record.log
    epochs = [row["epoch"] for row in rows]
    rates = [row["images_per_second"] for row in rows]
    shares = [wait_share(row) for row in rows]
    figure, (above, below) = blank(3.9, rows=2)
    above.bar(epochs, rates, color="#4269d0", width=0.75)
    above.set_ylabel("images/s")
    above.set_ylim(0, 1.08 * max(*rates, 1e-9))
    mark_phases(above, rows)
    above.set_xlabel("")
    below.bar(epochs, [100 * share for share in shares], color="#c98500", width=0.75)
    below.set_ylabel("waiting for data, %")
    below.set_ylim(0, max(5.0, min(100.0, 120 * max(shares))))
    mark_phases(below, rows, named=False)
    slowest, fastest = min(rates), max(rates)
    config = record.config
    overall = _overall(rows)
    return finished(
        figure,
        name="speed",
        title="Speed of training, and waiting for data",
        checkpoint=record.checkpoint,
        alt=(
            f"Training speed by epoch, {len(rows)} epochs{_phases(rows)}: "
            f"{slowest:,.0f} to {fastest:,.0f} images/s. Share of the time waited for "
            f"data: {min(shares):.1%} to {max(shares):.1%}, {overall:.1%} overall."
        ),
        caption=(
            f"Loader {config['loader']} on {config.get('device', 'unknown')}, "
            f"{config['precision']}; evaluations are left out. "
            f"{overall:.1%} of the training time was waited for data: "
            + (
                "faster loading would win next to nothing."
                if overall < _NOTHING
                else "python -m fastretina.doctor tells what would load faster."
            )
        ),
    )


_NOTHING = 0.05  # of the time: faster loading wins no more than that


def wait_share(row: Mapping[str, Any]) -> float:
    """Of an epoch's training time, 0 to 1."""
    waited: float = row["wait_seconds"] / row["seconds"] if row["seconds"] else 0.0
    return min(waited, 1.0)


def _overall(rows: Sequence[Mapping[str, Any]]) -> float:
    seconds = sum(row["seconds"] for row in rows)
    waited = sum(row["wait_seconds"] for row in rows)
    return min(waited / seconds, 1.0) if seconds else 0.0
