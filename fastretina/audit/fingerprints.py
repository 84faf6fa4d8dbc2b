"""Fingerprints of images: each is read once, for its bytes and its looks."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from tqdm import tqdm

from fastretina.audit.phash import Int8, as_jpeg, detail, signs, thumbnail, zoomed
from fastretina.data.prepare import Rejected
from fastretina.progress import hidden
from loaders.decode import describe_failure


class Fingerprint(NamedTuple):
    """What an image is found again by, 10 KB.

    Attributes:
        sha256: hex digest of the file's bytes.
        thumbnail: hex digest of the thumbnail's pixels; equal where the image's are.
        signs: int8[16, 16], the perceptual hash of the image.
        zoomed: int8[16, 16], the perceptual hash of its middle, enlarged.
        detail: int8[96, 96], the image's fine detail.
    """

    sha256: str
    thumbnail: str
    signs: Int8
    zoomed: Int8
    detail: Int8


class Fingerprints(NamedTuple):
    """The fingerprints of a data set's images.

    Attributes:
        by_place: an image's place to its fingerprint, where it can be decoded.
        unreadable: an image's place to the reason why it can't be decoded.
    """

    by_place: dict[int, Fingerprint]
    unreadable: dict[int, str]


def take_fingerprints(
    read: Callable[[int], bytes], places: Sequence[int], workers: int
) -> Fingerprints:
    """Read and fingerprint images in threads, which the decoder leaves the GIL to.

    Raises:
        DataError: the shards are damaged.
    """
    prints = Fingerprints({}, {})
    pool = ThreadPoolExecutor(workers)
    try:
        tasks = pool.map(lambda place: _attempt(read, place), places)
        bar = tqdm(tasks, "reading", len(places), unit=" images", disable=hidden())
        for place, outcome in zip(places, bar, strict=True):
            if isinstance(outcome, str):
                prints.unreadable[place] = outcome
            else:
                prints.by_place[place] = outcome
    finally:
        pool.shutdown(cancel_futures=True)  # an interrupt doesn't wait for the rest
    return prints


def fingerprint(content: bytes) -> Fingerprint:
    """Fingerprint an image by its file's bytes.

    Raises:
        Exception: one of the decoders' many; the image can't be decoded.
    """
    grey = thumbnail(as_jpeg(content))
    return Fingerprint(
        hashlib.sha256(content).hexdigest(),
        hashlib.sha256(grey.tobytes()).hexdigest(),
        signs(grey),
        signs(zoomed(grey)),
        detail(grey),
    )


def _attempt(read: Callable[[int], bytes], place: int) -> Fingerprint | str:
    """The fingerprint, or the reason why there is none."""
    try:
        content = read(place)
    except OSError as error:
        return error.strerror or str(error)
    try:
        return fingerprint(content)
    except MemoryError:
        return "it takes more memory than there is"
    except Rejected as error:
        return str(error)
    except Exception as error:  # decoders have no common base for what they raise
        return describe_failure(error, content)
