"""Is a runtime fit to serve: the same frames through it and through the reference, from the start, side by side.

As many frames as a memory of shifted blocks is deep, and more; two embryos, alone and in one batch, so that what
gathers and scatters states is tried too. Then every larger batch, for each size has buffers and a graph of its own. The
frames are drawn from a fixed seed.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engines.contract import Array, Arrays, Engine, EngineSpec, State
from engines.manifest import Part, Tolerance
from engines.packing import unpack
from engines.tensorrt_engine import SIZES

Pair = tuple[State, State]  # the candidate's and the reference's memory of one embryo

FRAMES = 20  # ResNet-50 has 16 shifted blocks: its memory is 17 frames deep
STATE_RELATIVE = {"fp32": 1e-3, "fp16": 0.02}
FP32_ABSOLUTE = 1e-4  # manifests tell how far two CPU runtimes lie apart; a GPU's kernels sum in another order
_SCALARS = 16  # an input of so few numbers is hours and flags, not pixels
_HOURS, _MOST_H = ("hours", "elapsed"), 140.0  # to beyond day 5: fp16 has few digits left for large numbers


@dataclass(frozen=True)
class Apart:
    """The largest differences: of an output (beyond 1: of its size), and of a state, as a share of its size."""

    outputs: float
    state: float

    def fault(self, part: Part, tolerance: Tolerance) -> str | None:
        """Why it may not serve, or None."""
        most = allowed(part, tolerance)
        if not self.outputs <= most:
            return f"its outputs lie {self.outputs:.2g} from the reference's, allowed are {most:.2g}"
        relative = STATE_RELATIVE[part.precision.compute]
        if not self.state <= relative:
            return f"its memory lies {self.state:.2g} of its size from the reference's, allowed are {relative:.2g}"
        return None


def allowed(part: Part, tolerance: Tolerance) -> float:
    """How far an output may lie from the reference's."""
    return max(tolerance.absolute, FP32_ABSOLUTE) if part.precision.compute == "fp32" else part.precision.absolute


def golden_inputs(spec: EngineSpec, rows: int, seed: int) -> dict[str, Array]:
    """Like preprocessed pictures and vectors around 0, like flags within 0..1, hours over an embryo's whole culture."""
    rng = np.random.default_rng(seed)
    drawn: dict[str, Array] = {}
    for tensor in spec.inputs:
        shape, scalars = (rows, *tensor.shape), math.prod(tensor.shape) <= _SCALARS
        array = rng.random(shape, np.float32) if scalars else rng.standard_normal(shape, np.float32)
        if tensor.name in _HOURS:
            array[..., 0] *= _MOST_H  # a second number tells whether they are known
        drawn[tensor.name] = array.astype(tensor.dtype)
    return drawn


def batches_of(most: int) -> list[int]:
    """The batches beyond two that are tried: one that is filled up, every size, and one in two pieces."""
    return sorted({3, *(size for size in SIZES if 2 < size <= most), max(most, 2) + 1})


def apart(candidate: Engine, reference: Engine, frames: int = FRAMES, most: int = 2) -> Apart:
    """Both from the start over the same frames. `most`: the largest batch. Raises EngineError where either fails."""
    worst = _Worst(candidate, reference)
    states = [(candidate.initial_state(), reference.initial_state())] * 2
    met = deque(states, most + 1)  # memories of several frames: rows that change places are seen
    for frame in range(frames):
        inputs = golden_inputs(reference.spec, 2, frame)
        states = worst.stepped(states, inputs, (2,) if frame % 3 else (1, 1))
        met.extend(states)
    if math.prod(reference.spec.state.shape):
        worst.remember(states)
    for batch in batches_of(most):
        for seed in (frames + 2 * batch, frames + 2 * batch + 1):  # two sets of buffers take turns
            rows = [met[i % len(met)] for i in range(batch)]
            after = worst.stepped(rows, golden_inputs(reference.spec, batch, seed), (batch,))
            if math.prod(reference.spec.state.shape):
                worst.remember(after)
    return Apart(worst.outputs, worst.state)


class _Worst:
    """Steps both over the same rows and keeps the largest differences."""

    def __init__(self, candidate: Engine, reference: Engine) -> None:
        self._candidate, self._reference = candidate, reference
        self.outputs = self.state = 0.0

    def stepped(self, states: Sequence[Pair], inputs: Arrays, batches: Sequence[int]) -> list[Pair]:
        """The candidate takes the rows in `batches`, the reference all at once."""
        wanted = self._reference.step([theirs for _, theirs in states], inputs)
        got, first = [], 0
        for rows in batches:
            part = slice(first, first + rows)
            ours = [one for one, _ in states[part]]
            got.append(self._candidate.step(ours, {name: array[part] for name, array in inputs.items()}))
            first += rows
        for name, expected in wanted.outputs.items():
            found = np.concatenate([step.outputs[name] for step in got])
            self.outputs = max(self.outputs, _apart(found, expected))
        return list(zip([state for step in got for state in step.states], wanted.states, strict=True))

    def remember(self, states: Sequence[Pair]) -> None:
        for ours, theirs in states:
            self.state = max(self.state, _relative(self._candidate.save(ours), self._reference.save(theirs)))


def _apart(ours: Array, theirs: Array) -> float:
    """Endless where either is not a number."""
    difference = float(np.abs(ours - theirs).max()) / max(1.0, float(np.abs(theirs).max()))
    return math.inf if math.isnan(difference) else difference


def _relative(ours: bytes, theirs: bytes) -> float:
    """Of two saved states."""
    a, b = (unpack(blob)[1]["state"] for blob in (ours, theirs))
    share = float(np.abs(a - b).max()) / max(float(np.abs(b).max()), 1e-9)
    return math.inf if math.isnan(share) else share
