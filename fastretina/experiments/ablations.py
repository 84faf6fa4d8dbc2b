"""What the report tried and gave up, one change of its recipe at a time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fastretina.experiments.cells import GIVEN, REPORT, Adjust, Cell, Pairing, Plan
from fastretina.experiments.variants import CLAHE
from fastretina.recipe import RECIPES, Recipe

_SMALLEST = 64  # pixels that a recipe allows


def ablations(adjust: Adjust, pixels: int, leaks: bool) -> Plan:
    """The plan; see ``plans.table`` for the arguments."""
    base = adjust(RECIPES["seed"])
    cells = [
        _cell(base, "base", "the report's recipe", "What the others are held against."),
        *_weights(base),
        *_pictures(base, base.image_size or pixels),
        *_phases(base),
    ]
    return Plan(
        name="ablations",
        title="What the report tried and gave up",
        about="One change of the report's recipe at a time, with a collapse verdict: "
        "an accuracy that is only one grade's share was not learned.",
        cells=cells,
        pairings=[
            *(Pairing(first=one.name, second="base") for one in cells[1:]),
            Pairing(first="weights-max-corrected", second="weights-max"),
            Pairing(first="clahe-both", second="clahe-train"),
            Pairing(first="jitter-0.2", second="jitter-0.5"),
        ],
        varied=frozenset(
            {
                "recipe",
                "class_weights",
                "weighted_phases",
                "brightness",
                "contrast",
                "saturation",
                "head_batchnorm",
            }
        ),
        reference=[
            ("the report's recipe", 0.8162),
            ("class weights max/n", 0.45),
            ("ColorJitter 0.5", 0.15),
            ("CLAHE", 0.45),
        ],
        reference_about=REPORT,
    )


def _weights(base: Recipe) -> list[Cell]:
    """Of the grades in the loss."""
    return [
        _cell(
            base,
            "weights-max",
            "class weights max/n",
            "A batch of 32 holds 0.7 images of grade 4, of 30 % of the loss each, so "
            "steps jump; and the answers are for a world of equal shares: accuracy "
            "falls by design, balanced accuracy should not.",
            class_weights="balanced",
        ),
        _cell(
            base,
            "weights-max-corrected",
            "... with the prior put back",
            "The same network, its log-weights subtracted afterwards: if accuracy "
            "comes back, the weights had moved the threshold, not spoilt the features.",
            class_weights="balanced",
            derived="weights-max",
        ),
        _cell(
            base,
            "weights-sqrt",
            "class weights sqrt(max/n)",
            "Half the weight in log terms: rare grades count, without ruling.",
            class_weights="sqrt",
        ),
        _cell(
            base,
            "weights-after-head",
            "class weights max/n after phase 1",
            "The head settles on true shares first; weights then move the features.",
            class_weights="balanced",
            weighted_phases="full",
        ),
    ]


def _pictures(base: Recipe, size: int) -> list[Cell]:
    """What the network is shown, at ``size`` pixels."""
    return [
        _cell(
            base,
            "resize-224",
            "resized to 224 of 512",
            "A microaneurysm is 3 to 10 pixels wide at 512: at 224 it is gone.",
            image_size=max(_SMALLEST, round(size * 224 / 512)),
        ),
        _cell(
            base,
            "jitter-0.5",
            "ColorJitter 0.5",
            "Half of the brightness is more than any camera varies by, and colour is "
            "what tells blood from background.",
            **_jitter(0.5),
        ),
        _cell(
            base,
            "jitter-0.2",
            "ColorJitter 0.2",
            "What cameras do vary by.",
            **_jitter(0.2),
        ),
        _cell(
            base,
            "jitter-0.5-weights-max",
            "ColorJitter 0.5 and class weights max/n",
            "The report's 15 % is the share of grade 2. A plain loss falls to grade 0, "
            "so its weights were probably still on.",
            class_weights="balanced",
            **_jitter(0.5),
        ),
        _cell(
            base,
            "clahe-train",
            "CLAHE on train only",
            "The network is tested on pictures of a kind that it has never seen.",
            data=CLAHE,
        ),
        _cell(
            base,
            "clahe-both",
            "CLAHE on train and test",
            "The same change where it belongs: pre-processing, on both sides.",
            data=CLAHE,
            test=CLAHE,
        ),
    ]


def _phases(base: Recipe) -> list[Cell]:
    """How it is trained."""
    return [
        _cell(
            base,
            "one-phase",
            "one phase: all of it from the start",
            "The report calls the two phases the key; they steady a pre-trained start.",
            head_epochs=0,
            full_epochs=base.epochs,
        ),
        _cell(
            base,
            "batchnorm-eval",
            "BatchNorm kept as it came in phase 1",
            "train() lets the statistics of a frozen backbone drift, which the head "
            "has to follow.",
            head_batchnorm="eval",
        ),
    ]


def _cell(
    base: Recipe,
    name: str,
    title: str,
    why: str,
    data: str = GIVEN,
    test: str = GIVEN,
    derived: str | None = None,
    **changes: Any,
) -> Cell:
    return Cell(
        name=name,
        title=title,
        why=why,
        recipe=replace(base, **changes),
        data=data,
        test=test,
        derived=derived,
    )


def _jitter(strength: float) -> dict[str, Any]:
    return {"brightness": strength, "contrast": strength, "saturation": strength}
