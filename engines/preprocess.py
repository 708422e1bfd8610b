"""Plane images -> the stack a model asks for -> its tensor. The one copy: the monitor and training both call it.

Axes: P planes in ascending um, H, W. It knows pixels only: no file, no embryo, no missing-plane policy beyond the
filling rule (a plane that is not there is filled with the nearest one that is; of two equally near, the lower).
"""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np
import numpy.typing as npt

from engines.contract import EngineError
from engines.locate import Circle, Located, crop_embryo, locate
from engines.manifest import Preprocess
from engines.square import Square

Gray = npt.NDArray[np.uint8]

_USUAL_WELL_RADIUS = 0.44  # of the shorter side


def nearest_plane_um(wanted_um: int, present_um: tuple[int, ...]) -> int:
    """The plane to show for `wanted_um`. Raises EngineError when there is none at all."""
    if not present_um:
        raise EngineError("a stack without a single plane cannot be filled")
    return min(present_um, key=lambda plane_um: (abs(plane_um - wanted_um), plane_um))


def fit_plane(image: Gray, height_px: int, width_px: int) -> Gray:
    """(H, W) uint8 -> (height_px, width_px) uint8: the centred crop of the wanted shape, resized by area.

    Raises EngineError for anything but an 8-bit gray picture: 16 bits would wrap round in silence.
    """
    if image.dtype != np.uint8 or image.ndim != 2 or image.size == 0:
        raise EngineError(f"a plane image must be uint8 (H, W), got {image.dtype} {image.shape}")
    height, width = image.shape
    scale = min(height / height_px, width / width_px)
    crop_h, crop_w = max(1, round(height_px * scale)), max(1, round(width_px * scale))
    top, left = (height - crop_h) // 2, (width - crop_w) // 2
    crop = image[top : top + crop_h, left : left + crop_w]
    if crop.shape == (height_px, width_px):
        return np.ascontiguousarray(crop)
    # INTER_AREA averages when it shrinks (no aliasing of the grain); it equals linear when it enlarges
    return np.asarray(cv2.resize(crop, (width_px, height_px), interpolation=cv2.INTER_AREA), dtype=np.uint8)


def locate_in(images: Mapping[int, Gray]) -> Located:
    """Where well and embryo lie: looked for once per frame, in the plane nearest to the middle one, for all models.

    Nothing is sure where the locator can make nothing of the picture. Raises EngineError without a plane, and below
    100 px a side.
    """
    frame = images[nearest_plane_um(0, tuple(sorted(images)))]
    try:
        return locate(frame)
    except ValueError:  # a straight edge of glare: the circle through it is larger than the picture has rays for
        height, width = frame.shape
        well = Circle((width - 1) / 2, (height - 1) / 2, _USUAL_WELL_RADIUS * min(height, width))
        return Located(well, well, 0.0, 0.0)


def fit_stack(images: Mapping[int, Gray], how: Preprocess, found: Located | Square | None = None) -> Gray:
    """Plane images by um, each (H, W) uint8 -> (P, height_px, width_px) uint8, missing planes filled.

    `found` (see `locate_in`) is where a model that looks at the embryo's surroundings only is cut from; for a model of
    day 5 it is the square that `engines.blastocyst` found; the others do not ask. Raises EngineError when the number of
    planes is not one the model was trained to judge.
    """
    present_um = tuple(sorted(images))
    if len(present_um) not in how.allowed_plane_counts:
        raise EngineError(f"{len(present_um)} planes given, the model judges {list(how.allowed_plane_counts)}")
    shown = [nearest_plane_um(plane_um, present_um) for plane_um in how.planes_um]
    fitted = {plane_um: _fitted(images[plane_um], how, found) for plane_um in sorted(set(shown))}
    return np.stack([fitted[plane_um] for plane_um in shown])  # P H W


def _fitted(image: Gray, how: Preprocess, found: Located | Square | None) -> Gray:
    if how.crop is None:
        return fit_plane(image, how.height_px, how.width_px)
    if how.crop == "blastocyst":
        if not isinstance(found, Square):
            raise EngineError("the model looks at a blastocyst's square only, and nobody has said where it lies")
        return fit_plane(found.cut(image), how.height_px, how.width_px)
    if not isinstance(found, Located):
        raise EngineError("the model looks at the embryo only, and nobody has said where it lies")
    return crop_embryo(image, found, how.width_px, how.width_in_well_radii)


def refilled(stack: Gray, planes_um: tuple[int, ...], kept_um: tuple[int, ...]) -> Gray:
    """A fitted stack (P, H, W) as it would be had only `kept_um` been there: the others filled as ever."""
    return np.stack([stack[planes_um.index(nearest_plane_um(plane_um, kept_um))] for plane_um in planes_um])


def to_tensor(stack: Gray, how: Preprocess) -> npt.NDArray[np.float32]:
    """(..., P, H, W) uint8 -> float32 of the same shape, (gray / 255 - mean) / std. Raises EngineError."""
    if stack.dtype != np.uint8:
        raise EngineError(f"a stack must be uint8, got {stack.dtype}")
    tensor: npt.NDArray[np.float32] = (stack.astype(np.float32) / np.float32(255) - how.mean) / how.std
    return tensor.astype(np.float32, copy=False)
