"""Blind first: nothing the models say leaves before the assessment, all of it after, and the journal has it all."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from monitor.alert_rules import OF_EMBRYOS
from monitor.blind import SCORES, Blind, withheld
from monitor.command_body import COMMANDS
from monitor.commands import Commands
from monitor.config import make_config
from monitor.errors import ConfigError
from monitor.node import Node, Source, build_node
from monitor.vocabulary import Reading
from tests.house import START, FakeClock, new_metrics, take_all, write_frame
from tests.staged import staged
from tests.test_stages import COURSE, write_course

WELL = {"incubator": "inc1", "dish": "D1", "well": "1", "by": "mk"}
READING, EMBRYO = "embryo/inc1/D1/1/reading", "inc1/D1/1/20260105T080000Z"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(START + timedelta(hours=100))


def node_over(tmp_path: Path, clock: FakeClock, boot_id: str | None = "boot1", blind_first: bool = True) -> Node:
    from monitor.config import Incubator

    (tmp_path / "inc").mkdir(exist_ok=True)
    facts = {"name": "inc1", "path": tmp_path / "inc", "stable_s": 0, "deadline_s": 0}
    one = Incubator.model_validate({**facts, "insemination": START - timedelta(hours=26)})
    return build_node(
        "lab", "box", [Source(one)], staged(), tmp_path / "store", boot_id, clock, new_metrics(clock),
        blind_first=blind_first,
    )  # fmt: skip


def assess(node: Node, clock: FakeClock, **said: object) -> None:
    commands = Commands(
        node.journal, node.alarms, node.time_zeros, tuple(COMMANDS), "boot1", clock.now, node.pipeline.forget
    )
    answer, _ = commands.execute("assess", json.dumps({**WELL, "grade": "4AB", **said}).encode(), "test")
    assert answer.accepted, answer.reason


def sent(node: Node, topic: str = READING) -> list[dict[str, Any]]:
    rows = node.journal.outbox.pending(0, 10_000)
    return [json.loads(row.body) for row in rows if row.topic == topic and row.body]


def alerts_sent(node: Node) -> list[dict[str, Any]]:
    return [json.loads(row.body) for row in node.journal.outbox.pending(0, 10_000) if row.kind == "alert"]


def acknowledge_all(node: Node) -> None:
    node.journal.outbox.remove([row.row_id for row in node.journal.outbox.pending(0, 10_000)])


def test_no_score_leaves_before_the_assessment_and_the_journal_has_every_one(tmp_path: Path, clock: FakeClock) -> None:
    write_course(tmp_path / "inc", COURSE)
    node = node_over(tmp_path, clock)
    readings = take_all(node)
    assert all(one.blastocyst is not None for one in readings)
    told = sent(node)
    assert len(told) == len(readings)
    for one, full in zip(told, readings, strict=True):
        assert [one[score] for score in SCORES] == [None] * 3
        assert {one["lacks"][score] for score in SCORES} == {"withheld"}
        assert one["id"] != full.id and one["seq"] == full.seq
        assert one["frame"] == json.loads(full.body())["frame"]
        assert not {"cc2", "s2", "cc3", "s3"} & set(one["lacks"])
    kept = [json.loads(body) for body in node.journal.bodies()]
    assert [one["id"] for one in kept] == [one.id for one in readings]
    assert all(one["stage"] is not None for one in kept)


def test_the_assessment_lets_the_newest_reading_out_at_once_and_every_later_one(
    tmp_path: Path, clock: FakeClock
) -> None:
    write_course(tmp_path / "inc", COURSE)
    node = node_over(tmp_path, clock)
    readings = take_all(node)
    acknowledge_all(node)
    assess(node, clock)
    (row,) = [row for row in node.journal.outbox.pending(0, 100) if row.topic == READING]
    assert row.retain and json.loads(row.body) == json.loads(readings[-1].body())
    write_frame(tmp_path / "inc", "1", START + timedelta(hours=90), size_px=128)
    (later,) = take_all(node)
    if later.embryo.embryo_id == EMBRYO:
        assert sent(node)[-1]["id"] == later.id


def test_what_stands_in_the_topic_stays_withheld_over_a_restart_and_a_new_session(
    tmp_path: Path, clock: FakeClock
) -> None:
    write_course(tmp_path / "inc", COURSE)
    node = node_over(tmp_path, clock)
    take_all(node)
    first = sent(node)[-1]
    acknowledge_all(node)
    node.journal.close()
    node = node_over(tmp_path, clock, "boot2")
    (again,) = [row for row in node.journal.outbox.retained() if row.topic == READING]
    assert json.loads(again.body) == first  # one id, one content
    assess(node, clock)
    acknowledge_all(node)
    (after,) = [row for row in node.journal.outbox.retained() if row.topic == READING]
    assert json.loads(after.body)["stage"] is not None


def blastocyst_course(tmp_path: Path) -> None:
    write_course(tmp_path / "inc", [*COURSE, *["tB"] * 12])


def test_an_alert_about_what_the_models_say_is_recorded_and_said_when_the_assessment_is_there(
    tmp_path: Path, clock: FakeClock
) -> None:
    blastocyst_course(tmp_path)
    node = node_over(tmp_path, clock)
    take_all(node)
    recorded = [json.loads(body) for body in node.journal.alerts.bodies()]
    hidden = [one for one in recorded if one["kind"] in OF_EMBRYOS]
    assert hidden and all("seq" not in one for one in hidden)
    assert not [one for one in alerts_sent(node) if one["kind"] in OF_EMBRYOS]
    assert not [row for row in node.journal.outbox.retained() if row.kind == "alert" and row.body]
    assert node.alarms.remind(clock.now() + timedelta(days=1)) == []
    acknowledge_all(node)
    assess(node, clock)
    said = [one for one in alerts_sent(node) if one["kind"] in OF_EMBRYOS]
    assert {one["alert_id"] for one in said} == set(node.journal.alerts.open_bodies())
    assert all(one["state"] == "updated" and one["seq"] for one in said)
    seqs = sorted(one["seq"] for one in said)
    assert seqs == list(range(seqs[0], seqs[0] + len(seqs)))


def test_what_was_queued_before_the_option_was_switched_on_does_not_go_out(tmp_path: Path, clock: FakeClock) -> None:
    blastocyst_course(tmp_path)
    node = node_over(tmp_path, clock, blind_first=False)
    readings = take_all(node)
    topics = {row.topic for row in node.journal.outbox.pending(0, 10_000) if row.kind == "alert" and row.retain}
    assert topics and sent(node)[-1]["blastocyst"] is not None
    node.journal.close()
    node = node_over(tmp_path, clock, "boot2")
    told = sent(node)
    assert len(told) == len(readings)
    assert all(one[score] is None for one in told for score in SCORES)
    assert not [one for one in alerts_sent(node) if one["kind"] in OF_EMBRYOS]
    assert {row.topic for row in node.journal.outbox.pending(0, 10_000) if row.retain and not row.body} == topics
    assess(node, clock)
    assert [one for one in alerts_sent(node) if one["kind"] in OF_EMBRYOS]


def test_counts_leave_out_what_is_withheld_until_the_assessment(tmp_path: Path, clock: FakeClock) -> None:
    blastocyst_course(tmp_path)
    node = node_over(tmp_path, clock)
    take_all(node)
    assert set(node.journal.alerts.open_counts()) & set(OF_EMBRYOS)
    assert not set(node.journal.alerts_open()) & set(OF_EMBRYOS)
    assess(node, clock)
    assert node.journal.alerts_open() == node.journal.alerts.open_counts()


def test_what_is_wrong_with_pictures_is_never_withheld(tmp_path: Path, clock: FakeClock) -> None:
    node = node_over(tmp_path, clock)
    for k in range(4):
        write_frame(tmp_path / "inc", "1", START + k * timedelta(minutes=20), level=0, size_px=128)
    take_all(node)
    assert [one["kind"] for one in alerts_sent(node)] == ["imaging_degraded"]
    (one, *_) = sent(node)
    assert one["outcome"] == "unfit" and one["quality"]["measured"] is not None


def test_each_embryo_waits_for_its_own_assessment(tmp_path: Path, clock: FakeClock) -> None:
    write_course(tmp_path / "inc", COURSE)
    node = node_over(tmp_path, clock)
    take_all(node)
    assert node.journal.blind.hides(EMBRYO)
    assess(node, clock)
    assert not node.journal.blind.hides(EMBRYO)
    assert node.journal.blind.hides("inc1/D1/1/another")


def test_without_the_option_and_in_a_replay_nothing_is_withheld(tmp_path: Path, clock: FakeClock) -> None:
    write_course(tmp_path / "inc", COURSE)
    for name, boot_id, blind_first in (("open", "boot1", False), ("replay", None, True)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "inc").symlink_to(tmp_path / "inc")
        node = node_over(tmp_path / name, clock, boot_id, blind_first)
        take_all(node)
        assert not node.journal.blind.hides(EMBRYO)
        node.journal.close()


def test_the_option_needs_a_way_to_give_an_assessment(tmp_path: Path) -> None:
    config = {
        "site": {"name": "lab", "node": "box"},
        "incubator": [{"name": "inc1", "path": tmp_path}],
        "mqtt": {"host": "127.0.0.1"},
        "storage": {"path": tmp_path},
        "commands": {"enabled": ["end"], "blind_first": True},
    }
    with pytest.raises(ConfigError, match="blind_first needs the command assess"):
        make_config(config)
    config["commands"] = {"blind_first": True}
    assert make_config(config).commands.blind_first


def test_a_withheld_revision_names_the_withheld_one_before_it(tmp_path: Path, clock: FakeClock) -> None:
    write_course(tmp_path / "inc", COURSE)
    first: Reading = take_all(node_over(tmp_path, clock))[0]
    second = first.model_copy(update={"id": "f" * 32, "supersedes": first.id, "revision": 2})
    assert withheld(second).supersedes == withheld(first).id
    assert Blind(True, lambda embryo_id: False).shown(second) == withheld(second)
    assert Blind(True, lambda embryo_id: True).shown(second) is second
