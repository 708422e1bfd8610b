"""Drawn crops with the texture of other pictures: what the drawing's surface looks like is to tell the encoder little.

Does: blends the amplitude spectrum of a crop with that of a generated picture, its phases kept (what is where stays,
how it is textured does not); makes bands of scales stronger or weaker; lights one side more. Refuses to know: labels,
which pictures, networks.

Axes: P planes, H and W pixels; a spectrum is that of a real transform, (H, W / 2 + 1).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from training.sim2real.augment import standardised

Image = npt.NDArray[np.float32]

_BANDS = 6  # of scales, evenly spaced in the logarithm of the frequency
_LEAST = 1e-3  # of an amplitude: nothing is divided by less


@dataclass(frozen=True)
class Restyling:
    """Shares of frames and the sizes up to which they change: `blended` with a generated picture's spectrum by as much
    as `most_blended`; `banded` by a factor of exp(`band`) for one deviation; `lit` by a slope of `light` deviations."""

    blended: float = 0.5
    most_blended: float = 0.8
    banded: float = 0.5
    band: float = 0.3
    lit: float = 0.5
    light: float = 0.6


class Restyler:
    """Changes standardised crops; `pictures` (N, H, W) are those whose spectra are borrowed, none: no blending."""

    def __init__(self, pictures: Image, how: Restyling | None = None) -> None:
        self._how = how or Restyling()
        self._amplitudes = np.abs(np.fft.rfft2(pictures)).astype(np.float32) if len(pictures) else None

    def __call__(self, planes: Image, rng: np.random.Generator) -> Image:
        """(P, H, W) -> the same, standardised anew; every plane is changed alike."""
        how, (_, height, width) = self._how, planes.shape
        blended, banded, lit = rng.random(3) < (how.blended, how.banded, how.lit)
        if (blended and self._amplitudes is not None) or banded:
            spectrum = np.fft.rfft2(planes)
            gain = np.ones(spectrum.shape, np.float32)
            if blended and self._amplitudes is not None:
                own = np.maximum(np.abs(spectrum), _LEAST)
                other = self._amplitudes[int(rng.integers(len(self._amplitudes)))]
                share = float(rng.uniform(0, how.most_blended))
                gain = (1 - share) + share * other / own
            if banded:
                gain = gain * _band_gain(height, width, rng.normal(0, how.band, _BANDS))
            planes = np.fft.irfft2(spectrum * gain, s=(height, width))
        if lit:
            y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
            slope = rng.normal(0, how.light / 2, 2)
            planes = planes + slope[0] * y + slope[1] * x
        gray = np.asarray(planes * 50.0, np.float32)  # standardising has a floor of 2 gray levels
        return standardised(gray)


def _band_gain(height: int, width: int, logarithms: npt.NDArray[np.float64]) -> Image:
    """(H, W / 2 + 1): a factor for each scale, smooth between the bands; the mean level keeps its own."""
    radius = np.hypot(np.fft.fftfreq(height)[:, None] * height, np.fft.rfftfreq(width)[None, :] * width)
    at = np.log(np.maximum(radius, 1.0))
    return np.exp(np.interp(at, np.linspace(0, np.log(height / 2), len(logarithms)), logarithms)).astype(np.float32)
