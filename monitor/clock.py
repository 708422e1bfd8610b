"""The machine's own clock."""

from __future__ import annotations

import time
from datetime import datetime, timezone


class SystemClock:
    """Wall time in UTC, and seconds that never go back."""

    def now(self) -> datetime:
        return datetime.now(timezone.utc)

    def monotonic(self) -> float:
        return time.monotonic()
