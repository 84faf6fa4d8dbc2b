"""What the labels alone say of a split: how many, of whom, and what needs no pixel."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import chi2_contingency

from fastretina.audit.dataset import Eye
from fastretina.metrics.baselines import Eyes, Leak, baselines, leak
from fastretina.metrics.scores import quadratic_kappa
from loaders.grades import GRADES
from loaders.shards import SPLITS


class Difference(NamedTuple):
    """Whether two splits have the same shares of the grades: Pearson's chi-squared.

    It takes eyes for independent, which those of a patient are not: where it finds no
    difference there is none, and a small one may be chance all the same.

    Attributes:
        statistic: chi-squared.
        degrees: of freedom.
        p: of a statistic as large, were the shares the same.
        largest: gap of a grade's shares, 0 to 1.
        grade: that has it.
        few: whether a count below 5 is expected somewhere, which makes ``p`` rough.
    """

    statistic: float
    degrees: int
    p: float
    largest: float
    grade: int
    few: bool


class Fellows(NamedTuple):
    """How the two eyes of the patients agree who have both.

    Attributes:
        pairs: of them.
        same: of one grade.
        near: of one grade, or the next one.
        qwk: of left and right; None where all are of one grade.
    """

    pairs: int
    same: int
    near: int
    qwk: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitNumbers:
    """Train and test in numbers.

    Attributes:
        counts: images of each grade, by split.
        patients: by split.
        shared: patients in both.
        leak: test images whose fellow eye is in train.
        difference: of the grades' shares; None where a split or all grades but one are
            empty.
        baselines: what is scored without a pixel, as ``metrics.baselines`` tells;
            None where a split is empty.
    """

    counts: Mapping[str, Sequence[int]]
    patients: Mapping[str, int]
    shared: int
    leak: Leak
    difference: Difference | None
    baselines: Mapping[str, Mapping[str, Any]] | None

    @property
    def images(self) -> dict[str, int]:
        """By split."""
        return {split: sum(counts) for split, counts in self.counts.items()}

    def summary(self) -> dict[str, Any]:
        """As the JSON line holds it."""
        return {
            "splits": {
                split: {
                    "images": sum(counts),
                    "patients": self.patients[split],
                    "grades": {str(g): count for g, count in enumerate(counts)},
                }
                for split, counts in self.counts.items()
            },
            "patients_in_both": self.shared,
            "leak": {**self.leak._asdict(), "share": self.leak.share},
            "shares_differ": self.difference._asdict() if self.difference else None,
            "baselines": self.baselines,
        }


def numbers(eyes: Sequence[Eye]) -> SplitNumbers:
    """Count what is listed, by its split."""
    parts = {split: [eye for eye in eyes if eye.split == split] for split in SPLITS}
    known = {split: as_eyes(part) for split, part in parts.items()}
    patients = {split: {eye.patient for eye in part} for split, part in parts.items()}
    counts = {split: grade_counts(part) for split, part in parts.items()}
    train, test = known["train"], known["test"]
    both = bool(parts["train"] and parts["test"])
    return SplitNumbers(
        counts=counts,
        patients={split: len(found) for split, found in patients.items()},
        shared=len(patients["train"] & patients["test"]),
        leak=leak(train, test),
        difference=difference(counts["train"], counts["test"]),
        baselines={k: v._asdict() for k, v in baselines(train, test).items()}
        if both
        else None,
    )


def as_eyes(eyes: Sequence[Eye]) -> Eyes:
    """The same in columns."""
    return Eyes(
        names=[eye.name for eye in eyes],
        patients=[eye.patient for eye in eyes],
        sides=[eye.side for eye in eyes],
        labels=np.array([eye.grade for eye in eyes], np.int64),
    )


def grade_counts(eyes: Sequence[Eye]) -> list[int]:
    """Images of each grade, 0 to 4."""
    seen = Counter(eye.grade for eye in eyes)
    return [seen[grade] for grade in range(len(GRADES))]


def difference(train: Sequence[int], test: Sequence[int]) -> Difference | None:
    """Hold the grades' shares of two splits against one another, by counts."""
    table = np.array([train, test])
    there = np.flatnonzero(table.sum(axis=0))
    if len(there) < 2 or not table.sum(axis=1).all():
        return None
    found = chi2_contingency(table[:, there], correction=False)
    gaps = np.abs(np.diff(table / table.sum(axis=1, keepdims=True), axis=0))[0]
    return Difference(
        statistic=float(found.statistic),
        degrees=int(found.dof),
        p=float(found.pvalue),
        largest=float(gaps.max()),
        grade=int(gaps.argmax()),
        few=bool(found.expected_freq.min() < 5),
    )


def fellows(eyes: Sequence[Eye]) -> Fellows | None:
    """Compare left and right; None where no patient has both."""
    sides: dict[str, dict[str, int]] = {}
    for eye in eyes:
        if eye.side:
            sides.setdefault(eye.patient, {})[eye.side] = eye.grade
    both = [(p["left"], p["right"]) for p in sides.values() if len(p) == 2]
    if not both:
        return None
    left, right = np.array(both, np.int64).T
    gaps = np.abs(left - right)
    return Fellows(
        pairs=len(both),
        same=int((gaps == 0).sum()),
        near=int((gaps <= 1).sum()),
        qwk=quadratic_kappa(left, right),
    )
