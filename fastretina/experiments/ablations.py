"""What the report tried and gave up, one change of its recipe at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from fastretina.experiments.cells import (
    GIVEN,
    REPORT,
    Adjust,
    Cell,
    ExperimentPlan,
    Pairing,
)
from fastretina.experiments.reasons import OneGrade, Reason, Shift
from fastretina.experiments.variants import CLAHE
from fastretina.recipe import RECIPES, Recipe

_SMALLEST = 64  # pixels that a recipe allows
_MICROANEURYSM = (3, 10)  # pixels wide where the image is ...
_FULL_SIZE = 512  # ... so many wide
_VARIED = (
    "recipe",
    "class_weights",
    "weighted_phases",
    "brightness",
    "contrast",
    "saturation",
    "head_batchnorm",
)


def ablations(adjust: Adjust, pixels: int, leaks: bool) -> ExperimentPlan:
    """The plan; see ``experiment_plans.table`` for the arguments."""
    base = adjust(RECIPES["seed"])
    cells = [
        Cell(
            name="base",
            title="the report's recipe",
            about="What the others are held against.",
            recipe=base,
        ),
        *_weights(base),
        *_milder_weights(base),
        *_resized(base, base.image_size or pixels),
        *_colours(base),
        *_clahe(base),
        *_phases(base),
    ]
    return ExperimentPlan(
        name="ablations",
        title="What the report tried and gave up",
        about="One change of the report's recipe at a time, with a collapse verdict: "
        "an accuracy that is only one grade's share was not learned.",
        cells=cells,
        pairings=_pairings(cells),
        varied=frozenset(_VARIED),
        reference=[
            ("the report's recipe", 0.8162),
            ("class weights max/n", 0.45),
            ("ColorJitter 0.5", 0.15),
            ("CLAHE", 0.45),
        ],
        reference_about=REPORT,
    )


def _pairings(cells: Sequence[Cell]) -> list[Pairing]:
    """Every cell against the first one, and three pairs that share a change."""
    return [
        *(Pairing(first=cell.name, second="base") for cell in cells[1:]),
        Pairing(first="weights-max-corrected", second="weights-max"),
        Pairing(first="clahe-both", second="clahe-train"),
        Pairing(first="jitter-0.2", second="jitter-0.5"),
    ]


def _weights(base: Recipe) -> list[Cell]:
    """Cells with the report's class weights in the loss, and with them undone."""
    balanced = replace(base, class_weights="balanced")
    return [
        Cell(
            name="weights-max",
            title="class weights max/n",
            recipe=balanced,
            reasons=[
                Reason(
                    "The loss asks for a world in which every grade is equally common, "
                    "so accuracy falls by design.",
                    (Shift("base", "accuracy", "worse"),),
                ),
                Reason(
                    "Balanced accuracy fell as well, which equal shares don't explain: "
                    "a batch holds few images of a rare grade, and each weighs so much "
                    "that steps jump.",
                    (
                        Shift("base", "accuracy", "worse"),
                        Shift("base", "balanced_accuracy", "worse"),
                    ),
                ),
            ],
        ),
        Cell(
            name="weights-max-corrected",
            title="... with the prior put back",
            about="The same network, its log-weights subtracted afterwards.",
            recipe=balanced,
            derived="weights-max",
            reasons=[
                Reason(
                    "Accuracy comes back by that alone: the weights had moved the "
                    "threshold.",
                    (Shift("weights-max", "accuracy", "better"),),
                )
            ],
        ),
    ]


def _milder_weights(base: Recipe) -> list[Cell]:
    """Cells with smaller class weights, or with weights in phase 2 alone."""
    return [
        Cell(
            name="weights-sqrt",
            title="class weights sqrt(max/n)",
            about="Half the weight in log terms.",
            recipe=replace(base, class_weights="sqrt"),
            reasons=[
                Reason(
                    "It is enough for rare grades to count.",
                    (Shift("base", "balanced_accuracy", "better"),),
                ),
                Reason(
                    "It still asks for more of the rare grades than there are.",
                    (Shift("base", "accuracy", "worse"),),
                ),
            ],
        ),
        Cell(
            name="weights-after-head",
            title="class weights max/n after phase 1",
            about="The weights begin with phase 2.",
            recipe=replace(base, class_weights="balanced", weighted_phases="full"),
            reasons=[
                Reason(
                    "Phase 1 learns the true shares, and phase 2 leaves them again.",
                    (Shift("base", "accuracy", "worse"),),
                )
            ],
        ),
    ]


def _resized(base: Recipe, size: int) -> list[Cell]:
    """A cell of smaller images, or none where ``size`` is the smallest already.

    They have the share of ``size`` that 224 is of 512 pixels.
    """
    smaller = max(_SMALLEST, round(size * 224 / _FULL_SIZE))
    if smaller >= size:
        return []
    before, after = (_microaneurysm(side) for side in (size, smaller))
    return [
        Cell(
            name=f"resize-{smaller}",
            title=f"resized to {smaller} of {size}",
            recipe=replace(base, image_size=smaller),
            reasons=[
                Reason(
                    f"A microaneurysm is {before} pixels wide at {size}, and {after} "
                    f"at {smaller}: the smallest signs are lost.",
                    (Shift("base", "qwk", "worse"),),
                )
            ],
        )
    ]


def _microaneurysm(size: int) -> str:
    """Say how wide one is, in pixels of an image that is ``size`` pixels wide."""
    low, high = (round(width * size / _FULL_SIZE, 1) for width in _MICROANEURYSM)
    return f"{low:g} to {high:g}"


def _colours(base: Recipe) -> list[Cell]:
    """Cells with ColorJitter."""
    half = _jittered(base, 0.5)
    return [
        Cell(
            name="jitter-0.5",
            title="ColorJitter 0.5",
            recipe=half,
            reasons=[
                Reason(
                    "Half of the brightness is more than any camera varies by, and "
                    "colour is what tells blood from background.",
                    (Shift("base", "qwk", "worse"),),
                )
            ],
        ),
        Cell(
            name="jitter-0.2",
            title="ColorJitter 0.2",
            about="What cameras do vary by.",
            recipe=_jittered(base, 0.2),
        ),
        Cell(
            name="jitter-0.5-weights-max",
            title="ColorJitter 0.5 and class weights max/n",
            about="The report's 15 % is the share of grade 2.",
            recipe=replace(half, class_weights="balanced"),
            reasons=[
                Reason(
                    "Here, too, it is one grade, and not the commonest, which a plain "
                    "loss would fall to: the report's weights were probably still on.",
                    (OneGrade(commonest=False),),
                )
            ],
        ),
    ]


def _jittered(base: Recipe, strength: float) -> Recipe:
    return replace(base, brightness=strength, contrast=strength, saturation=strength)


def _clahe(base: Recipe) -> list[Cell]:
    """Cells with CLAHE, on one side or on both."""
    return [
        Cell(
            name="clahe-train",
            title="CLAHE on train only",
            recipe=base,
            data=CLAHE,
            test=GIVEN,
            reasons=[
                Reason(
                    "The network is tested on pictures of a kind that it has never "
                    "seen.",
                    (Shift("base", "qwk", "worse"),),
                )
            ],
        ),
        Cell(
            name="clahe-both",
            title="CLAHE on train and test",
            recipe=base,
            data=CLAHE,
            test=CLAHE,
            reasons=[
                Reason(
                    "The same change where it belongs: pre-processing, on both sides.",
                    (Shift("clahe-train", "qwk", "better"),),
                )
            ],
        ),
    ]


def _phases(base: Recipe) -> list[Cell]:
    """Cells with other phases, or another BatchNorm in the first."""
    return [
        Cell(
            name="one-phase",
            title="one phase: all of it from the start",
            about="The report calls the two phases the key.",
            recipe=replace(base, head_epochs=0, full_epochs=base.epochs),
            reasons=[
                Reason(
                    "They steady the start: here a head that knows nothing sends its "
                    "gradients into the whole network.",
                    (Shift("base", "accuracy", "worse"),),
                )
            ],
        ),
        Cell(
            name="batchnorm-eval",
            title="BatchNorm kept as it came in phase 1",
            recipe=replace(base, head_batchnorm="eval"),
            reasons=[
                Reason(
                    "train() lets the statistics of a frozen backbone drift, which the "
                    "head has to follow.",
                    (Shift("base", "qwk", "better"),),
                )
            ],
        ),
    ]
