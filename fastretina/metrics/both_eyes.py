"""Both eyes of a patient together: a small second stage on the network's answers.

Fellow eyes have the same grade in 87 % of the 17,560 pairs of the Kaggle set, so what
the network says of one eye tells of the other: the runner-up of the 2015 competition
won 0.021 QWK by it. The stage is a regularised logistic regression on the
log-probabilities of an eye and of its fellow, blended with what the network says of the
eye alone; a cross-validation over patients chooses how much of each. Each eye is once
the first, so left and right are treated alike.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from fastretina.metrics.comparison import Contender, Difference, compare
from fastretina.metrics.predictions import Predictions
from fastretina.metrics.scores import Scores, score
from fastretina.metrics.statistics import GRADE_STATISTICS
from fastretina.wall_clock import part
from loaders.arrays import Float64, Int64
from loaders.errors import RunError
from loaders.grades import GRADES

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression


FEWEST_PAIRS = 20
_LEAST = 1e-4  # a probability below it is noise, and its logarithm would rule the fit
_STRENGTHS = (0.001, 0.01, 0.1, 1.0)  # inverse, as scikit-learn's C; strongest first
_SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the regression; 0 is the eye alone
_FOLDS = 5
FELLOW = {"left": "right", "right": "left"}


class FusionError(RunError):
    """Predictions from which no fusion can be fitted, or on which none be judged."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fusion:
    """A fitted second stage.

    Attributes:
        model: takes float64[N, 10], the logarithms of both eyes' probabilities.
        pairs: number of pairs of eyes that it was fitted on.
        strength: the inverse regularisation that cross-validation chose.
        share: weight of the regression in the answer, 0 to 1; 0 where the fellow eye is
            of no use.
    """

    model: LogisticRegression
    pairs: int
    strength: float
    share: float

    def fused(self, own: Float64, fellow: Float64) -> Float64:
        """The first eye's probabilities by both eyes, float64[N, 5].

        A grade that no eye of the fit had keeps the probability that the network gave.

        Args:
            own: float64[N, 5], the network's probabilities for each eye.
            fellow: float64[N, 5], those for the other eye of the same patient.
        """
        both = _answer(self.model, own, fellow)
        blended: Float64 = self.share * both + (1 - self.share) * own
        return blended


def pairs_of(predicted: Predictions) -> tuple[Int64, Int64]:
    """Find the eyes whose fellow is there, too.

    Returns:
        Their positions, int64[M]; the positions of their fellows, int64[M]. A pair
        counts twice, each eye once the first.
    """
    eyes = zip(predicted.patients, predicted.eyes, strict=True)
    places = {eye: place for place, eye in enumerate(eyes) if eye[1]}
    both = [
        (place, places[patient, FELLOW.get(side, "")])
        for (patient, side), place in places.items()
        if (patient, FELLOW.get(side, "")) in places
    ]
    own, fellow = np.array(sorted(both), np.int64).reshape(-1, 2).T
    return own, fellow


def fit_fusion(validation: Predictions) -> Fusion:
    """Fit on the pairs of a validation split; the same split gives the same fusion.

    The regularisation is chosen by the log-loss of a cross-validation over patients.

    Raises:
        FusionError: the split has too few pairs, or one grade only.
    """
    own, fellow = pairs_of(validation)
    _refuse_few(validation, own)
    labels = validation.labels[own]
    one, other = validation.probabilities[own], validation.probabilities[fellow]
    patients = np.array([validation.patients[place] for place in own])
    folds = _folds(labels, patients)
    choices = {}
    for strength in _STRENGTHS:
        both = _out_of_fold(one, other, labels, folds, strength)
        for share in _SHARES:
            blended = share * both + (1 - share) * one
            choices[share, strength] = _loss(labels, blended)
    share, strength = min(choices, key=lambda choice: (choices[choice], choice))
    return Fusion(
        model=_regression(one, other, labels, strength),
        pairs=len(own) // 2,
        strength=strength,
        share=share,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class FusionJudgement:
    """What a second stage is worth on the eyes of test that have their fellow there.

    Attributes:
        pairs: number of pairs of eyes in test.
        fitted_on: number of pairs in validation, which the fusion was fitted on.
        share: weight of the regression in the answer, 0 to 1.
        single: scores of the paired eyes, each alone.
        fused: scores of the same eyes with the fusion.
        differences: fused less single by each of ``GRADE_STATISTICS``, in that order.
    """

    pairs: int
    fitted_on: int
    share: float
    single: Scores
    fused: Scores
    differences: list[Difference]

    def __post_init__(self) -> None:
        found = tuple(each.statistic for each in self.differences)
        if found != GRADE_STATISTICS:
            raise ValueError(
                f"differences must be those of {', '.join(GRADE_STATISTICS)}, "
                f"got {', '.join(found) or 'none'}"
            )

    def difference(self, statistic: str) -> Difference:
        """Fused less single, by one of ``GRADE_STATISTICS``."""
        return self.differences[GRADE_STATISTICS.index(statistic)]


def judge_fusion(validation: Predictions, test: Predictions) -> FusionJudgement:
    """Compare fused with single-eye predictions on the paired eyes of test.

    Args:
        validation: the predictions to fit the fusion on.
        test: the same network's predictions, on other patients.

    Raises:
        FusionError: validation has too few pairs, or test none.
    """
    fusion = fit_fusion(validation)
    own, fellow = pairs_of(test)
    if not len(own):
        raise FusionError("test has no patient with both eyes: fusion can't be judged")
    single = test.probabilities[own]
    fused = fusion.fused(single, test.probabilities[fellow])
    labels = test.labels[own]
    patients = [test.patients[place] for place in own]
    differences = compare(
        labels,
        Contender("both eyes", [fused.argmax(axis=1)]),
        Contender("one eye", [single.argmax(axis=1)]),
        patients,
    )
    return FusionJudgement(
        pairs=len(own) // 2,
        fitted_on=fusion.pairs,
        share=fusion.share,
        single=score(labels, single),
        fused=score(labels, fused),
        differences=differences,
    )


def _features(own: Float64, fellow: Float64) -> Float64:
    logarithms: Float64 = np.log(np.maximum(np.hstack([own, fellow]), _LEAST))
    return logarithms


def _regression(
    own: Float64, fellow: Float64, labels: Int64, strength: float
) -> LogisticRegression:
    with part("imports"):
        from sklearn.linear_model import LogisticRegression

    # 10 steps, where lbfgs takes 300: the logarithms of a row go up and down together.
    bare = LogisticRegression(C=strength, solver="newton-cg", max_iter=500)
    return bare.fit(_features(own, fellow), labels)


def _answer(model: LogisticRegression, own: Float64, fellow: Float64) -> Float64:
    """The regression's probabilities, the network's where it has not seen the grade."""
    known: Int64 = model.classes_
    answer = np.array(own, np.float64)
    answer[:, known] = 0
    left = 1 - answer.sum(axis=1, keepdims=True)
    answer[:, known] = left * model.predict_proba(_features(own, fellow))
    return answer


def _folds(labels: Int64, patients: npt.NDArray[np.str_]) -> list[tuple[Int64, Int64]]:
    """Rows to fit on and rows to judge by, ``_FOLDS`` times; no patient is in both."""
    with part("imports"):
        from sklearn.model_selection import StratifiedGroupKFold

    with warnings.catch_warnings():
        # A grade rarer than there are folds: all that can be done is done.
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        return list(StratifiedGroupKFold(_FOLDS).split(labels, labels, patients))


def _out_of_fold(
    own: Float64,
    fellow: Float64,
    labels: Int64,
    folds: list[tuple[Int64, Int64]],
    strength: float,
) -> Float64:
    """Probabilities float64[N, 5] by regressions that did not see the eye's patient."""
    answers: Float64 = own.copy()
    for fitted, out in folds:
        if len(np.unique(labels[fitted])) > 1:
            model = _regression(own[fitted], fellow[fitted], labels[fitted], strength)
            answers[out] = _answer(model, own[out], fellow[out])
    return answers


def _loss(labels: Int64, probabilities: Float64) -> float:
    chosen = probabilities[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(chosen, _LEAST)).mean())


def _refuse_few(validation: Predictions, own: Int64) -> None:
    pairs, grades = len(own) // 2, np.unique(validation.labels[own])
    if pairs < FEWEST_PAIRS:
        raise FusionError(
            f"fusion must be fitted on at least {FEWEST_PAIRS} patients with both eyes,"
            f" and validation has {pairs}; train with a larger --validation share"
        )
    if len(grades) < 2:
        raise FusionError(
            "fusion must be fitted on at least two grades, and all "
            f"{pairs} pairs of validation are of grade {grades[0]} "
            f"({GRADES[grades[0]]}); train with a larger --validation share"
        )
