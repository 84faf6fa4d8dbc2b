"""What can be scored without looking at a pixel, and whether a split invites it.

The course's split is by image: 5,618 of its 7,026 test eyes have their fellow eye among
the training images, and copying that eye's label scores 84.7 %, more than the best
network of the course report. No score says anything until it stands beside these.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fastretina.metrics.both_eyes import FELLOW
from fastretina.metrics.scores import score_grades
from loaders.arrays import Int64

if TYPE_CHECKING:
    from loaders.shards import ShardSplit


@dataclass(frozen=True, kw_only=True, slots=True)
class Eyes:
    """A split's N images as its labels list them.

    Attributes:
        names: the image names, N of them.
        patients: the patient that each image is of.
        sides: ``left``, ``right``, or empty where the name tells no eye.
        labels: int64[N], the grades.
        patient_known: whether each patient is known; left out, where the eye is.
    """

    names: Sequence[str]
    patients: Sequence[str]
    sides: Sequence[str]
    labels: Int64
    patient_known: Sequence[bool] = ()

    def __post_init__(self) -> None:
        if len(self.patient_known) != len(self.sides):
            known = [bool(side) for side in self.sides]
            object.__setattr__(self, "patient_known", known)

    @classmethod
    def of(cls, split: ShardSplit, rows: Int64 | None = None) -> Eyes:
        """The images in these rows of a split's index, int64[N]; by default its own."""
        chosen = (split.rows if rows is None else rows).astype(np.int64)
        columns = ("key", "patient", "eye", "patient_known")
        key, patient, eye, known = (split.column(name) for name in columns)
        return cls(
            names=[key[row] for row in chosen],
            patients=[patient[row] for row in chosen],
            sides=[eye[row] for row in chosen],
            labels=split.labels[chosen],
            patient_known=[known[row] for row in chosen],
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Leak:
    """Test eyes of patients that the training images show.

    Attributes:
        eyes: number of test images whose patient is in train, too.
        total: number of test images.
        unknown: number of training and test images whose patient is unknown; None of
            an older evaluation, which did not count them.
    """

    eyes: int
    total: int
    unknown: int | None = None

    @property
    def share(self) -> float:
        """Share of the test images that leak, 0 to 1."""
        return self.eyes / self.total if self.total else 0.0

    def warning(self) -> str | None:
        """A sentence of what leaks and what mends it; None where nothing does."""
        if not self.eyes:
            return None
        return (
            f"the split leaks: {self.eyes:,} of {self.total:,} test images "
            f"({self.share:.1%}) are of patients whose other eye is in train, so a "
            "score is partly memory; fastretina audit DATA --fix OUT writes "
            "a split by patient"
        )

    def doubt(self) -> str | None:
        """A sentence of what can't be told; None where every patient is known."""
        if not self.unknown:
            return None
        return (
            f"the patients of {self.unknown:,} photographs, of train or of test, are "
            "not known: whether one is in both can't be told, and the intervals take "
            "each photograph for a patient of its own; fastretina shard "
            "--patient-column or --patient-pattern says who is whose"
        )


def leak(train: Eyes, test: Eyes) -> Leak:
    """Count test images of patients in train, of the patients who are known."""
    there = {
        patient
        for patient, known in zip(train.patients, train.patient_known, strict=True)
        if known
    }
    both = zip(test.patients, test.patient_known, strict=True)
    leaking = sum(known and patient in there for patient, known in both)
    unknown = [*train.patient_known, *test.patient_known].count(False)
    return Leak(eyes=leaking, total=len(test.patients), unknown=unknown)


def majority(train: Eyes, test: Eyes) -> Int64:
    """The commonest training grade, for each of the N test images: int64[N]."""
    return np.full(len(test.labels), _commonest(train))


def fellow_eye(train: Eyes, test: Eyes) -> Int64:
    """The label of the same patient's other eye, if it is in train, else 0: int64[N].

    Grade 0 and not the commonest one, as the rule was first published; the two are the
    same on any set that people have.
    """
    known = {
        (patient, side): int(label)
        for patient, side, label in zip(
            train.patients, train.sides, train.labels, strict=True
        )
        if side
    }
    return np.array(
        [
            known.get((patient, FELLOW.get(side, "")), 0)
            for patient, side in zip(test.patients, test.sides, strict=True)
        ],
        np.int64,
    )


def _commonest(train: Eyes) -> int:
    grade: int = Counter(train.labels.tolist()).most_common(1)[0][0]
    return grade


BASELINES = {
    "majority": ("the commonest grade for all", majority),
    "fellow_eye": ("the fellow eye's training label, else 0", fellow_eye),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Baseline:
    """What a rule scores that looks at no pixel.

    Attributes:
        about: the rule in words.
        accuracy: share of test images with the true grade predicted, 0 to 1.
        qwk: quadratic weighted kappa, -1 to 1; None where it is undefined.
        balanced_accuracy: mean recall over the grades that test holds, 0 to 1.
        macro_f1: mean F1 over the grades that test holds, 0 to 1.
    """

    about: str
    accuracy: float
    qwk: float | None
    balanced_accuracy: float
    macro_f1: float


def baselines(train: Eyes, test: Eyes) -> dict[str, Baseline]:
    """The scores of each of ``BASELINES`` on test, by its name."""
    result = {}
    for name, (about, rule) in BASELINES.items():
        scores = score_grades(test.labels, rule(train, test))
        result[name] = Baseline(
            about=about,
            accuracy=scores.accuracy,
            qwk=scores.qwk,
            balanced_accuracy=scores.balanced_accuracy,
            macro_f1=scores.macro_f1,
        )
    return result
