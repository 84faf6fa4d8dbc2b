"""The machine that ``scripts/gpu_check.py`` measures on."""

from __future__ import annotations

from math import inf

import torch

from bench.gpu.scope import Measurement, Scope
from bench.gpu.section_rows import Fact
from fastretina.measure.machine import gpu_facts, host_facts, package_facts


def plan_environment(scope: Scope) -> list[Measurement]:
    """Hardware, driver and versions: needed whatever the time."""
    device = torch.device(scope.device)
    return [
        Measurement("processor and packages", -inf, _host),
        Measurement(
            "GPU", -inf, lambda: _rows(gpu_facts(device).summary()), scope.lacks_cuda
        ),
    ]


def _host() -> list[Fact]:
    facts = host_facts().summary() | package_facts().summary()
    for what, kind in (
        ("convolutions", torch.backends.cudnn),
        ("matrix products", torch.backends.cuda.matmul),
    ):
        facts[f"TF32 in {what}"] = kind.allow_tf32
    return _rows(facts)


def _rows(facts: dict[str, object]) -> list[Fact]:
    return [Fact(what, value) for what, value in facts.items()]
