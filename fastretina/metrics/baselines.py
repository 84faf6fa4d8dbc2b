"""What can be scored without looking at a pixel, and whether a split invites it.

The course's split is by image: 5,618 of its 7,026 test eyes have their fellow eye among
the training images, and copying that eye's label scores 84.7 %, more than the best
network of the course report. No score says anything until it stands beside these.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fastretina.metrics.scores import score_grades
from loaders.arrays import Int64

if TYPE_CHECKING:
    from loaders.shards import ShardSplit


@dataclass(frozen=True, kw_only=True, slots=True)
class Eyes:
    """What the labels say of a split.

    Attributes:
        names: of the images.
        patients: whose eyes they are.
        sides: ``left``, ``right`` or empty.
        labels: int64[N], the grades.
    """

    names: Sequence[str]
    patients: Sequence[str]
    sides: Sequence[str]
    labels: Int64

    @classmethod
    def of(cls, split: ShardSplit, rows: Int64 | None = None) -> Eyes:
        """Of these rows of a split's index, int64[n]; by default of its own."""
        chosen = (split.rows if rows is None else rows).astype(np.int64)
        key, patient, eye = (split.column(name) for name in ("key", "patient", "eye"))
        return cls(
            names=[key[row] for row in chosen],
            patients=[patient[row] for row in chosen],
            sides=[eye[row] for row in chosen],
            labels=split.labels[chosen],
        )


class Leak(NamedTuple):
    """Test eyes of patients that the training images show.

    Attributes:
        eyes: that many of the test images.
        total: all test images.
    """

    eyes: int
    total: int

    @property
    def share(self) -> float:
        """0 to 1."""
        return self.eyes / self.total if self.total else 0.0

    def warning(self) -> str | None:
        """A sentence, where the split leaks."""
        if not self.eyes:
            return None
        return (
            f"the split leaks: {self.eyes:,} of {self.total:,} test images "
            f"({self.share:.1%}) are of patients whose other eye is in train, so a "
            "score is partly memory; python -m fastretina.audit DATA --fix OUT writes "
            "a split by patient"
        )


def leak(train: Eyes, test: Eyes) -> Leak:
    """Test images of patients in train; a name that tells no eye is nobody's."""
    known = {p for p, side in zip(train.patients, train.sides, strict=True) if side}
    both = zip(test.patients, test.sides, strict=True)
    found = sum(bool(side) and patient in known for patient, side in both)
    return Leak(found, len(test.patients))


def majority(train: Eyes, test: Eyes) -> Int64:
    """The commonest training grade, for each of the N test images: int64[N]."""
    return np.full(len(test.labels), _commonest(train))


def fellow_eye(train: Eyes, test: Eyes) -> Int64:
    """The label of the same patient's other eye, if it is in train, else 0: int64[N].

    Grade 0 and not the commonest one, as the rule was first told; the two are the same
    on any set that people have.
    """
    known = {
        (patient, side): int(label)
        for patient, side, label in zip(
            train.patients, train.sides, train.labels, strict=True
        )
        if side
    }
    other = {"left": "right", "right": "left"}
    return np.array(
        [
            known.get((patient, other.get(side, "")), 0)
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


def baselines(train: Eyes, test: Eyes) -> dict[str, dict[str, Any]]:
    """Accuracy, QWK and balanced accuracy of each pixel-free rule, by its name."""
    found = {}
    for name, (about, rule) in BASELINES.items():
        scores = score_grades(test.labels, rule(train, test))
        kept = ("accuracy", "qwk", "balanced_accuracy", "macro_f1")
        found[name] = {"about": about, **{key: scores[key] for key in kept}}
    return found
