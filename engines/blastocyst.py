"""Finds the blastocyst in one gray frame and says which square day 5 looks at; says so where there is no embryo.

The way of Lockhart et al. 2019 (slides, pre-processing): borders and scale bar off, Sobel edges at half of the
automatic threshold, dilated along rows and columns, filled, what sticks out cut off, the largest piece, its convex
hull, the best ellipse, some room around it, a square. Mended where it failed on real frames: edges of relative
brightness without its slow part (a well's glare is no edge), outlines closed before they are filled, thin things opened
away. In an incubator's frame only edges on the floor of the well count, and a piece must lie where `engines.locate`
sees the body.

Axes: P, H, W; x right, y down. It refuses to know hours, grades and what a segmenter makes of the square.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from engines.contract import EngineError
from engines.locate import LEAST_SIDE_PX, Circle, Located, locate
from engines.pieces import Bits, closed, distance_from, filled, hull_of, opened, pieces_of, split_neighbours
from engines.square import SIDE_PX, Square
from engines.still import Gray, without_marks

_Image = npt.NDArray[np.float32]

LEAST_CONFIDENCE = 0.4  # below: no embryo found
ROOM = 1.4  # half of the square's width in half long axes: the zona of a small blastocyst lies 1.3 of them out
_WORK_PX = 500  # the shorter side while edges are measured
_SHAPE_PX = 250  # and while shapes are made of them: a quarter of the work
_SOFT_PX, _SLOW_PX = 1.2, 4.0  # edges lie between these two blurs
_GAP_PX, _THIN_PX = 5, 8  # of a shape: gaps up to twice this are closed, what is thinner than twice this is cut off
_FLOOR_SHARE = 0.95  # of the well's radius
_WELL_SEEN = 0.35  # confidence of the well below which `locate` guessed it
_NEAR = 1.1  # pieces belong to the embryo by their share within so many radii of the body that `locate` sees
_BELONGS = 0.4
_RADII_OF_WELL = (0.3, 1.0)  # a body's radius, of the well's: shrunken to filling it
_RADII_OF_FRAME = (0.12, 0.56)  # and of a still picture's shorter side
_LEAST_AROUND = {True: 0.45, False: 0.05}  # well or still: share of the field left around the embryo to compare it with
_CORE_EDGES = (0.01, 0.04)  # share of edges in the inner part: none, enough
_CUT = (0.1, 0.3)  # share of an outline that the frame's edge cuts: nobody minds, no embryo to measure


@dataclass(frozen=True)
class Ellipse:
    """The ellipse with the moments of the embryo's hull, in px of the frame; `angle_rad` from x to the long axis."""

    x_px: float
    y_px: float
    half_long_px: float
    half_short_px: float
    angle_rad: float


@dataclass(frozen=True)
class Found:
    """The embryo's outline (cells, not the zona), the square around it, and how sure that is, 0 to 1.

    `well`: in an incubator's frame, if it is seen.
    """

    square: Square
    outline: Ellipse
    confidence: float
    well: Circle | None = None


@dataclass(frozen=True)
class NotFound:
    """No embryo found: why, in words for people, and how sure the best guess would have been."""

    reason: str
    confidence: float = 0.0


@dataclass(frozen=True)
class _Field:
    """What is searched, all of it (H, W) with `_SHAPE_PX` on the shorter side: `where` bool; `edges` the share of edge
    in each pixel; `lines` 0 or 1, edges dilated along rows and columns; the radii in px that an embryo may have."""

    where: npt.NDArray[np.bool_]
    edges: _Image
    lines: Bits
    radii_px: tuple[float, float]
    well: bool


def find_in_well(frame: Gray, side_px: int = SIDE_PX) -> Found | NotFound:
    """The embryo of an incubator's frame (H, W) uint8. Raises EngineError where that is no gray frame."""
    work = _resized(_checked(frame), _WORK_PX)
    place = locate(_resized(work, _SHAPE_PX))
    if place.well_confidence < _WELL_SEEN:
        return NotFound("no embryo found: no well is seen in the frame")
    shape = _resized(work, _SHAPE_PX).shape
    floor = distance_from(shape, place.well.x_px, place.well.y_px) < _FLOOR_SHARE * place.well.radius_px
    field = _field(
        work, floor, (_RADII_OF_WELL[0] * place.well.radius_px, _RADII_OF_WELL[1] * place.well.radius_px), True
    )
    body = hull_of(_of_body(_solid(field), place))
    sure = min(place.embryo_confidence, _confidence(field, body))
    return _finding(body, sure, min(frame.shape) / _SHAPE_PX, side_px, place.well)


def find_in_still(picture: Gray, side_px: int = SIDE_PX) -> Found | NotFound:
    """The embryo of a still picture: (H, W) uint8, or (H, W, 3) where marks have a colour. No well is looked for.

    Raises EngineError where it is no such picture.
    """
    gray, inside = without_marks(_checked(picture, colours=True))
    kept = _resized(inside.astype(np.uint8) * np.uint8(255), _SHAPE_PX) == 255
    where = cv2.erode(kept.astype(np.uint8), np.ones((5, 5), np.uint8), borderValue=0) > 0
    radii_px = (_RADII_OF_FRAME[0] * _SHAPE_PX, _RADII_OF_FRAME[1] * _SHAPE_PX)
    field = _field(_resized(gray, _WORK_PX), where, radii_px, False)
    body = _best_piece(split_neighbours(_solid(field), where.astype(np.uint8)), field)
    sure = _confidence(field, body) * _ramp(-_cut(body, field), -_CUT[1], -_CUT[0])
    return _finding(body, sure, min(gray.shape) / _SHAPE_PX, side_px, None)


def sharpest_plane(stack: npt.NDArray[np.uint8], found: Found) -> int:
    """Index of the plane of (P, H, W) with most fine contrast inside of the outline."""
    inside = np.zeros(stack.shape[1:], np.uint8)
    o = found.outline
    axes = (round(o.half_long_px), round(o.half_short_px))
    cv2.ellipse(inside, (round(o.x_px), round(o.y_px)), axes, np.degrees(o.angle_rad), 0, 360, 1, cv2.FILLED)
    step_px = min(stack.shape[1:]) / _WORK_PX
    return int(np.argmax([_edge_strength(plane, step_px)[inside > 0].mean() for plane in stack]))


def _checked(frame: Gray, colours: bool = False) -> Gray:
    wanted = "(H, W) or (H, W, 3)" if colours else "(H, W)"
    shaped = frame.ndim == 2 or (colours and frame.ndim == 3 and frame.shape[2] == 3)
    if frame.dtype != np.uint8 or not shaped or min(frame.shape[:2]) < LEAST_SIDE_PX:
        raise EngineError(
            f"a frame must be uint8 {wanted} of at least {LEAST_SIDE_PX} px a side, got {frame.dtype} {frame.shape}; "
            "bring 16 bits to 8 by one scale for all frames first"
        )
    return frame


def _resized(gray: Gray, shorter_px: int) -> Gray:
    """(H, W) with `shorter_px` on the shorter side."""
    scale = shorter_px / min(gray.shape)
    if scale == 1:
        return gray
    size = (round(gray.shape[1] * scale), round(gray.shape[0] * scale))
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(gray, size, interpolation=way), dtype=np.uint8)


def _edge_strength(gray: Gray, step_px: float = 1.0) -> _Image:
    """(H, W): squared slope of relative brightness without its slow part; `step_px` of the picture per working one."""
    light = np.log(cv2.GaussianBlur(gray.astype(np.float32), (0, 0), _SOFT_PX * step_px) + np.float32(16))
    light -= cv2.GaussianBlur(light, (0, 0), _SLOW_PX * step_px)
    return np.asarray(cv2.Sobel(light, cv2.CV_32F, 1, 0) ** 2 + cv2.Sobel(light, cv2.CV_32F, 0, 1) ** 2)


def _field(work: Gray, where: npt.NDArray[np.bool_], radii_px: tuple[float, float], well: bool) -> _Field:
    """Edges of `work` at half of the automatic threshold: the usual one is twice the root of the mean squared slope."""
    strength = _edge_strength(work)
    fine = cv2.resize(where.astype(np.uint8), work.shape[::-1], interpolation=cv2.INTER_NEAREST) > 0
    limit = max(float(strength[fine].mean()), 1e-6) if fine.any() else np.inf
    edges = np.where(fine & (strength > limit), np.uint8(255), np.uint8(0))
    thick = np.maximum(*(cv2.dilate(edges, np.ones(line, np.uint8)) for line in ((3, 1), (1, 3))))
    size = where.shape[::-1]
    share, lines = (cv2.resize(one, size, interpolation=cv2.INTER_AREA) for one in (edges, thick))
    return _Field(where, np.asarray(share, np.float32) / np.float32(255), (lines > 0).astype(np.uint8), radii_px, well)


def _solid(field: _Field) -> Bits:
    """(H, W): lines closed, filled, without what is thin."""
    return opened(filled(closed(field.lines, _GAP_PX)), _THIN_PX) & field.where.astype(np.uint8)


def _of_body(solid: Bits, place: Located) -> Bits:
    """The pieces that lie where the body is seen, together: a cavity may part them."""
    body = place.embryo
    near = distance_from(solid.shape, body.x_px, body.y_px) < _NEAR * body.radius_px
    kept = np.zeros_like(solid)
    for piece in pieces_of(solid):
        if near[piece > 0].mean() > _BELONGS:
            kept |= piece
    return kept


def _best_piece(pieces: list[Bits], field: _Field) -> Bits:
    """The hull of the piece that is largest, roundest and nearest to the middle, and not cut by the frame's edge."""
    height, width = field.where.shape
    nowhere = np.zeros((height, width), np.uint8)
    best, most = nowhere, 0.0
    for piece in pieces:
        hull = hull_of(piece)
        area_px = float(hull.sum())
        x_px, y_px, *_ = _moments(hull)
        off = np.hypot(x_px - width / 2, y_px - height / 2) / min(height, width)
        score = area_px * _roundness(piece, hull) ** 2 * np.exp(-4 * off**2 - 4 * _cut(hull, field))
        if score > most:
            best, most = hull, float(score)
    return best


def _cut(hull: Bits, field: _Field) -> float:
    """How much of the hull's outline lies on the picture's edge, 0 to 1."""
    outline = hull - cv2.erode(hull, np.ones((3, 3), np.uint8))
    inner = cv2.erode(field.where.astype(np.uint8), np.ones((5, 5), np.uint8), borderValue=0)
    return float((outline[inner == 0] > 0).sum()) / max(float((outline > 0).sum()), 1.0)


def _roundness(piece: Bits, hull: Bits) -> float:
    """Overlap of the piece with the ellipse of its hull: 1 for a filled ellipse."""
    x_px, y_px, long_px, short_px, angle_rad = _moments(hull)
    ellipse = np.zeros_like(hull)
    axes = (max(round(long_px), 1), max(round(short_px), 1))
    cv2.ellipse(ellipse, (round(x_px), round(y_px)), axes, np.degrees(angle_rad), 0, 360, 1, cv2.FILLED)
    return float((piece & ellipse).sum()) / max(float((piece | ellipse).sum()), 1.0)


def _confidence(field: _Field, hull: Bits) -> float:
    """0 to 1: is it round, of an embryo's size, and richer in edges than what lies around it?"""
    area_px = float(hull.sum())
    if area_px == 0:
        return 0.0
    _, _, long_px, short_px, _ = _moments(hull)
    low, high = field.radii_px
    size = _ramp(np.sqrt(area_px / np.pi), 0.8 * low, low) * _ramp(-long_px, -1.15 * high, -high)
    shape = _ramp(short_px / long_px, 0.45, 0.65) * _ramp(_roundness(hull, hull), 0.75, 0.9)
    return float(size * shape * _richer(field, hull))


def _richer(field: _Field, hull: Bits) -> float:
    """0 to 1: edges in the hull, its core too, against those around it. Noise is alike everywhere; a drawn circle or
    an empty well has edges at its rim only; what leaves nothing around it cannot be told from noise."""
    around = field.where & (hull == 0)
    if around.sum() < _LEAST_AROUND[field.well] * field.where.sum():
        return 1.0 if field.well else 0.0  # a blastocyst may fill its well: `locate` has compared it with the floor
    core = cv2.distanceTransform(hull, cv2.DIST_L2, 5)
    inside, within = float(field.edges[hull > 0].mean()), float(field.edges[core > 0.35 * core.max()].mean())
    outside = float(field.edges[around].mean())
    against = _ramp(inside - outside, 0.05, 0.15) * _ramp(-outside / max(inside, 1e-6), -0.6, -0.3)
    return against * _ramp(within, *_CORE_EDGES)


def _ramp(value: float, none: float, all_: float) -> float:
    """0 at `none`, 1 at `all_`, straight between."""
    return float(np.clip((value - none) / (all_ - none), 0.0, 1.0))


def _moments(mask: Bits) -> tuple[float, float, float, float, float]:
    """Centre x, y, half long axis, half short axis, angle of the ellipse that has the mask's moments."""
    m = cv2.moments(mask, binaryImage=True)
    area_px = max(m["m00"], 1.0)
    spread = np.array([[m["mu20"], m["mu11"]], [m["mu11"], m["mu02"]]]) / area_px
    values, vectors = np.linalg.eigh(spread)
    short_px, long_px = 2 * np.sqrt(np.maximum(values, 0.25))
    angle_rad = float(np.arctan2(vectors[1, 1], vectors[0, 1]))
    return m["m10"] / area_px, m["m01"] / area_px, float(long_px), float(short_px), angle_rad


def _finding(hull: Bits, confidence: float, step_px: float, side_px: int, well: Circle | None) -> Found | NotFound:
    """In the frame's own pixels; half a pixel because resizing maps pixel areas, not centres."""
    if not hull.any():
        return NotFound("no embryo found: nothing in the frame has the edges of one")
    if confidence < LEAST_CONFIDENCE:
        return NotFound("no embryo found: what stands out is not round, of an embryo's size and textured", confidence)
    x, y, long_px, short_px, angle_rad = _moments(hull)
    outline = Ellipse(
        (x + 0.5) * step_px - 0.5, (y + 0.5) * step_px - 0.5, long_px * step_px, short_px * step_px, angle_rad
    )
    seen = well and Circle(
        (well.x_px + 0.5) * step_px - 0.5, (well.y_px + 0.5) * step_px - 0.5, well.radius_px * step_px
    )
    square = Square(outline.x_px, outline.y_px, 2 * ROOM * outline.half_long_px, side_px)
    return Found(square, outline, confidence, seen)
