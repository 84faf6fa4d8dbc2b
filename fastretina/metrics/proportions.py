"""Exact intervals of shares of few cases, of which a bootstrap promises too much.

Where 3 of 3 are found, every resample finds all of them, and the percentile interval is
[1, 1]. Clopper and Pearson's (1934) inverts the binomial test and covers the truth at
least as often as it says, however few there are. Two eyes of a patient are not two
independent cases: as Korn and Graubard (1998) do for surveys, the cases count as an
effective number (Kish 1965), here as if all eyes of a patient agreed. So it is rather
too wide than too narrow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import betaincinv

from loaders.arrays import Bool, Float64, Int64
from loaders.grades import GRADES, REFERABLE, SIGHT_THREATENING

# Of fewer than 30 the US health statistics publish no share (Parker et al. 2017); with
# 5 of a kind the normal approximation is held to begin (Brown, Cai, DasGupta 2001).
FEW_PATIENTS, FEW_CASES = 30, 5
_TAIL = 0.025


class Share(NamedTuple):
    """A score that is a share of cases.

    Attributes:
        cases: bool[N], the samples that it is a share of.
        hits: bool[N], the samples that count; or float64[N], how much of each does.
    """

    cases: Bool
    hits: Bool | Float64


def shares_of(labels: Int64, predicted: Int64) -> dict[str, Share]:
    """Every score of predicted grades that is a share of cases, by its name.

    A grade's is ``recall.3``, a cut's ``referable.sensitivity``.

    Args:
        labels: int64[N], 0 to 4.
        predicted: int64[N], 0 to 4.
    """
    shares = {"accuracy": accuracy_share(labels, predicted)}
    for grade in range(len(GRADES)):
        true, said = labels == grade, predicted == grade
        shares[f"recall.{grade}"] = Share(true, said)
        shares[f"precision.{grade}"] = Share(said, true)
    for cut, least in (
        ("referable", REFERABLE),
        ("sight_threatening", SIGHT_THREATENING),
    ):
        true, said = labels >= least, predicted >= least
        shares[f"{cut}.sensitivity"] = Share(true, said)
        shares[f"{cut}.specificity"] = Share(~true, ~said)
    return shares


def accuracy_share(labels: Int64, *seeds: Int64) -> Share:
    """The accuracy of predicted grades, int64[N], as a mean where there are several."""
    right = [labels == predicted for predicted in seeds]
    return Share(np.ones(len(labels), bool), np.mean(right, axis=0))


def exact_intervals(
    shares: Mapping[str, Share], patients: Sequence[str]
) -> dict[str, tuple[float, float]]:
    """The exact 95 % intervals of those shares that have few cases, by name.

    Few are fewer than ``FEW_PATIENTS`` patients with a case, or fewer than
    ``FEW_CASES`` that count or that don't. A share without a case has none; and where
    all samples are of one patient, nothing has.

    Args:
        shares: by their names.
        patients: the patient of each of the N samples.
    """
    names, whose = np.unique(patients, return_inverse=True)
    if len(names) < 2:
        return {}
    found = {}
    for name, (cases, hits) in shares.items():
        eyes = np.bincount(whose[cases])
        eyes = eyes[eyes > 0]
        if not len(eyes):
            continue
        number = float(eyes.sum() ** 2 / (eyes**2).sum())
        right = float(np.mean(hits[cases])) * number
        if len(eyes) < FEW_PATIENTS or min(right, number - right) < FEW_CASES:
            found[name] = clopper_pearson(right, number)
    return found


def clopper_pearson(right: float, number: float) -> tuple[float, float]:
    """The exact 95 % interval of ``right`` of ``number`` cases, which may be broken."""
    wrong = number - right
    low = float(betaincinv(right, wrong + 1, _TAIL)) if right > 0 else 0.0
    high = float(betaincinv(right + 1, wrong, 1 - _TAIL)) if wrong > 0 else 1.0
    return low, high
