"""A GPU's gaps between steps, on a clock that a test sets."""

from __future__ import annotations

import pytest
import torch
from on_gpu import DEVICE, MARKS

from fastretina.measure.device_idle import DeviceIdle, device_idle


class Stream:
    """A device that passes its marks when it is told to, at the times it is told."""

    def __init__(self) -> None:
        self.queued: list[Mark] = []

    def event(self) -> Mark:
        return Mark(self)

    def pass_next(self, *milliseconds: float) -> None:
        for at in milliseconds:
            self.queued.pop(0).at = at


class Mark:
    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.at: float | None = None

    def record(self) -> None:
        self.stream.queued.append(self)

    def query(self) -> bool:
        return self.at is not None

    def elapsed_time(self, end: Mark) -> float:
        assert self.at is not None, "waits for the device"
        assert end.at is not None, "waits for the device"
        return end.at - self.at


def test_gaps_are_added_once_and_read_when_the_device_has_passed_them():
    stream = Stream()
    idle = DeviceIdle(stream.event)
    idle.free()  # the epoch begins
    idle.busy()
    idle.free()
    assert idle.take() == 0
    idle.busy()
    stream.pass_next(0, 500, 700)  # the second gap is not over
    assert idle.take() == 0.5
    assert idle.take() == 0
    stream.pass_next(725)
    assert idle.take() == pytest.approx(0.025)


def test_time_within_a_step_is_no_gap():
    stream = Stream()
    idle = DeviceIdle(stream.event)
    idle.busy()  # nothing was free before
    idle.free()
    idle.busy()
    idle.free()
    idle.free()  # a batch that was left out: still the same gap
    stream.pass_next(100, 101, 5000, 6000)
    assert idle.take() == pytest.approx(0.001)


def test_device_without_streams_has_no_idle_time():
    assert device_idle(torch.device("cpu")) is None


class TestOnGpu:
    """The same of a real stream."""

    pytestmark = MARKS

    def test_gap_is_what_the_gpu_waited(self):
        idle = device_idle(torch.device(DEVICE, torch.cuda.current_device()))
        work = torch.ones(64, 64, device=DEVICE)
        torch.cuda.synchronize()
        for _ in range(3):
            idle.busy()
            work = work @ work / 64
            idle.free()
            torch.cuda._sleep(50_000_000)  # between the marks, some 25 ms
        idle.busy()
        torch.cuda.synchronize()
        assert 0.03 < idle.take() < 1
