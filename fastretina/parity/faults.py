"""What has become of an image that is not as it should be.

Each usual mistake is made on purpose on the right image; the one that gives what was
delivered is the one that was made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor
from itertools import islice
from typing import NamedTuple

import numpy as np

from fastretina.data.labels import Sample
from fastretina.parity.differences import Bound, difference
from fastretina.parity.reference import Original, ParityError, Reference
from loaders.arrays import UInt8

_REARRANGED: Mapping[str, Callable[[UInt8], UInt8]] = {
    "channels swapped (BGR)": lambda image: image[..., ::-1],
    "mirrored left-right": lambda image: image[:, ::-1],
    "mirrored upside-down": lambda image: image[::-1],
    "mirrored at the diagonal": lambda image: image.swapaxes(0, 1),
    "mirrored at the other diagonal": lambda image: np.rot90(image, 2).swapaxes(0, 1),
    "turned by 90 degrees": lambda image: np.rot90(image, -1),
    "turned by 180 degrees": lambda image: image[::-1, ::-1],
    "turned by 270 degrees": lambda image: np.rot90(image),
}
_DECODED = {  # nearest chroma, fast DCT
    "nearest chroma upsampling": (True, False),
    "fast DCT": (False, True),
    "nearest chroma upsampling and fast DCT": (True, True),
}
_SIDE = 32  # of the grid of pixels that an image is recognised by


def diagnose(
    delivered: UInt8,
    original: Original,
    sample: Sample,
    witness: Reference,
    bound: Bound,
) -> str | None:
    """The mistake that explains an image, if it is a usual one.

    Args:
        delivered: uint8[H, W, 3].
        original: what it should be.
        sample: whose it is.
        witness: decodes the sample in other ways.
        bound: what may be left unexplained.
    """
    fitting = {}
    for name, mistaken in _mistaken(original, sample, witness):
        if _may_fit(delivered, mistaken, bound):
            found = difference(delivered, np.ascontiguousarray(mistaken))
            if bound.allows(found):
                fitting[name] = found.mean
    return min(fitting, key=fitting.__getitem__) if fitting else None


def _mistaken(
    original: Original, sample: Sample, witness: Reference
) -> Iterator[tuple[str, UInt8]]:
    """Each usual mistake, and what it makes of the image."""
    for name, rearrange in _REARRANGED.items():
        yield name, rearrange(original.pixels)
    for name, (nearest, fast) in _DECODED.items():
        pixels = witness.decode_otherwise(
            sample.path, nearest_chroma=nearest, fast_dct=fast
        )
        if pixels is not None:
            yield name, pixels


def _may_fit(delivered: UInt8, other: UInt8, bound: Bound) -> bool:
    """Whether it is worth comparing every pixel: most mistakes show in a few."""
    if delivered.shape != other.shape:
        return False
    few = difference(delivered[::16, ::16].copy(), other[::16, ::16].copy())
    return few.largest <= bound.largest


class Stranger(NamedTuple):
    """An image that no mistake explains: it may be another sample's.

    Attributes:
        key: the sample that it was delivered as.
        shape: height, width, 3.
        grid: uint8[n, n, 3], pixels all over it.
        bound: what an image may differ by.
    """

    key: str
    shape: tuple[int, ...]
    grid: UInt8
    bound: Bound


def stranger(key: str, delivered: UInt8, bound: Bound) -> Stranger:
    """Remember an image, in 3 KB."""
    return Stranger(key, delivered.shape, _grid(delivered), bound)


def find_owners(
    strangers: list[Stranger],
    samples: Iterable[Sample],
    witness: Reference,
    pool: Executor,
) -> dict[str, str]:
    """Whose images they are: the stranger's key to the owner's, where there is one.

    Decodes the samples, all of them unless every stranger is found to the last bit.
    """
    best: dict[str, tuple[float, str]] = {}

    def likeness(sample: Sample) -> list[tuple[str, tuple[float, str]]]:
        try:
            pixels = witness(sample.path).pixels
        except ParityError:  # so it is nobody's image
            return []
        means = [(one.key, _mean_to(one, pixels)) for one in strangers]
        return [
            (key, (mean, sample.key))
            for key, mean in means
            if mean is not None and key != sample.key
        ]

    left = iter(samples)
    while strangers and (some := list(islice(left, 64))):
        for found in pool.map(likeness, some):
            for key, one in found:
                best[key] = min(one, best.get(key, one))
        if sum(mean == 0 for mean, _ in best.values()) == len(strangers):
            break
    return {key: owner for key, (_, owner) in best.items()}


def _mean_to(stranger: Stranger, pixels: UInt8) -> float | None:
    """The mean difference to an image, if it may be that one."""
    if stranger.shape != pixels.shape:
        return None
    found = difference(stranger.grid, _grid(pixels))
    return found.mean if stranger.bound.allows(found) else None


def _grid(image: UInt8) -> UInt8:
    rows, columns = (
        np.linspace(0, side - 1, min(_SIDE, side)).astype(np.int64)
        for side in image.shape[:2]
    )
    return image[np.ix_(rows, columns)]
