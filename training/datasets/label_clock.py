"""Were a video's labels made on its pictures? Embryos move when they divide: labels that miss the movement were not.

Known of 32 videos of the Nantes set, whose labels were made on a 0.2-h clock and lie a factor 1.25 too late; nothing in
their tables gives them away. A hint for a reader, never a correction. Of six drawn videos and the real one it was made
on (AA83-7), each with its labels as they are and moved, it told 12 of 14 rightly and none wrongly; asked once about the
real video known to be faulty (AAL839-6) it could not tell: there neither clock fits the movement.
It knows movement and labels; it refuses to know what a phase looks like.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from training.datasets.cut import SIDE_PX
from training.datasets.embryo import Embryo, Gray
from training.datasets.nantes import LABEL_CLOCK_H

Floats = npt.NDArray[np.float64]

_MOVING = ("tPNf", "t2", "t3", "t4", "t5", "t6", "t7", "t8")  # something divides or fades at once
_NEAR = 2  # frames before and after a label within which its movement may lie
_AROUND = 21  # frames that tell what is usual
_MOST = 6.0  # a single jolt of the dish must not outweigh all divisions
_OTHER_CLOCKS = np.linspace(0.6, 1.4, 81)
LEAST_LABELS = 4
LEAST_MARGIN = 0.5


@dataclass(frozen=True)
class Fit:
    """How well labels lie on the movement, in standard deviations over other clocks, which fit by chance."""

    as_labelled: float
    on_slow_clock: float
    labels: int

    @property
    def margin(self) -> float:
        """Above 0 the labels fit as they stand; below 0 they fit better when moved from the 0.2-h clock."""
        return self.as_labelled - self.on_slow_clock

    def __str__(self) -> str:
        words = "fit as they stand" if self.margin > 0 else "fit better when moved from a 0.2-h clock: look at it"
        if abs(self.margin) < LEAST_MARGIN or max(self.as_labelled, self.on_slow_clock) < LEAST_MARGIN:
            words = "cannot be told from movement"
        return f"{self.labels} labels {words} ({self.as_labelled:.1f} against {self.on_slow_clock:.1f})"


def fit_of(embryo: Embryo) -> Fit | None:
    """Of an embryo cut to 112 px (`Cropped`, `VirtualCrops`); None with fewer labels that move than `LEAST_LABELS`."""
    begun = {phase: t for t, phase in reversed(list(enumerate(embryo.phases))) if phase in _MOVING}
    onsets = np.array(sorted(begun.values()), dtype=np.float64)
    if len(onsets) < LEAST_LABELS:
        return None
    usual = unusual_movement(embryo)
    interval_h = float(np.median(np.diff(embryo.hours_h)))
    others = [_on_movement(usual, onsets * factor) for factor in _OTHER_CLOCKS]
    mean, spread = float(np.mean(others)), float(np.std(others)) + 1e-6
    stands, moved = (_on_movement(usual, onsets * share) for share in (1.0, LABEL_CLOCK_H / interval_h))
    return Fit((stands - mean) / spread, (moved - mean) / spread, len(onsets))


def unusual_movement(embryo: Embryo) -> Floats:
    """(T,) change of the middle of the picture since the frame before, in robust deviations from the frames around."""
    middle = embryo.planes_um.index(min(embryo.planes_um, key=lambda um: (abs(um), um)))
    far = np.abs(np.arange(SIDE_PX) - (SIDE_PX - 1) / 2)
    disc = np.hypot(far[:, None], far[None]) < 0.36 * SIDE_PX
    seen = np.stack([_standard(embryo.stack(t)[middle], disc) for t in range(len(embryo.hours_h))])
    change = np.append(0.0, np.abs(np.diff(seen, axis=0)).mean(axis=1))
    around = sliding_window_view(np.pad(change, _AROUND // 2, mode="edge"), _AROUND)
    usual = np.median(around, axis=1)
    scatter = 1.48 * np.median(np.abs(around - usual[:, None]), axis=1) + 1e-3
    return np.asarray(np.clip((change - usual) / scatter, -_MOST, _MOST))


def _standard(picture: Gray, disc: npt.NDArray[np.bool_]) -> Floats:
    """Smoothed pixels of the disc, free of the lamp's flicker."""
    if picture.shape != disc.shape:
        raise ValueError(f"movement is measured in crops of {SIDE_PX} px, not {picture.shape}: use Cropped")
    inside = np.asarray(cv2.GaussianBlur(picture.astype(np.float32), (0, 0), 2.0)[disc], dtype=np.float64)
    return np.asarray((inside - inside.mean()) / (inside.std() + 1e-6))


def _on_movement(usual: Floats, onsets: Floats) -> float:
    """Mean over the labels of the strongest movement near each; labels beyond the video say nothing."""
    at = [round(float(onset)) for onset in onsets if _NEAR < onset < len(usual) - _NEAR - 1]
    return float(np.mean([usual[t - _NEAR : t + _NEAR + 1].max() for t in at])) if at else 0.0
