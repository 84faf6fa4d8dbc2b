"""Whether a GPU has an engine of its own for JPEGs, and what share of them it takes.

It is nvJPEG that is asked, as DALI's decoder does, and not a list of GPUs, which would
be wrong by the next one: the A100, the H100 and later ones for data centres have it,
those for desktops and many for inference don't.
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from loaders.base import LoaderConfig

if TYPE_CHECKING:
    import torch

_HARDWARE = 3  # NVJPEG_BACKEND_HARDWARE
_WITHOUT = 0.65  # DALI's own default; without an engine it is of no say


def share_of_engine(config: LoaderConfig, device: torch.device) -> float | None:
    """What DALI is to give to the JPEG engine; None where no GPU decodes.

    All, where there is one: on an H100, at 1.0 it was 9 % faster to *batch* and 16 % in
    training than at DALI's 0.65, and 79 % of the images were Pillow's to the last bit
    instead of 52 %. The rest would be decoded by the units that train.
    """
    if device.type != "cuda":
        return None
    if config.hw_decoder_load is not None:
        return config.hw_decoder_load
    return 1.0 if count_engines(device) else _WITHOUT


def count_engines(device: torch.device) -> int:
    """The JPEG engines of a GPU that DALI can use; 0 where nvJPEG can't tell."""
    import torch

    with torch.cuda.device(device):
        torch.cuda.current_stream().synchronize()  # so that there is a context
        for path in _libraries():
            try:
                library = ctypes.CDLL(str(path))
            except OSError:
                continue
            return _ask(library)
    return 0


@cache
def _libraries() -> tuple[Path, ...]:
    """The libraries that wheels bring, DALI's own first."""
    found: list[Path] = []
    for folder in sys.path:
        for place in ("nvjpeg/lib", "cu*/lib"):
            found += sorted(Path(folder, "nvidia").glob(f"{place}/libnvjpeg.so.*"))
    return tuple(found)


def _ask(library: ctypes.CDLL) -> int:
    """The engines that nvJPEG finds on the current GPU.

    Without one, the handle can't be had, or their number is 0.
    """
    handle = ctypes.c_void_p()
    engines, cores = ctypes.c_uint(0), ctypes.c_uint(0)
    try:
        made = library.nvjpegCreateEx(
            _HARDWARE, None, None, ctypes.c_uint(0), ctypes.byref(handle)
        )
        if made != 0:
            return 0
        asked = library.nvjpegGetHardwareDecoderInfo(
            handle, ctypes.byref(engines), ctypes.byref(cores)
        )
        library.nvjpegDestroy(handle)
    except AttributeError:  # nvJPEG before 11.9 can't be asked
        return 0
    return 0 if asked != 0 else engines.value
