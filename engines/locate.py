"""Finds the well, then the embryo in it, in one gray frame: where every model's crop is taken from.

Axes: x right, y down, pixel centres at whole numbers. It knows pixels only: a bright ring or the end of a lit floor,
and texture on it. It refuses to know focal planes, hours, phases and what a model wants to see.

The well comes first because its wall, its interference fringes and burnt-in text look more like an embryo than a smooth
zygote does; whatever lies outside of the well is then never looked at.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from engines.contract import EngineError

Gray = npt.NDArray[np.uint8]
_Image = npt.NDArray[np.float32]

LEAST_SIDE_PX = 100
_WORK_PX = 250  # the shorter side while texture is measured: about 1.1 um a pixel in a field of 280 um
_COARSE = 4  # the embryo's disc is searched at a quarter of that
_WELL_RADII = (0.33, 0.56)  # of the shorter side
_USUAL_WELL_RADIUS = 0.44  # where no well is seen
_EMBRYO_RADII = np.linspace(0.38, 0.95, 10)  # of the well's radius: from a shrunken body to a blastocyst that fills it
_FLOOR_SHARE = 0.91  # of the well's radius: beyond lies the wall's own inner edge
_LEVEL = 0.45  # between the floor's texture and the embryo's: above it is embryo
_GLARE = 1.2  # times the floor's usual brightness: near the wall this is the ring's glow
_BARE_TEXTURE, _EMBRYO_TEXTURE = 0.014, 0.04  # fine contrast: what an empty floor stays below, an embryo above
_TURNS = 120  # directions in which the wall is looked for

# Embryo confidence: 0 in 20 empty drawn wells, .80 to 1 over 160 drawn embryos, 1 in 60 frames of a real video.
LEAST_EMBRYO_CONFIDENCE = 0.5


@dataclass(frozen=True)
class Circle:
    """A circle in pixels of the frame it was found in."""

    x_px: float
    y_px: float
    radius_px: float


@dataclass(frozen=True)
class Located:
    """The well (outer edge of its bright ring, or where the lit floor ends) and the embryo's textured body in it.

    Confidences 0 to 1. `well_confidence`: share of directions in which the wall lies on the circle; below about .35
    the well is a guess (the middle of the frame). `embryo_confidence`: 1 where the embryo's disc has the fine
    contrast of an embryo and stands out of the emptiest part of the floor; near 0 in an empty well.
    """

    well: Circle
    embryo: Circle
    well_confidence: float
    embryo_confidence: float

    @property
    def embryo_is_sure(self) -> bool:
        """Whether the embryo was found, and not only looked for."""
        return self.embryo_confidence >= LEAST_EMBRYO_CONFIDENCE

    @property
    def middle(self) -> Circle:
        """What a crop is taken around: the embryo, or the well where the embryo was not found."""
        return self.embryo if self.embryo_is_sure else self.well


def locate(frame: Gray) -> Located:
    """Find well and embryo in a frame (H, W) uint8 of at least 100 px a side. Raises EngineError for anything else."""
    if frame.dtype != np.uint8 or frame.ndim != 2 or min(frame.shape) < LEAST_SIDE_PX:
        raise EngineError(f"a frame must be uint8 (H, W) of at least 100 px a side, got {frame.dtype} {frame.shape}")
    scale = _WORK_PX / min(frame.shape)
    size = (round(frame.shape[1] * scale), round(frame.shape[0] * scale))
    work = cv2.resize(frame, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR).astype(np.float32)
    well, well_confidence = _find_well(work)
    embryo, embryo_confidence = _find_embryo(work, well)
    return Located(_unscaled(well, scale), _unscaled(embryo, scale), well_confidence, embryo_confidence)


def crop(frame: Gray, x_px: float, y_px: float, width_px: float, side_px: int) -> Gray:
    """The square of `width_px` around a point of a frame (H, W) as (side_px, side_px); edges are repeated outward."""
    if width_px <= 0 or side_px < 1:
        raise EngineError(f"a crop needs a width and a side above 0, got {width_px} and {side_px}")
    step = width_px / side_px  # px of the frame in one px of the crop
    first = (step - width_px) / 2  # from the middle to the centre of the first pixel
    back = np.array([[step, 0, x_px + first], [0, step, y_px + first]], np.float32)
    # shrinking by more than this would fold the grain into false texture
    soft = cv2.GaussianBlur(frame, (0, 0), 0.35 * step) if step > 1.3 else frame
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    cut = cv2.warpAffine(soft, back, (side_px, side_px), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(cut, dtype=np.uint8)


def crop_embryo(frame: Gray, found: Located, side_px: int, width_in_well_radii: float = 1.45) -> Gray:
    """(side_px, side_px) around the embryo, always the same share of the well: a bigger embryo stays bigger.

    1.45 well radii are about 170 um: the zona and a little around it. Give every plane of a stack the same `found`.
    Where the embryo was not found it is the well's middle at the same scale.
    """
    return crop(frame, found.middle.x_px, found.middle.y_px, width_in_well_radii * found.well.radius_px, side_px)


def _unscaled(circle: Circle, scale: float) -> Circle:
    """Back to the frame's pixels; half a pixel because resizing maps pixel areas, not centres."""
    x_px, y_px = (circle.x_px + 0.5) / scale - 0.5, (circle.y_px + 0.5) / scale - 0.5
    return Circle(x_px, y_px, circle.radius_px / scale)


def _find_well(work: _Image) -> tuple[Circle, float]:
    """Votes of all edges whose bright side faces a common centre, then a circle through the wall seen from there."""
    height, width = work.shape
    half = cv2.resize(work, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    # logarithm: the floor's edge on the dark side counts like the ring's on the bright one
    light = np.log(cv2.GaussianBlur(half, (0, 0), 1.2) + np.float32(8))
    x, y = _vote(light)
    guess = Circle((width - 1) / 4, (height - 1) / 4, _USUAL_WELL_RADIUS * min(half.shape))
    circle, confidence = _fit_wall(light, x, y)
    if circle is None or confidence < 0.35:
        circle = guess
    return Circle(2 * circle.x_px + 0.5, 2 * circle.y_px + 0.5, 2 * circle.radius_px), confidence


def _vote(light: _Image) -> tuple[float, float]:
    """Centre (x, y) towards which most edges rise, over all radii a well may have."""
    slope_x, slope_y = cv2.Sobel(light, cv2.CV_32F, 1, 0), cv2.Sobel(light, cv2.CV_32F, 0, 1)
    steepness = cv2.magnitude(slope_x, slope_y)
    steepest = np.argpartition(-steepness.ravel(), light.size // 12)[: light.size // 12]
    weight = np.minimum(steepness.ravel()[steepest], 1.0)
    rows, columns = np.divmod(steepest, light.shape[1])
    side = min(light.shape)
    radii = np.arange(_WELL_RADII[0] * side, _WELL_RADII[1] * side, 2.0, dtype=np.float32)[:, None]
    inv = 1 / (steepness.ravel()[steepest] + np.float32(1e-6))
    to_x = np.rint(columns + radii * (slope_x.ravel()[steepest] * inv)).astype(np.int32)
    to_y = np.rint(rows + radii * (slope_y.ravel()[steepest] * inv)).astype(np.int32)
    inside = (to_x >= 0) & (to_x < light.shape[1]) & (to_y >= 0) & (to_y < light.shape[0])
    votes = np.bincount(
        (to_y * light.shape[1] + to_x)[inside], np.broadcast_to(weight, inside.shape)[inside], light.size
    ).reshape(light.shape)
    row, column = np.unravel_index(int(cv2.GaussianBlur(votes, (0, 0), 2.5).argmax()), votes.shape)
    return float(column), float(row)


def _fit_wall(light: _Image, x: float, y: float) -> tuple[Circle | None, float]:
    """Circle through the wall as seen from (x, y), and the share of visible directions that agree with it."""
    side = min(light.shape)
    radius, agreement = 0.0, 0.0
    turn = np.arange(_TURNS) * (2 * np.pi / _TURNS)
    outward = np.arange(int(0.62 * side), dtype=np.float32)[None]
    along_x, along_y = (wave(turn).astype(np.float32)[:, None] * outward for wave in (np.cos, np.sin))
    for _ in range(2):
        # not warpPolar: beyond the frame it leaves what was in the memory, or black, which looks like a wall
        to = along_x + np.float32(x), along_y + np.float32(y)
        rays = cv2.remap(light, *to, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        fall = np.clip(rays[:, :-2] - rays[:, 2:], 0, 0.5)  # outward darkening, at index + 1
        low, high = int(_WELL_RADII[0] * side), min(int(_WELL_RADII[1] * side), fall.shape[1])
        if radius:
            low, high = max(int(radius - 7), 1), min(int(radius + 7), fall.shape[1])
        common = cv2.GaussianBlur(fall.mean(0, keepdims=True), (0, 0), 1.5)[0]
        middle = low + int(common[low:high].argmax())
        low, high = max(middle - 6, 0), min(middle + 7, fall.shape[1])
        steepest = fall[:, low:high].argmax(1)
        strength = fall[np.arange(_TURNS), low + steepest]
        at = low + steepest + 1.0
        wall_x, wall_y = x + at * np.cos(turn), y + at * np.sin(turn)
        seen = strength > 0.02
        if seen.sum() < 20:
            return None, 0.0
        x, y, radius = _circle_through(wall_x[seen], wall_y[seen])
        off = np.abs(np.hypot(wall_x - x, wall_y - y) - radius)
        agreement = float((seen & (off < 1.5)).mean())
    return Circle(x, y, radius), agreement


def _circle_through(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> tuple[float, float, float]:
    """Least-squares circle (x, y, radius); points far from it lose their say in three rounds."""
    weight = np.ones(len(x))
    a, b = np.stack([x, y, np.ones(len(x))]), x * x + y * y
    for _ in range(4):
        p, q, r = np.linalg.solve((a * weight) @ a.T + 1e-9 * np.eye(3), (a * weight) @ b)
        centre_x, centre_y = p / 2, q / 2
        radius = float(np.sqrt(max(r + centre_x**2 + centre_y**2, 1.0)))
        weight = 1 / (1 + np.square(np.hypot(x - centre_x, y - centre_y) - radius)) ** 2
    return float(centre_x), float(centre_y), radius


def _find_embryo(work: _Image, well: Circle) -> tuple[Circle, float]:
    """The disc in the well that holds most texture above a level between the floor's and the embryo's."""
    texture, level = _texture(work)
    height, width = texture.shape
    x, y = (well.x_px + 0.5) / _COARSE - 0.5, (well.y_px + 0.5) / _COARSE - 0.5
    radius = well.radius_px / _COARSE
    columns, rows = np.arange(width, dtype=np.float32)[None, :], np.arange(height, dtype=np.float32)[:, None]
    away = np.hypot(columns - np.float32(x), rows - np.float32(y))
    floor = away < radius * _FLOOR_SHARE
    if floor.sum() < 50:
        return Circle(well.x_px, well.y_px, 0.6 * well.radius_px), 0.0
    glare = (level > _GLARE * np.median(level[floor])) & (away > 0.7 * radius)
    floor &= cv2.dilate(glare.astype(np.uint8), np.ones((3, 3), np.uint8)) == 0
    low, high = (float(v) for v in np.percentile(texture[floor], (12, 92)))
    low = min(low, 0.5 * high)  # a blastocyst that fills the well leaves no floor to compare with
    excess = (np.clip((texture - low) / max(high - low, 1e-4), 0, 1) - np.float32(_LEVEL)) * floor.astype(np.float32)
    rough = cv2.resize(excess, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    best = (-np.inf, x, y, 0.6 * radius)
    for share in _EMBRYO_RADII:
        r = float(share * radius)
        held = cv2.filter2D(rough, cv2.CV_32F, _disc(round(r)), borderType=cv2.BORDER_CONSTANT)
        held[away[: 2 * rough.shape[0] : 2, : 2 * rough.shape[1] : 2] > max(radius * 1.02 - r, 2.0)] = -np.inf
        row, column = np.unravel_index(int(held.argmax()), held.shape)
        if held[row, column] > best[0]:
            best = (float(held[row, column]), 2.0 * column + 0.5, 2.0 * row + 0.5, r)
    return _settled(texture, excess, floor, best, Circle(x, y, radius))


def _settled(
    texture: _Image, excess: _Image, floor: npt.NDArray[np.bool_], best: tuple[float, float, float, float], well: Circle
) -> tuple[Circle, float]:
    """The disc moved to the middle of the texture it holds, in the working frame's pixels; and the confidence."""
    _, x, y, r = best
    columns = np.arange(texture.shape[1], dtype=np.float32)[None, :]
    rows = np.arange(texture.shape[0], dtype=np.float32)[:, None]
    mass = np.maximum(excess + np.float32(0.1), 0)
    for _ in range(3):
        near = mass * ((columns - x) ** 2 + (rows - y) ** 2 < (1.1 * r) ** 2)
        total = float(near.sum()) + 1e-6
        x, y = float((near * columns).sum()) / total, float((near * rows).sum()) / total
    x, y = _kept_in(x, y, r, well)
    held = ((columns - x) ** 2 + (rows - y) ** 2 < r * r) & floor
    emptiest = float(np.percentile(texture[floor], 5)) ** 2
    inside = float(np.square(texture[held]).mean()) if held.any() else emptiest
    stands_out = (inside - emptiest) / (0.5 * inside + 1e-6)  # a camera's noise is alike everywhere
    enough = (inside - _BARE_TEXTURE) / (_EMBRYO_TEXTURE - _BARE_TEXTURE)
    confidence = float(np.clip(stands_out, 0, 1) * np.clip(enough, 0, 1))
    return Circle((x + 0.5) * _COARSE - 0.5, (y + 0.5) * _COARSE - 0.5, r * _COARSE), confidence


def _kept_in(x: float, y: float, radius: float, well: Circle) -> tuple[float, float]:
    """The centre of a disc moved so that the disc stays in the well; nothing but rounding may stand out."""
    away, most = float(np.hypot(x - well.x_px, y - well.y_px)), max(1.02 * well.radius_px - radius, 0.0)
    if away <= most:
        return x, y
    return well.x_px + (x - well.x_px) * most / away, well.y_px + (y - well.y_px) * most / away


def _texture(work: _Image) -> tuple[_Image, _Image]:
    """(H, W) -> twice (H / 4, W / 4): root of the fine contrast relative to the brightness, capped; the brightness."""
    size = (work.shape[1] // _COARSE, work.shape[0] // _COARSE)
    level = cv2.GaussianBlur(cv2.resize(work, size, interpolation=cv2.INTER_AREA), (0, 0), 1.0) + np.float32(8)
    fine = cv2.absdiff(cv2.GaussianBlur(work, (5, 5), 0.8), cv2.GaussianBlur(work, (13, 13), 2.4))
    most = cv2.resize(level * np.float32(0.1), (work.shape[1], work.shape[0]), interpolation=cv2.INTER_LINEAR)
    coarse = cv2.resize(cv2.min(fine, most), size, interpolation=cv2.INTER_AREA) / level
    return np.sqrt(np.asarray(cv2.GaussianBlur(coarse, (0, 0), 1.5), dtype=np.float32)), level


@lru_cache(maxsize=128)
def _disc(width_px: int) -> _Image:
    """A filled circle of 1s, `width_px` across."""
    n = width_px // 2 + 1
    across = np.arange(-n, n + 1, dtype=np.float32)
    return (np.hypot(across[None], across[:, None]) <= width_px / 2).astype(np.float32)
