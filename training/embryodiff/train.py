"""Trains the encoder on frames, freezes it, trains the head on its cached features; every part resumes.

Does: the two stages of MODELS.md, section 2, on the virtual incubator; generated pictures may join the encoder's
frames. Refuses to know: real videos (`training.embryodiff.evaluate` measures on them), ONNX.

    python -m training.embryodiff.train encoder --cache DIR --seeds 0:300 --clock segments:3 --minutes 20 --name first
    python -m training.embryodiff.train head --cache DIR --seeds 0:80 --clock every:0.5 --minutes 6 --name first
    python -m training.embryodiff.train encoder --smoke        # seconds, for a look at whether it runs
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from monitor.simulator import PLANES_UM
from monitor.vocabulary import PHASES
from training.datasets.clock import Clock
from training.datasets.virtual import VALIDATION_SEEDS_FROM, VirtualCrops, drawing_digest, fill, seed_range
from training.embryodiff import checkpoint as checkpoints
from training.embryodiff import diffusion
from training.embryodiff.bundled import read_bundled, thawed
from training.embryodiff.checkpoint import Checkpoint
from training.embryodiff.encoder import TRUNKS, EncoderConfig, FrameEncoder, start_trunk
from training.embryodiff.features import Disturbance, SequenceMaker, Video, cached_video
from training.embryodiff.frames import EmbryoFrames, Frames, Picker, drawn_crops, generated_pictures
from training.embryodiff.losses import (
    BOUNDARY,
    DIFFUSION,
    SEMANTIC,
    SMOOTH,
    UNLABELLED,
    Labels,
    boundary_loss,
    cross_entropy,
    drawn_kinds,
    ordinal_cross_entropy,
    ordinal_targets,
    shown,
    smoothness,
)
from training.embryodiff.model import SMALL, EmbryoDiff, HeadConfig
from training.embryodiff.model import Sequence as HeadSequence
from training.embryodiff.restyle import Restyler
from training.embryodiff.run import Recipe, Run
from training.sim2real import crops as cutting
from training.sim2real.augment import plain

PHASE_WEIGHT, STAGE_WEIGHT = 1.0, 0.4  # of the encoder's two heads
SMOOTHING = 0.1
LAST_STEP_SHARE = 0.5  # of a batch: the step that production takes, from the fixed vector


def encoder_loss(
    encoder: FrameEncoder, picker: Picker, size: int, rng: np.random.Generator
) -> tuple[Tensor, dict[str, float]]:
    """Cross-entropy of phases and merged stages, and the shares called right."""
    batch = picker.batch(size, rng)
    phases, stages = encoder.classify(encoder.fuse_present(batch.planes, batch.present))
    loss = STAGE_WEIGHT * functional.cross_entropy(stages, batch.stages, label_smoothing=SMOOTHING)
    loss = loss + PHASE_WEIGHT * ordinal_cross_entropy(phases, batch.phases, ordinal_targets())
    known = batch.phases != UNLABELLED
    right = {
        "stages_right": float((stages.argmax(1) == batch.stages).float().mean()),
        "phases_right": float((phases.argmax(1) == batch.phases)[known].float().mean()),
    }
    return loss, right


def head_loss(head: EmbryoDiff, given: HeadSequence, labels: Labels, rng: torch.Generator) -> dict[str, Tensor]:
    """The four losses, not yet weighed; half of the batch is noised as production sees it."""
    cues = head.cues(given)
    losses = {
        "semantic": cross_entropy(cues.semantic_logits, labels),
        "smooth": smoothness(cues.semantic_logits, labels),
    }
    if cues.boundary_logits is not None:
        losses["boundary"] = boundary_loss(cues.boundary_logits, labels)
    if head.denoiser is not None:
        losses["diffusion"] = cross_entropy(_denoised(head, given, labels, cues.semantic, cues.boundary, rng), labels)
    return losses


def _denoised(
    head: EmbryoDiff,
    given: HeadSequence,
    labels: Labels,
    semantic: Tensor,
    boundary: Tensor | None,
    rng: torch.Generator,
) -> Tensor:
    batch = len(labels.phases)
    steps = torch.randint(diffusion.STEPS, (batch,), generator=rng)
    last = torch.rand(batch, generator=rng) < LAST_STEP_SHARE
    steps[last] = diffusion.STEPS - 1
    clean = head.embeddings()[labels.phases.clamp(min=0)] * labels.known.unsqueeze(-1)
    noisy = diffusion.noised(clean, torch.randn(clean.shape, generator=rng), head.kept[steps])
    noisy = torch.where(last.reshape(-1, 1, 1), head.noise.expand_as(noisy), noisy)
    kinds = ["full" if own else kind for own, kind in zip(last.tolist(), drawn_kinds(batch, rng), strict=True)]
    mask = shown(labels, kinds, rng).unsqueeze(-1)
    hidden = (semantic * mask, None if boundary is None else boundary * mask)
    return head.denoiser(noisy, steps, hidden, given.valid)


WEIGHTS = {"semantic": SEMANTIC, "smooth": SMOOTH, "boundary": BOUNDARY, "diffusion": DIFFUSION}


# -- command line ------------------------------------------------------------------------------------------------------


def embryos_of(chosen: argparse.Namespace) -> list[VirtualCrops]:
    """The virtual embryos that were asked for, drawn where they are missing."""
    clock = Clock.read(chosen.clock)
    embryos = [VirtualCrops(chosen.cache, seed, clock, planes_um=chosen.planes) for seed in chosen.seeds]
    for done in fill(embryos[0].settings, chosen.cache, list(chosen.seeds), chosen.workers):
        if done == len(embryos) or done % 20 == 0:
            print(f"drawn: {done} of {len(embryos)} embryos ({chosen.clock})", flush=True)
    return embryos


def frame_sources(chosen: argparse.Namespace) -> list[tuple[Frames, float]]:
    """Drawn embryos, the measuring classifier's crops, generated pictures: each with its share of a batch."""
    embryos = embryos_of(chosen)
    for seeds, clock in chosen.more:
        embryos += embryos_of(argparse.Namespace(**{**vars(chosen), "seeds": seeds, "clock": clock}))
    sources: list[tuple[Frames, float]] = [(EmbryoFrames(embryos), 1.0)]
    if chosen.crops:
        settings = cutting.Settings()
        for done in cutting.draw_all(chosen.crop_cache, chosen.crops, settings, chosen.workers):
            print(f"crops: {done} of {chosen.crops} embryos", flush=True)
        sources.append((drawn_crops(cutting.load(chosen.crop_cache, chosen.crops, settings)), chosen.crop_share))
    if chosen.stagegen:
        sources.append((generated_pictures(Path(chosen.stagegen)), chosen.stagegen_share))
    return sources


def restyler_of(chosen: argparse.Namespace) -> Restyler | None:
    """With --restyle: spectra are borrowed from the generated pictures that may be trained on, if those are given."""
    if not chosen.restyle:
        return None
    pictures = generated_pictures(Path(chosen.stagegen)).pixels if chosen.stagegen else np.zeros((0, 1, 1, 1), np.uint8)
    return Restyler(np.array([plain(picture)[0] for picture in pictures], np.float32))


def started_encoder(chosen: argparse.Namespace, picker: Picker) -> tuple[FrameEncoder, str]:
    """A new encoder, one with a trunk trained before, or one read out of an exported pair; and which."""
    if chosen.start and chosen.start.suffix == ".json":
        bundled = read_bundled(chosen.start)
        planes = torch.cat([picker.batch(32, np.random.default_rng((chosen.seed, 3, i))).planes for i in range(8)])
        return thawed(bundled.encoder, planes).to(memory_format=torch.channels_last), bundled.origin
    encoder = FrameEncoder(EncoderConfig(chosen.trunk)).to(memory_format=torch.channels_last)
    if not chosen.start:
        return encoder, ""
    if chosen.start.name.endswith("-encoder.pt"):
        kept = checkpoints.load_encoder(chosen.start)
        return kept.network.to(memory_format=torch.channels_last), f"{chosen.start.stem}, {_begun(kept.provenance)}"
    start_trunk(encoder, torch.load(chosen.start, map_location="cpu", weights_only=True)["average"])
    return encoder, f"training.sim2real {chosen.start.parent.name}"


def _begun(provenance: dict[str, Any]) -> str:
    """A run in a few words, with what it began from."""
    begun = f" from {provenance['start']}" if provenance.get("start") else ""
    return f"{provenance['minutes']:.0f} min, {provenance['steps']} steps{begun}"


def train_encoder(chosen: argparse.Namespace) -> Path:
    """Train, freeze, write `<name>-encoder.pt` and `<name>-frozen.pt`; the second one's path."""
    picker = Picker(frame_sources(chosen), restyler_of(chosen))
    torch.manual_seed(chosen.seed)
    encoder, start = started_encoder(chosen, picker)
    share = chosen.trunk_share if start else 1.0
    size = chosen.batch or 48
    recipe = Recipe(chosen.minutes, chosen.lr or 1.5e-3, 0.02, size, chosen.seed, trunk_share=share, half=chosen.half)
    told = {**_told(chosen), "crops": chosen.crops, "stagegen": bool(chosen.stagegen), "start": start}
    told |= {"more": [f"{seeds.start}:{seeds.stop}@{clock}" for seeds, clock in chosen.more]}
    told["restyled"] = chosen.restyle
    run = Run(chosen.out / f"{chosen.name}-encoder.pt", encoder, recipe, told)

    def loss_of(network: nn.Module, step: int) -> tuple[Tensor, dict[str, float]]:
        rng = np.random.default_rng((chosen.seed, 1, step))
        return encoder_loss(network, picker, recipe.batch, rng)

    run.train(loss_of)
    path = chosen.out / f"{chosen.name}-frozen.pt"
    frozen = checkpoints.frozen(run.average.network)
    checkpoints.save(path, Checkpoint(frozen, run.provenance(), frozen=True))
    print(f"frozen: {path}")
    return path


def drawn_videos(chosen: argparse.Namespace, encoder: FrameEncoder) -> list[Video]:
    """Features of the drawn embryos that were asked for."""
    videos = []
    for number, embryo in enumerate(embryos := embryos_of(chosen), start=1):
        videos.append(video_of(chosen.cache, encoder, embryo))
        if number == len(embryos) or number % 10 == 0:
            print(f"encoded: {number} of {len(embryos)} embryos", flush=True)
    return videos


def video_of(cache: Path, encoder: FrameEncoder, embryo: VirtualCrops) -> Video:
    """One drawn embryo's features; frames long after an arrest are no more than more of the same and stay in."""
    onsets_h = tuple((PHASES.index(phase), hour) for phase, hour in embryo.life.onsets_h.items())
    folder = embryo.settings.folder(cache)
    return cached_video(cache, encoder, embryo, embryo.stack, onsets_h, key=folder.name)


def train_head(chosen: argparse.Namespace) -> Path:
    """Train a head on a frozen encoder's features and write `<name>-<variant>.pt`; its path."""
    encoder = checkpoints.load_encoder(chosen.out / f"{chosen.encoder or chosen.name}-frozen.pt").network
    videos = drawn_videos(chosen, encoder)
    how = Disturbance(one_plane=chosen.one_plane, hour_known=chosen.hour_known)
    maker = SequenceMaker(encoder, videos, chosen.frames, how)
    torch.manual_seed(chosen.seed)
    config = replace(SMALL if chosen.size == "small" else HeadConfig(), features=encoder.config.features)
    head = EmbryoDiff(replace(config, **VARIANTS[chosen.variant]))
    start = ""
    if chosen.start:
        bundled = read_bundled(chosen.start)
        if bundled.head.config != head.config:
            raise ValueError(f"{chosen.start} holds a head of another size or kind than was asked for")
        head.load_state_dict(bundled.head.state_dict())
        start = bundled.origin
    size = chosen.batch or 8
    recipe = Recipe(chosen.minutes, chosen.lr or 1e-3, 0.01, size, chosen.seed, averaged=0.995, steps=chosen.steps)
    told = {**_told(chosen), "encoder": checkpoints.encoder_id(encoder), "disturbance": _plain(asdict(how))}
    told["start"] = start
    run = Run(chosen.out / f"{chosen.name}-{chosen.variant}.pt", head, recipe, told)

    def loss_of(network: nn.Module, step: int) -> tuple[Tensor, dict[str, float]]:
        given, labels = maker.batch(recipe.batch, np.random.default_rng((chosen.seed, 2, step)))
        losses = head_loss(network, given, labels, torch.Generator().manual_seed(chosen.seed * 1_000_003 + step))
        loss = sum((WEIGHTS[name] * value for name, value in losses.items()), torch.zeros(()))
        return loss, {name: float(value.detach()) for name, value in losses.items()}

    run.train(loss_of)
    return run.path


VARIANTS: dict[str, dict[str, Any]] = {
    "causal": {},
    "whole": {"causal": False},
    "semantic": {"diffusion": False, "boundary": False},
    "diffusion": {"boundary": False},
    "whole-semantic": {"causal": False, "diffusion": False, "boundary": False},
}


def _plain(told: dict[str, Any]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in told.items()}


def _told(chosen: argparse.Namespace) -> dict[str, Any]:
    """What a run's weights depend on, beside its recipe."""
    return {
        "drawing": drawing_digest(),
        "clock": chosen.clock,
        "seeds": [chosen.seeds[0], chosen.seeds[-1] + 1],
        "planes_um": list(chosen.planes),
    }


def more_embryos(text: str) -> tuple[range, str]:
    seeds, at, clock = text.partition("@")
    if not at:
        raise argparse.ArgumentTypeError(f"{text!r}: FIRST:END@CLOCK, as in 450:1800@segments:1:84")
    return seed_range(seeds), clock


def planes_from(text: str) -> tuple[int, ...]:
    planes = tuple(sorted(int(word) for word in text.split(",")))
    if not set(planes) <= set(PLANES_UM):
        raise argparse.ArgumentTypeError(f"{text!r}: planes are some of {PLANES_UM} um")
    return planes


def parser() -> argparse.ArgumentParser:
    """What the command line takes."""
    described = argparse.ArgumentParser(prog="python -m training.embryodiff.train", description=__doc__.splitlines()[0])
    stages = described.add_subparsers(dest="stage", required=True)
    encoder, head = stages.add_parser("encoder"), stages.add_parser("head")
    for command in (encoder, head):
        command.add_argument("--cache", type=Path, default=Path("training/cache"), help="drawn stacks and features")
        command.add_argument("--seeds", type=seed_range, default=range(200), help="FIRST:END, below 900000")
        command.add_argument("--planes", type=planes_from, default=PLANES_UM, help="um, as --planes=-15,0,15")
        command.add_argument("--out", type=Path, default=Path("training/runs/embryodiff"))
        command.add_argument("--name", default="embryodiff-small")
        command.add_argument("--lr", type=float, help="peak")
        command.add_argument("--batch", type=int)
        command.add_argument("--seed", type=int, default=0)
        command.add_argument("--workers", type=int, default=1, help="processes that draw")
        command.add_argument("--threads", type=int, default=1, help="of torch")
        command.add_argument("--smoke", action="store_true", help="a few seconds of everything, into --out")
    encoder.add_argument("--clock", default="segments:3", help="of the drawn embryos")
    encoder.add_argument("--minutes", type=float, default=20.0)
    encoder.add_argument("--trunk", choices=sorted(TRUNKS), default="small")
    encoder.add_argument(
        "--start",
        type=Path,
        help="an exported pair's manifest, NAME-encoder.pt, or checkpoint.pt of a one-plane training.sim2real run",
    )
    encoder.add_argument("--trunk-share", type=float, default=0.3, help="of the rate, for a trunk with a start")
    encoder.add_argument(
        "--more", type=more_embryos, action="append", default=[], help="FIRST:END@CLOCK: further embryos, repeatable"
    )
    encoder.add_argument("--half", action="store_true", help="products in bfloat16")
    encoder.add_argument("--restyle", action="store_true", help="textures change, see training.embryodiff.restyle")
    encoder.add_argument("--crops", type=int, default=0, help="embryos of training.sim2real's crops that join in")
    encoder.add_argument("--crop-cache", type=Path, default=Path("training/cache/sim2real"))
    encoder.add_argument("--crop-share", type=float, default=1.0, help="beside 1 for the drawn embryos' frames")
    encoder.add_argument("--stagegen", default="", help="folder of stagegen (MIT): first 30 of each class join in")
    encoder.add_argument("--stagegen-share", type=float, default=0.25, help="beside 1 for the drawn embryos' frames")
    head.add_argument("--clock", default="every:0.5", help="of the drawn embryos")
    head.add_argument("--minutes", type=float, default=6.0)
    head.add_argument("--steps", type=int, default=0, help="so many steps in the place of minutes: for an ablation")
    head.add_argument("--encoder", help="name of the run whose frozen encoder is used; --name where not given")
    head.add_argument("--start", type=Path, help="manifest of an exported pair: its head's weights")
    head.add_argument("--variant", choices=sorted(VARIANTS), default="causal")
    head.add_argument("--size", choices=("small", "paper"), default="small")
    head.add_argument("--frames", type=int, default=256, help="of a training sequence")
    head.add_argument("--one-plane", type=float, default=0.6, help="share of sequences that see one plane only")
    head.add_argument("--hour-known", type=float, default=0.5, help="share of sequences that are told the hour")
    return described


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    chosen = parser().parse_args(arguments)
    asked = [chosen.seeds, *(seeds for seeds, _ in getattr(chosen, "more", []))]
    if max(seeds[-1] for seeds in asked) >= VALIDATION_SEEDS_FROM:
        print("--seeds must lie below 900000: validation and test embryos begin there", file=sys.stderr)
        return 2
    torch.set_num_threads(chosen.threads)
    if chosen.smoke:
        chosen.seeds, chosen.minutes, chosen.batch, chosen.planes = range(2), 0.05, 4, (-15, 0, 15)
        chosen.clock = "every:8"
    try:
        train_encoder(chosen) if chosen.stage == "encoder" else train_head(chosen)
    except ValueError as fault:
        print(fault, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
