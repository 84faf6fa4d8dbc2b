"""The end of a run: its checkpoint evaluated on test, and the figures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from fastretina.data import Data
from fastretina.evaluate import predict_all, table
from fastretina.feeding import Feeding, evaluation_loader
from fastretina.figures import draw_confusion, draw_curves
from fastretina.metrics import score
from fastretina.session import Session
from fastretina.trained import load_trained


def report(
    session: Session, data: Data, feeding: Feeding, check: Callable[[], None]
) -> dict[str, Any] | None:
    """Evaluate on test, write ``metrics.json`` and the figures, print the table.

    All ranks evaluate, and the first one reports.

    Returns:
        What the command's JSON line holds; None on the other ranks.
    """
    run, recipe, compute = session.run, session.recipe, session.compute
    ranks = session.ranks
    trained = load_trained(run, compute.device)
    with evaluation_loader(data.test, recipe, feeding) as loader:
        found = predict_all(trained.network, loader, compute, check, ranks)
        skipped = int(ranks.sum(torch.tensor(len(loader.skipped))))
    if not ranks.first:
        return None
    scores = score(found.labels, found.probabilities)
    epoch = session.best["epoch"] if session.best else session.progress.epoch
    if trained.checkpoint == "best":
        chosen = f"epoch {epoch}, the best on validation"
    else:
        chosen = f"the last epoch, {epoch}"
    result = {
        "run": str(run.path),
        "loader": feeding.loader,
        "device": str(compute.device),
        "precision": compute.precision,
        "weights": run.config()["weights"],
        "epochs": session.progress.epoch,
        "steps": session.progress.step,
        "checkpoint": trained.checkpoint,
        "checkpoint_epoch": epoch,
        "test_accuracy": scores["accuracy"],
        "test_qwk": scores["qwk"],
        **_speed(session),
        "skipped": sum(row.get("skipped") or 0 for row in session.rows),
        "decoded_again": sum(row.get("decoded_again") or 0 for row in session.rows),
        "test_skipped": skipped,
        "weights_sha256": trained.weights_sha256,
    }
    run.write_metrics({**result, "test": scores})
    name = f"{run.path.name}, {chosen}, weights {trained.weights_sha256[:12]}"
    majority = max(map(sum, scores["confusion"])) / scores["samples"]
    draw_curves(run.path / "curves.png", session.rows, majority, name)
    draw_confusion(run.path / "confusion.png", scores["confusion"], f"{name}\ntest")
    print(f"test, with the weights of {chosen}:")
    print(table(scores))
    print(f"figures: {run.path / 'curves.png'}, {run.path / 'confusion.png'}")
    return result


def _speed(session: Session) -> dict[str, float]:
    """Training speed over the whole run, evaluations left out."""
    seconds = sum(row["seconds"] for row in session.rows)
    images = sum(row["images_per_second"] * row["seconds"] for row in session.rows)
    waited = sum(row["wait_seconds"] for row in session.rows)
    return {
        "images_per_second": round(images / max(seconds, 1e-9), 2),
        "wait_fraction": round(waited / max(seconds, 1e-9), 4),
    }
