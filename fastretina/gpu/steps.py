"""How long a training step takes on its own, with a batch that is on the device."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from fastretina.augment import Augment, normalise
from fastretina.device import Compute
from fastretina.gpu.scope import Measurement, Row, Scope
from fastretina.model import build_model, set_phase
from fastretina.optimise import Loss, make_average, make_optimizer
from fastretina.recipe import STRONG, Arch

Phase = Literal["head", "full"]

_EAGER_SECONDS = 6.0
_COMPILED_SECONDS = {"resnet18": 40.0, "resnet50": 70.0}


class Case(NamedTuple):
    """A kind of step.

    Attributes:
        arch: the network.
        batch: images.
        pixels: their side.
        precision: ``fp32`` or ``bf16`` under autocast.
        layout: ``NCHW`` or ``channels-last``.
        phase: ``head`` or ``full``.
        compiled: by ``torch.compile``.
        strong: with the strong recipe's augmentation and average of the weights, as in
            a run; otherwise only normalised.
    """

    arch: Arch
    batch: int
    pixels: int
    precision: Literal["fp32", "bf16"]
    layout: Literal["NCHW", "channels-last"]
    phase: Phase
    compiled: bool = False
    strong: bool = False

    @property
    def name(self) -> str:
        """For people."""
        words = [
            f"{self.arch} step",
            f"batch {self.batch}",
            self.precision,
            self.layout,
            self.phase,
            "compiled" if self.compiled else "eager",
        ]
        return ", ".join([*words, "strong recipe"] if self.strong else words)


def plan_steps(scope: Scope) -> list[Measurement]:
    """The eager steps."""
    return [_measurement(case, scope) for case in cases(scope) if not case.compiled]


def plan_compiled(scope: Scope) -> list[Measurement]:
    """The compiled steps, which take a minute each to compile."""
    return [_measurement(case, scope) for case in cases(scope) if case.compiled]


def cases(scope: Scope) -> list[Case]:
    """All steps, the most important first; on a CPU one tiny step beside those."""
    found = [*_cases(scope)]
    return found if scope.cuda else [*found, _tiny(scope)]


def _tiny(scope: Scope) -> Case:
    return Case("resnet18", 2, min(64, scope.sizes.pixels), "fp32", "NCHW", "full")


def _cases(scope: Scope) -> Iterator[Case]:
    pixels = 512
    phases: tuple[Phase, ...] = ("full", "head")
    networks: tuple[tuple[Arch, int], ...] = (("resnet18", 64), ("resnet50", 32))
    for phase in phases:
        for arch, batch in networks:
            base = Case(arch, batch, pixels, "bf16", "channels-last", phase)
            yield base
            yield base._replace(precision="fp32", layout="NCHW")
            if arch == "resnet18" and phase == "full":
                yield base._replace(strong=True)
            yield base._replace(layout="NCHW")
            yield base._replace(precision="fp32")
            yield base._replace(compiled=True)


def _measurement(case: Case, scope: Scope) -> Measurement:
    lacks = "" if case == _tiny(scope) else scope.lacks_cuda
    seconds = _COMPILED_SECONDS[case.arch] if case.compiled else _EAGER_SECONDS
    return Measurement(
        case.name, seconds if scope.cuda else 1.0, partial(_rows, case, scope), lacks
    )


def _rows(case: Case, scope: Scope) -> list[Row]:
    sizes = scope.sizes
    return [time_step(case, scope.device, sizes.warmup_steps, sizes.timed_steps)]


def time_step(case: Case, device: str, warmup: int, timed: int) -> Row:
    """The median step, after some that warm up."""
    dtype = torch.bfloat16 if case.precision == "bf16" else None
    compute = Compute(torch.device(device), dtype)
    on_gpu = compute.device.type == "cuda"
    torch.backends.cudnn.benchmark = True  # as the trainer has it
    if case.compiled:
        torch.compiler.reset()
    begun = time.perf_counter()
    step = make_step(case, compute)
    for number in range(warmup):
        step(number)
    compute.wait()
    ready = time.perf_counter() - begun
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(compute.device)
    times = (_by_events if on_gpu else _by_clock)(step, warmup, timed)
    median = statistics.median(times)
    row = {
        **case._asdict(),
        "ms": median * 1e3,
        "fastest_ms": min(times) * 1e3,
        "slowest_ms": max(times) * 1e3,
        "steps": timed,
        "images_per_second": case.batch / median,
        "peak_bytes": None,
        "warmup_seconds": ready,
        "tf32_convolutions": torch.backends.cudnn.allow_tf32,
        "tf32_products": torch.backends.cuda.matmul.allow_tf32,
    }
    if on_gpu:
        row["peak_bytes"] = torch.cuda.max_memory_allocated(compute.device)
        del step
        torch.cuda.empty_cache()
    return row


def make_step(case: Case, compute: Compute) -> Callable[[int], None]:
    """A step as the trainer takes it, from a synthetic uint8 batch on the device."""
    device = compute.device
    network = build_model(case.arch, "none", 0).to(device)
    if case.layout == "NCHW":
        network = network.to(memory_format=torch.contiguous_format)
    parameters = set_phase(network, case.phase, STRONG.head_batchnorm)
    optimizer = make_optimizer(STRONG, case.phase, parameters, device)
    average = make_average(network, STRONG.ema_decay) if case.strong else None
    forward = torch.compile(network) if case.compiled else network
    augment, loss_of = Augment(STRONG), Loss(STRONG, [1] * 5).to(device)
    images, labels, rows = _batch(case, device)

    def prepare(number: int) -> Tensor:
        return augment(images, rows, 0, number) if case.strong else normalise(images)

    def step(number: int) -> None:
        inputs = prepare(number)
        if case.layout == "NCHW":
            inputs = inputs.contiguous()
        with compute.autocast():
            logits = forward(inputs)
        loss = loss_of(logits.float(), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if average is not None:
            average.update_parameters(network)

    return step


def _batch(case: Case, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    size = (case.batch, case.pixels, case.pixels, 3)
    images = torch.randint(0, 256, size, dtype=torch.uint8, generator=random)
    labels = torch.arange(case.batch) % 5
    return images.to(device), labels.to(device), torch.arange(case.batch).to(device)


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
