"""All that there is of a finished run: as it finishes, or read from its folder.

config.json   ->  RunConfig              --+
metrics.json  ->  RunResult, Evaluation  --+-->  FinishedRun  ->  page, figures, card
log.csv       ->  LoggedEpoch, ...       --+
test.parquet  ->  Predictions            --+
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

from fastretina.metrics.evaluation import Evaluation
from fastretina.metrics.intervals import CutIntervals, ScoresWithIntervals
from fastretina.metrics.predictions import Predictions
from fastretina.metrics.scores import CutScores, Scores, score
from fastretina.report.grade_meanings import CUTS, Cut
from fastretina.run import LoggedEpoch, Run, as_record
from fastretina.run_config import RunConfig
from fastretina.run_result import RunResult
from loaders.errors import RunError
from loaders.shards import Origin


@dataclass(frozen=True, kw_only=True, slots=True)
class FinishedRun:
    """A finished run, whose files agree with one another.

    Attributes:
        folder: The run folder.
        config: What it was made with.
        result: What it ended with.
        evaluation: Its evaluation on test.
        log: Epochs of ``log.csv``, in order.
        test: The test predictions that the metrics are of.
    """

    folder: Run
    config: RunConfig
    result: RunResult
    evaluation: Evaluation
    log: Sequence[LoggedEpoch]
    test: Predictions

    @property
    def name(self) -> str:
        """The folder's name, as text, which its bytes need not be."""
        return self.folder.path.resolve().name.encode(errors="replace").decode()

    @property
    def checkpoint(self) -> str:
        """Run, epoch and weights in a line, as every figure bears it."""
        best = self.result.checkpoint == "best"
        return (
            f"{self.name}, epoch {self.result.checkpoint_epoch} "
            f"({'best on validation' if best else 'last'}), weights {self.short_id}"
        )

    @property
    def chosen_epoch(self) -> str:
        """Which epoch's weights are judged, e.g. ``the last epoch, 15``."""
        if self.result.checkpoint == "best":
            return f"epoch {self.result.checkpoint_epoch}, the best on validation"
        return f"the last epoch, {self.result.checkpoint_epoch}"

    @property
    def short_id(self) -> str:
        """The first 12 digits of the SHA-256 of the weights."""
        return self.result.weights_sha256[:12]

    @property
    def scores(self) -> ScoresWithIntervals:
        """The scores on test, with their intervals."""
        return self.evaluation.test

    @property
    def cuts(self) -> list[tuple[Cut, CutScores, CutIntervals]]:
        """The clinical cuts of ``CUTS``, each with its scores and their intervals."""
        scores, ends = self.scores, self.scores.intervals
        referable, sight_threatening = CUTS
        return [
            (referable, scores.referable, ends.referable),
            (sight_threatening, scores.sight_threatening, ends.sight_threatening),
        ]

    @property
    def shares_no_patient(self) -> bool:
        """Whether no test patient was trained on, for sure."""
        leak = self.evaluation.leak
        return leak is not None and not leak.eyes and self.patients_known

    @property
    def patients_known(self) -> bool:
        """Whether every patient is known, of train and of test."""
        leak = self.evaluation.leak
        return leak is not None and leak.unknown == 0

    @property
    def num_patients(self) -> int:
        """Number of patients, as far as they are known, that it was tested on."""
        known = zip(self.test.patients, self.test.patient_known, strict=True)
        return len({patient for patient, is_known in known if is_known})

    @property
    def patients_unknown(self) -> int:
        """Number of test photographs whose patient is unknown."""
        return list(self.test.patient_known).count(False)

    @property
    def test_origin(self) -> Origin:
        """Where the test photographs come from."""
        return self.config.data.test_origin or self.config.data.origin


def read_finished_run(run: Run) -> FinishedRun:
    """Read a finished run.

    Raises:
        RunError: it is not finished, it is damaged, or its files are of different
            evaluations.
    """
    config = run.config()
    saved, path = run.metrics(), run.path / "metrics.json"
    result = as_record(saved, RunResult, path)
    evaluation = as_record(saved, Evaluation, path)
    test = Predictions.load(run.path / "test.parquet")
    if test.source.weights_sha256 != result.weights_sha256:
        raise RunError(
            f"{path} and test.parquet are of different checkpoints; "
            f"'fastretina train --resume {run.path}' writes both anew"
        )
    _check_scores(evaluation.test, test, path)
    return FinishedRun(
        folder=run,
        config=config,
        result=result,
        evaluation=evaluation,
        log=run.log(),
        test=test,
    )


def _check_scores(saved: Scores, test: Predictions, path: Path) -> None:
    """The predictions must give these very counts, and nothing may be missing."""
    if not len(test):
        raise RunError(f"{path.parent / 'test.parquet'} is damaged: it has no sample")
    fresh = score(test.labels, test.probabilities)
    if _undefined(saved) != _undefined(fresh):
        raise RunError(
            f"{path} is damaged, or of an older version: its test scores lack something"
        )
    if (saved.confusion, saved.collapse) != (fresh.confusion, fresh.collapse):
        raise RunError(
            f"{path} and test.parquet are of different evaluations; "
            f"'fastretina train --resume {path.parent}' writes both anew"
        )


def _undefined(scores: Scores) -> list[bool]:
    """Which scores are undefined, of those that can be."""
    cuts = (*astuple(scores.referable), *astuple(scores.sight_threatening))
    by_grade = (*scores.recall, *scores.precision, *scores.auc)
    return [value is None for value in (scores.qwk, *by_grade, *cuts)]
