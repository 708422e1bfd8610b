"""The HTTP endpoints and the notifier."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest

from monitor.command_body import Answer
from monitor.config import Http, HttpTls
from monitor.endpoints import Endpoints
from monitor.errors import ConfigError
from monitor.metrics import Metrics
from monitor.notify import Notifier
from tests.certificates import Authority, needs_openssl
from tests.house import START, FakeClock, new_metrics


def get(url: str, trust: ssl.SSLContext | None = None, **headers: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10, context=trust) as answer:
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
    metrics.declare(["inc1"], [])
    status, text = get(served[0] + "/metrics")
    assert status == 200
    names = {line.split("{")[0].split(" ")[0] for line in text.splitlines() if not line.startswith("#")}
    assert names and all(name.startswith("pellucid_") for name in names)
    assert 'pellucid_frames_total{incubator="inc1",outcome="judged"} 0.0' in text


@pytest.fixture
def commanded(metrics: Metrics) -> Iterator[tuple[str, list[tuple[str, bytes, str]]]]:
    """Endpoints behind which somebody answers: a command's name is the code of the answer."""
    given: list[tuple[str, bytes, str]] = []

    def submit(name: str, payload: bytes, source: str) -> Future[Answer]:
        given.append((name, payload, source))
        coming: Future[Answer] = Future()
        if name != "never":
            done = {"done": True, "nothing_new": True}.get(name, False)
            told = {"id": None, "command": name, "accepted": done, "code": name, "reason": "r", "boot_id": "b"}
            coming.set_result(Answer.model_validate({**told, "occurred_at": START}))
        return coming

    endpoints = Endpoints(Http(port=0), metrics.registry, dict, submit)
    endpoints.start()
    yield endpoints.url, given
    endpoints.stop()


def post(url: str, body: bytes, **headers: str) -> tuple[int, str]:
    sent = {"Content-Type": "application/json", **{name.replace("_", "-"): value for name, value in headers.items()}}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, sent), timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as fault:
        return fault.code, fault.read().decode()


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("done", 200), ("nothing_new", 200), ("malformed", 400), ("not_allowed", 403), ("unknown", 404),
        ("conflict", 409), ("failed", 503),
    ],
)  # fmt: skip
def test_a_command_by_http_is_handed_on_and_answered_with_a_status_for_each_outcome(
    commanded: tuple[str, list[tuple[str, bytes, str]]], code: str, status: int
) -> None:
    url, given = commanded
    got, text = post(f"{url}/api/v1/command/{code}", b'{"by": "mk"}')
    assert got == status
    assert (json.loads(text)["schema"], json.loads(text)["code"]) == ("pellucid.answer/1", code)
    assert given == [(code, b'{"by": "mk"}', "http")]


def test_a_form_of_another_sites_page_and_too_much_are_not_handed_on(
    commanded: tuple[str, list[tuple[str, bytes, str]]],
) -> None:
    url, given = commanded
    assert post(f"{url}/api/v1/command/done", b"{}", Content_Type="text/plain")[0] == 400
    assert post(f"{url}/api/v1/command/done", b"x" * 20_000)[0] == 400
    assert post(f"{url}/elsewhere", b"{}")[0] == 404
    assert given == []


def test_who_waits_too_long_is_told_that_nothing_was_done(
    commanded: tuple[str, list[tuple[str, bytes, str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("monitor.endpoints.ANSWER_WITHIN_S", 0.05)
    status, text = post(f"{commanded[0]}/api/v1/command/never", b"{}")
    assert status == 503 and "it was not carried out" in text


def test_without_the_token_no_command_is_handed_on(metrics: Metrics, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("s3cret")
    given: list[str] = []

    def submit(name: str, payload: bytes, source: str) -> Future[Answer]:
        given.append(name)
        raise AssertionError("not to be called")

    endpoints = Endpoints(Http(port=0, token_file=tmp_path / "token"), metrics.registry, dict, submit)
    endpoints.start()
    assert post(f"{endpoints.url}/api/v1/command/end", b"{}")[0] == 401
    assert post(f"{endpoints.url}/api/v1/command/end", b"{}", Authorization="Bearer wrong")[0] == 401
    endpoints.stop()
    assert given == []


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


@pytest.fixture
def guarded(metrics: Metrics, tmp_path: Path) -> Iterator[tuple[str, ssl.SSLContext]]:
    """With TLS and a token; (address, a context that trusts its authority)."""
    authority = Authority(tmp_path, "authority")
    made = authority.issue("box")
    (tmp_path / "token").write_text("s3cret\n")
    tls = HttpTls(cert_file=made.cert_file, key_file=made.key_file)
    endpoints = Endpoints(Http(port=0, tls=tls, token_file=tmp_path / "token"), metrics.registry, dict)
    endpoints.start()
    yield endpoints.url, ssl.create_default_context(cafile=authority.ca_file)
    endpoints.stop()


@needs_openssl
def test_with_tls_and_a_token_only_who_trusts_the_authority_and_knows_the_token_is_answered(
    guarded: tuple[str, ssl.SSLContext], tmp_path: Path
) -> None:
    url, trust = guarded
    assert url.startswith("https://")
    assert get(url + "/metrics", trust, Authorization="Bearer s3cret")[0] == 200
    for path in ("/metrics", "/healthz", "/readyz", "/nowhere"):
        assert get(url + path, trust)[0] == 401
        assert get(url + path, trust, Authorization="Bearer wrong")[0] == 401
        assert get(url + path, trust, Authorization="s3cret")[0] == 401
    stranger = Authority(tmp_path, "stranger")
    with pytest.raises(urllib.error.URLError, match="CERTIFICATE_VERIFY_FAILED"):
        get(url + "/metrics", ssl.create_default_context(cafile=stranger.ca_file), Authorization="Bearer s3cret")


@needs_openssl
def test_plain_http_to_the_tls_port_is_not_answered_and_leaves_no_traceback(
    guarded: tuple[str, ssl.SSLContext], capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    url, trust = guarded
    port = int(url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=10) as line:
        line.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer s3cret\r\n\r\n")
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while part := line.recv(4096):
                answer += part
    assert b"HTTP/1" not in answer and b"pellucid_" not in answer
    assert get(url + "/healthz", trust, Authorization="Bearer s3cret")[0] == 200
    assert "Exception occurred during processing" not in capfd.readouterr().err  # what the library would print
    (record,) = [record for record in caplog.records if record.name == "monitor.endpoints"]
    assert "was not answered" in record.message and record.levelno == logging.DEBUG


@needs_openssl
def test_peers_that_say_nothing_do_not_keep_others_waiting(guarded: tuple[str, ssl.SSLContext]) -> None:
    url, trust = guarded
    address = ("127.0.0.1", int(url.rpartition(":")[2]))
    silent = [socket.create_connection(address, timeout=10) for _ in range(20)]  # no ClientHello
    mute = [trust.wrap_socket(socket.create_connection(address, timeout=10), server_hostname="127.0.0.1")]  # no request
    try:
        began_s = time.monotonic()
        assert get(url + "/healthz", trust, Authorization="Bearer s3cret")[0] == 200
        assert time.monotonic() - began_s < 5.0, "a peer's time limit is 10 s"
    finally:
        for line in (*silent, *mute):
            line.close()


@needs_openssl
def test_a_certificate_or_key_or_token_that_cannot_be_used_is_a_configuration_error_that_names_it(
    metrics: Metrics, tmp_path: Path
) -> None:
    authority = Authority(tmp_path, "authority")
    one, other = authority.issue("one"), authority.issue("other")
    locked = tmp_path / "locked.key"
    subprocess.run(
        ["openssl", "ec", "-in", one.key_file, "-aes256", "-passout", "pass:x", "-out", locked],
        check=True,
        capture_output=True,
    )
    for key_file, says in (
        (other.key_file, "KEY_VALUES_MISMATCH"),
        (tmp_path / "absent.key", "No such file"),
        (locked, "encrypted"),
    ):
        tls = HttpTls(cert_file=one.cert_file, key_file=key_file)
        with pytest.raises(ConfigError, match=says) as told:
            Endpoints(Http(port=0, tls=tls), metrics.registry, dict)
        assert f"http.tls = {{ cert_file = {str(one.cert_file)!r}" in str(told.value)
    (tmp_path / "token").write_text("\n")
    with pytest.raises(ConfigError, match=r"http.token_file = .* it is empty"):
        Endpoints(Http(port=0, token_file=tmp_path / "token"), metrics.registry, dict)


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
