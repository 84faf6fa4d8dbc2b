"""What a frozen backbone makes of each image under each flip, kept from epoch to epoch.

    rows, flips --codes--> places --> float[n, D] features, on the device if they fit

In phase ``head`` with flips alone and BatchNorm in ``eval`` an image has one feature
vector for each of its four flips, whichever epoch it comes up in. Only those are kept
that the phase will ask for again.
"""

from __future__ import annotations

import numpy as np
import psutil
import torch
from torch import Tensor

from fastretina.nn.device import Compute
from fastretina.nn.distributed import ALONE, Ranks
from loaders.arrays import Bool, Int64
from loaders.device import on_device
from loaders.errors import RunError

NUM_FLIPS = 4  # none, left-right, upside-down, both
_HOST_SHARE, _DEVICE_SHARE = 0.7, 0.5  # of what is free; batches come later
_AT_ONCE = 1 << 14  # features that ranks exchange in one go: 32 MB of ResNet18


def codes_of(rows: Int64, flips: Bool) -> Int64:
    """One number for each image under its flips: int64[n], bool[n, 2] to int64[n]."""
    codes: Int64 = rows * NUM_FLIPS + flips[:, 0] + 2 * flips[:, 1]
    return codes


class FrozenFeatures:
    """Features of the images, and flips, that are wanted: float[M, D] at most.

    Attributes:
        here: bool[4 N], the codes whose features are kept.
        bad: bool[N], the rows whose images could not be decoded.
        device: where the features lie.
    """

    def __init__(
        self, wanted: Bool, length: int, compute: Compute, ranks: Ranks = ALONE
    ) -> None:
        """Make room for all that is wanted.

        Args:
            wanted: bool[4 N], the codes to keep, of N rows.
            length: D, of each feature vector.
            compute: device and precision of the backbone's forward pass.
            ranks: the processes that the images are shared out among.

        Raises:
            RunError: memory is too small.
        """
        codes = wanted.nonzero()[0]
        self._place = np.full(len(wanted), -1)
        self._place[codes] = np.arange(len(codes))
        self._codes, self._ranks, self._compute = codes, ranks, compute
        dtype = compute.dtype or torch.float32
        self.device = _room(len(codes) * length * dtype.itemsize, compute, ranks)
        self._values = torch.zeros((len(codes), length), dtype=dtype).to(self.device)
        self.here: Bool = np.zeros(len(wanted), np.bool_)
        self.bad: Bool = np.zeros(len(wanted) // NUM_FLIPS, np.bool_)
        self._new: Bool = self.here.copy()  # since the last exchange

    def lacking(self, codes: Int64) -> Bool:
        """Which codes are wanted and not here: bool[n]."""
        lacking: Bool = (self._place[codes] >= 0) & ~self.here[codes]
        return lacking

    def keep(self, codes: Int64, features: Tensor) -> None:
        """Keep what is wanted of int64[n] codes, each once, and float[n, D] features.

        What is here already stays as it is.
        """
        chosen = self.lacking(codes).nonzero()[0]
        codes = codes[chosen]
        assert features.dtype == self._values.dtype, features.dtype
        taken = features[on_device(chosen, features.device)].to(self.device)
        self._values[on_device(self._place[codes], self.device)] = taken
        self.here[codes] = self._new[codes] = True

    def gather(self, codes: Int64) -> Tensor:
        """The features of int64[n] codes that are all here: float[n, D]."""
        assert self.here[codes].all()
        found = self._values[on_device(self._place[codes], self.device)]
        return found.to(self._compute.device)

    def exchange(self) -> None:
        """Give all ranks what each has kept since the last time; all must call it.

        Each code was kept by one rank. Bytes are added to zeros, so nothing is rounded.
        """
        ranks = self._ranks
        if ranks.alone:
            return
        new = torch.from_numpy(self._new[self._codes]).to(self.device)
        found = ranks.sum(new.to(torch.int32)).bool()
        for start in range(0, len(new), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            values = self._values[part]
            own = torch.where(new[part, None], values, 0).view(torch.uint8)
            values[found[part]] = ranks.sum(own).view(values.dtype)[found[part]]
        self.here[self._codes[found.cpu().numpy()]] = True
        self.bad = ranks.sum(torch.from_numpy(self.bad).to(torch.int32)).bool().numpy()
        self._new[:] = False


def flipped(images: Tensor, changes: Int64) -> Tensor:
    """Each image flipped anew: uint8[n, H, W, 3], and int64[n] of 0 to 3 as in codes.

    Flipping a flipped image by what their codes differ in, bit by bit, gives the other.
    """
    out = images.clone()
    for change, dims in ((1, (2,)), (2, (1,)), (3, (1, 2))):
        places = (changes == change).nonzero()[0]
        if len(places):
            chosen = on_device(places, images.device)
            out[chosen] = images[chosen].flip(dims)
    return out


def _room(size: int, compute: Compute, ranks: Ranks) -> torch.device:
    """Where so many bytes fit: on the device, or in host memory.

    Raises:
        RunError: they fit nowhere.
    """
    device = compute.device
    if device.type == "cuda":
        if size <= _DEVICE_SHARE * torch.cuda.mem_get_info(device)[0]:
            return device
        device = torch.device("cpu")
    free = psutil.virtual_memory().available / ranks.local_world_size
    if size > _HOST_SHARE * free:
        raise RunError(
            f"--cache-features needs {size / 1e9:,.1f} GB of memory, and "
            f"{_HOST_SHARE * free / 1e9:,.1f} GB may be taken: leave it out"
        )
    return device
