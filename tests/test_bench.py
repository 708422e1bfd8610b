"""Bench: its arithmetic, its rows and goals on a clock that counts steps; the whole way without a broker or a model."""

from __future__ import annotations

import itertools
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from engines.bench import (
    CLIP_FRAMES,
    Goal,
    NotRun,
    Row,
    as_json,
    bench_engine,
    bench_stage,
    engine_rows,
    paired_ratio,
    row_of,
    table,
    told,
)
from engines.scripted_engine import ScriptedEngine, scripted_spec
from monitor import cli_engines
from monitor.bench import Plan, bench_way, bytes_a_day, plan_for, way_rows
from monitor.config import Mqtt
from monitor.errors import ConfigError, PellucidError
from monitor.fakes import ScriptedSession
from monitor.mqtt_session import Session, Will
from monitor.way import Pictures, Stopwatch, Way
from tests.house import scripted
from tests.staged import stage_manifest, staged_model

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
NOBODY = Mqtt(host="127.0.0.1", port=1)


def counted(engine: ScriptedEngine) -> dict[str, Any]:
    """A bench on which every step takes two seconds."""
    return bench_engine(engine, rounds=6, clock=lambda: 2.0 * engine.calls)


class WillingSession(ScriptedSession):
    """A broker that accepts at once and acknowledges each message as it comes."""

    def __init__(self, will: Will) -> None:
        super().__init__(will)
        self.accept()

    def publish(self, topic: str, payload: bytes, *, retain: bool) -> int:
        message_id = super().publish(topic, payload, retain=retain)
        self.acknowledge()
        return message_id


def willing(will: Will) -> Session:
    return WillingSession(will)


def test_the_numbers_are_named():
    measured = counted(ScriptedEngine(scripted_spec(name="blasto")))
    assert measured.keys() == KEYS
    assert (measured["model"], measured["runtime"], measured["rounds"]) == ("blasto", "scripted", 6)


def test_a_step_is_one_step_and_a_clip_is_its_frames():
    measured = counted(ScriptedEngine())
    assert measured["step_frame_10_s"] == measured["step_frame_1000_s"] == 2.0
    assert measured["clip_28_s"] == 2.0 * CLIP_FRAMES


def test_the_ratios_of_equal_steps_are_their_counts():
    measured = counted(ScriptedEngine())
    assert measured["frame_1000_over_frame_10"] == 1.0
    assert measured["clip_over_step"] == CLIP_FRAMES


def test_one_slow_round_does_not_move_the_median():
    engine = ScriptedEngine()
    readings = iter(range(10_000))
    slow = bench_engine(engine, rounds=5, clock=lambda: float(at if (at := next(readings)) < 2 else at + 100))
    assert slow["step_frame_10_s"] == 1.0


def test_a_ratio_is_the_median_of_the_rounds_own_ratios_so_that_a_slow_hour_does_not_move_it():
    assert paired_ratio([2.0, 20.0, 2.2], [1.0, 10.0, 1.0]) == pytest.approx(2.0)


def test_the_size_of_a_state_is_that_of_its_bytes():
    engine = ScriptedEngine()
    assert counted(engine)["state_bytes"] == pytest.approx(len(engine.save(engine.initial_state())), abs=0)


def test_the_engines_rows_carry_the_goals_of_the_project():
    goals = {row.what: (row.goal and (row.goal.kind, row.goal.value)) for row in engine_rows(counted(ScriptedEngine()))}
    assert goals == {
        "one step": None,
        "step, frame 1,000 / frame 10": ("about", 1.0),
        "clip of 28 frames recomputed / step": ("at least", 25.0),
        "state of an embryo": ("at most", 9e6),
    }


@pytest.mark.parametrize(
    ("goal", "meets", "misses"),
    [
        (Goal("at most", 1.10), (1.10, 0.5), (1.11, float("nan"))),
        (Goal("at least", 25.0), (25.0, 40.0), (24.9, float("nan"))),
        (Goal("about", 1.0), (0.95, 1.05), (0.94, 1.06, float("nan"))),
    ],
)
def test_a_goal_is_met_or_not_and_never_by_what_is_no_number(
    goal: Goal, meets: tuple[float, ...], misses: tuple[float, ...]
) -> None:
    assert all(goal.met(value) for value in meets)
    assert not any(goal.met(value) for value in misses)


def test_the_table_says_met_not_met_and_not_run_with_the_reason():
    rows = [
        Row("m", "step", 0.0047, "s"),
        Row("m", "way", 1.2, "", Goal("at most", 1.1)),
        Row("m", "memory", 8.23e6, "bytes", Goal("at most", 9e6)),
    ]
    assert table(rows, [NotRun("PyTorch", "torch is not installed")]).splitlines()[2:] == [
        "| m | step | 4.70 ms |  |  |",
        "| m | way | 1.20 | at most 1.10 | **not met** |",
        "| m | memory | 8.23 MB | at most 9.00 MB | met |",
        "| | PyTorch | not run | | torch is not installed |",
    ]


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [(0.2139, "s", "214 ms"), (106_000, "bytes", "106.00 kB"), (0, "bytes", "0 B"), (31.84, "", "31.8")],
)
def test_values_are_told_in_units_that_fit(value: float, unit: str, text: str) -> None:
    assert told(value, unit) == text


def test_a_row_comes_back_from_its_json_as_it_was():
    rows = [Row("m", "way", 1.2, "", Goal("at most", 1.1)), Row("m", "step", 0.1, "s")]
    written = json.loads(json.dumps(as_json(rows, [NotRun("x", "y")])))
    assert [row_of(row) for row in written["rows"]] == rows
    assert [row["met"] for row in written["rows"]] == [False, None]
    assert written["not_run"] == [{"what": "x", "why": "y"}]


def test_a_stopwatch_counts_every_call_of_one_objects_method():
    class Work:
        def do(self, count: int) -> int:
            return count + 1

    ticks = itertools.count()
    stopwatch, timed, other = Stopwatch(lambda: float(next(ticks))), Work(), Work()
    stopwatch.around(timed, "do", "work")
    assert [timed.do(1), timed.do(2), other.do(3)] == [2, 3, 4]
    assert stopwatch.laps == {"work": [1.0, 1.0]}


def test_the_whole_way_of_a_frame_ends_with_its_reading_acknowledged_and_out_of_the_outbox(tmp_path: Path) -> None:
    sessions: list[WillingSession] = []

    def open_session(will: Will) -> Session:
        sessions.append(WillingSession(will))
        return sessions[-1]

    way = Way(
        scripted(), tmp_path / "way", Pictures(tmp_path / "p", 64), NOBODY, stopwatch := Stopwatch(), open_session
    )
    for minutes in (0, 10):
        way.put(1, timedelta(minutes=minutes))
        way.take("frame")
    topics = [topic for _, topic, _, _ in sessions[0].sent]
    assert topics.count("pellucid/v1/bench/bench/embryo/inc1/D1/1/reading") == 2
    assert way.node.journal.outbox.depth()[0] == 0
    assert {name: len(laps) for name, laps in stopwatch.laps.items()} == {
        **dict.fromkeys(("frame", "look", "decode", "advance", "journal", "publish"), 2),
        "state": 1,
    }
    way.close()


def test_a_frame_that_is_lost_on_the_way_is_no_figure(tmp_path: Path) -> None:
    lost = scripted(ScriptedEngine(faults={0: "out of memory"}))
    way = Way(lost, tmp_path / "way", Pictures(tmp_path / "p", 64), NOBODY, Stopwatch(), willing)
    way.put(1, timedelta())
    with pytest.raises(PellucidError, match="not judged but engine_failed"):
        way.take("frame")
    way.close()


def test_the_whole_way_is_measured_early_and_late_and_over_many_embryos():
    plan = Plan(rounds=2, embryos=3, late=12, size_px=64, held=4)
    measured = bench_way(scripted(), NOBODY, plan, open_session=willing)
    assert measured["plan"] == vars(plan)
    parts = {"step", "usual", "opening", "late", "late_look", "look", "decode", "observe", "preprocess", "journal"}
    assert parts | {"publish", "state", "advance", "usual_look"} == measured["seconds"].keys()
    assert all(seconds > 0 for seconds in measured["seconds"].values())
    assert measured["memory_bytes"] > 7 * 8 * 8, "every embryo has a memory file of its own: state and one stack"
    assert {"written_usual_bytes", "written_opening_bytes", "resident_bytes"} < measured.keys()
    json.dumps(measured)


def measured_way(**late: float) -> dict[str, Any]:
    parts = dict.fromkeys(("look", "decode", "observe", "preprocess", "journal", "publish", "state"), 0.01)
    return {
        "seconds": {"step": 0.2, "usual": 0.21, "opening": 0.48, "late_look": 0.1, **parts},
        "ratios": {"usual_over_step": 1.05, "opening_over_step": 2.4, **late},
        "written_usual_bytes": 100e3,
        "written_opening_bytes": 8e6,
        "memory_bytes": 8.6e6,
        "resident_bytes": 8.7e6,
    }


def test_the_way_is_averaged_over_a_segment_of_which_one_frame_is_stepped_twice():
    rows = {row.what: row for row in way_rows("m", measured_way(), full_size=True)}
    assert rows["whole way / step, a usual frame"].value == 1.05
    mean = rows["whole way / step, mean of a segment's 36 frames"]
    assert mean.value == pytest.approx((35 * 1.05 + 2.4) / 36)
    assert mean.goal == Goal("at most", 1.10)


def test_the_goal_of_the_way_is_that_of_the_full_size_only():
    small = way_rows("m", measured_way(), full_size=False)
    assert not [row for row in small if "whole way / step" in row.what and row.goal]


def test_the_late_frame_is_compared_with_and_without_listing_its_folder():
    measured = measured_way(late_over_usual=2.0, late_over_usual_beyond_look=1.0)
    rows = {row.what: row for row in way_rows("m", measured, full_size=False)}
    assert rows["whole way, frame 1,000 / frame 10"].value == pytest.approx(2.0)
    assert rows["  the same without listing the folder (7,000 files)"].value == pytest.approx(1.0)


def test_bytes_a_day_count_240_embryos_every_10_minutes_with_four_memories_each():
    assert bytes_a_day(1.0, 0.0) == 240 * 140
    assert bytes_a_day(0.0, 1.0) == 240 * 4


def test_a_model_with_a_long_step_is_measured_in_fewer_rounds():
    assert plan_for(0.2).rounds < plan_for(0.005).rounds
    assert (plan_for(0.2).late, plan_for(0.005).late) == (0, 1000)


def test_the_command_prints_one_json_object_or_a_table_and_what_was_not_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from monitor.cli import main

    engine = {**counted(ScriptedEngine()), "model": "amsnet-small"}
    monkeypatch.setattr(cli_engines, "_bench_one", lambda loaded: (engine, measured_way(), []))
    monkeypatch.chdir(tmp_path)  # no build/models here
    added = tmp_path / "more.json"
    added.write_text(json.dumps(as_json([Row("amsnet-small", "PyTorch eager / ONNX Runtime", 3.0)], [])))
    assert main(["engines", "bench", "--json", "--add", str(added), "--json-file", str(tmp_path / "b.json")]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "b.json").read_text())
    assert printed.keys() == {"schema", "machine", "models", "rows", "not_run"}
    assert printed["rows"][-1]["what"] == "PyTorch eager / ONNX Runtime"
    assert [gap["why"] for gap in printed["not_run"]] == ["no model in build/models: make full-size"]
    assert main(["engines", "bench"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| model | what | value | goal | |"
    assert [line for line in lines if "ONNX Runtime against PyTorch eager | not run" in line]


def test_rows_that_are_none_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "odd.json").write_text('{"rows": [{"what": 1}]}')
    with pytest.raises(ConfigError, match=r"odd\.json: no rows of a bench"):
        cli_engines._added(tmp_path / "odd.json")


def test_a_stage_model_is_timed_as_encoder_and_head_beside_the_blastocyst_model_of_its_size() -> None:
    rows = {row.what: row for row in bench_stage(staged_model(), ScriptedEngine(), rounds=3)}
    assert set(rows) == {
        *("encoder, one frame", "head, one step", "head's step, frame 700 / frame 10", "state of an embryo"),
        "encoder and head / scripted's step",
    }
    assert rows["head's step, frame 700 / frame 10"].goal == Goal("about", 1.0)
    assert rows["encoder and head / scripted's step"].goal is None  # a goal is for the full size only


@pytest.mark.parametrize(("trunk", "limit"), [("resnet18", 1.2), ("resnet50", 2.5)])
def test_the_goal_of_a_stage_models_frame_is_that_of_its_encoders_trunk(trunk: str, limit: float) -> None:
    manifest = stage_manifest().model_copy(update={"provenance": {"trunk": trunk}})
    *_, last = bench_stage(staged_model(manifest), ScriptedEngine(), rounds=2)
    assert last.goal == Goal("at most", limit)
