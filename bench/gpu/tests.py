"""The tests that need a GPU, each by name: passed, failed, skipped, or not run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from functools import partial
from pathlib import Path

from bench.gpu.pytest_progress import PROGRESS, MarkedTestsProgress, note, read_progress
from bench.gpu.scope import Measurement, OutOfTime, Scope
from bench.gpu.section_rows import MarkedTestsRow

TEST_PROGRESS = "gpu_tests.jsonl"
ROOT = Path(__file__).parents[2]
_LEAST_SECONDS = 30.0  # to import everything, and for the first tests
_NO_TESTS = 5  # pytest's exit code where none is left
_PATIENCE = 3.0  # seconds more than pytest has, for what is left of it


def plan_tests(scope: Scope) -> list[Measurement]:
    """The tests marked ``gpu``; as many as there is time for."""
    return [
        Measurement(
            "the tests marked gpu",
            _LEAST_SECONDS,
            partial(_rows, scope),
            scope.lacks_cuda,
            least_limit=max(scope.seconds_left(), 0) + _PATIENCE,
        )
    ]


def _rows(scope: Scope) -> list[MarkedTestsRow]:
    row = run_tests(ROOT, scope.seconds_left(), scope.out / TEST_PROGRESS)
    if row.not_run:
        raise OutOfTime(
            [row], f"{len(row.not_run)} tests were not run, see their table"
        )
    return [row]


def run_tests(root: Path, limit: float, progress: Path) -> MarkedTestsRow:
    """Run a checkout's tests that are marked ``gpu``, and are not in ``progress`` yet.

    Args:
        root: the checkout.
        limit: seconds after which pytest is ended; after a crash it goes on anew.
        progress: file of what has become of the tests; written further.

    Raises:
        RuntimeError: pytest could not run them.
    """
    end = time.monotonic() + limit
    while True:
        code, output = _run_pytest(root, end - time.monotonic(), progress)
        lines = output.rstrip().splitlines()
        found = read_progress(progress)
        if code in (None, 0, 1) or (code == _NO_TESTS and found.planned):
            break
        if not found.current:
            raise RuntimeError(f"pytest ends with {code}: {' '.join(lines[-3:])}")
        note(progress, "outcome", found.current, "crashed")
        note(progress, "ended", found.current)
        found = read_progress(progress)
        if not found.left or end - time.monotonic() < _LEAST_SECONDS:
            break
    return _row(found, limit, lines)


def _row(found: MarkedTestsProgress, limit: float, lines: list[str]) -> MarkedTestsRow:
    counts = Counter(found.outcomes.values())
    bad = [test for test, how in found.outcomes.items() if how in ("failed", "crashed")]
    said = [line for line in lines if line.startswith(("FAILED ", "ERROR "))]
    return MarkedTestsRow(
        passed=counts["passed"],
        failed=len(bad),
        skipped=counts["skipped"],
        not_run=found.left,
        limit_seconds=limit,
        failures=[_failure(test, found, said) for test in bad],
        last_lines=lines[-40:] if bad or found.left else lines[-1:],
    )


def _failure(test: str, found: MarkedTestsProgress, said: list[str]) -> str:
    """pytest's line on a test; what is known of it where pytest came to no end."""
    if found.outcomes[test] == "crashed":
        return f"FAILED {test} - the process ended in it"
    own = (line for line in said if line.split(" - ")[0].endswith(f" {test}"))
    return next(own, f"FAILED {test}")


def _run_pytest(root: Path, limit: float, progress: Path) -> tuple[int | None, str]:
    """pytest's exit code, ``None`` where time ran out, and its output until then."""
    words = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests"]
    words += ["-p", "no:cacheprovider", "--color=no", "-p", "bench.gpu.pytest_progress"]
    path = os.pathsep.join(
        part for part in (str(ROOT), os.environ.get("PYTHONPATH")) if part
    )
    own = {"PYTHONUNBUFFERED": "1", "PYTHONPATH": path, PROGRESS: str(progress)}
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            words,
            cwd=root,
            env={**os.environ, **own},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # to be ended with all that it has started
        )
        code: int | None = None
        try:
            with suppress(subprocess.TimeoutExpired):
                code = process.wait(limit)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        output.seek(0)
        return code, output.read().decode(errors="replace")
