"""The machine that ``scripts/gpu_check.py`` measures on."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from math import inf
from pathlib import Path

import torch

from fastretina import __version__
from fastretina.gpu.scope import Measurement, Row, Scope
from loaders import available
from loaders._cores import granted_cores

_PACKAGES = (
    "torchvision",
    "pillow",
    "simplejpeg",
    "opencv-python-headless",
    "numpy",
    "webdataset",
    "pyarrow",
)
_GIB = 2**30


def plan_environment(scope: Scope) -> list[Measurement]:
    """Hardware, driver and versions: needed whatever the time."""
    return [
        Measurement("processor and packages", -inf, lambda: _rows(_host())),
        Measurement("GPU", -inf, lambda: _rows(_gpu(scope)), scope.lacks_cuda),
    ]


def _rows(facts: dict[str, object]) -> list[Row]:
    return [{"what": what, "value": value} for what, value in facts.items()]


def _host() -> dict[str, object]:
    pages, page = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return {
        "processor": _processor(),
        "cores granted": granted_cores(),
        "memory, GiB": round(pages * page / _GIB, 1),
        "system": platform.platform(),
        "Python": platform.python_version(),
        "fastretina": __version__,
        "torch": torch.__version__,
        "DALI": _dali(),
        **{name: found for name in _PACKAGES if (found := _version(name))},
        "loaders": ", ".join(available()),
        "TF32 in convolutions": torch.backends.cudnn.allow_tf32,
        "TF32 in matrix products": torch.backends.cuda.matmul.allow_tf32,
    }


def _gpu(scope: Scope) -> dict[str, object]:
    device = torch.device(scope.device)
    about = torch.cuda.get_device_properties(device)
    free, total = torch.cuda.mem_get_info(device)
    return {
        "GPU": about.name,
        "compute capability": f"{about.major}.{about.minor}",
        "multiprocessors": about.multi_processor_count,
        "GPU memory, GiB": round(total / _GIB, 1),
        "GPU memory in use before, GiB": round((total - free) / _GIB, 2),
        "driver": _driver(),
        "CUDA of torch": torch.version.cuda,
        "cuDNN": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2] for line in lines if line.startswith("model name")]
    return names[0].strip() if names else platform.machine()


def _dali() -> str:
    try:
        from nvidia import dali
    except ImportError:
        return "-"
    return str(dali.__version__)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _driver() -> str:
    """As ``nvidia-smi`` has it, which torch can't tell."""
    found = shutil.which("nvidia-smi")
    if found is None:
        return "-"
    words = [found, "--query-gpu=driver_version", "--format=csv,noheader"]
    told = subprocess.run(
        words, capture_output=True, text=True, timeout=20, check=False
    )
    return told.stdout.strip().partition("\n")[0] or "-"
