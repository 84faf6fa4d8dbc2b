"""What share of the JPEGs is left to a GPU's engine, by what nvJPEG answers."""

from __future__ import annotations

import pytest
import torch
from on_gpu import DEVICE, MARKS

from loaders import LoaderConfig, _jpeg_engine
from loaders._jpeg_engine import _ask, count_engines, share_of_engine

GPU = torch.device("cuda", 1)


class NvJpeg:
    """Answers as nvJPEG does on a GPU with so many engines."""

    def __init__(self, engines: int, created: int = 0, asked: int = 0) -> None:
        self.engines, self.created, self.asked = engines, created, asked
        self.held = 0

    def nvjpegCreateEx(self, backend, device, pinned, flags, handle):
        assert backend == 3
        self.held += self.created == 0
        return self.created

    def nvjpegGetHardwareDecoderInfo(self, handle, engines, cores):
        engines._obj.value, cores._obj.value = self.engines, 5
        return self.asked

    def nvjpegDestroy(self, handle):
        self.held -= 1
        return 0


@pytest.mark.parametrize(
    ("answers", "engines"),
    [
        (NvJpeg(8), 8),
        (NvJpeg(0), 0),
        (NvJpeg(8, created=6), 0),  # NVJPEG_STATUS_ARCH_MISMATCH
        (NvJpeg(8, asked=9), 0),
        (object(), 0),  # of a version that lacks the function
    ],
)
def test_engines_are_those_that_nvjpeg_finds(answers, engines):
    assert _ask(answers) == engines
    assert not getattr(answers, "held", 0)


@pytest.mark.parametrize(
    ("engines", "given", "share"),
    [(8, None, 1.0), (0, None, 0.65), (8, 0.25, 0.25), (0, 1.0, 1.0), (8, 0.0, 0.0)],
)
def test_share_is_all_where_there_is_an_engine(monkeypatch, engines, given, share):
    seen = []
    monkeypatch.setattr(
        _jpeg_engine, "count_engines", lambda device: seen.append(device) or engines
    )
    config = LoaderConfig(hw_decoder_load=given)
    assert share_of_engine(config, GPU) == share
    assert seen == ([GPU] if given is None else [])


def test_share_is_nothing_to_name_where_no_gpu_decodes():
    for given in (None, 0.5):
        config = LoaderConfig(hw_decoder_load=given)
        assert share_of_engine(config, torch.device("cpu")) is None


def test_nvjpeg_of_the_wheels_is_found_and_answers():
    pytest.importorskip("nvidia.nvjpeg", reason="DALI's nvJPEG is not installed")
    assert _jpeg_engine._libraries()
    if not torch.cuda.is_available():
        import ctypes

        assert _ask(ctypes.CDLL(str(_jpeg_engine._libraries()[0]))) == 0


class TestOnGpu:
    """What only a GPU can answer."""

    pytestmark = MARKS

    def test_engine_is_there_on_gpus_known_to_have_one(self):
        name = torch.cuda.get_device_name()
        if any(known in name for known in ("A100", "A30", "H100", "H200", "B200")):
            assert count_engines(torch.device(DEVICE, 0)) > 0
