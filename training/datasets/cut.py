"""The one way in which a stack is cut around its embryo, for drawn and real pictures alike, as in use.

It knows pixels and planes; what the embryo is called or where its picture came from it refuses to know.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from engines.locate import Located, crop_embryo
from engines.preprocess import locate_in
from training.datasets.embryo import Gray

SIDE_PX = 112
WIDTH_IN_WELL_RADII = 1.45  # about 170 um: the zona and a little around it


def cut_stack(
    stack: Gray,
    planes_um: tuple[int, ...],
    side_px: int = SIDE_PX,
    width_in_well_radii: float = WIDTH_IN_WELL_RADII,
) -> tuple[Gray, Located]:
    """(P, H, W) uint8 -> (P, side_px, side_px) around the embryo, and where it was found.

    It is found in the plane nearest to 0 um, and every plane is cut at the same place. A frame without an embryo, or
    with one that is found with little confidence, is cut around the well's middle: in use it will be, too.
    Raises EngineError below 100 px a side.
    """
    found = locate_in(dict(zip(planes_um, stack, strict=True)))
    return np.stack([crop_embryo(plane, found, side_px, width_in_well_radii) for plane in stack]), found


def cut_masks(
    masks: Mapping[str, Gray], found: Located, side_px: int = SIDE_PX, width_in_well_radii: float = WIDTH_IN_WELL_RADII
) -> dict[str, Gray]:
    """Masks (H, W) of 0 and 255 by part -> (side_px, side_px), cut where the stack was; half inside is inside."""
    cut = {part: crop_embryo(mask, found, side_px, width_in_well_radii) for part, mask in masks.items()}
    return {part: np.where(mask > 127, np.uint8(255), np.uint8(0)) for part, mask in cut.items()}
