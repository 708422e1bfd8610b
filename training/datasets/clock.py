"""When a virtual embryo is looked at: a frame clock as a word of the command line, and its hours for one seed.

It knows hours only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

SEGMENT_H = 6.0  # AMSNet, section 4.1
LAST_H = 126.0
_FORMS = "hourly, every:STEP_H[:FIRST_H[:LAST_H]] or segments:FRAMES[:LAST_H]"


@dataclass(frozen=True)
class Clock:
    """`kind` "every": a frame each `step_h` hours from `first_h` to `last_h` post insemination, the same for all seeds.

    "segments": the first frame 1 to 5 h post insemination, then 6-hour segments counted from it with `frames` random
    moments each, as long as they begin before `last_h`; the very first frame opens segment 0, as in use.
    """

    kind: str
    step_h: float = 1.0
    frames: int = 1
    first_h: float = 1.0
    last_h: float = LAST_H

    def __post_init__(self) -> None:
        if self.kind not in ("every", "segments"):
            raise ValueError(f"a clock is {_FORMS}, not {self.kind!r}")
        if not (self.step_h >= 1 / 3600 and self.frames >= 1 and 0 <= self.first_h <= self.last_h < 1000):
            raise ValueError(f"a clock of {self}: steps and frames above 0, first hour not after the last")

    @classmethod
    def read(cls, text: str) -> Clock:
        """From `hourly`, `every:0.5:3:126`, `segments:3`. Raises ValueError."""
        kind, *numbers = text.split(":")
        try:
            values = [float(number) for number in numbers]
            if kind == "hourly" and not values:
                return cls("every")
            if kind == "every" and 1 <= len(values) <= 3:
                step_h, first_h, last_h = (*values, *(1.0, LAST_H)[len(values) - 1 :])
                return cls("every", step_h, 1, first_h, last_h)
            if kind == "segments" and 1 <= len(values) <= 2 and values[0].is_integer():
                return cls("segments", frames=int(values[0]), last_h=values[1] if values[1:] else LAST_H)
        except (TypeError, ValueError) as fault:
            raise ValueError(f"clock {text!r} is none: {_FORMS} ({fault})") from fault
        raise ValueError(f"clock {text!r} is none: {_FORMS}")

    def hours_h(self, seed: int) -> npt.NDArray[np.float64]:
        """(T,) ascending hours post insemination, in whole seconds."""
        if self.kind == "every":
            steps = int((self.last_h - self.first_h) / self.step_h + 1e-9)
            hours = self.first_h + self.step_h * np.arange(steps + 1)
            return np.asarray(np.round(hours * 3600) / 3600)
        rng = np.random.default_rng((seed, 0xA35))
        start_h = rng.uniform(1.0, 5.0)
        segments = max(int(np.ceil((self.last_h - start_h) / SEGMENT_H)), 1)
        within = np.sort(rng.uniform(0.0, 1.0, (segments, self.frames)), axis=1)
        within[0, 0] = 0.0
        # whole seconds, rounded down: no moment slips into the next segment
        return np.floor(3600 * (start_h + SEGMENT_H * (np.arange(segments)[:, None] + within)).ravel()) / 3600
