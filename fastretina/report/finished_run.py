"""All that a run folder says of a finished run, checked before anything is shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastretina.metrics.predictions import Predictions
from fastretina.metrics.scores import score
from fastretina.recipe import Recipe
from fastretina.run import COLUMNS, Run
from loaders.errors import RunError

_NEEDED = ("test", "checkpoint", "checkpoint_epoch", "weights_sha256", "weights")
_SHOWN = ("train_loss", "images_per_second", "wait_seconds", "seconds")  # of the log


@dataclass(frozen=True, kw_only=True, slots=True)
class FinishedRun:
    """A finished run, as its folder tells of it.

    Attributes:
        run: its folder.
        recipe: that it was trained by.
        config: of ``config.json``.
        metrics: of ``metrics.json``; its ``test`` has the shape of ``metrics.score``.
        log: the rows of ``log.csv``, numbers as numbers, None where nothing stands.
        test: the predictions that the metrics are of.
    """

    run: Run
    recipe: Recipe
    config: Mapping[str, Any]
    metrics: Mapping[str, Any]
    log: Sequence[Mapping[str, Any]]
    test: Predictions

    @property
    def name(self) -> str:
        """Of the run: its folder's, whose bytes need not be text."""
        return self.run.path.resolve().name.encode(errors="replace").decode()

    @property
    def checkpoint(self) -> str:
        """What every figure says it is of, in a line."""
        chosen = (
            "best on validation" if self.metrics["checkpoint"] == "best" else "last"
        )
        return (
            f"{self.name}, epoch {self.metrics['checkpoint_epoch']} ({chosen}), "
            f"weights {self.short_id}"
        )

    @property
    def short_id(self) -> str:
        """The first 12 digits of the SHA-256 of the weights."""
        digits: str = self.metrics["weights_sha256"][:12]
        return digits

    @property
    def scores(self) -> Mapping[str, Any]:
        """On test, in the shape of ``metrics.score``."""
        scores: Mapping[str, Any] = self.metrics["test"]
        return scores

    @property
    def intervals(self) -> Mapping[str, Any]:
        """Of the scores, in their shape; empty where none were computed."""
        intervals: Mapping[str, Any] = self.scores.get("intervals") or {}
        return intervals


def read_finished_run(run: Run) -> FinishedRun:
    """Read a run folder.

    Raises:
        RunError: it holds no run, an unfinished or a damaged one, or files of different
            checkpoints.
    """
    config = run.config()
    recipe = run.recipe()
    path = run.path / "metrics.json"
    if not path.exists():
        raise RunError(
            f"{run.path} is not finished: it has no metrics.json yet; "
            f"python -m fastretina.train --resume {run.path} ends it"
        )
    metrics = run.metrics()
    test = Predictions.load(run.path / "test.parquet")
    if missing := [name for name in _NEEDED if name not in metrics]:
        raise RunError(f"{path} is damaged: no {missing[0]!r}")
    _check_config(config, run)
    _check_rest(metrics, path)
    if test.about.get("weights_sha256") != metrics["weights_sha256"]:
        raise RunError(
            f"{path} and test.parquet are of different checkpoints; "
            f"python -m fastretina.train --resume {run.path} writes both anew"
        )
    _check_scores(metrics["test"], test, path)
    return FinishedRun(
        run=run,
        recipe=recipe,
        config=config,
        metrics=metrics,
        log=read_log(run),
        test=test,
    )


def _check_scores(saved: object, test: Predictions, path: Path) -> None:
    """The predictions must give these very counts, and nothing may be missing."""
    if not len(test):
        raise RunError(f"{path.parent / 'test.parquet'} is damaged: it has no sample")
    fresh = score(test.labels, test.probabilities).summary()
    collapse = fresh.pop("collapse")
    if not isinstance(saved, dict) or not _alike(saved, fresh, _is_number):
        raise RunError(
            f"{path} is damaged, or of an older version: its test scores lack something"
        )
    unsure = {k: v for k, v in fresh.items() if k not in ("samples", "confusion")}
    intervals = saved.get("intervals") or None
    if intervals is not None and not _alike(intervals, unsure, _is_interval):
        raise RunError(f"{path} is damaged: its intervals are not those of its scores")
    if (saved["confusion"], saved.get("collapse")) != (fresh["confusion"], collapse):
        raise RunError(
            f"{path} and test.parquet are of different evaluations; "
            f"python -m fastretina.train --resume {path.parent} writes both anew"
        )


def _check_config(config: Mapping[str, Any], run: Run) -> None:
    shape = config["image_shape"]
    if not isinstance(config["data"], dict) or not _alike(shape, [1, 1], _is_number):
        raise RunError(
            f"{run.path / 'config.json'} is damaged: its data or image_shape is none"
        )


def _check_rest(metrics: Mapping[str, Any], path: Path) -> None:
    """What may be absent, but not in part."""
    for name, whole in _OPTIONAL.items():
        saved = metrics.get(name)
        if saved is not None and not _alike(saved, whole, _may_be_number):
            raise RunError(f"{path} is damaged: its {name} lacks something")
    rules = metrics.get("baselines") or {}
    for rule in rules.values() if isinstance(rules, dict) else [rules]:
        if not _alike(rule, _POINT, _may_be_number) or not isinstance(
            rule.get("about"), str
        ):
            raise RunError(f"{path} is damaged: its baselines lack something")


# The QWK of one grade alone is undefined.
_POINT = {"accuracy": 0.0, "balanced_accuracy": 0.0, "qwk": None, "macro_f1": 0.0}
_OPTIONAL = {
    "leak": {"eyes": 0, "total": 0},
    "calibration": {"temperature": 1.0, "thresholds": [0.0] * 4, "samples": 0},
    "calibrated": {"calibration_error": 0.0, "thresholds": _POINT},
    "prior_corrected": _POINT,
    "pairs": {"pairs": 0, "fitted_on": 0},
}


def _alike(
    saved: object, fresh: object, leaf: Callable[[object, object], bool]
) -> bool:
    """Whether there is, of all that is in ``fresh``, something of its kind."""
    if isinstance(fresh, dict):
        return isinstance(saved, dict) and all(
            name in saved and _alike(saved[name], value, leaf)
            for name, value in fresh.items()
        )
    if isinstance(fresh, list):
        return (
            isinstance(saved, list)
            and len(saved) == len(fresh)
            and all(_alike(*both, leaf) for both in zip(saved, fresh, strict=True))
        )
    return leaf(saved, fresh)


def _is_number(saved: object, fresh: object) -> bool:
    if saved is None or fresh is None:
        return saved is fresh
    return isinstance(saved, (int, float)) and not isinstance(saved, bool)


def _may_be_number(saved: object, fresh: object) -> bool:
    """Whether it is a number; or nothing, where ``fresh`` is None."""
    return (saved is None and fresh is None) or _is_number(saved, 0.0)


def _is_interval(saved: object, _fresh: object) -> bool:
    if saved is None:
        return True
    return (
        isinstance(saved, list)
        and len(saved) == 2
        and all(_is_number(end, 0.0) for end in saved)
    )


def read_log(run: Run) -> list[dict[str, Any]]:
    """The rows of ``log.csv``, each with all of its columns.

    Raises:
        RunError: it is missing or damaged.
    """
    rows = [dict.fromkeys(COLUMNS) | row for row in run.log()]
    needed = ("epoch", "phase", *_SHOWN)
    lacking = [name for row in rows for name in needed if row[name] is None]
    if lacking or not rows:
        what = f"a row has no {lacking[0]}" if lacking else "it holds no epoch"
        raise RunError(f"{run.path / 'log.csv'} is damaged: {what}")
    return rows
