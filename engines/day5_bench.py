"""How long day 5 takes for one frame, in steps of AMSNet: crop, segmentation, both graders, interleaved with the step.

It times engines and the crop; which frame is looked at is the caller's. Nothing here asserts a time.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from engines.bench import Clock, Goal, NotRun, Row, paired_ratio, timed
from engines.blastocyst import Found, find_in_well
from engines.contract import Array, Engine, EngineError
from engines.load import Loaded
from engines.preprocess import Gray, fit_stack, nearest_plane_um, to_tensor
from engines.verify import sample_inputs

DAY5_TASKS = ("segmentation", "grade")
FULL_GOAL = Goal("at most", 8.0)  # AMSNet steps at full size, all four parts together
BUNDLED_GOAL = Goal("at most", 1.0)  # the same steps, with the bundled variants


def looked_at(planes: Mapping[int, Gray]) -> Found:
    """The square of the frame's middle plane. Raises EngineError where no embryo is found in it."""
    found = find_in_well(planes[nearest_plane_um(0, tuple(sorted(planes)))])
    if not isinstance(found, Found):
        raise EngineError(f"day 5 cannot be timed on a frame without an embryo: {found.reason}")
    return found


def seen_by(loaded: Loaded, planes: Mapping[int, Gray], found: Found) -> Array:
    """(1, P, H, W): what one model sees of the frame's planes."""
    how = loaded.manifest.preprocess
    return to_tensor(fit_stack(planes, how, found.square), how)[None]


def judged(loaded: Loaded, planes: Mapping[int, Gray], found: Found) -> dict[str, Array]:
    """One model's outputs for the frame."""
    return loaded.engine.step([loaded.engine.initial_state()], {"x": seen_by(loaded, planes, found)}).outputs


def bench_day5(
    models: Sequence[Loaded],
    planes: Mapping[int, Gray],
    small: Engine | None,
    full: Engine | None,
    rounds: int = 15,
    clock: Clock = time.perf_counter,
) -> tuple[list[Row], list[NotRun]]:
    """Rows of the bundled models and of those at full size; `small`, `full`: the AMSNets to compare with."""
    rows: list[Row] = []
    missed: list[NotRun] = []
    for bundled, title in ((True, "day 5, bundled"), (False, "day 5, full size")):
        own = [loaded for loaded in models if _is_bundled(loaded) == bundled]
        if not own:
            continue  # the bench says once where models of full size come from
        if {loaded.manifest.task for loaded in own} != set(DAY5_TASKS):
            missed.append(NotRun(title, f"a segmenter and a grader are needed, here is {own[0].manifest.name} alone"))
            continue
        if full is None and not bundled:
            missed.append(NotRun(f"{title}: in steps of AMSNet at full size", "no such AMSNet: make full-size"))
        rows += _rows(title, own, planes, small if bundled else None, full, rounds, clock)
    return rows, missed


def _is_bundled(loaded: Loaded) -> bool:
    """By name, as the exporters give them: `i2cnet-small` and `i2cnet`."""
    return loaded.manifest.name.endswith("-small")


def _rows(
    title: str,
    own: Sequence[Loaded],
    planes: Mapping[int, Gray],
    small: Engine | None,
    full: Engine | None,
    rounds: int,
    clock: Clock,
) -> list[Row]:
    found = looked_at(planes)
    parts: dict[str, Callable[[], object]] = {"crop": partial(looked_at, planes)}
    parts |= {loaded.manifest.name: partial(judged, loaded, planes, found) for loaded in own}
    steps: dict[str, Callable[[], object]] = {
        name: partial(engine.step, [engine.initial_state()], sample_inputs(engine, 1, 0))
        for name, engine in (("small", small), ("full", full))
        if engine is not None
    }
    for work in (*parts.values(), *steps.values()):
        work()  # allocates what it needs
    spent: dict[str, list[float]] = {name: [] for name in (*parts, *steps)}
    for _ in range(rounds):
        for name, work in (*parts.items(), *steps.items()):
            spent[name].append(timed(work, clock))
    whole = [float(sum(spent[name][i] for name in parts)) for i in range(rounds)]
    rows = [Row(title, f"one frame, {name}", statistics.median(spent[name]), "s") for name in parts]
    rows.append(Row(title, "one frame, all of it", statistics.median(whole), "s"))
    if "full" in steps:
        goal = BUNDLED_GOAL if _is_bundled(own[0]) else FULL_GOAL
        rows.append(Row(title, "one frame / step of AMSNet at full size", paired_ratio(whole, spent["full"]), "", goal))
    if "small" in steps:
        rows.append(Row(title, "one frame / step of the bundled AMSNet", paired_ratio(whole, spent["small"])))
    return rows
