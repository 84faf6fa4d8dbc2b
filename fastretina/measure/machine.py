"""The machine that a number was measured on, without which it means little.

Importing this imports no torch, as ``--loader auto`` asks which machine this is.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from fastretina import __version__
from fastretina.formatting import GIB, format_gib
from fastretina.versions import installed as installed
from loaders import available
from loaders.cores import granted_cores

if TYPE_CHECKING:
    import torch

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
_UNLIMITED = 2**50  # bytes; what cgroups write where there is no limit


@dataclass(frozen=True, kw_only=True, slots=True)
class HostFacts:
    """A computer, without its GPU.

    Attributes:
        processor: the name that it gives itself.
        cores_granted: cores that this process may use.
        cores_counted: cores of the whole machine; None where the system can't tell.
        memory_gib: memory granted to this process, GiB.
        system: operating system, with its version.
    """

    processor: str
    cores_granted: int
    cores_counted: int | None
    memory_gib: float
    system: str

    def summary(self) -> dict[str, object]:
        """The facts under the names that JSON and tables show."""
        return {
            "processor": self.processor,
            "cores granted": self.cores_granted,
            "cores counted": self.cores_counted,
            "memory, GiB": self.memory_gib,
            "system": self.system,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class PackageFacts:
    """Python, and what is installed for it.

    Attributes:
        python: version of Python.
        fastretina: version of fastretina.
        torch: version of torch.
        dali: version of NVIDIA DALI, ``-`` where it can't be imported.
        others: installed package to its version.
        loaders: names of the loaders that run here.
    """

    python: str
    fastretina: str
    torch: str
    dali: str
    others: Mapping[str, str]
    loaders: tuple[str, ...]

    def versions(self) -> dict[str, str]:
        """Name to version, of Python and of every package."""
        return {
            "Python": self.python,
            "fastretina": self.fastretina,
            "torch": self.torch,
            "DALI": self.dali,
            **self.others,
        }

    def summary(self) -> dict[str, object]:
        """The facts under the names that JSON and tables show."""
        return {**self.versions(), "loaders": ", ".join(self.loaders)}


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuFacts:
    """A CUDA device, its driver and what torch was built for.

    Attributes:
        name: the model.
        compute_capability: such as ``9.0``.
        multiprocessors: how many the device has.
        memory_gib: memory of the device, GiB.
        memory_in_use_gib: memory that was in use when this was asked, GiB.
        driver: version of the driver, ``-`` where ``nvidia-smi`` is absent.
        torch_cuda: version of CUDA that torch was built for.
        cudnn: version of cuDNN as one number.
    """

    name: str
    compute_capability: str
    multiprocessors: int
    memory_gib: float
    memory_in_use_gib: float
    driver: str
    torch_cuda: str | None
    cudnn: int | None

    def summary(self) -> dict[str, object]:
        """The facts under the names that JSON and tables show."""
        return {
            "GPU": self.name,
            "compute capability": self.compute_capability,
            "multiprocessors": self.multiprocessors,
            "GPU memory, GiB": self.memory_gib,
            "GPU memory in use before, GiB": self.memory_in_use_gib,
            "driver": self.driver,
            "CUDA of torch": self.torch_cuda,
            "cuDNN": self.cudnn,
        }


class DiskFacts(NamedTuple):
    """A file system.

    Attributes:
        device: the device under it.
        kind: its type, such as ``ext4``.
        free_bytes: bytes that are free on it.
    """

    device: str
    kind: str
    free_bytes: int

    def summary(self) -> dict[str, object]:
        """The facts as one entry for JSON and tables."""
        free = f"{format_gib(self.free_bytes, 0)} free"
        return {"disk": f"{self.device} ({self.kind}), {free}"}


def host_facts() -> HostFacts:
    """Processor, cores, memory and system of this machine."""
    return HostFacts(
        processor=_processor(),
        cores_granted=granted_cores(),
        cores_counted=os.cpu_count(),
        memory_gib=round(memory_granted() / GIB, 1),
        system=platform.platform(),
    )


def package_facts() -> PackageFacts:
    """Python and what is installed for it, with the loaders that run."""
    import torch

    return PackageFacts(
        python=platform.python_version(),
        fastretina=__version__,
        torch=torch.__version__,
        dali=_dali(),
        others={name: number for name in _PACKAGES if (number := installed(name))},
        loaders=tuple(available()),
    )


def gpu_facts(device: torch.device) -> GpuFacts:
    """A CUDA device, its driver and what torch was built for."""
    import torch

    properties = torch.cuda.get_device_properties(device)
    free, total = torch.cuda.mem_get_info(device)
    return GpuFacts(
        name=properties.name,
        compute_capability=f"{properties.major}.{properties.minor}",
        multiprocessors=properties.multi_processor_count,
        memory_gib=round(total / GIB, 1),
        memory_in_use_gib=round((total - free) / GIB, 2),
        driver=_driver(),
        torch_cuda=torch.version.cuda,
        cudnn=torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
    )


def disk_facts(place: Path) -> DiskFacts:
    """The file system that a folder lies on."""
    device, kind = _mount(place.resolve())
    return DiskFacts(device, kind, shutil.disk_usage(place).free)


def memory_granted() -> int:
    """Bytes of memory: the machine's, or the container's limit where that is less."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
    except (OSError, ValueError):  # no cgroup v2 here, or a limit of "max"
        return total
    return min(total, limit) if limit < _UNLIMITED else total


def _mount(place: Path) -> tuple[str, str]:
    """Device and kind of the file system that a path lies on, as Linux lists them."""
    longest, mount = "", ("unknown disk", "unknown file system")
    try:
        lines = Path("/proc/mounts").read_text().splitlines()
    except OSError:
        return mount
    for line in lines:
        device, point, kind = line.split()[:3]
        if place.is_relative_to(point) and len(point) >= len(longest):
            longest, mount = point, (device, kind)
    return mount


@cache
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
    """The driver's version from ``nvidia-smi``, as torch can't tell it."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return "-"
    words = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    result = subprocess.run(
        words, capture_output=True, text=True, timeout=20, check=False
    )
    return result.stdout.strip().partition("\n")[0] or "-"
