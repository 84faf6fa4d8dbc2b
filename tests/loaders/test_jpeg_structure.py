"""The walk over a JPEG's segments: which are plain, and what would take too long."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from conftest import photograph
from PIL import Image
from torture.jpeg_mutants import (
    ADOBE,
    arithmetic,
    bomb,
    encoded,
    exif,
    frame,
    insert,
    kinds,
    of_other_names,
    parts,
    picture,
    segment,
    with_byte,
)

from loaders._pil import decode_with_pillow
from loaders.arrays import UInt8
from loaders.decode import Decoder, describe_failure
from loaders.jpeg_structure import (
    MOST_PIXELS,
    MOST_SCANNED,
    check_bounds,
    count_scans,
    is_plain,
    read_plain,
)

PLAIN = photograph(1)
NOT_PLAIN = {"cmyk", "rgb", "names-012", "names-rgb", "arithmetic"}
TABLES = next(place for place in range(len(PLAIN)) if PLAIN[place:][:2] == b"\xff\xdb")


@pytest.mark.parametrize("name", kinds())
def test_kinds_that_are_plain(name: str) -> None:
    plain = read_plain(kinds()[name])
    assert (plain is None) is (name in NOT_PLAIN)
    if plain is not None:
        assert plain.progressive is ("progressive" in name)
        assert (plain.height, plain.width) == (64, 64)
        assert plain.components == (1 if "gray" in name else 3)
        bare = {"baseline", "noisy", "restarts", "comment", "progressive", "gray"}
        bare |= {"gray-progressive", "444", "422", "440", "411"}
        assert plain.has_metadata is (name not in bare)


def changed_frame(offset: int, value: int) -> bytes:
    return with_byte(PLAIN, frame(PLAIN) + offset, value)


@pytest.mark.parametrize(
    "jpeg",
    [
        b"",
        PLAIN[:1],
        b"\xff\xd8\xff",
        PLAIN[:40],
        PLAIN[: PLAIN.index(b"\xff\xda") + 3],
        PLAIN[1:],
        insert(PLAIN, b"\xff"),
        insert(PLAIN, b"\xff" * 50),
        insert(PLAIN, b"\xff\x01"),
        insert(PLAIN, b"\xff\xd0"),
        insert(PLAIN, b"\xff\xd8"),
        insert(PLAIN, b"\xff\xd9"),
        insert(PLAIN, b"\x12\x34"),
        insert(PLAIN, b"\xff\xd0", TABLES),
        insert(PLAIN, b"\xff\xfe\0\0"),
        insert(PLAIN, b"\xff\xfe\0\1"),
        insert(PLAIN, segment(0xF0, b"an extension")),
        insert(PLAIN, segment(0xCC, b"\0\x10")),
        insert(PLAIN, segment(0xDC, b"\0\x40")),
        insert(PLAIN, segment(0xDB, bytes(64))),
        insert(PLAIN, segment(0xDB, b"\x10" + bytes(128))),
        insert(PLAIN, segment(0xEE, ADOBE + b"\0"), TABLES),
        insert(PLAIN, segment(0xEE, ADOBE + b"\2"), TABLES),
        insert(PLAIN, segment(0xEE, b"Adobe"), TABLES),
        insert(PLAIN, parts(PLAIN)[-1], frame(PLAIN)),
        PLAIN[: frame(PLAIN)] + PLAIN[frame(PLAIN) + 19 :],
        *(changed_frame(1, 0xC0 + n) for n in (1, 3, 5, 6, 7, 9, 10, 11, 13, 14, 15)),
        *(changed_frame(4, bits) for bits in (0, 2, 12, 16)),
        *(changed_frame(9, components) for components in (0, 1, 2, 4, 5)),
        *(changed_frame(11, factors) for factors in (0, 0x44, 0x13, 0x42)),
        changed_frame(14, 0x22),
        with_byte(changed_frame(5, 0), frame(PLAIN) + 6, 0),
        with_byte(PLAIN, PLAIN.index(b"\xff\xda") + 4, 1),
        of_other_names(PLAIN, b"\0\1\2"),
        arithmetic(),
    ],
)
def test_what_is_not_plain(jpeg: bytes) -> None:
    assert not is_plain(jpeg)
    assert read_plain(memoryview(jpeg)) is None


def test_frame_that_comes_twice_is_not_plain() -> None:
    place = frame(PLAIN)
    assert not is_plain(insert(PLAIN, PLAIN[place : place + 19], place))


def test_size_may_be_asked_for() -> None:
    assert is_plain(PLAIN, (64, 64))
    assert not is_plain(PLAIN, (64, 65))
    assert not is_plain(PLAIN, (65, 64))


def decoded(decode: Callable[[], UInt8]) -> UInt8 | None:
    """The image; None where the decoder refuses it."""
    try:
        return decode()
    except ValueError:
        return None


def test_no_part_of_a_header_is_plain() -> None:
    scan = PLAIN.index(b"\xff\xda")
    assert not [n for n in range(scan + 4) if read_plain(PLAIN[:n]) is not None]


def test_decoders_agree_on_whatever_is_still_plain_with_a_changed_byte() -> None:
    num_plain = 0
    for place in range(PLAIN.index(b"\xff\xda") + 14):
        for value in (0, 1, 2, 0x7F, 0xD0, 0xFF):
            jpeg = with_byte(PLAIN, place, value)
            plain = read_plain(jpeg)
            if plain is None or (plain.height, plain.width) != (64, 64):
                continue
            num_plain += 1
            out = np.empty((64, 64, 3), np.uint8)
            theirs = decoded(
                partial(decode_with_pillow, jpeg, (False, False), (64, 64))
            )
            ours = decoded(lambda jpeg=jpeg, out=out: Decoder()(jpeg, out) or out)
            if ours is not None:  # turbo is stricter on damage
                assert theirs is not None, (place, value)
                assert np.array_equal(ours, theirs), (place, value)
    assert num_plain > 500


def test_real_photographs_are_plain(real_data: Path) -> None:
    paths = sorted((real_data / "retina512" / "data").glob("*.jpeg"))
    assert len(paths) == 1083
    plain = [read_plain(path.read_bytes()) for path in paths]
    assert set(plain) == {(False, 512, 512, 3, False)}


# ------------------------------------------------------------------------- the bounds


@pytest.mark.parametrize(
    ("jpeg", "scans"),
    [
        (PLAIN, 1),
        (PLAIN + PLAIN, 1),
        (encoded(picture(), progressive=True), 10),
        (encoded(picture().convert("L"), progressive=True), 6),
        (insert(PLAIN, segment(0xFE, b"\xff\xda\0\2\xff\xd9")), 1),
        (insert(PLAIN, b"\xff\xff\xd0"), 1),
        (PLAIN[:2], 0),
        (b"", 0),
    ],
)
def test_scans_are_counted(jpeg: bytes, scans: int) -> None:
    assert count_scans(jpeg) == scans
    assert count_scans(memoryview(jpeg)) == scans


@pytest.fixture(scope="module")
def slow() -> bytes:
    """A bomb of 2,500 scans over 1,024 x 1,024 pixels: 30 KB."""
    return bomb(1024, 2500)


def test_scans_without_end_are_refused_before_they_are_decoded(
    slow: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decode_jpeg(jpeg: bytes, **named: object) -> None:
        assert named["buffer"].size < 3 << 20, "decoded"
        raise ValueError("no room")

    monkeypatch.setattr("simplejpeg.decode_jpeg", decode_jpeg)
    assert len(slow) < 100_000
    out = np.empty((64, 64, 3), np.uint8)
    begun = time.monotonic()
    for decode in (
        lambda: check_bounds(slow, 1024, 1024),
        lambda: Decoder()(slow, out),
        lambda: Decoder()(slow, np.empty((1024, 1024, 3), np.uint8)),
        lambda: decode_with_pillow(slow, (False, False), (64, 64)),
    ):
        with pytest.raises(ValueError, match=r"its 2,506 scans of 1024x1024 pixels"):
            decode()
    assert not is_plain(slow)
    assert "2,506 scans" in describe_failure(ValueError("any"), slow)
    assert time.monotonic() - begun < 20


def test_honest_scans_are_within_the_bounds() -> None:
    """Ten scans of the largest photographs that cameras take: 100 megapixels."""
    jpeg = encoded(picture(), progressive=True)
    check_bounds(jpeg + bytes(100_000), 10_000, 10_000)
    assert count_scans(jpeg) * 10_000**2 < MOST_SCANNED


def test_pixels_are_bounded() -> None:
    check_bounds(PLAIN, 10_000, MOST_PIXELS // 10_000)
    with pytest.raises(ValueError, match="the image has 65000x65000 pixels, more than"):
        check_bounds(PLAIN, 65_000, 65_000)
    giant = changed_frame(5, 0xFD)
    for place in (6, 7, 8):
        giant = with_byte(giant, frame(giant) + place, 0xFD)
    for decode in (
        lambda: Decoder()(giant, np.empty((64, 64, 3), np.uint8)),
        lambda: decode_with_pillow(giant, (False, False), (64, 64)),
    ):
        with pytest.raises(ValueError, match=r"pixels"):
            decode()
    assert "65021x65021" in describe_failure(ValueError("any"), giant)
    assert not is_plain(giant)


def test_scans_of_a_small_image_are_no_matter() -> None:
    jpeg = bomb(64, 400)
    check_bounds(jpeg, 64, 64)
    with Image.open(io.BytesIO(jpeg)) as image:
        assert np.asarray(image.convert("RGB")).shape == (64, 64, 3)


def test_exif_is_metadata() -> None:
    plain = read_plain(insert(PLAIN, exif(6)))
    assert plain is not None
    assert plain.has_metadata
