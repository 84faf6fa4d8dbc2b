"""The first sentences: what the model is and how good, in a clinician's words."""

from __future__ import annotations

from collections.abc import Iterator

from fastretina.formatting import format_interval
from fastretina.metrics.bootstrap import Interval
from fastretina.metrics.intervals import CutIntervals
from fastretina.metrics.scores import never_predicted
from fastretina.report.finished_run import FinishedRun
from fastretina.report.provenance import (
    count,
    count_photographs,
    describe_test,
    graders,
    warn_of_drawn,
)
from loaders.grades import REFERABLE, SIGHT_THREATENING

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
        f"{count_photographs(data.train, data.origin)}{epochs}, starting from "
        f"{initial_weights(finished)}{best_epoch}. It is judged here on "
        f"{describe_test(finished)}{_whether_known(finished)}."
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


def describe_scores(finished: FinishedRun) -> list[str]:
    """How good the model is, in people out of a hundred, as sentences."""
    scores, ends = finished.scores, finished.scores.intervals
    graded = _of_100(scores.accuracy, ends.accuracy, "accuracy" in ends.exact)
    sentences = [f"Of 100 photographs it grades {graded} {graders(finished)}."]
    cut, cut_ends = scores.referable, ends.referable
    if cut.sensitivity is not None:
        sentences.append(
            f"Of 100 with referable diabetic retinopathy (grade {REFERABLE} or worse, "
            "to be seen by an ophthalmologist) it finds "
            f"{_found(cut.sensitivity, cut_ends)} and misses {_rest(cut.sensitivity)}."
        )
    if cut.specificity is not None:
        exact = "specificity" in cut_ends.exact
        alarms = _of_100(1 - cut.specificity, _complement(cut_ends.specificity), exact)
        sentences.append(f"Of 100 without, it would refer {alarms} needlessly.")
    worse, worse_ends = scores.sight_threatening, ends.sight_threatening
    if worse.sensitivity is not None:
        sentences.append(
            f"Of 100 with sight-threatening disease (grade {SIGHT_THREATENING} or "
            "worse, to be seen soon) it recognises "
            f"{_found(worse.sensitivity, worse_ends)} as such and grades "
            f"{_rest(worse.sensitivity)} lower."
        )
    return sentences


def _found(sensitivity: float, ends: CutIntervals) -> str:
    return _of_100(sensitivity, ends.sensitivity, "sensitivity" in ends.exact)


def _rest(share: float) -> int:
    return 100 - round(100 * share)


def _complement(interval: Interval) -> Interval:
    return None if interval is None else (1 - interval[1], 1 - interval[0])


def _of_100(share: float, interval: Interval, exact: bool) -> str:
    if interval is None:
        return f"{100 * share:.0f}"
    low, high = interval
    kind = "exact 95% interval" if exact else "95% interval"
    return f"{100 * share:.0f} ({kind} {100 * low:.0f} to {100 * high:.0f})"


def warn(finished: FinishedRun) -> list[str]:
    """What must be known before any number is read, as sentences."""
    evaluation = finished.evaluation
    warnings = [
        warn_of_drawn(finished.config.data),
        finished.scores.collapse,
        never_predicted(finished.scores.confusion),
        *((leak.warning(), leak.doubt()) if (leak := evaluation.leak) else ()),
        _left_out(finished.result.test_skipped),
        *(
            sentence
            for rule in evaluation.baselines or {}
            for sentence in _not_beaten(finished, rule)
        ),
    ]
    return [f"{each[:1].upper()}{each[1:]}." for each in warnings if each]


def _left_out(skipped: int) -> str | None:
    if not skipped:
        return None
    return f"{count(skipped, 'test photograph')} could not be decoded: in no score here"


def _not_beaten(finished: FinishedRun, rule_name: str) -> Iterator[str]:
    """A sentence for each score in which the model does not clearly beat the rule."""
    scores, ends = finished.scores, finished.scores.intervals
    rule = (finished.evaluation.baselines or {})[rule_name]
    gains = {
        each.statistic: each
        for each in (finished.evaluation.gains or {}).get(rule_name, [])
    }
    for name, value, interval, rival, title, form in (
        ("accuracy", scores.accuracy, ends.accuracy, rule.accuracy, "accuracy", ".1%"),
        ("qwk", scores.qwk, ends.qwk, rule.qwk, "QWK", ".3f"),
    ):
        if value is None or rival is None:
            continue
        if name == "qwk" and rival <= 0:  # agrees by chance, as a constant does
            continue
        paired = gains.get(name)
        if paired is None:  # an older version's: the rule against the interval
            beaten = rival < (interval or (value, value))[0]
            ours = f"this model {format_interval(value, interval, form)}"
        else:
            beaten = paired.clear and value > rival
            apart = format_interval(paired.value, paired.interval, "+.3f")
            ours = f"this model {value:{form}}, on the same patients a gain of {apart}"
        if not beaten:
            yield (
                f"No better than a rule that sees no photograph: {rule.about} has "
                f"{title} {rival:{form}}, {ours}"
            )
