"""The flags that people's scripts rely on, and a help that answers at once."""

from __future__ import annotations

import re
import subprocess
import sys
from types import ModuleType
from typing import get_args, get_type_hints

import pytest

from fastretina import __version__, cli
from fastretina.audit import command as audit
from fastretina.data.loading import LoadingOptions
from fastretina.demo import command as demo
from fastretina.doctor import command as doctor
from fastretina.evaluate import command as evaluate
from fastretina.evaluate.command import Options as EvaluateOptions
from fastretina.experiments import command as experiments
from fastretina.experiments.flags import Options as ExperimentOptions
from fastretina.export import command as export
from fastretina.parity import command as parity
from fastretina.parity.command import Options as ParityOptions
from fastretina.predict import command as predict
from fastretina.report import command as report
from fastretina.shard import command as shard
from fastretina.train import command as train
from fastretina.train.options import TrainOptions
from loaders import LOADERS

# Adding a flag here is a decision; removing or renaming one breaks people's scripts.
FLAGS = {
    train: """
        --shards --test-shards --loader --fallback --no-fallback --on-corrupt
        --hw-decoder-load --cache --cache-gb --verify-reads --no-verify-reads
        --workers --prefetch --device --threads --compile --cache-features
        --no-cache-features
        --out --resume --checkpoint-every --recipe --arch --weights --image-size
        --batch-size --head-epochs --full-epochs --max-steps --optimizer --head-lr --lr
        --momentum --weight-decay --schedule --warmup-epochs --final-lr-share
        --ema-decay --label-smoothing --distance-cost --class-weights
        --weighted-phases --balance
        --balance-decay --hflip --vflip --rotate --scale --translate --brightness
        --contrast --saturation --head-batchnorm --validation --train-samples
        --test-samples --test-each-epoch --no-test-each-epoch --amp --seed
    """,
    shard: """
        --verify --workers --samples-per-shard --seed --layout --labels
        --patient-column --patient-pattern --source --test-share
        --preprocess --size --allow-missing --overwrite
    """,
    evaluate: """
        --shards --split --loader --fallback --no-fallback --on-corrupt
        --hw-decoder-load --cache --cache-gb --verify-reads --no-verify-reads
        --workers --prefetch --device --out --details
    """,
    predict: """
        --tta --no-tta --calibrated --no-calibrated --pairs --no-pairs --overlays
        --format --out --device
    """,
    export: "--format --out --image-size --opset",
    report: "--shards --out --mistakes --device",
    experiments: """
        --shards --out --budget --seeds --dry-run --pretrained --loader --fallback
        --no-fallback --on-corrupt --hw-decoder-load --cache --cache-gb
        --verify-reads --no-verify-reads --workers --prefetch --device --threads
    """,
    audit: """
        --layout --labels --patient-column --patient-pattern --images --no-images
        --fix --test-share --seed --out --strict --workers
    """,
    parity: """
        --data --shards --loader --fallback --no-fallback --on-corrupt
        --hw-decoder-load --cache --cache-gb --verify-reads --no-verify-reads
        --workers --prefetch --split --image-size --run --labels --device
    """,
    doctor: """
        --shards --arch --image-size --batch-size --amp --device --seconds --out
    """,
    demo: """
        --images --seed --image-size --test-share --balanced --no-balanced --workers
        --overwrite --no-overwrite
    """,
}
LOADER = "auto,pil,turbo,dali,dali-reader,webdataset"
CHOICES = {
    train: {
        "--loader": LOADER,
        "--on-corrupt": "raise,skip",
        "--compile": "auto,on,off",
        "--recipe": "strong,seed",
        "--arch": "resnet18,resnet50",
        "--optimizer": "sgd,adamw",
        "--schedule": "constant,cosine",
        "--class-weights": "none,balanced,sqrt",
        "--weighted-phases": "both,full",
        "--head-batchnorm": "train,eval",
        "--amp": "auto,bf16,fp16,off",
    },
    shard: {"--layout": "course,kaggle,aptos,folders,tars"},
    evaluate: {
        "--split": "test,train",
        "--loader": LOADER,
        "--on-corrupt": "raise,skip",
    },
    predict: {"--format": "csv,json"},
    export: {"--format": "onnx"},
    report: {},
    experiments: {
        "--budget": "full,small,tiny",
        "--loader": LOADER,
        "--on-corrupt": "raise,skip",
    },
    audit: {"--layout": "course,kaggle,aptos,folders,tars"},
    parity: {
        "--loader": LOADER,
        "--on-corrupt": "raise,skip",
        "--split": "train,test",
    },
    doctor: {"--arch": "resnet18,resnet50", "--amp": "auto,bf16,fp16,off"},
    demo: {},
}
POSITIONAL = {
    shard: ["DATA", "SHARDS"],
    evaluate: ["RUN"],
    predict: ["RUN", "IMAGE..."],
    export: ["RUN"],
    report: ["RUN"],
    experiments: ["NAME"],
    audit: ["DATA"],
}
FLAG = re.compile(r"(--[a-z][a-z-]*)(?:, (--[a-z-]+))?(?: \{([a-z0-9,-]+)\})?")
COMMANDS = pytest.mark.parametrize(
    "command", list(FLAGS), ids=lambda module: module.__name__
)


def help_of(
    command: ModuleType, capsys: pytest.CaptureFixture[str], *words: str
) -> str:
    capsys.readouterr()
    assert command.main([*words, "--help"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def boxed(text: str) -> list[str]:
    """The lines that begin a flag or a positional argument."""
    return re.findall(r"^(?:[^\w\s] |  )(?:-h, )?([-A-Z]\S.*?) *\S?$", text, re.M)


@COMMANDS
def test_flags_are_those_that_were_promised(
    command: ModuleType, capsys: pytest.CaptureFixture[str]
):
    found: list[str] = []
    choices: dict[str, str] = {}
    for line in boxed(help_of(command, capsys)):
        names = FLAG.match(line)
        if names:
            found.extend(name for name in names.groups()[:2] if name)
            if names[3]:
                choices[names[1]] = names[3]
    assert sorted(found) == sorted([*FLAGS[command].split(), "--help"])
    assert choices == CHOICES[command]


@pytest.mark.parametrize("command", list(POSITIONAL), ids=lambda m: m.__name__)
def test_positional_arguments_are_those_that_were_promised(
    command: ModuleType, capsys: pytest.CaptureFixture[str]
):
    text = help_of(command, capsys).partition("options")
    usage = text[0].splitlines()[0]
    assert [name for name in POSITIONAL[command] if name in usage], usage
    found = [line.split()[0] for line in boxed(help_of(command, capsys))]
    assert [name for name in found if name[0] != "-" and name.isupper()] == POSITIONAL[
        command
    ]


@COMMANDS
def test_help_gives_an_example_and_every_default(
    command: ModuleType, capsys: pytest.CaptureFixture[str]
):
    text = help_of(command, capsys)
    assert "Example: " in text
    documented = len(re.findall(r"\(default:|\(required", text))
    assert documented >= len(FLAGS[command].split()) - text.count(", --no-")


@COMMANDS
def test_version_is_the_packages(
    command: ModuleType, capsys: pytest.CaptureFixture[str]
):
    assert command.main(["--version"]) == 0
    assert capsys.readouterr().out == f"fastretina {__version__}\n"


@pytest.mark.parametrize(
    "options", [TrainOptions, EvaluateOptions, ExperimentOptions, ParityOptions]
)
def test_commands_share_one_set_of_loading_flags(options: type):
    assert get_type_hints(options)["loading"] is LoadingOptions


def test_loader_takes_every_loader_there_is():
    hint, _ = get_args(get_type_hints(LoadingOptions)["loader"])
    assert list(get_args(hint)) == ["auto", *LOADERS]


def defaults(text: str) -> dict[str, str]:
    """Flag to default, out of a help text."""
    flat = re.sub(r"\s*\u2502?\n\u2502? {3,}", " ", text)  # of a box or without
    found = re.findall(r"(--[a-z][a-z-]*)\b[^\n]*?\(default:\s+([^)]*)\)", flat)
    return dict(found)


def test_help_shows_the_defaults_of_the_recipe_that_is_named(
    capsys: pytest.CaptureFixture[str],
):
    seed = defaults(help_of(train, capsys, "--recipe", "seed"))
    expected = {
        "--head-epochs": "5",
        "--full-epochs": "10",
        "--optimizer": "sgd",
        "--lr": "0.001",
        "--head-lr": "0.001",
        "--momentum": "0.9",
        "--weight-decay": "0.0005",
        "--batch-size": "32",
        "--hflip": "0.4",
        "--vflip": "0.5",
        "--recipe": "seed",
    }
    assert seed.items() >= expected.items()
    assert defaults(help_of(train, capsys, "--recipe=seed")) == seed
    strong = defaults(help_of(train, capsys))
    assert strong["--recipe"] == "strong"
    assert strong["--hflip"] == "0.5"
    assert len(strong) == len(FLAGS[train].split()) - 4  # of the pairs, one each


@pytest.mark.parametrize(
    ("words", "choice"),
    [
        ("", "auto"),
        ("--compile", "on"),
        ("--compile --seed 3", "on"),
        ("--seed 3 --no-compile", "off"),
        ("--compile auto", "auto"),
        ("--compile=off --seed 3", "off"),
        ("--compile --no-compile", "off"),
    ],
)
def test_compile_takes_a_choice_and_needs_none(
    words: str, choice: str, monkeypatch: pytest.MonkeyPatch
):
    given: list[TrainOptions] = []
    monkeypatch.setattr(train, "command", given.append)
    assert train.main(words.split()) == 0
    assert [options.compile for options in given] == [choice]


def test_console_command_leads_to_each_command(capsys: pytest.CaptureFixture[str]):
    for name in cli.COMMANDS:
        assert cli.main([name, "--version"]) == 0
        assert capsys.readouterr().out == f"fastretina {__version__}\n"
        assert cli.main([name, "--help"]) == 0
        assert capsys.readouterr().out.startswith(f"usage: fastretina {name} ")


@pytest.mark.slow
def test_module_can_be_run(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "fastretina.train", "--shards", "none"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: no data set in none")
