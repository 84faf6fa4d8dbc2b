"""Whole patients on one side of a split, or of a subset.

Both eyes of a patient agree in grade in 87 % of the pairs of the Kaggle set, so a split
by image lets a look-up of the fellow eye score 84.7 % without seeing a pixel. Here the
two eyes always fall on the same side.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np

from loaders.arrays import Bool

if TYPE_CHECKING:
    from loaders.shards import ShardSplit


def group_split(
    groups: Sequence[str], grades: Sequence[int], share: float, seed: int
) -> Bool:
    """Choose the samples to hold out, by whole groups, stratified by grade.

    A group belongs to the stratum of its highest grade. Inside a stratum the groups are
    ordered by a hash of seed and name, and the first ``round(share * num_groups)`` are
    held out: of two or more at least one, but never all, and a lone group never. So a
    choice depends on nothing but the groups and grades there are: not on the order of
    rows, Python's hash seed or NumPy's version.

    Args:
        groups: the group (patient) of each of N samples.
        grades: the grade of each of N samples.
        share: of the groups to hold out, between 0 and 1, neither included.
        seed: another seed holds out other groups.

    Returns:
        bool[N], True for the samples held out.

    Raises:
        ValueError: share is outside (0, 1), or groups and grades differ in length.
    """
    if not 0 < share < 1:
        raise ValueError(f"share must be between 0 and 1, got {share}")
    if len(groups) != len(grades):
        raise ValueError(
            "groups and grades must be of the same length, "
            f"got {len(groups):,} and {len(grades):,}"
        )
    highest: dict[str, int] = {}
    for group, grade in zip(groups, grades, strict=True):
        highest[group] = max(grade, highest.get(group, grade))
    strata: dict[int, list[str]] = {}
    for group, grade in highest.items():
        strata.setdefault(grade, []).append(group)
    held_out: set[str] = set()
    for members in strata.values():
        members.sort(key=lambda group: _order_key(seed, group))
        held_out.update(members[: _num_held_out(len(members), share)])
    return np.fromiter((group in held_out for group in groups), bool, len(groups))


def _order_key(seed: int, group: str) -> tuple[bytes, str]:
    # File names that are no UTF-8 reach Python as lone surrogates: hash those too.
    text = f"{seed}:{group}".encode(errors="surrogatepass")
    return blake2b(text, digest_size=8).digest(), group


def _num_held_out(num_groups: int, share: float) -> int:
    if num_groups < 2:
        return 0
    return min(max(round(share * num_groups), 1), num_groups - 1)


def hold_out(
    split: ShardSplit, share: float, seed: int
) -> tuple[ShardSplit, ShardSplit]:
    """Part a split: the samples that stay, and those of a share of the patients."""
    held = _held_out(split, share, seed)
    return split.select(split.rows[~held]), split.select(split.rows[held])


def some_of(split: ShardSplit, most: int | None) -> ShardSplit:
    """About ``most`` of a split's samples: whole patients, stratified by grade.

    They are the same ones for every seed of a run, so that runs can be compared.
    """
    if most is None or most >= len(split):
        return split
    return split.select(split.rows[_held_out(split, most / len(split), seed=0)])


def _held_out(split: ShardSplit, share: float, seed: int) -> Bool:
    """Which of ``split.rows`` belong to the patients that are held out: bool[n]."""
    patients, rows = split.column("patient"), split.rows.tolist()
    return group_split(
        [patients[row] for row in rows], split.labels[rows].tolist(), share, seed
    )
