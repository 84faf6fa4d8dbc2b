"""How far a loader's pixels are from Pillow's: photographs, and JPEGs of rare kinds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial

import torch
from torch import Tensor

from bench.gpu.photographs import ODD_KINDS, usual_size
from bench.gpu.scope import Measurement, Scope
from bench.gpu.section_rows import (
    DecoderSetting,
    DifferencesRow,
    KindDifference,
    ParityRow,
    RareKindsRow,
)
from loaders import Loader, LoaderConfig, make_loader, missing, open_split
from loaders.shards import ShardSplit

LOADS = (0.65, 0.0, 1.0)  # of the JPEG engine, DALI's default first


def decoder_setting(
    loader: str, device: str, fancy: bool | None = None, load: float | None = None
) -> DecoderSetting:
    """The setting, with its name in the tables; see ``DecoderSetting``."""
    name = f"{loader}, libjpeg-turbo"
    if load is not None:
        name = f"mixed, fancy {'on' if fancy else 'off'}, load {load:g}"
    return DecoderSetting(name, loader, device, fancy, load)


def open_loader(setting: DecoderSetting, split: ShardSplit, batch_size: int) -> Loader:
    """A loader of that setting in the index's order, without flips."""
    config = LoaderConfig(batch_size=batch_size, device=setting.device)
    if setting.hw_decoder_load is None:
        return make_loader(setting.loader, split, split.name, config)
    from loaders._dali import DaliLoader

    config = replace(config, hw_decoder_load=setting.hw_decoder_load)
    return DaliLoader(split, config, fancy_upsampling=bool(setting.fancy))


def decoder_settings(scope: Scope) -> list[tuple[DecoderSetting, str]]:
    """The settings to be compared, each with why it can't be had here."""
    lacks = missing("dali") or ""
    mixed = [
        (decoder_setting("dali", scope.device, fancy, load), scope.lacks_cuda or lacks)
        for fancy in (True, False)
        for load in LOADS
    ]
    on_cpu = [] if scope.cuda else [(decoder_setting("dali", "cpu"), lacks)]
    return [*mixed, (decoder_setting("turbo", scope.device), ""), *on_cpu]


def plan_parity(scope: Scope) -> list[Measurement]:
    """Photographs, decoder by decoder."""
    reference = cache(partial(_photographs, scope))
    return [
        Measurement(
            f"parity of {setting.decoder}",
            5.0,
            partial(_compare_photographs, scope, setting, reference),
            lacks,
        )
        for setting, lacks in decoder_settings(scope)
    ]


def plan_odd(scope: Scope) -> list[Measurement]:
    """JPEGs of rare kinds, decoder by decoder."""
    return [
        Measurement(
            f"rare kinds of JPEG under {setting.decoder}",
            5.0,
            partial(_compare_odd, scope, setting),
            lacks,
        )
        for setting, lacks in decoder_settings(scope)
    ]


class PixelDifferences:
    """Differences to Pillow, image by image.

    Attributes:
        images: number of images compared.
        same: number of images that are equal in every value.
        largest: the largest difference of a value, of 255.
        worst: key of the image with the largest difference.
        worst_mean: the largest mean difference of an image, of 255.
    """

    def __init__(self) -> None:
        self.images = self.same = self.largest = 0
        self.worst = ""
        self.worst_mean = 0.0
        self._values = self._equal = self._above_2 = self._sum = 0

    def add(self, key: str, image: Tensor, wanted: Tensor) -> None:
        """Compare uint8[H, W, 3] with uint8[H, W, 3], on the image's device."""
        apart = (image.to(torch.int16) - wanted.to(image.device).to(torch.int16)).abs()
        parts = [apart.max(), apart.sum(), (apart == 0).sum(), (apart > 2).sum()]
        numbers: list[int] = torch.stack([part.long() for part in parts]).tolist()
        largest, total, equal, above = numbers
        self.images += 1
        self.same += equal == apart.numel()
        if largest > self.largest or not self.worst:
            self.largest, self.worst = largest, key
        self.worst_mean = max(self.worst_mean, total / apart.numel())
        self._values += apart.numel()
        self._equal += equal
        self._above_2 += above
        self._sum += total

    @property
    def row(self) -> DifferencesRow:
        """The numbers so far, for the rows of a table."""
        values = max(self._values, 1)
        return DifferencesRow(
            images=self.images,
            images_exact=self.same / max(self.images, 1),
            values_exact=self._equal / values,
            values_above_2=self._above_2 / values,
            mean=self._sum / values,
            worst_mean=self.worst_mean,
            max=self.largest,
            worst_key=self.worst,
        )


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
    scope: Scope, setting: DecoderSetting, reference: Callable[[], list[Tensor]]
) -> list[ParityRow]:
    wanted, differences = reference(), PixelDifferences()
    with (
        usual_size(scope.shards, scope.sizes.compared) as split,
        open_loader(setting, split, scope.sizes.batch) as loader,
    ):
        place = {row: n for n, row in enumerate(split.rows.tolist())}
        for batch in loader.epoch(0):
            for image, row in zip(batch.images, batch.index.tolist(), strict=True):
                differences.add(split.key(row), image, wanted[place[row]])
        by_host = loader.decoded_again
    return [ParityRow(setting, differences.row, by_host)]


def _compare_odd(scope: Scope, setting: DecoderSetting) -> list[RareKindsRow]:
    """One row, with the differences of each kind."""
    kinds: dict[str, KindDifference] = {}
    with (
        open_split(scope.odd, "train") as split,
        open_loader(setting, split, 1) as loader,
    ):
        wanted, by_host = list(pillow(split, 1)), 0
        for batch in loader.epoch(0):
            differences, row = PixelDifferences(), int(batch.index)
            key = split.key(row)
            differences.add(key, batch.images[0], wanted[row])
            kind = ODD_KINDS[int(key.partition("_")[0])]
            again, by_host = loader.decoded_again > by_host, loader.decoded_again
            kinds[kind] = KindDifference(
                differences.row.mean, differences.largest, again
            )
    return [RareKindsRow(setting, kinds)]
