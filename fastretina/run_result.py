"""What a run has ended with: the last line of ``fastretina.train``, as one record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from fastretina.ranges import Count, Fraction, Kappa, Ratio, Seconds, Speed
from fastretina.recipe import Phase
from fastretina.wall_clock import WallSeconds


@dataclass(frozen=True, kw_only=True, slots=True)
class RunResult:
    """What a run has ended with; ``metrics.json`` holds its evaluation beside it.

    What an older version did not record is None.

    Attributes:
        run: the run's folder, as it was named.
        loader: name of the loader.
        device: where it was trained, e.g. ``cpu``.
        precision: what the forward pass was computed in.
        weights: what training started from: ``imagenet``, ``none`` or a file.
        parameters: number of the network's parameters.
        epochs: number of epochs trained.
        steps: number of steps trained.
        changed_parameters: for each phase that was trained in, how many of the numbers
            that it trains ended it otherwise than they began it, as
            ``nn.phase_change.count_changed`` counts; None for a phase that an older
            version began.
        checkpoint: the file that is judged, ``best`` (on validation) or ``last``.
        checkpoint_epoch: the epoch whose weights are judged, from 1.
        test_accuracy: its accuracy on test, 0 to 1.
        test_qwk: its QWK on test; None of one grade alone, too.
        seconds: time that training took; evaluations are left out.
        images_per_second: training speed over the whole run, of all ranks together.
        wait_fraction: share of ``seconds`` that was waited for the loader, 0 to 1.
        device_idle_fraction: share of ``seconds`` that a GPU had nothing to train on,
            between steps and by its own clock; None where no GPU trained.
        skipped: training images that could not be decoded, over all epochs.
        decoded_again: batches that DALI could not decode, over all epochs.
        test_skipped: test images that could not be decoded.
        wall_seconds: where the time of the last process went, until its end was near.
        weights_sha256: SHA-256 of the weights that are judged, 64 hexadecimal digits.
    """

    run: str | None = None
    loader: str | None = None
    device: str | None = None
    precision: str | None = None
    weights: str
    parameters: Count | None = None
    epochs: Count | None = None
    steps: Count | None = None
    changed_parameters: Mapping[Phase, Count | None] | None = None
    checkpoint: Literal["best", "last"]
    checkpoint_epoch: Count
    test_accuracy: Fraction | None = None
    test_qwk: Kappa | None = None
    seconds: Seconds | None = None
    images_per_second: Speed | None = None
    wait_fraction: Ratio | None = None
    device_idle_fraction: Ratio | None = None
    skipped: Count = 0
    decoded_again: Count = 0
    test_skipped: Count = 0
    wall_seconds: WallSeconds | None = None
    weights_sha256: str
