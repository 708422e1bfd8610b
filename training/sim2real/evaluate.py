"""The measure: what a classifier that has seen only drawn embryos says of real ones, beside one that knows the hour.

Does: predicts the labelled pictures of each set, prints accuracy (picture only; with a weak hour prior and a path that
never steps back, for videos), the hour-only predictor, confusion and recall; keeps every prediction in a CSV. Report
sets are touched with `--report` only: once a round, and every use is written into training/LOG.md by whoever ran it.
Refuses to know: how the network was trained.

    python -m training.sim2real.evaluate --run training/runs/sim2real/round1            # the sets to tune on
    python -m training.sim2real.evaluate --run training/runs/sim2real/round1 --report   # once a round
"""

from __future__ import annotations

import argparse
import csv
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from monitor.vocabulary import PHASES
from training.sim2real import labels, scores
from training.sim2real.augment import mirrored
from training.sim2real.crops import read_picture
from training.sim2real.labels import STAGES, Picture
from training.sim2real.model import StageNet
from training.sim2real.scores import Floats, Stages


@dataclass(frozen=True)
class Predicted:
    """What the network says of N pictures: stages (N, 6), phases (N, 16) as probabilities, features (N, 256)."""

    stages: Floats
    phases: Floats
    features: Floats


def load_network(run: Path) -> tuple[StageNet, dict[str, object]]:
    """The averaged weights of a run and its recipe, in evaluation mode. ValueError names what is missing."""
    path = run / "checkpoint.pt"
    if not path.exists():
        raise ValueError(f"{path} is not there: train first (python -m training.sim2real.train --name {run.name})")
    kept = torch.load(path, map_location="cpu", weights_only=True)
    network = StageNet(int(kept["recipe"]["planes"]))
    network.load_state_dict(kept["average"])
    return network.eval(), {**kept["recipe"], "digest": kept["digest"], "steps": kept["steps"]}


@torch.inference_mode()
def predict(network: StageNet, crops: list[np.ndarray]) -> Predicted:
    """Means over the four mirror images of each crop (1 or 3, 128, 128); one plane is shown as many as it takes."""
    stages, phases, features = [], [], []
    for crop in crops:
        shown = crop if len(crop) == network.planes else crop[[len(crop) // 2] * network.planes]
        stage, phase, feature = network(torch.from_numpy(np.stack(mirrored(shown))))
        stages.append(stage.softmax(1).mean(0).numpy())
        phases.append(phase.softmax(1).mean(0).numpy())
        features.append(feature.mean(0).numpy())
    return Predicted(*(np.stack(rows).astype(np.float64) for rows in (stages, phases, features)))


def hour_only(pictures: list[Picture]) -> Stages | None:
    """What the clock alone says; None where a set has no clock."""
    if any(picture.hour is None for picture in pictures):
        return None
    return np.array([labels.stage_by_hour(picture.hour) for picture in pictures if picture.hour is not None])


def figures(pictures: list[Picture], predicted: Predicted) -> dict[str, float]:
    """Accuracies of one set and the scatter of the picture-only one."""
    truth = np.array([picture.stage for picture in pictures])
    said = predicted.stages.argmax(1)
    block = scores.BLOCK_FRAMES if pictures[0].hour is not None else 1
    found = {
        "pictures": float(len(truth)),
        "accuracy": scores.accuracy(said, truth),
        "scatter": scores.scatter(said == truth, block),
    }
    by_clock = hour_only(pictures)
    if by_clock is not None:
        prior = labels.hour_prior(np.array([picture.hour for picture in pictures], dtype=np.float64))
        found["monotone"] = scores.accuracy(scores.monotone(predicted.stages), truth)
        found["hour_and_monotone"] = scores.accuracy(scores.monotone(predicted.stages, prior), truth)
        found["hour_only"] = scores.accuracy(by_clock, truth)
        phases = np.array([PHASES.index(picture.phase) for picture in pictures if picture.phase is not None])
        found["phase_accuracy"] = scores.accuracy(predicted.phases.argmax(1), phases)
        found["phase_within_one"] = float((np.abs(predicted.phases.argmax(1) - phases) <= 1).mean())
    return found


def text(name: str, pictures: list[Picture], predicted: Predicted, remark: str = "") -> str:
    """One set for a terminal or a log."""
    found = figures(pictures, predicted)
    truth = np.array([picture.stage for picture in pictures])
    lines = [
        f"{name}: {len(pictures)} pictures{remark}",
        f"  picture only {found['accuracy']:.3f} +- {found['scatter']:.3f}",
    ]
    if "hour_only" in found:
        lines += [
            f"  never stepping back {found['monotone']:.3f}; with a weak hour prior {found['hour_and_monotone']:.3f}; "
            f"hour only {found['hour_only']:.3f}",
            f"  phases (16) {found['phase_accuracy']:.3f}, within one {found['phase_within_one']:.3f}",
        ]
    return "\n".join([*lines, scores.confusion_text(scores.confusion(predicted.stages.argmax(1), truth))])


def write_predictions(path: Path, pictures: list[Picture], predicted: Predicted) -> None:
    """One row a picture: file, hour, truth, what was said, probability of each stage."""
    with path.open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["picture", "hour", "phase", "stage", "said", *STAGES])
        for picture, row in zip(pictures, predicted.stages, strict=True):
            said = STAGES[int(row.argmax())]
            head = [picture.path.name, picture.hour, picture.phase, STAGES[picture.stage], said]
            rows.writerow(head + [round(float(p), 4) for p in row])


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m training.sim2real.evaluate",
        description="Measure a run on real pictures. Without --report only the sets for tuning are read.",
    )
    parser.add_argument("--run", type=Path, required=True, help="folder of a run, e.g. training/runs/sim2real/round1")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with nantes/ and stagegen/")
    parser.add_argument(
        "--report", action="store_true", help="also the report sets: once a round, and log it in training/LOG.md"
    )
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    given = _arguments(arguments)
    torch.set_num_threads(given.threads)
    network, recipe = load_network(given.run)
    print(
        f"{given.run.name}: {recipe['steps']} steps on {recipe['embryos']} virtual embryos, drawing {recipe['digest']}"
    )
    names = labels.TUNE_SETS + (labels.REPORT_SETS if given.report else ())
    for name in names:
        pictures = labels.pictures_of(given.data, name)
        predicted = predict(network, [read_picture(picture.path) for picture in pictures])
        trained_on = bool(recipe["stagegen"]) and name == "stagegen-tune"
        print(text(name, pictures, predicted, " (TRAINED ON)" if trained_on else ""), flush=True)
        write_predictions(given.run / f"{name}.csv", pictures, predicted)
    if given.report:
        print("The report sets were read: add this to training/LOG.md.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
