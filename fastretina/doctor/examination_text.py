"""The doctor's words for people: the machine, the checks, and what limits."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch

from fastretina.doctor import bottleneck, notes
from fastretina.doctor.advice import Advice
from fastretina.doctor.installation import Check
from fastretina.doctor.measurements import Measurements
from fastretina.formatting import wrap
from fastretina.measure.forecast import Forecast
from fastretina.measure.machine import host_facts
from fastretina.nn.device import Compute


def describe_machine(compute: Compute) -> str:
    """The machine in a line, without which the numbers mean little."""
    host = host_facts()
    device = "no GPU used"
    if compute.device.type == "cuda":
        device = torch.cuda.get_device_name(compute.device)
    elif compute.device.type == "mps":
        device = "Apple GPU"
    return (
        f"{host.processor}, {host.cores_granted} cores, "
        f"{host.memory_gib} GiB, {device}, {compute.precision}"
    )


def describe_work(measurements: Measurements) -> str:
    """The network, images and batch that were measured, in a line for the chart."""
    training, wanted = measurements.training, measurements.batch_size
    height, width = training.shape
    batch = f"batch {wanted}"
    if training.batch != wanted:
        batch += f" (steps of {training.batch})"
    images = f"{width} x {height} pixels"
    if measurements.data is not None:
        images = f"{measurements.data.train:,} training images, {images}"
    return f"{measurements.arch}, {images}, {batch}"


def format_checks(checks: Sequence[Check], width: int) -> str:
    """A line per check, wrapped to a number of columns."""
    name = max(len(check.name) for check in checks)
    return "\n".join(
        wrap(
            f"{check.state:<5} {check.name:<{name}}  {check.line}",
            width,
            rest=" " * (name + 8),
        )
        for check in checks
    )


def format_measurements(
    measurements: Measurements,
    advice: Advice | None,
    forecast: Forecast | None,
    width: int,
) -> str:
    """All sentences as a list, wrapped, in the order in which they are read."""
    sentences = [
        *bottleneck.unsteady(measurements),
        *bottleneck.limits(measurements),
        *(advice.sentences if advice else ()),
        *notes.storage_notes(measurements),
        *(forecast.sentences() if forecast else ()),
        *notes.memory_notes(measurements),
        *notes.absent_loader_notes(measurements),
    ]
    return "\n".join(wrap(sentence, width, "- ", "  ") for sentence in sentences)


def block() -> str:
    """The character that bars are made of, as far as the terminal can show it."""
    try:
        "\u2588".encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return "#"
    return "\u2588"
