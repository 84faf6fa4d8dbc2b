"""All that an audit has found, as plain numbers to judge by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastretina.audit.dataset import AuditedDataset, Eye
from fastretina.audit.duplicates import KINDS, Duplicates, Group
from fastretina.audit.headers import LabelFiles
from fastretina.audit.split_counts import Fellows, SplitNumbers

_METRICS = ("accuracy", "qwk", "balanced_accuracy", "macro_f1")


@dataclass(frozen=True, kw_only=True, slots=True)
class Audited:
    """Everything.

    Attributes:
        subject: that it was found in.
        numbers: of its split.
        fellows: how left and right agree; None where no patient has both.
        files: the course's label files; empty for other layouts.
        duplicates: None where no image was looked at.
        unreadable: reasons by place.
    """

    subject: AuditedDataset
    numbers: SplitNumbers
    fellows: Fellows | None
    files: Sequence[LabelFiles] = ()
    duplicates: Duplicates | None = None
    unreadable: Mapping[int, str] = field(default_factory=dict)

    def eyes(self, group: Group) -> list[Eye]:
        """The images of a group, as the labels have them."""
        return [self.subject.eyes[place] for place in group.places]

    @property
    def across(self) -> list[Group]:
        """Photographs that are in both splits."""
        return [g for g in self._groups if len({e.split for e in self.eyes(g)}) > 1]

    @property
    def conflicting(self) -> list[Group]:
        """Photographs that have more than one grade."""
        return [g for g in self._groups if len({e.grade for e in self.eyes(g)}) > 1]

    @property
    def leaking(self) -> list[Eye]:
        """Test images that are in train, too, by their photograph."""
        return [e for g in self.across for e in self.eyes(g) if e.split == "test"]

    @property
    def _groups(self) -> list[Group]:
        return self.duplicates.groups if self.duplicates else []

    @property
    def must_beat(self) -> dict[str, float | None] | None:
        """The best that any rule reaches without a pixel, by metric."""
        rules = self.numbers.baselines
        if rules is None:
            return None
        known = {
            name: [rule[name] for rule in rules.values() if rule[name] is not None]
            for name in _METRICS
        }
        return {name: max(values, default=None) for name, values in known.items()}

    def complaint(self) -> str | None:
        """What makes a score worth little, in a line; None if nothing does."""
        leak, faults = self.numbers.leak, []
        if leak.eyes:
            faults.append(
                f"{leak.eyes:,} of {leak.total:,} test images are of patients in train"
            )
        if self.across:
            faults.append(f"{_photographs(len(self.across))} in both splits")
        if self.conflicting:
            faults.append(f"{_photographs(len(self.conflicting))} of several grades")
        return f"{self.subject.data}: {', '.join(faults)}" if faults else None

    def summary(self) -> dict[str, Any]:
        """The numbers as the JSON line holds them."""
        subject, found = self.subject, self.duplicates
        return {
            "data": str(subject.data),
            "layout": subject.layout,
            "own_split": subject.own_split,
            "samples": len(subject.eyes),
            "patients": len({eye.patient for eye in subject.eyes}),
            **self.numbers.summary(),
            "must_beat": self.must_beat,
            "left_and_right": self.fellows._asdict() if self.fellows else None,
            "label_files": [files.summary() for files in self.files],
            "images": {
                "there": len(subject.there),
                "missing": len(subject.missing),
                "unlisted": subject.unlisted,
                "set_aside": subject.set_aside,
                "unreadable": len(self.unreadable),
                "blank": len(found.blank) if found else 0,
            },
            "duplicates": self._duplicates() if found else None,
        }

    def _duplicates(self) -> dict[str, Any]:
        groups = self._groups
        return {
            **{kind: sum(group.kind == kind for group in groups) for kind in KINDS},
            "images": sum(len(group.places) for group in groups),
            "across_splits": len(self.across),
            "test_images_in_train": len(self.leaking),
            "conflicting_grades": len(self.conflicting),
        }

    def details(self) -> dict[str, Any]:
        """Every name that the summary counts."""
        eyes, found = self.subject.eyes, self.duplicates
        return {
            "missing": self.subject.missing,
            "unreadable": {eyes[p].name: why for p, why in self.unreadable.items()},
            "blank": [eyes[place].name for place in found.blank] if found else [],
            "groups": [self._group(group) for group in self._groups],
        }

    def _group(self, group: Group) -> dict[str, Any]:
        eyes = self.subject.eyes
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


def _photographs(number: int) -> str:
    return "1 photograph" if number == 1 else f"{number:,} photographs"
