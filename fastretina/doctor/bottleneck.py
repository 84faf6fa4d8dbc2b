"""From numbers to plain words: which stage limits, and how much there is to win.

Nothing here measures: the same measurements give the same words.
"""

from __future__ import annotations

from typing import Literal

from fastretina.doctor.contradictions import UNSTEADY, doubtful, sentences
from fastretina.doctor.measurements import CLEARLY_FASTER, Measurements
from fastretina.formatting import format_rate
from fastretina.recipe import PHASES, Phase

Limit = Literal["read", "decode", "loader", "step", "unknown"]

_NAMES: dict[Limit, str] = {
    "read": "reading",
    "decode": "decoding",
    "loader": "the loader",
    "step": "the training step",
    "unknown": "not known, as no loader makes images ready",
}
_DOUBTFUL = "not certain, as the rounds contradict one another"
_LITTLE = 0.02  # share to win; less is called nothing
_NEAR_CEILING = 0.75  # of decode only: the rest of the loader costs little
_FITS = 0.7  # of the memory granted: the page cache keeps a data set up to this
_SLACK = 0.85  # of the speed of two parts that take turns; slower has other causes


def limit(measurements: Measurements, phase: Phase) -> Limit:
    """The stage that training waits for in a phase.

    Unknown where no loader runs, or where the measurements contradict one another.
    """
    if doubtful(measurements, phase):
        return "unknown"
    loading = measurements.loading
    step = measurements.training.step[phase].images_per_second
    if loading is None:
        return "step"
    if loading.ready is None:
        return "unknown"
    ready = loading.ready.images_per_second
    disk = _disk(measurements)
    if step <= min(ready, disk):
        return "step"
    if disk < ready:
        return "read"
    ceiling = max(rate.images_per_second for rate in loading.decode.values())
    return "decode" if ready >= _NEAR_CEILING * ceiling else "loader"


def to_win(measurements: Measurements, phase: Phase) -> float | None:
    """How many times as fast training would be if loading cost nothing, at least 1.

    A step on a batch that is there is the ceiling. What lies below it can't all be the
    loader's fault: it has made the step wait for a share of the time, and may have
    taken as much of the processor as it needs for so many images. None where it is not
    known how fast training is, or the measurements contradict one another.
    """
    speed, loading = measurements.training_speed(phase), measurements.loading
    if speed is None or doubtful(measurements, phase):
        return None
    times = measurements.training.step[phase].images_per_second / speed
    end = measurements.training.end_to_end.get(phase)
    if end is not None and loading is not None and loading.ready is not None:
        taken = 1 + speed / loading.ready.images_per_second
        times = min(times, taken / max(1 - end.wait_share, 1e-3))
    return max(times, 1.0)


def headline(measurements: Measurements) -> str:
    """The title of the chart: what limits, in a few words."""
    if measurements.loading is None:
        return "A training step on made-up images"
    head, full = (_name(measurements, phase) for phase in PHASES)
    if head == full:
        return f"What limits training here: {head}"
    return f"What limits training here: {head} (head), {full} (whole network)"


def _name(measurements: Measurements, phase: Phase) -> str:
    """What limits a phase, in words that go on from *what limits is*."""
    if doubtful(measurements, phase):
        return _DOUBTFUL
    return _NAMES[limit(measurements, phase)]


def limits(measurements: Measurements) -> list[str]:
    """Sentences that say what limits each phase, and where both parts share cores."""
    if measurements.loading is None:
        step = measurements.training.step["full"].images_per_second
        return [
            "No shards, so nothing was loaded. Steps of the whole network train "
            f"{format_rate(step)} images/s, which no loader can exceed."
        ]
    names = {phase: limit(measurements, phase) for phase in PHASES}
    sentences = [_limit_sentence(measurements, phase, names[phase]) for phase in PHASES]
    return [*sentences, *_sharing(measurements)]


def _limit_sentence(measurements: Measurements, phase: Phase, name: Limit) -> str:
    step = measurements.training.step[phase].images_per_second
    speed, times = measurements.training_speed(phase), to_win(measurements, phase)
    whom = "the head alone" if phase == "head" else "the whole network"
    if speed is None or times is None:
        end = "end to end was not measured"
        if speed is not None and phase in measurements.training.end_to_end:
            end = f"{format_rate(speed)} end to end"
        return (
            f"Training {whom}: what limits is {_name(measurements, phase)}. "
            f"{format_rate(step)} images/s on a batch that is there; {end}."
        )
    what = {
        "step": "the training step limits",
        "read": "reading from the disk limits, as the data set does not fit in memory",
        "decode": "decoding limits, at what libjpeg-turbo can do on these cores",
        "loader": "the loader limits, more than the decoding it has to do",
    }[name]
    measured = phase in measurements.training.end_to_end
    pace = "end to end" if measured else "as the slower part allows"
    return (
        f"Training {whom}: {what}. {format_rate(speed)} images/s {pace}, "
        f"{format_rate(step)} on a batch that is there: {_gain(times, step, speed)}."
    )


def _gain(times: float, step: float, speed: float) -> str:
    """What faster loading would win: *times*, of *speed*, up to *step* images/s."""
    if times >= 2:
        return f"faster loading can make it {times:.1f} times as fast at most"
    if times >= 1 + _LITTLE:
        return f"faster loading can win {times - 1:.0%} at most"
    if step > CLEARLY_FASTER * speed:
        return "loading is not what lies between"
    return "faster loading would win nothing"


def _sharing(measurements: Measurements) -> list[str]:
    """A sentence where both parts alone are clearly faster than both at once."""
    assert measurements.loading is not None
    if measurements.loading.ready is None:
        return []
    if any(doubtful(measurements, phase) for phase in PHASES):
        return []
    ready = measurements.loading.ready.images_per_second
    for phase, end in measurements.training.end_to_end.items():
        step = measurements.training.step[phase].images_per_second
        speed = end.rate.images_per_second
        in_turn = 1 / (1 / step + 1 / ready)
        if in_turn * _SLACK < speed < min(step, ready) / CLEARLY_FASTER:
            what = "GPU or host" if measurements.on_gpu else "cores"
            return [
                f"Loading and training take the same {what} from one another: each "
                "alone is faster than both at once."
            ]
    return []


def unsteady(measurements: Measurements) -> list[str]:
    """A warning where rounds lie far apart, or contradict one another."""
    if doubts := sentences(measurements):
        return doubts
    steady = [bar for bar in measurements.stages() if bar.kind in ("decode", "step")]
    spreads = {bar.name: bar.rate.fastest / bar.rate.slowest for bar in steady}
    name = max(spreads, key=lambda name: spreads[name])
    if spreads[name] < UNSTEADY:
        return []
    return [
        f"Rounds of the same work differ by up to {spreads[name]:.1f} times ({name}): "
        "something else was running. Measure again on a quiet machine."
    ]


def _disk(measurements: Measurements) -> float:
    """Images/s that the disk gives in every epoch; endless where memory keeps all."""
    assert measurements.loading is not None
    assert measurements.data is not None
    cold = measurements.loading.read_cold
    if cold is None or measurements.data.bytes < _FITS * measurements.memory_granted:
        return float("inf")
    return cold.images_per_second
