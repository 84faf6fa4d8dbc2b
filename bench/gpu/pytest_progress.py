"""A plugin of pytest: writes each test's outcome as it comes, and skips those it has.

So a run that is ended in the middle has told what passed, what failed and what is left,
and another can take it on. The file, named in the environment, has a line of JSON for
each event: ``planned``, ``began``, ``ended``.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Literal, NamedTuple

import pytest

PROGRESS = "FASTRETINA_TEST_PROGRESS"  # the file

Outcome = Literal["passed", "failed", "skipped", "crashed"]
_RANK: dict[Outcome, int] = {"passed": 0, "skipped": 1, "failed": 2, "crashed": 3}


class MarkedTestsProgress(NamedTuple):
    """What a file has of the tests.

    Attributes:
        planned: all tests, in order.
        outcomes: of those that have ended.
        current: the one that has begun and not ended; empty where none has.
    """

    planned: list[str]
    outcomes: dict[str, Outcome]
    current: str

    @property
    def left(self) -> list[str]:
        """The tests that have no outcome."""
        return [test for test in self.planned if test not in self.outcomes]


def read_progress(path: Path) -> MarkedTestsProgress:
    """What has been written so far; a line that was cut short counts for nothing."""
    planned: dict[str, None] = {}
    outcomes: dict[str, Outcome] = {}
    current = ""
    text = path.read_text() if path.exists() else ""
    for line in text.splitlines():
        try:
            event, test, outcome = json.loads(line)
        except ValueError:
            continue
        if event == "planned":
            planned[test] = None
        elif event == "began":
            current = test
        elif event == "outcome":  # of its set-up, its call or its end: the worst counts
            worst = outcomes.get(test, "passed")
            outcomes[test] = max(worst, outcome, key=lambda one: _RANK[one])
        else:
            current = ""
            outcomes.setdefault(test, "passed")
    if current and current in outcomes:
        del outcomes[current]  # ended in the middle
    return MarkedTestsProgress(list(planned), outcomes, current)


def note(path: Path, event: str, test: str, outcome: str = "") -> None:
    """Write a line, whole and at once."""
    with path.open("a") as file:
        file.write(json.dumps([event, test, outcome]) + "\n")


def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Leave out the tests that have an outcome."""
    known = read_progress(_path()).outcomes
    done = [item for item in items if item.nodeid in known]
    if done:
        config.hook.pytest_deselected(items=done)
        items[:] = [item for item in items if item.nodeid not in known]


def pytest_collection_finish(session: pytest.Session) -> None:
    """Tell which tests there are."""
    for item in session.items:
        note(_path(), "planned", item.nodeid)


def pytest_runtest_logstart(nodeid: str) -> None:
    """Tell which test begins."""
    note(_path(), "began", nodeid)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Tell what became of a test's set-up, of itself or of its end."""
    note(_path(), "outcome", report.nodeid, report.outcome)


def pytest_runtest_logfinish(nodeid: str) -> None:
    """Tell that a test is over."""
    note(_path(), "ended", nodeid)


def _path() -> Path:
    return Path(os.environ[PROGRESS])
