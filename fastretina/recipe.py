"""What a run's result depends on, as one frozen value.

``seed`` is the course report's recipe to the letter. ``strong`` is the best we know for
the same budget of epochs. Any field can be set by a flag of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf
from typing import Literal

Arch = Literal["resnet18", "resnet50"]
Amp = Literal["auto", "bf16", "fp16", "off"]
Precision = Literal["bf16", "fp16", "fp32"]  # what --amp comes to on a device
Phase = Literal["head", "full"]
PHASES: tuple[Phase, ...] = ("head", "full")

# Beyond these a value is a slip: it trains on nothing but border, or to nan.
_RANGES = (
    ("image_size", 64, 8192),
    ("weight_decay", 0, 10),
    ("rotate", 0, 360),
    ("scale", 1, 10),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Everything that decides the weights a run ends with, beside the data.

    Attributes:
        recipe: Where the defaults of these flags come from: strong is the best we know
            for this task and budget, seed the course report's.
        arch: The network.
        weights: What it starts from: none, imagenet (torchvision's own), or a file, pth
            or safetensors. auto takes imagenet, and where that can't be had says so and
            starts from none.
        image_size: Resize to this many pixels square while loading; by default the
            shards' own.
        batch_size: Images per step, over all ranks.
        head_epochs: Phase 1: epochs that train the fc head alone.
        full_epochs: Phase 2: epochs that train the whole network.
        max_steps: Stop after this many steps, wherever they end.
        optimizer: What changes the weights; made anew for each phase.
        head_lr: Peak learning rate of phase 1.
        lr: Peak learning rate of phase 2.
        momentum: Share of the step before that SGD adds to each step.
        weight_decay: How strongly all parameters are drawn towards 0.
        schedule: How the learning rate goes within each phase.
        warmup_epochs: Epochs of linear warm-up at the start of phase 2, with cosine.
        final_lr_share: Where cosine ends, as a share of the peak.
        ema_decay: Average the weights of phase 2 with this decay per step, and evaluate
            the average; 0 switches it off.
        label_smoothing: Share of the target spread over all grades.
        distance_cost: Weight of the expected squared distance to the true grade
            (Galdran et al. 2020), which is what QWK punishes; added to the
            cross-entropy.
        class_weights: What each grade weighs in the loss: balanced is max/n, as the
            report tried, and sqrt its square root.
        weighted_phases: Whether the class weights count in both phases, or only when
            the whole network is trained.
        balance: Draw samples with replacement: 1 draws each grade equally often, values
            between blend; 0 shows every sample once per epoch.
        balance_decay: Multiplies balance after each epoch (annealed sampling: 0.975).
        hflip: Chance of mirroring left-right.
        vflip: Chance of mirroring upside-down.
        rotate: Largest rotation either way, degrees.
        scale: Largest zoom either way, as a factor.
        translate: Largest shift, as a share of the side.
        brightness: Largest change of brightness, as a share.
        contrast: Largest change of contrast, as a share.
        saturation: Largest change of saturation, as a share.
        head_batchnorm: Phase 1: whether BatchNorm of the frozen backbone goes on
            updating its statistics (train, as the report did) or stays as it came
            (eval).
        validation: Share of the training patients held out to choose the checkpoint on;
            0 trains on all and reports the last epoch.
        train_samples: Train on about so many images, whole patients of every grade; the
            others are left out. For a quick look.
        test_samples: Test on about so many images, chosen in the same way.
        test_each_epoch: Log the test accuracy after every epoch. It never chooses
            anything.
        amp: Mixed precision: auto takes bf16 where the device has it, fp16 on older
            GPUs.
        seed: Another seed gives another head, order and validation split, other flips
            and another augmentation.
    """

    recipe: Literal["strong", "seed"] = "strong"
    arch: Arch = "resnet18"
    weights: str = "auto"
    image_size: int | None = None
    batch_size: int = 32
    head_epochs: int = 5
    full_epochs: int = 10
    max_steps: int | None = None
    optimizer: Literal["sgd", "adamw"] = "adamw"
    head_lr: float = 1e-3
    lr: float = 3e-4
    momentum: float = 0.9
    weight_decay: float = 0.05
    schedule: Literal["constant", "cosine"] = "cosine"
    warmup_epochs: float = 1.0
    final_lr_share: float = 0.01
    ema_decay: float = 0.998
    label_smoothing: float = 0.0
    distance_cost: float = 0.0
    class_weights: Literal["none", "balanced", "sqrt"] = "none"
    weighted_phases: Literal["both", "full"] = "both"
    balance: float = 0.0
    balance_decay: float = 1.0
    hflip: float = 0.5
    vflip: float = 0.5
    rotate: float = 180.0
    scale: float = 1.15
    translate: float = 0.05
    brightness: float = 0.2
    contrast: float = 0.2
    saturation: float = 0.0
    head_batchnorm: Literal["train", "eval"] = "eval"
    validation: float = 0.1
    train_samples: int | None = None
    test_samples: int | None = None
    test_each_epoch: bool = False
    amp: Amp = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("head_epochs", "full_epochs", "warmup_epochs", "distance_cost"):
            self._require(0 <= getattr(self, name) < inf, name, "be at least 0")
        if self.head_epochs + self.full_epochs < 1:
            raise ValueError(
                "--head-epochs and --full-epochs must not both be 0: nothing to train"
            )
        self._require(self.batch_size >= 1, "batch_size", "be at least 1")
        for name in ("lr", "head_lr"):
            self._require(0 < getattr(self, name) < inf, name, "be above 0")
        self._require(0 <= self.seed < 2**63, "seed", "lie in 0 to below 2**63")
        for name in ("max_steps", "train_samples", "test_samples"):
            value = getattr(self, name)
            self._require(value is None or value >= 1, name, "be at least 1")
        for name in ("ema_decay", "validation", "label_smoothing", "translate"):
            self._require(0 <= getattr(self, name) < 1, name, "lie in 0 to below 1")
        self._require(0 <= self.momentum < 1, "momentum", "lie in 0 to below 1")
        for name in ("hflip", "vflip", "balance", "balance_decay", "final_lr_share"):
            self._require(0 <= getattr(self, name) <= 1, name, "lie in 0 to 1")
        for name in ("brightness", "contrast", "saturation"):
            self._require(0 <= getattr(self, name) <= 1, name, "lie in 0 to 1")
        for name, low, high in _RANGES:
            value = getattr(self, name)
            fits = value is None or low <= value <= high
            self._require(fits, name, f"lie in {low:,} to {high:,}")

    def _require(self, ok: bool, name: str, rule: str) -> None:
        if not ok:
            flag = name.replace("_", "-")
            raise ValueError(f"--{flag} must {rule}, got {getattr(self, name)}")

    def check_warmup(self) -> None:
        """Raise ``ValueError`` where phase 2 ends before its warm-up does.

        Runs of older versions may be so, and can be read.
        """
        most = max(self.full_epochs, 1)  # of none at all the default is no slip
        if self.warmup_epochs > most:
            raise ValueError(
                f"--warmup-epochs must be at most {most}, the --full-epochs, "
                f"got {self.warmup_epochs}"
            )

    @property
    def epochs(self) -> int:
        """Epochs of both phases together."""
        return self.head_epochs + self.full_epochs

    def phase(self, epoch: int) -> Phase:
        """The phase that an epoch, counted from 0, belongs to."""
        return "head" if epoch < self.head_epochs else "full"

    def is_weighted(self, phase: Phase) -> bool:
        """Whether the class weights count in a phase."""
        return phase == "full" or self.weighted_phases == "both"


STRONG = Recipe()

SEED = replace(
    STRONG,
    recipe="seed",
    optimizer="sgd",
    head_lr=1e-3,
    lr=1e-3,
    momentum=0.9,
    weight_decay=5e-4,
    schedule="constant",
    ema_decay=0.0,
    hflip=0.4,
    vflip=0.5,
    rotate=0.0,
    scale=1.0,
    translate=0.0,
    brightness=0.0,
    contrast=0.0,
    head_batchnorm="train",
    validation=0.0,
    test_each_epoch=True,
)

RECIPES: dict[str, Recipe] = {recipe.recipe: recipe for recipe in (STRONG, SEED)}
