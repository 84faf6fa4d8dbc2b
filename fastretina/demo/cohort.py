"""A made-up cohort: which patient has which eyes, grades and split, by a seed alone.

Most eyes come in pairs, and most pairs share their grade; no patient is in both splits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fastretina.demo.streams import make_generator
from loaders.shards import SPLITS

COURSE_SHARES = (73.5, 7.0, 15.0, 2.5, 2.1)  # percent of grades 0-4
PAIRED, AGREEING = 0.92, 0.87  # eyes that come as a pair; pairs of one grade
COHORT_STREAM = 2**31  # no patient has this number


class PlannedEye(NamedTuple):
    """One eye to draw: whose it is, which one, and its grade."""

    patient: int
    eye: str
    grade: int

    @property
    def name(self) -> str:
        """The image's name without its ending."""
        return f"{self.patient}_{self.eye}"


def plan_cohort(
    seed: int, images: int, test_share: float, *, balanced: bool
) -> dict[str, list[PlannedEye]]:
    """The samples of each split, in the order of the label files.

    Args:
        seed: which cohort to make up.
        images: over both splits.
        test_share: share of the images in the test split.
        balanced: equally many images of each grade, not the course's shares.
    """
    rng = make_generator(seed, COHORT_STREAM, 0)
    shares = [1.0] * len(COURSE_SHARES) if balanced else COURSE_SHARES
    counts = apportion(images, shares)
    num_test = round(images * test_share)
    num_test = min(max(num_test, 1), images - 1)
    test = _in_both(apportion(num_test, [float(n) for n in counts]), counts)
    train = [total - part for total, part in zip(counts, test, strict=True)]
    people = [_people(part, rng) for part in (train, test)]
    num_people = sum(map(len, people))
    numbers = iter((1 + rng.permutation(int(num_people * 1.25))).tolist())
    cohort: dict[str, list[PlannedEye]] = {}
    for split, group in zip(SPLITS, people, strict=True):
        samples = [
            PlannedEye(patient, eye, grade)
            for eyes, patient in zip(group, numbers, strict=False)
            for eye, grade in eyes
        ]
        cohort[split] = [samples[i] for i in rng.permutation(len(samples))]
    return cohort


def apportion(total: int, shares: Sequence[float]) -> list[int]:
    """Split ``total`` in proportion to ``shares``, by largest remainder."""
    exact = [total * share / sum(shares) for share in shares]
    counts = [int(part) for part in exact]
    by_remainder = sorted(range(len(shares)), key=lambda i: counts[i] - exact[i])
    for i in by_remainder[: total - sum(counts)]:
        counts[i] += 1
    return counts


def _in_both(test: list[int], counts: list[int]) -> list[int]:
    """Move single images so that each grade of two or more is in both splits."""
    test = list(test)
    for grade, total in enumerate(counts):
        if total < 2 or 0 < test[grade] < total:
            continue
        step = 1 if test[grade] == 0 else -1
        spare = [
            test[i] - 1 if step > 0 else counts[i] - test[i] - 1
            for i in range(len(counts))
        ]
        giver = max(range(len(counts)), key=spare.__getitem__)
        if spare[giver] > 0:
            test[grade] += step
            test[giver] -= step
    return test


def _people(
    counts: Sequence[int], rng: np.random.Generator
) -> list[list[tuple[str, int]]]:
    """Share eyes of exactly these grades out: per patient, (eye, grade) each."""
    left = list(counts)
    num_pairs = int(sum(counts) * PAIRED / 2)
    pairs = _unlike_pairs(left, round(num_pairs * (1 - AGREEING)), rng)
    for grade, count in enumerate(left):
        pairs += [(grade, grade)] * (count // 2)
    singles = [grade for grade, count in enumerate(left) if count % 2]
    order = rng.permutation(len(pairs))
    whole = [pairs[i] for i in order[:num_pairs]]
    for i in order[num_pairs:]:
        singles += pairs[i]
    people = [[("left", one), ("right", other)] for one, other in whole]
    people += [[(("left", "right")[rng.integers(2)], grade)] for grade in singles]
    return [people[i] for i in rng.permutation(len(people))]


def _unlike_pairs(
    left: list[int], wanted: int, rng: np.random.Generator
) -> list[tuple[int, int]]:
    """Take pairs of two grades, mostly neighbours, out of ``left``."""
    pairs = []
    for _ in range(wanted):
        weights = {
            (a, b): left[a] * left[b] / 6.0 ** abs(a - b)
            for a in range(len(left))
            for b in range(len(left))
            if a != b
        }
        total = sum(weights.values())
        if total == 0:
            break
        odds = [weight / total for weight in weights.values()]
        one, other = list(weights)[rng.choice(len(odds), p=odds)]
        left[one] -= 1
        left[other] -= 1
        pairs.append((one, other))
    return pairs
