"""What the doctor might have measured, for what judges it."""

from __future__ import annotations

from fastretina.doctor.advice import best_loader
from fastretina.doctor.measurements import (
    DataSetFacts,
    EndToEnd,
    LoaderRate,
    LoadingRates,
    Measurements,
    Memory,
    TrainingRates,
)
from fastretina.doctor.storage import Storage
from fastretina.measure.rounds import Rate

GIB = 2**30


def rate(speed: float) -> Rate:
    return Rate(speed, 0.9 * speed, 1.1 * speed, 3)


def measured(
    step: tuple[float, float] = (400, 100),
    ready: float = 1000,
    end: tuple[float, float] | None = None,
    *,
    cold: float | None = 5000,
    ceiling: float = 1100,
    loaders: dict[tuple[str, int], float] | None = None,
    waits: float = 0.0,
    device: str = "cpu",
    data_bytes: int = GIB,
    storage: Storage | None = None,
    **training: object,
) -> Measurements:
    """Measurements as they might be: of the steps, the loader, and both at once."""
    loaders = loaders or {("pil", 2): 300, ("turbo", 1): 600, ("turbo", 2): ready}
    end = end or (min(step[0], ready), min(step[1], ready))
    kind = storage or Storage(
        images=10, mean_bytes=5e4, progressive=0, oversized=0, chroma={"4:2:0": 10}
    )
    best = best_loader([LoaderRate(*k, rate(v)) for k, v in loaders.items()])
    trained = {
        "shape": (512, 512),
        "batch": 32,
        "memory": Memory(before=GIB, peak=2 * GIB),
        **training,
    }
    return Measurements(
        arch="resnet18",
        device=device,
        memory_granted=8 * GIB,
        batch_size=32,
        data=DataSetFacts(
            train=1000,
            test=200,
            bytes=data_bytes,
            shape=(512, 512),
            sizes=1,
            resized_to=None,
            asked=False,
            storage=kind,
        ),
        loading=LoadingRates(
            read_warm=rate(100_000),
            read_cold=None if cold is None else rate(cold),
            decode={1: rate(ceiling / 2), 2: rate(ceiling)},
            batch=[LoaderRate(*k, rate(v)) for k, v in loaders.items()],
            ready=best and LoaderRate(best.loader, best.workers, rate(ready)),
        ),
        training=TrainingRates(
            step={"head": rate(step[0]), "full": rate(step[1])},
            end_to_end={
                "head": EndToEnd(rate(end[0]), waits),
                "full": EndToEnd(rate(end[1]), waits),
            },
            **trained,  # type: ignore[arg-type]
        ),
    )
