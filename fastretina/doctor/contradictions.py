"""Where rounds contradict one another: a whole that is faster than a part of it.

An image that is trained on end to end goes through the step and through the loader, so
no speed end to end can lie above theirs::

    batch --> ready --.
                      +--> end to end       step, head --> step, full (does all of it)
             step ----'

Where one does, another program held the cores during the rounds of one of them. Nothing
here measures: the same measurements give the same words.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from fastretina.doctor.measurements import CLEARLY_FASTER, Measurements, Stage
from fastretina.formatting import format_rate
from fastretina.measure.rounds import Rate
from fastretina.recipe import PHASES, Phase

# Times as fast as the median of a part: more is a contradiction, however far apart the
# part's rounds lie, as these are then in doubt themselves.
UNSTEADY = 1.6


class Contradiction(NamedTuple):
    """A stage that was faster than another one which is part of it.

    Attributes:
        whole: the stage that is too fast to be true, or
        part: the stage that is too slow to be.
        phases: the phases that are judged by one of them.
    """

    whole: Stage
    part: Stage
    phases: Sequence[Phase]

    @property
    def times(self) -> float:
        """How many times as fast the whole was."""
        return self.whole.rate.images_per_second / self.part.rate.images_per_second

    def summary(self) -> dict[str, object]:
        """It under its JSON keys."""
        names = {"whole": self.whole.name, "part": self.part.name}
        return {**names, "times": round(self.times, 2)}


def contradicts(whole: Rate, part: Rate) -> bool:
    """Whether a whole is faster than its part by more than the part's rounds differ.

    These are granted 10 % at least, as a median of few rounds is that uncertain, and
    60 % at most. The whole is judged by its median.
    """
    median = part.images_per_second
    spread = max(part.fastest, CLEARLY_FASTER * median)
    return whole.images_per_second > min(spread, UNSTEADY * median)


def contradictions(measurements: Measurements) -> list[Contradiction]:
    """All pairs that can't both be true, the worst first."""
    found = [
        Contradiction(whole, part, phases)
        for whole, part, phases in _pairs(measurements)
        if contradicts(whole.rate, part.rate)
    ]
    return sorted(found, key=lambda one: one.times, reverse=True)


def doubtful(measurements: Measurements, phase: Phase) -> bool:
    """Whether what is said of a phase would rest on a contradiction."""
    return any(phase in one.phases for one in contradictions(measurements))


def sentences(measurements: Measurements) -> list[str]:
    """A sentence on the worst contradiction; empty where there is none."""
    found = contradictions(measurements)
    if not found:
        return []
    whole, part, _ = found[0]
    return [
        f"The rounds contradict one another: {_format(whole)} images/s, but "
        f"{_format(part)}, which is part of it. Another program was taking the cores "
        "for some of the time, so what limits is not certain: run it again on a quiet "
        "machine, or with more --seconds."
    ]


def _format(stage: Stage) -> str:
    return f"{stage.name} {format_rate(stage.rate.images_per_second)}"


def _pairs(
    measurements: Measurements,
) -> Iterator[tuple[Stage, Stage, Sequence[Phase]]]:
    """Each whole with a part of it, and the phases that both concern."""
    training, loading = measurements.training, measurements.loading
    stages = {stage.name: stage for stage in measurements.stages()}
    ready = None if loading is None else loading.ready
    for phase in training.end_to_end:
        whole = stages[f"end to end, {phase}"]
        yield whole, stages[f"step, {phase}"], (phase,)
        if ready is not None:
            yield whole, stages[f"ready, {ready.words}"], (phase,)
    if ready is not None and f"batch, {ready.words}" in stages:
        yield stages[f"ready, {ready.words}"], stages[f"batch, {ready.words}"], PHASES
    yield stages["step, full"], stages["step, head"], PHASES
