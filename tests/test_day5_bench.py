"""Day 5 in the bench: its parts, its two ratios, what is said where a model is not here."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from engines.bench import Goal
from engines.contract import EngineError
from engines.day5_bench import DAY5_TASKS, bench_day5, seen_by
from engines.load import Loaded
from engines.manifest import Manifest
from engines.scripted_engine import ScriptedEngine
from monitor.simulator import PLANES_UM, VirtualEmbryo
from tests.house import scripted_manifest


@pytest.fixture(scope="module")
def frame() -> dict[int, np.ndarray]:
    stack = VirtualEmbryo(4).stack(123.9, 250)
    return dict(zip(PLANES_UM, stack, strict=True))


def model(name: str, task: str) -> Loaded:
    """A scripted model of day 5: one plane, 24 px."""
    told = scripted_manifest(counts=(1, 7)).model_dump(by_alias=True)
    how = {**told["preprocess"], "planes_um": (0,), "height_px": 24, "width_px": 24, "crop": "blastocyst"}
    inputs = ({**told["inputs"][0], "shape": (1, 24, 24)},)
    manifest = Manifest.model_validate({**told, "name": name, "task": task, "preprocess": how, "inputs": inputs})
    return Loaded(ScriptedEngine(manifest.spec()), manifest, "scripted")


def set_of(ending: str) -> list[Loaded]:
    return [model(f"cut{ending}", "segmentation"), model(f"one{ending}", "grade"), model(f"two{ending}", "grade")]


def test_one_frame_is_the_crop_and_every_model_and_is_told_in_steps_of_amsnet(frame: dict[int, np.ndarray]) -> None:
    """On a clock that moves one second a look, each part takes one second: four in all, and a step takes one."""
    clock = itertools.count().__next__
    small, full = ScriptedEngine(), ScriptedEngine()
    rows, missed = bench_day5(set_of("-small"), frame, small, full, rounds=3, clock=lambda: float(clock()))
    told = {(row.model, row.what): row.value for row in rows}
    parts = ["crop", "cut-small", "one-small", "two-small"]
    assert [told["day 5, bundled", f"one frame, {part}"] for part in parts] == [1.0] * 4
    assert told["day 5, bundled", "one frame, all of it"] == 4.0
    assert told["day 5, bundled", "one frame / step of AMSNet at full size"] == 4.0
    assert told["day 5, bundled", "one frame / step of the bundled AMSNet"] == 4.0
    assert missed == []


def test_the_goals_are_those_of_the_project(frame: dict[int, np.ndarray]) -> None:
    models = [*set_of("-small"), *set_of("")]
    rows, missed = bench_day5(models, frame, None, ScriptedEngine(), rounds=1)
    assert {row.model: row.goal for row in rows if row.goal} == {
        "day 5, bundled": Goal("at most", 1.0),
        "day 5, full size": Goal("at most", 8.0),
    }
    assert missed == []


def test_what_cannot_be_measured_is_named(frame: dict[int, np.ndarray]) -> None:
    """A set without a grader, and full size without an AMSNet to compare with."""
    models = [set_of("-small")[0], *set_of("")]
    rows, missed = bench_day5(models, frame, ScriptedEngine(), None, rounds=1)
    assert not [row for row in rows if row.goal] and {row.model for row in rows} == {"day 5, full size"}
    assert [line.what for line in missed] == ["day 5, bundled", "day 5, full size: in steps of AMSNet at full size"]


def test_a_frame_without_an_embryo_cannot_be_timed() -> None:
    blank = {um: np.full((200, 200), 90, np.uint8) for um in PLANES_UM}
    with pytest.raises(EngineError, match="no embryo found"):
        bench_day5(set_of("-small"), blank, None, None)


def test_a_model_of_day_5_refuses_a_frame_whose_square_nobody_has_found(frame: dict[int, np.ndarray]) -> None:
    from engines.blastocyst import Found, find_in_well
    from engines.preprocess import fit_plane, fit_stack

    one = set_of("-small")[0]
    found = find_in_well(frame[0])
    assert isinstance(found, Found)
    x = seen_by(one, frame, found)
    assert x.shape == (1, 1, 24, 24)
    np.testing.assert_array_equal(x[0, 0] * 255, fit_plane(found.square.cut(frame[0]), 24, 24))
    with pytest.raises(EngineError, match="nobody has said where"):
        fit_stack(frame, one.manifest.preprocess)
    assert one.manifest.task in DAY5_TASKS
