"""The page as a process beside the daemon's server: started, watched, behind the token, and never in the way."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the extra `web` is not installed")

from monitor.command_body import Answer
from monitor.config import Config, make_config
from monitor.endpoints import Endpoints
from monitor.errors import ConfigError
from monitor.journal import Journal
from monitor.login import LASTS_S, Door, from_own_page, named_rightly, safe_target
from monitor.page_process import PageProcess, endpoints_up, page_command
from monitor.relay import Relay, is_of_page
from monitor.web.health import Health, over_http
from tests.certificates import Authority, needs_openssl
from tests.house import FakeClock, new_metrics
from tests.pages import START, filled, page_config, wells

LIMIT_S = 60.0
HTML = {"Accept": "text/html"}


def ask(url: str, path: str, method: str = "GET", body: str = "", **headers: str) -> tuple[int, dict[str, str], str]:
    """(status, headers, text), without following where it leads."""
    address = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port or 0, timeout=30)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, body or None, named)
    answer = connection.getresponse()
    text = answer.read().decode("utf-8", "replace")
    connection.close()
    return answer.status, dict(answer.getheaders()), text


def until(holds: Callable[[], bool], what: str) -> None:
    """Look again and again: what is waited for is another process."""
    end_s = time.monotonic() + LIMIT_S
    while not holds():
        assert time.monotonic() < end_s, what
        threading.Event().wait(0.05)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("page")
    journal, _ = filled(root, wells("1", "2"), hours=12)
    yield root
    journal.close()


@contextmanager
def up(config: Config) -> Iterator[Endpoints]:
    metrics = new_metrics(FakeClock())
    metrics.declare(["inc1", "inc2"], [])
    with endpoints_up(config, metrics.registry, lambda: {"store_open": True}) as endpoints:
        yield endpoints


def page_answers(url: str, **headers: str) -> bool:
    return ask(url, "/page/incubator/inc1", **headers)[0] == 200


# -- started, watched, ended -------------------------------------------------------------------------------------------


def test_the_page_comes_up_behind_the_daemons_address_and_shows_its_own_figures(store: Path) -> None:
    with up(page_config(store, page=True)) as endpoints:
        until(lambda: page_answers(endpoints.url), "the page never came up")
        status, headers, text = ask(endpoints.url, "/page/incubator/inc1")
        assert status == 200 and "Dish D1" in text
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert "can be read" in text or "away" in text, "the daemon's metrics were asked"
        assert json.loads(ask(endpoints.url, "/api/v1/incubators")[2])["incubators"][0]["embryos"] == 2
        assert ask(endpoints.url, "/static/page.css")[0] == 200
        assert ask(endpoints.url, "/metrics")[0] == 200


def test_a_page_that_is_killed_is_503_for_a_moment_and_comes_back_while_metrics_answer(store: Path) -> None:
    config = page_config(store, page=True)
    path = store / "page.socket"
    endpoints = Endpoints(config.http, new_metrics(FakeClock()).registry, dict, page=Relay(path))
    process = PageProcess(config, path, endpoints.url)
    endpoints.start()
    process.start()
    try:
        until(lambda: page_answers(endpoints.url), "the page never came up")
        first = process.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        until(lambda: process.pid != first, "it was not seen to have gone")
        status, _, text = ask(endpoints.url, "/page/incubator/inc1")
        assert status == 503 and "the monitor goes on" in text
        assert ask(endpoints.url, "/metrics")[0] == 200
        until(lambda: page_answers(endpoints.url), "it did not come back")
        assert process.pid not in (None, first)
    finally:
        endpoints.stop()
        process.stop()
    assert process.pid is None


def test_the_page_ends_when_the_daemon_is_killed(store: Path, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    page = subprocess.Popen(page_command(path, "http://127.0.0.1:9"), stdin=subprocess.PIPE)
    try:
        assert page.stdin is not None
        page.stdin.write(page_config(store).model_dump_json().encode() + b"\n")
        page.stdin.flush()
        until(path.exists, "it never listened")
        assert path.stat().st_mode & 0o077 == 0, "nobody else may open its socket"
        page.stdin.close()  # what the kernel does when the daemon is killed
        assert page.wait(LIMIT_S) == 0
    finally:
        page.kill()


def test_where_its_priority_may_not_be_changed_the_page_runs_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    from monitor.web import serve

    def forbidden(by: int) -> int:
        raise PermissionError(1, "Operation not permitted")  # SystemCallFilter=~@resources of the service's unit

    monkeypatch.setattr("monitor.web.serve.os.nice", forbidden)
    serve.give_way()


def test_a_configuration_survives_the_way_to_the_page(tmp_path: Path) -> None:
    config = make_config(
        {
            "site": {"name": "lab", "node": "box"},
            "incubator": [
                {"name": "a", "path": "/a", "insemination": "2026-01-05T08:00:00Z", "layout": "tiff-stack"},
                {"name": "b", "path": "/b", "insemination": "/b.csv", "quality": {"sharpness": 0.5}},
            ],
            "mqtt": {"host": "h", "ca_file": "/ca", "username": "u", "password_file": "/p"},
            "storage": {"path": "/s"},
            "http": {"token_file": "/t", "page": True},
            "alerts": {"frame_gap": {"enabled": False}},
        }
    )
    assert make_config(json.loads(config.model_dump_json())) == config


def test_without_page_in_the_configuration_its_paths_are_not_there(store: Path) -> None:
    with up(page_config(store)) as endpoints:
        status, _, text = ask(endpoints.url, "/page/incubator/inc1")
        assert status == 404 and "http.page" in text


def test_a_page_without_its_extra_is_a_configuration_error(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monitor.page_process.NEEDS", ("nowhere_to_be_found",))
    with pytest.raises(ConfigError, match=r"pellucid\[web\]"), up(page_config(store, page=True)):
        raise AssertionError


def test_a_page_alone_is_refused_where_a_token_is_set(tmp_path: Path) -> None:
    (tmp_path / "f.toml").write_text(
        f'[site]\nname="l"\nnode="n"\n[[incubator]]\nname="i"\npath="{tmp_path}"\n[mqtt]\nhost="h"\n'
        f'[storage]\npath="{tmp_path}"\n[http]\ntoken_file="{tmp_path}/t"\n'
    )
    command = [sys.executable, "-m", "monitor", "page", "--config", str(tmp_path / "f.toml"), "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert done.returncode == 78
    assert "http.token_file" in done.stderr and "page = true" in done.stderr


# -- who may see it ----------------------------------------------------------------------------------------------------


def test_with_a_token_a_browser_logs_in_once_and_a_program_sends_it(store: Path, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("s3cret\n")
    with up(page_config(store, page=True, token_file=tmp_path / "token")) as endpoints:
        url = endpoints.url
        until(lambda: page_answers(url, Authorization="Bearer s3cret"), "the page never came up")
        assert ask(url, "/api/v1/incubators")[0] == 401
        status, headers, _ = ask(url, "/page/alerts", Accept="text/html")
        assert (status, headers["Location"]) == (303, "/login?next=/page/alerts")
        assert 'name="token"' in ask(url, headers["Location"])[2]
        form = {"Content_Type": "application/x-www-form-urlencoded"}
        assert ask(url, "/login", "POST", "token=wrong&next=/page/alerts", **form)[0] == 401
        status, headers, _ = ask(url, "/login", "POST", "token=s3cret&next=/page/alerts", **form)
        assert (status, headers["Location"]) == (303, "/page/alerts")
        cookie = headers["Set-Cookie"]
        assert "HttpOnly" in cookie and "SameSite=Strict" in cookie and "s3cret" not in cookie
        session = cookie.split(";")[0]
        assert ask(url, "/page/alerts", Cookie=session, **HTML)[0] == 200
        assert ask(url, "/metrics", Cookie=session)[0] == 401, "a session is for the page"
        assert ask(url, "/page/alerts", Cookie=session + "0", **HTML)[0] == 303
        status, headers, _ = ask(url, "/logout", "POST", Cookie=session, Origin="https://elsewhere.example")
        assert status == 403
        assert "Max-Age=0" in ask(url, "/logout", "POST", Cookie=session)[1]["Set-Cookie"]


@needs_openssl
def test_behind_tls_the_page_asks_the_daemon_by_its_very_certificate_and_its_token(store: Path, tmp_path: Path) -> None:
    made = Authority(tmp_path, "authority").issue("box")
    (tmp_path / "token").write_text("s3cret\n")
    tls = {"cert_file": made.cert_file, "key_file": made.key_file}
    config = page_config(store, page=True, tls=tls, token_file=tmp_path / "token")
    with up(config) as endpoints:
        fetch = over_http(endpoints.url_from_here, config.http)
        assert 'pellucid_share_reachable{incubator="inc1"}' in fetch()
        other = Authority(tmp_path, "other").issue("box2")
        stranger = {"cert_file": other.cert_file, "key_file": other.key_file}
        wrong = page_config(store, tls=stranger, token_file=tmp_path / "token").http
        with pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED"):
            over_http(endpoints.url_from_here, wrong)()


def test_a_session_ends_with_its_time_and_with_the_token() -> None:
    now = [1000.0]
    door = Door(b"one", True, lambda: now[0])
    cookie = door.try_token("one")
    assert cookie is not None and "; Secure" in cookie
    headers = {"Cookie": cookie.split(";")[0]}
    assert door.knows_session(headers)
    assert not Door(b"two", True, lambda: now[0]).knows_session(headers)
    now[0] += LASTS_S
    assert not door.knows_session(headers)


def test_who_guesses_tokens_is_kept_waiting() -> None:
    now = [1000.0]
    door = Door(b"one", False, lambda: now[0])
    for _ in range(10):
        assert door.try_token("guess") is None
    assert door.try_token("one") is None
    now[0] += 61
    assert door.try_token("one") is not None


@pytest.mark.parametrize(
    ("headers", "own"),
    [
        ({}, True),
        ({"Origin": "http://127.0.0.1:9464", "Host": "127.0.0.1:9464"}, True),
        ({"Sec-Fetch-Site": "same-origin"}, True),
        ({"Sec-Fetch-Site": "cross-site"}, False),
        ({"Sec-Fetch-Site": "same-site"}, False),
        ({"Origin": "http://evil.example", "Host": "127.0.0.1:9464"}, False),
        ({"Origin": "null", "Host": "127.0.0.1:9464"}, False),
    ],
)
def test_what_changes_something_is_taken_from_a_page_of_ours_only(headers: dict[str, str], own: bool) -> None:
    assert from_own_page(headers) == own


def test_on_loopback_without_a_token_a_foreign_name_is_not_answered(store: Path) -> None:
    with up(page_config(store, page=True)) as endpoints:
        assert ask(endpoints.url, "/page/alerts", Host="evil.example")[0] == 421
        assert ask(endpoints.url, "/api/v1/alerts", Host="evil.example:9464")[0] == 421
    assert named_rightly({"Host": "[::1]:9464"}) and named_rightly({"Host": "localhost"})


@pytest.mark.parametrize(
    "target", ["//evil.example", "https://evil.example", "/\\evil.example", "x", "/a\r\nb", "/" * 600]
)
def test_a_login_leads_to_a_place_on_this_server_only(target: str) -> None:
    assert safe_target(target) == "/"


def test_a_command_is_taken_from_our_own_page_or_a_program_and_from_no_other_page(store: Path) -> None:
    given: list[bytes] = []

    def submit(name: str, payload: bytes, source: str) -> Future[Answer]:
        given.append(payload)
        done: Future[Answer] = Future()
        done.set_result(
            Answer(id=None, command=name, accepted=True, code="done", reason="", boot_id="b", occurred_at=START)
        )
        return done

    metrics = new_metrics(FakeClock())
    endpoints = Endpoints(page_config(store, page=True).http, metrics.registry, dict, submit, Relay(store / "none"))
    endpoints.start()
    path, json_ = "/api/v1/command/acknowledge", {"Content_Type": "application/json"}
    own = endpoints.url.removeprefix("http://")
    try:
        assert ask(endpoints.url, path, "POST", "{}", **json_)[0] == 200, "a program"
        assert ask(endpoints.url, path, "POST", "{}", Origin=endpoints.url, **json_)[0] == 200, "our page"
        assert ask(endpoints.url, path, "POST", "{}", Origin="http://evil.example", **json_)[0] == 403
        assert ask(endpoints.url, path, "POST", "{}", Sec_Fetch_Site="cross-site", **json_)[0] == 403
        port = own.rpartition(":")[2]
        rebound = {"Origin": f"http://evil.example:{port}", "Host": f"evil.example:{port}"}
        assert ask(endpoints.url, path, "POST", "{}", **rebound, **json_)[0] == 403, "a name pointed at this machine"
        assert ask(endpoints.url, path, "POST", "a=b", Content_Type="text/plain")[0] == 400, "what a form can send"
    finally:
        endpoints.stop()
    assert len(given) == 2


def test_a_session_of_the_page_may_give_commands_and_nobody_without_one(store: Path, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("s3cret\n")
    http_settings = page_config(store, page=True, token_file=tmp_path / "token").http
    endpoints = Endpoints(http_settings, new_metrics(FakeClock()).registry, dict, None, Relay(store / "none"))
    endpoints.start()
    try:
        path = "/api/v1/command/acknowledge"
        assert ask(endpoints.url, path, "POST", "{}")[0] == 401
        form = {"Content_Type": "application/x-www-form-urlencoded"}
        cookie = ask(endpoints.url, "/login", "POST", "token=s3cret", **form)[1]["Set-Cookie"].split(";")[0]
        assert ask(endpoints.url, path, "POST", "{}", Cookie=cookie)[0] == 404, "let in; no commands are taken here"
    finally:
        endpoints.stop()


# -- the relay ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "of_page"),
    [
        *[(path, True) for path in ("/", "/page/x", "/static/page.css", "/api/v1/alerts")],
        *[(path, False) for path in ("/metrics", "/healthz", "/api/v2/x", "/pages", "/login")],
    ],
)
def test_the_pages_paths_are_known(path: str, of_page: bool) -> None:
    assert is_of_page(path) == of_page


def test_a_page_that_is_silent_holds_only_a_few_and_not_for_long(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "socket"))
        silent.listen()
        relay = Relay(tmp_path / "socket", patience_s=0.3, at_once=2)
        answers: list[str] = []
        askers = [threading.Thread(target=lambda: answers.append(relay.get("/", {}).body.decode())) for _ in range(6)]
        for asker in askers:
            asker.start()
        for asker in askers:
            asker.join(LIMIT_S)
    assert len(answers) == 6
    assert sum("busy" in answer for answer in answers) >= 1
    assert all("busy" in answer or "does not answer" in answer for answer in answers)


def test_neither_token_nor_cookie_reach_the_page(tmp_path: Path) -> None:
    heard: list[bytes] = []
    with socket.socket(socket.AF_UNIX) as page:
        page.bind(str(tmp_path / "socket"))
        page.listen()

        def answer() -> None:
            line, _ = page.accept()
            heard.append(line.recv(65536))
            line.sendall(
                b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nSet-Cookie: a=b\r\nContent-Type: text/plain\r\n\r\nhi"
            )
            line.close()

        thread = threading.Thread(target=answer)
        thread.start()
        given = {"Authorization": "Bearer s3cret", "Cookie": "pellucid_session=x", "Accept": "text/html"}
        told = Relay(tmp_path / "socket").get("/page/alerts?x=1", given)
        thread.join(LIMIT_S)
    assert told.body == b"hi" and [name for name, _ in told.headers] == ["Content-Type"]
    assert b"GET /page/alerts?x=1 " in heard[0] and b"text/html" in heard[0]
    assert b"s3cret" not in heard[0] and b"pellucid_session" not in heard[0]


def test_a_page_that_is_not_up_is_told_at_once(tmp_path: Path) -> None:
    answer = Relay(tmp_path / "none").get("/", {})
    assert answer.status == 503 and b"started anew by itself" in answer.body


def test_a_raw_byte_in_a_path_is_400_and_ends_no_thread(store: Path) -> None:
    metrics = new_metrics(FakeClock())
    endpoints = Endpoints(page_config(store, page=True).http, metrics.registry, dict, None, Relay(store / "none"))
    endpoints.start()
    try:
        address = urllib.parse.urlsplit(endpoints.url)
        with socket.create_connection((address.hostname or "", address.port or 0), timeout=30) as raw:
            raw.sendall(b"GET /page/\xe4 HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n")
            assert raw.makefile("rb").readline().split()[1] == b"400"
    finally:
        endpoints.stop()


def test_an_answer_that_is_no_http_is_a_monitor_that_does_not_answer() -> None:
    def broken() -> str:
        raise http.client.BadStatusLine("x")

    assert "the monitor does not answer" in str(Health(broken).figures().fault)


def test_the_page_reads_a_journal_whose_daemon_has_gone(tmp_path: Path) -> None:
    from monitor.web.app import page_of
    from monitor.web.health import Health

    journal, _ = filled(tmp_path, wells("1"), hours=2)
    journal.close()
    page = page_of(page_config(tmp_path), Health(None), False)
    assert len(page.look.incubator("inc1").embryos) == 1
    again = Journal(tmp_path / "store", "boot2")  # and does not keep the next daemon out
    again.close()


@pytest.mark.slow
def test_the_bench_tells_every_figure_and_its_goal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("amqtt", reason="the extra `demo` is not installed")
    from monitor.web.bench import main
    from monitor.web.visitor import TURNS

    out = tmp_path / "bench.json"
    assert main(["--rounds", "1", "--embryos", "3", "--hours", "3", "--json-file", str(out)]) == 0
    text, told = capsys.readouterr().out, json.loads(out.read_text())
    assert "the view of 3 embryos with all its pictures, first time" in text and "under .2 s of work" in text
    assert set(told["way"]) == set(TURNS) and all(way["median_s"] > 0 for way in told["way"].values())
    assert told["readings"] == 3 * 19 and told["medians_s"]["all_new"] > 0
