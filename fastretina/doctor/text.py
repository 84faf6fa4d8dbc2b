"""The doctor's findings for people: the machine, the checks, the verdict."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Sequence

import torch

from fastretina.doctor import advice as advising
from fastretina.doctor import bottleneck as verdict
from fastretina.doctor.advice import Advice
from fastretina.doctor.forecast import Forecast
from fastretina.doctor.installation import Check
from fastretina.doctor.measurements import Measurements
from fastretina.measure.machine import host_facts
from fastretina.nn.device import Compute

_NARROWEST = 40  # columns


def machine(compute: Compute) -> str:
    """The machine in a line, without which the numbers mean little."""
    facts = host_facts()
    device = "no GPU used"
    if compute.device.type == "cuda":
        device = torch.cuda.get_device_name(compute.device)
    elif compute.device.type == "mps":
        device = "Apple GPU"
    return (
        f"{facts['processor']}, {facts['cores granted']} cores, "
        f"{facts['memory, GiB']} GiB, {device}, {compute.precision}"
    )


def about(found: Measurements) -> str:
    """What was measured, for the chart."""
    height, width = found.training.shape
    batch = f"batch {found.batch_size}"
    if found.training.batch != found.batch_size:
        batch += f" (steps of {found.training.batch})"
    images = f"{width} x {height} pixels"
    if found.data is not None:
        images = f"{found.data.train:,} training images, {images}"
    return f"{found.arch}, {images}, {batch}"


def installation(checks: Sequence[Check], width: int) -> str:
    """A line per check, wrapped."""
    name = max(len(check.name) for check in checks)
    return "\n".join(
        textwrap.fill(
            f"{check.state:<5} {check.name:<{name}}  {check.line}",
            max(width, _NARROWEST),
            subsequent_indent=" " * (name + 8),
        )
        for check in checks
    )


def _wrapped(sentence: str, width: int) -> str:
    return textwrap.fill(
        sentence,
        max(width, _NARROWEST),
        initial_indent="- ",
        subsequent_indent="  ",
        break_on_hyphens=False,
    )


def block() -> str:
    """What bars are made of, as far as the terminal can show it."""
    try:
        "\u2588".encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return "#"
    return "\u2588"


def told(
    found: Measurements, advice: Advice | None, ahead: Forecast | None, width: int
) -> str:
    """The verdict's sentences, in the order in which they are read."""
    sentences = [
        *verdict.unsteady(found),
        *verdict.limits(found),
        *(advice.sentences if advice else ()),
        *advising.storing(found),
        *(ahead.sentences() if ahead else ()),
        *advising.memory(found),
        *advising.not_measured(found),
    ]
    return "\n".join(_wrapped(sentence, width) for sentence in sentences)
