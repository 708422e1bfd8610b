"""An engine that does what a test tells it, and keeps the contract: no model, no runtime.

Without a script it answers with a running mean of the brightness of what it saw, so that its memory can be seen.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from engines.contract import Array, EngineError, EngineSpec, TensorSpec
from engines.host import HostEngine

Script = Callable[[Array, dict[str, Array]], float]


def scripted_spec(planes: int = 7, size_px: int = 8, name: str = "scripted") -> EngineSpec:
    """A spec shaped like a blastocyst model's: x (P, H, W) float32, two numbers of state."""
    return EngineSpec(
        name=name,
        task="blastocyst",
        state_id=(name.encode().hex() + "0" * 64)[:64],
        inputs=(TensorSpec("x", (planes, size_px, size_px)),),
        outputs=(TensorSpec("y_blastocyst", (1,), classes=("blastocyst",)),),
        state=TensorSpec("state", (2,)),
    )


class ScriptedEngine(HostEngine):
    """State: (steps taken, running sum of mean brightness).

    `script(state, inputs)` gives the probability of a row; `faults` maps the number of a call of `run_row`, counted
    from 0, to the message of the EngineError it raises.
    """

    def __init__(
        self, spec: EngineSpec | None = None, script: Script | None = None, faults: dict[int, str] | None = None
    ) -> None:
        super().__init__(spec or scripted_spec())
        self._script = script or _running_mean
        self._faults = faults or {}
        self.calls = 0

    @property
    def runtime(self) -> str:
        return "scripted"

    def run_row(self, state: Array, inputs: dict[str, Array]) -> tuple[Array, dict[str, Array]]:
        call, self.calls = self.calls, self.calls + 1
        if call in self._faults:
            raise EngineError(f"{self.spec.name}: {self._faults[call]}")
        after = np.array([state[0] + 1, state[1] + inputs["x"].mean()], np.float32)
        return after, {"y_blastocyst": np.array([self._script(state, inputs)], np.float32)}


def _running_mean(state: Array, inputs: dict[str, Array]) -> float:
    seen = float(state[1]) + float(inputs["x"].mean())
    return float(1 / (1 + np.exp(-seen / (float(state[0]) + 1))))
