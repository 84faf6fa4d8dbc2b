"""Several processes that train one network: what they agree on, and who speaks.

``torchrun --nproc-per-node N -m fastretina.train ...`` starts them. A rank takes its
slice of each global batch; what it computes is summed over all. One process alone is a
world of one, in which nothing here costs anything.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import Store
from torch.distributed.rendezvous import rendezvous

from fastretina.cli import ReportedElsewhere, WrongUsage, exit_code

T = TypeVar("T")
# Seconds for the others: as soon as one rank ends, torchrun ends them all, even the one
# that is about to speak; without torchrun, the first rank holds what they agree over.
_SILENCE = 1.0
_HAS_AGENT = "TORCHELASTIC_USE_AGENT_STORE"


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among those that train together.

    Attributes:
        rank: its number.
        world_size: how many there are.
        local_world_size: how many of them share this machine.
    """

    rank: int = 0
    world_size: int = 1
    local_world_size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the one that writes and speaks."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        """Whether there is no other."""
        return self.world_size == 1

    def share_of(self, cores: int) -> int:
        """One rank's part of a machine's cores or threads, at least one."""
        return max(cores // self.local_world_size, 1)

    def agree(self, *flags: bool) -> tuple[bool, ...]:
        """Each flag, as set on any rank; all must ask at the same place."""
        if self.alone:
            return flags
        found = torch.tensor(flags, dtype=torch.uint8)
        dist.all_reduce(found, dist.ReduceOp.MAX)
        return tuple(map(bool, found.tolist()))

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all ranks, element by element, where the values lie."""
        if self.alone:
            return values
        total = values.clone()
        dist.all_reduce(total)
        return total

    def gather(self, *arrays: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], ...]:
        """The arrays of all ranks, joined along their first axis, on every rank."""
        if self.alone:
            return arrays
        parts: list[Any] = [None] * self.world_size
        dist.all_gather_object(parts, arrays)
        return tuple(np.concatenate(part) for part in zip(*parts, strict=True))

    def from_first(self, make: Callable[[], T]) -> T:
        """What the first rank makes, given to all."""
        if self.alone:
            return make()
        made: list[Any] = [make() if self.first else None]
        dist.broadcast_object_list(made)
        result: T = made[0]
        return result

    def wait(self) -> None:
        """Go on when all have come here."""
        self.agree(False)


ALONE = Ranks()


@contextmanager
def joined(device: str) -> Iterator[Ranks]:
    """Join the ranks that torchrun has started, if it has; leave them at the end.

    Of an error, one rank tells and the others keep silent: they see but its echo.

    Args:
        device: what ``--device`` says; each rank takes the GPU of its local number.

    Raises:
        ReportedElsewhere: in place of what another rank has said.
        WrongUsage: the device can't be shared out.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1:
        yield ALONE
        return
    ranks = Ranks(
        int(os.environ["RANK"]),
        world_size,
        int(os.environ.get("LOCAL_WORLD_SIZE", world_size)),
    )
    gpus = device in ("auto", "cuda") and torch.cuda.is_available()
    if not gpus and device not in ("auto", "cpu"):
        if not ranks.first:  # all were given the same words
            raise ReportedElsewhere(2)
        raise WrongUsage(f"--device must be auto, cpu or cuda with ranks, got {device}")
    store = _join(ranks, gpus)
    try:
        yield ranks
    except BaseException as error:
        tells = _is_first_to_tell(store, error)
        if not (tells and _HAS_AGENT in os.environ):
            time.sleep(_SILENCE)
        if tells:
            raise
        raise ReportedElsewhere(exit_code(error)) from None
    dist.destroy_process_group()


def _join(ranks: Ranks, gpus: bool) -> Store:
    """Join the others, each rank with the GPU of its local number if it has one."""
    if gpus:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    store: Store = next(rendezvous("env://"))[0]
    # What the host decides on goes over gloo, so that no GPU has to be waited for.
    backend = "cpu:gloo,cuda:nccl" if gpus else "gloo"
    dist.init_process_group(
        backend, store=store, rank=ranks.rank, world_size=ranks.world_size
    )
    return store


def _is_first_to_tell(store: Store, error: BaseException) -> bool:
    try:
        return int(store.add("fastretina/reported", 1)) == 1
    except RuntimeError:  # the store is gone: is this the cause, or a consequence?
        return not isinstance(error, RuntimeError)


def wrapped(network: torch.nn.Module, ranks: Ranks) -> torch.nn.Module:
    """The network, with gradients averaged over the ranks.

    To be made anew for each phase, as it looks at once for what is to be trained.
    """
    if ranks.alone:
        return network
    return torch.nn.parallel.DistributedDataParallel(network)


class HostSyncBatchNorm(nn.BatchNorm2d):
    """``nn.SyncBatchNorm`` for the CPU, which torch's own refuses.

    A rank may have no sample in a batch. Sums are taken in float32, or better.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalise float[B, C, H, W] by the statistics of all ranks' batches."""
        if not self.training:
            return super().forward(input)
        values = input.to(torch.promote_types(input.dtype, torch.float32))
        count = values.new_tensor([values.numel() / values.shape[1]])
        dist.all_reduce(count)
        mean = _Sum.apply(values.sum((0, 2, 3))) / count
        centred = values - mean[:, None, None]
        variance = _Sum.apply(centred.square().sum((0, 2, 3))) / count
        self._update(mean.detach(), variance.detach(), count)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        output: Tensor = centred * scale[:, None, None] + self.bias[:, None, None]
        return output.to(input.dtype)

    def _update(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        """Move the running statistics on, the variance without its bias."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked += 1
        unbiased = variance * count / (count - 1).clamp(min=1)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(unbiased, self.momentum)


class _Sum(torch.autograd.Function):
    """The sum over all ranks: each one's values play a part in all of their losses."""

    @staticmethod
    def forward(context: Any, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total


def synchronised(network: nn.Module, device: torch.device) -> nn.Module:
    """The network with BatchNorm over all ranks; parameters and names are the same."""
    if device.type == "cuda":
        convert = nn.SyncBatchNorm.convert_sync_batchnorm
        converted: nn.Module = convert(network)  # type: ignore[no-untyped-call]
        return converted
    for name, child in network.named_children():
        setattr(network, name, synchronised(child, device))
    if not isinstance(network, nn.BatchNorm2d):
        return network
    same = HostSyncBatchNorm(network.num_features, network.eps, network.momentum)
    same.load_state_dict(network.state_dict())
    return same.to(network.weight.dtype)
