"""docs/reliability.md has the figures that are saved, and those are of a whole run."""

from __future__ import annotations

import msgspec
import pytest

from bench.soak_results import read_results
from torture.campaigns import CAMPAIGNS
from torture.page import (
    PAGE,
    SOAK,
    TORTURE,
    Printed,
    torture_table,
    tried,
    with_figures,
)


def test_page_has_the_saved_figures() -> None:
    page = PAGE.read_text()
    assert with_figures(page) == page


def test_saved_soaks_grow_by_nothing() -> None:
    assert not [each.what.name for each in read_results(SOAK).soaks if each.excess]


def test_saved_campaigns_are_known() -> None:
    printed = msgspec.json.decode(TORTURE.read_bytes(), type=Printed)
    assert printed.campaigns.keys() <= CAMPAIGNS.keys()
    counted = [counts["faults"] for counts in printed.campaigns.values()]
    assert printed.faults == sum(counted)


@pytest.mark.parametrize("name", CAMPAIGNS)
def test_every_campaign_says_what_it_tries(name: str) -> None:
    assert 20 < len(tried(name)) < 200
    assert "\n" not in tried(name)


def test_a_row_shows_counts_and_why_cases_were_skipped() -> None:
    counts: dict[str, int | dict[str, int]] = {"cases": 1234, "faults": 0, "inputs": 5}
    table = torture_table(
        Printed(7, 1.5, 0, {"fuzz": {**counts, "skipped": {"no network": 2}}})
    )
    row = table.splitlines()[2]
    assert row.startswith("| `fuzz` | our own parsers under a fuzzer")
    assert row.endswith("| 1,234 | inputs 5, 2 skipped: no network | 0 |")
    assert table.endswith("Seed 7, 1.5 minutes, faults in all: 0.")
