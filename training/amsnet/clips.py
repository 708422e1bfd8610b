"""Virtual clips for AMSNet: one random moment per 6-hour segment of a virtual embryo, drawn once and kept on disk.

Does: renders and caches the raw stacks, and turns them into training batches with everything the network will meet on
the ward in distribution: missing planes, missing segments, late starts, early stops, other light, other orientation.
Refuses to know: the network, the loss, the monitor's own preprocessing of real pictures.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from monitor.simulator import VirtualEmbryo
from monitor.simulator.life import Life

SEGMENT_H = 6.0  # section 4.1
SEGMENTS = 28
SHORT_CLIP = 21  # steps of every other batch: cultures stopped on day 5 cost less to train on
PLANES = 7
STORED_PX = 112


@dataclass(frozen=True)
class Clip:
    """One embryo's frames: `stacks` (T, P, H, W) uint8, their moments `hpi_h` (T,) in hours, and the truth."""

    seed: int
    stacks: np.ndarray
    hpi_h: np.ndarray
    reaches_blastocyst: bool


def moments_h(seed: int) -> np.ndarray:
    """(28,) hours post insemination: the first frame 1 to 5 h after it, then one random moment per segment."""
    rng = np.random.default_rng((seed, 0xA35))
    return rng.uniform(1.0, 5.0) + SEGMENT_H * (np.arange(SEGMENTS) + rng.uniform(0.0, 1.0, SEGMENTS))


def clip_path(cache: Path, seed: int) -> Path:
    """Where the raw stacks of one seed lie."""
    return cache / f"{seed}.npy"


def render(cache: Path, seed: int) -> None:
    """Draw one embryo's 28 stacks, unless they are there; written under another name and renamed when whole."""
    path = clip_path(cache, seed)
    if path.exists():
        return
    cv2.setNumThreads(1)  # the pool already uses one process per core
    embryo = VirtualEmbryo(seed)
    stacks = np.stack([embryo.stack(float(hpi_h), STORED_PX) for hpi_h in moments_h(seed)])  # (T, P, H, W)
    unfinished = cache / f".{seed}.{os.getpid()}.npy"
    np.save(unfinished, stacks)
    unfinished.replace(path)


def render_all(cache: Path, seeds: list[int], workers: int) -> Iterator[int]:
    """Draw what is missing with `workers` processes; yields how many clips are there, one by one."""
    missing = [seed for seed in seeds if not clip_path(cache, seed).exists()]
    cache.mkdir(parents=True, exist_ok=True)
    # spawned, not forked: torch's threads do not survive a fork
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for done, _ in enumerate(pool.map(render, [cache] * len(missing), missing), start=len(seeds) - len(missing)):
            yield done + 1


def load(cache: Path, seed: int) -> Clip:
    """A clip whose stacks stay on disk until they are touched."""
    stacks = np.load(clip_path(cache, seed), mmap_mode="r")
    return Clip(seed, stacks, moments_h(seed), Life.sample(seed).reaches_blastocyst)


def brightness(clips: list[Clip]) -> tuple[float, float]:
    """Mean and standard deviation of all pixels, in units of uint8 / 255, rounded to be read in a manifest."""
    grey = np.concatenate([clip.stacks[::4, ::3].ravel() for clip in clips]).astype(np.float32) / 255
    return round(float(grey.mean()), 3), round(float(grey.std()), 3)


def nearest_present(present: list[int], planes: int = PLANES) -> list[int]:
    """For each plane the index *into `present`* of the nearest plane that is there; ties go to the lower plane."""
    return [min(range(len(present)), key=lambda i: (abs(present[i] - p), present[i])) for p in range(planes)]


def draw_present_planes(rng: np.random.Generator) -> list[int]:
    """Planes of one batch, ascending: mostly one to three of seven, sometimes all.

    Few, because Res-1 on every plane is three quarters of the training cost; never thereby only few.
    """
    count = int(rng.choice([1, 2, 3, PLANES], p=[0.3, 0.45, 0.19, 0.06]))
    return sorted(rng.choice(PLANES, count, replace=False).tolist())


def draw_segments(rng: np.random.Generator, at_most: int) -> np.ndarray:
    """Indices of at most `at_most` segments that have a frame, ascending: late starts, early stops, holes.

    A hole is left out, not filled: the monitor does not step a segment without a frame, its cache simply ages.
    """
    first = int(rng.integers(1, 13)) if rng.random() < 0.25 else 0  # public videos start as late as 76 h
    last = int(rng.integers(18, at_most + 1))  # cultures stop from day 5 on
    kept = np.arange(first, last)
    if rng.random() < 0.5:
        kept = kept[rng.random(len(kept)) > rng.uniform(0.0, 0.35)]
    return kept if len(kept) else np.array([first])  # never an empty clip


def turned_and_lit(frames: Tensor, rng: np.random.Generator, side_px: int) -> Tensor:
    """One clip (T, U, H, W) in 0..1 with one orientation, zoom, shift and light for all of it -> (T, U, side, side).

    A `side_px` below the stored one is a crop at the same scale. Zoom and shift stand for the random crop of section
    4.1; they stay small, so that the field of view is nearly that of later use.
    """
    frames = torch.rot90(frames, int(rng.integers(4)), dims=(2, 3))
    angle, zoom = np.deg2rad(rng.uniform(-12, 12)), rng.uniform(0.92, 1.06) * side_px / frames.shape[-1]
    mirror = -1.0 if rng.random() < 0.5 else 1.0
    cosine, sine = float(np.cos(angle) * zoom), float(np.sin(angle) * zoom)
    shift_x, shift_y = rng.uniform(-0.05, 0.05, 2)
    affine = torch.tensor([[[mirror * cosine, -sine, shift_x], [mirror * sine, cosine, shift_y]]], dtype=torch.float32)
    steps, planes = frames.shape[:2]
    grid = functional.affine_grid(affine, [1, steps * planes, side_px, side_px], align_corners=False)
    turned = functional.grid_sample(frames.flatten(0, 1)[None], grid, padding_mode="reflection", align_corners=False)
    turned = turned.reshape(steps, planes, side_px, side_px)
    flicker = torch.from_numpy(rng.normal(0.0, 0.01, (steps, 1, 1, 1)).astype(np.float32))
    middle = turned.mean()  # contrast about the clip's own brightness, or it would move that as well
    return (turned - middle) * rng.uniform(0.75, 1.3) + middle + rng.uniform(-0.04, 0.04) + flicker


@dataclass(frozen=True)
class Batch:
    """`frames` (B, T, U, side, side) standardised, `source` (P), `target` and `counts` (B, T); counts 0 is padding."""

    frames: Tensor
    source: list[int]
    target: Tensor
    counts: Tensor


def make_batch(chosen: list[Clip], rng: np.random.Generator, side_px: int, mean: float, std: float) -> Batch:
    """Augment and pad; padding repeats the last frame so that batch norm sees no blank pictures (no loss there)."""
    present = draw_present_planes(rng)
    longest = SHORT_CLIP if rng.random() < 0.5 else SEGMENTS  # two lengths only: each new shape is compiled anew
    rows, counts = [], []
    for clip in chosen:
        kept = draw_segments(rng, longest)
        raw = torch.from_numpy(clip.stacks[kept][:, present].astype(np.float32) / 255)  # (T, U, H, W)
        rows.append(turned_and_lit(raw, rng, side_px))
        counts.append(len(kept))
    padded = [torch.cat([row, row[-1:].expand(longest - len(row), -1, -1, -1)]) for row in rows]
    frames = (torch.stack(padded) - mean) / std  # (B, T, U, H, W)
    real = torch.tensor([[float(step < count) for step in range(longest)] for count in counts])
    target = torch.tensor([[float(clip.reaches_blastocyst)] * longest for clip in chosen])
    return Batch(frames, nearest_present(present), target, real)
