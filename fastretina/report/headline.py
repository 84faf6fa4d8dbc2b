"""The first screen: what the model is and how good, in a clinician's words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastretina.formatting import format_interval
from fastretina.metrics.baselines import Leak
from fastretina.metrics.text import warnings
from fastretina.report.finished_run import FinishedRun

_ARCHS = {"resnet18": "ResNet18", "resnet50": "ResNet50"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Mark:
    """What a score is compared with: a place from 0 to 100 on its bar."""

    name: str
    place: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Tile:
    """One score.

    Attributes:
        name: of the score.
        value: in its own form.
        interval: of 95%, in its own form; empty where there is none.
        about: what it says, in half a sentence.
        bar: low, value and high, from 0 to 100; None where there is no value.
        marks: the pixel-free baselines.
        best_mark: the highest of their scores, in the same form; empty without them.
    """

    name: str
    value: str
    interval: str
    about: str
    bar: tuple[float, float, float] | None
    marks: tuple[Mark, ...] = ()
    best_mark: str = ""


def subject(record: FinishedRun) -> str:
    """What it is, how it was made, what it was tested on."""
    data, arch = record.config["data"], network(record)
    chosen = data.get("validation") or 0
    epoch, epochs = record.metrics["checkpoint_epoch"], record.metrics.get("epochs")
    beside = f"; {chosen:,} more chose its best epoch, {epoch}" if chosen else ""
    lasted = f" for {count(epochs, 'epoch')}" if epochs else ""
    return (
        f"A {arch} that looks at one fundus photograph and grades diabetic retinopathy "
        f"from 0 (none) to 4 (proliferative). It was trained on "
        f"{count(data.get('train'), 'photograph')}{lasted}, starting from "
        f"{beginning(record)}{beside}. It is judged here on "
        f"{count(len(record.test), 'photograph')} of "
        f"{count(num_patients(record), 'patient')} that it was not trained on."
    )


def network(record: FinishedRun) -> str:
    """What people call it."""
    arch: str = record.recipe.arch
    return _ARCHS.get(arch, arch)


def beginning(record: FinishedRun) -> str:
    """The weights that it started from, in words."""
    weights = str(record.metrics["weights"])
    known = {"imagenet": "ImageNet weights", "none": "random weights"}
    return known.get(weights, f"the weights of {weights}")


def num_patients(record: FinishedRun) -> int:
    """Of the test photographs."""
    return len(set(record.test.patients))


def count(number: int | None, thing: str) -> str:
    """E.g. ``1 patient`` or ``1,200 photographs``."""
    if number is None:
        return f"an unknown number of {thing}s"
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def in_words(record: FinishedRun) -> list[str]:
    """How good it is, in people out of a hundred."""
    scores, intervals = record.scores, record.intervals
    sentences = [
        "Of 100 photographs it grades "
        f"{_of_100(scores['accuracy'], intervals.get('accuracy'))} as people did."
    ]
    cut, ends = scores["referable"], intervals.get("referable") or {}
    if cut["sensitivity"] is not None:
        missed = 100 - round(100 * cut["sensitivity"])
        sentences.append(
            "Of 100 with referable diabetic retinopathy (grade 2 or worse, to be seen "
            "by an ophthalmologist) it finds "
            f"{_of_100(cut['sensitivity'], ends.get('sensitivity'))} and misses "
            f"{missed}."
        )
    if cut["specificity"] is not None:
        alarms = ends.get("specificity")
        turned = None if alarms is None else [1 - end for end in reversed(alarms)]
        sentences.append(
            f"Of 100 without, it would refer {_of_100(1 - cut['specificity'], turned)} "
            "needlessly."
        )
    return sentences


def _of_100(share: float, interval: Sequence[float] | None) -> str:
    if interval is None:
        return f"{100 * share:.0f}"
    low, high = interval
    return f"{100 * share:.0f} (95% interval {100 * low:.0f} to {100 * high:.0f})"


def tiles(record: FinishedRun) -> list[Tile]:
    """The six scores of the first screen."""
    scores, intervals = record.scores, record.intervals
    beside = record.metrics.get("baselines") or {}
    found = [
        _tile(
            name,
            scores[key],
            intervals.get(key),
            form,
            about,
            [
                (rule["about"], rule[key])
                for rule in beside.values()
                if rule[key] is not None
            ],
        )
        for key, name, form, about in (
            ("accuracy", "Accuracy", ".1%", "graded as people did"),
            ("qwk", "QWK", ".3f", "agreement beyond chance; far-off grades count most"),
            (
                "balanced_accuracy",
                "Balanced accuracy",
                ".1%",
                "the mean over grades: rare ones count as much",
            ),
        )
    ]
    cut, ends = scores["referable"], intervals.get("referable") or {}
    for key, name, form, about in (
        (
            "sensitivity",
            "Referable DR: sensitivity",
            ".1%",
            "found, of grade 2 or worse",
        ),
        (
            "specificity",
            "Referable DR: specificity",
            ".1%",
            "left alone, of grade 0 or 1",
        ),
        ("auc", "Referable DR: AUC", ".3f", "0.5 is guessing, 1 is perfect"),
    ):
        found.append(_tile(name, cut[key], ends.get(key), form, about, []))
    return found


def _tile(
    name: str,
    value: float | None,
    interval: Sequence[float] | None,
    form: str,
    about: str,
    marks: Sequence[tuple[str, float]],
) -> Tile:
    shown, _, ends = format_interval(value, interval, form).partition(" ")
    low, high = interval or (value, value)
    places = [_place(end) for end in (low, value, high) if end is not None]
    return Tile(
        name=name,
        value=shown,
        interval=ends.strip("[]").replace(", ", " to "),
        about=about,
        bar=(places[0], places[1], places[2]) if len(places) == 3 else None,
        best_mark=format(max(score for _, score in marks), form) if marks else "",
        marks=tuple(Mark(name=rule, place=_place(score)) for rule, score in marks),
    )


def _place(score: float) -> float:
    """On a bar from 0 to 1, in hundredths; below chance is at its end."""
    return round(100 * min(max(score, 0.0), 1.0), 2)


def banners(record: FinishedRun) -> list[str]:
    """What must be known before any number is read: collapse, leak, a better rule."""
    saved = record.metrics.get("leak")
    known = warnings(record.scores["collapse"], Leak(**saved) if saved else None)
    found = [sentence[:1].upper() + sentence[1:] for sentence in known]
    return [f"{sentence}." for sentence in found + _better_rules(record)]


def _better_rules(record: FinishedRun) -> list[str]:
    """Of each pixel-free rule that the model does not clearly beat."""
    scores, intervals = record.scores, record.intervals
    found = []
    for rule in (record.metrics.get("baselines") or {}).values():
        for key, name, form in (("accuracy", "accuracy", ".1%"), ("qwk", "QWK", ".3f")):
            if rule[key] is None or scores[key] is None:
                continue
            if key == "qwk" and rule[key] <= 0:  # agrees by chance, as a constant does
                continue
            low = (intervals.get(key) or [scores[key]])[0]
            if rule[key] < low:
                continue
            than = "more than" if rule[key] > scores[key] else "inside the interval of"
            found.append(
                f"No better than a rule that sees no photograph: {rule['about']} has "
                f"{name} {rule[key]:{form}}, {than} this model's "
                f"{format_interval(scores[key], intervals.get(key), form)}"
            )
    return found


def beside_baselines(record: FinishedRun) -> list[dict[str, str]]:
    """Rows of the table: this model, then each pixel-free rule."""
    scores, intervals = record.scores, record.intervals
    forms = {
        "accuracy": ".1%",
        "qwk": ".3f",
        "balanced_accuracy": ".1%",
        "macro_f1": ".3f",
    }
    rows = [
        {
            "name": "This model",
            **{
                k: format_interval(scores[k], intervals.get(k), form)
                for k, form in forms.items()
            },
        }
    ]
    rules: Mapping[str, Mapping[str, Any]] = record.metrics.get("baselines") or {}
    for rule in rules.values():
        shown = {
            k: format_interval(rule.get(k), None, form) for k, form in forms.items()
        }
        rows.append({"name": f"Without a pixel: {rule['about']}", **shown})
    return rows
