"""What a frozen encoder and a head say of embryos that nobody trained on, drawn and real, beside the hour alone.

Does: sequences through the head and the decoder as in use (live and revised), figures, a confusion matrix and a
timeline for each real video, and the ablation table of several heads. Of real videos it knows only the Nantes layout,
plane F0. AA83-7 is the video to tune on; others are read with `--report` only: once a round, and the log says so.
Refuses to know: how anything was trained.

    python -m training.embryodiff.evaluate --name first --cache DIR --drawn 40
    python -m training.embryodiff.evaluate --name first --cache DIR --nantes ../shared/data/nantes
    python -m training.embryodiff.evaluate --name first --cache DIR --drawn 40 --ablation
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from engines.decoding import Decoded, Decoder, DecodingRules
from monitor.vocabulary import PHASES
from training.datasets import nantes
from training.datasets.clock import Clock
from training.datasets.cropped import Cropped
from training.datasets.virtual import TEST_SEEDS_FROM, VALIDATION_SEEDS_FROM, VirtualCrops, fill
from training.embryodiff import checkpoint as checkpoints
from training.embryodiff import plots, scores
from training.embryodiff.encoder import FrameEncoder
from training.embryodiff.features import Video, cached_video, middle_plane, whole
from training.embryodiff.losses import UNLABELLED
from training.embryodiff.model import EmbryoDiff
from training.embryodiff.scores import Floats, Labels
from training.embryodiff.train import VARIANTS, video_of

TUNE_VIDEO = "AA83-7"


@dataclass(frozen=True)
class Said:
    """Of one video: `probabilities` (T, 16), labels (T,) each, and what stood decoded after the last frame."""

    video: Video
    probabilities: Floats
    live: Labels
    revised: Labels
    last: Decoded

    @property
    def raw(self) -> Labels:
        """The likeliest phase of each frame, without any decoding."""
        return np.asarray(self.probabilities.argmax(1))


@torch.inference_mode()
def say(
    encoder: FrameEncoder,
    head: EmbryoDiff,
    video: Video,
    planes: Sequence[int],
    hours: bool,
    steps: int = 1,
    rules: DecodingRules | None = None,
) -> Said:
    """One pass over the video (the tests hold it equal to stepping), then the decoder frame by frame."""
    said = head(whole(encoder, video, planes, hours), steps)[0].exp().numpy().astype(np.float64)
    decoder = Decoder(rules or DecodingRules(PHASES))
    track, live, last = decoder.start(), [], None
    for p, hour_h in zip(said, video.hours_h - video.hours_h[0], strict=True):
        track, last = decoder.advance(track, p / p.sum(), float(hour_h))
        live.append(last.live)
    assert last is not None
    revised = path_of(last, video.hours_h - video.hours_h[0])
    return Said(video, said, np.array(live), revised, last)


def path_of(last: Decoded, elapsed_h: Floats) -> Labels:
    """(T,) the revised label of every frame, as it stands after the last one."""
    labels = np.full(len(elapsed_h), last.began, np.int64)
    for phase, hour_h in sorted(last.onsets_h.items()):
        labels[elapsed_h >= hour_h - 1e-6] = phase
    return labels


def figures_of(said: Sequence[Said]) -> dict[str, dict[str, float]]:
    """Figures of the raw posterior, the live and the revised label, and the hour alone, over labelled frames."""
    kept = [one.video.phases != UNLABELLED for one in said]
    truth = [one.video.phases[own] for one, own in zip(said, kept, strict=True)]
    hours = [one.video.hours_h[own] for one, own in zip(said, kept, strict=True)]
    predictors: dict[str, list[Labels]] = {
        "raw": [one.raw[own] for one, own in zip(said, kept, strict=True)],
        "live": [one.live[own] for one, own in zip(said, kept, strict=True)],
        "revised": [one.revised[own] for one, own in zip(said, kept, strict=True)],
        "hour only": [scores.by_hour(own) for own in hours],
    }
    return {name: scores.figures(labels, truth, hours) for name, labels in predictors.items()}


def table(rows: dict[str, dict[str, float]]) -> str:
    """Lines for a terminal or a log."""
    names = list(next(iter(rows.values())))
    lines = ["| | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for name, row in rows.items():
        values = [f"{row[key]:.0f}" if key == "frames" else f"{row[key]:.3f}" for key in names]
        lines.append(f"| {name} | " + " | ".join(values) + " |")
    return "\n".join(lines)


def onset_lines(said: Said) -> list[str]:
    """For each way of telling: hours too late of every true onset of one video; "-" where it was not told."""
    kept = said.video.phases != UNLABELLED
    hours_h = said.video.hours_h[kept]
    true = scores.onsets_h(said.video.phases[kept], hours_h)
    lines = []
    for name, labels in (("raw", said.raw), ("live", said.live), ("revised", said.revised)):
        late_h = scores.onset_errors_h(scores.onsets_h(labels[kept], hours_h), true)
        told = (f"{phase} {late_h[phase]:+.1f}" if phase in late_h else f"{phase} -" for phase in true)
        lines.append(f"hours too late, {name}: " + ", ".join(told))
    return lines


def drawn_videos(chosen: argparse.Namespace, encoder: FrameEncoder) -> list[Video]:
    """Test embryos (or, with --validation, those for choosing), hourly, seven planes."""
    first = VALIDATION_SEEDS_FROM if chosen.validation else TEST_SEEDS_FROM
    seeds = range(first, first + chosen.drawn)
    embryos = [VirtualCrops(chosen.cache, seed, Clock.read(chosen.clock)) for seed in seeds]
    for done in fill(embryos[0].settings, chosen.cache, list(seeds), chosen.workers):
        if done % 20 == 0 or done == len(seeds):
            print(f"drawn: {done} of {len(seeds)} embryos", flush=True)
    return [video_of(chosen.cache, encoder, embryo) for embryo in embryos]


def real_videos(chosen: argparse.Namespace, encoder: FrameEncoder) -> list[Video]:
    """The video to tune on; with --report all that are there. Plane F0."""
    names = nantes.video_names(chosen.nantes) if chosen.report else [TUNE_VIDEO]
    videos = []
    for name in names:
        embryo = Cropped(nantes.read_video(chosen.nantes, name), cache=chosen.cache / "nantes")
        videos.append(cached_video(chosen.cache, encoder, embryo, embryo.stack, key="f0"))
    return videos


def planes_named(video: Video, name: str) -> list[int]:
    return middle_plane(video) if name == "1" else list(range(len(video.planes_um)))


def sets_of(chosen: argparse.Namespace, encoder: FrameEncoder) -> Iterator[tuple[str, list[Video]]]:
    if chosen.drawn:
        yield (
            f"{chosen.drawn} drawn {'validation' if chosen.validation else 'test'} embryos",
            drawn_videos(chosen, encoder),
        )
    if chosen.nantes:
        videos = real_videos(chosen, encoder)
        yield from ((video.name, [video]) for video in videos)
        if len(videos) > 1:
            yield "pooled", videos


def evaluate(chosen: argparse.Namespace) -> None:
    """Print and keep figures of one head; plots of real videos."""
    encoder = checkpoints.load_encoder(chosen.out / f"{chosen.encoder or chosen.name}-frozen.pt").network
    head = checkpoints.load_head(chosen.out / f"{chosen.name}-{chosen.variant}.pt").network
    rules = DecodingRules(PHASES, **chosen.decoding)
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name, videos in sets_of(chosen, encoder):
        for hours in (True, False):
            said = [
                say(encoder, head, video, planes_named(video, chosen.planes), hours, chosen.steps, rules)
                for video in videos
            ]
            title = f"{name}, {'hour known' if hours else 'hour not told'}, planes {chosen.planes}"
            found[title] = figures_of(said)
            print(f"\n{title}\n{table(found[title])}", flush=True)
            if len(said) == 1:
                print("\n".join(onset_lines(said[0])), flush=True)
            _draw(chosen.out, f"{chosen.name}-{chosen.variant}-{title}", said)
    path = chosen.out / f"{chosen.name}-{chosen.variant}-figures.json"
    path.write_text(json.dumps(found, indent=2) + "\n")
    if chosen.report:
        print("Report videos were read: add this to the log.")


def _draw(out: Path, name: str, said: Sequence[Said]) -> None:
    stem = name.replace(", ", "-").replace(" ", "_")
    kept = [one.video.phases != UNLABELLED for one in said]
    live = np.concatenate([one.live[own] for one, own in zip(said, kept, strict=True)])
    truth = np.concatenate([one.video.phases[own] for one, own in zip(said, kept, strict=True)])
    plots.confusion(scores.confusion(live, truth), out / f"{stem}-confusion.png")
    if len(said) == 1:
        (one,) = said
        first_h = float(one.video.hours_h[0])
        lines = {"truth": one.video.phases, "live": one.live, "revised": one.revised}
        lines["hour only"] = scores.by_hour(one.video.hours_h)
        onsets = {PHASES[phase]: hour + first_h for phase, hour in one.last.onsets_h.items()}
        sds = {PHASES[phase]: hour for phase, hour in one.last.onsets_sd_h.items()}
        plots.timeline(name, one.video.hours_h, lines, one.probabilities, sds, onsets, out / f"{stem}-timeline.png")


def ablation(chosen: argparse.Namespace) -> None:
    """One table over all heads of this name that are there: planes 1 and 7, steps 1 and 4."""
    encoder = checkpoints.load_encoder(chosen.out / f"{chosen.encoder or chosen.name}-frozen.pt").network
    heads = {
        variant: checkpoints.load_head(path).network
        for variant in VARIANTS
        if (path := chosen.out / f"{chosen.name}-{variant}.pt").exists()
    }
    for name, videos in sets_of(chosen, encoder):
        rows: dict[str, dict[str, float]] = {}
        for variant, head in heads.items():
            for steps in (1, 4) if head.config.diffusion else (1,):
                for planes in ("1", "7") if len(videos[0].planes_um) > 1 else ("1",):
                    said = [
                        say(encoder, head, video, planes_named(video, planes), chosen.hours, steps) for video in videos
                    ]
                    row = figures_of(said)["raw"]
                    rows[f"{variant}, {planes} planes, {steps} step{'s' * (steps > 1)}"] = row
        print(
            f"\n{name}, {'hour known' if chosen.hours else 'hour not told'}, raw posterior\n{table(rows)}", flush=True
        )


def parser() -> argparse.ArgumentParser:
    """What the command line takes."""
    described = argparse.ArgumentParser(
        prog="python -m training.embryodiff.evaluate", description=__doc__.splitlines()[0]
    )
    described.add_argument("--name", default="embryodiff-small")
    described.add_argument("--encoder", help="name of the run whose frozen encoder is used; --name where not given")
    described.add_argument("--variant", choices=sorted(VARIANTS), default="causal")
    described.add_argument("--out", type=Path, default=Path("training/runs/embryodiff"))
    described.add_argument("--cache", type=Path, default=Path("training/cache"))
    described.add_argument("--drawn", type=int, default=0, help="how many of the fixed test embryos")
    described.add_argument("--validation", action="store_true", help="embryos for choosing, not the test embryos")
    described.add_argument("--clock", default="hourly", help="of the drawn embryos")
    described.add_argument("--nantes", type=Path, help="folder of the Nantes set: AA83-7 is read")
    described.add_argument("--report", action="store_true", help="the other videos too: once a round, and log it")
    described.add_argument(
        "--planes", choices=("1", "7"), default="7", help="of drawn embryos; real ones have what they have"
    )
    described.add_argument("--steps", type=int, default=1, help="denoising steps")
    described.add_argument("--ablation", action="store_true", help="a table over all heads of this name")
    described.add_argument("--hours", action="store_true", help="with --ablation: the hour is told")
    described.add_argument("--decoding", type=json.loads, default={}, help="rules of engines.decoding, as JSON")
    described.add_argument("--workers", type=int, default=1, help="processes that draw")
    described.add_argument("--threads", type=int, default=1, help="of torch")
    return described


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    chosen = parser().parse_args(arguments)
    torch.set_num_threads(chosen.threads)
    if not chosen.drawn and not chosen.nantes:
        print("nothing to look at: give --drawn N or --nantes DIR", file=sys.stderr)
        return 2
    try:
        ablation(chosen) if chosen.ablation else evaluate(chosen)
    except ValueError as fault:
        print(fault, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
