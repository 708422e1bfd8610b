"""The timelines of real videos: alerts as spans, the annotation by frame numbers, a picture that can be drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("matplotlib", reason="needs matplotlib (the extra `train`)")

from training.timelines import Alarm, alarms, annotated, draw

pytestmark = pytest.mark.train


def word(alert_id: str, state: str, reading: str, **values: str) -> dict[str, Any]:
    evidence = {"readings": ["first", reading], "values": values}
    return {"alert_id": alert_id, "kind": "direct_cleavage", "state": state, "evidence": evidence}


def test_an_alert_is_a_span_from_its_first_word_to_its_last() -> None:
    hours = {"r1": 30.0, "r2": 40.0, "r3": 50.0}
    words = [word("a", "raised", "r1", cycle="cc2"), word("b", "raised", "r2", cycle="cc3"), word("a", "cleared", "r3")]
    assert alarms(words, hours) == [
        Alarm("direct_cleavage", "cc2", 30.0, 50.0), Alarm("direct_cleavage", "cc3", 40.0, None)
    ]  # fmt: skip


def test_an_annotation_holds_both_ends_of_each_phase(tmp_path: Path) -> None:
    path = tmp_path / "phases.csv"
    path.write_text("t2,5,6\nt4,7,7\n")
    assert annotated(path) == {5: "t2", 6: "t2", 7: "t4"}


def test_a_video_is_drawn_with_its_stages_its_probability_and_its_alerts(tmp_path: Path) -> None:
    stage = {"live": "t2", "revised": "t2", "onsets_h": {"t2": 25.0}, "onsets_sd_h": {"t2": 0.5}}
    readings = [
        {
            "frame": {"hpi": 24.0 + run, "run": run},
            "stage": stage if run > 1 else None,
            "blastocyst": {"probability": 0.5},
            "lacks": {} if run > 2 else {"blastocyst": "few_segments"},
        }
        for run in range(6)
    ]
    figure = draw("video", readings, {1: "t2", 2: "t4"}, [Alarm("arrest", "t2", 26.0, None)])
    stages, chance, below = figure.axes
    assert [line.get_label() for line in stages.get_lines()][:3] == ["annotation", "live", "revised"]
    assert len(chance.get_lines()[0].get_xdata()) == 6
    assert [label.get_text() for label in below.get_yticklabels()] == ["arrest t2"]
    figure.savefig(tmp_path / "video.png")
    assert (tmp_path / "video.png").stat().st_size > 10_000
