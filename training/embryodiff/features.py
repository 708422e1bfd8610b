"""What a frozen encoder says of every frame of whole embryos, kept on disk; and sequences for the head made of it.

Does: runs the trunk once on every plane, keeps it, fuses any choice of planes later, resamples in time, disturbs.
Refuses to know: the head, losses.

A real video's features are never as clean as a drawn one's: each sequence gets an error of its own that stands for the
whole sequence, one that drifts, and one of each frame, and often only one plane and no hour. And it gets lapses: spans
in which it looks like another embryo at another age, as fragmented 5-cell embryos look like blastocysts to an encoder
that has seen drawings only. What cannot be, by what came before and by how long ago, the head is to learn not to say.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from engines.preprocess import nearest_plane_um
from monitor.simulator import PLANES_UM
from monitor.vocabulary import PHASES
from training.datasets.embryo import Embryo
from training.embryodiff.checkpoint import encoder_id
from training.embryodiff.encoder import FrameEncoder
from training.embryodiff.frames import chosen_planes
from training.embryodiff.losses import UNLABELLED, Labels
from training.embryodiff.model import Sequence as HeadSequence

Floats = npt.NDArray[np.float32]
Phases = npt.NDArray[np.int64]

_CHUNK = 16  # frames at once through the trunk
_ALL = slice(None)


@dataclass(frozen=True)
class Video:
    """One embryo as its encoder sees it: `trunk` (T, P, C) float16, `hours_h` (T,), `phases` (T,) or UNLABELLED.

    `onsets_h`: hour of each phase's onset where it is known better than to the frame (drawn embryos), else empty.
    """

    name: str
    planes_um: tuple[int, ...]
    trunk: npt.NDArray[np.float16]
    hours_h: npt.NDArray[np.float64]
    phases: Phases
    hours_known: bool = True
    onsets_h: tuple[tuple[int, float], ...] = ()

    @cached_property
    def first_h(self) -> float:
        return float(self.hours_h[0])

    def phases_at(self, hours_h: npt.NDArray[np.float64]) -> Phases:
        """(N,) the phase at any hours: by the onsets where they are known, else that of the last frame before."""
        if not self.onsets_h:
            return self.phases[np.clip(np.searchsorted(self.hours_h, hours_h, side="right") - 1, 0, None)]
        names = np.array([UNLABELLED, *[phase for phase, _ in self.onsets_h]])
        return np.asarray(names[np.searchsorted([hour for _, hour in self.onsets_h], hours_h, side="right")])


@torch.inference_mode()
def encode(encoder: FrameEncoder, embryo: Embryo, cut: Callable[[int], np.ndarray]) -> npt.NDArray[np.float16]:
    """(T, P, C): the trunk on every plane of every frame; `cut(t)` gives the (P, side, side) crop."""
    encoder.trunk.to(memory_format=torch.channels_last)  # a third faster on a CPU
    said = []
    for first in range(0, len(embryo.hours_h), _CHUNK):
        frames = range(first, min(first + _CHUNK, len(embryo.hours_h)))
        stacks = np.stack([cut(t) for t in frames]).astype(np.float32) / 255
        said.append(encoder.each_plane(torch.from_numpy(stacks)).numpy().astype(np.float16))
    return np.concatenate(said)


def labels_of(embryo: Embryo) -> Phases:
    return np.array([UNLABELLED if phase is None else PHASES.index(phase) for phase in embryo.phases], dtype=np.int64)


def cached_video(
    cache: Path,
    encoder: FrameEncoder,
    embryo: Embryo,
    cut: Callable[[int], np.ndarray],
    onsets_h: tuple[tuple[int, float], ...] = (),
    key: str = "",
) -> Video:
    """The embryo's features, made once: `key` names what beside the embryo's name decides its pictures."""
    folder = cache / f"features-{encoder_id(encoder)[:12]}"
    path = folder / f"{embryo.source}-{key}-{embryo.name}.npy"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".{os.getpid()}.{path.name}")
        np.save(unfinished, encode(encoder, embryo, cut))
        unfinished.replace(path)
    trunk: npt.NDArray[np.float16] = np.load(path, mmap_mode="r")
    return Video(embryo.name, embryo.planes_um, trunk, embryo.hours_h, labels_of(embryo), embryo.hours_known, onsets_h)


class Fuser:
    """Fuses any planes of videos; what each plane brings is calculated once a video and kept."""

    def __init__(self, encoder: FrameEncoder) -> None:
        self._fusion = encoder.fusion
        self._parts: dict[str, tuple[Tensor, Tensor]] = {}

    @torch.inference_mode()
    def __call__(self, video: Video, planes: Sequence[int], frames: npt.NDArray[np.int64] | slice = _ALL) -> Tensor:
        """(T, D) of the planes with these indices, of all frames or of some."""
        if video.name not in self._parts:
            seen = torch.zeros(len(video.hours_h), len(PLANES_UM), video.trunk.shape[-1])
            at = [PLANES_UM.index(plane_um) for plane_um in video.planes_um]
            seen[:, at] = torch.from_numpy(np.asarray(video.trunk, dtype=np.float32))
            scores, values = self._fusion.parts(seen)
            self._parts[video.name] = scores[:, at].clone(), values[:, at].clone()
        scores, values = (part[frames][:, list(planes)] for part in self._parts[video.name])
        return self._fusion.joined(scores, values, torch.ones(scores.shape[:2]))


@torch.inference_mode()
def fused(encoder: FrameEncoder, video: Video, planes: Sequence[int]) -> Tensor:
    """(T, D) of the planes with these indices."""
    return Fuser(encoder)(video, planes)


def middle_plane(video: Video) -> list[int]:
    """The one plane an incubator with a single plane would give."""
    return [video.planes_um.index(nearest_plane_um(0, video.planes_um))]


def whole(encoder: FrameEncoder, video: Video, planes: Sequence[int], hours: bool) -> HeadSequence:
    """The whole video as one sequence (1, T), undisturbed."""
    hours_h = torch.from_numpy(video.hours_h.astype(np.float32))
    known = torch.full_like(hours_h, float(hours and video.hours_known))
    elapsed_h = torch.diff(hours_h, prepend=hours_h[:1])
    parts = (fused(encoder, video, planes), hours_h, known, elapsed_h, torch.ones_like(hours_h))
    return HeadSequence(*(part.unsqueeze(0) for part in parts))


@dataclass(frozen=True)
class Disturbance:
    """How far a training sequence strays from what was drawn.

    Shares of sequences: `one_plane`, `hour_known`, `lapses` (with one to three of them, of `lapse_frames` on average).
    Deviations of the frame vectors, drawn anew for each sequence up to the size given: `standing`, `drifting`,
    `each_frame`. `hour_off_h`: standard deviation of the told hour; `tempo`: of the logarithm of the embryo's pace.
    """

    one_plane: float = 0.6
    hour_known: float = 0.5
    standing: float = 0.5
    drifting: float = 0.4
    each_frame: float = 0.5
    lapses: float = 0.6
    lapse_frames: float = 24.0
    hour_off_h: float = 1.5
    tempo: float = 0.06
    intervals_h: tuple[float, float] = (0.15, 1.0)
    gaps: float = 0.01


class SequenceMaker:
    """Training batches for the head from videos of drawn embryos; one fused plane choice a sequence."""

    def __init__(self, encoder: FrameEncoder, videos: Sequence[Video], frames: int, how: Disturbance) -> None:
        self._fuse, self._videos, self._frames, self._how = Fuser(encoder), videos, frames, how
        clean = torch.cat([self._fuse(video, middle_plane(video)) for video in videos[:20]])
        self._spread = clean.std(0)

    def batch(self, size: int, rng: np.random.Generator) -> tuple[HeadSequence, Labels]:
        """`size` sequences of at most `frames` frames, left-aligned."""
        rows = [self._one(self._videos[int(rng.integers(len(self._videos)))], rng) for _ in range(size)]
        columns = [torch.stack(column) for column in zip(*rows, strict=True)]
        features, hours_h, known, elapsed_h, valid, phases = columns
        labels = Labels(phases.long(), valid)
        return HeadSequence(features, hours_h, known, elapsed_h, valid), labels

    def _one(self, video: Video, rng: np.random.Generator) -> tuple[Tensor, ...]:
        how = self._how
        hours_h = self._moments(video, rng)
        phases = video.phases_at(hours_h)
        features = self._fuse(video, self._planes(video, rng), nearest_alike(video, hours_h, phases))
        if rng.random() < how.lapses:
            features = self._with_lapses(features, hours_h, rng)
        features = features + self._error(len(hours_h), rng) * self._spread
        known = float(rng.random() < how.hour_known and video.hours_known)
        hours_h = hours_h * float(np.exp(rng.normal(0.0, how.tempo)))
        told_h = hours_h + rng.normal(0.0, how.hour_off_h)
        elapsed_h = np.diff(hours_h, prepend=hours_h[:1])
        count = len(hours_h)

        def padded(values: npt.NDArray[np.generic], fill: float = 0.0) -> Tensor:
            row = torch.full((self._frames,), fill)
            row[:count] = torch.from_numpy(values.astype(np.float32))
            return row

        filled = torch.zeros(self._frames, features.shape[1])
        filled[:count] = features
        ones = np.ones(count)
        labels = padded(phases, UNLABELLED)
        return filled, padded(told_h), padded(ones * known), padded(elapsed_h), padded(ones), labels

    def _moments(self, video: Video, rng: np.random.Generator) -> npt.NDArray[np.float64]:
        """Hours of a sequence: some interval, some start, gaps here and there."""
        low, high = np.log(self._how.intervals_h)
        step_h = float(np.exp(rng.uniform(low, high)))
        last_h = float(video.hours_h[-1])
        length_h = step_h * self._frames
        latest_h = max(last_h - 0.5 * length_h, video.first_h)
        start_h = video.first_h if rng.random() < 0.4 else float(rng.uniform(video.first_h, latest_h))
        hours_h = np.arange(start_h, last_h, step_h)[: self._frames]
        hours_h = hours_h + rng.uniform(-0.1, 0.1, len(hours_h)) * step_h
        kept = rng.random(len(hours_h)) >= self._how.gaps
        kept[0] = True
        return np.maximum(np.sort(hours_h[kept]), video.first_h)

    def _with_lapses(self, features: Tensor, hours_h: npt.NDArray[np.float64], rng: np.random.Generator) -> Tensor:
        """Spans blended with another embryo's frames of some other age, which goes on ageing meanwhile."""
        features = features.clone()
        for _ in range(int(rng.integers(1, 4))):
            first = int(rng.integers(len(hours_h)))
            end = min(first + 1 + int(rng.exponential(self._how.lapse_frames)), len(hours_h))
            other = self._videos[int(rng.integers(len(self._videos)))]
            begun_h = float(rng.uniform(other.first_h, float(other.hours_h[-1])))
            at = np.searchsorted(other.hours_h, begun_h + hours_h[first:end] - hours_h[first])
            foreign = self._fuse(other, self._planes(other, rng), np.clip(at, 0, len(other.hours_h) - 1))
            features[first:end].lerp_(foreign, float(rng.uniform(0.4, 1.0)))
        return features

    def _planes(self, video: Video, rng: np.random.Generator) -> list[int]:
        if len(video.planes_um) == 1:
            return [0]
        if rng.random() < self._how.one_plane:
            near = np.argsort(np.abs(np.array(video.planes_um)) + rng.normal(0.0, 8.0, len(video.planes_um)))
            return [int(near[0])]
        return chosen_planes(video.planes_um, rng) if rng.random() < 0.3 else list(range(len(video.planes_um)))

    def _error(self, count: int, rng: np.random.Generator) -> Tensor:
        """(count, D) in deviations: standing, drifting (remembers some 20 frames) and of each frame."""
        how, size = self._how, len(self._spread)
        standing = rng.normal(size=size) * rng.uniform(0, how.standing)
        each = rng.normal(size=(count, size)) * rng.uniform(0, how.each_frame)
        drift = np.zeros((count, size))
        kicks = rng.normal(size=(count, size)) * rng.uniform(0, how.drifting)
        for t in range(1, count):
            drift[t] = 0.95 * drift[t - 1] + 0.31 * kicks[t]
        return torch.from_numpy((standing + each + drift).astype(np.float32))


def nearest_alike(video: Video, hours_h: npt.NDArray[np.float64], phases: Phases) -> npt.NDArray[np.int64]:
    """Index of the cached frame to show at each hour: of its two neighbours one of the same phase, else the nearer.

    Two neighbours on either side of a division are never mixed: there is no frame between two cells and four.
    """
    after = np.clip(np.searchsorted(video.hours_h, hours_h), 1, max(len(video.hours_h) - 1, 1))
    before = after - 1
    after = np.minimum(after, len(video.hours_h) - 1)
    nearer_after = np.abs(video.hours_h[after] - hours_h) < np.abs(hours_h - video.hours_h[before])
    alike_before, alike_after = video.phases[before] == phases, video.phases[after] == phases
    take_after = np.where(alike_before == alike_after, nearer_after, alike_after)
    return np.asarray(np.where(take_after, after, before))
