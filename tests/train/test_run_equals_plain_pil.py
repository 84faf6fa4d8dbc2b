"""A run's own scores against an evaluation written plainly, which shares no code.

Here photographs are opened with Pillow one by one, as the course's CSV files list
them, made into tensors by torchvision, and answered by the weights of the run's
checkpoint; accuracy, QWK and confusion are counted by hand. The network tells left from
right, its BatchNorm tells training from evaluation, and its average differs from its
last weights, so that each way of evaluating wrongly gives other numbers (also tested).
"""

from __future__ import annotations

import csv
import json
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest
import torch
from conftest import photograph
from PIL import Image
from safetensors.torch import load_file
from small_runs import make_small
from torch import Tensor, nn
from torchvision import transforms

from fastretina.nn.augment import MEAN, STD, normalise
from fastretina.shard import command as shard
from fastretina.train import command as train

TRAIN, TEST, SIZE = 90, 130, 64
IMAGENET = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
PLAIN = transforms.Compose([transforms.ToTensor(), IMAGENET])


def handed_network(num_classes: int = 1000) -> nn.Module:
    """Takes float32[B, 3, 64, 64]; no pooling over the image, so a flip is seen."""
    layers = OrderedDict(
        conv1=nn.Conv2d(3, 8, 3, stride=4, padding=1, bias=False),
        bn1=nn.BatchNorm2d(8),
        relu=nn.ReLU(),
        conv2=nn.Conv2d(8, 8, 3, stride=2, padding=1, bias=False),
        bn2=nn.BatchNorm2d(8),
        relu2=nn.ReLU(),
        flatten=nn.Flatten(),
        fc=nn.Linear(8 * 8 * 8, num_classes),
    )
    return nn.Sequential(layers)


class Scores(NamedTuple):
    """What answers are worth: accuracy, QWK, and counts int64[5, 5] by true grade."""

    accuracy: float
    qwk: float
    confusion: npt.NDArray[np.int64]


class RunFolder(NamedTuple):
    """A finished run, and the photographs that it has never seen as shards.

    Attributes:
        path: of the run.
        images: by name, as a plain Dataset gives them: float32[3, 64, 64].
        grades: by name, as the CSV files list them.
        tested: the names that ``test_img.csv`` lists.
    """

    path: Path
    images: dict[str, Tensor]
    grades: dict[str, int]
    tested: list[str]

    def log(self) -> list[dict[str, str]]:
        with (self.path / "log.csv").open() as file:
            return list(csv.DictReader(file))

    def network(self, checkpoint: str, weights: str = "ema") -> nn.Module:
        """The network of a checkpoint in eval mode; ``ema`` is the average.

        Of the best there is the average alone.
        """
        best = checkpoint == "best"
        file = "weights.safetensors" if best else f"{checkpoint}.safetensors"
        tensors = load_file(self.path / file)
        prefix = "" if best else f"{weights}."
        own = {k.removeprefix(prefix): v for k, v in tensors.items() if prefix in k[:6]}
        network = handed_network(5)
        network.load_state_dict(own)
        return network.eval()

    def probabilities(
        self,
        network: nn.Module,
        names: list[str],
        change: Callable[[Tensor], Tensor] = lambda image: image,
    ) -> npt.NDArray[np.float64]:
        """float64[N, 5] of these photographs, each changed before."""
        with torch.no_grad():
            logits = network(torch.stack([change(self.images[name]) for name in names]))
        return logits.double().softmax(dim=1).numpy()

    def scores(self, network: nn.Module, names: list[str]) -> Scores:
        return self.score(names, self.probabilities(network, names))

    def score(self, names: list[str], answers: npt.NDArray[np.float64]) -> Scores:
        confusion = np.zeros((5, 5), np.int64)
        for name, grade in zip(names, answers.argmax(axis=1), strict=True):
            confusion[self.grades[name], grade] += 1
        far = (np.arange(5)[:, None] - np.arange(5)) ** 2
        chance = np.outer(confusion.sum(axis=1), confusion.sum(axis=0)) / len(names)
        qwk = 1 - (far * confusion).sum() / (far * chance).sum()
        return Scores(float(np.trace(confusion) / len(names)), float(qwk), confusion)


def write_course(root: Path) -> Path:
    """A folder in the course's layout, whose grades come equally often."""
    (root / "data").mkdir(parents=True)
    for split, numbers in (
        ("train", range(TRAIN)),
        ("test", range(TRAIN, TRAIN + TEST)),
    ):
        names = [f"{n // 2 + 10}_{('left', 'right')[n % 2]}" for n in numbers]
        for n, name in zip(numbers, names, strict=True):
            (root / "data" / f"{name}.jpeg").write_bytes(photograph(n, SIZE))
        (root / f"{split}_img.csv").write_text("\n".join(names) + "\n")
        grades = [str(n * 7 % 11 % 5) for n in numbers]
        (root / f"{split}_label.csv").write_text("\n".join(grades) + "\n")
    return root


def column(path: Path) -> list[str]:
    return path.read_text().split()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Three epochs of the strong recipe, tested after each; read-only by agreement."""
    folder = tmp_path_factory.mktemp("plain")
    course = write_course(folder / "course")
    flags = ["--samples-per-shard", "50", "--workers", "1"]
    assert shard.main([str(course), str(folder / "shards"), *flags]) == 0
    flags = ["--shards", str(folder / "shards"), "--out", str(folder / "run")]
    flags += ["--weights", "none", "--batch-size", "8", "--amp", "off", "--lr", "0.01"]
    flags += ["--head-epochs", "0", "--full-epochs", "3", "--validation", "0.3"]
    with pytest.MonkeyPatch.context() as patch:
        make_small(patch)
        patch.setattr("torchvision.models.resnet18", handed_network)
        assert train.main([*flags, "--test-each-epoch"]) == 0
    images, grades = {}, {}
    for split in ("train", "test"):
        names = column(course / f"{split}_img.csv")
        labels = column(course / f"{split}_label.csv")
        for name, label in zip(names, labels, strict=True):
            with Image.open(course / "data" / f"{name}.jpeg") as image:
                images[name] = PLAIN(image.convert("RGB"))
            grades[name] = int(label)
    tested = column(course / "test_img.csv")
    return RunFolder(folder / "run", images, grades, tested)


def read(path: Path) -> tuple[list[str], list[int], npt.NDArray[np.float64]]:
    """Names, grades and float64[N, 5] that a run has left of a split."""
    table = pq.read_table(path).to_pydict()
    return (
        table["key"],
        table["label"],
        np.stack([table[f"p{grade}"] for grade in range(5)], axis=1),
    )


# ---- the run against the plain evaluation


def test_run_has_predicted_each_test_photograph_once(run: RunFolder):
    names, labels, _ = read(run.path / "test.parquet")
    assert len(names) == TEST
    assert sorted(names) == sorted(run.tested)
    assert labels == [run.grades[name] for name in names]


def test_run_has_held_out_whole_patients_each_once(run: RunFolder):
    names, labels, _ = read(run.path / "validation.parquet")
    assert len(set(names)) == len(names)
    assert set(names) < run.grades.keys() - set(run.tested)
    assert labels == [run.grades[name] for name in names]
    assert 0.2 * TRAIN < len(names) < 0.4 * TRAIN
    assert len({name.partition("_")[0] for name in names}) == len(names) / 2


@pytest.mark.parametrize("split", ["test", "validation"])
def test_probabilities_are_those_of_plain_pil(run: RunFolder, split: str):
    names, _, answers = read(run.path / f"{split}.parquet")
    plain = run.probabilities(run.network("best"), names)
    assert np.abs(answers - plain).max() < 1e-5


def test_metrics_are_those_of_plain_pil(run: RunFolder):
    metrics = json.loads((run.path / "metrics.json").read_text())
    plain = run.scores(run.network("best"), run.tested)
    assert metrics["test"]["samples"] == TEST
    assert metrics["test"]["confusion"] == plain.confusion.tolist()
    for of in (metrics["test_accuracy"], metrics["test"]["accuracy"]):
        assert of == pytest.approx(plain.accuracy)
    for of in (metrics["test_qwk"], metrics["test"]["qwk"]):
        assert of == pytest.approx(plain.qwk)


@pytest.mark.parametrize("checkpoint", ["best", "last"])
def test_scores_of_an_epoch_are_those_of_plain_pil(run: RunFolder, checkpoint: str):
    """Of the epoch that the checkpoint was saved after, with the averaged weights."""
    metrics = json.loads((run.path / "metrics.json").read_text())
    rows = run.log()
    row = rows[-1] if checkpoint == "last" else rows[metrics["checkpoint_epoch"] - 1]
    network = run.network(checkpoint)
    held_out, _, _ = read(run.path / "validation.parquet")
    for split, names in (("test", run.tested), ("validation", held_out)):
        plain = run.scores(network, names)
        assert float(row[f"{split}_accuracy"]) == pytest.approx(plain.accuracy), split
        assert float(row[f"{split}_qwk"]) == pytest.approx(plain.qwk), split


# ---- each wrong way of evaluating would be seen above


@pytest.mark.parametrize("checkpoint", ["best", "last"])
def test_wrong_evaluations_give_other_scores(run: RunFolder, checkpoint: str):
    network, names = run.network(checkpoint), run.tested
    right = run.scores(network, names)
    back = transforms.Normalize(
        [-m / s for m, s in zip(IMAGENET.mean, IMAGENET.std, strict=True)],
        [1 / s for s in IMAGENET.std],
    )
    wrong = {
        "mirrored": run.probabilities(network, names, lambda i: i.flip(2)),
        "upside down": run.probabilities(network, names, lambda i: i.flip(1)),
        "mean reversed": run.probabilities(
            network,
            names,
            lambda i: transforms.Normalize(IMAGENET.mean[::-1], IMAGENET.std)(back(i)),
        ),
        "training mode": run.probabilities(run.network(checkpoint).train(), names),
    }
    if checkpoint == "last":
        raw = run.network(checkpoint, "model")
        wrong["raw weights"] = run.probabilities(raw, names)
    for fault, answers in wrong.items():
        scores = run.score(names, answers)
        assert scores.accuracy != right.accuracy or scores.qwk != right.qwk, fault
        assert (scores.confusion != right.confusion).any(), fault
    later = run.probabilities(network, names[1:] + names[:1])
    assert run.score(names, later).accuracy != right.accuracy, "shifted by one"


# ---- the numbers of ImageNet


def test_mean_and_std_are_those_of_imagenet_in_the_order_of_rgb():
    assert MEAN == (0.485, 0.456, 0.406)
    assert STD == (0.229, 0.224, 0.225)
    image = np.random.default_rng(0).integers(0, 256, (1, 6, 5, 3), dtype=np.uint8)
    plain = PLAIN(Image.fromarray(image[0]))
    assert torch.equal(normalise(torch.from_numpy(image))[0], plain)
