"""How the monitor itself is: what it says on `/metrics`, asked over HTTP and kept for a moment.

The daemon's own figures are the one source; where it does not answer, everything is unknown and why is said. It knows
names of metrics; no journal.
"""

from __future__ import annotations

import http.client
import ssl
import threading
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone

from prometheus_client.parser import text_string_to_metric_families

from monitor.config import Http

KEPT_S = 3.0
_PATIENCE_S = 2.0
Fetch = Callable[[], str]


@dataclass(frozen=True)
class Figures:
    """Every sample by its name without prefix and its labels. `fault`: why there is none; `at`: when it was asked."""

    at: datetime
    samples: dict[tuple[str, tuple[tuple[str, str], ...]], float] = field(default_factory=dict)
    fault: str | None = None

    def of(self, metric: str, **labels: str) -> float | None:
        return self.samples.get((metric, tuple(sorted(labels.items()))))

    def all_of(self, metric: str) -> list[tuple[dict[str, str], float]]:
        return [(dict(labels), value) for (name, labels), value in self.samples.items() if name == metric]


class Health:
    """Figures, at most KEPT_S old. `fetch` None: there is no daemon to be asked."""

    def __init__(self, fetch: Fetch | None, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._fetch, self._monotonic = fetch, monotonic
        self._lock = threading.Lock()
        self._kept: tuple[float, Figures] | None = None

    def figures(self) -> Figures:
        with self._lock:
            if self._kept is None or self._monotonic() - self._kept[0] >= KEPT_S:
                self._kept = self._monotonic(), self._ask()
            return self._kept[1]

    def _ask(self) -> Figures:
        now = datetime.now(timezone.utc)
        if self._fetch is None:
            return Figures(now, fault="this page was started alone: it asks no daemon")
        try:
            text = self._fetch()
            samples = {
                (sample.name.removeprefix("pellucid_"), tuple(sorted(sample.labels.items()))): sample.value
                for family in text_string_to_metric_families(text)
                for sample in family.samples
                if not sample.name.endswith("_bucket")
            }
        except (OSError, ValueError, http.client.HTTPException) as fault:
            return Figures(now, fault=f"the monitor does not answer ({fault or type(fault).__name__})")
        return Figures(now, samples)


def over_http(url: str, http: Http) -> Fetch:
    """Asks the daemon's own server: its token, and its certificate and no other."""
    context: ssl.SSLContext | None = None
    if http.tls is not None:
        context = ssl.create_default_context(cafile=str(http.tls.cert_file))
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # that very certificate is trusted, whoever signed it
        context.check_hostname = False  # it is asked by its address on this machine

    def fetch() -> str:
        headers = {} if http.token_file is None else {"Authorization": f"Bearer {_token(http)}"}
        request = urllib.request.Request(f"{url}/metrics", headers=headers)
        with urllib.request.urlopen(request, timeout=_PATIENCE_S, context=context) as answer:
            return str(answer.read().decode())

    return fetch


def _token(http: Http) -> str:
    return "" if http.token_file is None else http.token_file.read_text().strip()
