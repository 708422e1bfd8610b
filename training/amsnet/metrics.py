"""What predictions are worth: accuracy over time, ROC, calibration, the four rates, each with its interval.

Pure arithmetic on arrays: N embryos, `scores` (N,) probabilities, `truth` (N,) bool. It refuses to know networks,
pictures and files. An interval comes from drawing embryos anew, never frames: the frames of one embryo are one case.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from monitor.simulator.outlook import roc_auc

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.int64]

DAYS = tuple(0.5 * n for n in range(1, 15))  # Table 1's columns
ROC_DAYS = (3.0, 4.0, 5.0)
_ROUNDS = 2000
_Z95 = 1.959964


@dataclass(frozen=True)
class Estimate:
    """A figure and where it lies in 95 of 100 draws of as many embryos. NaN where it does not exist."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return "none".ljust(20) if np.isnan(self.value) else f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def auc(scores: Floats, truth: Bools) -> float:
    """Area under the ROC curve, ties counting half; NaN without both outcomes."""
    if truth.all() or not truth.any():
        return float("nan")
    return roc_auc(scores, truth)


def accuracy(scores: Floats, truth: Bools, threshold: float = 0.5) -> float:
    """Share of embryos called right; NaN without embryos."""
    return float(((scores > threshold) == truth).mean()) if len(truth) else float("nan")


def bootstrap(figure: Callable[[Rows], float], embryos: int, rounds: int = _ROUNDS, seed: int = 0) -> Estimate:
    """`figure` of the rows it is given (indices into the embryos), over draws with replacement; the same every time.

    Draws in which it does not exist (all of one outcome) are left out.
    """
    rng = np.random.default_rng((seed, 0xB007))
    drawn = np.array([figure(rng.integers(0, embryos, embryos)) for _ in range(rounds if embryos else 0)])
    drawn = drawn[np.isfinite(drawn)]
    if not len(drawn):
        return Estimate(figure(np.arange(embryos)), float("nan"), float("nan"))
    low, high = np.percentile(drawn, (2.5, 97.5))
    return Estimate(figure(np.arange(embryos)), float(low), float(high))


def auc_interval(scores: Floats, truth: Bools, rounds: int = _ROUNDS) -> Estimate:
    return bootstrap(lambda rows: auc(scores[rows], truth[rows]), len(truth), rounds)


def auc_difference(scores: Floats, others: Floats, truth: Bools, rounds: int = _ROUNDS) -> Estimate:
    """AUC of `scores` less that of `others`, paired: both are judged on the same draws of the same embryos."""
    return bootstrap(lambda rows: auc(scores[rows], truth[rows]) - auc(others[rows], truth[rows]), len(truth), rounds)


def accuracy_difference(scores: Floats, others: Floats, truth: Bools, rounds: int = _ROUNDS) -> Estimate:
    """Accuracy of `scores` less that of `others`, paired."""
    return bootstrap(
        lambda rows: accuracy(scores[rows], truth[rows]) - accuracy(others[rows], truth[rows]), len(truth), rounds
    )


def area_over_days(accuracies: Sequence[float], days: Sequence[float] = DAYS) -> float:
    """Trapezoids over days .5 to 7 divided by 7, as the paper's Table 1 has it (.7633 from its own row 11).

    NaN where a column has no embryo: an area over fewer days would be another figure.
    """
    middles, widths = (np.asarray(accuracies[1:]) + np.asarray(accuracies[:-1])) / 2, np.diff(days)
    return float((middles * widths).sum() / days[-1])


def roc_curve(scores: Floats, truth: Bools) -> tuple[Floats, Floats]:
    """False and true positive rates (K,), each from 0 to 1, one corner for each different score."""
    order = np.argsort(-scores, kind="stable")
    last_of_score = np.append(np.diff(scores[order]) != 0, True)
    true, false = np.cumsum(truth[order])[last_of_score], np.cumsum(~truth[order])[last_of_score]
    return np.append(0.0, false / max((~truth).sum(), 1)), np.append(0.0, true / max(truth.sum(), 1))


@dataclass(frozen=True)
class Bin:
    """Of the predictions that lie from `low` to `high`: how many, what they said on average, what came true."""

    low: float
    high: float
    count: int
    said: float
    came_true: float


def reliability(scores: Floats, truth: Bools, bins: int = 10) -> list[Bin]:
    """The bins of equal width that hold a prediction."""
    edges = np.linspace(0, 1, bins + 1)
    where = np.clip(np.digitize(scores, edges[1:-1]), 0, bins - 1)
    held = [(i, where == i) for i in range(bins) if (where == i).any()]
    return [
        Bin(float(edges[i]), float(edges[i + 1]), int(own.sum()), float(scores[own].mean()), float(truth[own].mean()))
        for i, own in held
    ]


def expected_calibration_error(scores: Floats, truth: Bools, bins: int = 10) -> float:
    """Mean distance of what was said from what came true, over bins of equal width, each by its share of embryos.

    NaN without embryos.
    """
    held = reliability(scores, truth, bins)
    off = sum(one.count * abs(one.said - one.came_true) for one in held)
    return off / len(truth) if len(truth) else float("nan")


def brier(scores: Floats, truth: Bools) -> float:
    """Mean squared distance of the probability from 0 or 1; NaN without embryos."""
    return float(np.square(scores - truth).mean()) if len(truth) else float("nan")


@dataclass(frozen=True)
class Rates:
    """At one threshold: the four counts and the four shares that a clinic asks for, by embryo."""

    true_positives: int
    false_positives: int
    true_negatives: int
    false_negatives: int

    @property
    def sensitivity(self) -> Estimate:
        """Of those that reach the blastocyst stage, the share that was foretold."""
        return share(self.true_positives, self.true_positives + self.false_negatives)

    @property
    def specificity(self) -> Estimate:
        """Of those that do not, the share that was foretold not to."""
        return share(self.true_negatives, self.true_negatives + self.false_positives)

    @property
    def ppv(self) -> Estimate:
        """Of those foretold to, the share that does."""
        return share(self.true_positives, self.true_positives + self.false_positives)

    @property
    def npv(self) -> Estimate:
        """Of those foretold not to, the share that does not."""
        return share(self.true_negatives, self.true_negatives + self.false_negatives)


def rates(scores: Floats, truth: Bools, threshold: float = 0.5) -> Rates:
    said = scores > threshold
    counts = (said & truth, said & ~truth, ~said & ~truth, ~said & truth)
    return Rates(*(int(count.sum()) for count in counts))


def share(part: int, whole: int) -> Estimate:
    """A share with Wilson's 95 % interval, which stays within 0 and 1 and holds at shares of 0 or 1; NaN of nothing."""
    if whole == 0:
        return Estimate(float("nan"), float("nan"), float("nan"))
    p, z2 = part / whole, _Z95**2
    middle = (p + z2 / (2 * whole)) / (1 + z2 / whole)
    half = _Z95 * float(np.sqrt(p * (1 - p) / whole + z2 / (4 * whole**2))) / (1 + z2 / whole)
    return Estimate(p, max(min(middle - half, p), 0.0), min(max(middle + half, p), 1.0))
