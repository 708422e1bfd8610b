"""What the audit's chain holds, and that nothing it covers can be changed unseen."""

from __future__ import annotations

import hashlib
import json
from datetime import timedelta
from pathlib import Path

import pytest

from monitor.audit import GENESIS, Link, canonical, differences
from monitor.journal import Journal
from monitor.node import Node
from tests.house import PLANES_UM, START, FakeClock, node_over, plane_path, scripted, take_all, write_frame


def links(journal: Journal) -> list[Link]:
    return [Link(*row) for row in journal._db.execute("SELECT * FROM audit ORDER BY number")]


def of_kind(node: Node, kind: str) -> list[dict[str, object]]:
    return [json.loads(link.body) for link in links(node.journal) if link.kind == kind]


def test_every_row_holds_the_hash_of_the_one_before(tmp_path: Path) -> None:
    node = node_over(tmp_path, FakeClock())
    for hour in range(3):
        write_frame(tmp_path / "inc", "1", START + timedelta(hours=hour))
    take_all(node)
    chain = links(node.journal)
    assert [link.number for link in chain] == list(range(1, len(chain) + 1))
    assert [link.previous for link in chain] == [GENESIS, *(link.hash for link in chain[:-1])]
    assert all(link.computed() == link.hash for link in chain)
    assert [link.kind for link in chain] == ["start", "models", "reading", "reading", "reading"]


def test_a_readings_row_tells_its_pictures_and_the_memories_before_and_after(tmp_path: Path) -> None:
    node = node_over(tmp_path, FakeClock())
    for hour in (0, 7):
        write_frame(tmp_path / "inc", "1", START + timedelta(hours=hour))
    take_all(node)
    first, second = of_kind(node, "reading")
    files = {um: plane_path(tmp_path / "inc", "1", START, um).read_bytes() for um in PLANES_UM}
    assert first["pictures"] == {str(um): hashlib.sha256(blob).hexdigest() for um, blob in files.items()}
    now = node.journal.state_digest("inc1/D1/1/20260105T080000Z", node.model)
    ((none, then),) = first["states"].values()  # type: ignore[attr-defined]
    assert none is None and then != now
    assert second["states"] == {node.model: [then, now]}


def test_a_start_tells_the_software_and_models_are_told_when_they_change(tmp_path: Path) -> None:
    node = node_over(tmp_path, FakeClock())
    node.journal.close()
    node = node_over(tmp_path, FakeClock(), boot_id="boot2")
    node.journal.close()
    loaded = scripted()
    changed = loaded.manifest.model_copy(update={"version": "1"})
    node = node_over(tmp_path, FakeClock(), type(loaded)(loaded.engine, changed, ""), boot_id="boot3")
    assert [start["boot_id"] for start in of_kind(node, "start")] == ["boot1", "boot2", "boot3"]
    first, second = of_kind(node, "models")
    assert first["changed"] == {}
    assert second["changed"] == {"scripted.version": ["0", "1"]}


def test_a_configuration_is_told_once_and_again_with_what_has_changed(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "a")
    for settings in ({"a": {"b": 1}}, {"a": {"b": 1}}, {"a": {"b": 2}, "c": [1]}):
        journal.configured(settings, START)
    told = [json.loads(link.body) for link in links(journal)]
    assert told == [
        {"value": {"a": {"b": 1}}, "changed": {}},
        {"value": {"a": {"b": 2}, "c": [1]}, "changed": {"a.b": [1, 2], "c": [None, [1]]}},
    ]


def test_a_transaction_that_fails_leaves_no_row_in_the_chain(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "a")
    with pytest.raises(RuntimeError), journal._database.transaction():
        journal.audit.append("start", "start", {}, START)
        raise RuntimeError
    assert journal.audit.head() == (0, GENESIS)


def test_a_value_has_one_text_and_what_is_no_number_is_refused() -> None:
    assert canonical({"b": 1.5, "a": ["é", None]}) == '{"a":["é",null],"b":1.5}'
    with pytest.raises(ValueError, match="JSON"):
        canonical({"a": float("nan")})
    assert differences({"a": 1, "b": {"c": 2}}, {"b": {"c": 3}}) == {"a": [1, None], "b.c": [2, 3]}
