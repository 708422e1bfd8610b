"""Crops of virtual embryos on disk, cut as a model would see them: the locator finds them, not the simulator's truth.

Does: draws one moment per stage of each embryo at three planes around the focus, keeps the crops in shards that a
stopped run resumes, loads them. Refuses to know: torch, augmentation, real labels.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

import engines.locate
import monitor.simulator
from engines.locate import crop_embryo, locate
from monitor.simulator import VirtualEmbryo
from monitor.simulator.life import Life
from monitor.vocabulary import PHASES
from training.sim2real.labels import STAGE_OF, STAGES, phases_to_spans

CROP_PX = 128
CROP_WELL_RADII = 1.66  # 128 px of it; the network's 112 px are then 1.45 well radii, with room to jitter
CROP_PLANES_UM = (-15, 0, 15)
SHARD_EMBRYOS = 40
DRAWN_TEST_SEEDS_FROM = 1_000_000  # never trained on
_NOT_DRAWING = {  # what writes, tells or counts; a change there leaves every pixel as it was
    *("__init__.py", "curves.py", "faults.py", "folders.py", "incubator.py", "outlook.py", "plan.py", "samples.py"),
    *("sheet.py", "statistics.py", "truth.py"),
}


@dataclass(frozen=True)
class Settings:
    """What a cached crop depends on, beside the simulator's and the locator's source."""

    frame_px: int = 250
    first_hpi_h: float = 1.0
    last_hpi_h: float = 135.0
    arrested_h: float = 30.0  # how long an arrested embryo is still shown
    moments_per_stage: int = 1
    heavy_share: float = 0.4  # of the embryos get more fragments and less even cells than life gives them


@dataclass(frozen=True)
class Crops:
    """`pixels` (N, 3, 128, 128) uint8 at planes -15, 0, 15 um; `phases` (N,) index into PHASES; `stages` (N,)."""

    pixels: npt.NDArray[np.uint8]
    phases: npt.NDArray[np.int64]
    stages: npt.NDArray[np.int64]
    hours: npt.NDArray[np.float64]
    seeds: npt.NDArray[np.int64]


def digest(settings: Settings) -> str:
    """Names the cache folder: another drawing, locator or setting gets another one, never a stale picture."""
    cut = [CROP_PX, CROP_WELL_RADII, CROP_PLANES_UM, SHARD_EMBRYOS]
    known = hashlib.sha256(json.dumps([asdict(settings), cut], sort_keys=True).encode())
    for path in sorted(Path(monitor.simulator.__file__).parent.glob("*.py")):
        if path.name not in _NOT_DRAWING:
            known.update(path.read_bytes())
    known.update(Path(engines.locate.__file__).read_bytes())
    return known.hexdigest()[:12]


def moments(seed: int, embryo: VirtualEmbryo, settings: Settings) -> list[tuple[str, float]]:
    """(phase, hpi) of one embryo: uniform in time within each stage that it reaches."""
    rng = np.random.default_rng((seed, 0x52))
    life = embryo.life
    last_h = min(settings.last_hpi_h, life.frozen_after_h + settings.arrested_h)
    spans = phases_to_spans(life.onsets_h, settings.first_hpi_h, last_h)
    chosen = []
    for stage in range(len(STAGES)):
        own = [span for span in spans if STAGE_OF[span[0]] == stage]
        if not own:
            continue
        length_h = np.array([span[2] - span[1] for span in own])
        for _ in range(settings.moments_per_stage):
            phase, start_h, end_h = own[int(rng.choice(len(own), p=length_h / length_h.sum()))]
            chosen.append((phase, float(rng.uniform(start_h, end_h))))
    return chosen


def lived(seed: int, settings: Settings) -> Life:
    """The seed's life; in some, more fragments and less even cells: rare in life, common among what is called wrong."""
    rng, life = np.random.default_rng((seed, 0x4EA)), Life.sample(seed)
    if rng.random() >= settings.heavy_share:
        return life
    ratio = max(life.fragmentation_ratio, float(rng.uniform(0.08, 0.4)))
    return replace(life, fragmentation_ratio=ratio, unevenness=max(life.unevenness, float(rng.uniform(0.1, 0.45))))


def draw_embryo(seed: int, settings: Settings) -> list[tuple[npt.NDArray[np.uint8], str, float]]:
    """(crops (3, 128, 128), phase, hpi) of each moment of one embryo."""
    embryo = VirtualEmbryo(seed, life=lived(seed, settings))
    drawn = []
    for phase, hpi_h in moments(seed, embryo, settings):
        stack = embryo.stack(hpi_h, settings.frame_px, planes_um=CROP_PLANES_UM)
        found = locate(stack[len(stack) // 2])
        cut = [crop_embryo(plane, found, CROP_PX, CROP_WELL_RADII) for plane in stack]
        drawn.append((np.stack(cut), phase, hpi_h))
    return drawn


def write_shard(folder: Path, first_seed: int, settings: Settings) -> int:
    """Draw `SHARD_EMBRYOS` embryos unless their shard is there; labels first, pixels last and by renaming."""
    path = folder / f"{first_seed}.npy"
    if path.exists():
        return first_seed
    cv2.setNumThreads(1)  # the pool already uses one process per core
    rows = [
        (pixels, PHASES.index(phase), hpi_h, seed)
        for seed in range(first_seed, first_seed + SHARD_EMBRYOS)
        for pixels, phase, hpi_h in draw_embryo(seed, settings)
    ]
    unfinished = folder / f".{first_seed}.{os.getpid()}.npy"
    np.save(unfinished, np.array([row[1:] for row in rows], dtype=np.float64))
    unfinished.replace(folder / f"{first_seed}.labels.npy")
    np.save(unfinished, np.stack([row[0] for row in rows]))
    unfinished.replace(path)
    return first_seed


def draw_all(cache: Path, embryos: int, settings: Settings, workers: int, first_seed: int = 0) -> Iterator[int]:
    """Draw the shards that are missing; yields how many embryos are there, shard by shard."""
    folder = cache / digest(settings)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "settings.json").write_text(json.dumps(asdict(settings), indent=2) + "\n")
    firsts = shard_seeds(embryos, first_seed)
    missing = [seed for seed in firsts if not (folder / f"{seed}.npy").exists()]
    done = len(firsts) - len(missing)
    if not missing:
        yield done * SHARD_EMBRYOS
        return
    # spawned, not forked: torch's threads do not survive a fork
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for _ in pool.map(write_shard, [folder] * len(missing), missing, [settings] * len(missing)):
            done += 1
            yield done * SHARD_EMBRYOS


def shard_seeds(embryos: int, first_seed: int = 0) -> list[int]:
    """First seed of each shard that `embryos` (rounded up to whole shards) need."""
    return list(range(first_seed, first_seed + embryos, SHARD_EMBRYOS))


def load(cache: Path, embryos: int, settings: Settings, first_seed: int = 0) -> Crops:
    """All crops of the first `embryos` embryos, in memory. FileNotFoundError names the shard that is missing."""
    folder = cache / digest(settings)
    firsts = shard_seeds(embryos, first_seed)
    labels = np.concatenate([np.load(folder / f"{seed}.labels.npy") for seed in firsts])
    pixels = np.concatenate([np.load(folder / f"{seed}.npy", mmap_mode="r") for seed in firsts])
    phases = labels[:, 0].astype(np.int64)
    stages = np.array([STAGE_OF[PHASES[i]] for i in phases], dtype=np.int64)
    return Crops(pixels, phases, stages, labels[:, 1], labels[:, 2].astype(np.int64))


def read_picture(path: Path) -> npt.NDArray[np.uint8]:
    """(1, 128, 128) uint8: a real picture cut like the drawn ones. ValueError when it cannot be read."""
    frame = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if frame is None:
        raise ValueError(f"{path} cannot be read as a picture")
    gray = np.asarray(frame, dtype=np.uint8)
    return crop_embryo(gray, locate(gray), CROP_PX, CROP_WELL_RADII)[None]
