"""The figures in an experiment's folder, read; and why others can't be."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from fastretina.report.experiment_file import Figure
from fastretina.report.picture import Picture
from loaders.untrusted import read_file

_MOST = 64 << 20  # bytes of a figure


def read_pictures(
    folder: Path, figures: Sequence[Figure]
) -> tuple[list[Picture], list[str]]:
    """An experiment's figures, and a sentence about each that can't be shown."""
    pictures, missing = [], []
    for figure in figures:
        try:
            pictures.append(_read(folder, figure))
        except (OSError, ValueError) as error:
            missing.append(f"The figure {figure.file} is left out: {_reason(error)}.")
    return pictures, missing


def _read(folder: Path, figure: Figure) -> Picture:
    path = folder / figure.file
    if not path.resolve().is_relative_to(folder.resolve()):
        raise OSError("it lies outside of the experiment's folder")
    png = read_file(path, _MOST)
    with Image.open(io.BytesIO(png), formats=("PNG",)) as image:
        width, height = image.size
    return Picture(
        name=Path(figure.file).stem,
        png=png,
        width=width,
        height=height,
        alt=figure.alt,
        caption=figure.caption,
    )


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "it is no PNG"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error)
