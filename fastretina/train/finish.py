"""How a run finishes: its checkpoint judged on test, and the figures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from fastretina.data.loading import Loading
from fastretina.data.splits import DataSplits
from fastretina.metrics.baselines import Eyes
from fastretina.metrics.evaluation import Evaluation, evaluate
from fastretina.metrics.figures import draw_confusion, draw_curves
from fastretina.metrics.predictions import predict_with_checkpoint
from fastretina.metrics.text import table
from fastretina.nn.trained import Trained, load_trained
from fastretina.report.model_card import write_card
from fastretina.train.state import TrainState


def finish(
    state: TrainState, data: DataSplits, loading: Loading, check: Callable[[], None]
) -> dict[str, Any] | None:
    """Evaluate on test; write predictions, ``metrics.json``, model card and figures.

    All ranks evaluate, and the first one reports.

    Returns:
        What the command's JSON line holds; None on the other ranks.
    """
    run, compute = state.run, state.compute
    trained = load_trained(run, compute.device)
    test = predict_with_checkpoint(trained, data.test, "test", compute, loading, check)
    validation = None
    if data.validation is not None:
        validation = predict_with_checkpoint(
            trained, data.validation, "validation", compute, loading, check
        )
    if not state.ranks.first:
        return None
    test.save(run.path / "test.parquet")
    if validation is not None:
        validation.save(run.path / "validation.parquet")
    evaluation = evaluate(
        test,
        Eyes.of(data.train, data.known_rows()),
        validation,
        trained.loss_weights(data.train_counts()),
    )
    result = {
        **_summary(state, loading, trained),
        "checkpoint_epoch": trained.checkpoint_epoch,
        "test_accuracy": evaluation.test.accuracy,
        "test_qwk": evaluation.test.qwk,
        **_speed(state),
        "skipped": sum(row.skipped for row in state.rows),
        "decoded_again": sum(row.decoded_again for row in state.rows),
        "test_skipped": test.skipped,
        "weights_sha256": trained.weights_sha256,
    }
    run.write_metrics({**result, **asdict(evaluation)})
    write_card(run)
    _show(state, evaluation, trained)
    return result


def _show(state: TrainState, evaluation: Evaluation, trained: Trained) -> None:
    """Draw the figures and print the table."""
    run, scores = state.run, evaluation.test
    if trained.checkpoint == "best":
        chosen = f"epoch {trained.checkpoint_epoch}, the best on validation"
    else:
        chosen = f"the last epoch, {trained.checkpoint_epoch}"
    name = f"{run.path.name}, {chosen}, weights {trained.weights_sha256[:12]}"
    majority = max(map(sum, scores.confusion)) / scores.samples
    rows = [asdict(row) for row in state.rows]
    draw_curves(run.path / "curves.png", rows, majority, name)
    draw_confusion(run.path / "confusion.png", scores.confusion, f"{name}\ntest")
    print(f"test, with the weights of {chosen}:")
    print(table(evaluation))
    print(f"figures: {run.path / 'curves.png'}, {run.path / 'confusion.png'}")


def _summary(state: TrainState, loading: Loading, trained: Trained) -> dict[str, Any]:
    """What was trained, on what."""
    compute = state.compute
    return {
        "run": str(state.run.path),
        "loader": loading.loader,
        "device": str(compute.device),
        "precision": compute.precision,
        "weights": trained.config["weights"],
        "parameters": sum(each.numel() for each in trained.network.parameters()),
        "epochs": state.progress.epoch,
        "steps": state.progress.step,
        "checkpoint": trained.checkpoint,
    }


def _speed(state: TrainState) -> dict[str, float]:
    """Training speed over the whole run, evaluations left out."""
    seconds = sum(row.seconds for row in state.rows)
    images = sum(row.images_per_second * row.seconds for row in state.rows)
    waited = sum(row.wait_seconds for row in state.rows)
    return {
        "seconds": round(seconds, 2),
        "images_per_second": round(images / max(seconds, 1e-9), 2),
        "wait_fraction": round(waited / max(seconds, 1e-9), 4),
    }
