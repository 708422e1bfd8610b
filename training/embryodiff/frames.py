"""Single frames to train the encoder on: drawn crops of one to seven planes, and generated pictures with a stage only.

Does: picks frames so that every merged stage is met as often, chooses planes, augments, stacks. Refuses to know: the
network, sequences, anything of the Nantes set.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from monitor.simulator import PLANES_UM
from monitor.vocabulary import PHASES
from training.datasets.virtual import VirtualCrops
from training.embryodiff.encoder import standardised
from training.embryodiff.losses import UNLABELLED
from training.embryodiff.restyle import Restyler
from training.sim2real import crops as cutting
from training.sim2real.augment import varied
from training.sim2real.crops import Crops
from training.sim2real.labels import STAGE_OF, STAGES, generated

Gray = npt.NDArray[np.uint8]

PLANE_COUNTS = ((1, 0.76), (2, 0.12), (3, 0.07), (7, 0.05))  # of a batch: few, because the trunk runs on each
EVEN_PHASES = 0.6  # of the frames: every phase of a stage is equally likely; 5, 6 and 7 cells pass soon
# what the makers of `stagegen` call a picture; a blastocyst's phase they do not say
_GENERATED_PHASES = {1: "t2", 2: "t4", 3: "t8", 4: "tM"}
_NEAR_FOCUS = 22.0  # um, 1 SD: where a single recorded plane usually lies


class Frames(Protocol):
    """Frames of one source: merged stages, phases (UNLABELLED where nobody knows) and pictures on demand."""

    planes_um: tuple[int, ...]
    stages: npt.NDArray[np.int64]
    phases: npt.NDArray[np.int64]

    def picture(self, index: int) -> Gray:
        """(P, side, side), the side at least 112 px."""


@dataclass
class CropFrames:
    """Crops in memory: those of `training.sim2real`, or generated pictures."""

    pixels: Gray
    stages: npt.NDArray[np.int64]
    phases: npt.NDArray[np.int64]
    planes_um: tuple[int, ...]

    def picture(self, index: int) -> Gray:
        return self.pixels[index]


class EmbryoFrames:
    """All labelled frames of many cached virtual embryos; pixels stay on disk until they are touched."""

    def __init__(self, embryos: Sequence[VirtualCrops]) -> None:
        self._embryos = embryos
        self.planes_um = embryos[0].planes_um
        labelled = [
            (number, t, PHASES.index(phase))
            for number, embryo in enumerate(embryos)
            for t, phase in enumerate(embryo.phases)
            if phase is not None
            and float(embryo.hours_h[t]) <= embryo.life.frozen_after_h + cutting.Settings.arrested_h
        ]
        self._where = [(number, t) for number, t, _ in labelled]
        self.phases = np.array([phase for _, _, phase in labelled], dtype=np.int64)
        self.stages = np.array([STAGE_OF[PHASES[phase]] for phase in self.phases], dtype=np.int64)

    def picture(self, index: int) -> Gray:
        number, t = self._where[index]
        return self._embryos[number].stack(t)


def drawn_crops(crops: Crops) -> CropFrames:
    """What `training.sim2real` has drawn: three planes, 128 px."""
    return CropFrames(crops.pixels, crops.stages, crops.phases, cutting.CROP_PLANES_UM)


def generated_pictures(folder: Path) -> CropFrames:
    """The first 30 pictures of each `stagegen` class (MIT, Presacan et al.): one plane, a merged stage, the phase that
    the class stands for, so roughly that the loss should forgive its neighbours."""
    pictures = generated(folder, tune=True)
    pixels = np.stack([cutting.read_picture(picture.path) for picture in pictures])
    stages = np.array([picture.stage for picture in pictures], dtype=np.int64)
    named = [_GENERATED_PHASES.get(stage) for stage in stages.tolist()]
    phases = np.array([UNLABELLED if phase is None else PHASES.index(phase) for phase in named], dtype=np.int64)
    return CropFrames(pixels, stages, phases, (0,))


@dataclass(frozen=True)
class FrameBatch:
    """`planes` (N, 1, 112, 112) standardised, in order of (frame, plane); `present` (B, 7); labels (B,) each."""

    planes: Tensor
    present: Tensor
    phases: Tensor
    stages: Tensor


class Picker:
    """Draws frames of several sources with given shares; within a source every merged stage is equally likely, and
    often every phase of it."""

    def __init__(self, sources: Sequence[tuple[Frames, float]], restyle: Restyler | None = None) -> None:
        self._sources = [source for source, _ in sources]
        total = sum(share for _, share in sources)
        self._shares = [share / total for _, share in sources]
        self._groups = [_groups(source) for source in self._sources]
        self._restyle = restyle

    def batch(self, size: int, rng: np.random.Generator) -> FrameBatch:
        """`size` frames, each with planes of its own choice and augmented."""
        rows, present, phases, stages = [], np.zeros((size, len(PLANES_UM)), np.float32), [], []
        for row, which in enumerate(rng.choice(len(self._sources), size, p=self._shares)):
            source = self._sources[which]
            index = self._picked(self._groups[which], rng)
            chosen = chosen_planes(source.planes_um, rng)
            crop = varied(np.ascontiguousarray(source.picture(index)[chosen]), rng)  # (planes, 112, 112)
            rows.append(crop if self._restyle is None else self._restyle(crop, rng))
            present[row, [PLANES_UM.index(source.planes_um[plane]) for plane in chosen]] = 1.0
            phases.append(int(source.phases[index]))
            stages.append(int(source.stages[index]))
        planes = torch.from_numpy(np.concatenate(rows)).unsqueeze(1)  # (N, 1, 112, 112)
        return FrameBatch(standardised(planes), torch.from_numpy(present), torch.tensor(phases), torch.tensor(stages))

    @staticmethod
    def _picked(groups: list[list[npt.NDArray[np.int64]]], rng: np.random.Generator) -> int:
        stage = groups[int(rng.integers(len(groups)))]
        if rng.random() < EVEN_PHASES:
            return int(rng.choice(stage[int(rng.integers(len(stage)))]))
        each = np.array([len(phase) for phase in stage])
        return int(rng.choice(stage[int(rng.choice(len(stage), p=each / each.sum()))]))


def _groups(source: Frames) -> list[list[npt.NDArray[np.int64]]]:
    """Of each merged stage that the source has: the indices of each of its phases (an unknown phase is one too)."""
    found = []
    for stage in range(len(STAGES)):
        own = np.flatnonzero(source.stages == stage)
        if len(own):
            found.append([own[source.phases[own] == phase] for phase in np.unique(source.phases[own])])
    return found


def chosen_planes(planes_um: tuple[int, ...], rng: np.random.Generator) -> list[int]:
    """Indices of the planes of one frame, ascending: mostly one, near the focus; sometimes several, sometimes all."""
    counts, shares = zip(*PLANE_COUNTS, strict=True)
    count = min(int(rng.choice(counts, p=shares)), len(planes_um))
    near = np.exp(-0.5 * (np.array(planes_um) / _NEAR_FOCUS) ** 2)
    return sorted(rng.choice(len(planes_um), count, replace=False, p=near / near.sum()).tolist())
