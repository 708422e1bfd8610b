"""HTTP: `/metrics`, `/healthz`, `/readyz`, commands, and the page where one is served. Loopback by default; beyond it
only with TLS and a token, which a browser gives once in a form.

It shows what the worker wrote down, hands commands to it, and hands on what is the page's; it opens neither journal nor
folder.
"""

from __future__ import annotations

import json
import logging
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NoAnswerError
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, quote, urlsplit

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from monitor.command_body import PAYLOAD_LIMIT_BYTES, Answer
from monitor.config import Http, HttpTls
from monitor.errors import ConfigError
from monitor.login import POLICY, Door, form, from_own_page, named_rightly, safe_target
from monitor.relay import Relay, is_of_page

log = logging.getLogger(__name__)

Ready = Callable[[], dict[str, bool]]
Submit = Callable[[str, bytes, str], "Future[Answer]"]  # a command's name, what it says, and where it came from

COMMAND_PATH = "/api/v1/command/"
ANSWER_WITHIN_S = 10.0
STATUS = {"done": 200, "nothing_new": 200, "malformed": 400, "not_allowed": 403, "unknown": 404, "conflict": 409}
_MOST_FORM_BYTES = 4096
_ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64  # the library's 5 keeps a scraper waiting for seconds behind a handful of others

    def handle_error(self, request: object, client_address: object) -> None:
        """A peer that speaks no TLS, hangs up or falls silent is no fault of ours: a line, not a traceback."""
        fault = sys.exc_info()[1]
        level = logging.DEBUG if isinstance(fault, OSError) else logging.ERROR
        log.log(level, "a request was not answered", extra={"peer": str(client_address), "fault": repr(fault)})


class Endpoints:
    """A small server in its own thread. `ready` gives each condition of readiness by name; `submit` takes commands;
    `page`: where the page is asked.

    Raises ConfigError when the address cannot be used or the token or certificate cannot be read.
    """

    def __init__(
        self,
        settings: Http,
        registry: CollectorRegistry,
        ready: Ready,
        submit: Submit | None = None,
        page: Relay | None = None,
    ) -> None:
        door = Door(_token(settings), settings.tls is not None, time.time)
        context = None if settings.tls is None else _tls(settings.tls)

        class Handler(_Handler):
            pass

        Handler.registry, Handler.ready, Handler.door, Handler.page = registry, staticmethod(ready), door, page
        Handler.submit = None if submit is None else staticmethod(submit)
        try:
            self._server = _Server((settings.host, settings.port), Handler)
        except OSError as fault:
            raise ConfigError(f"http = {settings.host}:{settings.port}: {fault.strerror}") from fault
        if context is not None:
            # the handshake belongs to the handler's thread, under its time limit: one silent peer must not block all
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        scheme, port = f"http{'s' if settings.tls else ''}", self._server.server_address[1]
        self.url = f"{scheme}://{settings.host}:{port}"
        self.url_from_here = f"{scheme}://{_ANYWHERE.get(settings.host, settings.host)}:{port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="http", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=2)


def _token(settings: Http) -> bytes | None:
    if settings.token_file is None:
        return None
    try:
        token = settings.token_file.read_bytes().strip()
    except OSError as fault:
        raise ConfigError(f"http.token_file = {str(settings.token_file)!r}: {fault.strerror}") from fault
    if not token:
        raise ConfigError(f"http.token_file = {str(settings.token_file)!r}: it is empty; write a token into it")
    return token


def _tls(files: HttpTls) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    named = f"http.tls = {{ cert_file = {str(files.cert_file)!r}, key_file = {str(files.key_file)!r} }}"
    try:
        context.load_cert_chain(files.cert_file, files.key_file, _no_passphrase)
    except ssl.SSLError as fault:
        raise ConfigError(f"{named}: not a certificate and its key in PEM ({fault.reason or fault})") from fault
    except OSError as fault:
        raise ConfigError(f"{named}: {fault.strerror}") from fault
    except ValueError as fault:
        raise ConfigError(f"{named}: {fault}") from fault
    return context


def _no_passphrase() -> str:
    """OpenSSL would ask at the terminal and wait."""
    raise ValueError("the key is encrypted; a daemon has nobody to ask: give it a key without a passphrase")


class _Handler(BaseHTTPRequestHandler):
    registry: CollectorRegistry
    ready: Ready
    door: Door
    page: Relay | None
    submit: Submit | None
    server_version = "pellucid"
    sys_version = ""
    timeout = 10

    def do_GET(self) -> None:
        path = self.path.split("?", 1)[0]
        if path == "/login" and self.page is not None and not self.door.open:
            self._ask_for_token(200, safe_target(parse_qs(urlsplit(self.path).query).get("next", ["/"])[0]), False)
        elif self.page is not None and is_of_page(path):
            self._hand_on(self.page)
        elif not self.door.open and not self.door.knows_token(self.headers):
            self._refuse()
        elif path == "/metrics":
            encode, kind = choose_encoder(self.headers.get("Accept", ""))
            self._answer(200, kind, encode(self.registry))
        elif path == "/healthz":
            self._answer(200, "text/plain", b"alive\n")
        elif path == "/readyz":
            conditions = self.ready()
            body = json.dumps(conditions, sort_keys=True).encode() + b"\n"
            self._answer(200 if all(conditions.values()) else 503, "application/json", body)
        else:
            self._answer(
                404,
                "text/plain",
                b"there are /metrics, /healthz, /readyz, and commands by POST; http.page = true adds a page\n",
            )

    def do_POST(self) -> None:
        self.close_connection = True  # a body that is not read would be taken for the next request
        path = self.path.split("?", 1)[0]
        if not self._from_a_page_of_ours():
            self._answer(403, "text/plain", b"this came from another site's page\n")
        elif self.page is not None and not self.door.open and path == "/login":
            self._log_in()
        elif self.page is not None and path == "/logout":
            self._answer(303, "text/plain", b"", (("Location", "/login"), ("Set-Cookie", self.door.farewell())))
        elif not self._may_see_the_page():
            self._refuse()
        elif self.submit is None or not path.startswith(COMMAND_PATH):
            self._answer(404, "text/plain", b"commands go to /api/v1/command/<name>\n")
        elif self.headers.get_content_type() != "application/json":  # another site's form cannot send this type
            self._answer(400, "text/plain", b"Content-Type: application/json is needed\n")
        elif (payload := self._body(PAYLOAD_LIMIT_BYTES)) is not None:
            self._command(self.submit, path.removeprefix(COMMAND_PATH), payload)

    def _from_a_page_of_ours(self) -> bool:
        """Or from no page at all. Without a token a browser must also have asked for this machine by its own name."""
        by_a_page = self.headers.get("Origin") is not None
        return from_own_page(self.headers) and not (by_a_page and self.door.open and not named_rightly(self.headers))

    def _body(self, most_bytes: int) -> bytes | None:
        """What was sent; None where it was refused."""
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > most_bytes:
            self._answer(400, "text/plain", f"Content-Length is needed, and at most {most_bytes}\n".encode())
            return None
        return self.rfile.read(int(length))

    def _command(self, submit: Submit, name: str, payload: bytes) -> None:
        coming = submit(name, payload, "http")
        try:
            answer = coming.result(ANSWER_WITHIN_S)
        except NoAnswerError:  # of its own kind before Python 3.11
            given_up = coming.cancel()
            said = "it was not carried out" if given_up else "it may have been carried out: ask again under the same id"
            self._answer(503, "text/plain", f"no answer within {ANSWER_WITHIN_S:.0f} s; {said}\n".encode())
            return
        self._answer(STATUS.get(answer.code, 503), "application/json", answer.body().encode() + b"\n")

    def _log_in(self) -> None:
        sent = self._body(_MOST_FORM_BYTES)
        if sent is None:
            return
        fields = parse_qs(sent.decode("utf-8", "replace"))
        target = safe_target(fields.get("next", ["/"])[0])
        cookie = self.door.try_token(fields.get("token", [""])[0])
        if cookie is None:
            self._ask_for_token(401, target, True)
        else:
            self._answer(303, "text/plain", b"", (("Location", target), ("Set-Cookie", cookie)))

    def _may_see_the_page(self) -> bool:
        return self.door.open or self.door.knows_token(self.headers) or self.door.knows_session(self.headers)

    def _hand_on(self, page: Relay) -> None:
        """To the page, for who may see it: with a token or a session; where none is configured, under a name of
        loopback only."""
        if self.door.open:
            if not named_rightly(self.headers):
                self._answer(421, "text/plain", b"ask for 127.0.0.1 or localhost\n")
                return
        elif not self._may_see_the_page():
            if "text/html" in self.headers.get("Accept", ""):
                self._answer(303, "text/plain", b"", (("Location", f"/login?next={quote(self.path)}"),))
            else:
                self._refuse()
            return
        answer = page.get(self.path, self.headers)
        kind = next((value for name, value in answer.headers if name == "Content-Type"), "text/plain")
        self._answer(answer.status, kind, answer.body, (pair for pair in answer.headers if pair[0] != "Content-Type"))

    def _refuse(self) -> None:
        self._answer(401, "text/plain", b"a token is needed: Authorization: Bearer ...\n")

    def _ask_for_token(self, status: int, target: str, failed: bool) -> None:
        headers = (("Content-Security-Policy", POLICY), ("Cache-Control", "no-store"))
        self._answer(status, "text/html; charset=utf-8", form(target, failed), headers)

    def _answer(self, status: int, kind: str, body: bytes, headers: Iterable[tuple[str, str]] = ()) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Scrapes are not news."""
