"""What becomes of one image file: kept as it is, encoded again, or rejected."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import simplejpeg
from conftest import photograph
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from torture.jpeg_mutants import (
    ICC,
    XMP,
    bomb,
    exif,
    frame,
    insert,
    of_other_names,
    segment,
    with_byte,
)

from fastretina.data.prepare import (
    Prepared,
    Preparer,
    Rejected,
    encode_prepared,
    is_kept,
)


def picture(mode: str = "RGB", width: int = 48, height: int = 32) -> Image.Image:
    """Each corner of another colour, so that a turn shows."""
    x, y = np.linspace(0, 255, width), np.linspace(0, 255, height)
    red, green = np.meshgrid(x, y)
    blue = np.full_like(red, 60)
    return Image.fromarray(np.stack([red, green, blue], 2).astype(np.uint8)).convert(
        mode
    )


def encoded(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noisy(mode: str = "RGB", size: int = 128) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    return encoded(Image.fromarray(pixels).convert(mode), quality=90)


def turned(number: int, **options: Any) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = number
    return encoded(picture(), exif=exif, **options)


def decoded(jpeg: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(jpeg)) as image:
        return np.asarray(image.convert("RGB"))


def pages(kind: str) -> bytes:
    """Two images in one file."""
    return encoded(picture(), kind, save_all=True, append_images=[picture("L")])


def deep(suffix: str, brightest: int) -> bytes:
    """An image of 16 bits a channel."""
    values = np.zeros((32, 48, 3), np.uint16)
    values[5, 7, 1] = brightest
    return bytes(cv2.imencode(suffix, values)[1])


def reason(content: bytes) -> str:
    with pytest.raises(Rejected) as rejected:
        Preparer()(content)
    return str(rejected.value)


@pytest.mark.parametrize(
    ("content", "components"),
    [
        (encoded(picture()), 3),
        (encoded(picture("L")), 1),
        (encoded(picture(), progressive=True), 3),
        (encoded(picture(), quality=30, subsampling="4:2:0"), 3),
        (encoded(picture(), icc_profile=bytes(70_000)), 3),
        (turned(1), 3),
        (encoded(picture()) + b"trailing bytes", 3),
    ],
    ids=[
        "rgb",
        "gray",
        "progressive",
        "420",
        "big-profile",
        "upright-exif",
        "trailing",
    ],
)
def test_jpeg_is_kept_byte_for_byte(content: bytes, components: int) -> None:
    assert Preparer()(content) == Prepared(content, 48, 32, "", components)


@pytest.mark.parametrize("number", range(2, 9))
def test_exif_rotated_is_turned_upright(number: int) -> None:
    content = turned(number, quality=100, subsampling="4:4:4")
    ready = Preparer()(content)
    with Image.open(io.BytesIO(content)) as image:
        upright = np.asarray(ImageOps.exif_transpose(image))
    assert ready.change == "upright"
    assert (ready.height, ready.width) == upright.shape[:2]
    assert np.abs(decoded(ready.jpeg).astype(int) - upright).max() <= 12
    assert is_kept(ready.jpeg), "a loader that minds EXIF would turn it again"


def test_exif_rotated_when_the_block_comes_after_64_kb() -> None:
    plain, rotated = encoded(picture()), turned(6)
    comments = b"".join(
        b"\xff\xfe" + (60_002).to_bytes(2, "big") + bytes(60_000) for _ in "ab"
    )
    assert len(plain) < len(rotated)
    late = rotated[:2] + comments + rotated[2:]
    assert Preparer()(late)[1:4] == (32, 48, "upright")


def test_exif_rotated_grayscale_becomes_upright_rgb() -> None:
    exif = Image.Exif()
    exif[0x0112] = 8
    ready = Preparer()(encoded(picture("L"), exif=exif))
    assert ready[1:4] == (32, 48, "upright")
    assert decoded(ready.jpeg).shape == (48, 32, 3)


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_exif_orientation_of_no_meaning_is_ignored(value: int) -> None:
    content = turned(value)
    assert Preparer()(content).jpeg == content


def test_broken_exif_does_not_cost_the_photograph() -> None:
    content = turned(6)
    place = content.index(b"Exif\0\0") + 6
    broken = content[:place] + b"rubbish!" + content[place + 8 :]
    assert Preparer()(broken) == Prepared(broken, 48, 32, "")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_png_becomes_jpeg(mode: str) -> None:
    image = picture(mode)
    ready = Preparer()(encoded(image, "PNG"))
    assert ready[1:4] == (48, 32, "from png")
    assert simplejpeg.decode_jpeg_header(ready.jpeg)[2:] == ("YCbCr", "444")
    difference = decoded(ready.jpeg).astype(int) - np.asarray(image.convert("RGB"))
    assert np.abs(difference).mean() < 4


def test_png_with_a_transparent_palette_warns_nobody() -> None:
    content = encoded(picture("P"), "PNG", transparency=b"\x00\x50\xff")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Preparer()(content).change == "from png"


def test_png_with_exif_is_turned_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert Preparer()(encoded(picture(), "PNG", exif=exif))[1:4] == (32, 48, "from png")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_tiff_becomes_jpeg(mode: str) -> None:
    image = picture("RGB").convert(mode)
    ready = Preparer()(encoded(image, "TIFF"))
    assert ready[1:4] == (48, 32, "from tiff")
    assert ready.jpeg == encode_prepared(np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("packing", ["tiff_lzw", "tiff_deflate", "packbits", "jpeg"])
def test_packed_tiff_becomes_jpeg(packing: str) -> None:
    content = encoded(picture(), "TIFF", compression=packing)
    with Image.open(io.BytesIO(content)) as image:
        pixels = np.asarray(image.convert("RGB"))
    assert Preparer()(content).jpeg == encode_prepared(pixels)


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_webp_becomes_jpeg(mode: str) -> None:
    image = picture("RGB").convert(mode)
    ready = Preparer()(encoded(image, "WEBP", lossless=True))
    assert ready[1:4] == (48, 32, "from webp")
    assert ready.jpeg == encode_prepared(np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("kind", ["TIFF", "WEBP", "PNG"])
@pytest.mark.parametrize("number", range(1, 9))
def test_orientation_of_other_kinds_is_followed_once(kind: str, number: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = number
    extra = {"lossless": True} if kind == "WEBP" else {}
    ready = Preparer()(encoded(picture(), kind, exif=exif, **extra))
    with Image.open(io.BytesIO(turned(number))) as image:
        image.paste(picture())  # the pixels of no lossy file
        upright = np.asarray(ImageOps.exif_transpose(image))
    assert ready.jpeg == encode_prepared(upright)


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_of_16_bits_the_upper_8_are_kept(suffix: str, channels: int) -> None:
    values = np.random.default_rng(0).integers(0, 65_536, (32, 48, channels), np.uint16)
    content = cv2.imencode(suffix, values)[1].tobytes()
    upper = (values >> 8).astype(np.uint8)
    rgb = np.repeat(upper, 3, axis=2) if channels == 1 else upper[..., 2::-1]
    ready = Preparer()(content)
    assert ready.jpeg == encode_prepared(np.ascontiguousarray(rgb))
    assert ready.change == f"from {suffix[1:]}"


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_of_16_bits_a_bright_value_is_enough(suffix: str) -> None:
    assert Preparer()(deep(suffix, 4_096)).change == f"from {suffix[1:]}"


def test_encode_is_quality_95_with_full_chroma() -> None:
    image = np.asarray(picture())
    with Image.open(io.BytesIO(encode_prepared(image))) as ours:
        tables = ours.quantization
    with Image.open(io.BytesIO(encoded(picture(), quality=95))) as pillows:
        assert tables == pillows.quantization
    assert simplejpeg.decode_jpeg_header(encode_prepared(image))[3] == "444"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "empty"),
        (b"not an image at all", "no JPEG, PNG, TIFF or WebP"),
        (b"\xff\xd8", ""),
        (noisy()[:-2000], "Premature end"),
        (encoded(picture(), "PNG")[:-60], "truncated|Truncated|broken"),
        (encoded(picture(), "GIF"), "no JPEG, PNG, TIFF or WebP"),
        (pages("TIFF"), "holds several images"),
        (pages("WEBP"), "holds several images"),
        (encoded(picture("L").convert("F"), "TIFF"), "TIFF of 32 bits in mode F"),
        (deep(".png", 4_095), "no value above 4,095"),
        (deep(".tiff", 4_095), "no value above 4,095"),
        (encoded(picture("I;16"), "PNG"), "no value above 4,095"),
        (encoded(picture(), "TIFF")[:-60], "truncated|Truncated|broken"),
        (encoded(picture(), "WEBP")[:-60], "broken|truncated|could not|failed"),
        (encoded(picture(width=48, height=7)), "48x7 pixels"),
    ],
    ids=[
        "empty",
        "text",
        "soi",
        "truncated",
        "truncated-png",
        "gif",
        "two-pages",
        "two-frames",
        "float-tiff",
        "12-bit-png",
        "12-bit-tiff",
        "12-bit-gray-png",
        "truncated-tiff",
        "truncated-webp",
        "tiny",
    ],
)
def test_what_cannot_be_used_is_rejected_with_a_reason(
    content: bytes, why: str
) -> None:
    text = reason(content)
    assert text
    assert "\n" not in text
    assert any(part in text for part in why.split("|")), text
    assert "0x" not in text, "an address would differ from run to run"


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_zeroed_bytes_in_the_middle_are_found(mode: str) -> None:
    content = bytearray(noisy(mode))
    middle = len(content) // 2
    content[middle : middle + 400] = bytes(400)
    with Image.open(io.BytesIO(content)) as image:
        image.load()  # most decoders don't mind
    assert reason(bytes(content))


def test_claim_of_giant_dimensions_is_rejected_without_the_memory() -> None:
    content = bytearray(encoded(picture()))
    frame = content.index(b"\xff\xc0")
    content[frame + 5 : frame + 9] = b"\xfd\xe8\xfd\xe8"  # 65,000 x 65,000
    assert "65000x65000" in reason(bytes(content))


@pytest.mark.parametrize("size", [(70_000, 8), (8, 65_501)])
def test_image_that_is_too_long_for_a_jpeg_is_rejected(size: tuple[int, int]) -> None:
    """It decodes, and fails only where it is to be encoded."""
    content = encoded(Image.new("RGB", size), "PNG")
    assert "65500 pixels" in reason(content)
    assert Preparer(size=64)(content)[1:3] == (64, 64)


def test_good_image_after_a_bad_one() -> None:
    prepare, good = Preparer(), noisy()
    for _ in range(2):
        with pytest.raises(Rejected):
            prepare(good[: len(good) // 2])
        assert prepare(good) == Preparer()(good)


def test_scratch_image_does_not_leak_into_the_next() -> None:
    prepare = Preparer(("clahe",))
    first, other = noisy(), encoded(picture(width=128, height=128))
    expected = prepare(first)
    prepare(other)
    assert prepare(first) == expected


def test_out_of_memory_is_no_fault_of_the_image(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def greedy(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(simplejpeg, "decode_jpeg", greedy)
    with pytest.raises(MemoryError):
        Preparer()(noisy())


@pytest.mark.parametrize(
    ("steps", "size", "change"),
    [
        ((), 48, "preprocessed"),
        (("crop",), None, "preprocessed"),
        ((), None, ""),
        ((), 128, ""),  # has that size already
    ],
)
def test_preprocessing_only_where_it_changes_something(
    steps: tuple[str, ...], size: int | None, change: str
) -> None:
    content = noisy()
    ready = Preparer(steps, size)(content)
    assert ready.change == change
    assert (ready.jpeg == content) == (not change)
    assert decoded(ready.jpeg).shape == (ready.height, ready.width, 3)
    assert ready.width == ready.height == (size or 128)


BASES = [
    noisy(size=32),
    noisy("CMYK", 32),
    turned(6),
    encoded(picture(), progressive=True),
    encoded(picture(), "PNG"),
    encoded(picture("P"), "PNG", transparency=b"\x00\x50\xff"),
]


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    st.sampled_from(BASES),
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=4),
    st.none() | st.integers(0, 2000),
)
def test_damage_of_any_kind_is_prepared_or_rejected(
    content: bytes, changes: list[tuple[int, int]], length: int | None
) -> None:
    damaged = bytearray(content)
    for place, value in changes:
        damaged[place % len(damaged)] = value
    try:
        ready = Preparer()(bytes(damaged[:length]))
    except Rejected as rejected:
        text = str(rejected)
        assert text
        assert "0x7" not in text
    else:  # then the loaders' decoder takes it too
        shape = decoded(ready.jpeg).shape
        assert shape == (ready.height, ready.width, 3)


def test_checking_the_brightness_alone_refuses_what_decoding_the_colours_does():
    """Sharding decodes a quarter less than a loader; damage must not slip through."""
    random = np.random.Generator(np.random.PCG64(7))
    whole = [photograph(seed, size) for seed, size in ((1, 64), (2, 96), (3, 128))]
    progressive = io.BytesIO()
    Image.open(io.BytesIO(whole[2])).save(progressive, "JPEG", progressive=True)
    whole.append(progressive.getvalue())
    refused = 0
    for _ in range(1500):
        jpeg = bytearray(whole[random.integers(len(whole))])
        place = int(random.integers(2, len(jpeg)))
        kind = random.integers(4)
        if kind == 0:
            jpeg[place] = random.integers(256)
        elif kind == 1:
            del jpeg[place : place + int(random.integers(1, 60))]
        elif kind == 2:
            del jpeg[place:]
        else:
            jpeg[place : place + 20] = bytes(20)
        outcomes = [decodes(bytes(jpeg), space) for space in ("RGB", "GRAY")]
        assert outcomes[0] == outcomes[1]
        refused += not outcomes[0]
    assert 300 < refused < 1400


def decodes(jpeg: bytes, colorspace: str) -> bool:
    try:
        simplejpeg.decode_jpeg(jpeg, colorspace=colorspace)
    except ValueError:
        return False
    return True


# ------------------------------------------------- what decoders don't agree on


PLAIN = encoded(picture(), quality=100, subsampling="4:4:4")
XMP_6 = segment(0xE1, XMP % 6)
UPRIGHT_6 = np.asarray(picture().transpose(Image.Transpose.ROTATE_270))


@pytest.mark.parametrize(
    "content",
    [
        encoded(picture("CMYK"), quality=100, subsampling="4:4:4"),
        encoded(picture(), quality=100, keep_rgb=True),
        insert(PLAIN, b"\xff" * 9),
        insert(PLAIN, b"\xff\xd0"),
        insert(PLAIN, b"\xff\xfe\0\1"),
        of_other_names(PLAIN, b"\0\1\2"),
        with_byte(PLAIN, frame(PLAIN) + 1, 0xC1),
        insert(PLAIN, exif(1) + exif(6)),
        insert(PLAIN, exif(1) + XMP_6),
    ],
    ids=["cmyk", "rgb", "fill", "rst", "length", "names", "extended", "exifs", "xmp"],
)
def test_what_decoders_see_differently_is_written_anew(content: bytes) -> None:
    ready = Preparer()(content)
    assert ready[1:] == (48, 32, "normalised", 3)
    assert ready.jpeg == encode_prepared(decoded(content))
    assert is_kept(ready.jpeg)
    assert not is_kept(content)
    assert Preparer()(ready.jpeg) == ready._replace(change="")


@pytest.mark.parametrize(
    "pieces",
    [
        XMP_6,
        exif(9) + exif(6),
        exif(6) + exif(1),
        exif(6) + XMP_6,
        segment(0xE1, b"Exif\0\0rubbish") + exif(6),
        exif(6).replace(b"Exif\0\0", b"EXIF\0\1"),
        segment(0xE1, b"another of the kind") + b"\xff\xff" + exif(6),
        segment(0xE1, XMP[:29]) + XMP_6,
        segment(0xE1, XMP[:29] + b"<tiff:Orientation>6</tiff:Orientation>"),
    ],
    ids=[
        "xmp",
        "second",
        "first",
        "both",
        "broken",
        "odd",
        "fill",
        "second-xmp",
        "element",
    ],
)
def test_orientation_is_followed_wherever_it_stands(pieces: bytes) -> None:
    ready = Preparer()(insert(PLAIN, pieces))
    assert ready[1:] == (32, 48, "upright", 3)
    assert np.abs(decoded(ready.jpeg).astype(int) - UPRIGHT_6).max() <= 12
    assert is_kept(ready.jpeg)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (insert(PLAIN, segment(0xE2, ICC)), "Pillow can't read it"),
        (insert(PLAIN, segment(0xEE, b"Adobe")), "Pillow can't read it"),
        (insert(PLAIN, segment(0xE0, b"JFIF\0")), "Pillow can't read it"),
        (insert(PLAIN, b"\xff\x01"), "Pillow can't read it"),
        (insert(PLAIN, b"\x12\x34", 20), "header can't be read"),
        (with_byte(PLAIN, frame(PLAIN) + 1, 0xC3), ""),
        (with_byte(PLAIN, frame(PLAIN) + 1, 0xC9), ""),
        (with_byte(PLAIN, frame(PLAIN) + 4, 12), "precision 12"),
        (with_byte(PLAIN, frame(PLAIN) + 9, 2), ""),
    ],
    ids=[
        "profile",
        "adobe",
        "jfif",
        "tem",
        "junk",
        "lossless",
        "arithmetic",
        "bits",
        "two",
    ],
)
def test_what_pillow_or_libjpeg_cannot_read_is_rejected(
    content: bytes, why: str
) -> None:
    text = reason(content)
    assert why in text
    assert "0x" not in text


def test_scans_without_end_are_rejected_before_they_are_decoded() -> None:
    assert "2,506 scans of 1024x1024 pixels" in reason(bomb(1024, 2500))


def test_memory_that_a_giant_lacks_is_its_own_fault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So that it stops no other; an image of the usual size is not to blame."""

    def greedy(*_: object, **__: object) -> None:
        raise MemoryError

    giant = bytearray(encoded(picture()))
    place = giant.index(b"\xff\xc0")
    giant[place + 5 : place + 9] = (9000).to_bytes(2, "big") * 2
    monkeypatch.setattr(simplejpeg, "decode_jpeg", greedy)
    assert reason(bytes(giant)) == "9000x9000 pixels take more memory than there is"


def test_strip_is_not_made_a_square_of_gigabytes() -> None:
    strip = np.full((64, 16_704, 3), 200, np.uint8)
    with pytest.raises(Rejected, match="16704x16704 pixels"):
        Preparer(("crop",))(encode_prepared(strip))


def test_plain_photographs_keep_their_bytes(real_data: Path) -> None:
    prepare = Preparer()
    for path in sorted((real_data / "retina512" / "data").glob("*.jpeg"))[::9]:
        content = path.read_bytes()
        assert prepare(content).jpeg is content
