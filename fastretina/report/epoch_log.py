"""``log.csv`` of a run: one entry per epoch."""

from __future__ import annotations

from dataclasses import dataclass

from fastretina.recipe import Phase
from fastretina.run import Run, as_record
from loaders.errors import RunError


@dataclass(frozen=True, kw_only=True, slots=True)
class EpochRow:
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
    phase: Phase
    train_loss: float
    images_per_second: float
    wait_seconds: float
    seconds: float
    train_accuracy: float | None = None
    validation_accuracy: float | None = None
    validation_qwk: float | None = None
    test_accuracy: float | None = None
    test_qwk: float | None = None

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
    path = run.path / "log.csv"
    rows = as_record(run.log(), list[EpochRow], path)
    if not rows:
        raise RunError(f"{path} is damaged: it holds no epoch")
    return rows
