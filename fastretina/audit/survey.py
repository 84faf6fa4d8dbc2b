"""Audit a data set: look at the labels, then at the images, and keep the numbers.

labels ---+--> split_counts: grades, patients, fellow eyes, baselines ---+
|                                                              |
+--> headers: what the label files lose                     AuditResult
|
images --> fingerprints --> duplicates: same bytes, pixels, look --------'
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from fastretina.audit.audited_data_set import AuditedDataSet, Eye
from fastretina.audit.duplicates import (
    KINDS,
    DuplicateGroup,
    Duplicates,
    find_duplicates,
)
from fastretina.audit.fingerprints import Fingerprints, take_fingerprints
from fastretina.audit.headers import LabelFiles, read_label_files
from fastretina.audit.split_counts import (
    FellowEyes,
    SplitNumbers,
    as_columns,
    compare_fellow_eyes,
    split_numbers,
)
from fastretina.formatting import format_count
from fastretina.metrics.fellow_agreement import ChanceAgreement, find_chance_agreement
from loaders.shards import SPLITS


class BestBaseline(NamedTuple):
    """The best score of each kind that any rule reaches without a pixel.

    Attributes:
        accuracy: share of test images with the true grade predicted, 0 to 1.
        qwk: quadratic weighted kappa, -1 to 1; None where it is undefined.
        balanced_accuracy: mean recall over the grades that test holds, 0 to 1.
        macro_f1: mean F1 over the grades that test holds, 0 to 1.
    """

    accuracy: float
    qwk: float | None
    balanced_accuracy: float
    macro_f1: float


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditResult:
    """All that an audit has measured.

    Attributes:
        data_set: the data set that was audited.
        numbers: train and test in numbers.
        fellows: how left and right agree; None where no patient has both.
        by_chance: split to its fellow eyes that agree by chance, where there are some.
        files: the course's label files; empty for other layouts.
        duplicates: photographs that are there twice; None if no image was looked at.
        unreadable: an image's place to the reason why it can't be decoded.
    """

    data_set: AuditedDataSet
    numbers: SplitNumbers
    fellows: FellowEyes | None
    by_chance: Mapping[str, ChanceAgreement] = field(default_factory=dict)
    files: Sequence[LabelFiles] = ()
    duplicates: Duplicates | None = None
    unreadable: Mapping[int, str] = field(default_factory=dict)

    def eyes(self, group: DuplicateGroup) -> list[Eye]:
        """The images of a group, as the labels have them."""
        return [self.data_set.eyes[place] for place in group.places]

    def chance_agreements(self) -> dict[str, tuple[ChanceAgreement, Eye]]:
        """Split to its fellow eyes that agree by chance, and the first of them."""
        parts = _by_split(self.data_set.eyes)
        return {
            split: (found, parts[split][found.first])
            for split, found in self.by_chance.items()
        }

    @property
    def across(self) -> list[DuplicateGroup]:
        """Photographs that are in both splits."""
        return [g for g in self._groups if len({e.split for e in self.eyes(g)}) > 1]

    @property
    def conflicting(self) -> list[DuplicateGroup]:
        """Photographs that have more than one grade."""
        return [g for g in self._groups if len({e.grade for e in self.eyes(g)}) > 1]

    @property
    def leaking(self) -> list[Eye]:
        """Test images that are in train, too, by their photograph."""
        return [e for g in self.across for e in self.eyes(g) if e.split == "test"]

    @property
    def _groups(self) -> list[DuplicateGroup]:
        return self.duplicates.groups if self.duplicates else []

    @property
    def must_beat(self) -> BestBaseline | None:
        """The best that any rule reaches without a pixel; None with an empty split."""
        if self.numbers.baselines is None:
            return None
        rules = self.numbers.baselines.values()
        kappas = [rule.qwk for rule in rules if rule.qwk is not None]
        return BestBaseline(
            accuracy=max(rule.accuracy for rule in rules),
            qwk=max(kappas, default=None),
            balanced_accuracy=max(rule.balanced_accuracy for rule in rules),
            macro_f1=max(rule.macro_f1 for rule in rules),
        )

    def complaint(self) -> str | None:
        """What makes a score worth little, in a line; None if nothing does."""
        leak, faults = self.numbers.leak, []
        if leak.eyes:
            faults.append(
                f"{leak.eyes:,} of {leak.total:,} test images are of patients in train"
            )
        if self.across:
            copies = format_count(len(self.across), "photograph")
            faults.append(f"{copies} in both splits")
        if self.conflicting:
            several = format_count(len(self.conflicting), "photograph")
            faults.append(f"{several} of several grades")
        return f"{self.data_set.data}: {', '.join(faults)}" if faults else None

    def summary(self) -> dict[str, object]:
        """The audit's part of the JSON line."""
        data_set, duplicates = self.data_set, self.duplicates
        return {
            "data": str(data_set.data),
            "layout": data_set.layout,
            "own_split": data_set.own_split,
            "samples": len(data_set.eyes),
            "patients": len({eye.patient for eye in data_set.eyes if eye.known}),
            "patients_unknown": sum(not eye.known for eye in data_set.eyes),
            "patients_identified_from": data_set.patients,
            **self.numbers.summary(),
            "must_beat": self.must_beat._asdict() if self.must_beat else None,
            "images": {
                "there": len(data_set.there),
                "missing": len(data_set.missing),
                "left_out": {e.reason: len(e.names) for e in data_set.left_out},
                "set_aside": data_set.set_aside,
                "unreadable": len(self.unreadable),
                "blank": len(duplicates.blank) if duplicates else 0,
            },
            "duplicates": self._duplicates() if duplicates else None,
        }

    def _duplicates(self) -> dict[str, object]:
        groups = self._groups
        return {
            **{kind: sum(group.kind == kind for group in groups) for kind in KINDS},
            "images": sum(len(group.places) for group in groups),
            "across_splits": len(self.across),
            "test_images_in_train": len(self.leaking),
            "conflicting_grades": len(self.conflicting),
        }

    def details(self) -> dict[str, object]:
        """What the summary has no room for: all numbers, and every name."""
        eyes, duplicates = self.data_set.eyes, self.duplicates
        blank = duplicates.blank if duplicates else []
        return {
            **self.numbers.details(),
            "left_and_right": self.fellows._asdict() if self.fellows else None,
            "agree_by_chance": {
                split: {**found._asdict(), "first": first.name}
                for split, (found, first) in self.chance_agreements().items()
            },
            "label_files": [files.summary() for files in self.files],
            "missing": self.data_set.missing,
            "left_out": {e.reason: list(e.names) for e in self.data_set.left_out},
            "unreadable": {eyes[p].name: why for p, why in self.unreadable.items()},
            "blank": [eyes[place].name for place in blank],
            "groups": [self._group(group) for group in self._groups],
        }

    def _group(self, group: DuplicateGroup) -> dict[str, object]:
        eyes = self.data_set.eyes
        members = self.eyes(group)
        return {
            "same": group.kind,
            "across_splits": len({eye.split for eye in members}) > 1,
            "conflicting_grades": len({eye.grade for eye in members}) > 1,
            "images": [
                {"name": eye.name, "split": eye.split, "grade": eye.grade}
                for eye in members
            ],
            "links": [
                {
                    "one": eyes[link.one].name,
                    "other": eyes[link.other].name,
                    "same": link.kind,
                    "other_is": link.how or None,
                    "agreement": link.agreement,
                }
                for link in group.links
            ],
        }


def audit_data_set(
    data_set: AuditedDataSet, *, look: bool, workers: int
) -> AuditResult:
    """Audit a data set.

    Args:
        data_set: the data set to audit.
        look: whether to look at the images that are there.
        workers: number of threads that look at images.

    Raises:
        DataError: its files changed under our hands, or its shards are damaged.
    """
    duplicates, prints = None, Fingerprints({}, {})
    if look and data_set.there:
        prints = take_fingerprints(data_set.read, data_set.there, workers)
        duplicates = find_duplicates(prints.by_place, data_set.read, workers)
    return AuditResult(
        data_set=data_set,
        numbers=split_numbers(data_set.eyes),
        fellows=compare_fellow_eyes(data_set.eyes),
        by_chance=dict(_find_by_chance(data_set.eyes)),
        files=read_label_files(data_set.data, data_set.layout),
        duplicates=duplicates,
        unreadable=prints.unreadable,
    )


def _find_by_chance(eyes: Sequence[Eye]) -> Iterator[tuple[str, ChanceAgreement]]:
    for split, part in _by_split(eyes).items():
        columns = as_columns(part)
        found = find_chance_agreement(columns.patients, columns.sides, columns.labels)
        if found is not None:
            yield split, found


def _by_split(eyes: Sequence[Eye]) -> dict[str, list[Eye]]:
    """Each split's photographs, in the order of their file."""
    return {split: [eye for eye in eyes if eye.split == split] for split in SPLITS}
