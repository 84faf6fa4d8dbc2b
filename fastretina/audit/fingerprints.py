"""Every image of a data set, read once: what it is, and what it looks like."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from tqdm import tqdm

from fastretina.audit.phash import Int8, as_jpeg, detail, signs, thumbnail, zoomed
from loaders.errors import DataError


class Print(NamedTuple):
    """An image's fingerprint, 10 KB.

    Attributes:
        sha256: of its bytes.
        thumbnail: SHA-256 of its thumbnail; equal where the pixels are.
        signs: int8[16, 16], the perceptual hash.
        zoomed: int8[16, 16], the same of its middle.
        detail: int8[96, 96], fine detail.
    """

    sha256: str
    thumbnail: str
    signs: Int8
    zoomed: Int8
    detail: Int8


class Prints(NamedTuple):
    """All images.

    Attributes:
        found: by place.
        unreadable: the reason by place.
    """

    found: dict[int, Print]
    unreadable: dict[int, str]


def take(read: Callable[[int], bytes], places: Sequence[int], workers: int) -> Prints:
    """Read and fingerprint images in threads, which the decoder leaves the GIL to.

    Raises:
        DataError: the shards are damaged.
    """
    prints = Prints({}, {})
    pool = ThreadPoolExecutor(workers)
    try:
        tasks = pool.map(lambda place: _attempt(read, place), places)
        bar = tqdm(tasks, "reading", len(places), unit=" images", disable=None)
        for place, outcome in zip(places, bar, strict=True):
            if isinstance(outcome, str):
                prints.unreadable[place] = outcome
            else:
                prints.found[place] = outcome
    finally:
        pool.shutdown(cancel_futures=True)  # an interrupt doesn't wait for the rest
    return prints


def fingerprint(content: bytes) -> Print:
    """Of an image's bytes.

    Raises:
        Exception: of the decoders' many, where it can't be decoded.
    """
    grey = thumbnail(as_jpeg(content))
    return Print(
        hashlib.sha256(content).hexdigest(),
        hashlib.sha256(grey.tobytes()).hexdigest(),
        signs(grey),
        signs(zoomed(grey)),
        detail(grey),
    )


def _attempt(read: Callable[[int], bytes], place: int) -> Print | str:
    """The fingerprint, or why there is none."""
    try:
        return fingerprint(read(place))
    except (DataError, MemoryError):
        raise
    except OSError as error:
        return error.strerror or str(error)
    except Exception as error:  # decoders have no common base for what they raise
        return " ".join(str(error).split()) or type(error).__name__
