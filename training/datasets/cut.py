"""The one way in which a stack is cut around its embryo, for drawn and real pictures alike, as in use.

It knows pixels and planes; what the embryo is called or where its picture came from it refuses to know.
"""

from __future__ import annotations

import numpy as np

from engines.locate import Located, crop_embryo, locate
from engines.preprocess import nearest_plane_um
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

    It is found in the plane nearest to 0 um, and every plane is cut at the same place. An embryo that is found with
    little confidence is cut all the same: in use it will be, too. Raises EngineError below 100 px a side.
    """
    middle = planes_um.index(nearest_plane_um(0, planes_um))
    found = locate(stack[middle])
    return np.stack([crop_embryo(plane, found, side_px, width_in_well_radii) for plane in stack]), found
