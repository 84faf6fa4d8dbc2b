"""Files of weights alone: any that training may start from, and the one a run leaves.

``weights.safetensors`` of a run holds the network that the run reports, under
torchvision's own names, with what else one must know to use it in its metadata.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from fastretina.formatting import NOTICE
from fastretina.nn.augment import MEAN, STD
from fastretina.run_config import RunConfig
from loaders.contents import look_into
from loaders.errors import DataError
from loaders.grades import GRADES
from loaders.untrusted import MOST_TENSORS, read_file

_HASHED_NAME = re.compile(r"-([0-9a-f]{8,64})\.pth$")
_TEXT = 512  # bytes that tell a text from weights


class WeightsError(DataError):
    """Weights that can't be had, are damaged, or belong to another network."""


def describe_weights(config: RunConfig, run: str) -> dict[str, str]:
    """The metadata of a run's weights; lists are in JSON.

    Args:
        config: what the run is made with.
        run: its name.
    """
    done = config.data.preprocessing
    return {
        "run": run,
        "arch": config.recipe.arch,
        "input": "float32[B, 3, H, W]: RGB / 255, less mean, divided by std",
        "image_shape": json.dumps(list(config.image_shape)),
        "mean": json.dumps(list(MEAN)),
        "std": json.dumps(list(STD)),
        "grades": json.dumps(list(GRADES)),
        "preprocessing": json.dumps(list(done.steps) if done else []),
        "notice": NOTICE,
    }


def read_weights(path: Path) -> dict[str, Tensor]:
    """A state dict from a .pth or .safetensors file, a run's checkpoint among them.

    A name such as ``resnet18-f37072fd.pth`` carries the first digits of the file's
    SHA-256; they are checked, for cached files too.

    Raises:
        WeightsError: it is not there, damaged or something else.
    """
    if path.is_dir():
        raise WeightsError(_describe_folder(path))
    try:
        content = read_file(path, MOST_TENSORS)
    except OSError as error:
        raise WeightsError(
            f"weights must be none, imagenet or a file, got {path}: {error.strerror}"
        ) from error
    wanted, found = hash_in_name(path), hashlib.sha256(content).hexdigest()
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
            _refuse_bomb(content)
            state = torch.load(
                io.BytesIO(content), map_location="cpu", weights_only=True
            )
    except Exception as error:  # torch.load raises half a dozen kinds
        raise WeightsError(f"{path} {_describe_content(content)}") from error
    return _model_part(state, path)


def _refuse_bomb(content: bytes) -> None:
    """Raise ``ValueError`` for a zip, as .pth files are, that is too much unpacked."""
    if zipfile.is_zipfile(io.BytesIO(content)):
        with zipfile.ZipFile(io.BytesIO(content)) as packed:
            if sum(entry.file_size for entry in packed.infolist()) > MOST_TENSORS:
                raise ValueError("it is too much when it is unpacked")


def hash_in_name(path: Path) -> str | None:
    """The first digits of the SHA-256 that a file's name carries, if it does."""
    match = _HASHED_NAME.search(path.name)
    return match[1] if match else None


def _describe_folder(path: Path) -> str:
    if look_into(path) == "run":
        file = path / "weights.safetensors"
        return f"{path} holds a run, and is no file of weights: name {file}"
    return f"{path} is a folder: name the file of weights, .pth or .safetensors"


def _describe_content(content: bytes) -> str:
    """What a file holds that can't be read as weights, and what to do about it."""
    begin = content[:_TEXT]
    if not content:
        return "is empty, and holds no weights: fetch it again"
    if begin.lstrip()[:1] == b"<":
        return "is a web page, and holds no weights: fetch the file itself"
    if all(byte >= 32 or byte in b"\t\n\r" for byte in begin):
        return "is a text, and holds no weights: name a file .pth or .safetensors"
    if _is_zip(content):  # whole, so it is what it holds
        return "holds no weights, but something else: save a network's state_dict()"
    return "holds no weights, or is damaged or cut short: fetch it again"


def _is_zip(content: bytes) -> bool:
    try:
        return zipfile.is_zipfile(io.BytesIO(content))
    except zipfile.BadZipFile:  # of several disks, as damage may have it
        return False


def _model_part(state: object, path: Path) -> dict[str, Tensor]:
    """The network's own tensors in a state dict or in a run's checkpoint."""
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) and _is_plain(value)
        for name, value in state.items()
    ):
        raise WeightsError(
            f"{path} holds no weights, but something else: save a network's "
            "state_dict()"
        )
    return evaluated_weights(state)


def _is_plain(tensor: Tensor) -> bool:
    """Whether it holds all of its numbers, each in a place of its own or a copy."""
    return (
        tensor.layout == torch.strided
        and tensor.device.type == "cpu"
        and not tensor.is_quantized
        and tensor.numel() * tensor.element_size() <= MOST_TENSORS
    )


def evaluated_weights(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights to evaluate: of a checkpoint the average, where there is one.

    A file of weights alone is them already.
    """
    for prefix in ("ema.", "model."):
        part = {
            name.removeprefix(prefix): tensor
            for name, tensor in tensors.items()
            if name.startswith(prefix)
        }
        if part:
            return part
    return dict(tensors)
