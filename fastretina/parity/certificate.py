"""What a comparison has found: for people, for machines, and in one sentence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import PIL

from fastretina.formatting import format_interval
from fastretina.parity.equivalence import MARGIN

if TYPE_CHECKING:
    from fastretina.parity.epoch import EpochComparison
    from loaders import Decoding


@dataclass(frozen=True, kw_only=True, slots=True)
class Certificate:
    """A loader's certificate, or why it has none.

    Attributes:
        loader: its name.
        device: where its batches lie.
        splits: what was found in each.
        network: what ``TwoSides.judge`` says, with ``--run``.
    """

    loader: str
    device: str
    splits: list[EpochComparison]
    network: Mapping[str, Any] | None

    @property
    def decoding(self) -> Decoding:
        """Who makes its pixels; in one split images may need no resize."""
        all_of_them = [found.decoding for found in self.splits]
        resizing = [one for one in all_of_them if one.resize]
        return (resizing or all_of_them)[0]

    @property
    def equal(self) -> bool:
        """Whether nothing was found that is beyond its bound."""
        return not self._doubt and not any(found.faults for found in self.splits)

    @property
    def exact(self) -> bool:
        """Whether not one value differs."""
        return self.equal and all(
            tally.exact_images == tally.images
            for found in self.splits
            for _, tally, _ in found.groups
        )

    @property
    def _doubt(self) -> str | None:
        """Why the network's predictions are not shown to be equivalent, if so."""
        verdict = None if self.network is None else self.network["verdict"]
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
            f"{found.split}: {name}, {fault}"
            for found in self.splits
            for name, fault in found.faults.items()
        ]

    def table(self) -> str:
        """All of it for people."""
        lines = [self._head(), "", *_samples(self.splits), "", *_pixels(self.splits)]
        if self.network is not None:
            lines += ["", *_network(self.loader, self.network)]
        if faults := self._faults():
            lines += ["", *faults]
        return "\n".join([*lines, "", self.sentence()])

    def _head(self) -> str:
        """Who is compared with whom."""
        by, jpeg, resize = self.decoding
        resized = f", resized by {resize}" if resize else ""
        return (
            f"{self.loader} ({by}: {jpeg}{resized}) on {self.device} "
            f"against plain PIL (Pillow {PIL.__version__})"
        )

    def summary(self) -> dict[str, Any]:
        """The certificate as the JSON line holds it."""
        return {
            "loader": self.loader,
            "device": self.device,
            "decoding": self.decoding._asdict(),
            "equal": self.equal,
            "exact": self.exact,
            "splits": {found.split: found.summary() for found in self.splits},
            "network": self.network,
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
    for found in splits:
        counts = "".join(
            f"{found.count(fault):>{_width(name)},}" for name, fault in _COUNTED.items()
        )
        line = f"{found.split:<21}{found.samples:>9,}{found.delivered:>11,}{counts}"
        lines.append(line)
        if found.set_aside:
            lines.append(f"  and {found.set_aside:,} set aside when they were sharded")
    return lines


def _width(name: str) -> int:
    return max(9, len(name) + 2)


def _pixels(splits: list[EpochComparison]) -> list[str]:
    """A line per split and kind of image: how far the pixels are apart."""
    lines = [
        f"{'pixels':<21}{'images':>9}{'exact':>11}{'exact values':>14}{'mean':>9}"
        f"{'largest':>9}{'allowed':>15}  worst"
    ]
    for found in splits:
        for name, tally, bound in found.groups:
            largest, _, worst = tally.worst
            lines.append(
                f"{f'{found.split}, {name}':<21}{tally.images:>9,}"
                f"{_share(tally.exact_images, tally.images):>11}"
                f"{_share(tally.exact_values, tally.values):>14}{tally.mean:>9.4f}"
                f"{largest:>9}{bound!s:>15}  {worst or '-'}"
            )
    return lines


def _share(part: int, whole: int) -> str:
    """A share that says 100 % only of all."""
    return "100 %" if part == whole else f"{min(100 * part / whole, 99.99):.2f} %"


def _network(loader: str, network: Mapping[str, Any]) -> list[str]:
    """What a network says of both sides' images."""
    sides = [network["plain_pil"], network["loader"]]
    shown = {"accuracy": ".2%", "balanced_accuracy": ".2%", "qwk": ".4f"}
    title = f"network, {network['samples']:,} samples"
    lines = [f"{title:<30}{'plain PIL':>11}{loader:>14}   95 % of the difference"]
    for name, form in shown.items():
        both = "".join(
            f"{format_interval(side[name], None, form):>{width}}"
            for side, width in zip(sides, (11, 14), strict=True)
        )
        ends = network["intervals"].get(name)
        interval = f"   {ends[0]:+.4f} to {ends[1]:+.4f}" if ends else ""
        label = "QWK" if name == "qwk" else name.replace("_", " ")
        lines.append(f"{label:<30}{both}{interval}")
    keys = ", ".join(network["changed_keys"])
    changed = network["predictions_changed"]
    more = ", ..." if changed > len(network["changed_keys"]) else ""
    lines.append(
        f"logits differ by {network['largest_logit_difference']:.3g} at most, "
        f"{network['mean_logit_difference']:.3g} in the mean; "
        f"predictions that differ: {changed:,}" + (f" ({keys}{more})" if keys else "")
    )
    return [*lines, _verdict(network)]


def _verdict(network: Mapping[str, Any]) -> str:
    reasons = {
        "identical": "every logit is the same, bit for bit",
        "equivalent": f"the intervals lie within {MARGIN} of zero",
        "different": "it is more than chance or rounding",
        "undecided": f"the intervals hold zero and go beyond {MARGIN}: too few samples",
    }
    verdict = network["verdict"]
    return f"verdict: {verdict}, as {reasons[verdict]}"
