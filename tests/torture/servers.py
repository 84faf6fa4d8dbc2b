"""Web servers that say anything: the right samples, or one line that names the URL."""

from __future__ import annotations

import contextlib
import gzip
import io
import resource
import struct
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, islice, repeat
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
import small_runs  # noqa: F401 (whose server has imported torch)
from conftest import course_folder
from raw_server import RawServer, Word, chunked, head, whole

from torture.campaign import Case, Counts, Fault
from torture.child import in_child

_SILENCE = 0.5  # seconds, in place of 30
_MOST_SECONDS = 20.0
_MOST_MEMORY = 192 << 20  # bytes
_ENDLESS = 256 << 20  # bytes that a server sends which would go on

Answered = Iterable[Word]


@dataclass(frozen=True)
class Outcome:
    """What reading a data set over http has come to.

    Attributes:
        samples: a checksum of each batch's pixels and labels; None where it failed.
        error: the error's class and text, if there was one.
        seconds: that it took.
        memory: bytes that the process has grown by.
    """

    samples: tuple[int, ...] | None
    error: tuple[str, str] | None
    seconds: float
    memory: int


def read(url: str) -> Outcome:
    """Read a split's epoch by the webdataset loader, with little patience."""
    from loaders import LoaderConfig, make_loader
    from loaders.errors import DataError

    patch = pytest.MonkeyPatch()
    patch.setattr("loaders._http._SILENCE", _SILENCE)
    patch.setattr("loaders._http._MOMENT", 0.05)
    patch.setattr("loaders._stream._PAUSE", 0.01)
    patch.setattr("loaders.manifest.MOST_MANIFEST", 1 << 24)
    patch.setattr("loaders.index_table.MOST_PARQUET", 1 << 24)
    for name in ("http_proxy", "all_proxy"):
        patch.delenv(name, raising=False)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.monotonic()
    samples, error = None, None
    try:
        config = LoaderConfig(batch_size=8, workers=2)
        with make_loader("webdataset", url, "train", config) as loader:
            samples = tuple(
                crc32(batch.labels.numpy(), crc32(batch.images.numpy()))
                for batch in loader
            )
    except DataError as failure:
        error = (type(failure).__name__, str(failure))
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return Outcome(samples, error, time.monotonic() - started, grown * 1024)


class Servers:
    """Each case spoils the answers to some files of a data set in one or two ways."""

    name, share, least, in_tests = "servers", 4.0, 300, 4

    def prepare(self, folder: Path) -> None:
        """Shard a few photographs, and read them as they are."""
        from fastretina.shard import command as shard

        shards = folder / "shards"
        source = course_folder(folder / "course", train=23, test=5)
        words = [source, shards, "--samples-per-shard", 8, "--workers", 1]
        with contextlib.redirect_stdout(io.StringIO()):
            if shard.main([*map(str, words), "--quiet"]):
                raise RuntimeError("can't shard")
        self._files = {path.name: path.read_bytes() for path in shards.glob("*.*")}
        with RawServer(lambda path: whole(self._files[path[1:]])) as server:
            outcome = in_child(read, server.url)
        assert outcome.samples is not None, outcome.error
        self._right = outcome.samples

    def close(self) -> None:
        pass

    def run(self, case: Case) -> Counts:
        rng = case.rng()
        read_of_it = [name for name in self._files if _is_read(name)]
        spoilt = dict[str, tuple[str, Spoil, int]]()
        for name in rng.choice(sorted(read_of_it), rng.integers(1, 3), replace=False):
            kind = str(rng.choice(sorted(SPOILS)))
            spoilt[str(name)] = (kind, SPOILS[kind], int(rng.integers(1 << 62)))

        def answer(path: str) -> Answered:
            name = path.rpartition("/")[2].partition("?")[0]
            body = self._files.get(name)
            if body is None:
                return [head("404 Not Found")]
            if name not in spoilt or path.startswith("/moved/"):
                return whole(body)
            _, spoil, seed = spoilt[name]
            others = [self._files[other] for other in sorted(read_of_it)]
            return spoil(Draws(np.random.default_rng(seed), name, others), body)

        with RawServer(answer) as server:
            outcome = in_child(read, server.url, seconds=60)
        kinds = [kind for kind, _, _ in spoilt.values()]
        about = ", ".join(f"{name} {kind}" for name, (kind, _, _) in spoilt.items())
        self._judge(outcome, server.url, about)
        counts = dict.fromkeys(kinds, 1)
        return {**counts, ("refused" if outcome.error else "read rightly"): 1}

    def _judge(self, outcome: Outcome, url: str, about: str) -> None:
        if outcome.seconds > _MOST_SECONDS:
            raise Fault(f"{about}: took {outcome.seconds:.0f} s")
        if outcome.memory > _MOST_MEMORY:
            raise Fault(f"{about}: took {outcome.memory >> 20} MiB")
        if outcome.error is None:
            if outcome.samples != self._right:
                raise Fault(f"{about}: other samples, in silence")
            return
        kind, text = outcome.error
        if not (text.isprintable() and url in text and len(text) < 600):
            raise Fault(f"{about}: {kind} is not one line that names the URL: {text!r}")


def _is_read(name: str) -> bool:
    return name in ("manifest.json", "train.parquet") or (
        name.startswith("train-") and name.endswith(".tar")
    )


@dataclass(frozen=True)
class Draws:
    """What a way of spoiling draws from.

    Attributes:
        rng: of the case; each request of a file gets the same draws.
        name: of the file.
        others: bytes of all files.
    """

    rng: np.random.Generator
    name: str
    others: Sequence[bytes]

    def below(self, most: int) -> int:
        return int(self.rng.integers(most))

    def one_of(self, *values: bytes) -> bytes:
        return values[self.below(len(values))]


Spoil = Callable[[Draws, bytes], Answered]


def _endless(piece: bytes) -> Iterable[bytes]:
    many = piece * (65536 // len(piece) + 1)
    return islice(repeat(many), _ENDLESS // len(many))


def _status(draws: Draws, body: bytes) -> Answered:
    code = draws.below(1000)
    return [head(f"{code} Anything", content_length=len(body)), body]


def _strange_line(draws: Draws, body: bytes) -> Answered:
    line = draws.rng.bytes(draws.below(2000))
    lines = (b"", line, b"HTTP/1.1", b"HTTP/9.9 200 OK", b"ICY 200 OK", b"HTTP/1.1 -1")
    return [draws.one_of(*lines), b"\r\n\r\n", body]


def _strange_head(draws: Draws, body: bytes) -> Answered:
    """A header of random bytes, or one bit of the head that is another."""
    good = bytearray(head(content_length=len(body), content_type="a/b"))
    if draws.below(2):
        good[draws.below(len(good))] ^= 1 << draws.below(8)
        return [bytes(good), body]
    place = good.index(b"\r\n") + 2
    return [bytes(good[:place]), draws.rng.bytes(draws.below(99)), good[place:], body]


def _endless_head(draws: Draws, body: bytes) -> Answered:
    piece = draws.one_of(b"x", b"A: b\r\n", b"HTTP/1.1 100 Continue\r\n\r\n", b"\n ")
    return chain([b"HTTP/1.1 200 OK\r\nA: "[: draws.below(22)]], _endless(piece))


def _length(draws: Draws, body: bytes) -> Answered:
    near = len(body) + draws.below(9) - 4
    said = draws.one_of(
        b"%d" % near, b"0", b"-1", b"9" * 30, b"a", b"", b"6_0", b"\x1b"
    )
    return [b"HTTP/1.1 200 OK\r\nContent-Length: " + said + b"\r\n\r\n", body]


def _two_lengths(draws: Draws, body: bytes) -> Answered:
    lines = [len(body), draws.below(2 * len(body))]
    draws.rng.shuffle(lines)
    said = b"".join(b"Content-Length: %d\r\n" % number for number in lines)
    return [b"HTTP/1.1 200 OK\r\n" + said + b"\r\n", body]


def _encoding(draws: Draws, body: bytes) -> Answered:
    name = draws.one_of(b"gzip", b"deflate", b"br", b"x", b"identity", b"").decode()
    sent = gzip.compress(body) if draws.below(2) else body
    return whole(sent, content_encoding=name)


def _chunks(draws: Draws, body: bytes) -> Answered:
    return chunked(body, 1 + draws.below(5000))


def _bad_chunks(draws: Draws, body: bytes) -> Answered:
    words = list(chunked(body, 1 + draws.below(5000)))
    sizes = (b"-1\r\n", b"-5\r\n", b"f" * 40 + b"\r\n", b"x\r\n", b"\r\n", b"0\r\n")
    words.insert(1 + draws.below(len(words)), draws.one_of(*sizes))
    del words[1 + draws.below(len(words)) :]
    return words


def _endless_chunks(draws: Draws, body: bytes) -> Answered:
    begin = draws.one_of(
        b"%x\r\n%b\r\n" % (len(body), body), b"1;", b"0\r\n", b"f" * 99
    )
    piece = draws.one_of(b"1\r\nx\r\n", b"x", b"A: b\r\n", b"1;%99s\r\nx\r\n" % b"")
    return chain([head(transfer_encoding="chunked"), begin], _endless(piece))


def _flips(draws: Draws, body: bytes) -> Answered:
    other = bytearray(body)
    for _ in range(1 + draws.below(4)):
        other[draws.below(len(other))] ^= 1 << draws.below(8)
    return whole(bytes(other))


def _lost_bytes(draws: Draws, body: bytes) -> Answered:
    start = draws.below(len(body))
    return whole(body[:start] + body[start + 1 + draws.below(600) :])


def _cut(draws: Draws, body: bytes) -> Answered:
    said = {"content_length": len(body)} if draws.below(2) else {}
    return [head(**said), body[: draws.below(len(body))]]


def _behind(draws: Draws, body: bytes) -> Answered:
    said = {"content_length": len(body)} if draws.below(2) else {}
    return chain([head(**said), body], _endless(b"x"))


def _other_file(draws: Draws, body: bytes) -> Answered:
    page = b"<!DOCTYPE html><title>404</title>"
    return whole(draws.one_of(*draws.others, b"", page, b"{}", b"[" * 99_999))


def _endless_body(draws: Draws, body: bytes) -> Answered:
    piece = draws.one_of(b"\0", b"[", b" ", b"PAR1", body[:600])
    return chain([head()], _endless(piece))


def _redirect(draws: Draws, body: bytes) -> Answered:
    places = (
        b"file:///etc/passwd",
        b"ftp://127.0.0.1/x",
        b"//example.org/x",
        b"http://127.0.0.1:1/x",
        b"http://127.0.0.1@example.org/",
        b"data:,x",
        b"javascript:1",
        b"http://[::1",
        b"http:///",
        b"",
        b"?again",
        b"\x1b[2J\xff",
        b"/moved/" + draws.name.encode(),
    )
    code = draws.one_of(b"301", b"302", b"303", b"307", b"308", b"300", b"305")
    said = b"HTTP/1.1 %b Go\r\nLocation: %b\r\n\r\n" % (code, draws.one_of(*places))
    return chain([said], _endless(b"x") if draws.below(2) else [])


def _silent(draws: Draws, body: bytes) -> Answered:
    said = head(content_length=len(body)) + body
    return [said[: draws.below(len(said))], 600.0]


def _slow(draws: Draws, body: bytes) -> Answered:
    """Byte by byte from some place on; most of it comes at once, at best."""
    said = head(content_length=len(body)) + body
    start = len(said) - draws.below(len(said) if draws.below(2) else 60)
    rest = (said[place : place + 1] for place in range(start, len(said)))
    return chain([said[:start]], chain.from_iterable((byte, 0.005) for byte in rest))


def _pauses(draws: Draws, body: bytes) -> Answered:
    said = head(content_length=len(body)) + body
    place = draws.below(len(said))
    return [said[:place], 0.1, said[place:]]


def _hang_up(draws: Draws, body: bytes) -> Answered:
    said = head(content_length=len(body)) + body
    return [said[: draws.below(len(said))]]


def _binary(draws: Draws, body: bytes) -> Answered:
    """A little of TLS, as of a server that speaks https on this port."""
    return [struct.pack(">BHH", 21, 0x0303, 2) + draws.rng.bytes(draws.below(4000))]


SPOILS: dict[str, Spoil] = {
    "any status": _status,
    "a strange status line": _strange_line,
    "a strange head": _strange_head,
    "an endless head": _endless_head,
    "a lying length": _length,
    "two lengths": _two_lengths,
    "an encoding": _encoding,
    "chunks": _chunks,
    "bad chunks": _bad_chunks,
    "endless chunks": _endless_chunks,
    "flipped bits": _flips,
    "lost bytes": _lost_bytes,
    "a body cut short": _cut,
    "more behind the body": _behind,
    "another body": _other_file,
    "an endless body": _endless_body,
    "a redirect": _redirect,
    "silence": _silent,
    "a slow body": _slow,
    "a pause": _pauses,
    "a connection that ends": _hang_up,
    "another protocol": _binary,
}
