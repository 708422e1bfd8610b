"""deploy/prometheus and deploy/grafana with the real programs: what they say of them, and an alarm that ends in a call.

The live tests go through one night in their order: frames come, stop, come again, the monitor dies.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, start_http_server

from engines.gpu_figures import GpuFigures
from monitor.clock import SystemClock
from monitor.metrics import Metrics
from tests.mosquitto import Mosquitto, free_port
from tests.programs import program
from tests.service import Service, leave_nothing_running, write_config
from tests.test_deploy import ALERTS, BOARDS, RULES, named
from tests.watching import HOME, Watching

pytestmark = pytest.mark.ops

# what a monitor on a processor does not show within its first minute; a second registry, filled by hand, stands in
NOT_WITHIN_A_MINUTE = {
    *("pellucid_input_drift", "pellucid_gradings_total"),
    *(
        "pellucid_blastocyst_share",
        "pellucid_blastocyst_predicted",
        "pellucid_outcomes_known",
        "pellucid_prediction_drift",
    ),
    *(f"pellucid_gpu_{name}" for name in ("memory_bytes", "power_watts", "temperature_celsius", "throttled")),
}


def said(*command: str | Path) -> str:
    """What a program printed; AssertionError where it was not content."""
    ended = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr


def test_promtool_finds_every_rule_and_every_rule_test_right() -> None:
    promtool = program("promtool", "prometheus")
    assert f"SUCCESS: {len(RULES)} rules found" in said(promtool, "check", "rules", HOME / "pellucid.rules.yml")
    assert "SUCCESS" in said(promtool, "test", "rules", HOME / "pellucid.rules.test.yml")


def test_promtool_and_amtool_take_the_example_configurations() -> None:
    said(program("promtool", "prometheus"), "check", "config", HOME / "prometheus.yml")
    said(program("amtool", "prometheus-alertmanager"), "check-config", HOME / "alertmanager.yml")


class Night:
    """A virtual incubator, a monitor, a broker, and who watches them."""

    def __init__(self, folder: Path) -> None:
        program("mosquitto", "mosquitto")
        self.broker = Mosquitto(folder)
        self.broker.start()
        self.service = Service(write_config(folder, self.broker.port))
        self._stand_in()
        live = urllib.parse.urlparse(self.service.url).port
        assert live is not None
        self.watching = Watching(folder, {"box1": live, "box2": self.stand_in_port})
        self.incubator = subprocess.Popen(
            [
                *(sys.executable, "-m", "monitor", "simulate", "--out", str(folder / "inc1"), "--embryos", "1"),
                *("--hours", "40", "--every-min", "1", "--speed", "60", "--size-px", "128"),
            ],
            stdout=subprocess.DEVNULL,
        )

    def _stand_in(self) -> None:
        metrics = Metrics(CollectorRegistry(), SystemClock().now)
        metrics.declare_gradings()
        metrics.input_drift.labels("inc1", "focus").set(0.4)
        metrics.blastocyst_share.labels("inc1").set(0.5)
        metrics.outcomes_known.labels("inc1").set(40)
        metrics.blastocyst_predicted.labels("inc1", "3").set(0.5)
        metrics.prediction_drift.labels("inc1", "3").set(0.1)
        metrics.gpu_told([GpuFigures("0", 3e9, 80e9, 61.0, 250.0, False)])
        self.stand_in_port = free_port()
        self._server, _ = start_http_server(self.stand_in_port, "127.0.0.1", metrics.registry)

    def close(self) -> None:
        self.incubator.send_signal(signal.SIGCONT)
        self.incubator.terminate()
        self.incubator.wait(10)
        leave_nothing_running()
        self.watching.close()
        self._server.shutdown()
        self.broker.kill()


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Night]:
    made = Night(tmp_path_factory.mktemp("night"))
    yield made
    made.close()


def test_an_incubator_that_stops_ends_in_a_call_and_one_that_goes_on_in_another(night: Night) -> None:
    night.watching.wait_for('pellucid_frames_total{outcome="judged"} > 12')
    assert night.watching.query('ALERTS{alertname="PellucidFramesStopped"}') == []
    night.watching.called.forget()
    night.incubator.send_signal(signal.SIGSTOP)
    call = night.watching.called.wait_for("PellucidFramesStopped", "firing")
    assert call["labels"]["incubator"] == "inc1" and call["labels"]["severity"] == "critical"
    assert call["annotations"] == {
        "summary": "inc1 at box1: embryos lie in it, and no frame has come for an hour",
        "runbook": "runbook.md#pellucidframesstopped",
    }


def test_every_query_of_every_dashboard_is_answered(night: Night) -> None:
    """While the alarm still rings, so that also the table of alarms has a line."""
    by_stand_in: set[str] = set()
    for board in BOARDS.values():
        for panel in board["panels"]:
            for target in panel["targets"]:
                metrics = named(target["expr"])
                query = target["expr"].replace("$incubator", "inc1")
                ask = night.watching.query_range if target["range"] else night.watching.query
                if not ask(query.replace("$node", "box1")):
                    assert ask(query.replace("$node", "box2")), f"{board['title']}: {query}"
                    by_stand_in |= metrics
    assert by_stand_in <= NOT_WITHIN_A_MINUTE


def test_every_choice_above_a_dashboard_offers_something(night: Night) -> None:
    for board in BOARDS.values():
        for choice in board["templating"]["list"][1:]:
            series, label = choice["query"]["query"].removeprefix("label_values(").removesuffix(")").rsplit(", ", 1)
            offered = night.watching.query(series.replace("$node", "box1"))
            assert {one["metric"][label] for one in offered} >= {"box1" if label == "node" else "inc1"}


def test_every_rule_is_evaluated_without_a_fault(night: Night) -> None:
    assert night.watching.query("sum(prometheus_rule_evaluation_failures_total) > 0") == []
    for alert in ALERTS.values():
        night.watching.query(alert["expr"])


def test_frames_that_come_again_end_the_alarm(night: Night) -> None:
    night.incubator.send_signal(signal.SIGCONT)
    night.watching.called.wait_for("PellucidFramesStopped", "resolved")


def test_a_monitor_that_dies_is_told_of(night: Night) -> None:
    night.watching.called.forget()
    night.service.kill()
    call = night.watching.called.wait_for("PellucidAbsent", "firing")
    assert call["labels"]["node"] == "box1" and call["annotations"]["summary"] == "box1: the monitor does not answer"
