"""The contract's files: as the models are, true of everything that is published, and kept from version to version."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator, FormatChecker

from monitor.alert import AlertState
from monitor.contract.asyncapi import document
from monitor.contract.files import files
from monitor.contract.schemas import ANSWER, HEARD, SAID, schemas
from monitor.fakes import ScriptedSession
from monitor.mqtt_session import Will
from tests.compatibility import breaking
from tests.graded import INSEMINATED, graded, write_blastocyst
from tests.house import PLANES_UM, START, write_frame
from tests.staged import staged_model
from tests.test_daemon import Scene

HOME = Path(__file__).resolve().parents[1]
DEPLOY = HOME / "deploy"
FROZEN = Path(__file__).parent / "v1"
HOUR = timedelta(hours=1)


def strict(schema: Any) -> Any:
    """The same, taking offence at every key that it does not name: what is sent must be told of in whole."""
    if isinstance(schema, list):
        return [strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: strict(value) for key, value in schema.items()}
    return {**closed, "additionalProperties": False} if isinstance(closed.get("properties"), dict) else closed


@cache
def validator(name: str) -> Draft202012Validator:
    return Draft202012Validator(strict(schemas()[name]), format_checker=FormatChecker())


def faults(name: str, payload: Any) -> list[str]:
    return [f"{error.json_path}: {error.message}" for error in validator(name).iter_errors(payload)]


def test_the_files_are_as_the_models_are() -> None:
    """`make contract` mends it; if something that stood there has changed or gone, it was no `v1`."""
    wanted = files()
    found = {
        str(path.relative_to(DEPLOY)): path.read_text()
        for path in [DEPLOY / "asyncapi.yaml", *(DEPLOY / "schemas").iterdir(), *(DEPLOY / "samples").iterdir()]
    }
    assert sorted(found) == sorted(wanted)
    assert [name for name in wanted if found[name] != wanted[name]] == []


@pytest.mark.parametrize("name", sorted(schemas()))
def test_each_schema_is_a_schema(name: str) -> None:
    Draft202012Validator.check_schema(schemas()[name])


SAMPLES = {path.stem: json.loads(path.read_text()) for path in sorted((DEPLOY / "samples").glob("*.json"))}


def schema_of(sample: str) -> str:
    return max((name for name in schemas() if sample == name or sample.startswith(f"{name}-")), key=len)


@pytest.mark.parametrize("sample", SAMPLES)
def test_each_sample_keeps_its_schema_and_not_without_a_key_that_must_be_there(sample: str) -> None:
    name, payload = schema_of(sample), SAMPLES[sample]
    assert faults(name, payload) == []
    for key in schemas()[name]["required"]:
        assert faults(name, {other: value for other, value in payload.items() if other != key})


def test_every_kind_of_message_has_a_sample() -> None:
    assert {schema_of(sample) for sample in SAMPLES} == set(schemas())


def test_a_sample_of_a_command_is_one_that_the_node_takes() -> None:
    for message in HEARD:
        message.model.model_validate_json(json.dumps(SAMPLES[message.name]))


# -- what is published -------------------------------------------------------------------------------------------------


class Willing(ScriptedSession):
    """A session whose broker takes everything at once."""

    def publish(self, topic: str, payload: bytes, *, retain: bool, correlation: bytes | None = None) -> int:
        number = super().publish(topic, payload, retain=retain)
        self.acknowledge()
        return number


def published(tmp_path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(topic below the root, payload) of all that a node says which has met with everything there is."""
    scene = Scene(tmp_path, replace(graded(), stage=staged_model()), insemination=INSEMINATED, cadence_min=20)
    daemon, wills = scene.daemon, []
    session = Willing(Will("", b""))
    session.accept()
    daemon.publisher._open_session = lambda will: wills.append(will) or session  # type: ignore[func-returns-value]

    def turns(count: int = 8) -> None:
        for _ in range(count):
            scene.turns(1, seconds=2)

    for k in range(4):
        write_frame(scene.root, "2", START + k * HOUR / 3, level=0)
    write_frame(scene.root, "3", START, PLANES_UM[:6])
    write_blastocyst(scene.root, "1", INSEMINATED + 114 * HOUR)
    turns(60)  # over the deadline of the frame that lacks a plane
    write_frame(scene.root, "3", START)
    write_blastocyst(scene.root, "1", INSEMINATED + 115 * HOUR)
    turns()
    (alert_id, *_) = daemon.node.journal.alerts.open_bodies()
    answers = []
    for name, said in (
        ("acknowledge", {"alert_id": alert_id}),
        ("assess", {"incubator": "inc1", "dish": "D1", "well": "1", "grade": "4AB"}),
        ("acknowledge", {"alert_id": "nonsense"}),
        ("end", {"incubator": "inc1", "dish": "D1", "well": "2"}),
    ):
        answers.append(daemon.inbox.submit(name, json.dumps({**said, "by": "mk"}).encode(), "test"))
        turns(2)
    scene.clock.pass_s(7200)  # silence
    turns()
    daemon.publisher.stop(0.1)
    daemon.node.journal.close()
    yield from ((ANSWER.name, json.loads(answer.result(0).body())) for answer in answers)
    root = f"{daemon.root}/"
    sent = [*((topic, payload) for _, topic, payload, _ in session.sent), *((one.topic, one.payload) for one in wills)]
    yield from ((topic.removeprefix(root), json.loads(payload)) for topic, payload in sent if payload)


def message_on(topic: str) -> str:
    """Which message's channel a topic is of."""
    for message in SAID:
        if re.fullmatch(re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(message.topic)), topic):
            return message.name
    return topic


def test_everything_that_is_published_keeps_its_schema_and_names_it(tmp_path: Path) -> None:
    seen: dict[str, list[dict[str, Any]]] = {}
    for topic, payload in published(tmp_path):
        name = message_on(topic)
        assert faults(name, payload) == [], (topic, payload)
        assert payload["schema"] == schemas()[name]["properties"]["schema"]["const"]
        seen.setdefault(name, []).append(payload)
    assert set(seen) == {message.name for message in (*SAID, ANSWER)}
    assert {one["status"] for one in seen["status"]} == {"online", "offline", "stopped"}
    assert {AlertState(one["state"]) for one in seen["alert"]} >= {
        *(AlertState.RAISED, AlertState.ACKNOWLEDGED, AlertState.CLEARED)
    }
    assert {one["outcome"] for one in seen["reading"]} >= {"judged", "unfit", "revised"}
    assert any(one["stage"] for one in seen["reading"]) and any(one["day5"] for one in seen["reading"])
    assert {one["accepted"] for one in seen["answer"]} == {True, False}


# -- the document ------------------------------------------------------------------------------------------------------


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from (value["$ref"],) if isinstance(value.get("$ref"), str) else ()
        value = list(value.values())
    if isinstance(value, list):
        for one in value:
            yield from references(one)


def test_every_reference_of_the_asyncapi_document_leads_somewhere_within_it() -> None:
    whole = yaml.safe_load((DEPLOY / "asyncapi.yaml").read_text())
    assert whole == json.loads(json.dumps(document()))
    found = set(references(whole))
    assert len(found) > 40
    for reference in found:
        at: Any = whole
        for word in reference.removeprefix("#/").split("/"):
            at = at[word]


def test_the_document_has_each_topic_of_the_contract_and_each_channel_an_operation() -> None:
    whole = document()
    contract = (DEPLOY / "contract.md").read_text()
    told = {re.sub(r"<(\w+)>", r"{\1}", topic) for topic in re.findall(r"^\| `<root>/([^`]+)`", contract, re.MULTILINE)}
    addresses = {channel["address"].split("{node}/")[1] for channel in whole["channels"].values() if channel["address"]}
    assert {re.sub(r"command/.*", "command/{name}", address) for address in addresses} == told
    used = {operation["channel"]["$ref"].rsplit("/", 1)[1] for operation in whole["operations"].values()}
    assert used | {"answer"} == set(whole["channels"])


# -- from version to version -------------------------------------------------------------------------------------------


def frozen() -> dict[str, Any]:
    return {path.stem: json.loads(path.read_text()) for path in sorted(FROZEN.glob("*.json"))}


def is_heard(name: str) -> bool:
    return name in {message.name for message in HEARD}


def test_what_v1_promised_is_kept() -> None:
    """A failure here is a breaking change: it is `v2`, or it is undone. What is only new is added to tests/v1."""
    now = schemas()
    assert set(frozen()) == set(now)
    assert [fault for name, old in frozen().items() for fault in breaking(old, now[name], is_heard(name))] == []


def at(schema: dict[str, Any], path: str) -> dict[str, Any]:
    found: Any = schema
    for word in path.split("/"):
        found = found[int(word) if word.isdigit() else word]
    return found  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("name", "path", "change", "said"),
    [
        ("reading", "properties", lambda s: s.pop("outcome"), "$.outcome: is gone"),
        ("reading", "$defs/FrameBody/properties", lambda s: s.pop("hpi"), "$.frame.hpi: is gone"),
        ("reading", "", lambda s: s["required"].remove("frame"), "$.frame: may be absent now"),
        ("reading", "properties/revision", lambda s: s.update(type="string"), "$.revision: is string, was integer"),
        ("reading", "properties/id", lambda s: s.update(type=["string", "null"]), "$.id: may now also be null"),
        ("reading", "$defs/Outcome", lambda s: s["enum"].remove("judged"), "$.outcome: no longer judged"),
        ("alert", "properties/kind", lambda s: s.update(enum=["arrest"]), "$.kind: only arrest, was free"),
        ("alert", "properties/schema", lambda s: s.update(const="pellucid.alert/2"), "$.schema: no longer"),
        ("health", "properties/alerts_open/additionalProperties", lambda s: s.update(type="string"), "$.alerts_open[]"),
        ("health", "$defs/AuditHead/properties/hash", lambda s: s.update(type="object"), "$.audit.hash: is object"),
        ("reading", "properties/published_at", lambda s: s.pop("format"), "$.published_at: its format"),
        ("reading", "$defs/Blastocyst/properties/probability", lambda s: s.update(maximum=9), "maximum is 9, was 1"),
        ("command-end", "", lambda s: s["required"].append("embryo_id"), "$.embryo_id: is required now"),
        ("command-end", "properties", lambda s: s.pop("embryo_id"), "$.embryo_id: is gone"),
        ("command-assess", "properties/grade/anyOf/0", lambda s: s.update(pattern="^4"), "its pattern is another"),
        ("command-acknowledge", "properties/by", lambda s: s.update(maxLength=3), "maxLength is 3, was 64"),
    ],
)  # fmt: skip
def test_each_kind_of_breaking_change_is_found(name: str, path: str, change: Any, said: str) -> None:
    old = schemas()[name]
    new = copy.deepcopy(old)
    change(at(new, path) if path else new)
    assert any(said in fault for fault in breaking(old, new, is_heard(name))), breaking(old, new, is_heard(name))
    assert breaking(old, old, is_heard(name)) == []


def test_what_is_only_new_breaks_nothing() -> None:
    said, heard = schemas()["reading"], schemas()["command-end"]
    more = copy.deepcopy(said)
    more["properties"]["new"] = {"type": "string"}
    more["required"].append("new")
    more["$defs"]["Outcome"]["enum"].append("new")
    assert breaking(said, more, heard=False) == []
    wider = copy.deepcopy(heard)
    wider["properties"]["new"] = {"type": "string"}
    wider["properties"]["by"]["maxLength"] = 128
    assert breaking(heard, wider, heard=True) == []
