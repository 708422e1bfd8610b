"""When a virtual embryo is looked at: a frame clock as a word of the command line, and its hours for one seed.

It knows hours only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

SEGMENT_H = 6.0  # AMSNet, section 4.1
LAST_H = 126.0
_FORMS = "hourly, every:STEP_H[:FIRST_H[:LAST_H]], segments:FRAMES[:LAST_H] or stream:STEP_MIN:FROM_H:TO_H[:LAST_H]"


@dataclass(frozen=True)
class Clock:
    """`kind` "every": a frame each `step_h` hours from `first_h` to `last_h` post insemination, the same for all seeds.

    "segments": the first frame 1 to 5 h post insemination, then 6-hour segments counted from it with `frames` random
    moments each, as long as they begin before `last_h`; the very first frame opens segment 0, as in use.

    "stream": an incubator's frames, one each `step_h` hours from the first 1 to 5 h post insemination; but only those
    from `from_h` to `to_h`, and of all others the first of each 6-hour segment. These are all that a memory that is
    committed once a segment ever holds, so what is left out changes no later answer.
    """

    kind: str
    step_h: float = 1.0
    frames: int = 1
    first_h: float = 1.0
    last_h: float = LAST_H
    from_h: float = 0.0
    to_h: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in ("every", "segments", "stream"):
            raise ValueError(f"a clock is {_FORMS}, not {self.kind!r}")
        if not (0 <= self.from_h <= self.to_h <= 1000):
            raise ValueError(f"a clock of {self}: the window ends before it begins")
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
            if kind == "stream" and 3 <= len(values) <= 4:
                minutes, from_h, to_h = values[:3]
                last_h = values[3] if values[3:] else LAST_H
                return cls("stream", step_h=minutes / 60, last_h=last_h, from_h=from_h, to_h=to_h)
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
        if self.kind == "stream":
            return self._streamed_h(round(3600 * start_h))
        segments = max(int(np.ceil((self.last_h - start_h) / SEGMENT_H)), 1)
        within = np.sort(rng.uniform(0.0, 1.0, (segments, self.frames)), axis=1)
        within[0, 0] = 0.0
        # whole seconds, rounded down: no moment slips into the next segment
        return np.floor(3600 * (start_h + SEGMENT_H * (np.arange(segments)[:, None] + within)).ravel()) / 3600

    def _streamed_h(self, start_s: int) -> npt.NDArray[np.float64]:
        step_s, segment_s = round(3600 * self.step_h), round(3600 * SEGMENT_H)
        frames_s = np.arange(start_s, round(3600 * self.last_h), step_s)
        segment = (frames_s - start_s) // segment_s
        opens = np.concatenate([[True], np.diff(segment) > 0])
        seen = (frames_s >= 3600 * self.from_h) & (frames_s < 3600 * self.to_h)
        return frames_s[opens | seen] / 3600
