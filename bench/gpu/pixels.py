"""How far a loader's pixels are from Pillow's: photographs, and JPEGs of rare kinds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial
from typing import NamedTuple

import torch
from torch import Tensor

from bench.gpu.data import ODD_KINDS, usual_size
from bench.gpu.scope import Measurement, Row, Scope
from loaders import Loader, LoaderConfig, make_loader, missing, open_split
from loaders.shards import ShardSplit

LOADS = (0.65, 0.0, 1.0)  # of the JPEG engine, DALI's default first


class Decoder(NamedTuple):
    """A loader with how its decoder is set.

    Attributes:
        loader: its name.
        device: where its batches lie.
        fancy: upsampling, and
        load: share of the JPEG engine; ``None`` where nothing is decoded on a GPU.
    """

    loader: str
    device: str
    fancy: bool | None = None
    load: float | None = None

    @property
    def name(self) -> str:
        """As the tables have it."""
        if self.load is None:
            return f"{self.loader}, libjpeg-turbo"
        return f"mixed, fancy {'on' if self.fancy else 'off'}, load {self.load:g}"

    @property
    def row(self) -> Row:
        """The columns of a row that name the decoder and its settings."""
        return {
            "decoder": self.name,
            "loader": self.loader,
            "device": self.device,
            "fancy": self.fancy,
            "hw_decoder_load": self.load,
        }

    def open(self, split: ShardSplit, batch_size: int) -> Loader:
        """A loader in the index's order, without flips."""
        config = LoaderConfig(batch_size=batch_size, device=self.device)
        if self.load is not None:
            from loaders._dali import DaliLoader

            config = replace(config, hw_decoder_load=self.load)
            return DaliLoader(split, config, fancy_upsampling=bool(self.fancy))
        return make_loader(self.loader, split, split.name, config)


def decoders(scope: Scope) -> list[tuple[Decoder, str]]:
    """Those to be compared, each with why it can't be had here."""
    lacks = missing("dali") or ""
    mixed = [
        (Decoder("dali", scope.device, fancy, load), scope.lacks_cuda or lacks)
        for fancy in (True, False)
        for load in LOADS
    ]
    on_cpu = [] if scope.cuda else [(Decoder("dali", "cpu"), lacks)]
    return [*mixed, (Decoder("turbo", scope.device), ""), *on_cpu]


def plan_parity(scope: Scope) -> list[Measurement]:
    """Photographs, decoder by decoder."""
    reference = cache(partial(_photographs, scope))
    return [
        Measurement(
            f"parity of {decoder.name}",
            5.0,
            partial(_compare_photographs, scope, decoder, reference),
            lacks,
        )
        for decoder, lacks in decoders(scope)
    ]


def plan_odd(scope: Scope) -> list[Measurement]:
    """JPEGs of rare kinds, decoder by decoder."""
    return [
        Measurement(
            f"rare kinds of JPEG under {decoder.name}",
            5.0,
            partial(_compare_odd, scope, decoder),
            lacks,
        )
        for decoder, lacks in decoders(scope)
    ]


class PixelDifferences:
    """Differences to Pillow, image by image.

    Attributes:
        images: compared.
        same: of them, equal in every value.
        largest: difference of a value.
        worst: key of the image with it.
        worst_mean: the largest mean difference of an image.
    """

    def __init__(self) -> None:
        self.images = self.same = self.largest = 0
        self.worst = ""
        self.worst_mean = 0.0
        self._values = self._equal = self._above_2 = self._sum = 0

    def add(self, key: str, image: Tensor, wanted: Tensor) -> None:
        """Compare uint8[H, W, 3] with uint8[H, W, 3], on the image's device."""
        gap = (image.to(torch.int16) - wanted.to(image.device).to(torch.int16)).abs()
        parts = [gap.max(), gap.sum(), (gap == 0).sum(), (gap > 2).sum()]
        numbers: list[int] = torch.stack([part.long() for part in parts]).tolist()
        largest, total, equal, above = numbers
        self.images += 1
        self.same += equal == gap.numel()
        if largest > self.largest or not self.worst:
            self.largest, self.worst = largest, key
        self.worst_mean = max(self.worst_mean, total / gap.numel())
        self._values += gap.numel()
        self._equal += equal
        self._above_2 += above
        self._sum += total

    @property
    def row(self) -> Row:
        """The numbers, values in shares of all."""
        values = max(self._values, 1)
        return {
            "images": self.images,
            "images_exact": self.same / max(self.images, 1),
            "values_exact": self._equal / values,
            "values_above_2": self._above_2 / values,
            "mean": self._sum / values,
            "worst_mean": self.worst_mean,
            "max": self.largest,
            "worst_key": self.worst,
        }


def pillow(
    split: ShardSplit, batch_size: int, workers: int | None = 0
) -> Iterator[Tensor]:
    """Each image of a split as Pillow decodes it, uint8[H, W, 3]."""
    config = LoaderConfig(batch_size=batch_size, workers=workers)
    with make_loader("pil", split, split.name, config) as loader:
        for batch in loader.epoch(0):
            yield from batch.images.clone()


def _photographs(scope: Scope) -> list[Tensor]:
    with usual_size(scope.shards, scope.sizes.compared) as split:
        return list(pillow(split, scope.sizes.batch, None))


def _compare_photographs(
    scope: Scope, decoder: Decoder, reference: Callable[[], list[Tensor]]
) -> list[Row]:
    wanted, gap = reference(), PixelDifferences()
    with (
        usual_size(scope.shards, scope.sizes.compared) as split,
        decoder.open(split, scope.sizes.batch) as loader,
    ):
        place = {row: n for n, row in enumerate(split.rows.tolist())}
        for batch in loader.epoch(0):
            for image, row in zip(batch.images, batch.index.tolist(), strict=True):
                gap.add(split.key(row), image, wanted[place[row]])
        again = getattr(loader, "decoded_again", 0)
    return [{**decoder.row, **gap.row, "batches_by_host": again}]


def _compare_odd(scope: Scope, decoder: Decoder) -> list[Row]:
    """One row, with the differences of each kind."""
    row = decoder.row
    with (
        open_split(scope.odd, "train") as split,
        decoder.open(split, 1) as loader,
    ):
        wanted, by_host = list(pillow(split, 1)), 0
        for batch in loader.epoch(0):
            gap, number = PixelDifferences(), int(batch.index)
            key = split.key(number)
            gap.add(key, batch.images[0], wanted[number])
            again = getattr(loader, "decoded_again", 0)
            kind = ODD_KINDS[int(key.partition("_")[0])]
            row[kind] = {
                "mean": gap.row["mean"],
                "max": gap.largest,
                "by_host": again > by_host,
            }
            by_host = again
    return [row]
