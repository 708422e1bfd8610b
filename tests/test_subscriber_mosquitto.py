"""A subscriber that knows the AsyncAPI document alone, on another client library, against a real Mosquitto."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from monitor.cli import main
from tests.house import PLANES_UM, START
from tests.house import write_frame as write_frame_of
from tests.mosquitto import LIMIT_S, Mosquitto, needs_mosquitto
from tests.service import Service, leave_nothing_running, write_config

pytestmark = [pytest.mark.broker, needs_mosquitto]

DEPLOY = Path(__file__).resolve().parents[1] / "deploy"
PROGRAM = DEPLOY / "examples" / "subscriber.py"
write_frame = partial(write_frame_of, size_px=128)


@pytest.fixture(autouse=True)
def tidy() -> Iterator[None]:
    yield
    leave_nothing_running()


class Subscriber:
    """The program as a process of its own; `lines` are what it says."""

    def __init__(self, port: int, document: Path) -> None:
        words = [sys.executable, str(PROGRAM), str(document), "--port", str(port)]
        self._process = subprocess.Popen(
            [*words, "--site", "lab", "--node", "box", "--by", "night shift"], stdout=subprocess.PIPE, text=True
        )
        self.lines: list[dict[str, Any]] = []
        self._changed = threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._changed:
                self.lines.append(json.loads(line))
                self._changed.notify_all()

    def wait_for(self, enough: Callable[[list[dict[str, Any]]], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: enough(self.lines), 3 * LIMIT_S), self.lines

    def close(self) -> None:
        self._process.kill()
        self._process.wait(LIMIT_S)


def test_the_program_knows_nothing_of_ours_but_the_document() -> None:
    tree = ast.parse(PROGRAM.read_text())
    names = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    names |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert not {name for name in names if name and name.split(".")[0] in ("monitor", "engines", "tests", "paho")}


def test_it_receives_validates_and_takes_note_and_the_journal_holds_afterwards(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = tmp_path / "asyncapi.yaml"
    document.write_text((DEPLOY / "asyncapi.yaml").read_text())  # alone: no schema file lies beside it
    with Mosquitto(tmp_path) as broker:
        subscriber = Subscriber(broker.port, document)
        service = Service(write_config(tmp_path, broker.port))
        for k in range(4):  # short of a plane: an alert
            write_frame(tmp_path / "inc1", "1", START + k * timedelta(minutes=20), PLANES_UM[:6])
        subscriber.wait_for(lambda lines: any(line.get("state") == "acknowledged" for line in lines))
        subscriber.wait_for(lambda lines: any(line.get("answer") for line in lines))
        assert service.terminate() == 0
        subscriber.wait_for(lambda lines: len([line for line in lines if line.get("schema", "")[9:15] == "status"]) > 1)
        subscriber.close()
    heard = [line for line in subscriber.lines if "schema" in line]
    assert [line for line in heard if line["faults"]] == []
    assert {line["schema"] for line in heard} == {
        f"pellucid.{name}/1" for name in ("reading", "alert", "status", "health", "incubator")
    }
    (answer,) = [line for line in subscriber.lines if "answer" in line]
    (raised,) = [line for line in heard if line["state"] == "raised"]
    assert answer["answer"] == "done" and raised["topic"].endswith(f"/alert/{answer['alert_id']}")
    assert main(["journal", "verify", "--storage", str(tmp_path / "store")]) == 0
    assert "not sealed" not in capsys.readouterr().out
    assert main(["journal", "export", "--storage", str(tmp_path / "store")]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["body"]["said"]["by"] for row in rows if row["kind"] == "command"] == ["night shift"]


def test_a_payload_that_is_not_as_the_document_says_is_told(tmp_path: Path) -> None:
    from tests.mosquitto import Listener

    with Mosquitto(tmp_path) as broker, Listener(broker.port) as other:
        subscriber = Subscriber(broker.port, DEPLOY / "asyncapi.yaml")
        broker.wait_for_line("Received SUBSCRIBE from example-subscriber")
        status = json.loads((DEPLOY / "samples" / "status.json").read_text())
        other.publish("pellucid/v1/lab/box/status", json.dumps({**status, "session": "seven"}).encode())
        subscriber.wait_for(lambda lines: bool(lines))
        subscriber.close()
    assert subscriber.lines[0]["faults"] == ["$.session: 'seven' is not of type 'integer'"]
