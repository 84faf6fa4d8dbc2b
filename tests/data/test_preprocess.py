"""The steps that sharding may do once: sizes, borders, colours, the same every time."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
import simplejpeg
from drawn_photographs import drawn_photograph
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fastretina.data.preprocess import crop_fundus, equalise, preprocess
from fastretina.data.preprocess_steps import STEPS
from fastretina.shard import command as shard


def fundus(
    height: int = 120, width: int = 200, radius: int = 50, centre: int | None = None
) -> np.ndarray:
    """A lit disc on a black border that is not quite black."""
    image = np.random.default_rng(0).integers(0, 8, (height, width, 3), dtype=np.uint8)
    middle = (width // 2 if centre is None else centre, height // 2)
    cv2.circle(image, middle, radius, (180, 90, 40), -1)
    return image


def test_steps_are_those_of_the_command() -> None:
    assert shard.STEPS == STEPS == ("crop", "clahe", "graham")


@pytest.mark.parametrize("step", STEPS)
def test_every_step_does_something(step: str) -> None:
    image = fundus()
    result = preprocess(image, (step,), None)
    assert result.shape != image.shape or not np.array_equal(result, image)


def test_crop_leaves_the_fundus_square() -> None:
    cropped = crop_fundus(fundus())
    assert cropped.shape == (99, 99, 3)  # 101, less the median's pixel on either side
    for side in (cropped[0], cropped[-1], cropped[:, 0], cropped[:, -1]):
        assert side[49].max() > 100  # the disc touches all four


def test_crop_keeps_the_pixels() -> None:
    image = fundus()
    assert np.array_equal(crop_fundus(image), image[11:110, 51:150])


def test_crop_pads_a_fundus_that_the_photograph_cuts() -> None:
    image = fundus(height=80, radius=50)  # cut above and below, as EyePACS's are
    cropped = crop_fundus(image)
    assert cropped.shape == (99, 99, 3)
    assert not cropped[:9].any()
    assert not cropped[-10:].any()
    assert np.array_equal(cropped[9:89], image[:, 51:150])


@pytest.mark.parametrize("image", [np.zeros((60, 90, 3), np.uint8), fundus(radius=0)])
def test_crop_of_darkness_changes_nothing(image: np.ndarray) -> None:
    assert np.array_equal(crop_fundus(image), image)


def test_crop_is_not_led_astray_by_specks() -> None:
    image = fundus()
    image[3:5, 5:7] = 255  # hot pixels
    assert crop_fundus(image).shape == (99, 99, 3)


def test_crop_of_a_dark_photograph_with_a_lit_spot_changes_nothing() -> None:
    image = np.zeros((200, 200, 3), np.uint8)
    image[100:106, 100:106] = 200  # a reflection is no fundus
    assert np.array_equal(crop_fundus(image), image)


def test_clahe_raises_contrast_and_keeps_colour() -> None:
    shade = np.random.default_rng(0).normal(0, 4, (256, 256, 1))
    image = (np.array([140.0, 90.0, 60.0]) + shade).clip(0, 255).astype(np.uint8)
    lab, equal = (
        cv2.cvtColor(i, cv2.COLOR_RGB2LAB).astype(int) for i in (image, equalise(image))
    )
    assert equal[..., 0].std() > 1.5 * lab[..., 0].std()
    assert abs(equal[..., 1:] - lab[..., 1:]).mean() < 4


def shaded_hues() -> np.ndarray:
    """Lightness from top to bottom, hue from left to right: uint8[256, 256, 3]."""
    along = np.linspace(0, 1, 256)
    light, hue = np.broadcast_arrays(90 + 60 * along[:, np.newaxis], 30 * along)
    return np.stack([light + hue, light, light - hue], axis=-1).round().astype(np.uint8)


def test_clahe_changes_the_luminance_alone() -> None:
    """CLAHE on red, green and blue moves chroma by 4 here, on L, a and b by 9."""
    image = shaded_hues()
    before, after = (
        cv2.cvtColor(i, cv2.COLOR_RGB2LAB).astype(int) for i in (image, equalise(image))
    )
    chroma = abs(after[..., 1:] - before[..., 1:])
    assert chroma.max() <= 1  # of 8-bit rounding
    assert chroma.mean() < 0.1
    luminance = cv2.createCLAHE(2.0, (8, 8)).apply(before[..., 0].astype(np.uint8))
    assert abs(after[..., 0] - luminance).max() <= 1
    assert abs(after[..., 0] - before[..., 0]).mean() > 5


@pytest.mark.parametrize(
    ("row", "column", "rgb"),
    [
        (16, 16, (106, 105, 101)),
        (16, 240, (134, 104, 77)),
        (128, 128, (145, 130, 115)),
        (240, 16, (160, 156, 155)),
        (240, 240, (184, 154, 125)),
    ],
)
def test_clahe_gives_known_colours(
    row: int, column: int, rgb: tuple[int, int, int]
) -> None:
    colour = equalise(shaded_hues())[row, column].astype(int)
    assert abs(colour - rgb).max() <= 1


def test_graham_is_grey_where_flat_and_outside() -> None:
    image = np.full((200, 200, 3), (180, 90, 40), np.uint8)
    image[95:105, 95:105] = (255, 200, 150)
    out = preprocess(image, ("graham",), None)
    assert (out[0, 0] == 128).all()  # masked
    assert abs(out[100, 40].astype(int) - 128).max() <= 2  # flat
    assert (out[100, 100] > 200).all()  # what stands out


@pytest.mark.parametrize("size", [8, 31, 64, 300])
@pytest.mark.parametrize("steps", [(), ("crop",), STEPS])
def test_size_is_as_asked(steps: tuple[str, ...], size: int) -> None:
    assert preprocess(fundus(), steps, size).shape == (size, size, 3)


def test_size_averages_when_it_shrinks() -> None:
    image = np.zeros((128, 128, 3), np.uint8)
    image[::2] = 200
    small = preprocess(image, (), 32)
    assert abs(small.astype(int) - 100).max() <= 1


def test_input_is_left_alone() -> None:
    image = fundus()
    before = image.copy()
    preprocess(image, STEPS, 64)
    assert np.array_equal(image, before)


def test_same_result_for_any_order_and_number_of_threads() -> None:
    image = fundus(600, 800, 290)
    threads = cv2.getNumThreads()
    try:
        cv2.setNumThreads(1)
        expected = preprocess(image, STEPS, 512)
        cv2.setNumThreads(4)
        assert np.array_equal(preprocess(image, STEPS[::-1], 512), expected)
    finally:
        cv2.setNumThreads(threads)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.integers(8, 90),
    st.integers(8, 90),
    st.sets(st.sampled_from(STEPS)),
    st.none() | st.integers(8, 64),
    st.integers(0, 255),
)
def test_any_small_image_goes_through(
    height: int, width: int, steps: set[str], size: int | None, level: int
) -> None:
    rng = np.random.default_rng(level)
    image = (rng.random((height, width, 3)) * (level + 1)).astype(np.uint8)
    out = preprocess(image, tuple(steps), size)
    assert out.dtype == np.uint8
    assert out.ndim == 3
    assert min(out.shape[:2]) >= 8
    if size:
        assert out.shape == (size, size, 3)


def test_crop_of_drawn_photographs() -> None:
    for number in range(4):
        pixels = simplejpeg.decode_jpeg(drawn_photograph(number))
        wide = cv2.copyMakeBorder(pixels, 10, 20, 70, 40, cv2.BORDER_CONSTANT)
        cropped = crop_fundus(wide)
        assert cropped.shape[0] == cropped.shape[1]
        assert 0.7 * 256 <= cropped.shape[0] <= 258
        assert np.array_equal(cropped, crop_fundus(pixels))


def test_crop_of_real_photographs(real_data: Path) -> None:
    for path in sorted((real_data / "odd").glob("real_*.jpeg")):
        with Image.open(io.BytesIO(path.read_bytes())) as image:
            pixels = np.asarray(image.convert("RGB"))
        cropped = crop_fundus(pixels)
        assert cropped.shape[0] == cropped.shape[1]
        assert cropped.shape[0] >= 0.7 * min(pixels.shape[:2]), path.name
