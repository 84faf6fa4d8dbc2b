"""ResNet18 and ResNet50 with a head for five grades, and what they start from.

The network is torchvision's own; ``fc`` is the head, all the rest the backbone.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from urllib.request import urlopen

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision import models

from fastretina.nn.weights_file import WeightsError, hash_in_name, read_weights
from fastretina.recipe import Phase
from loaders.grades import GRADES

IMAGENET = {
    "resnet18": models.ResNet18_Weights.IMAGENET1K_V1,
    "resnet50": models.ResNet50_Weights.IMAGENET1K_V2,
}
_HEAD = ("fc.weight", "fc.bias")
_NOT_IN_OLD_FILES = ".num_batches_tracked"  # came with torch 0.4.1; plays no part here
_RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
_TIMEOUT = 10  # seconds to wait for the server's first answer


def build_model(arch: str, weights: str, seed: int) -> nn.Module:
    """A network ready to be fine-tuned, in channels-last memory format.

    Args:
        arch: ``resnet18`` or ``resnet50``.
        weights: ``none``, ``imagenet`` or a file.
        seed: fixes the random initialisation.

    Raises:
        WeightsError: they can't be had; the message says what to put where.
    """
    torch.manual_seed(seed)
    network: nn.Module = getattr(models, arch)(num_classes=len(GRADES))
    if weights != "none":
        path = _imagenet_file(arch) if weights == "imagenet" else Path(weights)
        _load_backbone(network, path, arch)
    return network.to(memory_format=torch.channels_last)


def _load_backbone(network: nn.Module, path: Path, arch: str) -> None:
    """Copy weights into the network; a head of another size stays as initialised.

    Raises:
        WeightsError: they can't be read, or names or shapes of the backbone differ.
    """
    own, kept = network.state_dict(), read_weights(path)
    for name in _HEAD:
        if name in kept and kept[name].shape != own[name].shape:
            del kept[name]
    needed = _backbone_names(own)
    fitting = {n for n in kept if n in own and kept[n].shape == own[n].shape}
    if needed <= fitting and fitting == kept.keys():
        network.load_state_dict(kept, strict=False)
        return
    of = _network_of(kept)
    if of in (None, arch):
        raise WeightsError(
            f"{path} is of another network: it has {len(needed & fitting)} of the "
            f"{len(needed)} tensors of {arch}, and {len(kept.keys() - fitting)} others"
        )
    remedy = f"pass --arch {of}, or " if of in IMAGENET else ""
    raise WeightsError(
        f"{path} is of another network, {of}, not {arch}: {remedy}name another file"
    )


def _backbone_names(state: Mapping[str, Tensor]) -> set[str]:
    """The tensors that a backbone can't do without."""
    return {n for n in state if n not in _HEAD and not n.endswith(_NOT_IN_OLD_FILES)}


def _network_of(state: Mapping[str, Tensor]) -> str | None:
    """Which of torchvision's ResNets weights are of, by their backbone's names."""
    for arch in _RESNETS:
        with torch.device("meta"):
            own = getattr(models, arch)(num_classes=1).state_dict()
        if _backbone_names(state) == _backbone_names(own):
            return arch
    return None


def set_phase(
    network: nn.Module, phase: Phase, head_batchnorm: str
) -> list[nn.Parameter]:
    """Freeze or free the backbone and put the network in training mode.

    To be called at the start of a phase and after every evaluation, as
    ``network.train()`` alone would set the frozen BatchNorms to updating again.

    Returns:
        The parameters to train.
    """
    network.train()
    head = dict(network.named_parameters())
    for name, parameter in head.items():
        parameter.requires_grad_(phase == "full" or name in _HEAD)
    if phase == "head" and head_batchnorm == "eval":
        for module in network.modules():
            if isinstance(module, _BatchNorm):  # or a kind that spans ranks
                module.eval()
    return [parameter for parameter in head.values() if parameter.requires_grad]


def head_of(network: nn.Module) -> nn.Module:
    """The head: takes float[B, D] features, gives float[B, 5] logits."""
    return network.get_submodule("fc")


def backbone_of(network: nn.Module) -> nn.Module:
    """All but the head, as a network of its own that shares weights and modes.

    It gives the float[B, D] features that the head takes.
    """
    backbone = copy.copy(network)
    backbone._modules = {**network._modules, "fc": nn.Identity()}
    return backbone


def weights_sha256(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over the names, shapes, types and bytes of all weights, in name order."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _imagenet_file(arch: str) -> Path:
    """The file of torchvision's weights, downloaded if it is not cached yet."""
    url: str = IMAGENET[arch].url
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if not path.exists():
        try:
            urlopen(url, timeout=_TIMEOUT).close()  # torch.hub has no time-out
            torch.hub.download_url_to_file(url, str(_made(path)), hash_in_name(path))
        except (OSError, HTTPException, RuntimeError) as error:
            raise WeightsError(
                f"ImageNet weights can't be downloaded ({_first_line(error)}): put "
                f"{url} at {path}, or pass --weights none or a file"
            ) from error
    return path


def _made(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _first_line(error: Exception) -> str:
    return str(getattr(error, "reason", error)).partition("\n")[0]
