"""All campaigns, by name; imported when they are run."""

from __future__ import annotations

from importlib import import_module
from typing import cast

from torture.campaign import Campaign

# Name, module and class. In this order they are run.
CAMPAIGNS: dict[str, str] = {
    "damaged_shards": "damaged_shards:DamagedShards",
    "power": "power:Power",
    "kills": "kills:Kills",
    "signals": "signals:Signals",
    "runs": "runs:Runs",
    "text_files": "text_files:TextFiles",
    "machine": "machine:MachineFaults",
    "servers": "servers:Servers",
    "images": "images:Images",
    "fuzz": "fuzz:Fuzz",
    "soak": "soak:Soaking",
}


def make_campaign(name: str) -> Campaign:
    """A new one, not prepared yet."""
    module, _, kind = CAMPAIGNS[name].partition(":")
    return cast(Campaign, getattr(import_module(f"torture.{module}"), kind)())
