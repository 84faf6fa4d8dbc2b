"""What the labels alone say of a split: how many, of whom, and what needs no pixel."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np
from scipy.stats import chi2_contingency

from fastretina.audit.audited_data_set import Eye
from fastretina.metrics.baselines import Baseline, Eyes, Leak, baselines, leak
from fastretina.metrics.scores import quadratic_kappa
from loaders.grades import GRADES
from loaders.shards import SPLITS


class GradeDifference(NamedTuple):
    """Whether two splits have the same shares of the grades: Pearson's chi-squared.

    It takes eyes for independent, which those of a patient are not: where it finds no
    difference there is none, and a small one may be chance all the same.

    Attributes:
        statistic: chi-squared.
        degrees: degrees of freedom.
        p: probability of a statistic as large, were the shares the same.
        largest: the largest gap between the two shares of a grade, 0 to 1.
        grade: the grade with the largest gap.
        few: whether a count below 5 is expected somewhere, which makes ``p`` rough.
    """

    statistic: float
    degrees: int
    p: float
    largest: float
    grade: int
    few: bool


class FellowEyes(NamedTuple):
    """How the two eyes agree, of the patients who have both.

    Attributes:
        pairs: number of such patients.
        same: number of pairs with the same grade.
        near: number of pairs whose grades differ by 1 at most.
        qwk: quadratic weighted kappa of left against right; None where all are of one
            grade.
    """

    pairs: int
    same: int
    near: int
    qwk: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitNumbers:
    """Train and test in numbers.

    Attributes:
        counts: split to the number of images of each grade, 0 to 4.
        patients: split to the number of patients who are known.
        unknown: split to the number of images whose patient is unknown.
        shared: number of patients in both splits.
        leak: test images whose fellow eye is in train.
        difference: how the grades' shares differ; None where a split or all grades but
            one are empty.
        baselines: rule to its scores, as ``metrics.baselines.baselines`` gives them;
            None where a split is empty.
    """

    counts: Mapping[str, Sequence[int]]
    patients: Mapping[str, int]
    unknown: Mapping[str, int]
    shared: int
    leak: Leak
    difference: GradeDifference | None
    baselines: Mapping[str, Baseline] | None

    @property
    def images(self) -> dict[str, int]:
        """Split to the number of images."""
        return {split: sum(counts) for split, counts in self.counts.items()}

    def summary(self) -> dict[str, object]:
        """The split's part of the JSON line."""
        return {
            "splits": {
                split: {
                    "images": sum(counts),
                    "patients": self.patients[split],
                    "patients_unknown": self.unknown[split],
                    "grades": {str(g): count for g, count in enumerate(counts)},
                }
                for split, counts in self.counts.items()
            },
            "patients_in_both": self.shared,
            "leak": {**asdict(self.leak), "share": self.leak.share},
        }

    def details(self) -> dict[str, object]:
        """What of the split is too long for that line."""
        return {
            "shares_differ": self.difference._asdict() if self.difference else None,
            "baselines": self.baselines
            and {name: asdict(rule) for name, rule in self.baselines.items()},
        }


def split_numbers(eyes: Sequence[Eye]) -> SplitNumbers:
    """Count images and patients by their split, and compare the splits."""
    parts = {split: [eye for eye in eyes if eye.split == split] for split in SPLITS}
    known = {split: as_columns(part) for split, part in parts.items()}
    patients = {
        split: {eye.patient for eye in part if eye.known}
        for split, part in parts.items()
    }
    counts: dict[str, list[int]] = {s: grade_counts(part) for s, part in parts.items()}
    train, test = known["train"], known["test"]
    both = bool(parts["train"] and parts["test"])
    return SplitNumbers(
        counts=counts,
        patients={split: len(names) for split, names in patients.items()},
        unknown={s: sum(not eye.known for eye in part) for s, part in parts.items()},
        shared=len(patients["train"] & patients["test"]),
        leak=leak(train, test),
        difference=grade_difference(counts["train"], counts["test"]),
        baselines=baselines(train, test) if both else None,
    )


def as_columns(eyes: Sequence[Eye]) -> Eyes:
    """The eyes as columns, of one length."""
    return Eyes(
        names=[eye.name for eye in eyes],
        patients=[eye.patient for eye in eyes],
        sides=[eye.side for eye in eyes],
        labels=np.array([eye.grade for eye in eyes], np.int64),
        patient_known=[eye.known for eye in eyes],
    )


def grade_counts(eyes: Sequence[Eye]) -> list[int]:
    """Number of images of each grade, 0 to 4."""
    seen = Counter(eye.grade for eye in eyes)
    return [seen[grade] for grade in range(len(GRADES))]


def grade_difference(
    train: Sequence[int], test: Sequence[int]
) -> GradeDifference | None:
    """Compare the grades' shares of two splits, by their counts of each grade."""
    table = np.array([train, test])
    there = np.flatnonzero(table.sum(axis=0))
    if len(there) < 2 or not table.sum(axis=1).all():
        return None
    tested = chi2_contingency(table[:, there], correction=False)
    gaps = np.abs(np.diff(table / table.sum(axis=1, keepdims=True), axis=0))[0]
    return GradeDifference(
        statistic=float(tested.statistic),
        degrees=int(tested.dof),
        p=float(tested.pvalue),
        largest=float(gaps.max()),
        grade=int(gaps.argmax()),
        few=bool(tested.expected_freq.min() < 5),
    )


def compare_fellow_eyes(eyes: Sequence[Eye]) -> FellowEyes | None:
    """Compare the grades of left and right; None where no patient has both."""
    sides: dict[str, dict[str, int]] = {}
    for eye in eyes:
        if eye.side:
            sides.setdefault(eye.patient, {})[eye.side] = eye.grade
    both = [(p["left"], p["right"]) for p in sides.values() if len(p) == 2]
    if not both:
        return None
    left, right = np.array(both, np.int64).T
    gaps = np.abs(left - right)
    return FellowEyes(
        pairs=len(both),
        same=int((gaps == 0).sum()),
        near=int((gaps <= 1).sum()),
        qwk=quadratic_kappa(left, right),
    )
