"""Run campaigns in processes side by side, count, and say how to repeat a failure."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from multiprocessing import get_context
from pathlib import Path

from torture.campaign import Campaign, Case, Fault, Skip
from torture.campaigns import CAMPAIGNS, make_campaign

LONG = 30  # minutes from which on a campaign's least number of cases is run


@dataclass
class Tally:
    """What has come of a campaign.

    Attributes:
        cases: number of cases that have ended, those skipped left out.
        counts: what they have counted.
        faults: a line for each case that failed.
        skipped: reason to number of cases.
    """

    cases: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)

    def add(self, other: Tally) -> None:
        self.cases += other.cases
        self.counts += other.counts
        self.faults += other.faults
        self.skipped += other.skipped


def run_case(campaign: Campaign, case: Case, tally: Tally) -> None:
    """Run one case of a prepared campaign, and note what comes of it."""
    try:
        tally.counts.update(campaign.run(case))
    except Skip as reason:
        tally.skipped[str(reason)] += 1
        return
    except Exception as error:
        reason = str(error) if isinstance(error, Fault) else traceback.format_exc()
        tally.faults.append(
            f"{case.campaign}, case {case.number}: {reason}\n  again: make torture "
            f"SEED={case.seed} ONLY={case.campaign} CASE={case.number}"
        )
    tally.cases += 1


def run_campaign(
    name: str, seed: int, numbers: Iterable[int], until: float, least: int = 0
) -> Tally:
    """Run the cases of these numbers, one after the other.

    Args:
        name: the campaign's.
        seed: of the whole run.
        numbers: ascending.
        until: on the monotonic clock, when no further case begins ...
        least: ... but for those with a smaller number, and the first.
    """
    tally = Tally()
    root = Path(tempfile.mkdtemp(prefix=f"torture-{name}-"))
    try:
        campaign = make_campaign(name)
        with closing(campaign):
            (root / "shared").mkdir()
            campaign.prepare(root / "shared")
            for place, number in enumerate(numbers):
                if place and number >= least and time.monotonic() >= until:
                    break
                folder = root / f"case-{number}"
                folder.mkdir()
                run_case(campaign, Case(seed, name, number, folder), tally)
                shutil.rmtree(folder, ignore_errors=True)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    return tally


def torture(seed: int, minutes: float, names: Sequence[str], jobs: int) -> int:
    """Run campaigns one after the other, each for its share of the minutes.

    Returns:
        The exit code: 1 where anything has failed.
    """
    started = time.monotonic()
    print(f"torture: seed {seed}, {minutes:g} minutes, {jobs} at once", flush=True)
    campaigns = {name: make_campaign(name) for name in names}
    shares = sum(each.share for each in campaigns.values())
    result: dict[str, object] = {}
    faults = 0
    for name, campaign in campaigns.items():
        seconds = 60 * minutes * campaign.share / shares
        least = campaign.least if minutes >= LONG else 0
        tally = Tally()
        until = time.monotonic() + seconds  # one clock for all processes
        job = partial(run_campaign, name, seed, until=until, least=least)
        with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
            for part in pool.map(job, [count(first, jobs) for first in range(jobs)]):
                tally.add(part)
        faults += len(tally.faults)
        for text in tally.faults:
            print(f"fault: {text}", flush=True)
        print(f"{name}: {tally.cases:,} cases, {len(tally.faults)} faults", flush=True)
        about: dict[str, object] = {"cases": tally.cases, "faults": len(tally.faults)}
        about |= tally.counts
        if tally.skipped:
            about["skipped"] = dict(tally.skipped)
        result[name] = about
    seconds = time.monotonic() - started
    line = {"seed": seed, "minutes": round(seconds / 60, 1), "faults": faults}
    print(json.dumps({**line, "campaigns": result}))
    return 1 if faults else 0


def repeat(seed: int, name: str, number: int) -> int:
    """Run one case again, in this process, and say what comes of it."""
    tally = run_campaign(name, seed, [number], float("inf"))
    for text in tally.faults:
        print(f"fault: {text}")
    about = {"seed": seed, "case": number, "faults": len(tally.faults)}
    print(json.dumps({**about, **tally.counts, "skipped": dict(tally.skipped)}))
    return 1 if tally.faults else 0


def known(names: Sequence[str]) -> list[str]:
    """The campaigns of these names, all for none.

    Raises:
        SystemExit: there is none of such a name.
    """
    for name in names:
        if name not in CAMPAIGNS:
            sys.exit(f"error: no campaign {name!r}; there are: {', '.join(CAMPAIGNS)}")
    return list(names) or list(CAMPAIGNS)
