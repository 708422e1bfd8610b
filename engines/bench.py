"""How long a step takes: interleaved in one process, medians and ratios (back-to-back runs on a shared box lie).

It times engines only; the whole way of a frame is timed elsewhere. Nothing here asserts a time.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

from engines.contract import Engine, State
from engines.verify import sample_inputs

CLIP_FRAMES = 28


def bench_engine(engine: Engine, rounds: int = 30, clock: Callable[[], float] = time.perf_counter) -> dict[str, Any]:
    """Median seconds of a step on frame 10, of one on frame 1,000, of a clip of 28 frames recomputed; and ratios."""
    inputs = sample_inputs(engine, 1, 0)
    tenth = _after(engine, 10)
    thousandth = _after(engine, 1000)
    times: dict[str, list[float]] = {"step_frame_10_s": [], "step_frame_1000_s": [], "clip_28_s": []}
    for turn in range(rounds):
        times["step_frame_10_s"].append(_timed(lambda: engine.step([tenth], inputs), clock))
        times["step_frame_1000_s"].append(_timed(lambda: engine.step([thousandth], inputs), clock))
        if turn % 5 == 0:
            times["clip_28_s"].append(_timed(lambda: _after(engine, CLIP_FRAMES), clock))
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        "model": engine.spec.name,
        "runtime": engine.runtime,
        "rounds": rounds,
        **medians,
        "frame_1000_over_frame_10": medians["step_frame_1000_s"] / medians["step_frame_10_s"],
        "clip_over_step": medians["clip_28_s"] / medians["step_frame_10_s"],
        "state_bytes": len(engine.save(thousandth)),
    }


def _after(engine: Engine, frames: int) -> State:
    state = engine.initial_state()
    inputs = sample_inputs(engine, 1, 1)
    for _ in range(frames):
        state = engine.step([state], inputs).states[0]
    return state


def _timed(work: Callable[[], object], clock: Callable[[], float]) -> float:
    start = clock()
    work()
    return clock() - start
