"""ImageNet weights from a folder, for machines that can't fetch torchvision's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from fastretina.experiments.cells import ExperimentPlan
from fastretina.nn.weights_file import WeightsError

_SUFFIXES = (".pth", ".pt", ".safetensors")


def with_pretrained(plan: ExperimentPlan, folder: Path | None) -> ExperimentPlan:
    """The plan with these weights wherever it has ImageNet's.

    Args:
        plan: the experiment.
        folder: holds a file for each network, e.g. ``resnet18-f37072fd.pth``; None
            leaves torchvision's own.

    Raises:
        WeightsError: there is no file, or more than one, for a network.
    """
    if folder is None:
        return plan
    cells = []
    for cell in plan.cells:
        recipe = cell.recipe
        if recipe.weights in ("imagenet", "auto"):
            path = _weights_of(recipe.arch, folder)
            title = cell.title.replace("ImageNet weights", f"weights of {folder.name}")
            recipe = replace(recipe, weights=str(path))
            cell = replace(cell, title=title, recipe=recipe)
        cells.append(cell)
    return replace(plan, cells=cells)


def _weights_of(arch: str, folder: Path) -> Path:
    files = sorted(
        path
        for path in folder.glob(f"{arch}*")
        if path.suffix in _SUFFIXES and path.is_file()
    )
    if len(files) != 1:
        names = ", ".join(path.name for path in files) or "none"
        raise WeightsError(
            f"--pretrained {folder} must hold one file {arch}*.pth or .safetensors, "
            f"got {names}"
        )
    return files[0].resolve()
