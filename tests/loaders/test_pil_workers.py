"""The processes of the pil loader end with the process that takes the batches."""

from __future__ import annotations

import multiprocessing
import time
from multiprocessing.connection import Connection
from pathlib import Path

import psutil
import pytest
from small_runs import server

from loaders import LoaderConfig, make_loader


def _take_a_batch(shards: Path, pids: Connection) -> None:
    multiprocessing.set_forkserver_preload(["loaders._pil"])  # not in each worker
    with make_loader("pil", shards, "train", LoaderConfig(workers=2)) as loader:
        batches = loader.epoch(0)
        next(batches)
        pids.send([child.pid for child in multiprocessing.active_children()])
        time.sleep(600)


@pytest.mark.slow
def test_workers_end_with_their_owner_killed_under_a_fork_server(shards: Path) -> None:
    theirs, ours = server.Pipe(duplex=False)
    owner = server.Process(target=_take_a_batch, args=(shards, ours))
    owner.start()
    assert theirs.poll(120)
    workers = [psutil.Process(pid) for pid in theirs.recv()]
    assert len(workers) == 2
    owner.kill()
    owner.join()
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert not alive
