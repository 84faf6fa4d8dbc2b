"""The confusion matrix of a run, drawn as counts and as shares."""

from __future__ import annotations

from typing import Literal

import numpy as np

from fastretina.metrics.figures import GRADE_NAMES, draw_matrix
from fastretina.report.finished_run import FinishedRun
from fastretina.report.picture import Picture, blank, to_picture
from loaders.arrays import Int64


def confusion_pictures(finished: FinishedRun) -> list[Picture]:
    """The confusion matrix twice: as counts, and as shares of each true grade."""
    return [_matrix(finished, "counts"), _matrix(finished, "shares")]


def _matrix(finished: FinishedRun, kind: Literal["counts", "shares"]) -> Picture:
    counts = np.asarray(finished.scores.confusion)
    figure, (axis,) = blank(4.1)
    draw_matrix(axis, counts.tolist(), kind)
    within = np.abs(np.subtract.outer(range(len(counts)), range(len(counts)))) <= 1
    near = counts[within].sum() / counts.sum()
    rows = [_row_text(kind, *row) for row in zip(GRADE_NAMES, counts, strict=True)]
    return to_picture(
        figure,
        name=f"confusion_{kind}",
        title=f"Confusion matrix: {kind}",
        checkpoint=finished.checkpoint,
        alt=f"Confusion matrix, {kind} of predicted 0 to 4. {'; '.join(rows)}.",
        caption=(
            "A row holds the photographs of one true grade; right answers are on the "
            f"diagonal. {near:.1%} of all are at most one grade off."
            if kind == "counts"
            else "Each row adds up to 100%; on the diagonal stands the recall."
        ),
    )


def _row_text(kind: str, name: str, row: Int64) -> str:
    """The cells of one true grade, as a reader of the page hears them."""
    total = int(row.sum())
    cells = [
        f"{count:,}" if kind == "counts" else f"{count / max(total, 1):.1%}"
        for count in row.tolist()
    ]
    return f"true {name} ({total:,}): {', '.join(cells)}"
