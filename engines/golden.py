"""Is a runtime fit to serve: the same frames through it and through the reference, from the start, side by side.

As many frames as a memory of shifted blocks is deep, and more; two embryos, alone and in one batch, so that what
gathers and scatters states is tried too. The frames are drawn from a fixed seed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from engines.contract import Array, Engine, EngineSpec
from engines.manifest import Part, Tolerance
from engines.packing import unpack

FRAMES = 20  # ResNet-50 has 16 shifted blocks: its memory is 17 frames deep
STATE_RELATIVE = {"fp32": 1e-3, "fp16": 0.02}
FP32_ABSOLUTE = 1e-4  # manifests tell how far two CPU runtimes lie apart; a GPU's kernels sum in another order
_SCALARS = 16  # an input of so few numbers is hours and flags, not pixels


@dataclass(frozen=True)
class Apart:
    """The largest differences: of an output (beyond 1: of its size), and of the last state, as a share of its size."""

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
    """Like preprocessed pictures and vectors around 0, like hours and flags within 0..1."""
    rng = np.random.default_rng(seed)
    return {
        tensor.name: (
            rng.standard_normal((rows, *tensor.shape), np.float32)
            if math.prod(tensor.shape) > _SCALARS
            else rng.random((rows, *tensor.shape), np.float32)
        ).astype(tensor.dtype)
        for tensor in spec.inputs
    }


def apart(candidate: Engine, reference: Engine, frames: int = FRAMES) -> Apart:
    """Both from the start over the same frames. Raises EngineError where either fails."""
    spec, worst = reference.spec, 0.0
    ours, theirs = ([engine.initial_state()] * 2 for engine in (candidate, reference))
    for frame in range(frames):
        inputs = golden_inputs(spec, 2, frame)
        wanted = reference.step(theirs, inputs)
        if frame % 3:
            got = [candidate.step(ours, inputs)]
        else:
            got = [candidate.step([ours[i]], {n: a[i : i + 1] for n, a in inputs.items()}) for i in (0, 1)]
        ours, theirs = [state for step in got for state in step.states], list(wanted.states)
        for name, expected in wanted.outputs.items():
            worst = max(worst, _apart(np.concatenate([step.outputs[name] for step in got]), expected))
    if math.prod(spec.state.shape) == 0:
        return Apart(worst, 0.0)
    return Apart(worst, max(_relative(candidate.save(a), reference.save(b)) for a, b in zip(ours, theirs, strict=True)))


def _apart(ours: Array, theirs: Array) -> float:
    """Endless where either is not a number."""
    difference = float(np.abs(ours - theirs).max()) / max(1.0, float(np.abs(theirs).max()))
    return math.inf if math.isnan(difference) else difference


def _relative(ours: bytes, theirs: bytes) -> float:
    """Of two saved states."""
    a, b = (unpack(blob)[1]["state"] for blob in (ours, theirs))
    share = float(np.abs(a - b).max()) / max(float(np.abs(b).max()), 1e-9)
    return math.inf if math.isnan(share) else share
