"""What a drawn crop goes through on its way into the network, so that light, place and camera tell it nothing.

Does: cuts 112 px out of 128, mirrors, turns a little, shifts, scales, changes light and sharpness, adds noise and JPEG,
standardises. Refuses to know: labels, files, torch. The relief's direction means something, so turns stay small; only
whole mirrors are free, because a mirrored ring goes with a mirrored relief.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

Gray = npt.NDArray[np.uint8]
Image = npt.NDArray[np.float32]

INPUT_PX = 112
_CENTRE = slice(INPUT_PX // 5, INPUT_PX - INPUT_PX // 5)  # standardised by the embryo's light, not the ring's


def standardised(crop: Image) -> Image:
    """(C, 112, 112) gray -> mean 0, deviation 1 in the middle; the ring's glare is cut off."""
    middle = crop[:, _CENTRE, _CENTRE]
    level, spread = float(middle.mean()), float(middle.std())
    return np.asarray(np.clip((crop - level) / np.float32(max(spread, 2.0)), -5, 5), dtype=np.float32)


def plain(crop: Gray) -> Image:
    """(C, 128, 128) uint8 -> (C, 112, 112): the middle as it is."""
    edge = (crop.shape[-1] - INPUT_PX) // 2
    return standardised(crop[:, edge : edge + INPUT_PX, edge : edge + INPUT_PX].astype(np.float32))


def mirrored(crop: Gray) -> list[Image]:
    """The four mirror images, whose predictions are averaged when measuring."""
    turned = (crop, crop[:, :, ::-1], crop[:, ::-1], crop[:, ::-1, ::-1])
    return [plain(np.ascontiguousarray(one)) for one in turned]


def varied(crop: Gray, rng: np.random.Generator) -> Image:
    """(C, 128, 128) uint8 -> (C, 112, 112) float32, standardised; the same change for all planes but for the noise."""
    size = crop.shape[-1]
    back = cv2.getRotationMatrix2D(
        ((INPUT_PX - 1) / 2,) * 2, float(rng.normal(0, 7)), float(np.exp(rng.normal(0, 0.06)))
    )
    back[:, 2] += (size - INPUT_PX) / 2 + rng.normal(0, 4.0, 2)
    flip_x, flip_y = rng.random(2) < 0.5
    gamma, gain, offset = np.exp(rng.normal(0, 0.12)), np.exp(rng.normal(0, 0.2)), rng.normal(0, 12.0)
    soft, noise = rng.uniform(0.2, 1.1) * (rng.random() < 0.6), rng.uniform(0, 6.0) * (rng.random() < 0.6)
    quality = int(rng.integers(45, 95)) if rng.random() < 0.4 else 0
    planes = []
    for plane in crop:
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        cut = cv2.warpAffine(plane, back, (INPUT_PX, INPUT_PX), flags=flags, borderMode=cv2.BORDER_REPLICATE)
        cut = cut[:: -1 if flip_y else 1, :: -1 if flip_x else 1].astype(np.float32)
        cut = np.float32(255) * (cut / np.float32(255)) ** np.float32(gamma)
        cut = (cut - cut.mean()) * np.float32(gain) + cut.mean() + np.float32(offset)
        if soft:
            cut = cv2.GaussianBlur(cut, (0, 0), float(soft))
        if noise:
            cut = cut + rng.standard_normal(cut.shape, dtype=np.float32) * np.float32(noise)
        planes.append(_through_jpeg(cut, quality) if quality else cut)
    return standardised(np.stack(planes))


def _through_jpeg(image: Image, quality: int) -> Image:
    encoded = cv2.imencode(".jpg", np.clip(image, 0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return cv2.imdecode(encoded, cv2.IMREAD_GRAYSCALE).astype(np.float32)
