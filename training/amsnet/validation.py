"""What a trained network says of embryos it was not trained on: to stop, to calibrate, to know when it says too little.

Does: judges clips of one frame per segment, step by step; area under the ROC curve by day beside the teacher's; the
temperature that makes its odds honest; how far its answers for one frame spread when planes are taken away, and from
how many segments on it says anything. Refuses to know training and files; the test embryos are evaluate.py's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from monitor.simulator.outlook import roc_auc
from training.amsnet.batches import Pupil, nearest_present
from training.amsnet.checkpoint import Checkpoint
from training.amsnet.model import AMSNet

Floats = npt.NDArray[np.float64]

DAYS = (2, 3, 4, 5)
SUBSETS = ((0, 2, 4, 6), (1, 3, 5), (2, 3, 4))  # indices of seven planes: what else the same moment might have shown
PLANES_TO_TAKE_FROM = 7  # fewer leave too few to take away: no stability is claimed for such a network
UNSTABLE_SHARE = 0.05  # of the validation frames: the spread that so many exceed is the limit
_DRAWS = 400


@dataclass(frozen=True)
class Judged:
    """One validation embryo: hours and logits (T,), the teacher's odds (T,), its outcome.

    `others` (T, K): logits of the same frames with planes taken away, K subsets of them; none where K is 0.
    """

    hours_h: Floats
    logits: Floats
    outlook: Floats
    reaches: bool
    others: Floats

    @property
    def spread(self) -> Floats:
        """(T,) range of the probabilities that the subsets give; NaN where there are none."""
        if not self.others.shape[1]:
            return np.full(len(self.logits), np.nan)
        return np.asarray(np.ptp(probability(self.others), axis=1))

    def divided(self, by: float) -> Judged:
        """As a network says it whose logits are divided by a temperature."""
        return replace(self, logits=self.logits / by, others=self.others / by)

    def at(self, hpi_h: float) -> int:
        """Index of the last frame by that hour."""
        return max(int(np.searchsorted(self.hours_h, hpi_h, side="right")) - 1, 0)


def probability(logits: Floats) -> Floats:
    """Logits -> probabilities."""
    return np.asarray(1 / (1 + np.exp(-np.clip(logits, -30, 30))))


@torch.inference_mode()
def judge(kept: Checkpoint, pupils: Sequence[Pupil], with_spread: bool = False, hours: bool = True) -> list[Judged]:
    """Step by step over each embryo's frames, which are one per segment; `hours` False hides them from the network."""
    return [_judge_one(kept.model.eval(), pupil, kept.mean, kept.std, with_spread, hours) for pupil in pupils]


def _judge_one(model: AMSNet, pupil: Pupil, mean: float, std: float, with_spread: bool, hours: bool) -> Judged:
    embryo, device = pupil.embryo, next(model.parameters()).device
    planes, state, said = len(embryo.planes_um), model.initial_state().to(device), []
    subsets = SUBSETS if with_spread and planes == PLANES_TO_TAKE_FROM else ()
    # each row of a batch: which plane is shown as each plane; all of them, then the subsets
    filled = [[subset[i] for i in nearest_present(subset, planes)] for subset in subsets]
    shown = torch.tensor([list(range(planes)), *filled])
    for t, hpi_h in enumerate(embryo.hours_h):
        stack = torch.from_numpy(embryo.stack(t).astype(np.float32)) / 255
        x = ((stack - mean) / std)[shown].to(device)  # (1 + K, P, H, W)
        told = torch.tensor([[float(hpi_h), 1.0] if hours else [0.0, 0.0]], device=device)
        logits, states = model.step(state.expand(len(shown), -1), x, told.expand(len(shown), -1))
        state = states[:1]
        said.append(logits[:, 0].cpu().numpy().astype(np.float64))
    each, target = np.array(said), pupil.targets  # (T, 1 + K)
    return Judged(embryo.hours_h, each[:, 0], target.outlook, target.reaches > 0.5, each[:, 1:])


def auc_by_day(judged: Sequence[Judged], days: Sequence[float] = DAYS) -> dict[str, float]:
    """ROC AUC by the last frame of each day, the network's and the teacher's."""
    reaches, found = np.array([one.reaches for one in judged]), {}
    for day in days:
        at = [one.at(24 * day) for one in judged]
        said = np.array([one.logits[t] for one, t in zip(judged, at, strict=True)])
        odds = np.array([one.outlook[t] for one, t in zip(judged, at, strict=True)])
        found[f"auc_day{day:g}"] = round(roc_auc(said, reaches), 4)
        found[f"auc_day{day:g}_teacher"] = round(roc_auc(odds, reaches), 4)
    return found


def temperature(judged: Sequence[Judged]) -> float:
    """What the logits must be divided by for the smallest mean negative log likelihood over all frames."""
    logits = np.concatenate([one.logits for one in judged])
    reaches = np.concatenate([np.full(len(one.logits), float(one.reaches)) for one in judged])
    tried = np.geomspace(0.2, 5.0, 300)
    losses = [np.logaddexp(0, np.where(reaches > 0.5, -1, 1) * logits / value).mean() for value in tried]
    return round(float(tried[int(np.argmin(losses))]), 3)


def calibration_error(judged: Sequence[Judged], divided_by: float = 1.0, bins: int = 10) -> float:
    """ECE: mean distance between what was said and what happened, over bins of equal width, weighed by frames."""
    said = np.concatenate([probability(one.logits / divided_by) for one in judged])
    reaches = np.concatenate([np.full(len(one.logits), float(one.reaches)) for one in judged])
    place = np.minimum((said * bins).astype(int), bins - 1)
    off = [abs(said[place == b].mean() - reaches[place == b].mean()) * (place == b).mean() for b in np.unique(place)]
    return round(float(sum(off)), 4)


def divide_logits(model: AMSNet, by: float) -> None:
    """Fold a temperature into the last layer: nothing else in the way of a frame has to know of it."""
    last = model.head.out if model.config.hours else model.head
    with torch.no_grad():
        last.weight /= by
        last.bias /= by


def calibrate(kept: Checkpoint, judged: Sequence[Judged], told: str) -> None:
    """Fit the temperature, fold it in, and write down what was done. `told`: on which embryos."""
    fitted = temperature(judged)
    kept.calibration = {
        "method": "temperature, folded into the graph",
        "temperature": fitted,
        "fitted_on": told,
        "ece_before": calibration_error(judged),
        "ece_after": calibration_error(judged, fitted),
    }
    divide_logits(kept.model, fitted)


def least_segments(judged: Sequence[Judged], seed: int = 0) -> int:
    """How many segments must have had a frame before the answer is told from chance (95 % bootstrap of the AUC)."""
    rng, reaches = np.random.default_rng(seed), np.array([one.reaches for one in judged])
    for seen in range(1, min(len(one.logits) for one in judged) + 1):
        said = np.array([one.logits[seen - 1] for one in judged])
        draws = [rng.integers(0, len(judged), len(judged)) for _ in range(_DRAWS)]
        areas = [roc_auc(said[d], reaches[d]) for d in draws if 0 < reaches[d].sum() < len(d)]
        if areas and np.percentile(areas, 2.5) > 0.5:
            return seen
    return 1 + min(len(one.logits) for one in judged)


def stability(kept: Checkpoint, judged: Sequence[Judged], told: str) -> dict[str, Any]:
    """What the manifest says under `stability`. The spread is of probabilities after calibration."""
    spread = np.concatenate([one.spread for one in judged])
    said = np.concatenate([probability(one.logits) for one in judged])
    reaches = np.concatenate([np.full(len(one.logits), one.reaches) for one in judged])
    limit = float(np.quantile(spread, 1 - UNSTABLE_SHARE))
    wide, right = spread > limit, (said > 0.5) == reaches
    planes_um = kept.preprocess()["planes_um"]
    return {
        "plane_subsets_um": [[planes_um[i] for i in subset] for subset in SUBSETS],
        "most_spread": round(limit, 3),
        "least_segments": least_segments(judged),
        "set_on": told,
        "accuracy_within": round(float(right[~wide].mean()), 3),
        "accuracy_beyond": round(float(right[wide].mean()), 3),
    }
