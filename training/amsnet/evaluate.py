"""How well AMSNet tells, by a given day, which virtual embryos will reach the blastocyst stage.

Does: runs held-out clips, gives ROC AUC and accuracy per day beside two plain comparisons: hand
features of one picture, and the true number of phases reached so far. Refuses to know: training, real embryos (what
is measured on drawn embryos says nothing about them).
"""

from __future__ import annotations

import cv2
import numpy as np
import torch

from training.amsnet.clips import Clip
from training.amsnet.model import AMSNet

DAYS = (2, 3, 4, 5, 6)


def roc_auc(scores: np.ndarray, truth: np.ndarray) -> float:
    """Chance that a random positive scores above a random negative, ties counting half; NaN without both classes."""
    positive, negative = scores[truth], scores[~truth]
    if not len(positive) or not len(negative):
        return float("nan")
    above = np.sign(positive[:, None] - negative[None, :])
    return float((above.mean() + 1) / 2)


def last_step_by(clip: Clip, day: int) -> int:
    """Index of the last frame taken within `day` days of insemination."""
    return int(np.searchsorted(clip.hpi_h, 24.0 * day, side="right")) - 1


@torch.inference_mode()
def probabilities(model: AMSNet, clip: Clip, mean: float, std: float, plane: int | None = None) -> np.ndarray:
    """(T,) probability after each frame, from this and earlier frames only; `plane`: all planes filled from that one.

    One pass over the clip: the tests hold it equal to stepping, and it is faster.
    """
    pictures = clip.stacks if plane is None else clip.stacks[:, [plane]]
    frames = (torch.from_numpy(np.asarray(pictures, dtype=np.float32)) / 255 - mean) / std  # (T, U, H, W)
    source = None if plane is None else [0] * model.config.planes
    return torch.sigmoid(model(frames[None], source))[0].numpy()


def hand_features(clip: Clip, step: int) -> np.ndarray:
    """(8,) of the middle plane now and its change since one day before: mean, spread, sharpness, fine structure."""
    return np.concatenate([_look(clip, step), _look(clip, step) - _look(clip, max(step - 4, 0))])


def _look(clip: Clip, step: int) -> np.ndarray:
    picture = np.asarray(clip.stacks[step, clip.stacks.shape[1] // 2], dtype=np.float32)
    middle = picture[28:-28, 28:-28]  # the embryo, not the well's ring
    fine = np.abs(middle - cv2.GaussianBlur(middle, (0, 0), 3.0)).mean()
    return np.array([middle.mean(), middle.std(), np.log1p(cv2.Laplacian(middle, cv2.CV_32F).var()), fine])


def hand_feature_scores(train: list[Clip], test: list[Clip], day: int) -> np.ndarray:
    """(embryos,) ridge regression from hand features to the truth, fitted on the training clips of the same day."""
    x = np.stack([hand_features(clip, last_step_by(clip, day)) for clip in train])
    centre, spread = x.mean(axis=0), x.std(axis=0) + 1e-6
    x = (x - centre) / spread
    y = np.array([clip.reaches_blastocyst for clip in train], dtype=np.float64)
    weights = np.linalg.solve(x.T @ x + 1.0 * np.eye(x.shape[1]), x.T @ (y - y.mean()))
    unseen = np.stack([hand_features(clip, last_step_by(clip, day)) for clip in test])
    return (unseen - centre) / spread @ weights


def phases_reached(clip: Clip, day: int) -> float:
    """True number of onsets by that moment: what a perfect annotator who only counts would go by."""
    from monitor.simulator.life import PHASES, Life  # drawn truth, needed by this comparison alone

    phase = Life.sample(clip.seed).phase_at(float(clip.hpi_h[last_step_by(clip, day)]))
    return float(PHASES.index(phase)) if phase else -1.0


def figures(model: AMSNet, train: list[Clip], test: list[Clip], mean: float, std: float) -> dict[str, float]:
    """Everything that goes into the manifest, rounded to three places; `one_plane` fills all planes from the middle."""
    model.eval()
    truth = np.array([clip.reaches_blastocyst for clip in test])
    full = [probabilities(model, clip, mean, std) for clip in test]
    single = [probabilities(model, clip, mean, std, plane=3) for clip in test]
    found = {"test_embryos": float(len(test)), "test_blastocyst_share": float(truth.mean())}
    for day in DAYS:
        at = [last_step_by(clip, day) for clip in test]
        said = np.array([row[step] for row, step in zip(full, at, strict=True)])
        alone = np.array([row[step] for row, step in zip(single, at, strict=True)])
        reached = np.array([phases_reached(clip, day) for clip in test])
        found[f"auc_day{day}"] = roc_auc(said, truth)
        found[f"accuracy_day{day}"] = float(((said > 0.5) == truth).mean())
        found[f"auc_day{day}_one_plane"] = roc_auc(alone, truth)
        found[f"auc_day{day}_hand_features"] = roc_auc(hand_feature_scores(train, test, day), truth)
        found[f"auc_day{day}_true_phases_counted"] = roc_auc(reached, truth)
    return {name: round(value, 3) for name, value in found.items()}
