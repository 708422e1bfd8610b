"""What only an accelerator can show of a model: the contract, parity with the CPU, time of a frame, frames a second.

For `deploy/gpu-check` and `pellucid engines bench --device gpu`. It runs over any toolkit; the times of the fake one
mean nothing. It knows no picture and no embryo, and asserts no time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engines.bench import Clock, Goal, NotRun, Row, timed
from engines.build import build_plan
from engines.contract import Engine, EngineError, State
from engines.device_memory import Profile, Say, Toolkit
from engines.golden import STATE_RELATIVE, allowed, apart
from engines.manifest import Manifest, Part, graph_path
from engines.plans import PlanStore, key_of
from engines.tensorrt_engine import TensorRtEngine
from engines.verify import contract_faults, sample_inputs

BATCHES = (1, 2, 4, 8, 16, 32, 64)
PROFILE = Profile(best=32, most=64)
FULL_SIZE_PX = 224
LEAST_FRAMES_PER_S = 5000.0  # AMSNet at full size, batched, on a data-centre GPU
MOST_P99_S = 3e-3  # of a single frame of it
FP16_CONTRACT = 2e-3  # what the contract calls equal: kernels of another batch size round otherwise
WARM_UP = 10


@dataclass(frozen=True)
class Ran:
    """One graph's results. `faults`: promises broken, and parity missed."""

    rows: tuple[Row, ...]
    not_run: tuple[NotRun, ...]
    faults: tuple[str, ...]


def bench_part(
    manifest_path: Path,
    manifest: Manifest,
    part: Part,
    reference: Engine,
    toolkit: Toolkit,
    store: PlanStore,
    rounds: int,
    batches: Sequence[int] = BATCHES,
    profile: Profile = PROFILE,
    say: Say = lambda line: None,
    clock: Clock = time.perf_counter,
) -> Ran:
    """Everything of one graph in the precision of `part`; what fails is told, and the rest goes on."""
    name = f"{part.spec.name} {part.precision.compute}"
    try:
        plan, built_s = _plan(manifest_path, manifest, part, toolkit, store, profile, say, clock)
    except EngineError as fault:
        return Ran((), (NotRun(name, str(fault)),), (f"{name}: {fault}",))
    rows, not_run, faults = [Row(name, "plan", len(plan), "bytes")], [], []
    if built_s is not None:
        rows.append(Row(name, "plan built in", built_s, "s"))
    work: tuple[tuple[str, bool, Callable[[TensorRtEngine], tuple[list[Row], list[str]]]], ...] = (
        ("contract", True, lambda engine: ([], _contract(engine, part, manifest))),
        ("parity", True, lambda engine: _parity(name, engine, reference, part, manifest)),
        ("one frame", True, lambda engine: (latency_rows(name, engine, rounds, _is_full_amsnet(part), clock), [])),
        ("frames a second", False, lambda engine: (
            throughput_rows(name, engine, batches, rounds, _is_full_amsnet(part), clock), [])
        ),
    )  # fmt: skip
    for what, mirrored, measure in work:
        say(f"{name}: {what}")
        try:
            engine = TensorRtEngine(toolkit.open(), plan, part.spec, toolkit.facts.runtime, mirrored)
            try:
                more, broken = measure(engine)
            finally:
                engine.close()
        except EngineError as fault:
            not_run.append(NotRun(f"{name}: {what}", str(fault)))
            faults.append(f"{name}: {what}: {fault}")
            continue
        rows += more
        faults += [f"{name}: {what}: {one}" for one in broken]
    return Ran(tuple(rows), tuple(not_run), tuple(faults))


def latency_rows(name: str, engine: Engine, rounds: int, full: bool, clock: Clock) -> list[Row]:
    """Of a single frame, to the device and back, as the monitor steps it: each next state comes to host memory too."""
    inputs, state = sample_inputs(engine, 1, 0), engine.initial_state()
    for _ in range(WARM_UP):
        state = engine.step([state], inputs).states[0]
    times_s = [timed(lambda: engine.step([state], inputs), clock) for _ in range(rounds)]
    goals = {99: Goal("at most", MOST_P99_S) if full else None}
    return [
        Row(name, f"one frame, p{share}", float(np.percentile(times_s, share)), "s", goals.get(share))
        for share in (50, 95, 99)
    ]


def throughput_rows(
    name: str, engine: Engine, batches: Sequence[int], rounds: int, full: bool, clock: Clock
) -> list[Row]:
    """Embryo-frames a second with every state on the device; the goal stands at the best batch."""
    found: dict[int, float] = {}
    for batch in batches:
        inputs = sample_inputs(engine, batch, 0)
        states: Sequence[State] = [engine.initial_state()] * batch
        for _ in range(WARM_UP):
            states = engine.step(states, inputs).states
        turns, began = max(rounds // batch, 5), clock()
        for _ in range(turns):
            states = engine.step(states, inputs).states
        found[batch] = turns * batch / (clock() - began)
    best = max(found, key=lambda batch: found[batch])
    goal = Goal("at least", LEAST_FRAMES_PER_S) if full else None
    return [
        Row(name, f"frames a second, batch {batch}", rate, "", goal if batch == best else None)
        for batch, rate in found.items()
    ]


def _plan(
    manifest_path: Path,
    manifest: Manifest,
    part: Part,
    toolkit: Toolkit,
    store: PlanStore,
    profile: Profile,
    say: Say,
    clock: Clock,
) -> tuple[bytes, float | None]:
    plan = store.find_whole(key_of(part, toolkit.facts, profile))
    if plan is not None:
        return plan, None
    began = clock()
    graph = graph_path(manifest_path, manifest, part.graph)
    return build_plan(graph, part, toolkit, store, profile, say, clock), clock() - began


def _contract(engine: TensorRtEngine, part: Part, manifest: Manifest) -> list[str]:
    fp32 = part.precision.compute == "fp32"
    return contract_faults(engine, allowed(part, manifest.tolerance) if fp32 else FP16_CONTRACT)


def _parity(
    name: str, engine: TensorRtEngine, reference: Engine, part: Part, manifest: Manifest
) -> tuple[list[Row], list[str]]:
    found = apart(engine, reference, most=engine.most)
    most = allowed(part, manifest.tolerance)
    relative = STATE_RELATIVE[part.precision.compute]
    rows = [
        Row(name, "outputs, apart from the CPU's", found.outputs, "", Goal("at most", most)),
        Row(name, "memory, apart from the CPU's, of its size", found.state, "", Goal("at most", relative)),
    ]
    fault = found.fault(part, manifest.tolerance)
    return rows, [] if fault is None else [fault]


def _is_full_amsnet(part: Part) -> bool:
    heights = [tensor.shape[1] for tensor in part.spec.inputs if tensor.name == "x"]
    return part.spec.task == "blastocyst" and heights == [FULL_SIZE_PX]
