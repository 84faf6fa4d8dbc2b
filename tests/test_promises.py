"""The page of promises: whatever it says keeps a promise is there, and can fail."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from torture.campaigns import CAMPAIGNS

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "promises.md").read_text()
ROWS = re.findall(r"^\| (?!promise|---)(.+?) \| (.+) \|$", PAGE, re.MULTILINE)


@pytest.mark.parametrize(("promise", "keepers"), ROWS, ids=[row[0] for row in ROWS])
def test_what_keeps_a_promise_is_there(promise: str, keepers: str) -> None:
    campaigns = re.findall(r"campaign `(\w+)`", keepers)
    files = re.findall(r"`(tests/[\w/.]+)(?:::(\w+))?`", keepers)
    assert len(campaigns) + len(files) == keepers.count("`") // 2 > 0
    assert set(campaigns) <= set(CAMPAIGNS)
    for path, test in files:
        named = {
            node.name
            for node in ast.walk(ast.parse((ROOT / path).read_text()))
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
        }
        assert test in named if test else named


def test_every_campaign_keeps_a_promise() -> None:
    assert len(ROWS) > 20
    assert set(CAMPAIGNS) <= set(re.findall(r"campaign `(\w+)`", PAGE))
