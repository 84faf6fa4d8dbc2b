"""Thumbnails of the mistakes: the photograph, and the photograph under Grad-CAM.

shards  ->  decode  ->  Grad-CAM of the predicted grade  ->  overlay, reduced, JPEG
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import simplejpeg
import torch

from fastretina.nn.gradcam import grad_cam, overlay
from fastretina.nn.trained import Trained, load_trained
from fastretina.report.finished_run import FinishedRun
from fastretina.report.mistakes import Mistake
from fastretina.report.picture import data_url
from loaders.arrays import Float32, UInt8
from loaders.decode import Decoder, describe_failure
from loaders.errors import RunError
from loaders.shards import ShardSplit, open_split

_SIDE, _QUALITY = 256, 82  # of a thumbnail: 6 to 12 kB
_AT_ONCE = 8  # images in the network


@dataclass(frozen=True, kw_only=True, slots=True)
class Thumbnails:
    """Two images of a mistake, reduced to 256 pixels, as JPEGs.

    Attributes:
        photograph: JPEG of the photograph as the network was given it.
        heatmap: JPEG of the photograph under the Grad-CAM of the predicted grade.
        width: Width of both, pixels.
        height: Height of both, pixels.
    """

    photograph: bytes
    heatmap: bytes
    width: int
    height: int

    @property
    def photograph_data(self) -> str:
        """The photograph as a ``data:`` URL."""
        return data_url(self.photograph, "image/jpeg")

    @property
    def heatmap_data(self) -> str:
        """The heatmap as a ``data:`` URL."""
        return data_url(self.heatmap, "image/jpeg")


def draw_thumbnails(
    finished: FinishedRun,
    mistakes: Sequence[Mistake],
    shards: str,
    device: torch.device,
) -> dict[int, Thumbnails]:
    """Decode the mistakes' photographs and look at them through the run's network.

    Each has its thumbnails under its place in the predictions.

    Args:
        finished: The run.
        mistakes: Its mistakes to draw, each once.
        shards: The data set that it was tested on.
        device: Where to compute Grad-CAM.

    Raises:
        DataError: the shards are gone or others, an image can't be decoded, or the
            run's network can't be loaded.
    """
    name = finished.test.source.split or "test"
    with open_split(shards, name) as split:
        _check_same(split, finished)
        shape = finished.config.image_shape
        images = [_decode(split, mistake.row, shape) for mistake in mistakes]
    trained = load_trained(finished.folder, device)
    if trained.weights_sha256 != finished.result.weights_sha256:
        raise RunError(
            f"{trained.checkpoint}.safetensors is of another checkpoint than the "
            f"predictions; fastretina train --resume {finished.folder.path} "
            "repeats them"
        )
    predicted = [mistake.predicted for mistake in mistakes]
    heats = _heats(trained, images, predicted, device)
    return {
        mistake.place: _thumbnails(image, heat)
        for mistake, image, heat in zip(mistakes, images, heats, strict=True)
    }


def _check_same(split: ShardSplit, finished: FinishedRun) -> None:
    """The rows must still be those samples: shards may have been made anew."""
    keys, test = split.column("key"), finished.test
    rows = test.rows.tolist()
    if max(rows) >= len(keys) or [keys[row] for row in rows] != test.keys:
        raise RunError(f"{split.folder} holds other samples than the run was tested on")


def _decode(split: ShardSplit, row: int, shape: tuple[int, int]) -> UInt8:
    """The sample as the network was given it, uint8[H, W, 3]."""
    height, width = shape
    image = np.empty((height, width, 3), np.uint8)
    jpeg = split.read(row)
    try:
        Decoder()(jpeg, image)
    except ValueError as error:
        raise split.failure(row, describe_failure(error, jpeg)) from error
    return image


def _heats(
    trained: Trained,
    images: Sequence[UInt8],
    grades: Sequence[int],
    device: torch.device,
) -> list[Float32]:
    """Grad-CAM of a grade for each image, float32[H, W], 0 to 1."""
    heats: list[Float32] = []
    for first in range(0, len(images), _AT_ONCE):
        chosen = slice(first, first + _AT_ONCE)
        batch = torch.from_numpy(np.stack(images[chosen])).to(device)
        asked = torch.tensor(grades[chosen], device=device)
        heats.extend(grad_cam(trained.network, batch, asked).cpu().numpy())
    return heats


def _thumbnails(image: UInt8, heat: Float32) -> Thumbnails:
    """Both images of uint8[H, W, 3] and float32[H, W], reduced, never enlarged."""
    height, width = image.shape[:2]
    scale = min(1.0, _SIDE / max(height, width))
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.uint8)
    hot = cv2.resize(heat, size, interpolation=cv2.INTER_AREA).astype(np.float32)
    return Thumbnails(
        photograph=simplejpeg.encode_jpeg(small, _QUALITY),
        heatmap=simplejpeg.encode_jpeg(overlay(small, hot), _QUALITY),
        width=size[0],
        height=size[1],
    )
