"""What a network of day 5 sees of seven planes: three channels of them, varied for training.

Does: picks or fuses planes, turns, scales, mirrors and lights a square together with its labels. Refuses to know:
files, networks.

Axes: P planes in ascending um, H, W. Three channels because the public networks have three, and an inner cell mass
often lies 30 um above or below the rim.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from engines.day5 import Labels, Part
from engines.preprocess import nearest_plane_um
from engines.square import Gray

Image = npt.NDArray[np.float32]

CHANNELS_UM = (-30, 0, 30)
LOOKS = ("three", "best", "mean", "sharpest")

RELIEF = (np.log(0.7), np.log(2.2))  # of a training picture's fine contrast
GAIN = (np.log(0.75), np.log(1.9))


def shown(planes: Gray, planes_um: tuple[int, ...], look: str, best: int = 0) -> Gray:
    """(P, H, W) -> (3, H, W): "three" planes, or one picture three times: the "best"-focused plane (index `best`), the
    "mean" of all, or at each pixel the "sharpest". ValueError for another word."""
    if look == "three":
        return planes[[planes_um.index(nearest_plane_um(um, planes_um)) for um in CHANNELS_UM]]
    if look == "best":
        one = planes[best]
    elif look == "mean":
        one = np.round(planes.mean(0)).astype(np.uint8)
    elif look == "sharpest":
        one = sharpest(planes)
    else:
        raise ValueError(f"a look is one of {', '.join(LOOKS)}, not {look!r}")
    return np.repeat(one[None], len(CHANNELS_UM), 0)


def contrast(plane: Gray) -> Image:
    """(H, W): fine contrast around each pixel, what a sharp picture has more of."""
    gray = plane.astype(np.float32)
    fine = cv2.absdiff(cv2.GaussianBlur(gray, (0, 0), 0.8), cv2.GaussianBlur(gray, (0, 0), 2.4))
    return np.asarray(cv2.GaussianBlur(fine, (0, 0), 4.0), dtype=np.float32)


def sharpest(planes: Gray) -> Gray:
    """(P, H, W) -> (H, W): planes weighed at each pixel by the fourth power of their fine contrast; no seams."""
    weights = np.stack([contrast(plane) for plane in planes]) ** 4 + 1e-6
    return np.asarray(np.round((planes * weights).sum(0) / weights.sum(0)), dtype=np.uint8)


@dataclass(frozen=True)
class Varied:
    """How far a training picture may be changed. Scale and turn of I2CNet, section 4.1: .5 to 2 and +-15 degrees."""

    scale: tuple[float, float] = (0.5, 2.0)
    turn_deg: float = 15.0
    shift: float = 0.08  # of the side; the crop of a scaled picture lies anywhere, but the embryo stays in view
    light: bool = True
    shear: float = 0.0  # of Lockhart's slides, which give no numbers
    quarter_turns: bool = False


def varied(channels: Gray, labels: Labels, rng: np.random.Generator, how: Varied, side_px: int) -> tuple[Image, Labels]:
    """(3, H, W) and (H, W) -> (3, side_px, side_px) gray / 255 and (side_px, side_px), changed alike.

    Beyond the square the edge is repeated; there the labels say background.
    """
    back = _place(channels.shape[-1], rng, how, side_px)
    size, flags = (side_px, side_px), cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    moved = [cv2.warpAffine(one, back, size, flags=flags, borderMode=cv2.BORDER_REPLICATE) for one in channels]
    nearest = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
    parts = cv2.warpAffine(labels, back, size, flags=nearest, borderValue=int(Part.BACKGROUND))
    image = np.stack(moved).astype(np.float32) / np.float32(255)
    return (_lit(image, rng) if how.light else image), np.asarray(parts, dtype=np.uint8)


def _place(side: int, rng: np.random.Generator, how: Varied, side_px: int) -> npt.NDArray[np.float64]:
    """(2, 3) from the new pixels to the old ones."""
    scale = np.exp(rng.uniform(np.log(how.scale[0]), np.log(how.scale[1])))
    turn = np.deg2rad(rng.uniform(-how.turn_deg, how.turn_deg))
    if how.quarter_turns:
        turn += np.pi / 2 * int(rng.integers(4))
    step = side / (side_px * scale)
    mirror = -1.0 if rng.random() < 0.5 else 1.0
    room = how.shift + max(1 - 1 / scale, 0.0) / 4  # a magnified picture is cropped somewhere near its middle
    shift = rng.uniform(-room, room, 2) * side
    cosine, sine = np.cos(turn) * step, np.sin(turn) * step
    matrix = np.array([[mirror * cosine, -sine], [mirror * sine, cosine]])
    matrix = matrix @ np.array([[1.0, rng.uniform(-how.shear, how.shear)], [0.0, 1.0]])
    to_middle = (side - 1) / 2 + shift - matrix @ np.full(2, (side_px - 1) / 2)
    return np.column_stack([matrix, to_middle])


def _lit(image: Image, rng: np.random.Generator) -> Image:
    """Other light, relief, sharpness and camera, the same for all channels but for the grain.

    The ranges hold what the real blastocysts to tune on show beside drawn ones: half as much contrast again, in a
    brighter middle.
    """
    far = rng.random()  # 0 to 1: as drawn, to as far as it goes
    image = _relief(np.clip(image, 0, 1), float(np.exp(far * rng.uniform(*RELIEF))))
    gamma, gain = np.float32(np.exp(far * rng.normal(0, 0.3))), np.float32(np.exp(far * rng.uniform(*GAIN)))
    lamp = _lamp(image.shape[-1], far, rng)
    image = np.clip(image, 0, 1) ** gamma * gain * lamp + np.float32(far * rng.normal(0, 0.05))
    soft, grain = far * rng.uniform(0.3, 1.8) * (rng.random() < 0.4), far * rng.uniform(0, 0.06) * (rng.random() < 0.5)
    if soft > 0.2:
        image = np.stack([cv2.GaussianBlur(one, (0, 0), float(soft)) for one in image])
    if grain:
        image = image + _grain(image.shape, rng) * np.float32(grain)
    return np.asarray(np.clip(image, 0, 1), dtype=np.float32)


def _relief(image: Image, times: float) -> Image:
    """(C, H, W): what is finer than a cell stands out `times` as much against its surroundings."""
    small = [cv2.resize(one, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA) for one in image]
    around = np.stack([_enlarged(np.asarray(one, np.float32), image.shape[1:]) for one in small])
    return np.asarray(around + (image - around) * np.float32(times), dtype=np.float32)


def _enlarged(small: Image, shape: tuple[int, ...]) -> Image:
    """A quarter of the size, softened by 3 of its pixels, at full size again."""
    soft = cv2.GaussianBlur(small, (0, 0), 3.0)
    return np.asarray(cv2.resize(soft, shape[::-1], interpolation=cv2.INTER_LINEAR), dtype=np.float32)


def _lamp(side_px: int, far: float, rng: np.random.Generator) -> Image:
    """(side, side): brightness that falls off to one side, now and then with a dark rim as of a well's edge."""
    down, across = np.meshgrid(*[np.linspace(-1, 1, side_px, dtype=np.float32)] * 2, indexing="ij")
    turn, slope = rng.uniform(0, 2 * np.pi), far * rng.uniform(0, 0.4)
    lamp = 1 + np.float32(slope * np.cos(turn)) * across + np.float32(slope * np.sin(turn)) * down
    if rng.random() < 0.6 * far:
        x, y, reach, width = *rng.uniform(-0.4, 0.4, 2), rng.uniform(0.9, 1.5), rng.uniform(0.05, 0.3)
        beyond = (np.hypot(across - np.float32(x), down - np.float32(y)) - np.float32(reach)) / np.float32(width)
        lamp *= 1 - np.float32(rng.uniform(0.3, 1.0)) * np.clip(beyond, 0, 1)
    return np.asarray(lamp, dtype=np.float32)


def _grain(shape: tuple[int, ...], rng: np.random.Generator) -> Image:
    """Noise of deviation 1, of single pixels or of specks of a few (a compressed picture's)."""
    noise = rng.standard_normal(shape, dtype=np.float32)
    if rng.random() < 0.5:
        noise = np.stack([cv2.GaussianBlur(one, (0, 0), 1.0) for one in noise])
        noise /= max(float(noise.std()), 1e-6)
    return np.asarray(noise, dtype=np.float32)


def one_or_three(planes: Gray, planes_um: tuple[int, ...], rng: np.random.Generator, one_share: float = 0.5) -> Gray:
    """(P, H, W) -> (3, H, W): the three planes, or, as where only one was recorded, any one near the focus thrice."""
    if rng.random() >= one_share:
        return shown(planes, planes_um, "three")
    near = [i for i, um in enumerate(planes_um) if abs(um) <= CHANNELS_UM[-1]]
    return planes[[int(rng.choice(near or range(len(planes))))] * len(CHANNELS_UM)]
