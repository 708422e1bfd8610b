"""Which focal plane shows which structure sharpest: measured alike in drawn and real stacks, as a table and a chart.

The structures are told apart by how far from the embryo's middle they lie, in radii of the body that the locator finds:
the zona, the trophectoderm cut across at the rim, and what is seen face on inside of it (inner cell mass, the cells of
the near and the far side). It refuses to know who made a picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from engines.locate import locate
from monitor.simulator.curves import FloatArray, Gray, detail, panel, trace
from monitor.simulator.optics import PLANES_UM

ZONES = {"zona": (0.9, 1.1), "trophectoderm rim": (0.7, 0.9), "inside": (0.0, 0.5)}
_DETAIL_UM = 1.3  # finer is sensor noise, coarser is shading that every plane shows
_TILE_TURNS = 8  # a zone is cut into as many sectors, for its parts lie at different heights


def detail_by_plane(planes: Sequence[Gray]) -> dict[str, FloatArray]:
    """Zone -> (8, P): the share of a sector's fine detail that each plane holds. Planes (H, W) uint8, `PLANES_UM`."""
    side_y, side_x = planes[0].shape
    body = locate(planes[len(planes) // 2]).embryo
    y, x = np.mgrid[:side_y, :side_x].astype(np.float32)
    reach = np.hypot(x - body.x_px, y - body.y_px) / body.radius_px
    turn = np.arctan2(y - body.y_px, x - body.x_px)
    sector = np.floor((turn + np.pi) / (2 * np.pi) * _TILE_TURNS).astype(int) % _TILE_TURNS
    energy = [np.square(detail(plane, _DETAIL_UM)) for plane in planes]
    found = {}
    for zone, (nearest, farthest) in ZONES.items():
        there = (reach >= nearest) & (reach < farthest)
        parts = [[float(e[there & (sector == k)].mean()) for e in energy] for k in range(_TILE_TURNS)]
        rows = np.sqrt(np.array(parts))
        found[zone] = rows / rows.sum(1, keepdims=True)
    return found


def sharpest_um(stack: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
    """Zone -> (8,) the plane in um that is the sharpest of each sector."""
    return {zone: np.array(PLANES_UM, float)[rows.argmax(1)] for zone, rows in stack.items()}


def table(groups: Mapping[str, Sequence[Mapping[str, FloatArray]]]) -> str:
    """Lines of text: for each group and zone, in how many sectors of a hundred a plane is the sharpest."""
    lines = ["sharpest plane, % of sectors           " + " ".join(f"{um:+4d}" for um in PLANES_UM)]
    for name, stacks in groups.items():
        for zone in ZONES if stacks else ():
            shares = 100 * _won(stacks, zone)
            lines.append(f"{name:18s} {zone:19s} " + " ".join(f"{share:4.0f}" for share in shares))
    return "\n".join(lines)


def chart(drawn: Sequence[Mapping[str, FloatArray]], real: Sequence[Mapping[str, FloatArray]]) -> Gray:
    """One panel a zone: how often each plane is the sharpest (0 to .6), real stacks darker than drawn ones."""
    panels = []
    x = np.linspace(0.04, 0.96, len(PLANES_UM))
    for zone in ZONES:
        one = panel(f"{zone}: sharpest in a plane, -45 to +45 um, 0 to .6", ("virtual", "real"))
        for group, shade in ((real, 130), (drawn, 255)):
            if group:
                trace(one, x, _won(group, zone) / 0.6, shade)
        panels.append(one)
    return np.asarray(np.hstack(panels), dtype=np.uint8)


def _won(stacks: Sequence[Mapping[str, FloatArray]], zone: str) -> npt.NDArray[np.float64]:
    """(P,) share of all sectors of a zone in which a plane is the sharpest."""
    best = np.concatenate([stack[zone].argmax(1) for stack in stacks])
    return np.bincount(best, minlength=len(PLANES_UM)) / len(best)
