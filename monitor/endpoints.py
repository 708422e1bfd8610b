"""HTTP for machines: `/metrics`, `/healthz`, `/readyz`. Loopback by default; beyond it only with TLS and a token.

It shows what the worker wrote down; it opens neither journal nor folder.
"""

from __future__ import annotations

import hmac
import json
import ssl
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from monitor.config import Http
from monitor.errors import ConfigError

Ready = Callable[[], dict[str, bool]]


class Endpoints:
    """A small server in its own thread. `ready` gives each condition of readiness by name.

    Raises ConfigError when the address cannot be used or the token or certificate cannot be read.
    """

    def __init__(self, settings: Http, registry: CollectorRegistry, ready: Ready) -> None:
        token = _token(settings)

        class Handler(_Handler):
            pass

        Handler.registry, Handler.ready, Handler.token = registry, staticmethod(ready), token
        try:
            self._server = ThreadingHTTPServer((settings.host, settings.port), Handler)
        except OSError as fault:
            raise ConfigError(f"http = {settings.host}:{settings.port}: {fault.strerror}") from fault
        self._server.daemon_threads = True
        if settings.tls is not None:
            # the handshake belongs to the handler's thread, under its time limit: one silent peer must not block all
            self._server.socket = _tls(settings).wrap_socket(
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
        return settings.token_file.read_bytes().strip()
    except OSError as fault:
        raise ConfigError(f"http.token_file = {str(settings.token_file)!r}: {fault.strerror}") from fault


def _tls(settings: Http) -> ssl.SSLContext:
    assert settings.tls is not None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(settings.tls.cert_file, settings.tls.key_file)
    except (OSError, ssl.SSLError) as fault:
        raise ConfigError(f"http.tls: {fault}") from fault
    return context


class _Handler(BaseHTTPRequestHandler):
    registry: CollectorRegistry
    ready: Ready
    token: bytes | None
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
            self._answer(404, "text/plain", b"there are /metrics, /healthz, /readyz\n")

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
