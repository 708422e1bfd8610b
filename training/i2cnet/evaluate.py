"""How well a segmenter finds the parts of blastocysts: accuracy, precision, recall, Dice, Jaccard, each class and mean.

Does: counts pixels over a set, once pooled and once a picture at a time; compares the looks of a seven-plane stack.
Refuses to know: training.

    python -m training.i2cnet.evaluate --checkpoint training/runs/i2cnet-small.pt --cache training/cache
    python -m training.i2cnet.evaluate --checkpoint training/runs/i2cnet-small.pt --blasts ../BlastsOnline
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from engines.day5 import Labels, Part
from engines.square import Gray
from training import metrics
from training.day5 import blastocysts, checkpoint
from training.day5.blastocysts import Blastocyst
from training.day5.look import LOOKS, shown
from training.i2cnet.model import I2CNet, I2CNetConfig
from training.i2cnet.pictures import StillPicture, blasts_pictures, split

NAMES = tuple(part.name for part in Part)
FIGURES = ("accuracy", "precision", "recall", "dice", "jaccard")

Pictures = Iterable[tuple[Gray, Labels]]
Said = Callable[[Gray], Labels]


def load_network(path: Path) -> tuple[I2CNet, checkpoint.Checkpoint]:
    """The averaged weights of a run, in evaluation mode."""
    kept = checkpoint.load(path, "i2cnet")
    network = I2CNet(I2CNetConfig.read(kept.config))
    network.load_state_dict(kept.weights)
    return network.eval(), kept


def channels_for(network: I2CNet, channels: Gray) -> Gray:
    """(3, H, W) -> as many channels as the network has; one is the middle one."""
    return channels if network.config.planes == len(channels) else channels[[1] * network.config.planes]


@torch.inference_mode()
def parts_of(network: I2CNet, channels: Gray) -> Labels:
    """(3, H, W) uint8 -> (H, W) of `Part`: the likeliest class of each pixel."""
    x = torch.from_numpy(channels_for(network, channels).astype(np.float32) / 255)[None]
    return np.asarray(network.probabilities(x)[0].argmax(0).numpy(), dtype=np.uint8)


def counted(said: Said, pictures: Pictures) -> npt.NDArray[np.int64]:
    """(N, K, K): a table of pixels for each picture."""
    tables = [metrics.confusion(said(channels), truth, len(Part)) for channels, truth in pictures]
    if not tables:
        raise ValueError("no picture to measure on")
    return np.stack(tables)


def figures(tables: npt.NDArray[np.int64]) -> dict[str, float]:
    """Pooled over all pixels: each figure of each class and their mean, accuracy of all pixels; and `each_` the mean
    over pictures of the Jaccard, each class where it occurs. Rounded to four places."""
    pooled = metrics.per_class(tables.sum(0))
    found = {"pictures": float(len(tables)), "pixel_accuracy": metrics.accuracy(tables.sum(0))}
    for name in FIGURES:
        found |= {f"{name}_{part}": float(v) for part, v in zip(NAMES, getattr(pooled, name), strict=True)}
    found |= {f"{name}_mean": value for name, value in pooled.mean().items()}
    each = np.stack([metrics.per_class(table).jaccard for table in tables])  # (N, K)
    found |= {f"each_jaccard_{part}": metrics.mean_of(each[:, k]) for k, part in enumerate(NAMES)}
    found["each_jaccard_mean"] = float(np.mean([found[f"each_jaccard_{part}"] for part in NAMES]))
    return {name: round(value, 4) for name, value in found.items()}


def text(title: str, found: dict[str, float]) -> str:
    """One set for a terminal, in percent as the paper's tables are."""
    lines = [f"{title}: {found['pictures']:.0f} pictures, {100 * found['pixel_accuracy']:.2f} % of pixels right"]
    lines.append("  " + "".ljust(12) + "".join(name.rjust(11) for name in (*FIGURES, "a picture")))
    for part in (*NAMES, "mean"):
        row = [found[f"{name}_{part}"] for name in FIGURES] + [found[f"each_jaccard_{part}"]]
        lines.append("  " + part.ljust(12) + "".join(f"{100 * value:11.2f}" for value in row))
    return "\n".join([*lines, "  `a picture`: Jaccard of each picture, then the mean over pictures"])


def drawn_pictures(drawn: list[Blastocyst], look: str) -> Pictures:
    """Blastocysts only: what is none has no parts to find."""
    for one in drawn:
        if one.moment.expansion:
            best = one.best_plane if look == "best" else 0
            yield shown(one.planes, one.settings.planes_um, look, best), one.labels


def looks_compared(network: I2CNet, drawn: list[Blastocyst]) -> dict[str, dict[str, float]]:
    """Figures of each way to look at seven planes."""
    said = partial(parts_of, network)
    return {look: figures(counted(said, drawn_pictures(drawn, look))) for look in LOOKS}


def crops_found(drawn: list[Blastocyst]) -> str:
    """In how many of the drawn frames the monitor finds the blastocyst that is there."""
    bodies = [one for one in drawn if one.moment.expansion]
    found = sum(one.found.confidence > 0 for one in bodies)
    return f"crop: {found} of {len(bodies)} blastocysts found ({100 * found / max(len(bodies), 1):.1f} %)"


def shown_stills(stills: list[StillPicture]) -> Pictures:
    """Nothing is drawn by lot here: one plane, thrice."""
    for still in stills:
        yield still.channels(np.random.default_rng(0)), still.labels


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m training.i2cnet.evaluate", description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--cache", type=Path, default=Path("training/cache"), help="drawn squares")
    parser.add_argument("--count", type=int, default=200, help="of the fixed virtual test embryos")
    parser.add_argument("--blasts", type=Path, help="folder of BlastsOnline: measure on its pictures instead")
    parser.add_argument("--workers", type=int, default=1, help="processes that draw")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--json", type=Path, help="write the figures there")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(chosen.threads)
    try:
        network, _ = load_network(chosen.checkpoint)
        found = _measured(network, chosen)
    except ValueError as fault:
        print(fault, file=sys.stderr)
        return 2
    if chosen.json:
        chosen.json.write_text(json.dumps(found, indent=2) + "\n")
    return 0


def _measured(network: I2CNet, chosen: argparse.Namespace) -> dict[str, dict[str, float]]:
    if chosen.blasts:
        _, test = split(blasts_pictures(chosen.blasts))
        found = {
            "BlastsOnline, its fifth for testing": figures(counted(partial(parts_of, network), shown_stills(test)))
        }
    else:
        drawn = blastocysts.drawn(chosen.cache, blastocysts.test_moments(chosen.count), chosen.workers)
        print(crops_found(drawn))
        found = looks_compared(network, drawn)
    for title, row in found.items():
        print(text(title, row))
    if not chosen.blasts:
        best = max(found, key=lambda look: found[look]["jaccard_mean"])
        print(f"of seven planes the look `{best}` wins: mean Jaccard {100 * found[best]['jaccard_mean']:.2f} %")
    return found


if __name__ == "__main__":
    sys.exit(main())
