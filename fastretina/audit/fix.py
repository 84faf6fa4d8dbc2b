"""A split that doesn't leak: by patient, by photograph, stratified by grade."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fastretina.audit.audited_data_set import Eye
from fastretina.audit.duplicates import DuplicateGroup, components
from fastretina.data.patients import group_split


def new_split(
    eyes: Sequence[Eye], groups: Sequence[DuplicateGroup], share: float, seed: int
) -> list[Eye]:
    """The same photographs, in the same order, each with its new split.

    What hangs together stays together: the eyes of a patient, the copies of a
    photograph, and so the patients that share one.

    Args:
        eyes: all of the data set.
        groups: places in ``eyes`` that are one photograph.
        share: share of the inseparable sets to test on, above 0 and below 1.
        seed: another seed makes another split.
    """
    names = inseparable(eyes, groups)
    held_out = group_split(names, [eye.grade for eye in eyes], share, seed)
    return [
        eye._replace(split="test" if out else "train")
        for eye, out in zip(eyes, held_out.tolist(), strict=True)
    ]


def inseparable(eyes: Sequence[Eye], groups: Sequence[DuplicateGroup]) -> list[str]:
    """Name the set that each photograph must stay with, by its first patient.

    Photographs of one name can't be split: they hang together by patient or by copy.
    """
    numbers = components(range(len(eyes)), list(_bonds(eyes, groups)))
    names: dict[int, str] = {}
    for place, eye in enumerate(eyes):
        number = numbers[place]
        names[number] = min(eye.patient, names.get(number, eye.patient))
    return [names[numbers[place]] for place in range(len(eyes))]


def _bonds(
    eyes: Sequence[Eye], groups: Sequence[DuplicateGroup]
) -> Iterator[tuple[int, int]]:
    first: dict[str, int] = {}
    for place, eye in enumerate(eyes):
        yield first.setdefault(eye.patient, place), place
    for group in groups:
        for other in group.places[1:]:
            yield group.places[0], other
