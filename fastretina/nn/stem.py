"""A ResNet's first convolution over blocks of 2 x 2 pixels, for the same sums.

    float[B, 3, H, W] --pad--> --blocks--> float[B, 12, H/2 + 3, W/2 + 3]
    float[64, 3, 7, 7] --pad--> float[64, 3, 8, 8] --blocks--> float[64, 12, 4, 4]

On three channels a GPU's matrix units idle: of a compiled ResNet18 step of 38 ms on an
H100, the 7 x 7 convolution of stride 2 took 7.4. A 4 x 4 one of stride 1 over 12
channels adds up the same products; only their order, so the last bits, are others.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def blocks(images: Tensor) -> Tensor:
    """Each 2 x 2 pixels as channels: [B, C, 2H, 2W] to [B, 4C, H, W], channels-last."""
    batch, channels, height, width = images.shape
    split = images.reshape(batch, channels, height // 2, 2, width // 2, 2)
    moved = split.permute(0, 3, 5, 1, 2, 4)
    joined = moved.reshape(batch, 4 * channels, height // 2, width // 2)
    return joined.contiguous(memory_format=torch.channels_last)


def convolve_blocks(images: Tensor, weight: Tensor) -> Tensor:
    """``F.conv2d(images, weight, stride=2, padding=3)`` over blocks.

    Output row i adds up input rows 2i - 3 to 2i + 3. With a tap of zeros before the
    first one these are rows 2i - 4 to 2i + 3: blocks i - 2 to i + 1.

    Args:
        images: float[B, C, H, W].
        weight: float[K, C, 7, 7].

    Returns:
        float[B, K, (H + 1) // 2, (W + 1) // 2].
    """
    height, width = images.shape[2:]
    padded = F.pad(images, (4, 2 + width % 2, 4, 2 + height % 2))
    return F.conv2d(blocks(padded), blocks(F.pad(weight, (1, 0, 1, 0))))


class BlockStem(nn.Conv2d):
    """A convolution that a compiled graph computes over blocks; elsewhere as ever."""

    def forward(self, input: Tensor) -> Tensor:
        """float[B, 3, H, W] to float[B, K, (H + 1) // 2, (W + 1) // 2]."""
        if torch.compiler.is_compiling():
            return convolve_blocks(input, self.weight)
        return super().forward(input)


def use_blocks(network: nn.Module) -> None:
    """Have ``conv1`` computed over blocks, if it is a ResNet's; weights stay in place.

    The parameter is the same object, of the same name and shape.
    """
    stem = getattr(network, "conv1", None)
    if isinstance(stem, nn.Conv2d) and _is_resnets(stem):
        stem.__class__ = BlockStem


def _is_resnets(stem: nn.Conv2d) -> bool:
    shape = (stem.kernel_size, stem.stride, stem.padding, stem.dilation)
    plain = stem.groups == 1 and stem.bias is None and stem.padding_mode == "zeros"
    return plain and shape == ((7, 7), (2, 2), (3, 3), (1, 1))
