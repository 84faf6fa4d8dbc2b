"""Who makes the parts of a batch, and who is woken for them."""

import itertools
import sys
import threading
import time

import pytest

from loaders import LoaderConfig, make_loader
from loaders._threads import _Todo

pytestmark = pytest.mark.timeout(60)

WORKERS = 8


class Instant:
    """Decodes nothing, at once."""

    def __call__(self, *_):
        pass


@pytest.fixture
def begun(monkeypatch):
    """The threads that are begun, from now on."""
    threads = []
    start = threading.Thread.start

    def noted(self):
        threads.append(self)
        start(self)

    monkeypatch.setattr(threading.Thread, "start", noted)
    return threads


@pytest.fixture
def decodes(monkeypatch, shards):
    """Rows of some epochs of ``turbo`` whose decoder and clock are these."""

    def decode(decoder, seconds=None, *, workers=WORKERS, num_epochs=3, **options):
        monkeypatch.setattr("loaders._threads.Decoder", lambda: decoder)
        if seconds is not None:  # from one look at the clock to the next
            ticks = itertools.count(step=seconds)
            monkeypatch.setattr("loaders._threads.perf_counter", lambda: next(ticks))
        config = LoaderConfig(**{"batch_size": 16, "workers": workers, **options})
        with make_loader("turbo", shards, "train", config) as loader:
            return [
                [row for batch in loader.epoch(n) for row in batch.index.tolist()]
                for n in range(num_epochs)
            ]

    return decode


def test_parts_that_take_long_are_made_by_all_threads(decodes):
    barrier = threading.Barrier(WORKERS, timeout=20)
    first = itertools.count()

    def decoder(*_):
        if next(first) < WORKERS:
            barrier.wait()  # breaks where these are not there at once

    assert decodes(decoder, 1.0, num_epochs=1) == [[*range(37)]]


def test_few_threads_are_begun_for_parts_that_take_no_time(decodes, begun):
    epochs = decodes(Instant(), 0.0, workers=32, num_epochs=1, prefetch=1)
    assert epochs == [[*range(37)]]
    assert len(begun) < 12  # before the first has made its part, nobody knows


def test_thread_that_is_idle_is_woken_before_another_is_begun(decodes, begun):
    """A batch of one part at a time, which needs one thread, or two at the start."""
    decodes(Instant(), 0.0, num_epochs=1, batch_size=1, prefetch=1)
    assert len(begun) <= 3


@pytest.mark.parametrize("which", [1, 2])
def test_thread_that_cannot_be_begun_is_raised_and_not_waited_for(
    decodes, monkeypatch, which
):
    start, calls = threading.Thread.start, itertools.count(1)

    def fails(self):
        if next(calls) == which:
            raise RuntimeError("can't start new thread")
        start(self)

    monkeypatch.setattr(threading.Thread, "start", fails)
    before = set(threading.enumerate())
    with pytest.raises(RuntimeError, match="can't start new thread"):
        decodes(Instant(), 1.0)
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize("seconds", [0.0, 1.0, None])
@pytest.mark.parametrize("workers", [1, 3, 16])
def test_nothing_is_lost_however_threads_take_turns(decodes, workers, seconds):
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for prefetch in (1, 4):
            epochs = decodes(
                Instant(), seconds, workers=workers, num_epochs=20, prefetch=prefetch
            )
            assert epochs == [[*range(37)]] * 20
    finally:
        sys.setswitchinterval(interval)


class OnePart:
    """A batch of one part."""

    def __init__(self):
        self.made = threading.Event()

    def divide(self, size):
        return [range(size)]

    def make(self, part, decode):
        self.made.set()


@pytest.mark.parametrize("seconds", [0.0, 1.0])
def test_part_that_is_added_as_a_thread_becomes_idle_is_made(monkeypatch, seconds):
    """When it has seen that there is none, and nobody can see that it is idle."""
    ticks = itertools.count(step=seconds)
    monkeypatch.setattr("loaders._threads.perf_counter", lambda: next(ticks))
    jobs = [OnePart() for _ in range(5)]
    late = jobs[1:]
    todo = _Todo(1, 4)
    make_parts = todo._make_parts

    def then_add(decode):
        make_parts(decode)
        if late:
            todo.add(late.pop(0))

    todo._make_parts = then_add
    todo.add(jobs[0])
    assert all(job.made.wait(10) for job in jobs)
    todo.stop()


def test_stopping_ends_every_thread_that_has_nothing_to_do(monkeypatch):
    monkeypatch.setattr("loaders._threads.perf_counter", itertools.count().__next__)
    before = set(threading.enumerate())
    todo = _Todo(WORKERS, 4)
    gate = threading.Barrier(WORKERS, timeout=20)
    for _ in range(WORKERS):
        job = OnePart()
        job.make = lambda *_: gate.wait()
        todo.add(job)
    deadline = time.monotonic() + 20
    while len(todo._idle) < WORKERS and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(todo._idle) == WORKERS
    todo.stop()
    assert set(threading.enumerate()) <= before
