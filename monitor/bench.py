"""`pellucid engines bench`: the whole way of a frame against the bare step, its parts, its bytes and its memory.

Interleaved in one process, medians and ratios: on a shared machine two runs one after the other differ by more than
what is looked for. The broker is a real one, embedded, in a process of its own. Nothing here asserts a time.
"""

from __future__ import annotations

import gc
import importlib.util
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from engines.bench import Clock, Goal, Row, after_frames, paired_ratio, timed
from engines.contract import Engine
from engines.load import Loaded
from engines.preprocess import fit_stack, locate_in, to_tensor
from engines.verify import sample_inputs
from monitor.broker import EmbeddedBroker
from monitor.config import Mqtt
from monitor.errors import ConfigError
from monitor.mqtt_session import Session, Will
from monitor.observe import observe
from monitor.way import Pictures, Stopwatch, Way

CADENCE_MIN = 10.0
SEGMENT_H = 6.0
FRAMES_A_SEGMENT = int(SEGMENT_H * 60 / CADENCE_MIN)
EMBRYOS = 240
FRAMES_A_DAY = int(24 * 60 / CADENCE_MIN)
BUDGET_BYTES_A_DAY = 20e9
FULL_SIZE_PX = 224  # the goal of 1.10 is for models of this size: beside a small step everything is long
STEP_APART = timedelta(minutes=2)  # of the frames measured: 180 in one segment
LATE = 1000
LATE_ENOUGH_S = 0.05  # a model with a longer step is not driven through 1,000 frames


@dataclass(frozen=True)
class Plan:
    """How much is measured: rounds, embryos side by side, and how many frames `late` has behind it (0: not asked)."""

    rounds: int = 30
    embryos: int = 240
    late: int = LATE
    size_px: int = 500
    opening_every: int = 4  # rounds
    held: int = 512  # states at once, to see what one takes


def plan_for(step_s: float) -> Plan:
    """Less of everything where a step is long; the medians are of fewer rounds, the ratios the same."""
    return Plan() if step_s < LATE_ENOUGH_S else Plan(rounds=20, embryos=24, late=0, held=64)


@contextmanager
def broker_beside() -> Iterator[Mqtt]:
    """An embedded broker in another process, so that its work is not counted as ours. Raises ConfigError."""
    if importlib.util.find_spec("amqtt") is None:
        raise ConfigError('its broker needs the extra "demo": pip install "pellucid[demo]"')
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs,), daemon=True)
    process.start()
    try:
        yield Mqtt(host="127.0.0.1", port=ours.recv(), protocol=311)
    finally:
        ours.send("stop")
        process.join(10)


def _serve(pipe: Connection) -> None:
    broker = EmbeddedBroker()
    pipe.send(broker.start())
    pipe.recv()
    broker.stop()


def bench_way(
    loaded: Loaded,
    broker: Mqtt,
    plan: Plan,
    clock: Clock = time.perf_counter,
    open_session: Callable[[Will], Session] | None = None,
) -> dict[str, Any]:
    """Median seconds and ratios of the way, bytes and memory, as `way_rows` reads them. Raises PellucidError."""
    with tempfile.TemporaryDirectory(prefix="pellucid-bench-") as name:
        folder = Path(name)
        pictures = Pictures(folder / "pictures", plan.size_px, plan.embryos)
        node = partial(Way, loaded, pictures=pictures, broker=broker, open_session=open_session)
        measured = _times(loaded, node, folder, plan, clock)
        resident = resident_bytes_of_a_state(loaded.engine, plan.held)
        return {"plan": vars(plan), **measured, **_weights(node, folder, plan, clock), "resident_bytes": resident}


def _times(loaded: Loaded, node: Callable[..., Way], folder: Path, plan: Plan, clock: Clock) -> dict[str, Any]:
    laps, late_laps = Stopwatch(clock), Stopwatch(clock)
    way = node(folder=folder / "early", stopwatch=laps)
    late = node(folder=folder / "late", stopwatch=late_laps) if plan.late else None
    for frame in range(10):
        way.put(1, frame * STEP_APART)
    way.put(2, timedelta())
    way.take("before")
    if late is not None:
        for frame in range(plan.late):
            late.put(1, frame * STEP_APART)
            late.take("before")
    laps.laps.clear()
    engine, inputs = loaded.engine, sample_inputs(loaded.engine, 1, 0)
    tenth = after_frames(engine, 10)
    for turn in range(plan.rounds):
        laps.laps["step"].append(timed(lambda: engine.step([tenth], inputs), clock))
        way.put(1, (10 + turn) * STEP_APART)
        way.take("usual")
        laps.laps["usual_look"].append(laps.laps["look"][-1])
        _apart(loaded, way, laps)
        if late is not None:
            late.put(1, (plan.late + turn) * STEP_APART)
            late.take("late")
        if (
            turn % plan.opening_every == 0
        ):  # the first frame of a segment: stepped for good and kept, beside being judged
            way.put(2, timedelta(hours=SEGMENT_H) * (1 + turn // plan.opening_every))
            way.take("opening")
    way.close()
    if late is not None:
        late.close()
    return _summed_up(laps.laps, late_laps.laps, plan)


def _summed_up(laps: dict[str, list[float]], late_laps: dict[str, list[float]], plan: Plan) -> dict[str, Any]:
    """Medians of every lap, and ratios of what was measured side by side."""
    ratios = {
        "usual_over_step": paired_ratio(laps["usual"], laps["step"]),
        "opening_over_step": paired_ratio(laps["opening"], laps["step"][:: plan.opening_every]),
    }
    if plan.late:
        late, late_look = late_laps["late"], late_laps["look"][-plan.rounds :]
        laps = {**laps, "late": late, "late_look": late_look}
        beyond = [whole - look for whole, look in zip(late, late_look, strict=True)]
        usual_beyond = [whole - look for whole, look in zip(laps["usual"], laps["usual_look"], strict=True)]
        ratios["late_over_usual"] = paired_ratio(late, laps["usual"])
        ratios["late_over_usual_beyond_look"] = paired_ratio(beyond, usual_beyond)
    return {"seconds": {name: statistics.median(values) for name, values in laps.items()}, "ratios": ratios}


def _apart(loaded: Loaded, way: Way, laps: Stopwatch) -> None:
    """What lies inside `advance`, once more by itself, on the frame that has just gone through."""
    if way.last is None:
        return
    stack, how = way.last.stack, loaded.manifest.preprocess
    with laps.lap("observe"):
        observe(stack)
    with laps.lap("preprocess"):
        to_tensor(fit_stack(stack.grays, how, locate_in(stack.grays) if how.crop else None), how)


def _weights(node: Callable[..., Way], folder: Path, plan: Plan, clock: Clock) -> dict[str, Any]:
    """Bytes and memory of many embryos side by side: a first frame, two usual ones, the first of the next segment."""
    way = node(folder=folder / "many", stopwatch=Stopwatch(clock))
    wells = range(plan.embryos)

    def round_of_frames(after: timedelta) -> int:
        for well in wells:
            way.put(well, after)
        before = written_bytes()
        way.take("round")
        return written_bytes() - before

    usual = [round_of_frames(minutes * STEP_APART) for minutes in range(4)][1:]
    opening = round_of_frames(timedelta(hours=SEGMENT_H))
    states = sum(path.stat().st_size for path in (way.store / "states").rglob("*") if path.is_file())
    way.close()
    return {
        "written_usual_bytes": statistics.median(usual) / plan.embryos,
        "written_opening_bytes": opening / plan.embryos,
        "memory_bytes": states / plan.embryos,
    }


def resident_bytes_of_a_state(engine: Engine, states: int) -> float:
    """What one more state held in memory adds to this process, of `states` held at once.

    Only the second half is counted: the first fills what the runtime's allocator keeps in reserve from its steps.
    """
    inputs, held, began = sample_inputs(engine, 1, 2), [engine.initial_state()], 0
    for count in range(2 * states):
        if count == states:
            gc.collect()
            began = resident_bytes()
        held.append(engine.step([held[-1]], inputs).states[0])
    return (resident_bytes() - began) / states


def written_bytes() -> int:
    """What this process has sent towards the disk, in whole pages, as the kernel counts it. Linux."""
    return _proc(Path("/proc/self/io"), "write_bytes:")


def resident_bytes() -> int:
    """Memory of this process that is really there."""
    return 1024 * _proc(Path("/proc/self/status"), "VmRSS:")


def _proc(path: Path, key: str) -> int:
    return next(int(line.split()[1]) for line in path.read_text().splitlines() if line.startswith(key))


def way_rows(model: str, measured: dict[str, Any], full_size: bool) -> list[Row]:
    """The table's rows of what `bench_way` gave."""
    seconds, ratios = measured["seconds"], measured["ratios"]
    mean = ((FRAMES_A_SEGMENT - 1) * ratios["usual_over_step"] + ratios["opening_over_step"]) / FRAMES_A_SEGMENT
    within = Goal("at most", 1.10) if full_size else None
    a_day = bytes_a_day(measured["written_usual_bytes"], measured["written_opening_bytes"])
    rows = [
        Row(model, "whole way, a usual frame", seconds["usual"], "s"),
        Row(model, "whole way, a segment's first frame (a second step, memory written)", seconds["opening"], "s"),
        Row(model, "whole way / step, a usual frame", ratios["usual_over_step"], "", within),
        Row(model, f"whole way / step, mean of a segment's {FRAMES_A_SEGMENT} frames", mean, "", within),
    ]
    if "late_over_usual" in ratios:
        beyond = ratios["late_over_usual_beyond_look"]
        rows += [
            Row(model, "whole way, frame 1,000 / frame 10", ratios["late_over_usual"], "", Goal("about", 1.0)),
            Row(model, "  the same without listing the folder (7,000 files)", beyond, "", Goal("about", 1.0)),
            Row(model, "  look, frame 1,000", seconds["late_look"], "s"),
        ]
    for part in ("look", "decode", "observe", "preprocess", "journal", "publish"):
        rows.append(Row(model, f"  {part}, a frame", seconds[part], "s"))
    return [
        *rows,
        Row(model, "  memory saved, a segment", seconds["state"], "s"),
        Row(model, "written, a usual frame", measured["written_usual_bytes"], "bytes"),
        Row(model, "written, a segment's first frame", measured["written_opening_bytes"], "bytes"),
        Row(model, f"written a day, {EMBRYOS} embryos", a_day, "bytes", Goal("at most", BUDGET_BYTES_A_DAY)),
        Row(model, "memory of an embryo on disk (state and one stack)", measured["memory_bytes"], "bytes"),
        Row(model, "resident memory one more state adds", measured["resident_bytes"], "bytes"),
    ]


def bytes_a_day(usual: float, opening: float) -> float:
    """Bytes all embryos write in a day, a frame every 10 minutes, four segments."""
    segments = 24 / SEGMENT_H
    return EMBRYOS * ((FRAMES_A_DAY - segments) * usual + segments * opening)


def machine() -> dict[str, Any]:
    """Where it was measured."""
    facts = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    names = [line.partition(":")[2].strip() for line in facts.splitlines() if line.startswith("model name")]
    return {
        "cpu": names[0] if names else "unknown",
        "cores": os.cpu_count(),
        "avx512": " avx512f" in facts,
        "load_1_min": round(os.getloadavg()[0], 2),
    }
