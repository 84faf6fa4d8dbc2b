"""How pipelines of DALI are set up here, so that their pixels are libjpeg-turbo's."""

from __future__ import annotations

import os
import re
from typing import Any

import torch
from nvidia import dali
from nvidia.dali import fn, types
from nvidia.dali.pipeline import Pipeline

from loaders._jpeg_engine import share_of_engine
from loaders.base import Decoding, LoaderConfig
from loaders.cores import granted_cores
from loaders.errors import LoaderUnavailable
from loaders.schedule import Schedule

_POOL_FROM = "DALI_MALLOC_POOL_THRESHOLD"


def consumer(device: torch.device) -> torch.cuda.Stream | None:
    """The stream that DALI's outputs are handed to; None for the host."""
    return torch.cuda.current_stream(device) if device.type == "cuda" else None


def new_pipeline(
    config: LoaderConfig, batch_size: int, device: torch.device
) -> Pipeline:
    """A pipeline to be filled in within its ``with``."""
    # A batch of 32 is 25 MB. Up to 32 MB DALI has them from malloc, which gives memory
    # back to the system and gets it anew, at 50 page faults an image; above, from a
    # pool of its own. It asks this once in a process, with its first memory.
    os.environ.setdefault(_POOL_FROM, "1M")
    return Pipeline(
        batch_size=max(batch_size, 1),
        num_threads=config.workers or granted_cores(),
        device_id=(device.index or 0) if device.type == "cuda" else None,
        prefetch_queue_depth=config.prefetch,
    )


def built(pipeline: Pipeline, device: torch.device) -> Pipeline:
    """The pipeline, ready to run.

    Raises:
        LoaderUnavailable: DALI can't use the device.
    """
    try:
        pipeline.build()
    except RuntimeError as error:
        raise LoaderUnavailable(
            f"DALI can't use {device} ({dali_reason(error)}); pass --loader turbo"
        ) from error
    return pipeline


def dali_reason(error: RuntimeError) -> str:
    """What DALI says, in one line without its stacks; never empty."""
    text = str(error).rpartition("\nencountered:\n")[2].strip().partition("\n")[0]
    return _ASSERT.sub("", text) or "it doesn't say why"


_ASSERT = re.compile(r'^Assert on ".*" failed: ')


def describe_decoding(schedule: Schedule, *, fancy: bool) -> Decoding:
    """DALI's version, JPEG decoder and resize on the schedule's device."""
    jpeg, device = "libjpeg-turbo", schedule.device
    if device.type == "cuda":
        jpeg = f"nvJPEG, {'fancy' if fancy else 'nearest'} upsampling"
    return Decoding(
        f"DALI {dali.__version__}",
        jpeg,
        "DALI" if schedule.resizes else None,
        share_of_engine(schedule.config, device),
    )


def decode_operator(
    jpegs: Any, schedule: Schedule, device: torch.device, *, fancy: bool
) -> Any:
    """DALI's decoder, set so that its pixels are libjpeg-turbo's, and its resize.

    Orientation is not looked at, as shards hold upright images and PIL doesn't either.
    The size hints spare the first batches the growing of buffers. Images are resized
    antialiased bilinear, as Pillow does but for the outermost rows and columns: there
    DALI repeats the border, and values differ by up to 23 of 255; elsewhere by 1.
    """
    if device.type == "cuda":
        heights, widths = zip(*(schedule.source.dimensions or ((0, 0),)), strict=True)
        images = fn.decoders.image(
            jpegs,
            device="mixed",
            output_type=types.RGB,
            adjust_orientation=False,
            jpeg_fancy_upsampling=fancy,
            hw_decoder_load=share_of_engine(schedule.config, device),
            preallocate_height_hint=max(heights),
            preallocate_width_hint=max(widths),
        )
    else:
        images = fn.decoders.image(
            jpegs, device="cpu", output_type=types.RGB, adjust_orientation=False
        )
    if not schedule.resizes:
        return images
    return fn.resize(
        images,
        size=list(schedule.shape),
        interp_type=types.INTERP_LINEAR,
        antialias=True,
    )
