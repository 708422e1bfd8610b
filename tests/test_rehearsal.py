"""The rehearsal: the script is the same for every run, the rules find what is true, and a record scores like itself."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from monitor.alert_rules import DEFAULTS, Alerts, Arrest
from monitor.rehearsal import ideal
from monitor.rehearsal.cases import FIRST_SEED, Scene, Trouble, Well, script
from monitor.rehearsal.record import record, seen
from monitor.rehearsal.score import play, prognosis, recorded, score, told
from monitor.rehearsal.truth import due
from monitor.simulator import PLANES_UM, Life, VirtualEmbryo
from monitor.vocabulary import Reading
from tests.house import scripted


def test_more_embryos_change_nothing_about_the_first_and_no_seed_comes_twice() -> None:
    small, large = script(24, 3), script(60, 9)
    assert small[:2] == large[:2]
    seeds = [well.seed for scene in large for well in scene.wells]
    assert len(set(seeds)) == len(seeds) == 69 and min(seeds) == FIRST_SEED
    assert small[-1].wells == large[-1].wells[:3]


def test_the_script_holds_every_trouble_alone_and_some_in_pairs() -> None:
    scenes = script(36)
    alone = {one.kind for scene in scenes for well in scene.wells for one in well.troubles}
    together = {one.kind for scene in scenes for one in scene.troubles}
    assert alone | together == {"dark", "blurred", "missing_planes", "lacking", "blank", "empty", "gap"}
    assert any(
        len(scene.trouble_at(well, hour)) == 2 for scene in scenes for well in scene.wells for hour in scene.hours()
    )


def test_told_the_truth_the_rules_find_what_is_due_and_nothing_else() -> None:
    scores = score([play(scene, ideal.readings(scene), DEFAULTS) for scene in script(24, 12)])
    for kind, own in scores.items():
        assert own.due, kind
        assert own.false == 0, kind
        least = 0.6 if kind in ("direct_cleavage", "reverse_cleavage") else 1.0  # an hour apart, five are four or six
        assert own.found >= least * own.due, kind
    every_ten = score([play(scene, ideal.readings(scene), DEFAULTS) for scene in script(1, 12)[1:]])
    assert every_ten["reverse_cleavage"].found == every_ten["reverse_cleavage"].due > 2
    assert every_ten["direct_cleavage"].found >= 0.8 * every_ten["direct_cleavage"].due > 3


def test_a_dead_lamp_of_a_whole_incubator_is_one_word() -> None:
    scene = next(scene for scene in script(12) if scene.troubles)
    words = play(scene, ideal.readings(scene), DEFAULTS).words
    dark = next(one for one in scene.troubles if one.kind == "dark")
    about = [
        word
        for word in words
        if word.kind == "imaging_degraded" and word.state.value == "raised"
        and dark.from_h <= float(word.evidence.values["hpi"] or 0) <= dark.from_h + dark.hours + 3
    ]  # fmt: skip
    assert [word.subject.key for word in about] == [f"incubator/{scene.name}"]
    assert len(about[0].members) > len(scene.wells) / 2


def test_a_limit_that_is_moved_moves_the_score() -> None:
    scenes = script(24)
    patient = Alerts(arrest=Arrest(enter=50))
    assert score([play(scene, ideal.readings(scene), patient) for scene in scenes])["arrest"].found == 0


def test_the_prognosis_counts_every_embryo_that_stayed_once() -> None:
    scenes = script(24)
    counts = prognosis([play(scene, ideal.readings(scene), DEFAULTS) for scene in scenes])
    becomes = [
        Life.sample(well.seed).reaches_blastocyst for scene in scenes for well in scene.wells if well.number != 9
    ]
    assert counts["any"] == {
        "true_low": becomes.count(False),
        "false_low": 0,
        "missed": 0,
        "true_rest": becomes.count(True),
    }


@pytest.mark.parametrize("kind", ["dark", "blurred", "blank", "empty"])
def test_a_trouble_changes_what_the_camera_sees(kind: str) -> None:
    embryo = VirtualEmbryo(FIRST_SEED)
    good, bad = seen(embryo, 40.0, ()), seen(embryo, 40.0, (kind,))  # type: ignore[arg-type]
    assert good.shape == bad.shape == (len(PLANES_UM), 224, 224)
    assert np.abs(good.astype(int) - bad).mean() > 1


def test_a_record_holds_every_frame_of_its_scene_and_scores(tmp_path: Path) -> None:
    wells = (Well(1, FIRST_SEED), Well(2, FIRST_SEED + 1, (Trouble("dark", 19, 6),)))
    scene = Scene("inc1", wells, 60.0, 25.0, (Trouble("gap", 23, 1),))
    path = tmp_path / "inc1.2.jsonl"
    (tmp_path / "frames").mkdir()
    lines = record(scene, scripted(), path, tmp_path / "frames")
    first = path.read_bytes()
    drawn = {one.name: one.stat().st_mtime_ns for one in (tmp_path / "frames").iterdir()}
    record(scene, scripted(), path, tmp_path / "frames")
    assert path.read_bytes() == first  # the same frames, drawn once
    assert drawn == {one.name: one.stat().st_mtime_ns for one in (tmp_path / "frames").iterdir()}
    read = [Reading.model_validate_json(line) for line in path.read_text().splitlines()]
    assert lines == len(read) == 2 * (len(scene.hours()) - 1)
    dark = [one.frame.hpi for one in read if "dark" in one.quality.flags]
    assert dark == [19.0, 20.0, 21.0, 22.0, 24.0]
    (thing,) = [one for one in due(scene) if one.kind == "imaging_degraded"]
    words = play(scene, read, DEFAULTS).words
    raised = [word for word in words if word.kind == "imaging_degraded"]
    assert [(word.subject.well, word.evidence.values["hpi"]) for word in raised] == [("2", 22.0)]
    assert thing.from_h == 19
    (tmp_path / "record.json").write_text(json.dumps({"embryos": 2, "ten_min": 0}))
    ((again, same),) = recorded(tmp_path)
    assert (again.name, same) == ("inc1", read)
    text, plain = told([play(scene, read, DEFAULTS)])
    assert "| `imaging_degraded` | 1 | 1 | 1.00 | 1 | 1.00 |" in text
    assert plain["every_60_min"]["imaging_degraded"]["delay_h"] == [3.0]
