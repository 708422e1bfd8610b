"""Pictures with their parts for the segmenter: drawn ones, and BlastsOnline (Saeedi et al. 2017) where the user has it.

Does: gives each as three channels and a label image of one size. Refuses to know: networks, augmentation.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from engines.day5 import Labels, label_image
from engines.square import SIDE_PX, Gray, Square
from training.datasets.still import read_blasts_online
from training.day5.blastocysts import Blastocyst
from training.day5.look import CHANNELS_UM, one_or_three

TRAIN_SHARE = 0.8  # 199 of the 249 pictures, section 4.1


class Picture(Protocol):
    """What training draws from."""

    @property
    def labels(self) -> Labels:
        """(H, W) of `engines.day5.Part`."""

    def channels(self, rng: np.random.Generator) -> Gray:
        """(3, H, W)."""


@dataclass(frozen=True)
class DrawnPicture:
    """Seven planes, of which each look takes three, or any one thrice."""

    drawn: Blastocyst

    @property
    def labels(self) -> Labels:
        return self.drawn.labels

    def channels(self, rng: np.random.Generator) -> Gray:
        return one_or_three(self.drawn.planes, self.drawn.settings.planes_um, rng, 0.25)


@dataclass(frozen=True)
class StillPicture:
    """One plane, shown three times."""

    plane: Gray
    labels: Labels

    def channels(self, rng: np.random.Generator) -> Gray:
        return np.repeat(self.plane[None], len(CHANNELS_UM), 0)


def drawn_for_training(drawn: list[Blastocyst]) -> list[DrawnPicture]:
    """Blastocysts only: what is none has no parts to learn."""
    return [DrawnPicture(one) for one in drawn if one.moment.expansion]


def blasts_pictures(root: Path, side_px: int = SIDE_PX) -> list[StillPicture]:
    """All of BlastsOnline as squares of `side_px`, the whole picture in each; blastocoel: what the zona encloses and
    no other mask holds. ValueError (DatasetError) names what is missing."""
    pictures = []
    for embryo in read_blasts_online(root):
        plane, masks = embryo.stack(0)[0], embryo.masks(0)
        if masks is None:
            raise ValueError(f"{root}: {embryo.name} has no masks")
        height, width = plane.shape
        square = Square((width - 1) / 2, (height - 1) / 2, float(max(height, width)), side_px)
        pictures.append(StillPicture(square.cut(plane), square.cut_labels(label_image(masks))))
    return pictures


def split(pictures: list[StillPicture]) -> tuple[list[StillPicture], list[StillPicture]]:
    """(to train on, to test on): the paper's 80 to 20, drawn by lot, for it names no pictures;
    always the same lot, so that no picture is trained on in one run and measured in another."""
    order = np.random.default_rng(0).permutation(len(pictures))
    cut = round(TRAIN_SHARE * len(pictures))
    return [pictures[i] for i in order[:cut]], [pictures[i] for i in order[cut:]]
