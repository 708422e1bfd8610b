"""Who may ask: a token in a header (programs), or a session cookie given for that token (browsers).

The cookie holds no token but a time and a seal over it made with the token: a new token ends every session. Nothing is
stored. It knows headers; no route.
"""

from __future__ import annotations

import hashlib
import hmac
import html
import threading
from base64 import b64encode
from collections.abc import Callable
from http.cookies import CookieError, SimpleCookie
from typing import Any, Protocol
from urllib.parse import urlsplit

from monitor.body import INTENDED_USE
from monitor.config import LOOPBACK

COOKIE = "pellucid_session"
LASTS_S = 12 * 3600.0
_TRIES, _TRIES_WITHIN_S = 10, 60.0

_STYLE = (
    "body{font:1.15rem/1.5 system-ui,sans-serif;margin:12vh auto;max-width:30rem;padding:0 1rem}"
    ":root{color-scheme:light dark}"
    "input,button{font:inherit;padding:.5rem;width:100%;box-sizing:border-box;margin-top:.3rem}"
)
POLICY = (
    "default-src 'none'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'; style-src "
    f"'sha256-{b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()}'"
)  # of the form


class Headers(Protocol):
    """A request's headers by name."""

    def get(self, name: str, absent: str, /) -> Any: ...


class Door:
    """`token` None: everybody on this machine may come in. `now_s`: seconds since 1970."""

    def __init__(self, token: bytes | None, secure: bool, now_s: Callable[[], float]) -> None:
        self._token, self._secure, self._now_s = token, secure, now_s
        self._lock = threading.Lock()
        self._failed_s: list[float] = []

    @property
    def open(self) -> bool:
        return self._token is None

    def knows_token(self, headers: Headers) -> bool:
        """By a header that no browser sends by itself."""
        if self._token is None:
            return False
        return hmac.compare_digest(headers.get("Authorization", "").encode(), b"Bearer " + self._token)

    def knows_session(self, headers: Headers) -> bool:
        """By the cookie of a login."""
        if self._token is None:
            return False
        try:
            morsel = SimpleCookie(headers.get("Cookie", "")).get(COOKIE)
        except CookieError:
            return False
        until, _, seal = ("" if morsel is None else morsel.value).partition(".")
        if not (until.isascii() and until.isdecimal() and len(until) < 15):
            return False
        return int(until) > self._now_s() and hmac.compare_digest(seal.encode(), self._seal(until).encode())

    def try_token(self, given: str) -> str | None:
        """The `Set-Cookie` for who gives the token; None for who does not, or while too many have failed."""
        with self._lock:
            now = self._now_s()
            self._failed_s = [at for at in self._failed_s if 0 <= now - at < _TRIES_WITHIN_S]
            if self._token is None or len(self._failed_s) >= _TRIES:
                return None
            if not hmac.compare_digest(given.strip().encode(), self._token):
                self._failed_s.append(now)
                return None
        until = str(int(now + LASTS_S))
        return self._cookie(f"{until}.{self._seal(until)}", int(LASTS_S))

    def farewell(self) -> str:
        """The `Set-Cookie` that ends a session in the browser."""
        return self._cookie("", 0)

    def _cookie(self, value: str, lasts_s: int) -> str:
        secure = "; Secure" if self._secure else ""
        return f"{COOKIE}={value}; Path=/; Max-Age={lasts_s}; HttpOnly; SameSite=Strict{secure}"

    def _seal(self, until: str) -> str:
        return hmac.new(self._token or b"", f"pellucid page until {until}".encode(), hashlib.sha256).hexdigest()


def from_own_page(headers: Headers) -> bool:
    """Whether a request that changes something comes from a page of ours, or from no page at all: never from another
    site's page in the same browser."""
    site = headers.get("Sec-Fetch-Site", "")
    if site not in ("", "same-origin", "none"):
        return False
    origin = headers.get("Origin", "")
    return not origin or urlsplit(origin).netloc == headers.get("Host", "")


def named_rightly(headers: Headers) -> bool:
    """Whether a server on loopback without a token is asked by a name of loopback: a foreign name that was pointed at
    this machine (DNS rebinding) would let a foreign page read it."""
    return (urlsplit(f"//{headers.get('Host', '')}").hostname or "") in LOOPBACK


def form(target: str, failed: bool) -> bytes:
    """The page that asks for the token; `target`: where to go then."""
    says = (
        '<p role="alert"><b>That is not the token</b>, or there were too many tries: wait a minute.</p>'
        if failed
        else ""
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Log in · Pellucid</title><style>{_STYLE}</style></head>
<body><main><h1>Pellucid</h1>{says}
<form method="post" action="/login"><input type="hidden" name="next" value="{html.escape(target)}">
<p><label>Token of this machine
<input type="password" name="token" autocomplete="current-password" required autofocus></label></p>
<p><button>Log in</button></p></form>
<p>{html.escape(INTENDED_USE.capitalize())}.</p></main></body></html>
""".encode()


def safe_target(target: str) -> str:
    """A place on this server to go to after the login; the front page for anything else."""
    inside = target.startswith("/") and not target.startswith(("//", "/\\")) and target.isprintable()
    return target if inside and len(target) < 500 else "/"
