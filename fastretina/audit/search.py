"""All pairs of images that look alike, by their perceptual hashes.

Each of the N (N - 1) / 2 pairs is compared, in ten ways to turn and zoom it, as one
matrix product: 35,000 images take 46 s on 2 busy cores.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from fastretina.audit.audited_data_set import AuditError
from fastretina.audit.phash import GRID, TURNS, Int8
from fastretina.progress import hidden
from loaders.arrays import Float32, Int64

ALIKE = 0.62
_ZOOMED = ("as it is", "mirrored")  # ways in which a closer view is looked for, too
_CELLS = 16_000_000  # of a block of the product: 64 MB
# 35,000 photographs of different eyes have 200,000. As many as this take 20 minutes.
_TOO_MANY = 5_000_000


class Candidates(NamedTuple):
    """Pairs of images to be looked at again, each once.

    Attributes:
        one: int64[n], the row of an image.
        other: int64[n], the row of another image, a higher one.
        turns: how the other image is turned, by the names of ``phash.TURNS``; n long.
    """

    one: Int64
    other: Int64
    turns: list[str]


def search(signs: Int8, zoomed: Int8) -> Candidates:
    """Find the pairs whose likeness is at least `ALIKE`, turned in the best way.

    Likeness is the cosine of two hashes: the same signs in the same places are 1.

    Args:
        signs: int8[N, 16, 16], hashes.
        zoomed: int8[N, 16, 16], hashes of the images' middles.

    Raises:
        AuditError: there are millions of such pairs.
    """
    parts, number = [], 0
    for part in _search(signs, zoomed):
        parts.append(part)
        number += len(part[0])
        if number > _TOO_MANY:
            raise AuditError(
                f"more than {_TOO_MANY:,} pairs of images look alike, so these are "
                "hardly photographs of different eyes; --no-images audits the labels"
            )
    if not parts:
        nothing = np.empty(0, np.int64)
        return Candidates(nothing, nothing, [])
    one, other, likeness, turn = (
        np.concatenate(each) for each in zip(*parts, strict=True)
    )
    low, high = np.minimum(one, other), np.maximum(one, other)
    order = np.lexsort((-likeness, high, low))
    low, high, turn = low[order], high[order], turn[order]
    first = np.ones(len(low), bool)
    first[1:] = (low[1:] != low[:-1]) | (high[1:] != high[:-1])
    names = list(TURNS)
    return Candidates(
        low[first], high[first], [names[number] for number in turn[first]]
    )


def _search(signs: Int8, zoomed: Int8) -> Iterator[tuple[Int64, Int64, Float32, Int64]]:
    plain, closer = _flat(signs), _flat(zoomed)
    size = len(plain)
    rows = max(1, _CELLS // max(size, 1))
    starts = range(0, size, rows)
    total = len(starts) * (len(TURNS) + len(_ZOOMED))
    with tqdm(total=total, desc="comparing", unit=" blocks", disable=hidden()) as bar:
        for number, (name, turn) in enumerate(TURNS.items()):
            turned = _flat(turn(signs))
            for start in starts:
                block = slice(start, start + rows)
                one, other, likeness = _pairs(plain[block], turned[start:])
                later = one < other  # the other half are the same pairs
                one, other = one[later] + start, other[later] + start
                yield one, other, likeness[later], np.full(len(one), number)
                bar.update()
                if name not in _ZOOMED:
                    continue
                one, other, likeness = _pairs(closer[block], turned)
                apart = one + start != other
                one, other = one[apart] + start, other[apart]
                yield one, other, likeness[apart], np.full(len(one), number)
                bar.update()


def _pairs(block: Float32, turned: Float32) -> tuple[Int64, Int64, Float32]:
    product = block @ turned.T
    one, other = np.nonzero(product >= ALIKE)
    return one, other, product[one, other]


def _flat(signs: Int8) -> Float32:
    """Unit vectors, float32[N, 256]; of an image without any sign, zeros."""
    flat = signs.reshape(len(signs), GRID * GRID).astype(np.float32)
    length = np.sqrt(np.count_nonzero(flat, axis=1, keepdims=True))
    return (flat / np.maximum(length, 1)).astype(np.float32)
