"""Sections for ``test_gpu_check``; without torch, as new processes import this."""

from __future__ import annotations

import json
import os
import signal
import time
from math import inf
from multiprocessing import get_context

import bench.gpu.scope
from bench.gpu.scope import Measurement, Scope, Section
from bench.gpu.section_rows import Fact


def fine() -> list[Fact]:
    return [Fact("fine", 1)]


def dies() -> list[Fact]:
    os.kill(os.getpid(), signal.SIGSEGV)
    return []


def raises() -> list[Fact]:
    raise RuntimeError("CUDA error: an illegal memory access\nand more lines")


def hangs() -> list[Fact]:
    time.sleep(600)
    return []


def leaves() -> list[Fact]:
    os._exit(3)


def plan_troubled(scope: Scope) -> list[Measurement]:
    return [
        Measurement("first", 0.0, fine),
        Measurement("dies", 0.0, dies),
        Measurement("raises", 0.0, raises),
        Measurement("hangs", 0.01, hangs, least_limit=1.0),
        Measurement("lacking", 0.0, fine, "needs a moon"),
        Measurement("last", 0.0, fine),
    ]


def method() -> list[Fact]:
    return [Fact("method", get_context().get_start_method())]


def plan_after(scope: Scope) -> list[Measurement]:
    return [Measurement("after", 0.0, method)]


def plan_badly(scope: Scope) -> list[Measurement]:
    raise RuntimeError("no plan")


def plan_looking(scope: Scope) -> list[Measurement]:
    """The second finds in the file what the first has measured."""

    def look() -> list[Fact]:
        record = json.loads((scope.out / "gpu_check.json").read_text())
        return [Fact("seen", record["sections"]["environment"]["rows"])]

    return [
        Measurement("first", 0.0, fine),
        Measurement("raises", 0.0, raises),
        Measurement("looks", 0.0, look),
    ]


TROUBLED = [Section("troubled", plan_troubled), Section("after", plan_after)]


def plan_slow(scope: Scope) -> list[Measurement]:
    """The second would take 300 s and more, and has what is left after the end."""
    bench.gpu.scope._GRACE = 2.0
    return [
        Measurement("first", -inf, fine),
        Measurement("outlasts", -inf, hangs, least_limit=300.0),
    ]


class Stubborn:
    """Can be pickled, and not be made again: its process dies before it begins."""

    def __reduce__(self) -> tuple[object, tuple[int]]:
        return os._exit, (4,)
