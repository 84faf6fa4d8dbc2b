"""Web servers that lie, stall, never end or lead elsewhere: one line, and soon."""

import gzip
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from itertools import chain, repeat
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from raw_server import RawServer, chunked, head, whole
from resealed import read_json, reseal, write_sealed

from loaders import LoaderConfig, make_loader, open_split
from loaders.errors import NoShards, ShardError
from loaders.place import Url, place

pytestmark = pytest.mark.timeout(60)

FILE = "http://127.0.0.1"


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    """No patience, and no proxy."""
    monkeypatch.setattr("loaders._http._SILENCE", 0.5)
    monkeypatch.setattr("loaders._http._MOMENT", 0.05)
    monkeypatch.setattr("loaders._stream._PAUSE", 0.01)
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def serving(shards):
    """Serve the shards, but for what the test has other answers to: name to answer."""
    servers = []

    def serve(**others):
        def answer(path):
            name = path.rpartition("/")[2]
            given = others.get(name.replace(".", "_").replace("-", "_"))
            if given is not None:
                return given
            file = shards / name
            return whole(file.read_bytes()) if file.is_file() else [head("404 No")]

        servers.append(RawServer(answer))
        return servers[-1]

    yield serve
    for server in servers:
        server.close()


def labels(source, **options):
    config = LoaderConfig(batch_size=8, workers=2, **options)
    with make_loader("webdataset", source, "train", config) as loader:
        return torch.cat([batch.labels.clone() for batch in loader]).tolist()


def complaint(call, *words):
    """What it says in one line, within some time, of a server's file."""
    started = time.monotonic()
    with pytest.raises(ShardError) as caught:
        call(*words)
    assert time.monotonic() - started < 20
    text = str(caught.value)
    assert text.isprintable()
    assert FILE in text
    assert len(text) < 500
    return text


def opened(url):
    open_split(url, "train").close()


def drip(words, seconds=0.02):
    return chain.from_iterable((bytes([byte]), seconds) for byte in words)


BAD_MANIFESTS = {
    "says nothing": ([60.0], "too slow"),
    "hangs up": ([], "closed connection"),
    "is another protocol": ([b"\x1b]0;owned\x07220 mail\r\n\r\n"], "220 mail"),
    "has an endless status line": (repeat(b"x" * 65536), "more than 65536"),
    "has an endless header": (
        chain([b"HTTP/1.1 200 OK\r\nA: "], repeat(b"x" * 65536)),
        "more than 65536",
    ),
    "has endless headers": (
        chain([b"HTTP/1.1 200 OK\r\n"], repeat(b"A: b\r\n" * 99)),
        "more than 100",
    ),
    "goes on and on": (repeat(b"HTTP/1.1 100 Continue\r\n\r\n" * 99), ""),
    "drips its head": (drip(head(content_length=1) + b"{"), "too slow"),
    "drips its body": (
        chain([head(content_length=10**6)], drip(b"{" * 10**6)),
        "too slow",
    ),
    "stalls in its body": ([head(content_length=10), b"{", 60.0], "too slow"),
    "is cut short": ([head(content_length=10), b"{"], "broke off after 1 bytes"),
    "is said to be huge": ([head(content_length=6 * 10**9), b"{"], "larger than"),
    "never ends": (chain([head()], repeat(b" " * 65536)), "larger than"),
    "never ends, in chunks": (
        chain(
            [head(transfer_encoding="chunked")], repeat(b"10000\r\n%65536s\r\n" % b"")
        ),
        "larger than",
    ),
    "is chunked wrongly": (
        [head(transfer_encoding="chunked"), b"no\r\n{}\r\n"],
        "broke off",
    ),
    "has endless trailers": (
        chain(
            [head(transfer_encoding="chunked"), b"2\r\n{}\r\n0\r\n"],
            repeat(b"A: b\r\n" * 9999),
        ),
        "much beside",
    ),
    "has an endless chunk extension": (
        chain([head(transfer_encoding="chunked"), b"1;"], repeat(b"x" * 65536)),
        "",
    ),
    "is gzipped": (
        whole(gzip.compress(b"{}"), content_encoding="gzip"),
        "encoded, by gzip",
    ),
    "is a part": ([head("206 Partial Content")], "says 206"),
    "is forbidden": (
        [head("403 \x1b[2JNo\x07 way")],
        "says 403 \N{REPLACEMENT CHARACTER}[2JNo",
    ),
    "fails, without end": (chain([head("500 No")], repeat(b"x" * 65536)), "says 500"),
    "leads to a file": ([head("302 Go", location="file:///etc/passwd")], "file://"),
    "leads to ftp": ([head("302 Go", location="ftp://127.0.0.1/a")], "ftp://"),
    "leads elsewhere": (
        [head("301 Go", location="http://user:pass@example.org/x?key=1")],
        "another place, http://example.org:",
    ),
    "leads to another port": ([head("307 Go", location="http://127.0.0.1:1/")], ":1:"),
    "leads in a circle": ([head("308 Go", location="manifest.json")], "more than 5"),
    "leads nowhere": ([head("302 Go")], "another place"),
    "leads on without end": (
        chain([head("302 Go", location="ftp://a/")], repeat(b"x" * 65536)),
        "ftp://a",
    ),
}


@pytest.mark.parametrize("what", BAD_MANIFESTS)
def test_manifest_that(what, serving, monkeypatch):
    monkeypatch.setattr("loaders.manifest.MOST_MANIFEST", 1 << 22)
    answer, expected = BAD_MANIFESTS[what]
    server = serving(manifest_json=answer)
    text = complaint(opened, server.url)
    assert expected in text
    assert text.startswith(f"{server.url}/manifest.json cannot be read (")
    assert server.sent < 100 << 20


def test_index_that_never_ends_takes_bounded_memory(serving, monkeypatch):
    monkeypatch.setattr("loaders.index_table.MOST_PARQUET", 1 << 22)
    server = serving(train_parquet=chain([head()], repeat(b"x" * 65536)))
    tracemalloc.start()
    try:
        assert "train.parquet cannot be read (it is larger" in complaint(
            opened, server.url
        )
        assert tracemalloc.get_traced_memory()[1] < 24 << 20
    finally:
        tracemalloc.stop()


def tar(shards):
    return (shards / "train-000001.tar").read_bytes()


BAD_TARS = {
    "says nothing": (lambda _: [60.0], "too slow"),
    "stalls": (lambda t: [head(content_length=len(t)), t[:9999], 60.0], "too slow"),
    "drips": (lambda t: chain([head(content_length=len(t))], drip(t)), "too slow"),
    "is longer": (lambda t: whole(t + b"x"), "cut short"),
    "is said to be longer": (lambda _: [head(content_length=10**18)], "cut short"),
    "is cut short": (lambda t: [head(content_length=len(t)), t[:9999]], "ends after"),
    "is cut short and silent on it": (lambda t: [head(), t[:9999]], "ends after"),
    "is damaged": (lambda t: whole(t[:2000] + b"x" + t[2001:]), "checksum"),
    "is gzipped": (
        lambda t: whole(gzip.compress(t), content_encoding="gzip"),
        "encoded",
    ),
    "leads to a file": (lambda _: [head("302 Go", location="file:///x")], "file://"),
    "has much between its bytes": (
        lambda t: chain(
            [head(transfer_encoding="chunked")],
            (b"1;%60000s\r\n%c\r\n" % (b"", byte) for byte in t),
        ),
        "much beside",
    ),
}


@pytest.mark.parametrize("what", BAD_TARS)
def test_tar_that(what, shards, serving):
    answer, expected = BAD_TARS[what]
    server = serving(train_000001_tar=None)
    right = server.answer
    server.answer = lambda path: (
        answer(tar(shards)) if path.endswith("n-000001.tar") else right(path)
    )
    text = complaint(labels, server.url)
    assert expected in text
    assert f"{server.url}/train-000001.tar" in text


GOOD_TARS = {
    "comes without a length": lambda t: [head(), t],
    "comes in chunks": lambda t: chunked(t, 777),
    "goes on behind its end": lambda t: chain([head(), t], repeat(b"x" * 65536)),
    "is said to be in no encoding": lambda t: whole(t, content_encoding="identity"),
}


def test_body_in_chunks_of_one_byte_is_read(shards, serving):
    """Six bytes come for each of the body's, and more in all than is spare."""
    server = serving()
    body = random.Random(0).randbytes(800_000)
    server.answer = lambda path: chunked(body, 1)
    assert Url(f"{server.url}/a").read_bytes(1 << 20) == body


@pytest.mark.parametrize("what", GOOD_TARS)
def test_samples_are_right_where_the_tar(what, shards, serving):
    server = serving()
    right = server.answer
    server.answer = lambda path: (
        GOOD_TARS[what](tar(shards)) if path.endswith("n-000001.tar") else right(path)
    )
    assert labels(server.url) == labels(shards)


def test_shard_that_the_manifest_makes_larger_than_memory_is_one_line(
    shards, serving, tmp_path
):
    """By a manifest and an index whose checksums fit."""
    folder = Path(shutil.copytree(shards, tmp_path / "shards"))
    table = pq.read_table(folder / "train.parquet")
    offsets = table["offset"].to_pylist()
    offsets[19] = 1 << 59
    place = table.column_names.index("offset")
    table = table.set_column(place, "offset", pa.array(offsets, pa.int64()))
    pq.write_table(table, folder / "train.parquet")
    manifest = read_json(folder)
    manifest["splits"]["train"]["shards"][1]["bytes"] = 1 << 60
    write_sealed(folder, manifest)
    reseal(folder)
    server = serving(
        manifest_json=whole((folder / "manifest.json").read_bytes()),
        train_parquet=whole((folder / "train.parquet").read_bytes()),
        train_000001_tar=[head(transfer_encoding="chunked"), b"1\r\nx\r\n", 60.0],
    )
    text = complaint(labels, server.url)
    assert "train-000001.tar cannot be read (there is no memory for" in text


def test_redirect_within_the_server_is_followed(shards, serving):
    server = serving()
    right = server.answer
    server.answer = lambda path: (
        right(path)
        if path.startswith("/new/")
        else [head("302 Go", location=f"/new{path}")]
    )
    assert labels(server.url) == labels(shards)


def test_https_on_its_own_port_may_take_the_place_of_http():
    from loaders._http import _redirected

    old, new = "http://host:8080/a/m.json", "https://host/b/m.json"
    assert _redirected(old, new) == new
    for other in ("https://host:8443/m", "https://host.example/m", "https://u@host/m"):
        with pytest.raises(ConnectionError, match="another place"):
            _redirected(old, other)
    with pytest.raises(ConnectionError, match="another place"):
        _redirected(new, "http://host/b/m.json")


@pytest.mark.parametrize(
    "url",
    [
        "http://ann:hunter2@127.0.0.1:9/shards",
        "http://ann:hu/nter2@127.0.0.1:9/shards".replace("/nter2", "?nter2"),
        "http://127.0.0.1:9/shards?key=hunter2",
        "http://127.0.0.1:9/shards#hunter2",
    ],
)
def test_secrets_of_a_url_are_not_told(url):
    text = complaint(opened, url)
    assert "hunter2" not in text
    assert "nter2" not in text
    assert "ann" not in text.replace("cannot", "")
    assert "is not taken" in text
    assert "hunter2" not in str(place(url))


def test_proxy_of_the_environment_is_asked(shards, serving, monkeypatch):
    server = serving()
    monkeypatch.setenv("http_proxy", server.url)
    assert labels("http://127.0.0.9:9/a") == labels(shards)
    assert server.asked[0] == "http://127.0.0.9:9/a/manifest.json"
    monkeypatch.setenv("no_proxy", "127.0.0.9")
    with pytest.raises(ShardError, match="refused"):
        labels("http://127.0.0.9:9/a")


def test_file_that_is_gone_is_none(serving):
    with pytest.raises(NoShards):
        opened(serving(manifest_json=[head("410 Gone")]).url)


def test_loader_closes_at_once_while_a_server_is_silent(shards, serving, monkeypatch):
    monkeypatch.setattr("loaders._http._SILENCE", 600.0)
    server = serving()
    right, silent = server.answer, threading.Event()

    def answer(path):
        if path.endswith("2.tar"):
            silent.set()
            return [head(content_length=len(tar(shards))), 600.0]
        return right(path)

    server.answer = answer
    before = set(threading.enumerate()) | set(server._threads)
    config = LoaderConfig(batch_size=8, workers=2)
    loader = make_loader("webdataset", server.url, "train", config)
    next(loader.epoch(0))
    assert silent.wait(20)
    started = time.monotonic()
    loader.close()
    assert time.monotonic() - started < 20
    left = {t for t in threading.enumerate() if t not in server._threads} - before
    for thread in left:
        thread.join(20)
    assert not any(thread.is_alive() for thread in left)


def test_interrupt_ends_the_waiting_for_a_server(serving):
    server = serving(manifest_json=[600.0])
    code = (
        "import sys; from loaders import open_split; open_split(sys.argv[1], 'train')"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, server.url],
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    until = time.monotonic() + 40
    while not server.asked and time.monotonic() < until:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in process.communicate(timeout=20)[1]


def test_url_that_exists_is_told_from_one_that_does_not(serving):
    server = serving()
    assert Url(f"{server.url}/manifest.json").exists()
    assert not Url(f"{server.url}/other.json").exists()


def test_rows_are_those_of_the_files(shards, serving):
    with (
        open_split(serving().url, "train") as there,
        open_split(shards, "train") as here,
    ):
        assert np.array_equal(there.labels, here.labels)
        assert there.keys == here.keys
