"""Which device a word stands for, and who says so where ranks can't have it."""

from __future__ import annotations

import pytest
import torch

from fastretina.cli import ReportedElsewhere, WrongUsage
from fastretina.nn.device import choose
from fastretina.nn.distributed import joined


@pytest.mark.parametrize("word", ["cuda", "auto"])
def test_cuda_is_the_gpu_of_this_rank(word: str, monkeypatch: pytest.MonkeyPatch):
    """Everybody who takes the device's number, as DALI does, then takes that one."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.current_device", lambda: 1)
    assert choose(word, "off").device == torch.device("cuda", 1)


@pytest.mark.parametrize(
    ("rank", "raised"), [("0", WrongUsage), ("1", ReportedElsewhere)]
)
def test_device_that_ranks_cant_share_is_one_error(
    rank: str, raised: type[Exception], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", rank)
    with pytest.raises(raised), joined("mps"):
        pass
