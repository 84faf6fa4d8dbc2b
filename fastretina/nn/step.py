"""One step of training, and what it is made of: loss, optimizer, rate, average.

    Batch --Augment--> inputs --forward, autocast--> logits --Loss--> loss
          --scaled backward--> gradients --optimizer at its rate--> weights --> average

The trainer, the doctor, the benchmarks and the GPU check all take ``train_step``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastretina.nn.augment import Augment
from fastretina.nn.average import MovingAverage
from fastretina.nn.compilation import CompiledForward, Forward
from fastretina.nn.device import Compute
from fastretina.nn.distributed import ALONE, Ranks, wrapped
from fastretina.nn.model import backbone_of, head_of, set_phase
from fastretina.nn.stem import use_blocks
from fastretina.recipe import Phase, Recipe
from loaders import Batch
from loaders.errors import RunError
from loaders.grades import GRADES


class Loss(nn.Module):
    """Cross-entropy, with the recipe's class weights, smoothing and distance cost."""

    def __init__(
        self,
        recipe: Recipe,
        counts: Sequence[int],
        ranks: Ranks = ALONE,
        phase: Phase = "full",
    ) -> None:
        super().__init__()
        self._ranks = ranks
        self._smoothing = recipe.label_smoothing
        self._cost = recipe.distance_cost
        kind = recipe.class_weights if recipe.is_weighted(phase) else "none"
        weights = class_weights(kind, counts)
        grades = torch.arange(len(GRADES), dtype=torch.float32)
        self.register_buffer("weights", weights)
        self.register_buffer("distances", (grades[:, None] - grades).square())

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The mean over a batch: float32[B, K] logits, int64[B] grades.

        Of a batch shared by ranks, each has such a value that their mean is the batch's
        (and the mean of their gradients its gradient), however it is shared out.
        """
        assert isinstance(self.distances, Tensor)
        if not self._ranks.alone:
            return self._share(logits, labels)
        loss = F.cross_entropy(
            logits,
            labels,
            weight=self.weights,  # type: ignore[arg-type]  # a buffer
            label_smoothing=self._smoothing,
        )
        if self._cost:
            expected = (logits.softmax(dim=1) * self.distances[labels]).sum(dim=1)
            loss = loss + self._cost * expected.mean()
        return loss

    def _share(self, logits: Tensor, labels: Tensor) -> Tensor:
        """This rank's part of the sums, over the whole batch's counts per rank."""
        assert isinstance(self.distances, Tensor)
        total = F.cross_entropy(
            logits,
            labels,
            weight=self.weights,  # type: ignore[arg-type]  # a buffer
            label_smoothing=self._smoothing,
            reduction="sum",
        )
        each = torch.ones_like(labels, dtype=torch.float32)
        weighed = self.weights[labels] if isinstance(self.weights, Tensor) else each
        counts = self._ranks.sum(torch.stack([weighed.sum(), each.sum()]))
        per_rank = counts / self._ranks.world_size
        loss = total / per_rank[0]
        if self._cost:
            expected = (logits.softmax(dim=1) * self.distances[labels]).sum()
            loss = loss + self._cost * expected / per_rank[1]
        return loss


def class_weights(
    kind: Literal["none", "balanced", "sqrt"], counts: Sequence[int]
) -> Tensor | None:
    """``max / n`` of each grade as the report tried, or its square root: float32[K].

    A grade without a sample weighs nothing.
    """
    if kind == "none":
        return None
    weights = [max(counts) / count if count else 0.0 for count in counts]
    if kind == "sqrt":
        weights = [math.sqrt(weight) for weight in weights]
    return torch.tensor(weights, dtype=torch.float32)


def make_optimizer(
    recipe: Recipe,
    phase: Phase,
    parameters: Iterable[nn.Parameter],
    device: torch.device,
) -> torch.optim.Optimizer:
    """A new optimizer for a phase; fused where torch has it."""
    fused = device.type in ("cpu", "cuda")
    rate = recipe.head_lr if phase == "head" else recipe.lr
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(
            parameters, lr=rate, weight_decay=recipe.weight_decay, fused=fused
        )
    return torch.optim.SGD(
        parameters,
        lr=rate,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        fused=fused,
    )


def learning_rate(recipe: Recipe, epoch: float) -> float:
    """The rate at a time of the run, in epochs from 0: a pure function.

    Warm-up goes up to the peak within phase 2; cosine comes down within each phase.
    """
    head = recipe.phase(int(epoch)) == "head"
    peak = recipe.head_lr if head else recipe.lr
    if recipe.schedule == "constant":
        return peak
    warmup = 0.0 if head else recipe.warmup_epochs
    done = epoch if head else epoch - recipe.head_epochs
    total = recipe.head_epochs if head else recipe.full_epochs
    if done < warmup:
        return peak * (done + 0.01) / (warmup + 0.01)  # not 0: a first step that moves
    share = min((done - warmup) / max(total - warmup, 1e-9), 1.0)
    cosine = (1 + math.cos(math.pi * share)) / 2
    return peak * (recipe.final_lr_share + (1 - recipe.final_lr_share) * cosine)


@dataclass(frozen=True, kw_only=True, slots=True)
class StepSetup:
    """What stays the same over all steps of a run.

    Attributes:
        recipe: decides what a step computes.
        compute: the device, and the precision of the forward pass.
        train_counts: training samples of each grade, which class weights follow.
        ranks: the processes that each batch is shared out among.
        compiled: whether the forward pass goes through ``torch.compile``; on a GPU, the
            stem over blocks then, too.
        channels_last: the memory format of the network's input; False for NCHW.
        keeps_features: whether phase head computes the frozen backbone's features by
            themselves, so that they can be kept; to be had where they stay the same.
    """

    recipe: Recipe
    compute: Compute
    train_counts: Sequence[int]
    ranks: Ranks = ALONE
    compiled: bool = False
    channels_last: bool = True
    keeps_features: bool = False


class Learner:
    """All that a step changes, with what changes it: made anew for each phase.

    Attributes:
        setup: what stays the same over all phases.
        phase: the phase that it was made for.
        network: takes float32[B, 3, H, W], gives float32[B, 5] logits; in training
            mode as the phase has it.
        trained: the parameters that the phase trains, by name.
        backbone: what makes float[B, D] features of the network's input, perhaps
            compiled; None where ``forward`` does so itself.
        forward: the network as it is called: over the ranks, or compiled; its head
            alone where there is a backbone.
        optimizer: changes the parameters that the phase trains.
        scaler: scales the loss in fp16, and does nothing otherwise.
        average: the moving average of the weights, where recipe and phase have one.
        loss: the mean over a batch: float32[B, 5] logits, int64[B] grades.
        augment: makes the network's input out of a batch's images.
    """

    def __init__(
        self,
        network: nn.Module,
        phase: Phase,
        setup: StepSetup,
        scaler: torch.amp.GradScaler | None = None,
    ) -> None:
        """Free what the phase trains, with an optimizer that has seen no step.

        Args:
            network: the network, on the setup's device.
            phase: decides which parameters are trained.
            setup: what stays the same over all phases.
            scaler: the scaler of the phase before; a new one by default.
        """
        recipe, device = setup.recipe, setup.compute.device
        self.setup, self.phase = setup, phase
        self.network = network
        self.optimizer = make_optimizer(recipe, phase, self.training_mode(), device)
        named = network.named_parameters()
        self.trained = {name: each for name, each in named if each.requires_grad}
        self.scaler = scaler or setup.compute.scaler()
        self.average: MovingAverage | None = None
        if phase == "full" and recipe.ema_decay:
            self.average = MovingAverage(network, recipe.ema_decay)
        if setup.compiled and device.type == "cuda":
            use_blocks(network)
        self.backbone: Forward | None = None
        self.forward: Forward
        if setup.keeps_features and phase == "head":
            self.backbone = self._compiled(backbone_of(network))
            self.forward = wrapped(head_of(network), setup.ranks)
        else:
            self.forward = self._compiled(wrapped(network, setup.ranks))
        self.loss = Loss(recipe, setup.train_counts, setup.ranks, phase).to(device)
        self.augment = Augment(recipe, compiled=setup.compiled)
        self._stepped = False

    def training_mode(self) -> list[nn.Parameter]:
        """Set the network to train; returns the parameters that do."""
        return set_phase(self.network, self.phase, self.setup.recipe.head_batchnorm)

    def _compiled(self, network: nn.Module) -> Forward:
        return CompiledForward(network) if self.setup.compiled else network

    def inputs(self, batch: Batch, place: StepPlace) -> Tensor:
        """The network's input of a batch: float32[B, 3, H, W]."""
        inputs = self.augment(
            batch.images, batch.index, place.epoch, place.step, place.first_sample
        )
        return inputs if self.setup.channels_last else inputs.contiguous()

    def features(self, inputs: Tensor) -> Tensor:
        """The backbone's features of the network's input: float[B, D], frozen."""
        assert self.backbone is not None
        with torch.no_grad(), self.setup.compute.autocast():
            return self.backbone(inputs)

    def evaluated(self) -> nn.Module:
        """The network to evaluate: the average where there is one, in eval mode."""
        network = self.network if self.average is None else self.average.module
        return network.eval()

    def check_first_step(self) -> None:
        """Check, after the first backward pass, that all that trains has a gradient.

        All ranks ask at the same place; no GPU is waited for.

        Raises:
            RunError: something has none, on some rank; the message says how many, and
                names the first.
        """
        if self._stepped:
            return
        self._stepped = True
        without = [name for name, each in self.trained.items() if each.grad is None]
        if any(self.setup.ranks.agree(bool(without))):
            what = "another rank lacks a gradient of what it trains"
            if without:
                what = (
                    f"{len(without)} of the {len(self.trained)} tensors that it trains "
                    f"have no gradient, the first {without[0]}"
                )
            remedy = ": pass --compile off" if self.setup.compiled else ""
            raise RunError(
                f"after the first step of phase {self.phase}, {what}{remedy}"
            )


class StepPlace(NamedTuple):
    """Where in a run a step is: all that its draws and its rate depend on.

    Attributes:
        epoch: the epoch, counted from 0 over both phases.
        step: the step of the run, counted from 0.
        epochs_done: the epochs that are trained on, with the part of this one.
        first_sample: place in the global batch of this rank's first sample.
    """

    epoch: int
    step: int
    epochs_done: float
    first_sample: int = 0


class StepResult(NamedTuple):
    """What a step has computed, on the device; reading it waits for the step.

    Attributes:
        loss: float32[], the batch's ``Loss``.
        num_correct: int64[], samples whose likeliest grade is their label.
        rate: the learning rate that was taken.
    """

    loss: Tensor
    num_correct: Tensor
    rate: float


def train_step(learner: Learner, batch: Batch, place: StepPlace) -> StepResult:
    """Train on one batch, which some rank has a sample of.

    The batch is uint8[B, H, W, 3] with int64[B] labels and rows, on the device; B is 0
    on a rank that has none of it.

    Raises:
        RunError: on a learner's first step, if it passes by what it should train.
    """
    inputs = learner.inputs(batch, place)
    if learner.backbone is not None:
        inputs = learner.features(inputs)
    return train_on(learner, inputs, batch.labels, place)


def train_on(
    learner: Learner, inputs: Tensor, labels: Tensor, place: StepPlace
) -> StepResult:
    """Train on what ``learner.forward`` takes: the network's input, or features.

    Raises:
        RunError: as ``train_step`` does.
    """
    setup = learner.setup
    rate = learning_rate(setup.recipe, place.epochs_done)
    for group in learner.optimizer.param_groups:
        group["lr"] = rate
    with setup.compute.autocast():
        logits = learner.forward(inputs)
    loss = learner.loss(logits.float(), labels)
    learner.optimizer.zero_grad(set_to_none=True)
    learner.scaler.scale(loss).backward()
    learner.check_first_step()
    learner.scaler.step(learner.optimizer)
    learner.scaler.update()
    if learner.average is not None:
        learner.average.update_parameters(learner.network)
    correct = (logits.detach().argmax(dim=1) == labels).sum()
    return StepResult(loss.detach(), correct, rate)
