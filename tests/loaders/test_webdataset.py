"""Streaming whole shards, from files and from a web server."""

import io
import os
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from resealed import reseal

from loaders import LoaderConfig, make_loader, open_split
from loaders._stream import EpochStream, _StreamedShard
from loaders.errors import LoaderError, NoShards, SampleError, ShardError
from loaders.order import EpochOrder
from loaders.place import place

TRAIN = 37  # samples in the fixture's split, in shards of 10
AUGMENTED = {"shuffle": True, "hflip": 0.4, "vflip": 0.5}

pytestmark = pytest.mark.timeout(60)


class Handler(SimpleHTTPRequestHandler):
    """Serves a folder; may break off, or refuse, as the test wants it."""

    def do_GET(self):
        self.server.asked.append(self.path.rpartition("/")[2])
        if self.server.refusals > 0 and self.path.endswith(".tar"):
            self.server.refusals -= 1
            self.send_error(503)
            return
        if self.server.breaks > 0 and self.path.endswith(self.server.broken):
            self.server.breaks -= 1
            content = (Path(self.directory) / self.path.lstrip("/")).read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
            return
        super().do_GET()

    def log_message(self, *args):
        pass


@pytest.fixture
def server(shards, monkeypatch):
    """The shards on a real server on loopback; its URL is ``server.url``."""
    monkeypatch.setattr("loaders._stream._PAUSE", 0.01)
    handler = partial(Handler, directory=str(shards))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.asked, server.breaks, server.refusals = [], 0, 0
        server.broken = ".tar"
        server.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def epoch(source, number=0, name="webdataset", split="train", **options):
    config = LoaderConfig(**{"batch_size": 8, "workers": 2, **options})
    with make_loader(name, source, split, config) as loader:
        return [tuple(part.clone() for part in batch) for batch in loader.epoch(number)]


def same(one, other):
    return len(one) == len(other) and all(
        torch.equal(a, b)
        for left, right in zip(one, other, strict=True)
        for a, b in zip(left, right, strict=True)
    )


@pytest.mark.parametrize("window", [1, 2, 3, 100])
@pytest.mark.parametrize("workers", [1, 3, 16])
def test_batches_are_those_of_turbo_with_the_same_window(shards, window, workers):
    """Of any loader, that is; so they don't depend on the number of threads."""
    options = {"window": window, "workers": workers, "seed": 3, **AUGMENTED}
    for number in range(2):
        wanted = epoch(shards, number, "turbo", **options)
        assert same(epoch(shards, number, **options), wanted)


def test_default_window_is_two_shards(shards):
    wanted = epoch(shards, name="turbo", window=2, **AUGMENTED)
    assert same(epoch(shards, **AUGMENTED), wanted)


def test_shards_are_permuted_anew_in_every_epoch(shards):
    """What webdataset's own shardshuffle does not do."""
    firsts = set()
    with open_split(shards, "train") as split:
        for number in range(6):
            rows = torch.cat([b[2] for b in epoch(shards, number, **AUGMENTED)])
            firsts.add(tuple(dict.fromkeys(split.shard_of(rows.numpy()).tolist())))
    assert len(firsts) >= 4


def test_ranks_read_one_piece_each_of_the_order(shards):
    order = EpochOrder(sizes=(10, 10, 10, 7), seed=0, epoch=1, window=2)
    rows = []
    for rank in range(3):
        options = {"rank": rank, "world_size": 3, "batch_size": 6, **AUGMENTED}
        rows += [row for batch in epoch(shards, 1, **options) for row in batch[2]]
    assert [int(row) for row in rows] == order.rows(0, TRAIN).tolist()


def test_balanced_epochs_cannot_be_streamed(shards):
    with pytest.raises(ValueError, match="balance must be 0"):
        epoch(shards, balance=1.0, shuffle=True)


def test_tar_that_the_index_does_not_describe_is_noticed(shards, tmp_path):
    """Its grade in the index is not the one beside the image."""
    folder = Path(shutil.copytree(shards, tmp_path / "shards"))
    table = pq.read_table(folder / "train.parquet")
    labels = table["label"].to_pylist()
    labels[12] = (labels[12] + 1) % 5
    place = table.column_names.index("label")
    column = pa.array(labels, table.schema.field("label").type)
    pq.write_table(table.set_column(place, "label", column), folder / "train.parquet")
    reseal(folder)
    with pytest.raises(
        SampleError, match=r"its grade is '\d', the index says"
    ) as caught:
        epoch(folder)
    assert caught.value.key == table["key"][12].as_py()


def test_grade_that_is_no_text_is_shown_as_one(shards, tmp_path):
    folder = Path(shutil.copytree(shards, tmp_path / "shards"))
    tar = folder / "train-000001.tar"
    with tarfile.open(tar) as members:
        place = next(m for m in members if m.name.endswith(".cls")).offset_data
    with tar.open("r+b") as file:
        file.seek(place)
        file.write(b"\x11")
    with pytest.raises(SampleError, match=r"its grade is '\\x11', the") as caught:
        epoch(folder)
    assert str(caught.value).isprintable()


def test_sample_missing_from_its_tar_is_named(shards, tmp_path):
    folder = Path(shutil.copytree(shards, tmp_path / "shards"))
    tar = folder / "train-000001.tar"
    with open_split(folder, "train") as split:
        key = split.key(13)
    data = tar.read_bytes()
    with tarfile.open(tar) as opened:
        member = opened.getmember(f"{key}.jpg")
    # The same length, under another name: what a careless edit would leave.
    header = bytearray(data[member.offset : member.offset + 512])
    header[:4] = b"gone"
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    tar.write_bytes(data[: member.offset] + header + data[member.offset + 512 :])
    with pytest.raises(SampleError) as caught:
        epoch(folder)
    assert caught.value.key == key


# ------------------------------------------------------------------------------- http


def test_epoch_over_http_is_that_of_the_files(server, shards):
    for split in ("train", "test"):
        wanted = epoch(shards, split=split, **AUGMENTED)
        assert same(epoch(server.url, split=split, **AUGMENTED), wanted)
    tars = [name for name in server.asked if name.endswith(".tar")]
    assert sorted(tars) == sorted({*tars})  # each shard is asked for once


def test_url_may_end_in_a_slash_and_lie_in_a_folder(server, shards):
    assert same(epoch(f"{server.url}/"), epoch(shards))


def test_first_batch_over_http_asks_for_what_is_left_only(server):
    config = LoaderConfig(batch_size=8, workers=2)
    with make_loader("webdataset", server.url, "train", config) as loader:
        whole = [batch.index.tolist() for batch in loader.epoch(0)]
        server.asked.clear()
        rest = [batch.index.tolist() for batch in loader.epoch(0, first_batch=3)]
    assert rest == whole[3:]  # rows 24 to 36
    assert sorted(server.asked) == ["train-000002.tar", "train-000003.tar"]


@pytest.mark.parametrize("trouble", ["breaks", "refusals"])
def test_connection_that_breaks_is_taken_up_again(server, shards, trouble):
    setattr(server, trouble, 2)
    assert same(epoch(server.url, workers=1), epoch(shards, workers=1))


@pytest.mark.parametrize("trouble", ["breaks", "refusals"])
def test_server_that_keeps_failing_is_one_clear_error(server, trouble):
    setattr(server, trouble, 1000)
    with pytest.raises(ShardError, match=r"/train-000000\.tar cannot be read") as error:
        epoch(server.url)
    assert "\n" not in str(error.value)
    assert server.asked.count("train-000000.tar") == 3


def test_shard_of_another_length_on_the_server_is_refused(server, shards, tmp_path):
    folder = Path(shutil.copytree(shards, tmp_path / "shards"))
    os.truncate(folder / "train-000001.tar", 4096)
    server.RequestHandlerClass.keywords["directory"] = str(folder)
    with pytest.raises(ShardError, match=r"train-000001\.tar .*cut short"):
        epoch(server.url)


def test_abandoned_stream_ends_at_once(server):
    before = set(threading.enumerate())
    config = LoaderConfig(batch_size=2, workers=3, shuffle=True)
    with make_loader("webdataset", server.url, "train", config) as loader:
        for number in range(5):
            assert len(list(islice(loader.epoch(number), number))) == number
    left = {
        thread
        for thread in threading.enumerate()
        if "process_request" not in thread.name
    } - before
    assert left == set()


@pytest.mark.parametrize("name", ["pil", "turbo"])
def test_other_loaders_say_that_they_need_files(server, name):
    with pytest.raises(ShardError, match="pass --loader webdataset"):
        epoch(server.url, name=name, workers=0 if name == "pil" else 1)


def test_url_without_a_data_set_is_told_so(server):
    with pytest.raises(NoShards, match="no data set in http"):
        epoch(f"{server.url}/nothing")


def test_server_that_is_not_there_is_one_line(server):
    port = server.server_port
    server.shutdown()
    server.server_close()
    with pytest.raises(ShardError, match="cannot be read") as caught:
        open_split(f"http://127.0.0.1:{port}", "train")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["manifest.json", "train.parquet"])
def test_connection_that_breaks_before_the_shards_is_one_line(server, name):
    server.breaks, server.broken = 1000, name
    with pytest.raises(ShardError) as caught:
        open_split(server.url, "train")
    assert re.fullmatch(
        rf"{server.url}/{name} cannot be read "
        r"\(the connection broke off after [\d,]+ bytes\)",
        str(caught.value),
    )


@pytest.mark.parametrize("name", ["a folder", "caf\u00e9"])
def test_url_that_is_none_is_one_line(server, name):
    with pytest.raises(ShardError) as caught:
        open_split(f"{server.url}/{name}", "train")
    assert str(caught.value).startswith(f"{server.url}/{name}/manifest.json cannot be")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["http://[::1", f"http://{'a' * 64}.example", "http://"]
)
def test_host_that_is_none_is_one_line(url):
    with pytest.raises(ShardError, match="cannot be read") as caught:
        open_split(url, "train")
    assert "\n" not in str(caught.value)
    assert not place(url).exists()


def test_answer_that_is_no_http_is_one_line():
    """Of a server that speaks something else."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer():
            connection, _ = listening.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"220 mail ready\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(ShardError, match="220 mail ready") as caught:
            open_split(f"http://127.0.0.1:{listening.getsockname()[1]}", "train")
        thread.join()
    assert "\n" not in str(caught.value)


# --------------------------------------------------------------------------- security


def test_library_that_runs_shell_commands_is_not_even_imported():
    """It opens "pipe:" URLs and unpickles, unless told not to."""
    code = (
        "import sys, loaders\n"
        "assert loaders.missing('webdataset') is None\n"
        "print([name for name in sys.modules if name.startswith('webdataset')])\n"
    )
    out = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    ).stdout
    assert out == "[]\n"


def test_pipe_urls_are_not_places(shards):
    with pytest.raises(NoShards):
        epoch(f"pipe:cat {shards}/manifest.json")


def test_select_streams_only_the_shards_that_are_needed(server):
    with open_split(server.url, "train") as split:
        part = split.select(np.array([3, 5, 31]))
    server.asked.clear()
    assert [batch[2].tolist() for batch in epoch(part)] == [[3, 5, 31]]
    assert [n for n in sorted(server.asked) if n.endswith(".tar")] == [
        "train-000000.tar",
        "train-000003.tar",
    ]


def test_reading_after_the_end_is_refused(shards):
    with open_split(shards, "train") as split:
        stream = EpochStream(split, np.arange(5), threads=1, ahead=10)
        before = stream.reading(np.arange(3), verify=True)
        stream.stop()
        with pytest.raises(LoaderError, match="ended"):
            before.read(2)
        with pytest.raises(LoaderError, match="ended"):
            stream.reading(np.arange(3, 5), verify=True)


def test_index_that_points_out_of_its_tar_is_one_line(shards, tmp_path):
    folder = Path(shutil.copytree(shards, tmp_path / "shards"))
    path = folder / "train.parquet"
    table = pq.read_table(path)
    for wrong in (-5, 10**15):
        offsets = table["offset"].to_pylist()
        offsets[12] = wrong
        place = table.column_names.index("offset")
        column = pa.array(offsets, pa.int64())
        pq.write_table(table.set_column(place, "offset", column), path)
        reseal(folder)
        with pytest.raises(ShardError, match=r"train\.parquet: a row"):
            epoch(folder)


def test_shard_that_breaks_off_twice_is_gone_on_with(server, shards, monkeypatch):
    """In pieces that end anywhere, each attempt from where the one before came to."""
    monkeypatch.setattr("loaders._stream._PIECE", 1000)
    server.breaks = 2
    whole = epoch(server.url, workers=1)
    assert same(whole, epoch(shards, workers=1))


def test_shards_are_let_go_with_their_last_batch(shards):
    """Those that are alive are the window's, and what is read ahead of it."""
    alive = []

    class Watched(_StreamedShard):
        def __init__(self, *args):
            super().__init__(*args)
            alive.append(weakref.ref(self))

    config = LoaderConfig(batch_size=5, workers=1, prefetch=1)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("loaders._stream._StreamedShard", Watched)
        with make_loader("webdataset", shards, "train", config) as loader:
            batches = loader.epoch(0)
            first = [next(batches).index.tolist() for _ in range(6)]
            assert first[-1] == [*range(25, 30)]
            assert len(alive) == 4
            assert alive[0]() is None
            assert alive[3]() is not None
            rest = sum(1 for _ in batches)
    assert rest == len(loader) - 6
    assert [shard() for shard in alive] == [None] * 4


class Gated(io.BytesIO):
    """A shard of which a piece comes each time that the gate is opened."""

    def __init__(self, content, gate):
        super().__init__(content)
        self.gate = gate

    def readinto(self, room):
        self.gate.acquire()
        return super().readinto(room)


@pytest.fixture
def gated(shards, monkeypatch):
    """A split, the stream of its first shard in pieces of 512 bytes, and the gate."""
    monkeypatch.setattr("loaders._stream._PIECE", 512)
    gate = threading.Semaphore(0)
    content = (shards / "train-000000.tar").read_bytes()
    with open_split(shards, "train") as split:
        split.open_shard = lambda number, stopped: Gated(content, gate)
        stream = EpochStream(split, np.arange(10), threads=1, ahead=10)
        stream.start()
        yield split, stream, gate
        gate.release(10_000)
        stream.stop()


def test_sample_is_there_as_soon_as_its_own_bytes_are(gated):
    """Whoever waits for one that comes later goes on to wait."""
    split, stream, gate = gated
    reading = stream.reading(np.arange(10), verify=True)
    with ThreadPoolExecutor(3) as pool:
        last, first, again = (pool.submit(reading.read, n) for n in (9, 0, 0))
        _, (offset,), (size,) = split.places_of(np.array([0]))
        # Its JPEG, and the block before its grade, and that.
        gate.release(int(offset) // 512 + -(-int(size) // 512) + 2)
        assert first.result(20) == again.result(20) == split_jpeg(split, 0)
        assert not last.done()
        gate.release(10_000)
        assert last.result(20) == split_jpeg(split, 9)


def split_jpeg(split, row):
    _, (offset,), (size,) = split.places_of(np.array([row]))
    return (split.folder / "train-000000.tar").read_bytes()[offset : offset + size]


def test_who_waits_for_a_stream_hears_that_it_has_ended(gated):
    _, stream, gate = gated
    reading = stream.reading(np.arange(10), verify=True)
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(reading.read, n) for n in (9, 3)]
        time.sleep(0.05)  # both wait by now, or will find it ended
        stopper = threading.Thread(target=stream.stop)
        stopper.start()
        for one in waiting:
            with pytest.raises(LoaderError, match="ended"):
                one.result(20)
        gate.release(10_000)
        stopper.join(20)
        assert not stopper.is_alive()


def test_who_waits_for_a_shard_hears_that_it_cannot_be_read(gated, monkeypatch):
    _, stream, gate = gated

    def breaks(self, room):
        self.gate.acquire()
        raise OSError("it broke")

    monkeypatch.setattr(Gated, "readinto", breaks)
    reading = stream.reading(np.arange(10), verify=True)
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(reading.read, n) for n in (9, 3)]
        time.sleep(0.05)  # both wait by now, or will find it broken
        gate.release(2)
        for one in waiting:
            with pytest.raises(ShardError, match=r"train-000000\.tar .* \(it broke\)"):
                one.result(20)
