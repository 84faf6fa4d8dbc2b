"""How far a network's confidence lies from its accuracy, by bins of confidence."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fastretina.metrics.confusion_matrices import grouped, share
from loaders.arrays import Bool, Float64, Int64

BINS = 10  # of confidence, from 0 to 1
_EDGES = np.linspace(0, 1, BINS + 1)[1:-1]  # a confidence on one is of the upper bin


class Confidence(NamedTuple):
    """How sure each of N samples is of its likeliest grade, and whether that is right.

    Attributes:
        chance: float64[N], the grade's probability.
        right: bool[N], whether it is the true one.
        bin: int64[N], the bin of the probability, below ``BINS``.
    """

    chance: Float64
    right: Bool
    bin: Int64

    @classmethod
    def of(cls, labels: Int64, probabilities: Float64) -> Confidence:
        """From int64[N] and float64[N, 5]."""
        chance = probabilities.max(axis=1)
        right = labels == probabilities.argmax(axis=1)
        return cls(chance, right, np.digitize(chance, _EDGES).astype(np.int64))


def calibration_errors(
    labels: Int64, probabilities: Float64, weights: Float64
) -> Float64:
    """Expected calibration errors of the likeliest grade, over ``BINS`` equal bins.

    The mean distance of a bin's confidence from its accuracy, weighted by its samples
    (Naeini et al. 2015; Guo et al. 2017).

    Args:
        labels: int64[N], 0 to 4.
        probabilities: float64[N, 5].
        weights: float64[N, R], how much each sample counts.

    Returns:
        float64[R], one for each of the weightings.
    """
    confidence = Confidence.of(labels, probabilities)
    surplus = confidence.chance - confidence.right
    sums = grouped(confidence.bin, BINS, surplus) @ weights
    return share(np.abs(sums).sum(axis=0), weights.sum(axis=0))


def calibration_error(labels: Int64, probabilities: Float64) -> float:
    """The expected calibration error where each of the N samples counts once."""
    once = np.ones((len(labels), 1))
    return float(calibration_errors(labels, probabilities, once)[0])


class Reliability(NamedTuple):
    """A reliability diagram: ``BINS`` equal bins of confidence (DeGroot 1983).

    Attributes:
        samples: number of samples in each bin.
        confidence: mean probability of the likeliest grade; None in an empty bin.
        accuracy: share of samples predicted right; None in an empty bin.
    """

    samples: list[float]
    confidence: list[float | None]
    accuracy: list[float | None]


def reliability(labels: Int64, probabilities: Float64) -> Reliability:
    """Samples, confidence and accuracy per bin; int64[N], float64[N, 5]."""
    chance, right, bins = Confidence.of(labels, probabilities)
    samples, sure, hits = (
        np.bincount(bins, values, minlength=BINS).tolist()
        for values in (np.ones(len(labels)), chance, right)
    )
    return Reliability(
        samples,
        [sum_ / n if n else None for sum_, n in zip(sure, samples, strict=True)],
        [sum_ / n if n else None for sum_, n in zip(hits, samples, strict=True)],
    )
