"""From a file that somebody names to the image that a run's network takes."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fastretina.data.prepare import Preparer, Rejected
from fastretina.predict.gradability import gradability
from fastretina.run_config import RunConfig
from loaders.arrays import UInt8
from loaders.course import list_images
from loaders.decode import Decoder
from loaders.errors import LabelError
from loaders.shards import Preprocessing


class Preparation(NamedTuple):
    """How a run's training images were prepared, and so how photographs are.

    Attributes:
        steps: of ``preprocess_steps.STEPS``, done when the shards were written.
        size: pixels square that the shards' images were resized to; None if not.
        shape: H and W of the images that the network takes.
        square: whether all images of the shards were square.
    """

    steps: Sequence[str]
    size: int | None
    shape: tuple[int, int]
    square: bool

    @classmethod
    def of_run(cls, config: RunConfig) -> Preparation:
        """The preparation that a run has recorded."""
        done = config.data.preprocessing or Preprocessing()
        return cls(done.steps, done.size, config.image_shape, config.square)


class Photograph(NamedTuple):
    """One photograph, read.

    Attributes:
        path: as it was named.
        image: uint8[H, W, 3], as the network was trained on its like.
        warning: why it can't be graded, though it can be decoded; or empty.
        error: why it can't be decoded; or empty. The image means nothing then.
    """

    path: Path
    image: UInt8
    warning: str
    error: str


def find_photographs(named: Sequence[Path]) -> list[Path]:
    """Files as they are named; for a folder, the JPEG and PNG files right inside it.

    A folder without any stays, so that ``read_photograph`` gives its error.
    """
    photographs: list[Path] = []
    for path in named:
        inside: list[Path] = []
        if path.is_dir():
            with suppress(LabelError):  # it can't be listed
                inside = sorted(
                    file for files in list_images(path).values() for file in files
                )
        photographs += inside or [path]
    return photographs


def read_photograph(path: Path, how: Preparation) -> Photograph:
    """Read and prepare one photograph as a run's training images were.

    One of another shape than the square images of training is cropped to the fundus.
    Whether it is gradable is measured on the photograph as it came, turned upright.

    Args:
        path: the file.
        how: of the run.
    """
    image = np.zeros((*how.shape, 3), np.uint8)
    try:
        if path.is_dir():
            return Photograph(path, image, "", _why_nothing_is_in(path))
        content = path.read_bytes()
        plain = ready = Preparer()(content)
        if how.steps or how.size is not None:
            ready = Preparer(how.steps, how.size)(content)
        if ready.width != ready.height and how.square:
            ready = Preparer(["crop"])(ready.jpeg)
        _decode(ready.jpeg, image)
        original = np.empty((plain.height, plain.width, 3), np.uint8)
        _decode(plain.jpeg, original)
        return Photograph(path, image, gradability(original) or "", "")
    except OSError as error:
        return Photograph(path, image, "", error.strerror or str(error))
    except (Rejected, ValueError) as error:
        return Photograph(path, image, "", str(error))


def _why_nothing_is_in(folder: Path) -> str:
    try:
        list_images(folder)
    except LabelError as error:
        reason = str(error).removeprefix(f"{folder}: ")
        return f"the folder can't be listed: {reason}"
    return "the folder holds no JPEG or PNG file"


def _decode(jpeg: bytes, out: UInt8) -> None:
    height, width = out.shape[:2]
    Decoder((height, width))(jpeg, (False, False), out)
