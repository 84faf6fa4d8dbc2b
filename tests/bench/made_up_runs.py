"""Runs of the benchmarks that nobody has run, for tests of what is made of them."""

from __future__ import annotations

from typing import Any


def row(line: str, entrant: str, speed: float, **more: Any) -> dict[str, Any]:
    return {
        "line": line,
        "entrant": entrant,
        "kind": "ours",
        "pixels": "exact",
        "images_per_second": speed,
        "slowest": speed * 0.9,
        "fastest": speed * 1.1,
        "rounds": 5,
        "cpu_ms_per_image": 0.6,
        "ceiling_images_per_second": 3000.0,
        "share_of_ceiling": speed / 3000,
        "shares": [speed / 3000 * f for f in (0.97, 0.99, 1, 1.01, 1.02)],
    } | more


def made_up(*rows: dict[str, Any]) -> dict[str, Any]:
    card = {"processor": "Some CPU", "cores granted": 2, "GPU": "none"}
    return {
        "datetime": "2026-11-24T10:00:00+00:00",
        "machine_info": {"card": card},
        "commit_info": {"id": "abc", "skipped": {"batch: FFCV": "not installed"}},
        "benchmarks": [
            {"name": r["entrant"], "group": r["line"], "stats": {}, "extra_info": r}
            for r in rows
        ],
    }
