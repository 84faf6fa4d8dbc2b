"""The first sentences: what the model is and how good, in a clinician's words."""

from __future__ import annotations

from collections.abc import Iterator

from fastretina.formatting import format_interval
from fastretina.metrics.baselines import Baseline
from fastretina.metrics.bootstrap import Interval
from fastretina.report.finished_run import FinishedRun
from loaders.grades import REFERABLE

_ARCHS = {"resnet18": "ResNet18", "resnet50": "ResNet50"}
_INITIAL_WEIGHTS = {"imagenet": "ImageNet weights", "none": "random weights"}


def describe_model(finished: FinishedRun) -> str:
    """What the model is, how it was made and what it was tested on."""
    data, result = finished.config.data, finished.result
    chosen = data.validation
    best_epoch = (
        f"; {chosen:,} more chose its best epoch, {result.checkpoint_epoch}"
        if chosen
        else ""
    )
    epochs = f" for {count(result.epochs, 'epoch')}" if result.epochs else ""
    return (
        f"A {network_name(finished)} that looks at one fundus photograph and grades "
        "diabetic retinopathy from 0 (none) to 4 (proliferative). It was trained on "
        f"{count(data.train, 'photograph')}{epochs}, starting from "
        f"{initial_weights(finished)}{best_epoch}. It is judged here on "
        f"{count(len(finished.test), 'photograph')} of "
        f"{count(finished.num_patients, 'patient')}{_whether_known(finished)}."
    )


def _whether_known(finished: FinishedRun) -> str:
    """Whether training has shown the patients, too; empty where it is unknown."""
    leak = finished.evaluation.leak
    if leak and leak.eyes:
        return (
            f"; for {leak.eyes:,} of these photographs it was trained on the patient's "
            "other eye"
        )
    return " that it was not trained on" if finished.shares_no_patient else ""


def network_name(finished: FinishedRun) -> str:
    """The network as it is written, e.g. ``ResNet18``."""
    arch: str = finished.config.recipe.arch
    return _ARCHS.get(arch, arch)


def initial_weights(finished: FinishedRun) -> str:
    """The weights that training started from, e.g. ``ImageNet weights``."""
    weights = finished.result.weights
    return _INITIAL_WEIGHTS.get(weights, f"the weights of {weights}")


def count(number: int | None, thing: str) -> str:
    """A number of things, e.g. ``1 patient`` or ``1,200 photographs``."""
    if number is None:
        return f"an unknown number of {thing}s"
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def describe_scores(finished: FinishedRun) -> list[str]:
    """How good the model is, in people out of a hundred, as sentences."""
    scores, ends = finished.scores, finished.scores.intervals
    graded = _of_100(scores.accuracy, ends.accuracy)
    sentences = [f"Of 100 photographs it grades {graded} as people did."]
    cut, cut_ends = scores.referable, ends.referable
    if cut.sensitivity is not None:
        sentences.append(
            f"Of 100 with referable diabetic retinopathy (grade {REFERABLE} or worse, "
            "to be seen by an ophthalmologist) it finds "
            f"{_of_100(cut.sensitivity, cut_ends.sensitivity)} and misses "
            f"{100 - round(100 * cut.sensitivity)}."
        )
    if cut.specificity is not None:
        alarms = _of_100(1 - cut.specificity, _complement(cut_ends.specificity))
        sentences.append(f"Of 100 without, it would refer {alarms} needlessly.")
    return sentences


def _complement(interval: Interval) -> Interval:
    return None if interval is None else (1 - interval[1], 1 - interval[0])


def _of_100(share: float, interval: Interval) -> str:
    if interval is None:
        return f"{100 * share:.0f}"
    low, high = interval
    return f"{100 * share:.0f} (95% interval {100 * low:.0f} to {100 * high:.0f})"


def warn(finished: FinishedRun) -> list[str]:
    """What must be known before any number is read: collapse, leak, a better rule."""
    evaluation = finished.evaluation
    warnings = [
        finished.scores.collapse,
        evaluation.leak.warning() if evaluation.leak else None,
        _left_out(finished.result.test_skipped),
        *(
            sentence
            for rule in evaluation.rules
            for sentence in _not_beaten(finished, rule)
        ),
    ]
    return [f"{each[:1].upper()}{each[1:]}." for each in warnings if each]


def _left_out(skipped: int) -> str | None:
    if not skipped:
        return None
    return f"{count(skipped, 'test photograph')} could not be decoded: in no score here"


def _not_beaten(finished: FinishedRun, rule: Baseline) -> Iterator[str]:
    """A sentence for each score in which the model does not clearly beat the rule."""
    scores, ends = finished.scores, finished.scores.intervals
    for value, interval, rival, name, form in (
        (scores.accuracy, ends.accuracy, rule.accuracy, "accuracy", ".1%"),
        (scores.qwk, ends.qwk, rule.qwk, "QWK", ".3f"),
    ):
        if value is None or rival is None:
            continue
        if name == "QWK" and rival <= 0:  # agrees by chance, as a constant does
            continue
        if rival < (interval or (value, value))[0]:
            continue
        than = "more than" if rival > value else "inside the interval of"
        yield (
            f"No better than a rule that sees no photograph: {rule.about} has "
            f"{name} {rival:{form}}, {than} this model's "
            f"{format_interval(value, interval, form)}"
        )
