"""``config.json`` and ``metrics.json`` of a run, as far as a report reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from fastretina.metrics.evaluation import Evaluation


@dataclass(frozen=True, kw_only=True, slots=True)
class Preprocessing:
    """The steps done to the photographs when shards were written."""

    steps: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class RunData:
    """The data set that a run was made from.

    Attributes:
        train: Number of photographs to train on; None where it is unknown.
        validation: Number of photographs held out to choose the epoch.
        preprocessing: What was done to the photographs; None where it is unknown.
        fingerprint: Fingerprint of the shards; None where it is unknown.
        test_fingerprint: Fingerprint of the test shards, where they are others.
    """

    train: int | None = None
    validation: int = 0
    preprocessing: Preprocessing | None = None
    fingerprint: str | None = None
    test_fingerprint: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """What a run was made with, beside its recipe.

    Attributes:
        data: The data set.
        image_shape: Height and width of what the network sees, pixels.
        shards: Folder or URL of the shards.
        test_shards: Folder or URL of the test shards; None where they are the same.
        loader: Name of the loader that fed training.
        device: Where it was trained, e.g. ``cpu``.
        precision: What it was computed in, e.g. ``fp32``.
    """

    data: RunData
    image_shape: tuple[int, int]
    shards: str
    test_shards: str | None = None
    loader: str
    device: str = "unknown"
    precision: str


@dataclass(frozen=True, kw_only=True, slots=True)
class RunMetrics(Evaluation):
    """The evaluation of a finished run, and which of its weights it is of.

    Attributes:
        checkpoint: ``best`` (on validation) or ``last``.
        checkpoint_epoch: Epoch whose weights are judged, from 1.
        weights_sha256: SHA-256 of these weights, 64 hexadecimal digits.
        weights: What training started from: ``imagenet``, ``none`` or a file.
        epochs: Number of epochs trained; None in older runs.
        parameters: Number of the network's parameters; None in older runs.
        seconds: Time that training took, s; None in older runs.
        test_skipped: Number of test photographs that could not be decoded.
    """

    checkpoint: Literal["best", "last"]
    checkpoint_epoch: int
    weights_sha256: str
    weights: str
    epochs: int | None = None
    parameters: int | None = None
    seconds: float | None = None
    test_skipped: int = 0
