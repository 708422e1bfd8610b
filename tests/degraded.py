"""Real pictures made worse by a stated amount: blurred, darkened, with the embryo taken out. All (H, W) uint8.

`sigma_px` counts pixels of a picture 500 px wide, whatever the picture's own width. Noise of the strength of a quiet
camera is added after a blur: a lens that is out of focus does not take the sensor's noise away.
"""

from __future__ import annotations

import cv2
import numpy as np

from monitor.vocabulary import Gray

NOISE_GRAY = 1.5


def _picture(values: np.ndarray) -> Gray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def blurred(gray: Gray, sigma_px: float, seed: int = 0) -> Gray:
    soft = cv2.GaussianBlur(gray.astype(np.float32), (0, 0), sigma_px * len(gray) / 500)
    return _picture(soft + np.random.default_rng(seed).normal(0, NOISE_GRAY, gray.shape))


def darkened(gray: Gray, factor: float) -> Gray:
    return _picture(gray * np.float32(factor))


def emptied(gray: Gray, seed: int = 0) -> Gray:
    """The embryo replaced by the gray around it, with noise; the well's bright wall and what lies outside stay.

    The embryo is taken to be a disc around where detail lies; it is no real empty well, of which none is at hand.
    """
    side = len(gray)
    soft = cv2.GaussianBlur(gray.astype(np.float32), (0, 0), side / 80)
    axis = (np.arange(side) - (side - 1) / 2) / side
    from_middle = np.hypot(axis[:, None], axis[None, :])
    level = float(np.median(soft[from_middle < 0.3]))
    lit = cv2.morphologyEx((soft > 0.6 * level).astype(np.uint8), cv2.MORPH_CLOSE, _disc(side // 4))
    inside = (lit > 0) & (from_middle < 0.42)
    wall = cv2.GaussianBlur((soft > 1.4 * level).astype(np.float32), (0, 0), side / 40) > 0.3
    detail = cv2.GaussianBlur(np.abs(gray - soft), (0, 0), side / 40)
    detail[wall | ~inside] = 0
    rows, columns = np.nonzero(detail > 0.5 * np.percentile(detail[inside], 95))
    middle = np.median(rows), np.median(columns)
    reach = np.percentile(np.hypot(rows - middle[0], columns - middle[1]), 98) + 0.05 * side
    away = np.hypot(np.arange(side)[:, None] - middle[0], np.arange(side)[None, :] - middle[1])
    around = inside & ~wall & (away > reach) & (soft > 0.6 * level)
    background = float(np.median(soft[around])) if around.sum() > side else level
    share = cv2.GaussianBlur(((away < reach) & (lit > 0)).astype(np.float32), (0, 0), side / 60)
    noise = np.random.default_rng(seed).normal(0, NOISE_GRAY, gray.shape)
    return _picture(gray * (1 - share) + (background + noise) * share)


def _disc(diameter_px: int) -> np.ndarray:
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (diameter_px | 1, diameter_px | 1))
