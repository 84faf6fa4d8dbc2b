"""Decoders alone: decode, and decode + resize to 224, on one thread and on all."""

from __future__ import annotations

from typing import Any

import pytest

from bench.data import BenchData
from bench.decoders import IMAGES, decoders
from bench.race import Entrant, EntrantResult
from bench.replay import clock
from fastretina.measure.ceilings import decode_only
from loaders.cores import granted_cores

_NOWHERE = BenchData(folder=None)  # type: ignore[arg-type]  # for the names alone
_THREADS = sorted({1, granted_cores()})


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    names = [entrant.name for entrant in decoders(_NOWHERE, _THREADS)]
    metafunc.parametrize("name", names)


@pytest.fixture(scope="module")
def outcomes(
    run_race: Any, data: BenchData, jpegs: list[bytes]
) -> dict[str, EntrantResult]:
    def ceiling(entrant: Entrant) -> float:
        return decode_only(jpegs[:IMAGES], entrant.about["threads"])

    found: dict[str, EntrantResult] = run_race(
        decoders(data, _THREADS), ceiling=ceiling, firsts=0, memory=False
    )
    return found


@pytest.mark.benchmark(timer=clock)
def bench_decode(name: str, report: Any, outcomes: dict[str, EntrantResult]) -> None:
    threads = outcomes[name].entrant.about["threads"]
    report(f"decode, {threads} thread{'s' * (threads > 1)}", outcomes, name)
