"""The published check of a GPU: what the pages say of it is what it has measured."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from bench.gpu.peaks import share_of_peak
from fastretina.measure.steps import Case

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "bench" / "results"
(PUBLISHED,) = RESULTS.glob("gpu-check_*.json")
RECORD = json.loads(PUBLISHED.read_text())
TEXT = PUBLISHED.with_suffix(".md").read_text()
PAGES = {
    "the table": TEXT,
    "README.md": (ROOT / "README.md").read_text(),
    "docs/speed.md": (ROOT / "docs" / "speed.md").read_text(),
}


def rows(section: str) -> list[dict[str, object]]:
    found: list[dict[str, object]] = RECORD["sections"][section]["rows"]
    return found


def speed_of(loader: str) -> str:
    """A loader's speed to *batch*, as the pages have it."""
    (speed,) = (
        row["images_per_second"]
        for row in rows("throughput")
        if (row["line"], row["loader"]) == ("batch", loader)
    )
    return f"{speed:,.0f}"


def test_table_has_every_speed_of_the_check():
    for row in rows("throughput"):
        start = f"| {row['line']} | {row['loader']} | {row['images_per_second']:,.0f} |"
        assert start in TEXT, start
    for row in rows("steps"):
        assert f"| {row['images_per_second']:,.1f} |" in TEXT
    for bound in RECORD["bounds"]:
        assert f"| {bound['measured']} | {bound['state']} |" in TEXT


def test_readme_has_the_checks_speeds():
    loads = " / ".join(speed_of(n) for n in ("dali, load 1", "dali", "dali, load 0"))
    cells = [loads, *map(speed_of, ("dali-reader", "turbo", "pil", "webdataset"))]
    assert f"| {' | '.join(cells)} | 2,259 / 3,346 | 2,043 |" in PAGES["README.md"]


def test_pixels_on_the_page_are_the_checks():
    page = PAGES["docs/speed.md"]
    for row in rows("parity"):
        if not row["fancy"]:
            continue
        load = row["hw_decoder_load"]
        loader = {1.0: "dali, load 1", 0.65: "dali", 0.0: "dali, load 0"}[load]
        exact = f"{row['images_exact']:.0%}".replace("%", " %") if load else "none"
        wanted = rf"\| {load:g}(?:\.0)?: .* \| {speed_of(loader)} \| {exact} \| "
        wanted += rf"{row['mean']:.4f} \| {row['max']} \|"
        assert re.search(wanted, page), wanted


@pytest.mark.parametrize(
    ("arch", "phase", "batch", "speed"),
    [
        ("ResNet18", "full", 64, "2,259"),
        ("ResNet18", "full", 128, "2,369"),
        ("ResNet18", "full", 128, "3,346"),
        ("ResNet18", "head", 128, "9,500"),
        ("ResNet50", "full", 64, "1,072"),
        ("ResNet50", "head", 32, "2,284"),
    ],
)
def test_shares_of_the_peak_on_the_page_are_what_is_computed(arch, phase, batch, speed):
    case = Case(arch.lower(), batch, 512, "bf16", "channels-last", phase)
    gpu = RECORD["environment"]["GPU"]
    share = share_of_peak(case, float(speed.replace(",", "")), gpu, True)
    assert share is not None
    row = next(
        line
        for line in PAGES["docs/speed.md"].splitlines()
        if line.startswith(f"| {arch}, {phase} | {batch} |") and speed in line
    )
    assert f"| {speed} | {100 * share:.1f} % |" in row


@pytest.mark.parametrize("page", PAGES)
def test_page_says_where_it_was_measured_and_that_it_was_once(page):
    text = " ".join(PAGES[page].split()).replace("*", "")
    assert "H100" in text
    assert "c1b7b88" in text
    assert re.search(
        r"\bnot (been )?measured again|nothing of it .*measured again", text
    )
    assert "measured on a GPU yet" not in text


def test_nothing_of_the_machine_is_named():
    for text in (TEXT, PUBLISHED.read_text()):
        assert not re.search(r"/(?:tmp|work|root|home|mnt)/", text)
