"""A run's network on a batch of photographs, and what the run has fitted beside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from fastretina.metrics.both_eyes import Fusion, fit_fusion
from fastretina.metrics.calibration import Calibration
from fastretina.metrics.predictions import Predictions
from fastretina.nn.augment import normalise
from fastretina.nn.device import Compute
from fastretina.nn.trained import Trained
from fastretina.predict.reading import Photograph
from fastretina.run import Run, as_record
from loaders.arrays import Float64
from loaders.errors import RunError

BATCH = 32
# Dimensions of uint8[B, H, W, 3] that test-time augmentation turns round.
_FLIPS: tuple[list[int], ...] = ([], [2], [1], [1, 2])


class Graded(NamedTuple):
    """A photograph and the network's answer.

    Attributes:
        path: the photograph, as it was named.
        probabilities: float64[5], one for each grade; None after an error.
        warning: why it can't be graded, though it can be decoded; or empty.
        error: why it can't be decoded; or empty.
    """

    path: Path
    probabilities: Float64 | None
    warning: str
    error: str

    @property
    def grade(self) -> int:
        """The likeliest grade; there must be probabilities."""
        assert self.probabilities is not None
        return int(self.probabilities.argmax())


def grade_batch(
    photographs: Sequence[Photograph], trained: Trained, compute: Compute, *, tta: bool
) -> list[Graded]:
    """Grade the photographs that could be read; the others keep their errors.

    Args:
        photographs: ``BATCH`` at most.
        trained: the run's network.
        compute: device and precision.
        tta: whether to take the mean over flips.

    Raises:
        RunError: the network gives no finite numbers.
    """
    good = [each.image for each in photographs if not each.error]
    rows: Iterator[Float64] = iter(())
    if good:
        images = torch.from_numpy(np.stack(good)).to(compute.device)
        rows = iter(predict_probabilities(trained.network, images, compute, tta=tta))
    return [
        Graded(each.path, None if each.error else next(rows), each.warning, each.error)
        for each in photographs
    ]


def predict_probabilities(
    network: nn.Module, images: Tensor, compute: Compute, *, tta: bool
) -> Float64:
    """The probabilities of the grades, float64[B, 5].

    Args:
        network: in eval mode.
        images: uint8[B, H, W, 3], on the device.
        compute: device and precision.
        tta: take the mean over the four combinations of left-right and upside-down
            flips, at four times the cost.

    Raises:
        RunError: the network gives no finite numbers.
    """
    views = _FLIPS if tta else _FLIPS[:1]
    with torch.inference_mode(), compute.autocast():
        logits = [network(normalise(images.flip(dims))) for dims in views]
        each = torch.stack([one.float().softmax(dim=1) for one in logits])
    mean: Float64 = each.mean(dim=0).cpu().double().numpy()
    if not np.isfinite(mean).all():
        raise RunError(
            "the network's outputs are not finite: its training has gone astray"
        )
    return mean


def calibrated(graded: Graded, calibration: Calibration | None) -> Graded:
    """The photograph with calibrated probabilities, where a calibration is given."""
    if calibration is None or graded.probabilities is None:
        return graded
    cooled = calibration.cooled(graded.probabilities[None])[0]
    return graded._replace(probabilities=cooled)


def calibration_of(run: Run, trained: Trained) -> Calibration:
    """The calibration that the run has fitted on its validation patients.

    Raises:
        RunError: it has held none out, is not finished, or has trained on since.
    """
    fitted = as_record(run.metrics(), _Fitted, run.path / "metrics.json")
    if fitted.calibration is None:
        raise RunError(
            f"{run.path} has no calibration: it held no validation patients out, or "
            "was made by an older version; leave --calibrated out"
        )
    _refuse_others(run, fitted.weights_sha256, trained)
    return fitted.calibration


@dataclass(frozen=True, kw_only=True, slots=True)
class _Fitted:
    """What of ``metrics.json`` was fitted on validation, and for which weights."""

    calibration: Calibration | None = None
    weights_sha256: str | None = None


def fusion_of(run: Run, trained: Trained) -> Fusion:
    """A fusion of fellow eyes, fitted on the run's validation patients.

    Raises:
        RunError: it has held none out or too few, is not finished, or has trained on.
    """
    path = run.path / "validation.parquet"
    if not path.exists() and not trained.recipe.validation:
        raise RunError(
            f"{run.path} held no validation patients out, whom fusion must be fitted "
            "on; leave --pairs out, or train with --validation 0.1"
        )
    validation = Predictions.load(path)
    _refuse_others(run, validation.source.weights_sha256, trained)
    return fit_fusion(validation)


def _refuse_others(run: Run, sha256: object, trained: Trained) -> None:
    if sha256 != trained.weights_sha256:
        raise RunError(
            f"{run.path} has gone on since, and what was fitted on its validation "
            "patients is of other weights: wait for its end, or "
            f"'fastretina train --resume {run.path}'"
        )
