"""What both graders share: classes, pictures with grades, the joint loss, the figures.

Does: turns a grade into targets and a network's three answers into tables. Refuses to know: either network, ONNX.

Axes: B pictures; three answers: expansion, ICM, TE, in this order everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from engines.blastocyst import Found, find_in_still
from engines.day5 import EXPANSIONS, Gardner, Grade, from_kromp
from engines.preprocess import fit_plane
from engines.square import Gray, Square
from training import metrics
from training.datasets.still import read_kromp
from training.datasets.stored import StoredEmbryo
from training.day5.blastocysts import Blastocyst
from training.day5.look import CHANNELS_UM, Varied, one_or_three, shown, varied
from training.day5.run import Loss

NO_BLASTOCYST = "none"
EXPANSION_CLASSES = (NO_BLASTOCYST, *map(str, EXPANSIONS))
LETTERS = tuple(grade.value for grade in Grade)
ANSWERS = ("expansion", "icm", "te")
UNKNOWN = -100  # target of what is not graded: no loss, no figure

Answers = tuple[Tensor, Tensor, Tensor]
Targets = npt.NDArray[np.int64]


class Graded(Protocol):
    """A picture with its grade."""

    @property
    def gardner(self) -> Gardner:
        """All None where it is no blastocyst."""

    @property
    def blastocyst(self) -> bool: ...

    def channels(self, rng: np.random.Generator | None) -> Gray:
        """(3, H, W): by lot for training, the same every time without `rng`."""


@dataclass(frozen=True)
class DrawnGraded:
    """A virtual embryo on day 5."""

    drawn: Blastocyst

    @property
    def gardner(self) -> Gardner:
        return self.drawn.gardner

    @property
    def blastocyst(self) -> bool:
        return self.drawn.moment.expansion > 0

    def channels(self, rng: np.random.Generator | None) -> Gray:
        planes, planes_um = self.drawn.planes, self.drawn.settings.planes_um
        return shown(planes, planes_um, "three") if rng is None else one_or_three(planes, planes_um, rng, 0.25)


@dataclass(frozen=True)
class StillGraded:
    """One plane of a real blastocyst, cut as the monitor cuts still pictures and shown three times.

    Where no embryo is found the whole picture is in the square: its grade was given all the same.
    """

    embryo: StoredEmbryo
    gardner: Gardner
    blastocyst: bool = True

    @cached_property
    def plane(self) -> Gray:
        """(256, 256), decoded when first asked for."""
        whole = self.embryo.stack(0)[0]
        height, width = whole.shape
        found = find_in_still(whole)
        if isinstance(found, Found):
            return found.square.cut(whole)
        return Square((width - 1) / 2, (height - 1) / 2, float(max(height, width))).cut(whole)

    def channels(self, rng: np.random.Generator | None) -> Gray:
        return np.repeat(self.plane[None], len(CHANNELS_UM), 0)


def kromp_pictures(pictures: Path, table: Path) -> list[StillGraded]:
    """Kromp et al. 2023, in Gardner's words. ValueError (DatasetError) names what is wrong with the set."""
    graded = []
    for embryo in read_kromp(pictures, table):
        told = embryo.grades
        if told is None or told.expansion is None:
            raise ValueError(f"{table}: {embryo.name} has no grade")
        letters = {letter: str(code) for code, letter in enumerate((*LETTERS, None))}
        graded.append(StillGraded(embryo, from_kromp(str(told.expansion - 1), letters[told.icm], letters[told.te])))
    return graded


def targets_of(graded: Graded, expansions: Sequence[str] = EXPANSION_CLASSES) -> Targets:
    """(3,) class indices; UNKNOWN where there is no grade, or one that the network has no class for."""
    grade = graded.gardner.as_gardner()
    said = NO_BLASTOCYST if not graded.blastocyst else str(grade.expansion)
    expansion = expansions.index(said) if said in expansions else UNKNOWN
    letters = [LETTERS.index(letter.value) if letter else UNKNOWN for letter in (grade.icm, grade.te)]
    return np.array([expansion, *letters], dtype=np.int64)


def fitted(channels: Gray, side_px: int) -> Gray:
    """(3, H, W) -> (3, side_px, side_px), as the monitor's own preprocessing makes them."""
    return np.stack([fit_plane(np.ascontiguousarray(one), side_px, side_px) for one in channels])


def joint_loss(answers: Answers, targets: Tensor, tasks: Sequence[str] = ANSWERS) -> Tensor:
    """Sum over the tasks of the cross-entropy, each over the pictures that carry that grade; targets (B, 3)."""
    losses = [
        functional.cross_entropy(logits.float(), targets[:, i], ignore_index=UNKNOWN)
        for i, (name, logits) in enumerate(zip(ANSWERS, answers, strict=True))
        if name in tasks and bool((targets[:, i] != UNKNOWN).any())
    ]
    # a batch without a single grade still has a gradient, of zero
    return torch.stack(losses).sum() if losses else sum(logits.sum() for logits in answers) * 0.0


def batch_loss(
    pictures: Sequence[Graded],
    batch: int,
    how: Varied,
    side_px: int,
    expansions: Sequence[str] = EXPANSION_CLASSES,
    tasks: Sequence[str] = ANSWERS,
) -> Loss:
    """The joint loss of one batch drawn from `pictures`, and the share of its grades called right."""
    no_parts = np.zeros((side_px, side_px), np.uint8)

    def loss_and_right(network: nn.Module, rng: np.random.Generator) -> tuple[Tensor, float]:
        rows, aims = [], []
        for index in rng.integers(0, len(pictures), batch):
            one = pictures[int(index)]
            rows.append(varied(fitted(one.channels(rng), side_px), no_parts, rng, how, side_px)[0])
            aims.append(targets_of(one, expansions))
        targets = torch.from_numpy(np.stack(aims))
        answers = network(torch.from_numpy(np.stack(rows)))
        said = torch.stack([logits.detach().argmax(1) for logits in answers], dim=1)
        graded = targets != UNKNOWN
        right = ((said == targets) & graded).sum() / graded.sum().clamp(min=1)
        return joint_loss(answers, targets, tasks), float(right)

    return loss_and_right


@torch.inference_mode()
def answers_to(network: nn.Module, pictures: Sequence[Graded], side_px: int) -> list[npt.NDArray[np.float64]]:
    """Probabilities of all pictures, (N, classes) for each of the three answers."""
    network.eval()
    said: list[list[npt.NDArray[np.float64]]] = [[], [], []]
    for first in range(0, len(pictures), 16):
        rows = [fitted(one.channels(None), side_px) for one in pictures[first : first + 16]]
        answers = network(torch.from_numpy(np.stack(rows).astype(np.float32) / 255))
        for kept, logits in zip(said, answers, strict=True):
            kept.append(torch.softmax(logits.double(), 1).numpy())
    return [np.concatenate(rows) for rows in said]


def tables(
    said: Sequence[npt.NDArray[np.float64]], pictures: Sequence[Graded], expansions: Sequence[str]
) -> dict[str, metrics.Counts]:
    """A table of counts for each answer, over the pictures that carry that grade."""
    targets = np.stack([targets_of(one, expansions) for one in pictures])
    found = {}
    for i, (name, probabilities) in enumerate(zip(ANSWERS, said, strict=True)):
        known = targets[:, i] != UNKNOWN
        found[name] = metrics.confusion(probabilities[known].argmax(1), targets[known, i], probabilities.shape[1])
    return found


def figures(found: dict[str, metrics.Counts]) -> dict[str, float]:
    """Accuracy, macro precision, recall and F1, quadratic kappa of each answer, and how many were compared."""
    row: dict[str, float] = {}
    for name, table in found.items():
        means = metrics.per_class(table).mean()
        row[f"{name}_pictures"] = float(table.sum())
        row[f"{name}_accuracy"] = metrics.accuracy(table)
        row |= {f"{name}_{what}": means[what] for what in ("precision", "recall")}
        row[f"{name}_f1"] = means["dice"]
        row[f"{name}_kappa"] = metrics.quadratic_kappa(table)
    return {name: round(value, 4) for name, value in row.items()}


def classes_of(expansions: Sequence[str] = EXPANSION_CLASSES) -> dict[str, tuple[str, ...]]:
    """Names of the classes of each answer, in order."""
    return {"expansion": tuple(expansions), "icm": LETTERS, "te": LETTERS}


def text(title: str, found: dict[str, metrics.Counts], expansions: Sequence[str] = EXPANSION_CLASSES) -> str:
    """Figures and confusion tables for a terminal or a log."""
    row, lines = figures(found), [title]
    for name, names in classes_of(expansions).items():
        lines.append(
            f"  {name}: {row[f'{name}_pictures']:.0f} graded, accuracy {row[f'{name}_accuracy']:.3f}, macro precision "
            f"{row[f'{name}_precision']:.3f}, recall {row[f'{name}_recall']:.3f}, F1 {row[f'{name}_f1']:.3f}, "
            f"quadratic kappa {row[f'{name}_kappa']:.3f}"
        )
        lines.append(metrics.text(found[name], names))
    return "\n".join(lines)


def class_counts(
    pictures: Sequence[Graded], expansions: Sequence[str] = EXPANSION_CLASSES
) -> dict[str, dict[str, int]]:
    """How many pictures of each class: the imbalance, for the log and the manifest."""
    targets = np.stack([targets_of(one, expansions) for one in pictures])
    return {
        name: {word: int((targets[:, i] == k).sum()) for k, word in enumerate(words)}
        for i, (name, words) in enumerate(classes_of(expansions).items())
    }
