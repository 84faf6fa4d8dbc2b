"""One decoder, image after image: of other sizes and colours, as Pillow has them."""

from __future__ import annotations

import io
from itertools import permutations

import numpy as np
import pytest
from PIL import Image

from loaders._pil import decode_with_pillow
from loaders.decode import FLIP_CODE, Decoder

SHAPE = (64, 128)  # height and width of what is delivered
SIZES = {  # width and height of what comes
    "equal": (128, 64),
    "turned": (64, 128),
    "half": (64, 32),
    "double": (256, 128),
}


def jpeg(size: tuple[int, int], mode: str = "RGB") -> bytes:
    """A JPEG of smooth colours, width and height in pixels."""
    rows, columns = np.mgrid[: size[1], : size[0]]
    image = np.stack([rows * 2, columns, 255 - rows], axis=2).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(image).convert(mode).save(stream, "JPEG", quality=95)
    return stream.getvalue()


@pytest.mark.parametrize("order", [*permutations(SIZES)], ids="-".join)
def test_sizes_may_come_in_any_order(order: tuple[str, ...]):
    """What fits is decoded in its place, but a place may be too large, or turned."""
    decode = Decoder()
    for name in order:
        content, out = jpeg(SIZES[name]), np.zeros((*SHAPE, 3), np.uint8)
        decode(content, out)
        expected = decode_with_pillow(content, (False, False), SHAPE)
        difference = np.abs(out.astype(int) - expected)
        assert difference.max() <= (0 if name == "equal" else 2), name


@pytest.mark.parametrize("flip", [None, *FLIP_CODE])
def test_cmyk_is_left_to_pillow(flip: tuple[bool, bool] | None):
    content, out = jpeg(SIZES["equal"], "CMYK"), np.zeros((*SHAPE, 3), np.uint8)
    Decoder()(content, out, FLIP_CODE[flip] if flip else None)
    expected = decode_with_pillow(content, flip or (False, False), SHAPE)
    assert np.array_equal(out, expected)


def test_damaged_image_changes_nothing_for_the_next():
    decode, whole = Decoder(), jpeg(SIZES["equal"])
    out = np.zeros((*SHAPE, 3), np.uint8)
    with pytest.raises(ValueError, match="Premature end"):
        decode(whole[: len(whole) // 2], out)
    decode(whole, out)
    assert np.array_equal(out, decode_with_pillow(whole, (False, False), SHAPE))
