"""The end of a run: its checkpoint judged on test, and the figures."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from fastretina.data.loading import LoadingOptions, evaluation_loader
from fastretina.data.splits import DataSplits
from fastretina.evaluate.command import predict_all
from fastretina.metrics.evaluation import Evaluation, evaluate
from fastretina.metrics.figures import draw_confusion, draw_curves
from fastretina.metrics.predictions import SplitPredictions
from fastretina.metrics.text import table
from fastretina.nn.step import class_weights
from fastretina.nn.trained import Trained, load_trained
from fastretina.report.model_card import write_card
from fastretina.train.state import TrainState

if TYPE_CHECKING:
    from loaders import ShardSplit


def conclude(
    session: TrainState,
    data: DataSplits,
    feeding: LoadingOptions,
    check: Callable[[], None],
) -> dict[str, Any] | None:
    """Evaluate on test, write predictions, ``metrics.json`` and figures, tell.

    All ranks evaluate, and the first one reports.

    Returns:
        What the command's JSON line holds; None on the other ranks.
    """
    run, recipe, compute = session.run, session.recipe, session.compute
    trained = load_trained(run, compute.device)
    epoch = session.best["epoch"] if session.best else session.progress.epoch

    def predicted(split: ShardSplit) -> tuple[SplitPredictions, int]:
        with evaluation_loader(split, recipe, feeding) as loader:
            found = predict_all(trained.network, loader, compute, check, session.ranks)
            skipped = torch.tensor(len(loader.skipped))
        about = {
            "split": "validation" if split is data.validation else "test",
            "checkpoint": trained.checkpoint,
            "checkpoint_epoch": epoch,
            "weights_sha256": trained.weights_sha256,
        }
        of = SplitPredictions.of(split, found.rows, found.probabilities, about)
        return of, int(session.ranks.sum(skipped))

    test, skipped = predicted(data.test)
    validation = None if data.validation is None else predicted(data.validation)[0]
    if not session.ranks.first:
        return None
    test.save(run.path / "test.parquet")
    if validation is not None:
        validation.save(run.path / "validation.parquet")
    weights = class_weights(recipe.class_weights, data.train_counts())
    evaluation = evaluate(
        test,
        data.known(),
        validation,
        None if weights is None else weights.tolist(),
    )
    result = {
        **_about(session, feeding, trained),
        "checkpoint_epoch": epoch,
        "test_accuracy": evaluation.scores.accuracy,
        "test_qwk": evaluation.scores.qwk,
        **_speed(session),
        "skipped": sum(row.get("skipped") or 0 for row in session.rows),
        "decoded_again": sum(row.get("decoded_again") or 0 for row in session.rows),
        "test_skipped": skipped,
        "weights_sha256": trained.weights_sha256,
    }
    run.write_metrics({**result, **evaluation.summary()})
    write_card(run)
    _tell(session, evaluation, trained, epoch)
    return result


def _tell(
    session: TrainState, evaluation: Evaluation, trained: Trained, epoch: int
) -> None:
    """Draw the figures and print the table."""
    run, scores = session.run, evaluation.scores
    if trained.checkpoint == "best":
        chosen = f"epoch {epoch}, the best on validation"
    else:
        chosen = f"the last epoch, {epoch}"
    name = f"{run.path.name}, {chosen}, weights {trained.weights_sha256[:12]}"
    majority = max(map(sum, scores.confusion)) / scores.samples
    draw_curves(run.path / "curves.png", session.rows, majority, name)
    draw_confusion(run.path / "confusion.png", scores.confusion, f"{name}\ntest")
    print(f"test, with the weights of {chosen}:")
    print(table(evaluation))
    print(f"figures: {run.path / 'curves.png'}, {run.path / 'confusion.png'}")


def _about(
    session: TrainState, feeding: LoadingOptions, trained: Trained
) -> dict[str, Any]:
    compute = session.compute
    return {
        "run": str(session.run.path),
        "loader": feeding.loader,
        "device": str(compute.device),
        "precision": compute.precision,
        "weights": trained.config["weights"],
        "parameters": sum(each.numel() for each in trained.network.parameters()),
        "epochs": session.progress.epoch,
        "steps": session.progress.step,
        "checkpoint": trained.checkpoint,
    }


def _speed(session: TrainState) -> dict[str, float]:
    """Training speed over the whole run, evaluations left out."""
    seconds = sum(row["seconds"] for row in session.rows)
    images = sum(row["images_per_second"] * row["seconds"] for row in session.rows)
    waited = sum(row["wait_seconds"] for row in session.rows)
    return {
        "seconds": round(seconds, 2),
        "images_per_second": round(images / max(seconds, 1e-9), 2),
        "wait_fraction": round(waited / max(seconds, 1e-9), 4),
    }
