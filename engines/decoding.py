"""From posteriors, frame by frame, to a live label, a revised label, onsets with their uncertainty, and steps back.

Phases are numbers 0 to K-1 in the order of development. Four things are kept, and none grows with the frames seen:
the live label (causal, with hysteresis); the likeliest path that never steps back (Viterbi), which its K onsets
describe completely, so that no back pointers are needed; the first two moments of every onset over all such paths,
weighed by their likelihood (the forward algorithm), which give each onset its uncertainty; and how long the raw
posterior has stood below a cell count that was reached. It knows numbers and hours; no engine, embryo or clock.

Axes: K phases. In (K, K) arrays the row is the phase a path is in now, the column the phase whose onset is meant.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from engines.contract import Array, EngineError

Floats = npt.NDArray[np.float64]

NONE = -1
_LEAST_ELAPSED_H = 0.02  # two frames of one moment still may lie on either side of a division
_FLOOR = 1e-4  # of a probability: a network that is sure of nonsense for a frame does not forbid a path for good


@dataclass(frozen=True)
class DecodingRules:
    """What decoding goes by; stands in a model's manifest.

    `evidence`: weight of a frame's log posterior (below 1, since neighbouring frames err alike). How phases follow:
    `dwell_h`, the mean hours spent in each, and `passed_over`, the share of embryos that pass it without being seen in
    it; K values each, so that a path costs the same at any interval between frames. Where they are not given:
    `advance`, `skip`, log odds paid for going on to the next phase, and for each phase left out. Live: another label
    takes over at once when it leads by `margin`, else when it was the likeliest for `hold` frames. Steps back: looked
    for among the phases `counts` (first, last: those that count cells); at least `fallen` of the posterior below the
    settled count, for `fallen_frames`. A count is settled after `settled_frames`.
    """

    classes: tuple[str, ...]
    evidence: float = 0.3
    advance: float = -3.0
    skip: float = -1.0
    dwell_h: tuple[float, ...] = ()
    passed_over: tuple[float, ...] = ()
    margin: float = 0.2
    hold: int = 3
    counts: tuple[int, int] = (3, 10)
    fallen: float = 0.7
    fallen_frames: int = 4
    settled_frames: int = 4

    def __post_init__(self) -> None:
        """Raises EngineError for numbers that do not fit the phases."""
        size = len(self.classes)
        if (len(self.dwell_h), len(self.passed_over)) not in ((0, 0), (size, size)):
            raise EngineError(f"dwell_h and passed_over go together and have {size} values each, or are not given")
        if not (all(hours > 0 for hours in self.dwell_h) and all(0 <= share < 1 for share in self.passed_over)):
            raise EngineError("dwell_h must be above 0, passed_over at least 0 and below 1")

    def log_transitions(self, elapsed_h: float) -> Floats:
        """(K, K) from row to column, `elapsed_h` after the frame before: to stay, to go on, impossible to step back."""
        size = len(self.classes)
        ahead = np.arange(size)[None, :] - np.arange(size)[:, None]
        if not self.dwell_h:
            price = self.advance + self.skip * (ahead - 1)
            return np.where(ahead == 0, 0.0, np.where(ahead > 0, price, -np.inf))
        share = max(elapsed_h, _LEAST_ELAPSED_H) / np.array(self.dwell_h)[:, None]
        over = np.log(np.maximum(self.passed_over, _FLOOR))
        before = np.concatenate([[0.0], np.cumsum(over)])  # of all phases below a number
        seen = np.log1p(-np.array([*self.passed_over[:-1], 0.0]))  # the last one is passed by nobody
        leaving = np.log(-np.expm1(-share))
        going = leaving + before[None, :-1] - before[1:, None] + seen[None, :]
        share[-1] = 0.0  # nobody leaves the last one
        return np.where(ahead == 0, -share, np.where(ahead > 0, going, -np.inf))


@dataclass(frozen=True, eq=False)
class Track:
    """What is kept of one embryo's posteriors. Hours are counted from its first frame.

    `last` (4,): the last frame's hour, the live label, the challenger, for how many frames it has led.
    `counted` (3,): the settled cell-count phase, for how many frames a higher one has stood, and the posterior below.
    `best` (K,), `began` (K,), `onsets_h` (K, K): score, first phase and onsets of the likeliest path into each phase
    (NaN: not passed, or begun before the first frame). `alpha` (K,): log weight of all paths into each phase.
    `reached`, `first`, `second` (K, K): share of these paths that passed a phase after the first frame, and the sums of
    its onset and of its square.
    """

    last: Floats
    counted: Floats
    best: Floats
    began: Floats
    onsets_h: Floats
    alpha: Floats
    reached: Floats
    first: Floats
    second: Floats

    def arrays(self) -> dict[str, Array]:
        """By name, to be saved."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True)
class Decoded:
    """What is said after a frame: phases by number, hours since the first frame.

    Of the revised path: where it stands now, the phase of the first frame (`began`, which has no onset), its onsets.
    `fallen_back`: the raw posterior stands below the cell count that was reached (reverse cleavage, or an error).
    """

    live: int
    revised: int
    began: int
    onsets_h: dict[int, float]
    onsets_sd_h: dict[int, float]
    fallen_back: bool


class Decoder:
    """Takes posteriors one by one. A track is a value: `advance` gives a new one."""

    def __init__(self, rules: DecodingRules) -> None:
        self._rules = rules
        self._size = len(rules.classes)

    def start(self) -> Track:
        size = self._size
        square = np.zeros((size, size))
        return Track(
            last=np.array([0.0, NONE, NONE, 0.0]),
            counted=np.array([float(NONE), 0.0, 0.0]),
            best=np.full(size, -np.inf),
            began=np.arange(size, dtype=np.float64),
            onsets_h=np.full((size, size), np.nan),
            alpha=np.full(size, -np.inf),
            reached=square,
            first=square,
            second=square,
        )

    def restore(self, arrays: Mapping[str, Array]) -> Track:
        """The inverse of `Track.arrays`. Raises EngineError when something is missing or of another size."""
        start = self.start().arrays()
        for name, own in start.items():
            kept = arrays.get(name)
            if kept is None or kept.shape != own.shape or kept.dtype != np.float64:
                raise EngineError(f"a saved track's {name} is not float64 {own.shape}")
        return Track(**{name: arrays[name] for name in start})

    def advance(self, track: Track, probabilities: Array, hour_h: float | None) -> tuple[Track, Decoded]:
        """One frame: probabilities (K,), hours since the first frame (None: not known, the last frame's stands).

        Raises EngineError for probabilities that are none, and for an hour before the last one.
        """
        p = np.asarray(probabilities, np.float64)
        if p.shape != (self._size,) or not np.isfinite(p).all() or p.min() < -1e-6 or abs(p.sum() - 1) > 1e-3:
            raise EngineError(f"{p} are no probabilities of {self._size} phases")
        before_h = float(track.last[0])
        now_h = before_h if hour_h is None else float(hour_h)
        if not (math.isfinite(now_h) and now_h >= before_h):
            raise EngineError(f"hour {now_h} comes before the last frame's, {before_h}")
        evidence = self._rules.evidence * np.log(np.maximum(p, _FLOOR))
        first_frame = bool(np.isneginf(track.best).all())
        onward = self._rules.log_transitions(now_h - before_h)
        likeliest = self._likeliest(track, evidence, onward, now_h, first_frame)
        weighed = self._weighed(track, evidence, onward, now_h, now_h - before_h, first_frame)
        last = self._live(track.last, p, now_h)
        counted = self._counted(track.counted, p)
        after = Track(last, counted, *likeliest, *weighed)
        return after, self._decoded(after)

    def _likeliest(
        self, track: Track, evidence: Floats, onward: Floats, now_h: float, first_frame: bool
    ) -> tuple[Floats, Floats, Floats]:
        if first_frame:
            return evidence, track.began, track.onsets_h
        scores = track.best[:, None] + onward  # from, to
        came_from = scores.argmax(axis=0)
        best = scores.max(axis=0) + evidence
        onsets_h = track.onsets_h[came_from].copy()
        entered = np.flatnonzero(came_from != np.arange(self._size))
        onsets_h[entered, entered] = now_h
        return best - best.max(), track.began[came_from], onsets_h

    def _weighed(
        self, track: Track, evidence: Floats, onward: Floats, now_h: float, elapsed_h: float, first_frame: bool
    ) -> tuple[Floats, Floats, Floats, Floats]:
        if first_frame:
            return evidence, track.reached, track.first, track.second
        paths = track.alpha[:, None] + onward
        most = paths.max(axis=0)
        weights = np.exp(paths - most)
        total = weights.sum(axis=0)
        alpha = most + np.log(total) + evidence
        share = weights / total  # of the paths into a column, from each row
        entering = 1.0 - np.diag(share)
        reached, first, second = (share.T @ array for array in (track.reached, track.first, track.second))
        diagonal = np.arange(self._size)
        reached[diagonal, diagonal] += entering
        first[diagonal, diagonal] += entering * now_h
        # it began somewhere between the last frame and this one: a uniform's variance
        second[diagonal, diagonal] += entering * (now_h**2 + elapsed_h**2 / 12)
        return alpha - alpha.max(), reached, first, second

    def _live(self, last: Floats, p: Floats, now_h: float) -> Floats:
        live, challenger, led = int(last[1]), int(last[2]), int(last[3])
        likeliest = int(p.argmax())
        if live == NONE or likeliest == live:
            return np.array([now_h, likeliest, likeliest, 0.0])
        led = led + 1 if likeliest == challenger else 1
        if p[likeliest] - p[live] >= self._rules.margin or led >= self._rules.hold:
            return np.array([now_h, likeliest, likeliest, 0.0])
        return np.array([now_h, live, likeliest, led])

    def _counted(self, counted: Floats, p: Floats) -> Floats:
        """A count is settled when it was the likeliest, with over half, for some frames; it only rises."""
        settled, stood, below = int(counted[0]), int(counted[1]), int(counted[2])
        low, high = self._rules.counts
        likeliest = int(p.argmax())
        if likeliest > high:  # compacted: cells are no longer counted
            return np.array([float(NONE), 0.0, 0.0])
        fallen = settled != NONE and p[low:settled].sum() >= self._rules.fallen
        stood = stood + 1 if likeliest >= low and likeliest > settled and p[likeliest] > 0.5 else 0
        if stood >= self._rules.settled_frames:
            return np.array([float(likeliest), 0.0, 0.0])
        return np.array([settled, stood, below + 1 if fallen else 0], dtype=np.float64)

    def _decoded(self, track: Track) -> Decoded:
        revised = int(track.best.argmax())
        weights = np.exp(track.alpha - track.alpha.max())
        weights /= weights.sum()
        reached, first, second = (weights @ array for array in (track.reached, track.first, track.second))
        onsets_h, sd_h = {}, {}
        for phase in np.flatnonzero(np.isfinite(track.onsets_h[revised])):
            onsets_h[int(phase)] = float(track.onsets_h[revised, phase])
            mean = first[phase] / max(reached[phase], 1e-12)
            variance = second[phase] / max(reached[phase], 1e-12) - mean**2
            # about the onset that is told, not about the mean
            variance += (mean - onsets_h[int(phase)]) ** 2
            sd_h[int(phase)] = float(math.sqrt(max(variance, 0.0)))
        fallen_back = int(track.counted[2]) >= self._rules.fallen_frames
        return Decoded(int(track.last[1]), revised, int(track.began[revised]), onsets_h, sd_h, fallen_back)
