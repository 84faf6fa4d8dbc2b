"""``torch.compile``, anew for each phase; when it pays, and where its work is kept."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from fastretina.nn.device import Compute
from fastretina.recipe import PHASES, Arch, Phase, Recipe
from fastretina.user_cache import user_cache

Forward = Callable[[Tensor], Tensor]

# Seconds that compilation saves per image of 512 x 512 pixels, in bf16 on an H100:
# images/s eager and compiled are 2,369 and 3,346 (ResNet18), 770 and 1,072 (ResNet50)
# in phase full, 6,548 and 9,500 (ResNet18) in phase head. ResNet50's head was not
# measured: its part is taken to be ResNet18's. Slower GPUs save more.
_SAVED: dict[tuple[Arch, Phase], float] = {
    ("resnet18", "full"): 1 / 2369 - 1 / 3346,
    ("resnet18", "head"): 1 / 6548 - 1 / 9500,
    ("resnet50", "full"): 1 / 770 - 1 / 1072,
    ("resnet50", "head"): (1 / 770 - 1 / 1072) * 0.385,
}
# Seconds that a phase takes to compile with an empty cache: estimates, not measured.
_COMPILING: dict[tuple[Arch, Phase], float] = {
    ("resnet18", "head"): 10.0,
    ("resnet18", "full"): 25.0,
    ("resnet50", "head"): 20.0,
    ("resnet50", "full"): 50.0,
}
_LEAST_CAPABILITY = (7, 0)  # below it, Triton compiles nothing


class CompiledForward:
    """A network's forward pass, compiled for the phase that it is made in.

    What was compiled before is thrown away, in the whole process: until torch 2.11 at
    least, a graph of the frozen backbone was taken again once the backbone was freed,
    and had no gradient for it. Evaluation is never compiled, so it loses nothing.

    A batch that is smaller than others, as an epoch's last one is, and one without any
    sample go through the network as it is: a graph of their own would not pay.
    """

    def __init__(self, network: nn.Module) -> None:
        use_user_cache()
        torch.compiler.reset()
        self._network = network
        self._compiled: Forward = torch.compile(network, dynamic=False)
        self._largest = 1

    def __call__(self, inputs: Tensor) -> Tensor:
        """float32[B, 3, H, W] to float[B, K] logits."""
        if len(inputs) < self._largest:
            logits: Tensor = self._network(inputs)
            return logits
        self._largest = len(inputs)
        return self._compiled(inputs)


def use_user_cache() -> None:
    """Keep compiled graphs in the user's cache from run to run, if it can be written.

    Without, or where the folder is another user's, torch keeps them in the folder for
    temporary files. Variables that the user has set stay as they are.
    """
    folder = user_cache()
    if folder is None or "TORCHINDUCTOR_CACHE_DIR" in os.environ:
        return
    path = folder / "inductor"
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        ours = _made_ours_alone(path)
    except OSError:
        return
    if ours and os.access(path, os.W_OK):
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(path)
        os.environ.setdefault("TORCHINDUCTOR_FX_GRAPH_CACHE", "1")  # torch 2.4: off


def _made_ours_alone(folder: Path) -> bool:
    """Let no other user write to a folder of ours: torch unpickles what lies there.

    False where it belongs to another.
    """
    if not hasattr(os, "getuid"):  # Windows
        return True
    about = folder.stat()
    if about.st_uid != os.getuid():
        return False
    if about.st_mode & 0o022:
        folder.chmod(0o700)
    return True


def seconds_saved(recipe: Recipe, images: int, shape: tuple[int, int]) -> float:
    """About the time that compilation saves a run, less what it takes; may be negative.

    Args:
        recipe: the run's.
        images: training images of an epoch.
        shape: their height and width in pixels.
    """
    share = shape[0] * shape[1] / 512**2
    left = images * recipe.epochs
    if recipe.max_steps is not None:
        left = min(left, recipe.max_steps * recipe.batch_size)
    gain = 0.0
    for phase in PHASES:
        epochs = recipe.head_epochs if phase == "head" else recipe.full_epochs
        trained = min(left, images * epochs)
        left -= trained
        if trained:
            step = recipe.arch, phase
            gain += trained * _SAVED[step] * share - _COMPILING[step]
    return gain


def pays(
    recipe: Recipe, compute: Compute, images: int, shape: tuple[int, int], ranks: int
) -> bool:
    """Whether ``--compile auto`` compiles: on one GPU, where it saves a run time.

    Not on the CPU, whose seeded weights are to stay what they are; not with several
    ranks, for which nothing was measured; and only where torch has all that it needs.
    ``seconds_saved`` must be positive: of 5 + 10 epochs at 512 pixels, ResNet18 on more
    than some 24,000 images, ResNet50 on more than 16,000.
    """
    if compute.device.type != "cuda" or ranks > 1:
        return False
    return seconds_saved(recipe, images, shape) > 0 and can_compile(compute.device)


def can_compile(device: torch.device) -> bool:
    """Whether this machine has what ``torch.compile`` needs for a GPU."""
    compilers = (os.environ.get("CC") or "cc", "gcc", "clang")
    return (
        sys.platform == "linux"
        and importlib.util.find_spec("triton") is not None
        and any(map(shutil.which, compilers))
        and torch.cuda.get_device_capability(device) >= _LEAST_CAPABILITY
    )
