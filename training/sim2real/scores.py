"""Figures from predictions: accuracy with its scatter, confusion, recall, and what time adds to a video.

Does: arithmetic on arrays of probabilities (N, 6) and stages (N,). Refuses to know: pictures, files, the network.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from training import metrics
from training.sim2real.labels import STAGES

Floats = npt.NDArray[np.float64]
Stages = npt.NDArray[np.int64]

PRIOR_WEIGHT = 0.5  # weak: a strong hour prior hides the slow and the fast embryo
BLOCK_FRAMES = 12  # three hours of a video: neighbours are nearly the same picture


def accuracy(said: Stages, truth: Stages) -> float:
    """Share of pictures that were called right."""
    return float((said == truth).mean())


def scatter(right: npt.NDArray[np.bool_], block: int, rounds: int = 1000, seed: int = 0) -> float:
    """Standard deviation of the accuracy when blocks of consecutive pictures are drawn again with replacement."""
    rng = np.random.default_rng(seed)
    sums = np.add.reduceat(right.astype(np.float64), np.arange(0, len(right), block))
    counts = np.add.reduceat(np.ones(len(right)), np.arange(0, len(right), block))
    drawn = rng.integers(0, len(sums), (rounds, len(sums)))
    return float((sums[drawn].sum(1) / counts[drawn].sum(1)).std())


def confusion(said: Stages, truth: Stages) -> npt.NDArray[np.int64]:
    """(6, 6) counts: row is what it is, column what was said."""
    return metrics.confusion(said, truth, len(STAGES))


def recall(table: npt.NDArray[np.int64]) -> list[float | None]:
    """Share called right of each stage; None where the set has none of it."""
    return [float(row[i] / row.sum()) if row.sum() else None for i, row in enumerate(table)]


def monotone(probabilities: Floats, prior: Floats | None = None, weight: float = PRIOR_WEIGHT) -> Stages:
    """(N, 6) in order of time -> the likeliest sequence of stages that never steps back (it may skip).

    `prior` (N, 6): what the hour alone says, taken to the power `weight`.
    """
    score = np.log(np.maximum(probabilities, 1e-6))
    if prior is not None:
        score = score + weight * np.log(prior)
    best, came_from = score[0].copy(), np.zeros(score.shape, np.int64)
    for i in range(1, len(score)):
        reach = np.maximum.accumulate(best)
        came_from[i] = [int(best[: stage + 1].argmax()) for stage in range(score.shape[1])]
        best = reach + score[i]
    path = np.zeros(len(score), np.int64)
    path[-1] = int(best.argmax())
    for i in range(len(score) - 1, 0, -1):
        path[i - 1] = came_from[i, path[i]]
    return path


def confusion_text(table: npt.NDArray[np.int64]) -> str:
    """The table for a terminal or a log: rows are the truth, columns what was said, the last column the recall."""
    return metrics.text(table, STAGES)
