"""The experiments: the report's table, its failed attempts, and what does better."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from fastretina.experiment.cells import GIVEN, Cell, Pairing, Plan
from fastretina.experiment.variants import BY_IMAGE, BY_PATIENT, CLAHE
from fastretina.recipe import RECIPES, Arch, Recipe

Adjust = Callable[[Recipe], Recipe]  # by the budget and by the user's flags
REPORT = "the course report, best epoch chosen on test, one seed"
_NETWORKS: tuple[tuple[Arch, str], ...] = (
    ("resnet18", "ResNet18"),
    ("resnet50", "ResNet50"),
)
_STARTS = {"imagenet": "ImageNet weights", "none": "from scratch"}
_SMALLEST = 64  # pixels that a recipe allows


def table(adjust: Adjust, pixels: int, leaks: bool) -> Plan:
    """ResNet18 and ResNet50, with and without ImageNet weights, as the report had them.

    Args:
        adjust: the budget and the user's flags, on a recipe.
        pixels: side of the images as they are.
        leaks: whether the given split has patients on both sides.
    """
    base = adjust(RECIPES["seed"])
    cells = [
        Cell(
            name=f"{arch}-{weights}",
            title=f"{title}, {_STARTS[weights]}",
            why=why,
            recipe=replace(base, arch=arch, weights=weights),
        )
        for arch, title in _NETWORKS
        for weights, why in (
            (
                "imagenet",
                "Features from ImageNet are what the report's score rests on.",
            ),
            (
                "none",
                "15 epochs from scratch mostly learn the commonest grade: the report's "
                "73.4 % is its share.",
            ),
        )
    ]
    return Plan(
        name="table",
        title="The report's comparison table",
        about="ResNet18 and ResNet50, with and without ImageNet weights, by the "
        "report's recipe; the last epoch counts, never the best one on test.",
        cells=cells,
        pairings=[
            Pairing(first="resnet18-imagenet", second="resnet18-none"),
            Pairing(first="resnet50-imagenet", second="resnet50-none"),
            Pairing(first="resnet50-imagenet", second="resnet18-imagenet"),
            Pairing(first="resnet50-none", second="resnet18-none"),
        ],
        varied=frozenset({"arch", "weights", "recipe"}),
        reference=[
            ("ResNet18, ImageNet weights", 0.8162),
            ("ResNet18, from scratch", 0.734),
            ("ResNet50, ImageNet weights", 0.8149),
            ("ResNet50, from scratch", 0.7338),
        ],
        reference_about=REPORT,
        overlays={
            "ResNet18": ("resnet18-imagenet", "resnet18-none"),
            "ResNet50": ("resnet50-imagenet", "resnet50-none"),
        },
    )


def ablations(adjust: Adjust, pixels: int, leaks: bool) -> Plan:
    """What the report tried and gave up, one change at a time; see ``table``."""
    base = adjust(RECIPES["seed"])
    size = base.image_size or pixels
    total = base.head_epochs + base.full_epochs

    def cell(name: str, title: str, why: str, **more: Any) -> Cell:
        data, test = more.pop("data", GIVEN), more.pop("test", GIVEN)
        derived = more.pop("derived", None)
        return Cell(
            name=name,
            title=title,
            why=why,
            recipe=replace(base, **more),
            data=data,
            test=test,
            derived=derived,
        )

    def jitter(strength: float) -> dict[str, float]:
        return {
            "brightness": strength,
            "contrast": strength,
            "saturation": strength,
        }

    cells = [
        cell("base", "the report's recipe", "What the others are held against."),
        cell(
            "weights-max",
            "class weights max/n",
            "A batch of 32 holds 0.7 images of grade 4, of 30 % of the loss each, so "
            "steps jump; and the answers are for a world of equal shares: accuracy "
            "falls by design, balanced accuracy should not.",
            class_weights="balanced",
        ),
        cell(
            "weights-max-corrected",
            "... with the prior put back",
            "The same network, its log-weights subtracted afterwards: if accuracy "
            "comes back, the weights had moved the threshold, not spoilt the features.",
            class_weights="balanced",
            derived="weights-max",
        ),
        cell(
            "weights-sqrt",
            "class weights sqrt(max/n)",
            "Half the weight in log terms: rare grades count, without ruling.",
            class_weights="sqrt",
        ),
        cell(
            "weights-after-head",
            "class weights max/n after phase 1",
            "The head settles on true shares first; weights then move the features.",
            class_weights="balanced",
            weighted_phases="full",
        ),
        cell(
            "resize-224",
            "resized to 224 of 512",
            "A microaneurysm is 3 to 10 pixels wide at 512: at 224 it is gone.",
            image_size=max(_SMALLEST, round(size * 224 / 512)),
        ),
        cell(
            "jitter-0.5",
            "ColorJitter 0.5",
            "Half of the brightness is more than any camera varies by, and colour is "
            "what tells blood from background.",
            **jitter(0.5),
        ),
        cell(
            "jitter-0.2", "ColorJitter 0.2", "What cameras do vary by.", **jitter(0.2)
        ),
        cell(
            "jitter-0.5-weights-max",
            "ColorJitter 0.5 and class weights max/n",
            "The report's 15 % is the share of grade 2. A plain loss falls to grade 0, "
            "so its weights were probably still on.",
            class_weights="balanced",
            **jitter(0.5),
        ),
        cell(
            "clahe-train",
            "CLAHE on train only",
            "The network is tested on pictures of a kind that it has never seen.",
            data=CLAHE,
        ),
        cell(
            "clahe-both",
            "CLAHE on train and test",
            "The same change where it belongs: pre-processing, on both sides.",
            data=CLAHE,
            test=CLAHE,
        ),
        cell(
            "one-phase",
            "one phase: all of it from the start",
            "The report calls the two phases the key; they steady a pre-trained start.",
            head_epochs=0,
            full_epochs=total,
        ),
        cell(
            "batchnorm-eval",
            "BatchNorm kept as it came in phase 1",
            "train() lets the statistics of a frozen backbone drift, which the head "
            "has to follow.",
            head_batchnorm="eval",
        ),
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


def strong(adjust: Adjust, pixels: int, leaks: bool) -> Plan:
    """Recipe strong against recipe seed, by image and by patient; see ``table``."""
    other = BY_PATIENT if leaks else BY_IMAGE
    splits = {
        GIVEN: ("by image" if leaks else "by patient") + ", as given",
        other: "by patient" if leaks else "by image, as the course",
    }
    about = {
        "seed": "The report's recipe.",
        "strong": "Validation by patient, AdamW with warm-up and cosine, averaged "
        "weights, rotation, zoom and colour, BatchNorm kept in phase 1.",
    }
    cells = [
        Cell(
            name=f"{recipe}-{'given' if split == GIVEN else split}",
            title=f"{recipe}, {title}",
            why=about[recipe],
            recipe=adjust(RECIPES[recipe]),
            data=split,
            test=split,
        )
        for split, title in splits.items()
        for recipe in ("seed", "strong")
    ]
    return Plan(
        name="strong",
        title="Recipe strong against recipe seed",
        about="On the split as given, and on the other kind of split. By image, as the "
        "course's, the eyes of a patient fall apart, and a network can know the "
        "patient.",
        cells=cells,
        pairings=[
            Pairing(first="strong-given", second="seed-given"),
            Pairing(first=f"strong-{other}", second=f"seed-{other}"),
        ],
        varied=frozenset({"recipe"}),
    )


PLANS = {"table": table, "ablations": ablations, "strong": strong}
