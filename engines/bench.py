"""How long a step takes: interleaved in one process, medians and ratios (back-to-back runs on a shared box lie).

It times engines only, and holds what every bench needs: rows with goals, and the table they make. The whole way of a
frame is timed by `monitor.bench`, PyTorch by `training.amsnet.bench`. Nothing here asserts a time.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from engines.contract import Engine, EngineError, State
from engines.load import Loaded
from engines.verify import sample_inputs

CLIP_FRAMES = 28
LATE_FRAME = 1000
STAGE_FRAME = 700  # more than five days of a frame every 12 minutes
STAGE_GOALS = {"resnet18": 1.2, "resnet50": 2.5}  # of a frame over a step of the full-size blastocyst model
SAME = 0.05  # two medians on a shared machine are called the same within this

_BYTES = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (0.0, "B"))

Clock = Callable[[], float]


@dataclass(frozen=True)
class Goal:
    """What a value is to be: `kind` is "at most", "at least" or "about" (within 5 %)."""

    kind: str
    value: float

    def met(self, value: float) -> bool:
        """A value that is not a number meets no goal."""
        if self.kind == "about":
            return abs(value - self.value) <= SAME * self.value + 1e-9
        return value <= self.value if self.kind == "at most" else value >= self.value


@dataclass(frozen=True)
class Row:
    """One line of the table. `unit` is s, bytes, or "" for a ratio; times and bytes are kept unrounded."""

    model: str
    what: str
    value: float
    unit: str = ""
    goal: Goal | None = None

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"met": None if self.goal is None else self.goal.met(self.value)}


@dataclass(frozen=True)
class NotRun:
    """A line that could not be measured here, and why."""

    what: str
    why: str


def row_of(told: dict[str, Any]) -> Row:
    """The inverse of `Row.as_json`. Raises KeyError, TypeError for what is none."""
    goal = told["goal"]
    return Row(told["model"], told["what"], float(told["value"]), told["unit"], goal and Goal(**goal))


def bench_engine(engine: Engine, rounds: int = 30, clock: Clock = time.perf_counter) -> dict[str, Any]:
    """Median seconds of a step on frame 10, of one on frame 1,000, of a clip of 28 frames recomputed; and ratios."""
    inputs = sample_inputs(engine, 1, 0)
    states = {10: after_frames(engine, 10), LATE_FRAME: after_frames(engine, LATE_FRAME)}
    steps: dict[int, list[float]] = {10: [], LATE_FRAME: []}
    clips: list[float] = []
    for turn in range(rounds):
        for frame in sorted(states, reverse=turn % 2 == 1):  # neither is always the one that comes second
            state = states[frame]
            steps[frame].append(timed(partial(engine.step, [state], inputs), clock))
        if turn % 5 == 0:
            clips.append(timed(lambda: after_frames(engine, CLIP_FRAMES), clock))
    return {
        "model": engine.spec.name,
        "runtime": engine.runtime,
        "rounds": rounds,
        "step_frame_10_s": statistics.median(steps[10]),
        "step_frame_1000_s": statistics.median(steps[LATE_FRAME]),
        "clip_28_s": statistics.median(clips),
        "frame_1000_over_frame_10": paired_ratio(steps[LATE_FRAME], steps[10]),
        "clip_over_step": paired_ratio(clips, steps[10][::5]),
        "state_bytes": len(engine.save(states[LATE_FRAME])),
    }


def bench_stage(loaded: Loaded, beside: Engine | None, rounds: int = 30, clock: Clock = time.perf_counter) -> list[Row]:
    """A stage model's frame: encoder and one step of the head, on frame 10 and on frame 700, and over a step of the
    blastocyst model `beside` it (None: not compared). Raises EngineError where it is no stage model."""
    encoder, head, name = loaded.encoder, loaded.engine, loaded.manifest.name
    if encoder is None:
        raise EngineError(f"{name}: no stage model")
    pictures, told = sample_inputs(encoder, 1, 0), sample_inputs(head, 1, 0)
    start, states = encoder.initial_state(), {10: after_frames(head, 10), STAGE_FRAME: after_frames(head, STAGE_FRAME)}
    laps: dict[str, list[float]] = defaultdict(list)
    for turn in range(rounds):
        laps["encoder"].append(timed(partial(encoder.step, [start], pictures), clock))
        laps["head"].append(timed(partial(head.step, [states[10]], told), clock))  # after the encoder, as in use
        for frame in sorted(states, reverse=turn % 2 == 1):
            laps[f"head {frame}"].append(timed(partial(head.step, [states[frame]], told), clock))
        if beside is not None:
            inputs, memory = sample_inputs(beside, 1, 0), beside.initial_state()
            laps["beside"].append(timed(partial(beside.step, [memory], inputs), clock))
    rows = [
        Row(name, "encoder, one frame", statistics.median(laps["encoder"]), "s"),
        Row(name, "head, one step", statistics.median(laps["head"]), "s"),
        Row(
            name,
            f"head's step, frame {STAGE_FRAME} / frame 10",
            paired_ratio(laps[f"head {STAGE_FRAME}"], laps["head 10"]),
            "",
            Goal("about", 1.0),
        ),
        Row(name, "state of an embryo", len(head.save(states[STAGE_FRAME])), "bytes"),
    ]
    if beside is not None:
        both = [a + b for a, b in zip(laps["encoder"], laps["head"], strict=True)]
        limit = STAGE_GOALS.get(str(loaded.manifest.provenance.get("trunk")))
        what = f"encoder and head / {beside.spec.name}'s step"
        rows.append(Row(name, what, paired_ratio(both, laps["beside"]), "", Goal("at most", limit) if limit else None))
    return rows


def paired_ratio(these: Sequence[float], those: Sequence[float]) -> float:
    """The median of the rounds' own ratios: what was measured side by side shares the machine's mood."""
    return statistics.median(one / other for one, other in zip(these, those, strict=True))


def engine_rows(measured: dict[str, Any]) -> list[Row]:
    """The rows of what `bench_engine` gave."""
    model = measured["model"]
    return [
        Row(model, "one step", measured["step_frame_10_s"], "s"),
        Row(model, "step, frame 1,000 / frame 10", measured["frame_1000_over_frame_10"], "", Goal("about", 1.0)),
        Row(model, "clip of 28 frames recomputed / step", measured["clip_over_step"], "", Goal("at least", 25.0)),
        Row(model, "state of an embryo", measured["state_bytes"], "bytes", Goal("at most", 9e6)),
    ]


def table(rows: Sequence[Row], not_run: Sequence[NotRun]) -> str:
    """Markdown: model, what, value, goal, met or not; then what was not run and why."""
    lines = ["| model | what | value | goal | |", "|---|---|---|---|---|"]
    for row in rows:
        goal = "" if row.goal is None else f"{row.goal.kind} {told(row.goal.value, row.unit)}"
        verdict = "" if row.goal is None else ("met" if row.goal.met(row.value) else "**not met**")
        lines.append(f"| {row.model} | {row.what} | {told(row.value, row.unit)} | {goal} | {verdict} |")
    lines += [f"| | {line.what} | not run | | {line.why} |" for line in not_run]
    return "\n".join(lines)


def told(value: float, unit: str) -> str:
    """A value for people: three digits or so, in a unit that fits."""
    if unit == "s":
        return f"{value * 1e3:.2f} ms" if value < 0.1 else f"{value * 1e3:.0f} ms"
    if unit == "bytes":
        scale, name = next(unit for unit in _BYTES if value >= unit[0] / 2)
        return f"{value / scale:.2f} {name}" if scale else f"{value:.0f} B"
    if 0 < value < 0.01:
        return f"{value:.1e}"
    return f"{value:.2f}" if value < 10 else f"{value:.1f}"


def after_frames(engine: Engine, frames: int) -> State:
    """The state after so many steps from the start, all with the same input."""
    state = engine.initial_state()
    inputs = sample_inputs(engine, 1, 1)
    for _ in range(frames):
        state = engine.step([state], inputs).states[0]
    return state


def timed(work: Callable[[], object], clock: Clock) -> float:
    """Seconds the work takes."""
    start = clock()
    work()
    return clock() - start


def as_json(rows: Iterable[Row], not_run: Iterable[NotRun]) -> dict[str, Any]:
    """What of the table a program reads."""
    return {"rows": [row.as_json() for row in rows], "not_run": [asdict(line) for line in not_run]}
