"""What is fitted on validation after training: temperature, thresholds; and the prior.

None of it touches the network, and none of it may see a test sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from msgspec import Meta
from scipy.optimize import minimize, minimize_scalar
from scipy.special import softmax

from fastretina.metrics.reliability import calibration_error
from fastretina.metrics.scores import quadratic_kappa
from fastretina.ranges import Count, Fraction, Statistic
from loaders.arrays import Float64, Int64
from loaders.grades import GRADES

_HOTTEST = 20.0  # beyond which all grades look alike
_TINY = 1e-12
_HALVES = np.arange(len(GRADES) - 1) + 0.5
_CUTS = Meta(min_length=len(GRADES) - 1, max_length=len(GRADES) - 1)  # if read


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """Temperature and thresholds that were fitted on a validation split.

    Attributes:
        temperature: what the log-probabilities are divided by (Guo et al. 2017).
        thresholds: four cuts of the expected grade: below the first is grade 0.
        samples: number of validation images that they were fitted on.
        error_before: expected calibration error on these images as they came.
        error_after: expected calibration error on these images with the temperature.
    """

    temperature: Annotated[float, Meta(gt=0, le=1000)]
    thresholds: Annotated[tuple[Statistic, ...], _CUTS]
    samples: Count
    error_before: Fraction
    error_after: Fraction

    def cooled(self, probabilities: Float64) -> Float64:
        """Calibrated probabilities, float64[N, 5]; the likeliest grades stay."""
        return cool(probabilities, self.temperature)

    def grades(self, probabilities: Float64) -> Int64:
        """Grades int64[N] by the thresholds, from probabilities float64[N, 5]."""
        return cut(expected_grade(probabilities), self.thresholds)


def calibrate(labels: Int64, probabilities: Float64) -> Calibration:
    """Fit temperature and thresholds on a validation split.

    Args:
        labels: int64[N].
        probabilities: float64[N, 5].
    """
    temperature = fit_temperature(labels, probabilities)
    thresholds = fit_thresholds(labels, probabilities)
    return Calibration(
        temperature=temperature,
        thresholds=tuple(thresholds.tolist()),
        samples=len(labels),
        error_before=calibration_error(labels, probabilities),
        error_after=calibration_error(labels, cool(probabilities, temperature)),
    )


def cool(probabilities: Float64, temperature: float) -> Float64:
    """Probabilities float64[N, 5], their logarithms divided by ``temperature``."""
    cooled: Float64 = softmax(
        np.log(np.maximum(probabilities, _TINY)) / temperature, axis=1
    )
    return cooled


def fit_temperature(labels: Int64, probabilities: Float64) -> float:
    """The temperature of the least log-loss, 1 / 20 to 20 (Guo et al. 2017)."""

    def loss(log_temperature: float) -> float:
        cooled = cool(probabilities, float(np.exp(log_temperature)))
        chosen = cooled[np.arange(len(labels)), labels]
        return float(-np.log(np.maximum(chosen, _TINY)).mean())

    end = float(np.log(_HOTTEST))
    return float(np.exp(minimize_scalar(loss, bounds=(-end, end), method="bounded").x))


def expected_grade(probabilities: Float64) -> Float64:
    """The mean grade float64[N] under probabilities float64[N, 5]."""
    mean: Float64 = probabilities @ np.arange(probabilities.shape[1])
    return mean


def cut(expected: Float64, thresholds: npt.ArrayLike) -> Int64:
    """Grades int64[N]: how many thresholds each of float64[N] has reached."""
    return np.digitize(expected, np.sort(thresholds)).astype(np.int64)


def fit_thresholds(labels: Int64, probabilities: Float64) -> Float64:
    """The four thresholds of the best QWK, sorted, by Nelder and Mead from the halves.

    Where nothing is better than rounding, they stay at the halves.
    """
    expected = expected_grade(probabilities)

    def disagreement(thresholds: npt.NDArray[Any]) -> float:
        kappa = quadratic_kappa(labels, cut(expected, thresholds))
        return 0.0 if kappa is None else -kappa  # of one grade, no cut is better

    # Steps are flat between samples: a simplex smaller than 0.2 would not see one.
    simplex = np.vstack([_HALVES, _HALVES + 0.25 * np.eye(len(_HALVES))])
    fit = minimize(
        disagreement,
        _HALVES,
        method="Nelder-Mead",
        options={"initial_simplex": simplex, "xatol": 1e-3, "fatol": 1e-6},
    )
    better = fit.fun < disagreement(_HALVES)
    return np.sort(fit.x) if better else _HALVES.copy()


def correct_prior(probabilities: Float64, weights: Sequence[float]) -> Float64:
    """Undo a weighted loss: subtract the log-weights from the logits (Elkan 2001).

    A network trained with class weights answers for a world whose grades are as
    frequent as count times weight; this brings back the world of the training set.

    Args:
        probabilities: float64[N, 5].
        weights: the weight of each grade in the loss, five of them.
    """
    back = probabilities / np.maximum(np.asarray(weights, np.float64), _TINY)
    corrected: Float64 = back / back.sum(axis=1, keepdims=True)
    return corrected
