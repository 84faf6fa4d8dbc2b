"""From numbers to plain words: which stage limits, and how much there is to win.

Nothing here measures: the same findings give the same verdict.
"""

from __future__ import annotations

from typing import Literal

from fastretina.doctor.forecast import training_speed
from fastretina.doctor.measurements import Measurements, stages
from fastretina.formatting import format_rate
from fastretina.recipe import PHASES, Phase

Limit = Literal["read", "decode", "loader", "step"]

_NAMES: dict[Limit, str] = {
    "read": "reading",
    "decode": "decoding",
    "loader": "the loader",
    "step": "the training step",
}
_NOTHING = "faster loading would win nothing"
_CLEARLY = 1.10  # times as fast: more than what chance does to a median
_LITTLE = 0.02  # to win, as a share
_NEAR_CEILING = 0.75  # of decode only: the rest of the loader costs little
_FITS = 0.7  # share of the memory that the page cache may keep of a data set
_SLACK = 0.85  # of what two parts explain that take turns
_UNSTEADY = 1.6  # from the slowest round to the fastest


def limit(found: Measurements, phase: Phase) -> Limit:
    """The stage that training waits for in a phase."""
    loading = found.loading
    step = found.training.step[phase].images_per_second
    if loading is None or loading.ready is None:
        return "step"
    ready = loading.ready.rate.images_per_second
    disk = _disk(found)
    if step <= min(ready, disk):
        return "step"
    if disk < ready:
        return "read"
    ceiling = max(rate.images_per_second for rate in loading.decode.values())
    return "decode" if ready >= _NEAR_CEILING * ceiling else "loader"


def to_win(found: Measurements, phase: Phase) -> float:
    """How many times as fast training would be if loading cost nothing, at least 1.

    A step on a batch that is there is the ceiling. What lies below it can't all be the
    loader's fault: it has made the step wait for a share of the time, and may have
    taken as much of the processor as it needs for so many images.
    """
    speed, loading = training_speed(found, phase), found.loading
    times = found.training.step[phase].images_per_second / speed
    end = found.training.end_to_end.get(phase)
    if end is not None and loading is not None and loading.ready is not None:
        taken = 1 + speed / loading.ready.rate.images_per_second
        times = min(times, taken / max(1 - end.wait_share, 1e-3))
    return max(times, 1.0)


def headline(found: Measurements) -> str:
    """The verdict in a few words."""
    if found.loading is None:
        return "A training step on made-up images"
    names = [limit(found, phase) for phase in PHASES]
    if names[0] == names[1]:
        return f"What limits training here: {_NAMES[names[0]]}"
    return (
        f"What limits training here: {_NAMES[names[0]]} (head), "
        f"{_NAMES[names[1]]} (whole network)"
    )


def limits(found: Measurements) -> list[str]:
    """A sentence for each phase, or one for both."""
    if found.loading is None:
        step = found.training.step["full"].images_per_second
        return [
            "No shards, so nothing was loaded. Steps of the whole network train "
            f"{format_rate(step)} images/s, which no loader can exceed."
        ]
    names = {phase: limit(found, phase) for phase in PHASES}
    sentences = [_limit_sentence(found, phase, names[phase]) for phase in PHASES]
    return [*sentences, *_sharing(found)]


def _limit_sentence(found: Measurements, phase: Phase, name: Limit) -> str:
    assert found.loading is not None
    step = found.training.step[phase].images_per_second
    speed, times = training_speed(found, phase), to_win(found, phase)
    what = {
        "step": "the training step limits",
        "read": "reading from the disk limits, as the data set does not fit in memory",
        "decode": "decoding limits, at what libjpeg-turbo can do on these cores",
        "loader": "the loader limits, more than the decoding it has to do",
    }[name]
    whom = "the head alone" if phase == "head" else "the whole network"
    if times < 1 + _LITTLE:
        held_back = step > _CLEARLY * speed
        gain = "loading is not what lies between" if held_back else _NOTHING
    else:
        gain = (
            f"faster loading can win {times - 1:.0%} at most"
            if times < 2
            else f"faster loading can make it {times:.1f} times as fast at most"
        )
    return (
        f"Training {whom}: {what}. {format_rate(speed)} images/s end to end, "
        f"{format_rate(step)} on a batch that is there: {gain}."
    )


def _sharing(found: Measurements) -> list[str]:
    """Where both parts alone are clearly faster than both at once."""
    assert found.loading is not None
    if found.loading.ready is None:
        return []
    ready = found.loading.ready.rate.images_per_second
    for phase in found.training.end_to_end:
        step = found.training.step[phase].images_per_second
        speed = training_speed(found, phase)
        in_turn = 1 / (1 / step + 1 / ready)
        if in_turn * _SLACK < speed < min(step, ready) / _CLEARLY:
            what = "GPU or host" if found.on_gpu else "cores"
            return [
                f"Loading and training take the same {what} from one another: each "
                "alone is faster than both at once."
            ]
    return []


def unsteady(found: Measurements) -> list[str]:
    """A warning where rounds of the same work lie far apart."""
    steady = [bar for bar in stages(found) if bar.kind in ("decode", "step")]
    spreads = {bar.name: bar.rate.fastest / bar.rate.slowest for bar in steady}
    name = max(spreads, key=lambda name: spreads[name])
    if spreads[name] < _UNSTEADY:
        return []
    return [
        f"Rounds of the same work differ by up to {spreads[name]:.1f} times ({name}): "
        "something else was running. Measure again on a quiet machine."
    ]


def _disk(found: Measurements) -> float:
    """Images/s that the disk gives in every epoch; endless where memory keeps all."""
    assert found.loading is not None
    assert found.data is not None
    cold = found.loading.read_cold
    if cold is None or found.data.bytes < _FITS * found.memory_granted:
        return float("inf")
    return cold.images_per_second
