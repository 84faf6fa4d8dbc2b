"""``metrics.json`` of a finished run, read into records and checked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypeVar

from fastretina.metrics.baselines import Leak
from fastretina.report.json_values import (
    items,
    mapping,
    number,
    optional_interval,
    optional_whole,
    text,
    whole,
)
from fastretina.report.scores import (
    Estimate,
    PointScores,
    RunScores,
    read_point,
    read_test_scores,
    with_intervals,
    with_point_intervals,
)
from loaders.errors import RunError

_NEEDED = ("test", "checkpoint", "checkpoint_epoch", "weights_sha256", "weights")
_Part = TypeVar("_Part")


class Baseline(NamedTuple):
    """A rule that grades without seeing a photograph.

    Attributes:
        about: What the rule does, in a few words.
        scores: Its scores on test, without intervals.
    """

    about: str
    scores: PointScores


class Calibration(NamedTuple):
    """What was fitted on photographs held out of training.

    Attributes:
        temperature: Divisor of the log-probabilities.
        thresholds: Four thresholds of the expected grade, ascending.
        samples: Number of photographs that it was fitted on.
    """

    temperature: float
    thresholds: Sequence[float]
    samples: int


class Calibrated(NamedTuple):
    """What the calibration gives on test.

    Attributes:
        calibration_error: Expected calibration error with the temperature, 0 to 1.
        thresholds: Scores of the grades that the thresholds choose.
    """

    calibration_error: float
    thresholds: PointScores


class Gain(NamedTuple):
    """A score of both eyes together, less that of one eye alone.

    Attributes:
        difference: The gain with its interval.
        clear: Whether the interval leaves out 0.
    """

    difference: Estimate
    clear: bool


class BothEyes(NamedTuple):
    """What a second stage that sees both eyes of a patient gains.

    Attributes:
        pairs: Number of test patients with both eyes.
        fitted_on: Number of pairs held out of training that it was fitted on.
        accuracy: Gain in accuracy.
        qwk: Gain in QWK.
    """

    pairs: int
    fitted_on: int
    accuracy: Gain
    qwk: Gain


class RunMetrics(NamedTuple):
    """What ``metrics.json`` says of a finished run.

    Attributes:
        raw: Content of the file.
        scores: Scores on test.
        checkpoint: ``best`` (on validation) or ``last``.
        checkpoint_epoch: Epoch whose weights are judged, from 1.
        weights_sha256: SHA-256 of these weights, 64 hexadecimal digits.
        weights: What training started from: ``imagenet``, ``none`` or a file.
        epochs: Number of epochs trained; None in older runs.
        parameters: Number of the network's parameters; None in older runs.
        baselines: Rules without pixels; empty where none was scored.
        leak: Test eyes of patients that were trained on; None where not examined.
        calibration: Temperature and thresholds; None where no photograph was held out.
        calibrated: Scores with them; None where there is no calibration.
        prior_corrected: Scores with the class weights undone; None without weights.
        both_eyes: Gain of both eyes together; None where it was not tried.
    """

    raw: Mapping[str, object]
    scores: RunScores
    checkpoint: str
    checkpoint_epoch: int
    weights_sha256: str
    weights: str
    epochs: int | None
    parameters: int | None
    baselines: Sequence[Baseline]
    leak: Leak | None
    calibration: Calibration | None
    calibrated: Calibrated | None
    prior_corrected: PointScores | None
    both_eyes: BothEyes | None


def read_metrics(raw: Mapping[str, object], path: Path) -> RunMetrics:
    """The content of ``metrics.json`` as records.

    Args:
        raw: Content of the file.
        path: The file, for errors.

    Raises:
        RunError: it lacks something.
    """
    if missing := [name for name in _NEEDED if name not in raw]:
        raise RunError(f"{path} is damaged: no {missing[0]!r}")

    def part(name: str, read: Callable[[Mapping[str, object]], _Part]) -> _Part | None:
        if raw.get(name) is None:
            return None
        with _damaged(f"{path} is damaged: its {name} lacks something"):
            return read(mapping(raw[name]))

    with _damaged(f"{path} is damaged: an epoch or the parameters are no number"):
        epoch, epochs = (
            whole(raw["checkpoint_epoch"]),
            optional_whole(raw.get("epochs")),
        )
        parameters = optional_whole(raw.get("parameters"))
    return RunMetrics(
        raw=raw,
        scores=_scores(raw, path),
        checkpoint=str(raw["checkpoint"]),
        checkpoint_epoch=epoch,
        weights_sha256=str(raw["weights_sha256"]),
        weights=str(raw["weights"]),
        epochs=epochs,
        parameters=parameters,
        baselines=_baselines(raw.get("baselines") or {}, path),
        leak=part("leak", _leak),
        calibration=part("calibration", _calibration),
        calibrated=part("calibrated", _calibrated),
        prior_corrected=part("prior_corrected", _point),
        both_eyes=part("pairs", _both_eyes),
    )


@contextmanager
def _damaged(message: str) -> Iterator[None]:
    """What can't be read is a ``RunError`` with this message."""
    try:
        yield
    except (KeyError, ValueError) as error:
        raise RunError(message) from error


def _scores(raw: Mapping[str, object], path: Path) -> RunScores:
    with _damaged(
        f"{path} is damaged, or of an older version: its test scores lack something"
    ):
        saved = mapping(raw["test"])
        scores = read_test_scores(saved)
    with _damaged(f"{path} is damaged: its intervals are not those of its scores"):
        intervals = saved.get("intervals")
        return with_intervals(scores, mapping(intervals)) if intervals else scores


def _baselines(value: object, path: Path) -> list[Baseline]:
    with _damaged(f"{path} is damaged: its baselines lack something"):
        rules = [mapping(rule) for rule in mapping(value).values()]
        return [Baseline(text(rule, "about"), read_point(rule)) for rule in rules]


def _leak(raw: Mapping[str, object]) -> Leak:
    return Leak(eyes=whole(raw["eyes"]), total=whole(raw["total"]))


def _calibration(raw: Mapping[str, object]) -> Calibration:
    thresholds = sorted(number(each) for each in items(raw["thresholds"]))
    if len(thresholds) != 4:
        raise ValueError(f"four thresholds were expected, got {thresholds}")
    return Calibration(
        temperature=number(raw["temperature"]),
        thresholds=thresholds,
        samples=whole(raw["samples"]),
    )


def _calibrated(raw: Mapping[str, object]) -> Calibrated:
    return Calibrated(
        calibration_error=number(raw["calibration_error"]),
        thresholds=_point(mapping(raw["thresholds"])),
    )


def _point(raw: Mapping[str, object]) -> PointScores:
    return with_point_intervals(read_point(raw), mapping(raw.get("intervals") or {}))


def _both_eyes(raw: Mapping[str, object]) -> BothEyes:
    gains = [mapping(each) for each in items(raw["differences"])]
    by_statistic = {text(each, "statistic"): _gain(each) for each in gains}
    return BothEyes(
        pairs=whole(raw["pairs"]),
        fitted_on=whole(raw["fitted_on"]),
        accuracy=by_statistic["accuracy"],
        qwk=by_statistic["qwk"],
    )


def _gain(raw: Mapping[str, object]) -> Gain:
    interval = optional_interval(raw["interval"])
    return Gain(Estimate(number(raw["value"]), interval), bool(raw["clear"]))
