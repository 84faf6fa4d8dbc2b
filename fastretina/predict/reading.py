"""From a file that somebody names to the image that a run's network takes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fastretina.data.left_out import LeftOutFiles, files_below, find_left_out
from fastretina.data.prepare import Preparer, Rejected
from fastretina.data.preprocess_steps import STEPS
from fastretina.predict.gradability import gradability
from fastretina.run import Run
from fastretina.run_config import RunConfig
from loaders.arrays import UInt8
from loaders.course import IMAGE_SUFFIXES, list_images
from loaders.decode import Decoder
from loaders.errors import LabelError, RunError
from loaders.jpeg_structure import MOST_PHOTOGRAPH
from loaders.shards import Preprocessing
from loaders.untrusted import read_file


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


class FoundPhotographs(NamedTuple):
    """What is there to be graded, and what is not taken.

    Attributes:
        paths: files, in the order in which they are graded.
        left_out: number of files in the named folders that are not taken.
        notes: a line for each folder and reason.
    """

    paths: list[Path]
    left_out: int
    notes: list[str]


def refuse_unknown_steps(run: Run, how: Preparation) -> None:
    """Raise ``RunError`` where photographs can't be prepared as the run's were."""
    for step in how.steps:
        if step not in STEPS:
            raise RunError(
                f"{run.path / 'config.json'}: its photographs were preprocessed by "
                f"{step[:40]!r}, which this version does not know: update fastretina"
            )


def find_photographs(named: Sequence[Path]) -> FoundPhotographs:
    """Files as they are named; for a folder, the photographs in it and below.

    A folder without any stays, so that ``read_photograph`` gives its error.
    """
    paths: list[Path] = []
    left_out: list[tuple[Path, LeftOutFiles]] = []
    for path in named:
        if not path.is_dir():
            paths.append(path)
            continue
        files = map(Path, files_below(str(path)))
        images = (f for f in files if f.suffix.lower() in IMAGE_SUFFIXES)
        inside = [file for file in images if file.is_file()]  # no link to a pipe
        paths += inside or [path]
        rest = find_left_out(path, inside, nowhere="as they can't be read")
        left_out += [(path, each) for each in rest]
    return FoundPhotographs(
        paths,
        sum(len(each.names) for _, each in left_out),
        [each.describe(folder) for folder, each in left_out],
    )


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
        content = read_file(path, MOST_PHOTOGRAPH)
        plain = ready = Preparer()(content)
        if how.steps or how.size is not None:
            ready = Preparer(how.steps, how.size)(content)
        if ready.width != ready.height and how.square:
            ready = Preparer(["crop"])(ready.jpeg)
        Decoder()(ready.jpeg, image)
        original = np.empty((plain.height, plain.width, 3), np.uint8)
        Decoder()(plain.jpeg, original)
        return Photograph(path, image, gradability(original) or "", "")
    except OSError as error:
        return Photograph(path, image, "", error.strerror or str(error))
    except (Rejected, ValueError) as error:
        return Photograph(path, image, "", str(error))
    except MemoryError:
        return Photograph(path, image, "", "it takes more memory than there is")


def _why_nothing_is_in(folder: Path) -> str:
    try:
        list_images(folder)
    except LabelError as error:
        reason = str(error).removeprefix(f"{folder}: ")
        return f"the folder can't be listed: {reason}"
    return "the folder holds no photograph: no JPEG, PNG, TIFF or WebP file"
