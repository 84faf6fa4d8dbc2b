"""Fuzz one target in this process: guided by coverage where atheris is installed.

    python -m torture.fuzz_process TARGET SEED RUNS SECONDS FOLDER

Where something is wrong the process ends with a traceback, or dies, and the input is in
a file of FOLDER/faults. Else the last line says how many inputs were tried.
"""

from __future__ import annotations

import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import numpy as np

if TYPE_CHECKING:
    from torture.fuzz_targets import Target

GUIDED = find_spec("atheris") is not None
_SLOW = 20  # seconds for one input: a hang
_LARGEST = 16 << 10  # bytes of an input
_MEMORY = 4096  # MB, of which the packages take a quarter


class Hang(BaseException):
    """An input takes too long; no refusal of any target."""


def caller(target: Target, folder: Path) -> Callable[[bytes], None]:
    """Calls the target with an empty folder inside this one, and heeds its refusals."""

    def call(content: bytes) -> None:
        own = folder / "input"
        own.mkdir()
        try:
            target.parse(content, own)
        except target.refusals as refusal:
            if not str(refusal).strip():
                kind = type(refusal).__name__
                raise AssertionError(f"a {kind} that says nothing") from refusal
        finally:
            shutil.rmtree(own)

    return call


def mutants(target: Target, seed: int) -> Iterator[bytes]:
    """The good files first, then mutations of them without end."""
    good = target.good()
    yield from good
    rng = np.random.default_rng(seed)
    while True:
        content = good[rng.integers(len(good))]
        for _ in range(rng.geometric(0.4)):
            content = _mutated(rng, content, good, target.words)[:_LARGEST]
        yield content


def _mutated(
    rng: np.random.Generator,
    content: bytes,
    good: Sequence[bytes],
    words: Sequence[bytes],
) -> bytes:
    first, last = sorted(rng.integers(len(content) + 1, size=2).tolist())
    kind = rng.integers(7)
    if kind == 0 and first < len(content):
        bit = content[first] ^ 1 << int(rng.integers(8))
        return content[:first] + bytes([bit]) + content[first + 1 :]
    if kind == 1:
        return content[:first] + content[last:]
    if kind == 2:
        return content[:last]
    if kind == 3:  # a piece again, up to 1,000 times
        again = content[first:last] * int(10 ** rng.uniform(0, 3))
        return content[:last] + again + content[last:]
    if kind == 4:
        other = good[rng.integers(len(good))]
        return content[:first] + other[int(rng.integers(len(other) + 1)) :]
    if kind == 5 and words:
        return content[:first] + words[rng.integers(len(words))] + content[first:]
    return content[:first] + rng.bytes(int(rng.integers(1, 9))) + content[first:]


def fuzz_unguided(
    target: Target, seed: int, runs: int, seconds: float, folder: Path
) -> int:
    """Try mutants, the good files at least; returns how many were tried."""
    call, until = caller(target, folder), time.monotonic() + seconds
    least = len(target.good())
    tried = folder / "faults" / "input"
    tried.parent.mkdir()
    with _hanging():
        for number, content in enumerate(mutants(target, seed)):
            if number >= least and (number >= runs or time.monotonic() >= until):
                tried.unlink()
                return number
            tried.write_bytes(content)  # where this process dies, it stays
            signal.setitimer(signal.ITIMER_REAL, _SLOW)
            call(content)
    raise AssertionError("mutants do not end")


@contextmanager
def _hanging() -> Iterator[None]:
    """Raise ``Hang`` when the timer that is set ends."""

    def hang(*_: object) -> NoReturn:
        raise Hang(f"no answer within {_SLOW} s")

    before = signal.signal(signal.SIGALRM, hang)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def fuzz_guided(
    target: Target, seed: int, runs: int, seconds: float, folder: Path
) -> NoReturn:
    """Hand over to libFuzzer, which ends the process."""
    import atheris

    for name in ("corpus", "faults"):
        (folder / name).mkdir()
    for number, content in enumerate(target.good()):
        (folder / "corpus" / str(number)).write_bytes(content)
    flags = {
        "seed": seed,
        "runs": runs,
        "max_total_time": max(int(seconds), 1),
        "max_len": _LARGEST,
        "timeout": _SLOW,
        "rss_limit_mb": _MEMORY,
        "artifact_prefix": f"{folder / 'faults'}/",
    }
    if target.words:
        words = ["".join(f"\\x{byte:02x}" for byte in word) for word in target.words]
        (folder / "words").write_text("".join(f'"{word}"\n' for word in words))
        flags["dict"] = str(folder / "words")
    words = [f"-{name}={value}" for name, value in flags.items()]
    atheris.Setup([sys.argv[0], *words, str(folder / "corpus")], caller(target, folder))
    atheris.Fuzz()
    raise AssertionError("libFuzzer has come back")


def main() -> None:
    name, seed, runs, seconds, place = sys.argv[1:]
    folder = Path(place)
    if GUIDED:
        import atheris

        counted = atheris.instrument_imports(include=["loaders", "fastretina"])
    with counted if GUIDED else nullcontext():
        from torture.fuzz_targets import TARGETS

        target = TARGETS[name]
        for content in target.good():  # which import all that it needs
            caller(target, folder)(content)
    fuzz = fuzz_guided if GUIDED else fuzz_unguided
    print("tried", fuzz(target, int(seed), int(runs), float(seconds), folder))


if __name__ == "__main__":
    main()
