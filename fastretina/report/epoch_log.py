"""``log.csv`` of a run: one entry per epoch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from fastretina.report.json_values import number, optional_number, whole
from fastretina.run import Run
from loaders.errors import RunError

_NEEDED = (
    "epoch",
    "phase",
    "train_loss",
    "images_per_second",
    "wait_seconds",
    "seconds",
)


class EpochRow(NamedTuple):
    """How one epoch went, in the columns of ``log.csv``.

    Attributes:
        epoch: Number of the epoch, from 1.
        phase: ``head`` or ``full``.
        train_loss: Mean loss over the training photographs.
        images_per_second: Speed of training.
        wait_seconds: Time that the network waited for data, s.
        seconds: Time that training took, s.
        train_accuracy: Share of right grades in training, 0 to 1.
        validation_accuracy: Share of right grades on validation; None where not
            measured.
        validation_qwk: QWK on validation; None where not measured.
        test_accuracy: Share of right grades on test; None where not measured.
        test_qwk: QWK on test; None where not measured.
    """

    epoch: int
    phase: str
    train_loss: float
    images_per_second: float
    wait_seconds: float
    seconds: float
    train_accuracy: float | None
    validation_accuracy: float | None
    validation_qwk: float | None
    test_accuracy: float | None
    test_qwk: float | None

    @property
    def wait_share(self) -> float:
        """Share of the epoch's time that was waited for data, 0 to 1."""
        return min(self.wait_seconds / self.seconds, 1.0) if self.seconds else 0.0

    def value(self, column: str) -> float | None:
        """The measurement in that column; None where not measured."""
        value: float | None = getattr(self, column)
        return value


def read_log(run: Run) -> list[EpochRow]:
    """The epochs of ``log.csv``.

    Raises:
        RunError: the file is missing or damaged.
    """
    rows = run.log()
    lacking = [name for row in rows for name in _NEEDED if row.get(name) is None]
    if lacking or not rows:
        what = f"a row has no {lacking[0]}" if lacking else "it holds no epoch"
        raise RunError(f"{run.path / 'log.csv'} is damaged: {what}")
    return [_row(row) for row in rows]


def _row(row: Mapping[str, object]) -> EpochRow:
    return EpochRow(
        epoch=whole(row["epoch"]),
        phase=str(row["phase"]),
        train_loss=number(row["train_loss"]),
        images_per_second=number(row["images_per_second"]),
        wait_seconds=number(row["wait_seconds"]),
        seconds=number(row["seconds"]),
        train_accuracy=optional_number(row.get("train_accuracy")),
        validation_accuracy=optional_number(row.get("validation_accuracy")),
        validation_qwk=optional_number(row.get("validation_qwk")),
        test_accuracy=optional_number(row.get("test_accuracy")),
        test_qwk=optional_number(row.get("test_qwk")),
    )
