"""What is installed and what this process was granted: fine, doubtful or broken.

Each check is a function of plain values, so that it can be tried for machines that are
not here; ``inspect`` looks up the values of this one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import psutil
import torch
from PIL import __version__ as pil_version
from PIL import features

from fastretina.formatting import GIB, format_gib
from fastretina.measure.machine import memory_granted, package_facts
from fastretina.versions import DALI_PACKAGES, installed
from loaders import LOADERS, missing
from loaders.cores import granted_cores

CheckState = Literal["ok", "warn", "fail"]

_FILES = 1024  # 256 maps for each of two splits, pipes of workers, and the rest
_SHARED = 1 * GIB  # pil's workers hold 3 batches each there: 24 MB at 32 x 512 x 512
_MEMORY = 4 * GIB
_BUSY, _LOOK = 0.2, 0.5  # share of the cores; seconds to look


class Check(NamedTuple):
    """The result of one check.

    Attributes:
        name: what was checked, e.g. ``Pillow``.
        state: ``ok``, ``warn`` (it works, but) or ``fail`` (something won't work).
        line: what there is, with the remedy where one is needed.
    """

    name: str
    state: CheckState
    line: str


def inspect(busy: Check) -> list[Check]:
    """Every check, on this machine; whether it is busy was checked already."""
    sees = torch.cuda.is_available()
    there = sees or Path("/dev/nvidia0").exists()
    dali = {name: number for name in DALI_PACKAGES if (number := installed(name))}
    return [
        versions(package_facts().versions()),
        loaders_that_run({name: missing(name) for name in LOADERS}),
        cuda(torch.version.cuda, dali, there=there, sees=sees),
        pillow(
            pil_version,
            installed("pillow"),
            installed("pillow-simd"),
            turbo=bool(features.check_feature("libjpeg_turbo")),
        ),
        cores(granted_cores(), os.cpu_count() or 1),
        threads(torch.get_num_threads(), granted_cores()),
        busy,
        memory(memory_granted()),
        open_files(_file_limit()),
        shared_memory(_free_shared_memory()),
    ]


def look_if_busy() -> Check:
    """The check of what else runs here, which takes half a second."""
    return busy_check(_busy_cores(), granted_cores())


def versions(packages: Mapping[str, str]) -> Check:
    """The versions of Python and all packages, for a bug report."""
    line = ", ".join(f"{name} {version}" for name, version in packages.items())
    return Check("versions", "ok", line)


def loaders_that_run(notes: Mapping[str, str | None]) -> Check:
    """Which loaders can be had, and each reason why others can't."""
    there = [name for name, note in notes.items() if note is None]
    lacking: dict[str, list[str]] = {}
    for name, note in notes.items():
        if note is not None:
            reason = note.removeprefix(f"loader {name!r} ")
            lacking.setdefault(reason, []).append(name)
    absent = [f"{', '.join(names)}: {reason}" for reason, names in lacking.items()]
    state: CheckState = "warn" if absent else "ok"
    return Check("loaders", state, "; ".join([", ".join(there), *absent]))


def cuda(
    torch_cuda: str | None, dali: Mapping[str, str], *, there: bool, sees: bool
) -> Check:
    """Whether torch and DALI were made for the same CUDA, and see the GPU.

    Args:
        torch_cuda: version that torch was built for; None for a build without.
        dali: name of each installed distribution of DALI to its version.
        there: whether the machine has an NVIDIA GPU.
        sees: whether torch can use it.
    """
    built = f"torch for CUDA {torch_cuda}" if torch_cuda else "torch without CUDA"
    flavours = ", ".join(f"{name} {version}" for name, version in dali.items())
    pair = f"{built}, {flavours or 'no DALI'}"
    extra = "dali-cuda13" if (torch_cuda or "").startswith("13") else "dali"
    if len(dali) > 1:
        keep = "nvidia-dali-cuda130" if extra != "dali" else "nvidia-dali-cuda120"
        line = f"{flavours} overwrite one another: keep {keep} alone"
        return Check("CUDA", "warn", line)
    if there and not sees:
        remedy = "see nvidia-smi" if torch_cuda else "install torch with CUDA"
        return Check("CUDA", "fail", f"torch can't use the GPU ({built}): {remedy}")
    if not there:
        return Check("CUDA", "ok", f"no NVIDIA GPU; {pair}")
    if not dali:
        line = f"{pair}: pip install 'fastretina[{extra}]' decodes on the GPU"
        return Check("CUDA", "warn", line)
    majors = {(torch_cuda or "").partition(".")[0], next(iter(dali))[-3:-1]}
    if len(majors) > 1:
        line = f"{pair}: of two CUDA versions; pip install 'fastretina[{extra}]'"
        return Check("CUDA", "warn", f"{line}, and remove the other")
    return Check("CUDA", "ok", pair)


def pillow(version: str, plain: str | None, simd: str | None, *, turbo: bool) -> Check:
    """Which Pillow it is that the ``pil`` loader decodes with.

    Args:
        version: version of PIL, by its own account; ``.post`` is pillow-simd's.
        plain: version of the distribution pillow, if installed.
        simd: version of pillow-simd, if installed.
        turbo: whether it was built with libjpeg-turbo.
    """
    if plain and simd:
        line = f"pillow {plain} and pillow-simd {simd} overwrite one another"
        return Check("Pillow", "warn", f"{line}: uninstall both, install one")
    if not turbo:
        line = f"Pillow {version} has no libjpeg-turbo, and decodes much slower"
        return Check("Pillow", "warn", f"{line}: take the wheel from PyPI")
    if simd or ".post" in version:
        return Check("Pillow", "ok", f"pillow-simd {simd or version}, libjpeg-turbo")
    line = f"Pillow {version}, libjpeg-turbo (not pillow-simd, which resizes faster)"
    return Check("Pillow", "ok", line)


def cores(granted: int, counted: int) -> Check:
    """Whether programs that count cores would count too many."""
    line = f"{granted} granted of {counted} counted"
    if granted < counted:
        line += ": programs that count them start too many workers; fastretina doesn't"
        return Check("cores", "warn", line)
    return Check("cores", "ok", line)


def threads(computing: int, granted: int) -> Check:
    """Whether torch computes in more threads than there are cores."""
    line = f"torch computes in {computing} on {granted} cores"
    if computing > granted:
        line += f": pass --threads {granted} where the network runs on the CPU"
        return Check("threads", "warn", line)
    return Check("threads", "ok", line)


def busy_check(cores_in_use: float | None, granted: int) -> Check:
    """Whether something else runs here, beside which measuring means little."""
    if cores_in_use is None:
        return Check("load", "ok", "can't be told here")
    line = f"{cores_in_use:.1f} of {granted} cores in use by others"
    if cores_in_use > _BUSY * granted:
        line += ": what is measured now is too slow, and is not kept for --loader auto"
        return Check("load", "warn", line)
    return Check("load", "ok", line)


def memory(granted: int) -> Check:
    """Whether there is enough to train at all."""
    line = format_gib(granted)
    if granted < _MEMORY:
        return Check("memory", "warn", f"{line}: pass a smaller --batch-size")
    return Check("memory", "ok", line)


def open_files(limit: int | None) -> Check:
    """Whether as many shards can be open as are at most (512 in two splits)."""
    if limit is None:
        return Check("open files", "ok", "no limit known here")
    if limit < _FILES:
        line = f"{limit:,} at most: many shards need more; ulimit -n 4096"
        return Check("open files", "warn", line)
    return Check("open files", "ok", f"{limit:,} at most")


def shared_memory(free: int | None) -> Check:
    """Whether worker processes (pil) find room for their batches."""
    if free is None:
        return Check("shared memory", "ok", "no /dev/shm here")
    line = f"{format_gib(free)} free in /dev/shm"
    if free < _SHARED:
        line += ": pil's workers may die with 'bus error'; docker run --shm-size 8g"
        return Check("shared memory", "warn", line)
    return Check("shared memory", "ok", line)


def _busy_cores() -> float | None:
    """Cores of ours that are at work while this process is not.

    None in a container with a quota, which may use any core, for a share of the time.
    """
    if not hasattr(os, "sched_getaffinity"):
        return None
    ours = os.sched_getaffinity(0)
    if granted_cores() < len(ours):
        return None
    shares: list[float] = psutil.cpu_percent(_LOOK, percpu=True)
    return sum(share for core, share in enumerate(shares) if core in ours) / 100


def _file_limit() -> int | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft


def _free_shared_memory() -> int | None:
    try:
        status = os.statvfs("/dev/shm")
    except (OSError, AttributeError):
        return None
    return status.f_bavail * status.f_frsize
