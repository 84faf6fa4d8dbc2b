"""What a step computes, and which share of a GPU's peak that is.

The operations are those of convolutions and matrix products, two for a multiplication
and an addition, as torch counts them; BatchNorm, ReLU and pooling count for nothing, as
is usual, though they take much of a step's time.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from fastretina.measure.steps import Case
from fastretina.nn.model import build_model, set_phase
from fastretina.recipe import Phase


class Peak(NamedTuple):
    """A GPU's peak without sparsity, in operations/s.

    Attributes:
        half: in bf16 and fp16, with sums in float32.
        tf32: of products of float32 in TF32.
        single: in float32 proper.
    """

    half: float
    tf32: float
    single: float


_HOPPER = Peak(989.4e12, 494.7e12, 66.9e12)
_A100 = Peak(312e12, 156e12, 19.5e12)

# By the device's whole name, as a laptop's GPU or a slice of one (MIG) is another.
# Sources: NVIDIA's data sheets of H100, H200, A100, L40S and L4, whose figures "with
# sparsity" are halved; its papers on the architectures Ada (RTX 4090) and GA102 (3090).
PEAKS = {
    "NVIDIA H100 80GB HBM3": _HOPPER,
    "NVIDIA H200": _HOPPER,
    "NVIDIA H100 PCIe": Peak(756e12, 378e12, 51.2e12),
    "NVIDIA H100 NVL": Peak(835.5e12, 417.5e12, 60e12),
    "NVIDIA H200 NVL": Peak(835.5e12, 417.5e12, 60e12),
    "NVIDIA A100-SXM4-80GB": _A100,
    "NVIDIA A100-SXM4-40GB": _A100,
    "NVIDIA A100 80GB PCIe": _A100,
    "NVIDIA A100-PCIE-40GB": _A100,
    "NVIDIA L40S": Peak(362.05e12, 183e12, 91.6e12),
    "NVIDIA L4": Peak(121e12, 60e12, 30.3e12),
    "NVIDIA GeForce RTX 4090": Peak(165.2e12, 82.6e12, 82.6e12),
    "NVIDIA GeForce RTX 3090": Peak(71e12, 35.6e12, 35.6e12),
}


def peak_for(case: Case, device_name: str, tf32: bool) -> float | None:
    """The peak for a step's precision, operations/s; ``None`` where it is not known.

    Args:
        case: the step.
        device_name: as torch has it.
        tf32: whether convolutions in float32 use TF32.
    """
    peak = PEAKS.get(device_name)
    if peak is None:
        return None
    if case.precision != "fp32":
        return peak.half
    return peak.tf32 if tf32 else peak.single


@cache
def flop_per_image(arch: str, pixels: int, phase: Phase) -> float:
    """Operations of a training step for an image, forward and backward.

    Counted on a network without storage, so in no time and no memory.
    """
    network = build_model(arch, "none", 0)
    set_phase(network, phase, "eval")
    network = network.to("meta")
    image = torch.empty(1, 3, pixels, pixels, device="meta")
    with FlopCounterMode(display=False) as counter:
        network(image).sum().backward()
    return float(counter.get_total_flops())


def share_of_peak(
    case: Case, images_per_second: float, device_name: str, tf32: bool
) -> float | None:
    """What a step computes in a second as a share of the peak; ``None`` if unknown."""
    peak = peak_for(case, device_name, tf32)
    if peak is None:
        return None
    work = flop_per_image(case.arch, case.pixels, case.phase)
    return images_per_second * work / peak
