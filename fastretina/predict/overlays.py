"""A picture of what the network looked at: the photograph, and the heat over it."""

from __future__ import annotations

import io
import re
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from fastretina.formatting import NOTICE
from fastretina.nn.gradcam import overlay
from fastretina.predict.network import Graded
from loaders.arrays import Float32, UInt8
from loaders.course import strip_suffix
from loaders.files import write_atomically
from loaders.grades import GRADES

_SIDE = 384  # pixels that each half has at least, to have room for words
_GAP, _LINE, _FONT = 8, 20, 14  # pixels
_STEM = 80  # letters of the photograph's name that the file's keeps
_ABOUT = f"Grad-CAM: what the grade's score rose with, no map of lesions. {NOTICE}"


def write_overlay(
    folder: Path, number: int, graded: Graded, image: UInt8, heat: Float32
) -> Path:
    """Draw one photograph and write it as ``NUMBER_NAME_gradeG_PERCENT.png``.

    Args:
        folder: a folder that exists.
        number: the photograph's row in the table, which keeps file names apart.
        graded: its grade and probabilities.
        image: uint8[H, W, 3], what the network was given.
        heat: float32[H, W], Grad-CAM of its likeliest grade.

    Returns:
        The file.
    """
    assert graded.probabilities is not None
    path, grade = graded.path, graded.grade
    percent = f"{graded.probabilities[grade] * 100:.0f}"
    lines = [f"{path.name}: grade {grade}, {GRADES[grade]}, {percent} %"]
    if graded.warning:
        lines.append(f"warning: {graded.warning}")
    drawn = draw(image, overlay(image, heat), lines)
    stem = re.sub(r"[^A-Za-z0-9_-]", "-", strip_suffix(path.name))[:_STEM]
    name = f"{number:05d}_{stem}_grade{grade}_{percent}.png"
    file = io.BytesIO()
    drawn.save(file, "PNG", compress_level=1)  # 6: 9 x as long
    write_atomically(folder / name, file.getvalue())
    return folder / name


def draw(left: UInt8, right: UInt8, lines: list[str]) -> Image.Image:
    """Two pictures side by side, lines above them, and below a line on what they are.

    Args:
        left: uint8[H, W, 3].
        right: uint8[H, W, 3].
        lines: written above; cut where they are too long.
    """
    height, width = left.shape[:2]
    factor = max(1.0, _SIDE / min(height, width))
    size = (round(width * factor), round(height * factor))
    halves = [
        cv2.resize(half, size, interpolation=cv2.INTER_LINEAR) for half in (left, right)
    ]
    top = _GAP + _LINE * len(lines)
    canvas = Image.new(
        "RGB", (2 * size[0] + 3 * _GAP, size[1] + top + _LINE + 2 * _GAP), "white"
    )
    for number, half in enumerate(halves):
        at = (_GAP + number * (size[0] + _GAP), top)
        canvas.paste(Image.fromarray(half.astype(np.uint8)), at)
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(_FONT)
    room = canvas.width - 2 * _GAP
    for number, line in enumerate(lines):
        pen.text((_GAP, 4 + number * _LINE), _cut(line, room, font), "black", font)
    pen.text((_GAP, top + size[1] + 4), _cut(_ABOUT, room, font), "black", font)
    return canvas


def _cut(
    line: str, room: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont
) -> str:
    """Cut a line at its start, so that what is left has room."""
    plain = "".join(letter if letter.isprintable() else "?" for letter in line)
    shown = plain
    while shown and font.getlength(shown) > room:
        plain = plain[1:]
        shown = f"...{plain}"
    return shown
