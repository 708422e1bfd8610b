"""Requests for the page handed on to its process over a Unix socket, and the answers handed back.

So one address, one token and one certificate stand before everything. A page that is down, slow or broken is an answer
that says so; it holds no more than a few of our threads. It knows HTTP; not what is asked for.
"""

from __future__ import annotations

import http.client
import re
import socket
import threading
from dataclasses import dataclass
from pathlib import Path

from monitor.login import Headers

PATIENCE_S = 15.0
AT_ONCE = 24
_MOST_BYTES = 64 * 2**20
_PATHS = re.compile(r"/\Z|/(?:static|page|api/v1)/")
_PLAIN = (("Content-Type", "text/plain; charset=utf-8"), ("Cache-Control", "no-store"))
_HANDED_ON = ("Accept", "If-None-Match", "If-Modified-Since")
_HANDED_BACK = (
    *("Content-Type", "Cache-Control", "Content-Security-Policy", "ETag", "Last-Modified", "Location"),
    *("X-Content-Type-Options", "Referrer-Policy", "Cross-Origin-Resource-Policy"),
)


@dataclass(frozen=True)
class Answer:
    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


class _OverSocket(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("page", timeout=timeout_s)
        self._socket_path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._socket_path))


class Relay:
    """To the page behind the socket at `path`, from any thread."""

    def __init__(self, path: Path, patience_s: float = PATIENCE_S, at_once: int = AT_ONCE) -> None:
        self._path, self._patience_s = path, patience_s
        self._room = threading.BoundedSemaphore(at_once)

    def get(self, target: str, headers: Headers) -> Answer:
        """What the page answers to a GET, 400 where `target` is no URL's, or 503 with the reason."""
        if not self._room.acquire(blocking=False):
            return _none("the page is busy")
        try:
            return self._ask(target, {name: value for name in _HANDED_ON if (value := headers.get(name, ""))})
        except UnicodeEncodeError:  # a raw byte in the path: a URL is ASCII
            return Answer(400, _PLAIN, b"a path is ASCII: its other characters are to be percent-encoded\n")
        except (FileNotFoundError, ConnectionError):
            return _none("the page is not up; it is started anew by itself, the monitor goes on")
        except (OSError, http.client.HTTPException) as fault:
            return _none(f"the page does not answer ({fault or type(fault).__name__})")
        finally:
            self._room.release()

    def _ask(self, target: str, headers: dict[str, str]) -> Answer:
        connection = _OverSocket(self._path, self._patience_s)
        try:
            connection.request("GET", target, headers={**headers, "Connection": "close"})
            answer = connection.getresponse()
            body = answer.read(_MOST_BYTES + 1)
            if len(body) > _MOST_BYTES:
                return _none(f"the page's answer has over {_MOST_BYTES} bytes")
            told = tuple((name, value) for name in _HANDED_BACK if (value := answer.getheader(name)) is not None)
            return Answer(answer.status, told, body)
        finally:
            connection.close()


def is_of_page(path: str) -> bool:
    """Whether a path (without its query) is the page's."""
    return _PATHS.match(path) is not None


def _none(why: str) -> Answer:
    return Answer(503, (*_PLAIN, ("Retry-After", "2")), f"{why}\n".encode())
