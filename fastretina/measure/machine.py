"""The machine that a number was measured on, without which it means little."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from fastretina import __version__
from loaders import available
from loaders.cores import granted_cores

_PACKAGES = (
    "torchvision",
    "pillow",
    "pillow-simd",
    "simplejpeg",
    "opencv-python-headless",
    "numpy",
    "webdataset",
    "pyarrow",
)
_GIB = 2**30
_UNLIMITED = 2**50  # bytes; what cgroups write where there is no limit


def host_facts() -> dict[str, object]:
    """Processor, cores, memory and system."""
    return {
        "processor": _processor(),
        "cores granted": granted_cores(),
        "cores counted": os.cpu_count(),
        "memory, GiB": round(memory_granted() / _GIB, 1),
        "system": platform.platform(),
    }


def package_facts() -> dict[str, object]:
    """Python and what is installed for it, with the loaders that run."""
    return {
        "Python": platform.python_version(),
        "fastretina": __version__,
        "torch": torch.__version__,
        "DALI": _dali(),
        **{name: found for name in _PACKAGES if (found := installed(name))},
        "loaders": ", ".join(available()),
    }


def gpu_facts(device: torch.device) -> dict[str, object]:
    """A CUDA device, its driver and what torch was built for."""
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


def disk_facts(place: Path) -> dict[str, object]:
    """The file system that a folder lies on, and the device under it."""
    name, kind = _mount(place.resolve())
    usage = shutil.disk_usage(place)
    return {"disk": f"{name} ({kind}), {usage.free / _GIB:,.0f} GiB free"}


def memory_granted() -> int:
    """Bytes of memory, of the machine or of the container's limit."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
    except (OSError, ValueError):  # no cgroup v2 here, or a limit of "max"
        return total
    return min(total, limit) if limit < _UNLIMITED else total


def installed(package: str) -> str | None:
    """A package's version; None where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _mount(place: Path) -> tuple[str, str]:
    """Device and kind of the file system, as Linux tells them."""
    best, found = "", ("unknown disk", "unknown file system")
    try:
        lines = Path("/proc/mounts").read_text().splitlines()
    except OSError:
        return found
    for line in lines:
        device, point, kind = line.split()[:3]
        if place.is_relative_to(point) and len(point) >= len(best):
            best, found = point, (device, kind)
    return found


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
