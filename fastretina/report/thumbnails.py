"""Mistakes to look at: the photograph, and where the network looked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg
import torch

from fastretina.nn.gradcam import grad_cam, overlay
from fastretina.nn.trained import Trained, load_trained
from fastretina.report.finished_run import FinishedRun
from fastretina.report.mistakes import Mistake
from fastretina.report.picture import data_url
from loaders.arrays import UInt8
from loaders.decode import Decoder
from loaders.errors import RunError
from loaders.shards import ShardSplit, open_split

_SIDE, _QUALITY = 256, 82  # of a thumbnail: 6 to 12 kB
_AT_ONCE = 8  # images in the network


@dataclass(frozen=True, kw_only=True, slots=True)
class Thumbnails:
    """Two images of a mistake, reduced to 256 pixels, as JPEGs.

    Attributes:
        photograph: as the network was given it.
        looked: the same under the heat of the grade that the network gave.
        width: pixels.
        height: pixels.
    """

    photograph: bytes
    looked: bytes
    width: int
    height: int

    @property
    def photograph_data(self) -> str:
        """As a URL that holds it all."""
        return data_url(self.photograph, "image/jpeg")

    @property
    def looked_data(self) -> str:
        """The same, of the other image."""
        return data_url(self.looked, "image/jpeg")


def draw_thumbnails(
    record: FinishedRun, mistakes: Sequence[Mistake], shards: str, device: torch.device
) -> list[Thumbnails]:
    """Decode the mistakes' photographs and look at them through the run's network.

    Args:
        record: of the run.
        mistakes: to draw, in this order.
        shards: the data set that it was tested on.
        device: to look on.

    Raises:
        DataError: the shards are gone or others, an image can't be decoded, or the
            run's network can't be loaded.
    """
    with open_split(shards, _split_of(record)) as split:
        _check_same(split, record)
        images = [_decode(split, mistake, record) for mistake in mistakes]
    trained = load_trained(record.run, device)
    if trained.weights_sha256 != record.metrics["weights_sha256"]:
        raise RunError(
            f"{trained.checkpoint}.safetensors is of another checkpoint than the "
            f"predictions; python -m fastretina.train --resume {record.run.path} "
            "repeats them"
        )
    said = [mistake.said for mistake in mistakes]
    heats = _looked_at(trained, images, said, device)
    return [_thumbnails(image, heat) for image, heat in zip(images, heats, strict=True)]


def _split_of(record: FinishedRun) -> str:
    return str(record.test.about.get("split", "test"))


def _check_same(split: ShardSplit, record: FinishedRun) -> None:
    """The rows must still be those samples: shards may have been made anew."""
    keys, test = split.column("key"), record.test
    rows = test.rows.tolist()
    if max(rows) >= len(keys) or [keys[row] for row in rows] != test.keys:
        raise RunError(f"{split.folder} holds other samples than the run was tested on")


def _decode(split: ShardSplit, mistake: Mistake, record: FinishedRun) -> UInt8:
    height, width = record.config["image_shape"]
    image = np.empty((height, width, 3), np.uint8)
    try:
        Decoder((height, width))(split.read(mistake.row), (False, False), image)
    except (ValueError, OSError, SyntaxError) as error:  # or Pillow's
        raise split.failure(mistake.row, str(error)) from error
    return image


def _looked_at(
    trained: Trained,
    images: Sequence[UInt8],
    grades: Sequence[int],
    device: torch.device,
) -> list[npt.NDArray[np.float32]]:
    """The heat of the given grades, float32[H, W] each."""
    heats: list[npt.NDArray[np.float32]] = []
    for first in range(0, len(images), _AT_ONCE):
        chosen = slice(first, first + _AT_ONCE)
        batch = torch.from_numpy(np.stack(images[chosen])).to(device)
        asked = torch.tensor(grades[chosen], device=device)
        heats.extend(grad_cam(trained.network, batch, asked).cpu().numpy())
    return heats


def _thumbnails(image: UInt8, heat: npt.NDArray[np.float32]) -> Thumbnails:
    """Reduced to fit, never enlarged."""
    height, width = image.shape[:2]
    scale = min(1.0, _SIDE / max(height, width))
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.uint8)
    hot = cv2.resize(heat, size, interpolation=cv2.INTER_AREA).astype(np.float32)
    return Thumbnails(
        photograph=simplejpeg.encode_jpeg(small, _QUALITY),
        looked=simplejpeg.encode_jpeg(overlay(small, hot), _QUALITY),
        width=size[0],
        height=size[1],
    )
