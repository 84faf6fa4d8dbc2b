"""Where a network looked: Grad-CAM (Selvaraju et al. 2017), and it over the photograph.

The map is as coarse as the last activations, 16 x 16 for a photograph of 512 pixels. It
says what a grade's logit rose with, not that a lesion is there.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastretina.nn.augment import normalise
from loaders.arrays import Float32, UInt8

_STRENGTH = 0.5  # of the colour where the heat is 1: the vessels stay visible


def grad_cam(
    network: nn.Module, images: Tensor, grades: Tensor | None = None
) -> Tensor:
    """A map of heat for each image, from the activations before the global pooling.

    The weight of a channel is the mean gradient of the grade's logit; the weighted sum
    of the activations is cut at 0, enlarged, and scaled by its own maximum. For a
    network that ends in global pooling and one linear layer, as ResNet does, that is
    the class activation map of Zhou et al. 2016.

    Costs one forward pass; only what comes after the pooling is differentiated, so the
    network's parameters are neither asked for gradients nor given any.

    Args:
        network: in eval mode, with an ``nn.AdaptiveAvgPool2d`` before its head; takes
            float32[B, 3, H, W], gives float32[B, K] logits.
        images: uint8[B, H, W, 3] on the network's device.
        grades: int64[B], whose logit to explain; by default each image's likeliest.

    Returns:
        float32[B, H, W], 0 to 1, on the same device; 0 all over where nothing in the
        image speaks for the grade.

    Raises:
        ValueError: the network is in training mode or has no such pooling.
    """
    if network.training:
        raise ValueError("network must be in eval mode, got one in training mode")
    pooling = _last_pooling(network)
    found: list[Tensor] = []

    def begin_to_differentiate(_: nn.Module, given: tuple[Tensor, ...]) -> Tensor:
        # In float32, as a weight over 256 places is next to nothing in fp16.
        found.append(given[0].detach().float().requires_grad_())
        # From here on, and until no_grad ends: a graph of all the layers before would
        # take 5 GB for 32 photographs of 512 pixels.
        torch.set_grad_enabled(True)
        return found[-1]

    with torch.inference_mode(False), torch.no_grad():
        hook = pooling.register_forward_pre_hook(begin_to_differentiate)
        try:
            logits = network(normalise(images)).float()
        finally:
            hook.remove()
        if grades is None:
            grades = logits.argmax(dim=1)
        asked = F.one_hot(grades, logits.shape[1]).float()
        (gradient,) = torch.autograd.grad(logits, found[-1], asked)
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    heat = (weights * found[-1].detach()).sum(dim=1, keepdim=True).relu()
    height, width = images.shape[1:3]
    heat = F.interpolate(heat, (height, width), mode="bilinear", align_corners=False)
    peak = heat.amax(dim=(2, 3), keepdim=True)
    return torch.where(peak > 0, heat / peak, 0.0).squeeze(1)


def overlay(image: UInt8, heat: Float32) -> UInt8:
    """The heat in colour over a photograph, which stays as it is where there is none.

    Args:
        image: uint8[H, W, 3], RGB.
        heat: float32[H, W], 0 to 1.

    Returns:
        uint8[H, W, 3], RGB: blue for little heat, red for much.
    """
    levels = np.rint(heat * 255).astype(np.uint8)
    colours = cv2.applyColorMap(levels, cv2.COLORMAP_TURBO)[..., ::-1]  # it gives BGR
    share = _STRENGTH * heat[..., None]
    blended: UInt8 = np.rint(image * (1 - share) + colours * share).astype(np.uint8)
    return blended


def _last_pooling(network: nn.Module) -> nn.Module:
    found = [m for m in network.modules() if isinstance(m, nn.AdaptiveAvgPool2d)]
    if not found:
        raise ValueError(
            "network must have an nn.AdaptiveAvgPool2d before its head, got "
            f"{type(network).__name__} without one"
        )
    return found[-1]
