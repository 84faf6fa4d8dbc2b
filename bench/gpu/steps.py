"""How long a training step takes on its own, with a batch that is on the device."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise

import torch

from bench.gpu.peaks import flop_per_image, share_of_peak
from bench.gpu.scope import Measurement, Scope
from bench.gpu.section_rows import StepRow
from fastretina.measure.steps import Case, make_step, synthetic
from fastretina.nn.device import Compute
from fastretina.recipe import Arch, Phase

_EAGER_SECONDS = 8.0
_COMPILED_SECONDS = {"resnet18": 35.0, "resnet50": 65.0}


def plan_steps(scope: Scope) -> list[Measurement]:
    """The eager steps."""
    return [_measurement(case, scope) for case in cases(scope) if not case.compiled]


def plan_compiled(scope: Scope) -> list[Measurement]:
    """The compiled steps, which take a minute each to compile."""
    return [_measurement(case, scope) for case in cases(scope) if case.compiled]


def cases(scope: Scope) -> list[Case]:
    """All steps, the most important first; on a CPU one tiny step beside those."""
    planned = [*_cases(scope)]
    return planned if scope.cuda else [*planned, _tiny(scope)]


def _tiny(scope: Scope) -> Case:
    return Case("resnet18", 2, min(64, scope.sizes.pixels), "fp32", "NCHW", "full")


def _cases(scope: Scope) -> Iterator[Case]:
    """The trainer's own steps, then what they are held against, then the rest."""
    phases: tuple[Phase, ...] = ("full", "head")
    networks: tuple[tuple[Arch, int], ...] = (("resnet18", 64), ("resnet50", 32))
    own = [
        Case(arch, batch, 512, "bf16", "channels-last", phase)
        for phase in phases
        for arch, batch in networks
    ]
    for case in own:
        yield case
        yield case._replace(compiled=True)
        if (case.arch, case.phase) == ("resnet18", "full"):
            yield case._replace(strong=True)
    for case in own:
        yield case._replace(precision="fp32", layout="NCHW")
    for case in own:
        yield case._replace(layout="NCHW")
        yield case._replace(precision="fp32")


def _measurement(case: Case, scope: Scope) -> Measurement:
    lacks = "" if case == _tiny(scope) else scope.lacks_cuda
    seconds = _COMPILED_SECONDS[case.arch] if case.compiled else _EAGER_SECONDS
    return Measurement(
        case.name, seconds if scope.cuda else 1.0, partial(_rows, case, scope), lacks
    )


def _rows(case: Case, scope: Scope) -> list[StepRow]:
    sizes = scope.sizes
    return [time_step(case, scope.device, sizes.warmup_steps, sizes.timed_steps)]


def time_step(case: Case, device: str, warmup: int, timed: int) -> StepRow:
    """The median step, after some that warm up."""
    compute = Compute(torch.device(device), None)
    on_gpu = compute.device.type == "cuda"
    if case.compiled:
        torch.compiler.reset()
    begun = time.perf_counter()
    take, batch = make_step(case, compute), synthetic(case, compute.device)

    def step(number: int) -> None:
        take(number, batch)

    for number in range(warmup):
        step(number)
    compute.wait()
    ready = time.perf_counter() - begun
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(compute.device)
    times = (_by_events if on_gpu else _by_clock)(step, warmup, timed)
    median = statistics.median(times)
    peak = None
    if on_gpu:
        peak = torch.cuda.max_memory_allocated(compute.device)
        del step, take, batch
        torch.cuda.empty_cache()
    speed = case.batch / median
    tf32 = torch.backends.cudnn.allow_tf32
    name = torch.cuda.get_device_name(compute.device) if on_gpu else ""
    return StepRow(
        case=case,
        ms=median * 1e3,
        fastest_ms=min(times) * 1e3,
        slowest_ms=max(times) * 1e3,
        steps=timed,
        images_per_second=speed,
        peak_bytes=peak,
        warmup_seconds=ready,
        flop_per_image=flop_per_image(case.arch, case.pixels, case.phase),
        share_of_peak=share_of_peak(case, speed, name, tf32),
        tf32_convolutions=tf32,
        tf32_products=torch.backends.cuda.matmul.allow_tf32,
    )


def _by_events(step: Callable[[int], None], first: int, steps: int) -> list[float]:
    """Seconds between the ends of steps on the GPU; the host waits for the last."""
    marks = [
        torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        for _ in range(steps + 1)
    ]
    marks[0].record()
    for number, mark in enumerate(marks[1:], first):
        step(number)
        mark.record()
    marks[-1].synchronize()
    return [one.elapsed_time(other) / 1e3 for one, other in pairwise(marks)]


def _by_clock(step: Callable[[int], None], first: int, steps: int) -> list[float]:
    times = []
    for number in range(first, first + steps):
        begun = time.perf_counter()
        step(number)
        times.append(time.perf_counter() - begun)
    return times
