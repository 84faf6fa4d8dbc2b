"""Which device a word stands for, before anything is loaded."""

from __future__ import annotations

import pytest
import torch

from loaders.device import check_device_name, find_device
from loaders.errors import LoaderError


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch):
    """Says how many GPUs are here, which is this process's, and if there is Apple's."""

    def say(gpus: int = 0, own: int = 0, *, apple: bool = False) -> None:
        monkeypatch.setattr("torch.cuda.is_available", lambda: gpus > 0)
        monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
        monkeypatch.setattr("torch.cuda.current_device", lambda: own)
        monkeypatch.setattr("torch.backends.mps.is_available", lambda: apple)

    return say


def test_auto_is_a_gpu_if_there_is_one_else_the_processor(here) -> None:
    here(gpus=2, own=1, apple=True)
    assert find_device("auto") == torch.device("cuda", 1)
    here(apple=True)
    assert find_device("auto") == torch.device("mps")
    here()
    assert find_device("auto") == torch.device("cpu")


def test_cuda_is_this_processs_own_gpu(here) -> None:
    here(gpus=2, own=1)
    assert find_device("cuda") == torch.device("cuda", 1)
    assert find_device("cuda:0") == torch.device("cuda", 0)
    assert find_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "gpus", "words"),
    [
        ("cuda", 0, "0 CUDA devices found"),
        ("cuda:2", 2, "2 CUDA devices found"),
        ("mps", 2, "no Apple GPU found"),
    ],
)
def test_device_that_is_not_here_is_named_with_the_way_out(
    here, name: str, gpus: int, words: str
) -> None:
    here(gpus=gpus)
    with pytest.raises(LoaderError) as caught:
        find_device(name)
    assert str(caught.value) == (
        f"device {name} is not here: {words}; auto takes what is there"
    )


@pytest.mark.parametrize("name", ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "meta"])
def test_name_of_no_device_is_refused(name: str) -> None:
    for refuse in (check_device_name, find_device):
        with pytest.raises(ValueError, match="device must be auto, cpu, cuda, cuda:N"):
            refuse(name)


@pytest.mark.parametrize("name", ["auto", "cpu", "cuda", "cuda:0", "mps", "mps:0"])
def test_name_of_a_device_is_taken_wherever_it_is(name: str) -> None:
    check_device_name(name)
