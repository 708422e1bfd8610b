"""HTTP for machines: `/metrics`, `/healthz`, `/readyz`, and commands. Loopback by default; beyond it only with TLS and
a token.

It shows what the worker wrote down, and hands commands to it; it opens neither journal nor folder.
"""

from __future__ import annotations

import hmac
import json
import logging
import ssl
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NoAnswerError
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from monitor.command_body import PAYLOAD_LIMIT_BYTES, Answer
from monitor.config import Http, HttpTls
from monitor.errors import ConfigError

log = logging.getLogger(__name__)

Ready = Callable[[], dict[str, bool]]
Submit = Callable[[str, bytes, str], "Future[Answer]"]  # a command's name, what it says, and where it came from

COMMAND_PATH = "/api/v1/command/"
ANSWER_WITHIN_S = 10.0
STATUS = {"done": 200, "nothing_new": 200, "malformed": 400, "not_allowed": 403, "unknown": 404, "conflict": 409}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64  # the library's 5 keeps a scraper waiting for seconds behind a handful of others

    def handle_error(self, request: object, client_address: object) -> None:
        """A peer that speaks no TLS, hangs up or falls silent is no fault of ours: a line, not a traceback."""
        fault = sys.exc_info()[1]
        level = logging.DEBUG if isinstance(fault, OSError) else logging.ERROR
        log.log(level, "a request was not answered", extra={"peer": str(client_address), "fault": repr(fault)})


class Endpoints:
    """A small server in its own thread. `ready` gives each condition of readiness by name; `submit` takes commands.

    Raises ConfigError when the address cannot be used or the token or certificate cannot be read.
    """

    def __init__(self, settings: Http, registry: CollectorRegistry, ready: Ready, submit: Submit | None = None) -> None:
        token = _token(settings)
        context = None if settings.tls is None else _tls(settings.tls)

        class Handler(_Handler):
            pass

        Handler.registry, Handler.ready, Handler.token = registry, staticmethod(ready), token
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
        self.url = f"http{'s' if settings.tls else ''}://{settings.host}:{self._server.server_address[1]}"
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
    token: bytes | None
    submit: Submit | None
    server_version = "pellucid"
    sys_version = ""
    timeout = 10

    def do_GET(self) -> None:
        if not self._allowed():
            self._answer(401, "text/plain", b"a token is needed: Authorization: Bearer ...\n")
            return
        path = self.path.split("?", 1)[0]
        if path == "/metrics":
            encode, kind = choose_encoder(self.headers.get("Accept", ""))
            self._answer(200, kind, encode(self.registry))
        elif path == "/healthz":
            self._answer(200, "text/plain", b"alive\n")
        elif path == "/readyz":
            conditions = self.ready()
            body = json.dumps(conditions, sort_keys=True).encode() + b"\n"
            self._answer(200 if all(conditions.values()) else 503, "application/json", body)
        else:
            self._answer(404, "text/plain", b"there are /metrics, /healthz, /readyz, and commands by POST\n")

    def do_POST(self) -> None:
        self.close_connection = True  # a body that is not read would be taken for the next request
        if not self._allowed():
            self._answer(401, "text/plain", b"a token is needed: Authorization: Bearer ...\n")
            return
        path = self.path.split("?", 1)[0]
        if self.submit is None or not path.startswith(COMMAND_PATH):
            self._answer(404, "text/plain", b"commands go to /api/v1/command/<name>\n")
            return
        if self.headers.get_content_type() != "application/json":  # a form of another site's page cannot send this type
            self._answer(400, "text/plain", b"Content-Type: application/json is needed\n")
            return
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > PAYLOAD_LIMIT_BYTES:
            said = f"Content-Length is needed, and at most {PAYLOAD_LIMIT_BYTES}\n"
            self._answer(400, "text/plain", said.encode())
            return
        self._command(self.submit, path.removeprefix(COMMAND_PATH), self.rfile.read(int(length)))

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

    def _allowed(self) -> bool:
        if self.token is None:
            return True
        given = self.headers.get("Authorization", "").encode()
        return hmac.compare_digest(given, b"Bearer " + self.token)

    def _answer(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Scrapes are not news."""
