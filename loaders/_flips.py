"""Mirroring the images of a batch where they lie, on the processor or on a device."""

from __future__ import annotations

import numpy as np
import torch

from loaders.arrays import Bool
from loaders.decode import FLIP_CODE, flip_codes, flip_in_place
from loaders.device import on_device


def flip_batch(images: torch.Tensor, flips: Bool) -> None:
    """Mirror uint8[B, H, W, C] where they lie, bool[B, 2] as in a ``Plan``."""
    if images.device.type != "cpu":
        flip_on_device(images, flips)
        return
    for image, code in zip(images.numpy(), flip_codes(flips), strict=True):
        if code is not None:
            flip_in_place(image, code)


def flip_on_device(images: torch.Tensor, flips: Bool) -> None:
    """The same in torch alone, whose work so far is not waited for.

    At most one gather, flip and scatter for each of the three kinds of flips.
    """
    for left_right, upside_down in FLIP_CODE:
        same = (flips == (left_right, upside_down)).all(axis=1)
        if same.any():
            at = on_device(np.flatnonzero(same), images.device)
            dims = [2] * left_right + [1] * upside_down
            images.index_copy_(0, at, images.index_select(0, at).flip(dims))
