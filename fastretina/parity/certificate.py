"""A loader's certificate: as a report, as JSON, and in one sentence."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import PIL

from fastretina.formatting import format_interval
from fastretina.parity.equivalence import MARGIN

if TYPE_CHECKING:
    from fastretina.parity.epoch import EpochComparison
    from fastretina.parity.equivalence import NetworkResult
    from loaders import Decoding


@dataclass(frozen=True, kw_only=True, slots=True)
class Certificate:
    """A loader's certificate, or why it has none.

    Attributes:
        loader: the loader's name.
        device: where its batches lie.
        splits: the comparison of each split.
        network: a network's predictions from both sides' images, with ``--run``.
    """

    loader: str
    device: str
    splits: list[EpochComparison]
    network: NetworkResult | None

    @property
    def decoding(self) -> Decoding:
        """Who makes the loader's pixels; in one split images may need no resize."""
        decodings = [comparison.decoding for comparison in self.splits]
        resizing = [decoding for decoding in decodings if decoding.resize]
        return (resizing or decodings)[0]

    @property
    def equal(self) -> bool:
        """Whether nothing was found that is beyond its bound."""
        return not self._doubt and not any(split.faults for split in self.splits)

    @property
    def exact(self) -> bool:
        """Whether not one value differs."""
        return self.equal and all(
            tally.exact_images == tally.images
            for split in self.splits
            for _, tally, _ in split.groups
        )

    @property
    def _doubt(self) -> str | None:
        """Why the network's predictions are not shown to be equivalent, if so."""
        verdict = None if self.network is None else self.network.verdict
        if verdict == "different":
            return "the network's predictions are different"
        if verdict == "undecided":
            return "the test split is too small to tell of the network's predictions"
        return None

    def sentence(self) -> str:
        """The verdict in one line, with the first fault if there is one."""
        if self.exact:
            how = "exactly: every sample once, its label, and every value of its pixels"
            return f"{self.loader} equals plain PIL {how}"
        if self.equal:
            how = "every sample once, its label, and its pixels within the bound"
            return f"{self.loader} equals plain PIL: {how}"
        faults = self._faults()
        if self._doubt:
            faults.append(self._doubt)
        more = f" (and {len(faults) - 1} more)" if faults[1:] else ""
        return f"{self.loader} does not equal plain PIL: {faults[0]}{more}"

    def _faults(self) -> list[str]:
        return [
            f"{comparison.split}: {name}, {fault}"
            for comparison in self.splits
            for name, fault in comparison.faults.items()
        ]

    def report(self) -> str:
        """Tables of samples, pixels and predictions, the faults, and the sentence."""
        lines = [self._head(), "", *_samples(self.splits), "", *_pixels(self.splits)]
        if self.network is not None:
            lines += ["", *_network(self.loader, self.network)]
        if faults := self._faults():
            lines += ["", *faults]
        return "\n".join([*lines, "", self.sentence()])

    def _head(self) -> str:
        """The line that says who is compared with whom."""
        who = self.decoding
        resized = f", resized by {who.resize}" if who.resize else ""
        return (
            f"{self.loader} ({who.by}: {who.jpeg}{resized}) on {self.device} "
            f"against plain PIL (Pillow {PIL.__version__})"
        )

    def summary(self) -> dict[str, object]:
        """The certificate's part of the JSON line."""
        return {
            "loader": self.loader,
            "device": self.device,
            "decoding": asdict(self.decoding),
            "equal": self.equal,
            "exact": self.exact,
            "splits": {split.split: split.summary() for split in self.splits},
            "network": self.network.summary() if self.network else None,
        }


_COUNTED = {  # the table's column to the fault
    "lost": "lost sample",
    "doubled": "doubled sample",
    "unknown": "unknown sample",
    "wrong labels": "wrong label",
}


def _samples(splits: list[EpochComparison]) -> list[str]:
    """A line per split: which samples came, and with which labels."""
    names = "".join(f"{name:>{_width(name)}}" for name in _COUNTED)
    lines = [f"{'samples':<21}{'listed':>9}{'delivered':>11}{names}"]
    for split in splits:
        counts = "".join(
            f"{split.count(fault):>{_width(name)},}" for name, fault in _COUNTED.items()
        )
        line = f"{split.split:<21}{split.samples:>9,}{split.delivered:>11,}{counts}"
        lines.append(line)
        if split.set_aside:
            lines.append(f"  and {split.set_aside:,} set aside when they were sharded")
    return lines


def _width(name: str) -> int:
    return max(9, len(name) + 2)


def _pixels(splits: list[EpochComparison]) -> list[str]:
    """A line per split and kind of image: how far the pixels are apart."""
    lines = [
        f"{'pixels':<21}{'images':>9}{'exact':>11}{'exact values':>14}{'mean':>9}"
        f"{'largest':>9}{'allowed':>15}  worst"
    ]
    for split in splits:
        for name, tally, bound in split.groups:
            largest, _, worst = tally.worst
            lines.append(
                f"{f'{split.split}, {name}':<21}{tally.images:>9,}"
                f"{_share(tally.exact_images, tally.images):>11}"
                f"{_share(tally.exact_values, tally.values):>14}{tally.mean:>9.4f}"
                f"{largest:>9}{bound!s:>15}  {worst or '-'}"
            )
    return lines


def _share(part: int, whole: int) -> str:
    """A share that says 100 % only of all."""
    return "100 %" if part == whole else f"{min(100 * part / whole, 99.99):.2f} %"


_SCORES = {  # a row of the network's table: its name, its field, its format
    "accuracy": ("accuracy", ".2%"),
    "balanced accuracy": ("balanced_accuracy", ".2%"),
    "QWK": ("qwk", ".4f"),
}


def _network(loader: str, network: NetworkResult) -> list[str]:
    """A line per score, what a network says of both sides' images, and the verdict."""
    title = f"network, {network.samples:,} samples"
    lines = [f"{title:<30}{'plain PIL':>11}{loader:>14}   95 % of the difference"]
    for label, (name, form) in _SCORES.items():
        plain, delivered = (
            format_interval(getattr(side, name), None, form)
            for side in (network.plain_pil, network.loader)
        )
        ends = network.intervals.get(name)
        interval = f"   {ends[0]:+.4f} to {ends[1]:+.4f}" if ends else ""
        lines.append(f"{label:<30}{plain:>11}{delivered:>14}{interval}")
    keys = ", ".join(network.changed_keys)
    changed = network.predictions_changed
    more = ", ..." if changed > len(network.changed_keys) else ""
    lines.append(
        f"logits differ by {network.largest_logit_difference:.3g} at most, "
        f"{network.mean_logit_difference:.3g} in the mean; "
        f"predictions that differ: {changed:,}" + (f" ({keys}{more})" if keys else "")
    )
    return [*lines, f"verdict: {network.verdict}, as {_REASONS[network.verdict]}"]


_REASONS = {
    "identical": "every logit is the same, bit for bit",
    "equivalent": f"the intervals lie within {MARGIN} of zero",
    "different": "it is more than chance or rounding",
    "undecided": f"the intervals hold zero and go beyond {MARGIN}: too few samples",
}
