"""What is measured: ceilings, processor time, memory and the page cache."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fastretina.measure import ceilings, machine, page_cache, rounds, usage
from fastretina.measure.steps import Case, synthetic

linux = pytest.mark.skipif(sys.platform != "linux", reason="asks Linux")


def jpegs(number: int, side: int = 64) -> list[bytes]:
    noise = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    stream = BytesIO()
    Image.fromarray(noise).save(stream, "JPEG")
    return [stream.getvalue()] * number


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_decode_only_decodes_every_image(threads, monkeypatch):
    decoded, decode = [], ceilings.simplejpeg.decode_jpeg

    def counted(jpeg, **options):
        decoded.append(decode(jpeg, **options).shape)

    monkeypatch.setattr(ceilings.simplejpeg, "decode_jpeg", counted)
    images = jpegs(4) + jpegs(3, side=48)
    begun = time.perf_counter()
    speed = ceilings.decode_only(images, threads)
    assert sorted(decoded) == [(48, 48, 3)] * 3 + [(64, 64, 3)] * 4
    assert speed >= len(images) / (time.perf_counter() - begun)


@pytest.mark.parametrize(("shape", "sides"), [(None, (16, 16)), ((8, 24), (8, 24))])
def test_synthetic_batch_is_noise_of_the_shape_asked_for(shape, sides):
    case = Case("resnet18", 7, 16, "fp32", "channels-last", "full")
    images, labels, index = synthetic(case, torch.device("cpu"), shape)
    assert images.shape == (7, *sides, 3)
    assert images.dtype == torch.uint8
    assert images.float().std() > 60
    assert labels.tolist() == [0, 1, 2, 3, 4, 0, 1]
    assert index.tolist() == list(range(7))


def test_memory_copy_counts_every_byte(monkeypatch):
    parts = [np.full(size, size % 251, np.uint8) for size in (10, 1000, 300)]
    copied, copyto = [], np.copyto

    def watched(room, part):
        copyto(room, part)
        assert np.array_equal(room, part)
        copied.append(len(part))

    monkeypatch.setattr(ceilings.np, "copyto", watched)
    assert ceilings.memory_copy(parts, 2) > 0
    assert sorted(copied) == [10, 300, 1000]


def test_cpu_seconds_count_children_that_run_and_that_ended():
    spin = "import time\nwhile time.process_time() < 0.4: pass\n"
    before = usage.cpu_seconds()
    subprocess.run([sys.executable, "-c", spin], check=True)
    ended = usage.cpu_seconds()
    assert ended - before >= 0.35
    running = subprocess.Popen(
        [sys.executable, "-c", spin + "input()"], stdin=subprocess.PIPE
    )
    try:
        deadline = time.monotonic() + 60
        while usage.cpu_seconds() - ended < 0.35 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert usage.cpu_seconds() - ended >= 0.35
    finally:
        running.communicate(b"\n")


@linux
def test_memory_shared_among_processes_counts_once():
    fill = "import os, time; held = bytearray(b'x') * 60_000_000; "
    program = fill + "child = os.fork(); print(flush=True); time.sleep(60)"
    tree = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    try:
        tree.stdout.readline()
        time.sleep(0.2)
        assert 60e6 < usage.memory_bytes(tree.pid) < 110e6  # not 120
    finally:
        for process in list(usage._tree(tree.pid)):  # all, before the first is gone
            process.kill()
        tree.communicate()


def test_peak_memory_outlives_what_was_freed():
    # In a process of its own: what this one shares with its children changes.
    program = (
        "import sys\n"
        "for line in sys.stdin:\n"
        "    held = bytearray(b'x') * int(line)\n"
        "    print(flush=True)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )

    def hold(number: int) -> int:
        child.stdin.write(b"%d\n" % number)
        child.stdin.flush()
        child.stdout.readline()
        return usage.memory_bytes(child.pid)

    try:
        before = hold(1)
        with usage.PeakMemory(child.pid, every=0.01) as peak:
            assert hold(80_000_000) - before > 75e6
            deadline = time.monotonic() + 30
            while peak.bytes - before < 75e6 and time.monotonic() < deadline:
                time.sleep(0.01)
            after = hold(1)
        assert after - before < 20e6
        assert peak.bytes - before > 75e6
    finally:
        child.communicate()


def test_usage_of_a_process_that_has_gone_is_nothing():
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert usage.memory_bytes(gone.pid) == 0
    assert usage.cpu_seconds(gone.pid) == 0


@linux
def test_page_cache_is_dropped_and_filled(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(3_000_000))
    (tmp_path / "empty").write_bytes(b"")
    files = [path, tmp_path / "empty"]
    assert page_cache.cached_share(files) == 1
    if not page_cache.drop(files):
        pytest.skip("this file system keeps its files in memory")
    assert page_cache.cached_share(files) == 0
    assert page_cache.cached_share(files) == 0  # looking has read nothing
    path.read_bytes()
    assert page_cache.cached_share(files) == 1


def test_page_cache_elsewhere_says_that_it_cannot_tell(monkeypatch, tmp_path):
    monkeypatch.delattr(page_cache.os, "posix_fadvise", raising=False)
    monkeypatch.setattr(page_cache.sys, "platform", "darwin")
    (tmp_path / "file").write_bytes(b"x")
    assert page_cache.drop([tmp_path / "file"]) is False
    assert page_cache.cached_share([tmp_path / "file"]) is None


def test_machine_is_described(tmp_path):
    facts = machine.host_facts().summary() | machine.package_facts().summary()
    facts |= machine.disk_facts(tmp_path).summary()
    assert facts["cores granted"] <= facts["cores counted"]
    assert facts["memory, GiB"] > 0
    assert facts["pillow"]
    assert "GiB free" in facts["disk"]


def test_asking_which_machine_this_is_imports_no_torch():
    program = (
        "import sys\n"
        "from fastretina.data.auto_loader import machine_key\n"
        "assert 'cores' in machine_key('cpu')\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_epoch_is_timed_from_an_idle_device_to_an_idle_device(monkeypatch):
    """What the device did before does not count; what it still has to do does."""
    now = 0

    def spend(seconds: int) -> None:
        nonlocal now
        now += seconds

    def epoch() -> Iterator[list[int]]:
        spend(2)
        yield from ([1, 2, 3], [4, 5])

    def take(batch: list[int]) -> int:
        spend(10)
        return len(batch)

    with monkeypatch.context() as patch:
        patch.setattr(rounds.time, "perf_counter", lambda: now)
        drained = rounds.time_epoch(epoch, take, lambda: spend(100))
    assert drained == (5, 2 + 10 + 10 + 100)
    assert drained.images_per_second == 5 / 122
    assert now == 222


@pytest.mark.parametrize(
    ("text", "expected"),
    [("max\n", None), (str(2**62), None), ("1048576\n", 1048576), ("rubbish", None)],
)
def test_memory_granted_is_the_containers(monkeypatch, text, expected):
    whole = machine.memory_granted()
    monkeypatch.setattr(Path, "read_text", lambda _: text)
    assert machine.memory_granted() == (expected or whole)
