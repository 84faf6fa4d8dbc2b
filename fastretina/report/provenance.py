"""Where a run's photographs come from, and whose they are, in words.

Nothing is claimed that the data set does not tell: photographs that were drawn are
called so, and patients who are unknown are not counted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastretina.run_config import RunData
from loaders.shards import Origin

if TYPE_CHECKING:
    from fastretina.report.finished_run import FinishedRun


def count(number: int | None, thing: str) -> str:
    """A number of things, e.g. ``1 patient`` or ``1,200 photographs``."""
    if number is None:
        return f"an unknown number of {thing}s"
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def count_photographs(number: int | None, origin: Origin) -> str:
    """A number of photographs, which are drawn if all of their data set are."""
    return count(number, "drawn photograph" if _all_drawn(origin) else "photograph")


def describe_test(finished: FinishedRun) -> str:
    """The test photographs and patients, e.g. ``20 photographs of 9 patients``."""
    test, origin = finished.test, finished.test_origin
    photographs = count_photographs(len(test), origin)
    unknown = finished.patients_unknown
    if unknown == len(test):
        return f"{photographs} of unknown patients"
    thing = "made-up patient" if _all_drawn(origin) else "patient"
    patients = count(finished.num_patients, thing)
    some = f" ({unknown:,} of them of unknown patients)" if unknown else ""
    return f"{photographs} of {patients}{some}"


def graders(finished: FinishedRun) -> str:
    """Whom the network should agree with, in words that follow "it grades"."""
    drawn = _all_drawn(finished.test_origin)
    return "as they were drawn" if drawn else "as people did"


def warn_of_drawn(data: RunData) -> str | None:
    """A sentence where photographs are drawn; None where none is known to be."""
    origins = [data.origin, *filter(None, [data.test_origin])]
    drawn = sum(origin.drawn or 0 for origin in origins)
    if not drawn:
        return None
    who = "all" if all(map(_all_drawn, origins)) else "some"
    return (
        f"drawn photographs: {who} of these were made up by fastretina demo, with "
        "their grades and patients, to try everything with; no score here says "
        "anything about real eyes"
    )


def describe_source(origin: Origin, *, patients_known: bool) -> str:
    """Where a data set comes from, as sentences for the card."""
    if _all_drawn(origin):
        made = "drawn by fastretina demo to their grades; no person's eye is among them"
    else:
        made = "graded by people, as the data set has it"
        if origin.drawn:
            made += f", but for {origin.drawn:,} that fastretina demo has drawn"
    sentences = [made]
    if origin.source:
        sentences.append(f"Source: {origin.source}")
    elif not _all_drawn(origin):
        sentences.append("Where they come from is not said")
    if origin.layout:
        sentences.append(f"Layout of the labels: {origin.layout}")
    if origin.patients:
        known = "were" if patients_known else "could not all be"
        sentences.append(f"Patients {known} identified from {origin.patients}")
    return "".join(f"{sentence}. " for sentence in sentences).rstrip()


def _all_drawn(origin: Origin) -> bool:
    return bool(origin.drawn) and origin.drawn == origin.listed
