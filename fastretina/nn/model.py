"""ResNet18 and ResNet50 with a head for five grades, and what they start from.

The network is torchvision's own; ``fc`` is the head, all the rest the backbone.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from urllib.request import urlopen

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision import models

from fastretina.recipe import Phase
from loaders.errors import DataError
from loaders.grades import GRADES

IMAGENET = {
    "resnet18": models.ResNet18_Weights.IMAGENET1K_V1,
    "resnet50": models.ResNet50_Weights.IMAGENET1K_V2,
}
_HEAD = ("fc.weight", "fc.bias")
_NOT_IN_OLD_FILES = ".num_batches_tracked"  # came with torch 0.4.1; plays no part here
_HASHED_NAME = re.compile(r"-([0-9a-f]{8,64})\.pth$")
_TIMEOUT = 10  # seconds to wait for the server's first answer


class WeightsError(DataError):
    """Weights that can't be had, are damaged, or belong to another network."""


class Mismatch(WeightsError):
    """Weights of another network; the text says how they differ."""


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
        try:
            load_backbone(network, _read(path))
        except Mismatch as error:
            raise WeightsError(f"{path} is of another network: {error}") from None
    return network.to(memory_format=torch.channels_last)


def load_backbone(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy weights into the network; a head of another size stays as initialised.

    Raises:
        Mismatch: names or shapes of the backbone differ.
    """
    own = network.state_dict()
    kept = dict(state)
    for name in _HEAD:
        if name in kept and kept[name].shape != own[name].shape:
            del kept[name]
    needed = [name for name in own if not name.endswith(_NOT_IN_OLD_FILES)]
    missing = [name for name in needed if name not in kept and name not in _HEAD]
    unknown = [name for name in kept if name not in own]
    other = [n for n in kept if n in own and kept[n].shape != own[n].shape]
    for what, names in (("lack", missing), ("add", unknown), ("reshape", other)):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise Mismatch(f"its weights {what} {names[0]}{more}")
    network.load_state_dict(kept, strict=False)


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
            torch.hub.download_url_to_file(url, str(_made(path)), _prefix(path))
        except (OSError, HTTPException, RuntimeError) as error:
            raise WeightsError(
                f"ImageNet weights can't be downloaded ({_first_line(error)}): put "
                f"{url} at {path}, or pass --weights none or a file"
            ) from error
    return path


def _made(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _read(path: Path) -> dict[str, Tensor]:
    """A state dict from a .pth or .safetensors file.

    A name such as ``resnet18-f37072fd.pth`` carries the first digits of the file's
    SHA-256; they are checked, for cached files too.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"weights {path}: {error.strerror}") from error
    wanted, found = _prefix(path), hashlib.sha256(content).hexdigest()
    if wanted is not None and not found.startswith(wanted):
        raise WeightsError(
            f"{path} is damaged: its SHA-256 begins with {found[: len(wanted)]}, its "
            f"name says {wanted}; delete it and fetch it again"
        )
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load

            state = load(content)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises half a dozen kinds
        raise WeightsError(f"{path} holds no weights ({_first_line(error)})") from error
    return _model_part(state, path)


def _model_part(state: object, path: Path) -> dict[str, Tensor]:
    """The network's own tensors in a state dict or in a run's checkpoint."""
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(
        isinstance(value, Tensor) for value in state.values()
    ):
        raise WeightsError(f"{path} holds no weights, but something else")
    for prefix in ("ema.", "model."):
        part = {
            k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)
        }
        if part:
            return part
    return state


def _prefix(path: Path) -> str | None:
    match = _HASHED_NAME.search(path.name)
    return match[1] if match else None


def _first_line(error: Exception) -> str:
    return str(getattr(error, "reason", error)).partition("\n")[0]
