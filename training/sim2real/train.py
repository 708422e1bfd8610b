"""One round: draw virtual crops (or reuse them), train the measuring classifier on them for so many minutes.

Does: keeps crops, a resumable checkpoint and a CSV of losses. Refuses to know: how good it is on real pictures
(`training.sim2real.evaluate` measures that). Never trains on anything of the Nantes set; `--stagegen` is the only door
for pictures that the simulator did not draw, and only their first 30 of each class pass it.

    nice -n 10 python -m training.sim2real.train --embryos 1200 --minutes 12 --name round1
    nice -n 10 python -m training.sim2real.train --embryos 1200 --minutes 12 --name round1-mixed --stagegen STAGEGEN
    nice -n 10 python -m training.sim2real.evaluate --run training/runs/sim2real/round1
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from training.sim2real import crops as cutting
from training.sim2real.augment import plain, varied
from training.sim2real.crops import Crops, Settings
from training.sim2real.labels import STAGES, generated
from training.sim2real.model import Averaged, StageNet

PHASE_WEIGHT = 0.3  # of the phase head's loss: counting 5, 6, 7 teaches what a cell is
SMOOTHING = 0.1
PLANE_SHARES = (0.25, 0.5, 0.25)  # of the three planes, where the network sees one
NO_PHASE = -100


@dataclass(frozen=True)
class Recipe:
    """Everything that a run was asked for; written beside the weights."""

    embryos: int
    minutes: float
    planes: int = 1
    stagegen: str = ""
    stagegen_share: float = 0.15
    batch: int = 64
    lr: float = 2e-3
    weight_decay: float = 0.02
    seed: int = 0


@dataclass
class Source:
    """Pictures to draw batches from, by stage; `phases` holds NO_PHASE where nobody knows it."""

    pixels: np.ndarray
    stages: np.ndarray
    phases: np.ndarray

    def __post_init__(self) -> None:
        self.by_stage = [np.flatnonzero(self.stages == stage) for stage in range(len(STAGES))]
        self.present = [stage for stage, own in enumerate(self.by_stage) if len(own)]

    def pick(self, rng: np.random.Generator) -> int:
        """One picture; all stages that are here are equally likely."""
        return int(rng.choice(self.by_stage[int(rng.choice(self.present))]))


def drawn_source(crops: Crops) -> Source:
    return Source(crops.pixels, crops.stages, crops.phases)


def generated_source(folder: Path) -> Source:
    """The first 30 pictures of each `stagegen` class; one plane, and no phase."""
    pictures = generated(folder, tune=True)
    pixels = np.stack([cutting.read_picture(picture.path) for picture in pictures])
    stages = np.array([picture.stage for picture in pictures], dtype=np.int64)
    return Source(pixels, stages, np.full(len(pictures), NO_PHASE, dtype=np.int64))


def chosen_planes(crop: np.ndarray, planes: int, rng: np.random.Generator) -> np.ndarray:
    """(1 or 3, 128, 128) -> (planes, 128, 128); for three planes one picture in two shows the middle one three times,
    as it is where only one plane was recorded."""
    if planes == 1:
        return crop[[int(rng.choice(3, p=PLANE_SHARES)) if len(crop) == 3 else 0]]
    return crop if len(crop) == 3 and rng.random() < 0.5 else crop[[len(crop) // 2] * 3]


def make_batch(
    sources: list[Source], shares: list[float], recipe: Recipe, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(B, planes, 112, 112), stages (B,), phases (B,)."""
    rows, stages, phases = [], [], []
    for which in rng.choice(len(sources), recipe.batch, p=shares):
        source = sources[int(which)]
        i = source.pick(rng)
        rows.append(varied(chosen_planes(source.pixels[i], recipe.planes, rng), rng))
        stages.append(int(source.stages[i]))
        phases.append(int(source.phases[i]))
    return torch.from_numpy(np.stack(rows)), torch.tensor(stages), torch.tensor(phases)


def loss_of(network: StageNet, batch: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, float]:
    """The loss, and the share of the batch called right."""
    x, stages, phases = batch
    said, phase_said, _ = network(x)
    loss = functional.cross_entropy(said, stages, label_smoothing=SMOOTHING)
    if bool((phases != NO_PHASE).any()):
        loss = loss + PHASE_WEIGHT * functional.cross_entropy(
            phase_said, phases, label_smoothing=SMOOTHING, ignore_index=NO_PHASE
        )
    return loss, float((said.argmax(1) == stages).float().mean())


def rate_at(share_done: float, lr: float) -> float:
    """Warm-up over the first 4 %, then a cosine to a hundredth."""
    if share_done < 0.04:
        return lr * (0.1 + 0.9 * share_done / 0.04)
    return lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min((share_done - 0.04) / 0.96, 1.0))))


@torch.inference_mode()
def drawn_accuracy(network: StageNet, crops: Crops, at_most: int = 600) -> float:
    """On drawn embryos nobody trained on. It predicts nothing about real ones; it shows whether training works."""
    network.eval()
    middle = crops.pixels[:at_most, 1:2]
    chunks = [torch.from_numpy(np.stack([plain(one) for one in middle[i : i + 64]])) for i in range(0, len(middle), 64)]
    said = torch.cat([network(chunk.repeat(1, network.planes, 1, 1))[0].argmax(1) for chunk in chunks]).numpy()
    return float((said == crops.stages[:at_most]).mean())


class Run:
    """One training run in its folder: `checkpoint.pt`, `losses.csv`, `recipe.json`."""

    def __init__(self, folder: Path, recipe: Recipe, digest: str) -> None:
        self.folder, self.recipe, self.digest = folder, recipe, digest
        torch.manual_seed(recipe.seed)
        self.network = StageNet(recipe.planes).to(memory_format=torch.channels_last)  # a quarter faster on a CPU
        self.average = Averaged(self.network)
        decayed = [p for p in self.network.parameters() if p.ndim > 1]
        plain_ones = [p for p in self.network.parameters() if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": plain_ones, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(groups, lr=recipe.lr)
        self.steps, self.trained_s = 0, 0.0

    def resume(self) -> None:
        """Go on from the folder's checkpoint. ValueError when it was made from other crops or another recipe."""
        path = self.folder / "checkpoint.pt"
        if not path.exists():
            return
        kept = torch.load(path, map_location="cpu", weights_only=True)
        same = {key: value for key, value in asdict(self.recipe).items() if key != "minutes"}
        if kept["digest"] != self.digest or any(kept["recipe"].get(key) != value for key, value in same.items()):
            raise ValueError(f"{path} was trained on other crops or by another recipe: give another --name")
        self.network.load_state_dict(kept["weights"])
        self.average.network.load_state_dict(kept["average"])
        self.average.steps = self.steps = kept["steps"]
        self.optimiser.load_state_dict(kept["optimiser"])
        self.trained_s = kept["trained_s"]

    def save(self) -> None:
        """Write beside, flush, rename."""
        content = {
            "schema": "pellucid.sim2real.checkpoint/1",
            "recipe": asdict(self.recipe),
            "digest": self.digest,
            "weights": self.network.state_dict(),
            "average": self.average.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "steps": self.steps,
            "trained_s": self.trained_s,
        }
        unfinished = self.folder / f".checkpoint.{os.getpid()}"
        with unfinished.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(self.folder / "checkpoint.pt")

    def step(self, sources: list[Source], shares: list[float]) -> tuple[float, float]:
        """One optimiser step; the batch depends only on the seed and the step, so a resumed run sees new ones."""
        rng = np.random.default_rng((self.recipe.seed, self.steps))
        batch = make_batch(sources, shares, self.recipe, rng)
        for group in self.optimiser.param_groups:
            group["lr"] = rate_at(self.trained_s / (60 * self.recipe.minutes), self.recipe.lr)
        self.network.train()
        loss, right = loss_of(self.network, batch)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()
        self.average.follow(self.network)
        self.steps += 1
        return float(loss.detach()), right


def train(
    run: Run,
    sources: list[Source],
    shares: list[float],
    test: Crops | None,
    say: Callable[[str], None] = print,
    now: Callable[[], float] = time.monotonic,
    every_s: float = 20.0,
) -> None:
    """Train until the recipe's minutes are spent (counted over all resumed parts); a row of the CSV every 20 s."""
    run.folder.mkdir(parents=True, exist_ok=True)
    (run.folder / "recipe.json").write_text(json.dumps(asdict(run.recipe) | {"digest": run.digest}, indent=2) + "\n")
    last, told, losses, rights = now(), now(), [], []
    while run.trained_s < 60 * run.recipe.minutes:
        loss, right = run.step(sources, shares)
        losses.append(loss)
        rights.append(right)
        run.trained_s += now() - last
        last = now()
        if now() - told >= every_s or run.trained_s >= 60 * run.recipe.minutes:
            row = [run.steps, round(run.trained_s), round(float(np.mean(losses)), 4), round(float(np.mean(rights)), 4)]
            _add_row(run.folder / "losses.csv", ["steps", "trained_s", "loss", "accuracy"], row)
            pace = len(losses) * run.recipe.batch / max(now() - told, 1e-6)
            say(f"step {row[0]}  {row[1]} s  loss {row[2]:.3f}  accuracy {row[3]:.3f}  {pace:.0f} pictures/s")
            run.save()
            told, losses, rights = now(), [], []
            last = now()
    if test is not None:
        say(f"drawn test embryos: {drawn_accuracy(run.average.network, test):.3f} (predicts nothing about real ones)")


def _add_row(path: Path, head: list[str], row: list[object]) -> None:
    new = not path.exists()
    with path.open("a", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        if new:
            rows.writerow(head)
        rows.writerow(row)


def _draw(cache: Path, embryos: int, settings: Settings, workers: int, first_seed: int = 0) -> None:
    start = time.monotonic()
    for done in cutting.draw_all(cache, embryos, settings, workers, first_seed):
        print(f"drawn: {done} embryos of {embryos}, {time.monotonic() - start:.0f} s", flush=True)


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m training.sim2real.train",
        description="Draw virtual embryos, cut crops, train the measuring classifier. Stop and repeat the same command "
        "to go on: crops and weights are kept.",
        epilog="Then: python -m training.sim2real.evaluate --run training/runs/sim2real/NAME",
    )
    parser.add_argument("--embryos", type=int, default=1200, help="virtual embryos, about 5.6 moments of 3 planes each")
    parser.add_argument("--minutes", type=float, default=12.0, help="training time in all; 0 only draws")
    parser.add_argument("--name", default="round", help="folder of this run below --runs")
    parser.add_argument("--planes", type=int, choices=(1, 3), default=1, help="3: -15, 0, +15 um as channels")
    parser.add_argument("--stagegen", default="", help="folder of stagegen (MIT): its first 30 of each class join in")
    parser.add_argument("--stagegen-share", type=float, default=0.15, help="of each batch")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0, help="of the weights and batches")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--workers", type=int, default=1, help="processes that draw (before training, never during)")
    parser.add_argument("--cache", type=Path, default=Path("training/cache/sim2real"))
    parser.add_argument("--runs", type=Path, default=Path("training/runs/sim2real"))
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    given = _arguments(arguments)
    torch.set_num_threads(given.threads)
    settings = Settings()
    _draw(given.cache, given.embryos, settings, given.workers)
    _draw(given.cache, cutting.SHARD_EMBRYOS, settings, given.workers, cutting.DRAWN_TEST_SEEDS_FROM)
    if given.minutes <= 0:
        return 0
    crops = cutting.load(given.cache, given.embryos, settings)
    test = cutting.load(given.cache, cutting.SHARD_EMBRYOS, settings, cutting.DRAWN_TEST_SEEDS_FROM)
    print(f"{len(crops.stages)} moments, {crops.pixels.shape[1]} crops each; stages {np.bincount(crops.stages)}")
    sources, shares = [drawn_source(crops)], [1.0]
    if given.stagegen:
        sources.append(generated_source(Path(given.stagegen)))
        shares = [1 - given.stagegen_share, given.stagegen_share]
    recipe = Recipe(
        embryos=given.embryos,
        minutes=given.minutes,
        planes=given.planes,
        stagegen="stagegen, first 30 of each class (MIT, Presacan et al. 2025)" if given.stagegen else "",
        stagegen_share=given.stagegen_share if given.stagegen else 0.0,
        batch=given.batch,
        lr=given.lr,
        seed=given.seed,
    )
    run = Run(given.runs / given.name, recipe, cutting.digest(settings))
    run.resume()
    train(run, sources, shares, test)
    return 0


if __name__ == "__main__":
    sys.exit(main())
