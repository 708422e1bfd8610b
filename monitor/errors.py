"""The failures we name, and their fates.

PellucidError
|-- ConfigError    stop before starting; exit 78; the message names the key, the value, what is allowed
|-- FrameError     count, quarantine, go on; carries the reason word that the metric and the record use
`-- StorageError   the journal or a state cannot be written: nothing has happened, try again; at the start stop
EngineError (from `engines`)  lose this frame only, count; after several in a row exit for the supervisor to restart
"""

from __future__ import annotations

from engines.contract import EngineError, StateMismatchError

__all__ = [
    "PUT_ASIDE",
    "ConfigError",
    "EngineError",
    "FrameError",
    "PellucidError",
    "StateMismatchError",
    "StorageError",
]


class PellucidError(Exception):
    """Base of the failures Pellucid itself names."""


class ConfigError(PellucidError):
    """The configuration (or what a command needs before it can start) is not usable."""


# why a file is put aside; `unreadable` and `vanished` put none aside: those come back
PUT_ASIDE = (
    *("name", "plane", "clock", "duplicate", "size", "empty", "truncated", "not_a_picture", "pages", "pixels"),
    "too_large",
)


class FrameError(PellucidError):
    """A picture file cannot be used. `reason` is one word of a closed set, fit for a metric label."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class StorageError(PellucidError):
    """The journal or a state file is damaged, of another version, or cannot be written."""
