"""One line of what `pellucid check` reports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    level: Literal["ok", "warning", "error"]
    what: str
    detail: str

    def __str__(self) -> str:
        return f"{self.level:<8} {self.what:<24} {self.detail}"
