"""Figures of a classification, from a table of counts: one copy for stages, pixels and grades.

Axes: K classes; a table (K, K) has the truth in rows and what was said in columns. Refuses to know what a class is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]


def confusion(said: npt.ArrayLike, truth: npt.ArrayLike, classes: int) -> Counts:
    """(K, K) counts of two integer arrays of one shape, each value below `classes`. Raises ValueError otherwise."""
    one, other = np.asarray(said).ravel().astype(np.int64), np.asarray(truth).ravel().astype(np.int64)
    if one.shape != other.shape:
        raise ValueError(f"{one.size} answers to {other.size} questions")
    if one.size and (min(one.min(), other.min()) < 0 or max(one.max(), other.max()) >= classes):
        raise ValueError(f"classes go from 0 to {classes - 1}")
    return np.bincount(other * classes + one, minlength=classes * classes).reshape(classes, classes)


@dataclass(frozen=True)
class PerClass:
    """Figures (K,) of each class against the rest; NaN where a class was neither there nor said.

    `accuracy` counts the rest's agreement too; `dice` is also the F1 score.
    """

    accuracy: Floats
    precision: Floats
    recall: Floats
    dice: Floats
    jaccard: Floats

    def mean(self) -> dict[str, float]:
        """Macro mean of each figure over the classes that occur; NaN of nothing."""
        return {name: mean_of(values) for name, values in self.__dict__.items()}


def per_class(table: Counts) -> PerClass:
    """A class that is there but never said has precision 0, one that is said but never there has recall 0."""
    hit = np.diag(table).astype(np.float64)
    there, said, total = table.sum(1) - hit, table.sum(0) - hit, float(table.sum())
    occurs = hit + there + said > 0

    def share(part: Floats, whole: Floats) -> Floats:
        return np.where(occurs, np.divide(part, whole, out=np.zeros_like(hit), where=whole > 0), np.nan)

    return PerClass(
        accuracy=share(total - there - said, np.full_like(hit, total)),
        precision=share(hit, hit + said),
        recall=share(hit, hit + there),
        dice=share(2 * hit, 2 * hit + there + said),
        jaccard=share(hit, hit + there + said),
    )


def accuracy(table: Counts) -> float:
    """Share called right; NaN of nothing."""
    total = table.sum()
    return float(np.trace(table) / total) if total else float("nan")


def mean_of(values: Floats) -> float:
    """Mean of what is a number; NaN where nothing is."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else float("nan")


def quadratic_kappa(table: Counts) -> float:
    """Cohen's kappa with quadratic weights (Cohen 1968): 1 agreement, 0 chance; a far miss costs more than a near one.

    NaN where nothing was compared, or where only one class was ever there and said: chance agrees there, too.
    """
    classes, total = len(table), float(table.sum())
    if not total:
        return float("nan")
    apart = np.square(np.arange(classes)[:, None] - np.arange(classes)[None, :]).astype(np.float64)
    chance = np.outer(table.sum(1), table.sum(0)) / total
    expected = float((apart * chance).sum())
    return 1 - float((apart * table).sum()) / expected if expected > 0 else float("nan")


def text(table: Counts, names: Sequence[str], wide: int = 11) -> str:
    """The table for a terminal or a log: rows are the truth, columns what was said, the last column the recall."""
    shares = per_class(table).recall
    lines = ["  " + "truth".ljust(wide) + "".join(name.rjust(wide) for name in names) + "recall".rjust(wide)]
    for name, row, share in zip(names, table, shares, strict=True):
        if row.sum():
            lines.append("  " + name.ljust(wide) + "".join(str(n).rjust(wide) for n in row) + f"{share:{wide}.3f}")
    return "\n".join(lines)
