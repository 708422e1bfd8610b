"""The same embryos as a stream: the exported engine under the monitor's own segment rules, against the offline clip.

Does: runs every frame of a window through `engines.segments` (peek, keep, commit), and beside it the wrong cadence, in
which the memory is shifted at every frame. Before the window only the frames that open a segment are drawn: peeks leave
no trace in the memory, so every answer in the window is the answer of the whole stream. Refuses to know training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engines.load import Loaded
from engines.preprocess import to_tensor
from engines.segments import SegmentPolicy
from training.amsnet.answers import representatives
from training.amsnet.metrics import Bools, Estimate, Floats, accuracy, auc, auc_interval, bootstrap, share
from training.datasets.embryo import Embryo


@dataclass(frozen=True)
class Streamed:
    """One embryo's answers (T,): `right` under the segment rules, `wrong` with a shift at every frame of the window.

    `wrong` is NaN outside of the window. `clip` (R,): the offline answers on its representatives, `at` (R,) their
    indices. `end`: the window's last frame; `clip_end`: the offline answer when that frame stands for its segment. The
    memory is finite, so `wrong` has forgotten all before the window after as many frames as the network has shifted
    blocks.
    """

    hours_h: Floats
    right: Floats
    wrong: Floats
    clip: Floats
    at: list[int]
    end: int
    clip_end: float
    reaches: bool

    @property
    def worst(self) -> float:
        """Largest difference of stream and clip over the representatives."""
        return float(np.abs(self.right[self.at] - self.clip).max())


def clip_to(hours_h: Floats, t: int) -> list[int]:
    """The clip that a peek at frame `t` stands for: the representatives of the segments before, then the frame."""
    before = [index for index in representatives(hours_h) if index <= t]
    return [*before[:-1], t]


def stream(loaded: Loaded, embryo: Embryo, hours: bool = True) -> Floats:
    """(T,) probability of every frame, one after the other, as the monitor would have told."""
    assert loaded.manifest.segments is not None
    policy = SegmentPolicy(loaded.engine, loaded.manifest.segments, loaded.manifest.preprocess)
    memory, said = policy.start(), []
    for t, hour_h in enumerate(embryo.hours_h):
        elapsed_h, hpi = float(hour_h - embryo.hours_h[0]), float(hour_h) if hours and embryo.hours_known else None
        (memory,), (answer,) = policy.advance([memory], [embryo.stack(t)], [elapsed_h], [hpi])
        said.append(float(answer.outputs["y_blastocyst"][0]))
    return np.array(said)


def stepped(loaded: Loaded, embryo: Embryo, at: Sequence[int], hours: bool = True) -> Floats:
    """(len(at),) probabilities of these frames, every one of them shifted into the memory: the clip, by the graph."""
    state, said = loaded.engine.initial_state(), []
    asks_hours = any(tensor.name == "hours" for tensor in loaded.engine.spec.inputs)
    for t in at:
        inputs = {"x": to_tensor(embryo.stack(t)[None], loaded.manifest.preprocess)}
        if asks_hours:
            told = (embryo.hours_h[t], 1.0) if hours and embryo.hours_known else (0.0, 0.0)
            inputs["hours"] = np.array([told], np.float32)
        step = loaded.engine.step([state], inputs)
        state = step.states[0]
        said.append(float(step.outputs["y_blastocyst"][0, 0]))
    return np.array(said)


def shifted_at_every_frame(loaded: Loaded, embryo: Embryo, window_h: tuple[float, float], hours: bool = True) -> Floats:
    """(T,) with the memory shifted at every frame from the window's begin on; NaN outside of the window."""
    hours_h, said = embryo.hours_h, np.full(len(embryo.hours_h), np.nan)
    within = (hours_h >= window_h[0]) & (hours_h < window_h[1])
    opens = [t for t in representatives(hours_h) if hours_h[t] < window_h[0]]
    at = np.array([*opens, *np.nonzero(within)[0]], dtype=int)
    said[at] = stepped(loaded, embryo, at.tolist(), hours)
    said[~within] = np.nan
    return said


@dataclass(frozen=True)
class Cadences:
    """At the end of the window: clip, stream and the wrong cadence, judged on the same embryos."""

    window_h: tuple[float, float]
    embryos: int
    frames: int
    worst_on_representatives: float
    worst_at_end: float
    clip: Estimate
    stream: Estimate
    wrong: Estimate
    stream_less_clip: Estimate
    wrong_less_clip: Estimate
    accuracy_clip: Estimate
    accuracy_stream: float
    accuracy_wrong: float
    stream_moved: float
    wrong_moved: float

    @property
    def agrees(self) -> bool:
        """Stream and clip are equal to 1e-5 where both see the same frame, on representatives and elsewhere; and the
        stream's accuracy by its latest frame lies in the interval of the clip's by its latest representative.
        """
        same = max(self.worst_on_representatives, self.worst_at_end) <= 1e-5
        return same and self.accuracy_clip.low <= self.accuracy_stream <= self.accuracy_clip.high


def compare(streamed: Sequence[Streamed], window_h: tuple[float, float], rounds: int = 1000) -> Cadences:
    """`*_moved`: mean distance of an answer in the window from the clip's last one before it."""
    truth: Bools = np.array([one.reaches for one in streamed], dtype=bool)
    ends, moved = [], []
    for one in streamed:
        within = np.nonzero((one.hours_h >= window_h[0]) & (one.hours_h < window_h[1]))[0]
        before = np.searchsorted(one.at, within, side="right") - 1
        ends.append((one.clip[before[-1]], one.right[one.end], one.wrong[one.end]))
        moved.append([float(np.abs(line[within] - one.clip[before]).mean()) for line in (one.right, one.wrong)])
    clip, right, wrong = (np.array(line) for line in zip(*ends, strict=True))

    def less(others: Floats) -> Estimate:
        return bootstrap(lambda rows: auc(others[rows], truth[rows]) - auc(clip[rows], truth[rows]), len(truth), rounds)

    return Cadences(
        window_h=window_h,
        embryos=len(streamed),
        frames=sum(len(one.hours_h) for one in streamed),
        worst_on_representatives=max(one.worst for one in streamed),
        worst_at_end=max(abs(float(one.right[one.end]) - one.clip_end) for one in streamed),
        clip=auc_interval(clip, truth, rounds),
        stream=auc_interval(right, truth, rounds),
        wrong=auc_interval(wrong, truth, rounds),
        stream_less_clip=less(right),
        wrong_less_clip=less(wrong),
        accuracy_clip=share(int(((clip > 0.5) == truth).sum()), len(truth)),
        accuracy_stream=accuracy(right, truth),
        accuracy_wrong=accuracy(wrong, truth),
        stream_moved=float(np.mean([row[0] for row in moved])),
        wrong_moved=float(np.mean([row[1] for row in moved])),
    )
