"""The experiments by name: the report's table, its ablations, what does better."""

from __future__ import annotations

from dataclasses import replace

from fastretina.experiments.ablations import ablations
from fastretina.experiments.cells import (
    GIVEN,
    REPORT,
    Adjust,
    Cell,
    ExperimentPlan,
    Pairing,
)
from fastretina.experiments.reasons import OneGrade, Reason, Shift
from fastretina.experiments.variants import BY_IMAGE, BY_PATIENT
from fastretina.recipe import RECIPES, Arch, Recipe

_NETWORKS: tuple[tuple[Arch, str], ...] = (
    ("resnet18", "ResNet18"),
    ("resnet50", "ResNet50"),
)
_STARTS = {"imagenet": "ImageNet weights", "none": "from scratch"}


def table(adjust: Adjust, pixels: int, leaks: bool) -> ExperimentPlan:
    """ResNet18 and ResNet50, with and without ImageNet weights, as the report had them.

    Args:
        adjust: applies the budget and the user's flags to a recipe.
        pixels: side of the images as they are.
        leaks: whether the given split has patients on both sides.
    """
    base = adjust(RECIPES["seed"])
    cells = [
        Cell(
            name=f"{arch}-{weights}",
            title=f"{title}, {_STARTS[weights]}",
            recipe=replace(base, arch=arch, weights=weights),
            reasons=[_pretrained(arch) if weights == "imagenet" else _scratch(base)],
        )
        for arch, title in _NETWORKS
        for weights in _STARTS
    ]
    return ExperimentPlan(
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


def _pretrained(arch: Arch) -> Reason:
    return Reason(
        "The same network from scratch is worse: the score rests on the features that "
        "it starts from.",
        (Shift(f"{arch}-none", "accuracy", "better"),),
    )


def _scratch(base: Recipe) -> Reason:
    return Reason(
        f"{base.epochs} epochs from scratch have learned the commonest grade alone: "
        "the report's 73.4 % is its share.",
        (OneGrade(commonest=True),),
    )


def strong(adjust: Adjust, pixels: int, leaks: bool) -> ExperimentPlan:
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
            about=about[recipe],
            recipe=adjust(RECIPES[recipe]),
            data=split,
            test=split,
        )
        for split, title in splits.items()
        for recipe in ("seed", "strong")
    ]
    return ExperimentPlan(
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
