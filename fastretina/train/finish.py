"""How a run finishes: its checkpoint judged on test, and the figures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

from fastretina.data.loading import Loading
from fastretina.data.splits import DataSplits
from fastretina.metrics.baselines import Eyes
from fastretina.metrics.evaluation import Evaluation, evaluate
from fastretina.metrics.figures import draw_confusion, draw_curves
from fastretina.metrics.predictions import Predictions, predict_with_checkpoint
from fastretina.metrics.scores import Scores
from fastretina.metrics.text import table
from fastretina.nn.trained import Trained, load_trained
from fastretina.report.model_card import write_card
from fastretina.run_result import RunResult
from fastretina.train.state import TrainState


def finish(
    state: TrainState, data: DataSplits, loading: Loading, check: Callable[[], None]
) -> dict[str, object] | None:
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
    result = _result(state, loading, trained, test, evaluation.test)
    run.write_metrics({**asdict(result), **asdict(evaluation)})
    write_card(run)
    _show(state, evaluation, trained)
    return asdict(result)


def _show(state: TrainState, evaluation: Evaluation, trained: Trained) -> None:
    """Draw the figures and print the table."""
    run, scores = state.run, evaluation.test
    if trained.checkpoint == "best":
        chosen = f"epoch {trained.checkpoint_epoch}, the best on validation"
    else:
        chosen = f"the last epoch, {trained.checkpoint_epoch}"
    name = f"{run.path.name}, {chosen}, weights {trained.weights_sha256[:12]}"
    majority = max(map(sum, scores.confusion)) / scores.samples
    draw_curves(run.path / "curves.png", state.rows, majority, name)
    draw_confusion(run.path / "confusion.png", scores.confusion, f"{name}\ntest")
    print(f"test, with the weights of {chosen}:")
    print(table(evaluation))
    print(f"figures: {run.path / 'curves.png'}, {run.path / 'confusion.png'}")


def _result(
    state: TrainState,
    loading: Loading,
    trained: Trained,
    test: Predictions,
    scores: Scores,
) -> RunResult:
    """What the run has ended with; speeds leave evaluations out."""
    compute, rows = state.compute, state.rows
    seconds = sum(row.seconds for row in rows)
    images = sum(row.images_per_second * row.seconds for row in rows)
    waited = sum(row.wait_seconds for row in rows)
    return RunResult(
        run=str(state.run.path),
        loader=loading.loader,
        device=str(compute.device),
        precision=compute.precision,
        weights=trained.config.weights,
        parameters=sum(each.numel() for each in trained.network.parameters()),
        epochs=state.progress.epoch,
        steps=state.progress.step,
        checkpoint=trained.checkpoint,
        checkpoint_epoch=trained.checkpoint_epoch,
        test_accuracy=scores.accuracy,
        test_qwk=scores.qwk,
        seconds=round(seconds, 2),
        images_per_second=round(images / max(seconds, 1e-9), 2),
        wait_fraction=round(waited / max(seconds, 1e-9), 4),
        skipped=sum(row.skipped for row in rows),
        decoded_again=sum(row.decoded_again for row in rows),
        test_skipped=test.skipped,
        weights_sha256=trained.weights_sha256,
    )
