"""How the images are stored, and how much faster they would decode otherwise."""

from __future__ import annotations

import io
import math
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from PIL import Image

from fastretina.doctor.jpeg_header import JpegHeader, read_jpeg_header
from fastretina.measure.ceilings import decode_only

_TRIED = 16  # images that are encoded anew: a second for 2,592 x 1,944 pixels
_DECODED = 32  # in a round, so that the start of threads does not count
_ENCODING = 4  # times as long as decoding takes
_ROUNDS = 3
_OVERSIZED = 2.0  # times the pixels that are delivered


Reencode = Callable[[bytes], bytes]  # a JPEG, encoded anew
ChangeKind = Literal["baseline", "4:2:0", "smaller"]


class Change(NamedTuple):
    """Another way to store some of the images.

    Attributes:
        name: what is done to the images.
        share: share of the images that would change, 0 to 1.
        times: how many times as fast those images decode then; measured.
    """

    name: ChangeKind
    share: float
    times: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Storage:
    """How a sample of the images is stored.

    Attributes:
        images: number of images that were looked at.
        mean_bytes: mean size of an image.
        progressive: number of progressive JPEGs.
        oversized: number with at least twice the pixels that are delivered.
        chroma: kind of chroma sampling to the number of images that have it.
        changes: other ways to store them, with which decoding would be faster.
    """

    images: int
    mean_bytes: float
    progressive: int
    oversized: int
    chroma: dict[str, int]
    changes: tuple[Change, ...] = ()

    def summary(self) -> dict[str, object]:
        """The numbers under their JSON keys."""
        return {
            "images": self.images,
            "mean_bytes": round(self.mean_bytes),
            "progressive": self.progressive,
            "oversized": self.oversized,
            "chroma": self.chroma,
            "changes": [change._asdict() for change in self.changes],
        }


def survey(jpegs: Sequence[bytes], shape: tuple[int, int]) -> Storage:
    """Count how the images are stored, from their headers alone.

    Args:
        jpegs: the sample, at least one.
        shape: height and width that are delivered, pixels.

    Raises:
        ValueError: one of them has no header.
    """
    headers = [read_jpeg_header(jpeg) for jpeg in jpegs]
    return Storage(
        images=len(jpegs),
        mean_bytes=statistics.fmean(map(len, jpegs)),
        progressive=sum(header.progressive for header in headers),
        oversized=sum(_is_oversized(header, shape) for header in headers),
        chroma=dict(Counter(header.chroma for header in headers).most_common()),
    )


def changes(
    jpegs: Sequence[bytes],
    shape: tuple[int, int],
    threads: int,
    seconds: float = math.inf,
) -> Iterator[Change]:
    """Encode some images anew and time their decoding, for what could be changed.

    Args:
        jpegs: the sample, at least one.
        shape: height and width that are delivered, pixels.
        threads: to decode with.
        seconds: for each of up to three changes; one image each is tried at least.
    """
    decoded = _how_many(jpegs[0], threads, seconds)
    headers = [read_jpeg_header(jpeg) for jpeg in jpegs]
    kinds: dict[ChangeKind, tuple[list[bool], Reencode]] = {
        "baseline": ([header.progressive for header in headers], _baseline),
        "4:2:0": ([header.chroma == "4:4:4" for header in headers], _half_chroma),
        "smaller": (
            [_is_oversized(header, shape) for header in headers],
            lambda jpeg: _smaller(jpeg, shape),
        ),
    }
    for name, (concerned, anew) in kinds.items():
        before = [jpeg for jpeg, yes in zip(jpegs, concerned, strict=True) if yes]
        if before:
            share = len(before) / len(jpegs)
            tried = before[: min(_TRIED, decoded)]
            after = [anew(jpeg) for jpeg in tried]
            often = -(-decoded // len(tried))
            times = _times(tried * often, after * often, threads)
            yield Change(name, share, round(times, 2))


def _how_many(jpeg: bytes, threads: int, seconds: float) -> int:
    """Images of a round of which all rounds fit in that time; at most 32."""
    begun = time.perf_counter()
    decode_only([jpeg], 1)
    each = max(time.perf_counter() - begun, 1e-6)
    each *= _ENCODING + 2 * _ROUNDS / threads
    return max(int(min(seconds / each, _DECODED)), 1)


def _times(before: list[bytes], after: list[bytes], threads: int) -> float:
    """How many times as fast *after* decodes; rounds of both take turns."""
    ratios = [
        decode_only(after, threads) / decode_only(before, threads)
        for _ in range(_ROUNDS)
    ]
    return statistics.median(ratios)


def _is_oversized(header: JpegHeader, shape: tuple[int, int]) -> bool:
    delivered = shape[0] * shape[1]
    return header.width * header.height >= _OVERSIZED * delivered


def _baseline(jpeg: bytes) -> bytes:
    """The image in one scan, with the same quantisation tables and chroma."""
    stream = io.BytesIO()
    with Image.open(io.BytesIO(jpeg), formats=("JPEG",)) as image:
        image.save(stream, "JPEG", quality="keep", progressive=False)
    return stream.getvalue()


def _half_chroma(jpeg: bytes) -> bytes:
    return _encoded(jpeg, subsampling="4:2:0")


def _smaller(jpeg: bytes, shape: tuple[int, int]) -> bytes:
    return _encoded(jpeg, size=(shape[1], shape[0]))


def _encoded(
    jpeg: bytes, size: tuple[int, int] | None = None, subsampling: str | None = None
) -> bytes:
    """The image encoded anew, with the quantisation tables that it came with."""
    stream = io.BytesIO()
    with Image.open(io.BytesIO(jpeg), formats=("JPEG",)) as image:
        tables = image.quantization
        chroma = subsampling or _pillows_chroma(read_jpeg_header(jpeg))
        picture = image.convert("RGB")
    if size is not None:
        picture = picture.resize(size, Image.Resampling.BILINEAR)
    picture.save(stream, "JPEG", qtables=tables, subsampling=chroma)
    return stream.getvalue()


def _pillows_chroma(header: JpegHeader) -> str:
    """The nearest chroma sampling that Pillow can write."""
    return header.chroma if header.chroma in ("4:4:4", "4:2:2") else "4:2:0"
