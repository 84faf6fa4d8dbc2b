"""How a run finishes: its checkpoint judged on test, and what is left of it.

checkpoint --predict_with_checkpoint--> Predictions --evaluate--> Evaluation
    --> FinishedRun --> figures, model card, table; metrics.json last of all
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

from fastretina.data.loading import Loading
from fastretina.data.splits import DataSplits
from fastretina.metrics.baselines import Eyes
from fastretina.metrics.evaluation import Evaluation, evaluate
from fastretina.metrics.figures import draw_confusion, draw_curves
from fastretina.metrics.predictions import Predictions, predict_with_checkpoint
from fastretina.metrics.text import table
from fastretina.nn.trained import Trained, load_trained, save_weights
from fastretina.report.finished_run import FinishedRun
from fastretina.report.model_card import write_card
from fastretina.run_result import RunResult
from fastretina.train.state import TrainState
from fastretina.wall_clock import part, with_wall_seconds


def finish(
    state: TrainState, data: DataSplits, loading: Loading, check: Callable[[], None]
) -> dict[str, object] | None:
    """Evaluate on test; write predictions, figures, model card and ``metrics.json``.

    All ranks evaluate, and the first one reports.

    Returns:
        What the command's JSON line holds; None on the other ranks.
    """
    compute = state.compute
    with part("start"):
        trained = load_trained(state.run, compute.device)
    weights = trained.loss_weights(data.train_counts())
    test = predict_with_checkpoint(trained, data.test, "test", compute, loading, check)
    validation = None
    if data.validation is not None:
        validation = predict_with_checkpoint(
            trained, data.validation, "validation", compute, loading, check
        )
    if not state.ranks.first:
        return None
    evaluation = evaluate(
        test,
        Eyes.of(data.train, data.known_rows()) if data.is_one_cohort() else None,
        validation,
        weights,
    )
    finished = FinishedRun(
        folder=state.run,
        config=trained.config,
        result=_result(state, trained, test, evaluation),
        evaluation=evaluation,
        log=state.rows,
        test=test,
    )
    if not state.run.weights.exists():  # nobody is held out, or an older version's run
        save_weights(
            state.run,
            trained.network.state_dict(),
            trained.checkpoint,
            trained.checkpoint_epoch,
        )
    _write(finished, validation)
    print(f"test, with the weights of {finished.chosen_epoch}:")
    print(table(evaluation))
    path = state.run.path
    print(f"figures: {path / 'curves.png'}, {path / 'confusion.png'}")
    print(f"weights alone: {state.run.weights}")
    return asdict(finished.result)


def _write(finished: FinishedRun, validation: Predictions | None) -> None:
    """Leave all files of a finished run; with ``metrics.json`` it is one."""
    run, scores = finished.folder, finished.scores
    finished.test.save(run.path / "test.parquet")
    if validation is not None:
        validation.save(run.path / "validation.parquet")
    name = (
        f"{run.path.name}, {finished.chosen_epoch}, "
        f"weights {finished.result.weights_sha256[:12]}"
    )
    majority = max(map(sum, scores.confusion)) / scores.samples
    draw_curves(run.path / "curves.png", finished.log, majority, name)
    draw_confusion(run.path / "confusion.png", scores.confusion, f"{name}\ntest")
    write_card(finished)
    result = asdict(finished.result)
    run.write_metrics(with_wall_seconds({**result, **asdict(finished.evaluation)}))


def _result(
    state: TrainState, trained: Trained, test: Predictions, evaluation: Evaluation
) -> RunResult:
    """What the run has ended with; speeds leave evaluations out."""
    config, rows, scores = trained.config, state.rows, evaluation.test
    seconds = sum(row.seconds for row in rows)
    images = sum(row.images_per_second * row.seconds for row in rows)
    waited = sum(row.wait_seconds for row in rows)
    idle = [row.idle_seconds for row in rows if row.idle_seconds is not None]
    return RunResult(
        run=str(state.run.path),
        loader=config.loader,
        device=config.device,
        precision=config.precision,
        weights=config.weights,
        parameters=sum(each.numel() for each in trained.network.parameters()),
        epochs=state.progress.epoch,
        steps=state.progress.step,
        changed_parameters=dict(state.changed),
        checkpoint=trained.checkpoint,
        checkpoint_epoch=trained.checkpoint_epoch,
        test_accuracy=scores.accuracy,
        test_qwk=scores.qwk,
        seconds=round(seconds, 2),
        images_per_second=round(images / max(seconds, 1e-9), 2),
        wait_fraction=round(waited / max(seconds, 1e-9), 4),
        device_idle_fraction=round(sum(idle) / max(seconds, 1e-9), 4) if idle else None,
        skipped=sum(row.skipped for row in rows),
        decoded_again=sum(row.decoded_again for row in rows),
        test_skipped=test.skipped,
        weights_sha256=trained.weights_sha256,
    )
