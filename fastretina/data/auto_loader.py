"""What the doctor found best, kept for ``--loader auto``: one file per user.

A machine is known by what decides which loader is fastest there, so that a home which
several machines share, another GPU or another version of DALI leads nobody astray.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fastretina import __version__
from fastretina.measure.machine import host_facts
from fastretina.run import as_record
from fastretina.user_cache import user_cache
from fastretina.versions import DALI_PACKAGES, installed
from loaders import LOADERS
from loaders.errors import RunError
from loaders.files import make_folder, write_atomically

_FORMAT = 1
_PACKAGES = ("torch", "simplejpeg", "pillow", "pillow-simd")
_MOST_WORKERS = 4096


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """The fastest loader of the common order on a machine.

    Attributes:
        loader: the name of the loader.
        workers: how many threads or processes it is fastest with.
        images_per_second: its speed to the finish line *batch*.
        pixels: the longer side of the images that it was measured on.
        hw_decoder_load: the share of the images that a GPU's JPEG engine should decode
            under DALI, whatever the loader is; None where none was tried.
    """

    loader: str
    workers: int
    images_per_second: float
    pixels: int
    hw_decoder_load: float | None = None

    def __post_init__(self) -> None:
        known = {name for name, entry in LOADERS.items() if not entry.own_order}
        load = self.hw_decoder_load
        if (
            self.loader not in known
            or not 0 <= self.workers <= _MOST_WORKERS
            or (load is not None and not 0 <= load <= 1)
        ):
            raise ValueError(f"choice must be a doctor's, got {self}")

    @property
    def reason(self) -> str:
        """Why ``auto`` takes it, in a line."""
        return (
            f"--loader auto takes {self.loader}, which fastretina doctor found fastest "
            f"here: {self.images_per_second:,.0f} images/s of {self.pixels} pixels"
        )


def cache_file() -> Path | None:
    """The file that choices are kept in; None for a user without a home."""
    folder = user_cache()
    return folder and folder / "doctor.json"


def recall(device: str) -> Choice | None:
    """The choice for a device of this machine.

    None where the doctor was not asked yet, or where the file is damaged.
    """
    path = cache_file()
    if path is None:
        return None
    try:
        return as_record(_machines(path).get(machine_key(device)), Choice, path)
    except RunError:
        return None


def remember(device: str, choice: Choice) -> Path | None:
    """Keep a choice beside those of other machines; returns the file.

    Raises:
        OSError: it can't be written.
    """
    path = cache_file()
    if path is None:
        return None
    machines = _machines(path) | {machine_key(device): asdict(choice)}
    text = json.dumps({"format": _FORMAT, "machines": machines}, indent=1)
    make_folder(path.parent)
    write_atomically(path, text)
    return path


def machine_key(device: str) -> str:
    """What decides which loader is fastest, as one line."""
    host = host_facts()
    versions = [f"{name} {installed(name)}" for name in (*DALI_PACKAGES, *_PACKAGES)]
    parts = [
        f"{host.processor}",
        f"{host.cores_granted} cores",
        _accelerator(device),
        f"fastretina {__version__}",
        *(version for version in versions if not version.endswith(" None")),
    ]
    return "; ".join(parts)


def _accelerator(device: str) -> str:
    """``cpu``, or the GPU's name: an index may lead to another one tomorrow."""
    kind = device.partition(":")[0]
    if kind != "cuda":
        return kind
    import torch

    try:
        return torch.cuda.get_device_name(device)
    except (RuntimeError, AssertionError):  # none here, or torch without CUDA
        return kind


def _machines(path: Path) -> dict[str, Any]:
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(kept, dict) or kept.get("format") != _FORMAT:
        return {}
    machines = kept.get("machines")
    return machines if isinstance(machines, dict) else {}
