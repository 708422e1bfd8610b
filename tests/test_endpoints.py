"""The HTTP endpoints and the notifier."""

from __future__ import annotations

import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from monitor.config import Http
from monitor.endpoints import Endpoints
from monitor.errors import ConfigError
from monitor.metrics import Metrics
from monitor.notify import Notifier
from tests.house import FakeClock, new_metrics


def get(url: str, **headers: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as fault:
        return fault.code, fault.read().decode()


@pytest.fixture
def metrics() -> Metrics:
    return new_metrics(FakeClock())


@pytest.fixture
def served(metrics: Metrics) -> Iterator[tuple[str, dict[str, bool]]]:
    conditions = {"engines_warm": True, "store_open": False}
    endpoints = Endpoints(Http(port=0), metrics.registry, lambda: conditions)
    endpoints.start()
    yield endpoints.url, conditions
    endpoints.stop()


def test_metrics_carry_the_prefix_and_no_embryo(served: tuple[str, dict[str, bool]], metrics: Metrics) -> None:
    metrics.declare(["inc1"])
    status, text = get(served[0] + "/metrics")
    assert status == 200
    names = {line.split("{")[0].split(" ")[0] for line in text.splitlines() if not line.startswith("#")}
    assert names and all(name.startswith("pellucid_") for name in names)
    assert 'pellucid_frames_total{incubator="inc1",outcome="judged"} 0.0' in text


def test_open_metrics_is_answered_to_who_asks_for_it(served: tuple[str, dict[str, bool]]) -> None:
    _, text = get(served[0] + "/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert text.endswith("# EOF\n")


def test_healthz_says_that_the_process_lives(served: tuple[str, dict[str, bool]]) -> None:
    assert get(served[0] + "/healthz") == (200, "alive\n")


def test_readyz_is_503_and_names_the_condition_that_is_not_met(served: tuple[str, dict[str, bool]]) -> None:
    url, conditions = served
    assert get(url + "/readyz") == (503, '{"engines_warm": true, "store_open": false}\n')
    conditions["store_open"] = True
    assert get(url + "/readyz")[0] == 200


def test_an_unknown_path_is_told_what_there_is(served: tuple[str, dict[str, bool]]) -> None:
    status, text = get(served[0] + "/nowhere")
    assert status == 404
    assert "/metrics" in text


def test_with_a_token_file_only_the_token_opens(metrics: Metrics, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("s3cret\n")
    endpoints = Endpoints(Http(port=0, token_file=tmp_path / "token"), metrics.registry, dict)
    endpoints.start()
    try:
        assert get(endpoints.url + "/metrics")[0] == 401
        assert get(endpoints.url + "/metrics", Authorization="Bearer wrong")[0] == 401
        assert get(endpoints.url + "/metrics", Authorization="Bearer s3cret")[0] == 200
    finally:
        endpoints.stop()


def test_a_port_in_use_is_a_configuration_error_that_names_it(metrics: Metrics) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=str(port)):
            Endpoints(Http(port=port), metrics.registry, dict)


def test_without_a_socket_nobody_is_notified() -> None:
    notifier = Notifier({})
    notifier.ready("x")
    notifier.progress("x")
    notifier.stopping()
    assert notifier.watchdog_s is None


def test_an_abstract_socket_is_understood() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind("\0pellucid-test-notify")
        systemd.settimeout(5)
        Notifier({"NOTIFY_SOCKET": "@pellucid-test-notify"}).ready("warm")
        assert systemd.recv(100) == b"READY=1\nSTATUS=warm"


def test_a_watchdog_meant_for_another_process_is_not_ours() -> None:
    assert Notifier({"WATCHDOG_USEC": "5000000", "WATCHDOG_PID": "1"}).watchdog_s is None
    assert Notifier({"WATCHDOG_USEC": "5000000"}).watchdog_s == 5.0
