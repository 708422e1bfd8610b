"""Bench: which numbers it gives and that its ratios are those of its medians, on a clock that counts steps."""

import pytest

from engines.bench import CLIP_FRAMES, bench_engine
from engines.scripted_engine import ScriptedEngine, scripted_spec

KEYS = {
    "model",
    "runtime",
    "rounds",
    "step_frame_10_s",
    "step_frame_1000_s",
    "clip_28_s",
    "frame_1000_over_frame_10",
    "clip_over_step",
    "state_bytes",
}


def counted(engine: ScriptedEngine) -> dict[str, object]:
    """A bench on which every step takes two seconds."""
    return bench_engine(engine, rounds=6, clock=lambda: 2.0 * engine.calls)


def test_the_numbers_are_named():
    measured = counted(ScriptedEngine(scripted_spec(name="blasto")))
    assert measured.keys() == KEYS
    assert (measured["model"], measured["runtime"], measured["rounds"]) == ("blasto", "scripted", 6)


def test_a_step_is_one_step_and_a_clip_is_its_frames():
    measured = counted(ScriptedEngine())
    assert measured["step_frame_10_s"] == measured["step_frame_1000_s"] == 2.0
    assert measured["clip_28_s"] == 2.0 * CLIP_FRAMES


def test_the_ratios_are_those_of_the_medians():
    measured = counted(ScriptedEngine())
    assert measured["frame_1000_over_frame_10"] == 1.0
    assert measured["clip_over_step"] == CLIP_FRAMES


def test_one_slow_round_does_not_move_the_median():
    engine = ScriptedEngine()
    readings = iter(range(10_000))
    slow = bench_engine(engine, rounds=5, clock=lambda: float(at if (at := next(readings)) < 2 else at + 100))
    assert slow["step_frame_10_s"] == 1.0


def test_the_size_of_a_state_is_that_of_its_bytes():
    engine = ScriptedEngine()
    assert counted(engine)["state_bytes"] == pytest.approx(len(engine.save(engine.initial_state())), abs=0)
