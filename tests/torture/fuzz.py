"""Campaign: our own parsers under a fuzzer, atheris' where it is installed.

Each case is a target of ``fuzz_targets`` in a process of its own; ``test_fuzz`` tries
each for a moment. A fault prints the input, which is then kept as a test of the parser.
"""

from __future__ import annotations

import base64
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from torture.campaign import Case, Counts, Fault
from torture.fuzz_targets import TARGETS

GUIDED = find_spec("atheris") is not None
RUNS, SECONDS = 100_000, 12  # of a case; whichever is over first
_TRIED = re.compile(r"Done (\d+) runs|^tried (\d+)", re.MULTILINE)
_OVERTIME = 120  # seconds to import, and for the last input
_SHOWN = 12_000  # characters of an input


class Fuzz:
    """Inputs that nobody would think of, for each of our own parsers."""

    name, share, least, in_tests = "fuzz", 8.0, len(TARGETS), 0

    def __init__(self, runs: int = RUNS, seconds: float = SECONDS) -> None:
        self._runs, self._seconds = runs, seconds

    def prepare(self, folder: Path) -> None:
        """Nothing is shared."""

    def run(self, case: Case) -> Counts:
        name = list(TARGETS)[case.number % len(TARGETS)]
        seed = int(case.rng().integers(1, 1 << 31))
        return fuzz(name, seed, self._runs, self._seconds, case.folder)

    def close(self) -> None:
        """Nothing is held."""


def fuzz(name: str, seed: int, runs: int, seconds: float, folder: Path) -> Counts:
    """Fuzz a target in a process of its own; returns how many inputs were tried.

    Raises:
        Fault: one was too much for it; the text shows it.
    """
    words = [sys.executable, "-m", "torture.fuzz_process"]
    words += [name, str(seed), str(runs), str(seconds), str(folder)]
    tests = Path(__file__).parents[1]
    paths = [str(tests), str(tests.parent), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    try:
        done = subprocess.run(
            words,
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds + _OVERTIME,
        )
    except subprocess.TimeoutExpired:
        raise Fault(f"{name}: hangs\n{_inputs(folder)}") from None
    said = done.stdout + done.stderr
    tried = _TRIED.search(said)
    if done.returncode or not tried:
        raise Fault(f"{name}: {_complaint(said)}\n{_inputs(folder)}")
    number = int(tried[1] or tried[2])
    return {"inputs": number, "guided by coverage": number * GUIDED}


def _complaint(said: str) -> str:
    """The exception and where it was raised, of all that a fuzzer prints."""
    text = said.partition("=== Uncaught Python exception: ===")[2] or said
    lines = text.partition("== ERROR: libFuzzer")[0].strip().splitlines()
    return "\n".join(lines if len(lines) < 12 else [*lines[:2], *lines[-9:]])


def _inputs(folder: Path) -> str:
    """What is in the files of faults, to be pasted into a test."""
    files = sorted((folder / "faults").glob("*"))
    shown = [base64.b64encode(file.read_bytes()).decode()[:_SHOWN] for file in files]
    return "\n".join(f"  input, in base64: {text}" for text in shown) or "  no input"
