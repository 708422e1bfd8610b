"""From embryos to training batches: one random frame per 6-hour segment, with all that a ward holds in store.

Does: chooses embryos, segments and planes from the step's number alone (a resumed run sees what it would have seen),
turns and lights the pictures, hides planes, segments, first days and hours, pads. Refuses to know the network, the
loss, and where an embryo comes from: its stacks are cut to the network's size already.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from training.amsnet.targets import Targets
from training.datasets.embryo import Embryo

SEGMENT_H = 6.0  # section 4.1
HOUR_HIDDEN = 0.3  # share of clips whose insemination nobody entered
LATE_START = 0.3
LATE_H = 114.0  # by then whoever reaches the blastocyst stage has nearly done so
CLEAVED_H = 22.0  # before it hardly any embryo has cleaved: there are no fragments and cells to be seen


@dataclass(frozen=True)
class Pupil:
    """One embryo to learn from, and what its frames are to be judged as."""

    embryo: Embryo
    targets: Targets


@dataclass(frozen=True)
class Batch:
    """`frames` (B, T, U, H, W) standardised, `source` (P): which present plane each plane shows, `hours` (B, T, 2).

    `counts` (B, T): 0 is padding. `reaches`, `outlook` (B, T), `phase` (B, T), `signs` (B, T, 4): see targets.py.
    """

    frames: Tensor
    source: list[int]
    hours: Tensor
    counts: Tensor
    reaches: Tensor
    outlook: Tensor
    phase: Tensor
    signs: Tensor

    def to(self, device: torch.device) -> Batch:
        """The same on another device."""
        moved = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **moved)


@dataclass(frozen=True)
class Chances:
    """How often how many of the planes are shown in a batch: few, since Res-1 on each is most of the cost; never only
    few."""

    counts: tuple[int, ...] = (1, 2, 3, 7)
    shares: tuple[float, ...] = (0.3, 0.32, 0.2, 0.18)

    def planes(self, rng: np.random.Generator, planes: int) -> list[int]:
        """Indices of the planes of one batch, ascending; all there are where the count asks for more."""
        count = min(int(rng.choice(self.counts, p=self.shares)), planes)
        return sorted(rng.choice(planes, count, replace=False).tolist())


ALL_PLANES = Chances((7,), (1.0,))


def nearest_present(present: Sequence[int], planes: int) -> list[int]:
    """For each plane the index *into `present`* of the nearest plane that is there; ties go to the lower plane."""
    return [min(range(len(present)), key=lambda i: (abs(present[i] - p), present[i])) for p in range(planes)]


def order_of(reaches: Sequence[float], epoch: int, seed: int) -> npt.NDArray[np.int64]:
    """A fresh order every epoch with both outcomes spread evenly: a few embryos are few labels."""
    truth, rng = np.array(reaches) > 0.5, np.random.default_rng((seed, 2, epoch))
    rank = np.empty(len(truth))
    for group in (truth, ~truth):
        rank[group] = (rng.permutation(int(group.sum())) + rng.random()) / max(int(group.sum()), 1)
    return np.argsort(rank)


def chosen_at(seen: int, pupils: Sequence[Pupil], rows: int, seed: int) -> list[Pupil]:
    """The next `rows` embryos after `seen` ones, epoch by epoch."""
    reaches, chosen = [pupil.targets.reaches for pupil in pupils], []
    for place in range(seen, seen + rows):
        epoch, at = divmod(place, len(pupils))
        chosen.append(pupils[order_of(reaches, epoch, seed)[at]])
    return chosen


def draw_segments(hours_h: npt.NDArray[np.float64], rng: np.random.Generator, longest: int) -> list[int]:
    """Indices of one random frame per segment, at most `longest`: late starts, early stops, holes.

    Segments are counted from the clip's own first frame, as in use. A hole is left out, not filled: the monitor does
    not step a segment without a frame, its cache simply ages.
    """
    begun = 0
    if rng.random() < LATE_START:  # public videos start as late as 76 h
        begun = int(rng.integers(0, max(int(0.6 * len(hours_h)), 1)))
    segment = np.floor((hours_h[begun:] - hours_h[begun]) / SEGMENT_H + 1e-6).astype(int)
    chosen = [begun + int(rng.choice(np.nonzero(segment == s)[0])) for s in np.unique(segment)]
    if rng.random() < 0.4:
        chosen = [t for t in chosen if rng.random() > 0.25] or chosen[:1]
    return chosen[:longest]


def turned(stacks: npt.NDArray[np.uint8], rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """(T, U, H, W) uint8 -> float32 in 0..1, with one orientation, zoom, shift and light for all of it.

    Zoom and shift stand for the random crop of section 4.1; they stay small, so that the field is that of later use.
    """
    side = stacks.shape[-1]
    angle, zoom = float(rng.uniform(0, 360)), float(rng.uniform(0.94, 1.08))
    matrix = cv2.getRotationMatrix2D(((side - 1) / 2, (side - 1) / 2), angle, zoom)
    matrix[:, 2] += rng.uniform(-0.03, 0.03, 2) * side
    if rng.random() < 0.5:
        matrix[0] *= -1
        matrix[0, 2] += side - 1
    moved = [
        cv2.warpAffine(plane, matrix, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
        for plane in stacks.reshape(-1, side, side)
    ]
    pictures = np.stack(moved).reshape(stacks.shape).astype(np.float32) / 255
    flicker = rng.normal(0.0, 0.01, (len(stacks), 1, 1, 1)).astype(np.float32)
    middle = pictures.mean()  # contrast about the clip's own brightness, or it would move that as well
    gain, lift = np.float32(rng.uniform(0.75, 1.3)), np.float32(rng.uniform(-0.04, 0.04))
    return np.asarray((pictures - middle) * gain + middle + lift + flicker, dtype=np.float32)


def _row(
    pupil: Pupil, at: Sequence[int], present: Sequence[int], rng: np.random.Generator
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Pictures (T, U, H, W) in 0..1 and hours (T, 2) of the frames `at` of one embryo."""
    pictures = turned(np.stack([pupil.embryo.stack(t)[list(present)] for t in at]), rng)
    known = pupil.embryo.hours_known and rng.random() >= HOUR_HIDDEN
    hours = np.stack([pupil.embryo.hours_h[list(at)], np.ones(len(at))], axis=1) if known else np.zeros((len(at), 2))
    return pictures, hours.astype(np.float32)


def make_batch(
    rows: Sequence[tuple[Pupil, Sequence[int]]],
    steps: int,
    present: Sequence[int],
    rng: np.random.Generator,
    mean: float,
    std: float,
) -> Batch:
    """Embryos with their frames, of which the planes `present` are shown -> a batch of `steps`.

    Padding repeats the last frame, and counts nothing.
    """
    frames, hours, columns = [], [], []
    for pupil, at in rows:
        pictures, hour = _row(pupil, at, present, rng)
        pad = [*range(len(at)), *[len(at) - 1] * (steps - len(at))]
        frames.append(pictures[pad])
        hours.append(hour[pad])
        columns.append([at[i] for i in pad])
    told = [pupil.targets for pupil, _ in rows]

    def gathered(values: Sequence[npt.NDArray[np.generic]], kind: torch.dtype) -> Tensor:
        return torch.from_numpy(np.stack([value[at] for value, at in zip(values, columns, strict=True)])).to(kind)

    return Batch(
        frames=(torch.from_numpy(np.stack(frames)) - mean) / std,
        source=nearest_present(present, len(rows[0][0].embryo.planes_um)),
        hours=torch.from_numpy(np.stack(hours)),
        counts=torch.tensor([[float(t < len(at)) for t in range(steps)] for _, at in rows]),
        reaches=torch.tensor([[target.reaches] * steps for target in told]),
        outlook=gathered([target.outlook for target in told], torch.float32),
        phase=gathered([target.phase for target in told], torch.long),
        signs=gathered([target.signs for target in told], torch.float32),
    )


def frames_batch(
    pupils: Sequence[Pupil], rows: int, present: Sequence[int], rng: np.random.Generator, mean: float, std: float
) -> Batch:
    """Single frames of `rows` different embryos, each as its embryo's first: T = 1.

    Fewer after day 5, all alike, and before the first cleavage, which tell little.
    """
    moments: list[tuple[Pupil, list[int]]] = []
    for i in rng.choice(len(pupils), rows, replace=rows > len(pupils)):
        hours_h = pupils[i].embryo.hours_h
        weight = np.where((hours_h >= CLEAVED_H) & (hours_h < LATE_H), 1.0, 0.4)
        moments.append((pupils[i], [int(rng.choice(len(weight), p=weight / weight.sum()))]))
    return make_batch(moments, 1, present, rng, mean, std)


def brightness(pupils: Sequence[Pupil]) -> tuple[float, float]:
    """Mean and standard deviation of pixels, in units of uint8 / 255, rounded to be read in a manifest."""
    moments = [(pupil.embryo, t) for pupil in pupils for t in range(1, len(pupil.embryo.hours_h), 8)]
    gray = np.concatenate([embryo.stack(t).ravel() for embryo, t in moments]).astype(np.float32) / 255
    return round(float(gray.mean()), 3), round(float(gray.std()), 3)
