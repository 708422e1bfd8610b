"""The lab's own indicators: blastocysts observed against predicted, and predictions against the first ones."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from engines.load import Loaded
from engines.scripted_engine import ScriptedEngine, scripted_spec
from monitor.lab import Lab
from monitor.metrics import Metrics
from monitor.node import Node
from monitor.outcome_table import _reached
from monitor.outcomes import LEAST, REFERENCE, Outcome, Outcomes, check_values, distance
from tests.house import FakeClock, node_over, scripted, take_all, write_frame
from tests.test_commands import commands_of, give

HOUR = timedelta(hours=1)


def embryo(p3: float = 0.6, reached: bool | None = True, model: str = "a") -> Outcome:
    return Outcome({"3": p3}, reached, None if reached is None else "stage", model)


def test_a_check_is_the_first_judged_frame_from_its_hour_on_and_none_where_none_came_in_time() -> None:
    frames = [(67.9, 0.1), (68.0, 0.2), (70.0, 0.3), (98.5, 0.4), (116.0, None), (117.0, 0.5), (None, 0.9)]
    assert check_values(frames) == {"3": 0.2, "5": 0.5}


def test_observed_and_predicted_are_of_the_same_embryos_and_those_of_unknown_end_are_left_out() -> None:
    outcomes = Outcomes()
    for k in range(20):
        outcomes.add(embryo(0.7 if k < 12 else 0.2, k < 12))
    for _ in range(5):
        outcomes.add(embryo(0.99, None))
    figures = outcomes.indicators()
    assert (figures.known, figures.share) == (20, 0.6)
    assert figures.predicted == {"3": pytest.approx(0.5)}


def test_of_a_few_embryos_nothing_is_said() -> None:
    outcomes = Outcomes()
    for _ in range(LEAST - 1):
        outcomes.add(embryo())
    figures = outcomes.indicators()
    assert (figures.known, figures.share, figures.predicted, figures.apart) == (LEAST - 1, None, {}, {})


def test_predictions_that_are_spread_otherwise_are_told_and_the_reference_stays() -> None:
    outcomes = Outcomes()
    found = [outcomes.add(embryo(k / REFERENCE)) for k in range(REFERENCE)]
    assert found == [False] * (REFERENCE - 1) + [True]
    assert outcomes.indicators().apart == {"3": 0.0}
    reference = outcomes.reference
    for _ in range(60):
        assert not outcomes.add(embryo(0.9))
    assert outcomes.indicators().apart["3"] == pytest.approx(0.9, abs=0.03)
    assert outcomes.reference == reference


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_the_distance_is_that_of_kolmogorov_and_smirnov(one: list[float], other: list[float]) -> None:
    assert distance(one, one) == 0.0
    assert 0 <= distance(one, other) <= 1 and distance(one, other) == distance(other, one)
    assert distance([p / 4 for p in one], [0.5 + p / 4 for p in other]) == 1.0


def judged(hpi: float | None, revised: str | None = None, day5: str | None = None) -> dict[str, Any]:
    stage = None if revised is None else {"revised": revised}
    return {"frame": {"hpi": hpi}, "stage": stage, "day5": None if day5 is None else {"outcome": day5}}


@pytest.mark.parametrize(
    ("assessments", "frames", "said"),
    [
        ([{"grade": "4AB", "stage": None}], [judged(118, "tM")], (True, "assessment")),
        ([{"grade": None, "stage": "tM"}], [judged(118, "tB")], (False, "assessment")),
        ([{"grade": None, "stage": "t8"}], [judged(70, "t8")], (None, None)),
        ([{"grade": None, "stage": None, "note": "odd"}], [judged(118, "tB")], (True, "stage")),
        ([], [judged(118, "tM", "graded")], (True, "day5")),
        ([], [judged(100, "tB")], (True, "stage")),
        ([], [judged(100, "tM")], (None, None)),
        ([], [judged(117, "tSB")], (False, "stage")),
        ([], [judged(117, None, "no_blastocyst")], (False, "day5")),
        ([], [judged(None, "tM")], (None, None)),
    ],
)
def test_an_embryologist_is_believed_before_any_network_and_too_early_is_not_known(
    assessments: list[dict[str, Any]], frames: list[dict[str, Any]], said: tuple[bool | None, str | None]
) -> None:
    assert _reached(assessments, frames) == said


# -- over a node -------------------------------------------------------------------------------------------------------


def hopeful(probability: float, digest: str = "0") -> Loaded:
    engine = ScriptedEngine(scripted_spec(), lambda state, inputs: probability)
    loaded = scripted(engine)
    graph = loaded.manifest.graph.model_copy(update={"sha256": digest * 64})
    return Loaded(engine, loaded.manifest.model_copy(update={"graph": graph}), "scripted")


def lived(tmp_path: Path, clock: FakeClock, dish: str, wells: int, loaded: Loaded, reached: bool) -> Node:
    """A dish of embryos: a frame at 69 h, an assessment, and their runs are over."""
    clock.pass_s(10 * 86400)
    node = node_over(tmp_path, clock, loaded, insemination=clock.at - 69 * HOUR)
    for well in range(1, wells + 1):
        write_frame(tmp_path / "inc", str(well), clock.at, dish=dish)
    take_all(node)
    commands = commands_of(node, clock)
    for well in range(1, wells + 1):
        where = {"incubator": "inc1", "dish": dish, "well": str(well)}
        if reached:
            assert give(commands, "assess", **where, grade="4AB").accepted
        assert give(commands, "end", **where).accepted
    return node


def figures(node: Node, clock: FakeClock) -> dict[str, float | None]:
    metrics = Metrics(CollectorRegistry(), clock.now)
    Lab(["inc1"], node.journal, metrics).refresh(clock.now())

    def value(name: str, **labels: str) -> float | None:
        return metrics.registry.get_sample_value(f"pellucid_{name}", {"incubator": "inc1", **labels})

    return {
        "known": value("outcomes_known"),
        "share": value("blastocyst_share"),
        "predicted": value("blastocyst_predicted", day="3"),
        "apart": value("prediction_drift", day="3"),
    }


def test_runs_that_end_become_figures_that_are_the_same_after_a_restart(tmp_path: Path) -> None:
    clock = FakeClock()
    node = lived(tmp_path, clock, "D1", 12, hopeful(0.75), reached=True)
    told = figures(node, clock)
    assert told == {"known": 12, "share": 1.0, "predicted": 0.75, "apart": None}
    rows = node.journal._db.execute("SELECT body FROM audit WHERE kind = 'outcome'").fetchall()
    assert {json.loads(body)["said_by"] for (body,) in rows} == {"assessment"} and len(rows) == 12
    node.journal.close()
    assert figures(node_over(tmp_path, clock), clock) == told


def test_the_reference_of_predictions_is_of_the_first_embryos_and_of_one_model(tmp_path: Path) -> None:
    clock = FakeClock()
    node = lived(tmp_path, clock, "D1", REFERENCE, hopeful(0.2), reached=False)
    assert figures(node, clock)["apart"] == 0.0
    node.journal.close()
    node = lived(tmp_path, clock, "D2", REFERENCE + 10, hopeful(0.9), reached=False)
    assert figures(node, clock) == {"known": 0, "share": None, "predicted": None, "apart": 1.0}
    node.journal.close()
    node = lived(tmp_path, clock, "D3", LEAST, hopeful(0.9, "1"), reached=False)
    assert figures(node, clock)["apart"] is None, "another model begins anew"
    last = node.journal.audit.last("predictions/inc1")
    assert last is not None and json.loads(last.body)["value"]["days"]["3"] == [0.2] * REFERENCE
