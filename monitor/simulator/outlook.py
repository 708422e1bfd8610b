"""How well the end of a virtual embryo could be told by one who knows the truth so far: a ceiling for every predictor.

A logistic regression on the life's own parameters that are known at an hour: onsets so far, fragmentation, unevenness,
direct cleavage, several nuclei, fusions seen. Cross-validated over lives. It refuses to know pictures and the hours to
come.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from monitor.simulator.fate import DIVISIONS
from monitor.simulator.life import Life
from monitor.simulator.tables import ONSET_H

Floats = npt.NDArray[np.float64]

_TIMED = ("tPNf", "t2", "t3", "t4", "t5", "t6", "t7", "t8", "t9+", "tM", "tSB", "tB")
_FOLDS = 5


def known_by(life: Life, hpi_h: float) -> list[float]:
    """What the truth up to `hpi_h` says about one embryo, in numbers of about unit size; 0: nothing yet."""
    seen = {phase: onset_h for phase, onset_h in life.onsets_h.items() if onset_h <= hpi_h}
    cleaved, waits_h = "t2" in seen, hpi_h - max(seen.values(), default=0.0)
    row = [3 * life.fragmentation_ratio**0.5 * cleaved, 6 * life.unevenness * cleaved]
    row += [float(life.direct_cleavage and "t3" in seen), float(len(life.multinucleated) * cleaved)]
    row += [float(any(start_h <= hpi_h for start_h, _ in life.reverse_cleavage)), waits_h / 20]
    furthest = max((_TIMED.index(phase) for phase in seen if phase in _TIMED), default=-1)
    for i, phase in enumerate(_TIMED):
        _, p25_h, p50_h, p75_h, _ = ONSET_H[phase]
        late = (seen[phase] - p50_h) / (p75_h - p25_h) if phase in seen else 0.0
        row += [float(i <= furthest), late, 0.3 * late * late]
        row += [float(phase in seen)] if phase in DIVISIONS else []
    return row


def _with_products(known: Floats) -> Floats:
    """Rows of `known_by`, and the products that matter."""
    fragments, uneven, waits = known[:, 0], known[:, 1], known[:, 5]
    return np.column_stack([known, fragments * uneven, fragments**2, waits**2, waits * fragments])


def _features(lives: Sequence[Life], hpi_h: float) -> Floats:
    x = _with_products(np.array([known_by(life, hpi_h) for life in lives]))
    spread = x.std(axis=0)
    return np.asarray((x - x.mean(axis=0)) / np.where(spread > 0, spread, 1.0))


@dataclass(frozen=True)
class Outlook:
    """The regression of one hour: what was taken off and divided by, the offset, and a weight for each feature."""

    middle: Floats
    spread: Floats
    offset: float
    weights: Floats

    @classmethod
    def fit(cls, lives: Sequence[Life], hpi_h: float) -> Outlook:
        """From what is known of `lives` at that hour and whether they reach tB."""
        x = _with_products(np.array([known_by(life, hpi_h) for life in lives]))
        spread = np.where(x.std(axis=0) > 0, x.std(axis=0), 1.0)
        reaches = np.array([float(life.reaches_blastocyst) for life in lives])
        weights = _logistic((x - x.mean(axis=0)) / spread, reaches)
        return cls(x.mean(axis=0), spread, float(weights[0]), weights[1:])

    def logits(self, known: Floats) -> Floats:
        """Rows of `known_by` (N, D) -> (N,) log odds of reaching tB."""
        return np.asarray(self.offset + (_with_products(known) - self.middle) / self.spread @ self.weights)


def _logistic(x: Floats, y: Floats, ridge: float = 3.0) -> Floats:
    """Weights (D + 1,) by Newton steps on the ridge-penalised likelihood; the first is the offset."""
    x1 = np.column_stack([np.ones(len(x)), x])
    weights = np.zeros(x1.shape[1])
    keep = np.diag([0.0, *[ridge] * x.shape[1]])
    for _ in range(12):
        p = 1 / (1 + np.exp(-np.clip(x1 @ weights, -30, 30)))
        slope = x1.T @ (y - p) - keep @ weights
        curve = (x1 * (p * (1 - p))[:, None]).T @ x1 + keep
        weights += np.linalg.solve(curve + 1e-9 * np.eye(len(curve)), slope)
    return weights


def roc_auc(scores: Floats, truth: npt.NDArray[np.bool_]) -> float:
    """Share of (yes, no) pairs in which the yes scores higher; ties count half."""
    order = np.unique(scores, return_inverse=True)[1]
    counts = np.bincount(order)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[order]
    yes = int(truth.sum())
    return float((ranks[truth].sum() - yes * (yes + 1) / 2) / (yes * (len(truth) - yes)))


def outlook_auc(lives: Sequence[Life], hpi_h: float) -> float:
    """ROC AUC for reaching tB, of those scored by a regression that did not see them."""
    x, truth = _features(lives, hpi_h), np.array([life.reaches_blastocyst for life in lives])
    fold = np.arange(len(lives)) % _FOLDS
    scores = np.zeros(len(lives))
    for k in range(_FOLDS):
        weights = _logistic(x[fold != k], truth[fold != k].astype(np.float64))
        scores[fold == k] = weights[0] + x[fold == k] @ weights[1:]
    return roc_auc(scores, truth)
