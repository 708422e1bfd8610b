"""Why it errs: real pictures that were called wrong, beside the drawn ones that the network finds most alike.

Does: a contact sheet from the sets for tuning only (it cannot open a report set), and which drawn stages lie nearest to
each real stage. Refuses to know: how to draw better.

    python -m training.sim2real.diagnose --run training/runs/sim2real/round1 --set AA83-7 --out wrong.png
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import cv2
import numpy as np
import torch

from training.sim2real import crops as cutting
from training.sim2real import labels, scores
from training.sim2real.crops import CROP_PX, Crops, Settings, read_picture
from training.sim2real.evaluate import load_network, predict
from training.sim2real.labels import STAGES, TUNE_SETS

_TILE_PX = CROP_PX
_NEAREST = 5


def nearest(real: np.ndarray, drawn: np.ndarray, count: int) -> np.ndarray:
    """(N, count) indices of the drawn features (M, 256) most alike to each real one (N, 256), by cosine."""
    a = real / (np.linalg.norm(real, axis=1, keepdims=True) + 1e-9)
    b = drawn / (np.linalg.norm(drawn, axis=1, keepdims=True) + 1e-9)
    return np.argsort(-(a @ b.T), axis=1, kind="stable")[:, :count]


def tile(crop: np.ndarray, words: str) -> np.ndarray:
    """(128, 128) stretched to its own light, with a line of words."""
    low, high = np.percentile(crop, (1, 99))
    gray = np.clip((crop.astype(np.float32) - low) * 255 / max(high - low, 1.0), 0, 255).astype(np.uint8)
    cv2.putText(gray, words, (2, _TILE_PX - 4), cv2.FONT_HERSHEY_SIMPLEX, 0.36, 0, 3, cv2.LINE_AA)
    cv2.putText(gray, words, (2, _TILE_PX - 4), cv2.FONT_HERSHEY_SIMPLEX, 0.36, 255, 1, cv2.LINE_AA)
    return gray


def sheet(real: list[np.ndarray], said: list[str], drawn: Crops, alike: np.ndarray, at_most: int = 12) -> np.ndarray:
    """Rows of one real picture and the drawn ones most alike; rows are spread over what is given."""
    chosen = np.unique(np.linspace(0, len(real) - 1, min(at_most, len(real))).astype(int))
    rows = []
    for i in chosen:
        row = [tile(real[i][0], said[i])]
        row += [tile(drawn.pixels[j][1], f"drawn {STAGES[drawn.stages[j]]}") for j in alike[i]]
        rows.append(np.hstack(row))
    return np.vstack(rows)


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m training.sim2real.diagnose", description=__doc__.split("\n")[0])
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--set", choices=TUNE_SETS, default=TUNE_SETS[0])
    parser.add_argument("--out", type=Path, required=True, help="PNG to write")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--cache", type=Path, default=Path("training/cache/sim2real"))
    parser.add_argument("--embryos", type=int, default=200, help="drawn embryos to compare with")
    parser.add_argument("--rows", type=int, default=12)
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    network, _ = load_network(given.run)
    drawn = cutting.load(given.cache, given.embryos, Settings())
    drawn_features = predict(network, [crop[1:2] for crop in drawn.pixels]).features
    pictures = labels.pictures_of(given.data, given.set)
    real = [read_picture(picture.path) for picture in pictures]
    predicted = predict(network, real)
    truth, said = np.array([picture.stage for picture in pictures]), predicted.stages.argmax(1)
    alike = nearest(predicted.features, drawn_features, _NEAREST)
    for stage, name in enumerate(STAGES):
        if (truth == stage).any():
            counts = np.bincount(drawn.stages[alike[truth == stage]].ravel(), minlength=len(STAGES))
            shares = ", ".join(f"{n} {c / counts.sum():.2f}" for n, c in zip(STAGES, counts, strict=True) if c)
            print(f"real {name}: nearest drawn are {shares}")
    wrong = np.flatnonzero(said != truth)
    if not len(wrong):
        print("nothing was called wrong")
        return 0
    words = [f"{STAGES[truth[i]]}: said {STAGES[said[i]]}" for i in wrong]
    picture = sheet([real[i] for i in wrong], words, drawn, alike[wrong], given.rows)
    cv2.imwrite(str(given.out), picture)
    print(scores.confusion_text(scores.confusion(said, truth)))
    print(f"{len(wrong)} of {len(truth)} wrong; {given.out} shows some")
    return 0


if __name__ == "__main__":
    sys.exit(main())
