"""Is this picture fit to judge: dark, overexposed, blank well, blur, a lack of planes; and the numbers it rests on.

It measures pixels; it knows no engine, no history and no other embryo, so that a reading never depends on one.
Seven planes of 500 x 500 px take 3.3 ms on one core, as much as the mean and deviation of every pixel did; of
1,000 x 1,000 px 5.9 ms.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from monitor.skew import clock_is_ahead
from monitor.vocabulary import FocalStack, Gray, Measured, Observation, PlaneImage

SIDE_PX = 125  # every picture is first brought to this size: 500, 1,000 and 2,000 px are whole multiples (fast)
TILE_PX = 5  # detail is averaged over tiles of this side
INTERIOR = 0.34  # radius of the disc that is looked at, in sides; the wall, and all burnt-in text, lie outside
LEAST_DETAIL_GRAY = 0.01  # below it lies what rounding leaves of a flat picture
TILE_SHARE = 80  # percentile over the tiles: an embryo fills a third of the disc, a wall or a speck of dirt less

_Image = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Limits:
    """Beyond these a picture is not judged. Set on pictures, never from a textbook; a lab may set its own.

    Measured, least to most, each picture by itself:
      715 public EmbryoScope frames  mean_gray 48.8 to 68.0    contrast_ratio .063 to .146   sharpness 1.08 to 1.82
      10 STORK stacks of 7 planes    mean_gray 103.0 to 145.5  contrast_ratio .087 to .129   sharpness 1.21 to 1.75
      each of their 70 planes        mean_gray 103.0 to 146.5  contrast_ratio .076 to .143   sharpness .83 to 1.75
      300 generated stagegen         mean_gray 34.0 to 156.0   contrast_ratio .042 to .162   sharpness .99 to 1.98
      1,880 virtual stacks           mean_gray 43.6 to 142.6   contrast_ratio .044 to .190   sharpness 1.05 to 2.49
    The least real frame is 3.0 (mean_gray), 2.4 (contrast_ratio) and 1.6 (sharpness; 1.2 for a lone plane 45 um off)
    times its limit; the brightest is a third below `mean_gray_most`. All the pictures were in view when this was set.

    Every sixth of them made worse (tests/degraded.py, 182 pictures), and what became of it:
      embryo taken out               all `blank` (contrast_ratio at most .016); no picture of an empty well is at hand
      Gaussian blur, sigma of a picture 500 px wide: 2 px all fit; 4 px 21 % and 5 px 89 % `blurred`; from 6 px all
                                     unfit; from 10 px mostly `blank` too, at 16 px `blank` and mostly nothing else
      darkened to a half             all fit; to a quarter 42 % `dark`, to a tenth all
      overexposed six times          all `bright`; without that word they would be `blank`
    """

    mean_gray: float = 16.0
    mean_gray_most: float = 220.0
    contrast_ratio: float = 0.026  # contrast_gray per mean_gray
    sharpness: float = 0.68


@dataclass(frozen=True)
class Plane:
    """One plane's numbers, from the interior disc. `fine_gray`, `middle_gray`: detail of about 1 and 2 standard pixels.

    One standard pixel is 1/125 of the picture's side: 2.2 um where the field is 280 um wide.
    """

    mean_gray: float
    fine_gray: float
    middle_gray: float

    @property
    def sharpness(self) -> float:
        """Fine detail per middle detail: the same in any light and at any contrast; 0 where there is no detail."""
        return self.fine_gray / self.middle_gray if self.middle_gray >= LEAST_DETAIL_GRAY else 0.0


def measure_plane(gray: Gray) -> Plane:
    """The numbers of one plane (H, W) uint8. A picture that is not square is cut to its middle square."""
    small = _standard(gray)
    soft = np.asarray(cv2.GaussianBlur(small, (0, 0), 1.0), dtype=np.float32)
    softer = np.asarray(cv2.GaussianBlur(soft, (0, 0), 3**0.5), dtype=np.float32)  # together a blur of 2
    tiles = max(1, len(small) // TILE_PX)
    inside = _interior(tiles)

    def per_tile(image: _Image) -> _Image:
        averaged = np.asarray(cv2.resize(image, (tiles, tiles), interpolation=cv2.INTER_AREA), dtype=np.float32)
        return averaged[inside]

    def detail(band: _Image) -> float:
        return float(np.sqrt(np.percentile(per_tile(np.square(band)), TILE_SHARE)))

    return Plane(float(per_tile(small).mean()), detail(small - soft), detail(soft - softer))


def _standard(gray: Gray) -> _Image:
    """(S, S) float32, S = 125 or the picture's own side where that is less: a small picture is never enlarged."""
    height, width = gray.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = gray[top : top + side, left : left + side]
    if side <= SIDE_PX:
        return square.astype(np.float32)
    whole = side // (2 * SIDE_PX)
    if whole > 1 and side % SIDE_PX:  # by a whole number first, which is four times as fast
        to = side // whole
        square = _area(square[: to * whole, : to * whole], to)
    return _area(square, SIDE_PX).astype(np.float32)


def _area(square: Gray, side_px: int) -> Gray:
    return np.asarray(cv2.resize(square, (side_px, side_px), interpolation=cv2.INTER_AREA), dtype=np.uint8)


@lru_cache(maxsize=8)
def _interior(tiles: int) -> npt.NDArray[np.bool_]:
    """(tiles, tiles): whether the middle of a tile lies in the disc."""
    axis = np.arange(tiles) - (tiles - 1) / 2
    return np.asarray(np.hypot(axis[:, None], axis[None, :]) < INTERIOR * max(tiles, 3))


def sharpest_of(images: tuple[PlaneImage, ...]) -> Measured | None:
    """What the plane with most fine detail shows (of equal ones the brightest); None where there is no plane.

    All numbers are of this one plane, so that a lamp that missed one plane darkens nothing.
    """
    if not images:
        return None
    planes = [(measure_plane(image.gray), image.source.plane_um) for image in images]
    plane, plane_um = max(planes, key=lambda pair: (pair[0].fine_gray, pair[0].mean_gray, -pair[1]))
    return Measured(
        mean_gray=round(plane.mean_gray, 2),
        contrast_gray=round(plane.middle_gray, 3),
        sharpness=round(plane.sharpness, 3),
        sharpest_plane_um=plane_um,
    )


def unfit_for(measured: Measured, limits: Limits) -> list[str]:
    """Why a picture with these numbers is not judged: `dark`, `bright`, `blank`, `blurred`; empty where it is.

    It is decided on the rounded numbers, so that a reading's own numbers explain its flags.
    """
    flags: list[str] = []
    if measured.mean_gray < limits.mean_gray:
        flags.append("dark")
    elif measured.mean_gray > limits.mean_gray_most:
        flags.append("bright")
    if flags:
        return flags
    if measured.contrast_gray < limits.contrast_ratio * measured.mean_gray:
        flags.append("blank")
    if 0 < measured.sharpness < limits.sharpness:
        flags.append("blurred")
    return flags


def observe(
    stack: FocalStack, limits: Limits = Limits(), clock_skew_s: float = 0.0, least_side_px: int = 0
) -> Observation:
    """Judge the pictures themselves, and the frame's clock against its files.

    Flags: `dark`, `bright`, `blank`, `blurred` (unfit), `lacking` (unfit), `too_small` (unfit; below `least_side_px`,
    where an embryo could not be located), `missing_planes`, `broken_planes`, `clock_ahead`.
    """
    flags = []
    if stack.missing_um:
        flags.append("missing_planes")
    if stack.broken:
        flags.append("broken_planes")
    if stack.lacking:
        flags.append("lacking")
    if clock_is_ahead(stack, clock_skew_s):
        flags.append("clock_ahead")
    measured = sharpest_of(stack.images)
    unfit = [] if measured is None else unfit_for(measured, limits)
    if any(min(image.gray.shape) < least_side_px for image in stack.images):
        unfit.append("too_small")
    return Observation(
        stack=stack, fit=not stack.lacking and not unfit, flags=tuple(sorted(flags + unfit)), measured=measured
    )
