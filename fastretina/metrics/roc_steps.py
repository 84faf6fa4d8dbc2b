"""ROC curves of many weightings of the same samples at once (Fawcett 2006).

Samples are sorted by falling probability once, whatever their weights. Each step of the
curve goes up by the positives of some probabilities and then right by the negatives of
some lower ones; where samples of both kinds share a probability, it goes aslant. So the
number of steps is that of the rarer kind at most, and a cumulative sum along them is
the whole curve.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.sparse import csc_array

from fastretina.metrics.confusion_matrices import grouped, share
from loaders.arrays import Bool, Float64

# What the British Diabetic Association asks of screening, beside 80 % sensitivity.
FIXED_SPECIFICITY = 0.95
_ROUNDING = 1e-12


class RocScores(NamedTuple):
    """What R ROC curves tell, NaN without samples of both kinds.

    Attributes:
        area: float64[R], under the curve.
        sensitivity: float64[R], at the best threshold whose specificity is
            ``FIXED_SPECIFICITY``.
    """

    area: Float64
    sensitivity: Float64


@dataclass(frozen=True, slots=True)
class RocSteps:
    """The steps of the ROC curves of N samples, S of them.

    Attributes:
        sums: float64[2S, N], sums samples by step: the positives of each in an even
            row, its negatives in the next.
        aslant: bool[S, 1], whether a step's samples have one probability, so that no
            threshold lies between its positives and its negatives.
    """

    sums: csc_array
    aslant: Bool

    @classmethod
    def of(cls, truth: Bool, chances: Float64) -> RocSteps:
        """Sort samples into steps.

        Args:
            truth: bool[N], which samples are positive.
            chances: float64[N], their probability of being so.
        """
        levels = np.unique(-chances, return_inverse=True)[1]
        up = np.bincount(levels, truth) > 0
        right = np.bincount(levels, ~truth) > 0
        aslant = up & right
        begins = np.ones(len(up), bool)
        begins[1:] = aslant[1:] | aslant[:-1] | (up[1:] & right[:-1])
        step = np.cumsum(begins) - 1
        return cls(
            grouped(2 * step[levels] + ~truth, 2 * int(begins.sum())),
            aslant[begins, None],
        )

    def score(self, weights: Float64) -> RocScores:
        """Area and sensitivity of R weightings, float64[N, R]."""
        up, right = self._heights(weights)
        hits, alarms = up.cumsum(axis=0), right.cumsum(axis=0)
        positives, negatives = hits[-1], alarms[-1]
        below = (right * (hits - np.where(self.aslant, up / 2, 0))).sum(axis=0)
        corner = np.where(self.aslant, alarms, alarms - right)
        allowed = share(corner, negatives) <= 1 - FIXED_SPECIFICITY + _ROUNDING
        found = np.where(allowed, hits, 0).max(axis=0)
        both = np.where(negatives > 0, positives, 0)
        return RocScores(share(below, both * negatives), share(found, both))

    def curve(self) -> tuple[Float64, Float64]:
        """The corners of the curve where each sample counts once: what is drawn.

        Returns:
            Shares of false alarms and of positives found, float64[2S + 1] both.
        """
        up, right = self._heights(np.ones((self.sums.shape[1], 1)))
        hits, alarms = up.cumsum(), right.cumsum()
        corner = np.where(self.aslant, alarms[:, None], alarms[:, None] - right)
        false_alarms = np.hstack([corner, alarms[:, None]]).ravel() / alarms[-1]
        found = np.repeat(hits, 2) / hits[-1]
        return np.append(0, false_alarms), np.append(0, found)

    def _heights(self, weights: Float64) -> tuple[Float64, Float64]:
        """How far each step goes up and right, float64[S, R] both."""
        sums = self.sums @ weights
        return sums[0::2], sums[1::2]
