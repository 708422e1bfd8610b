"""Kinds of values that commands take on their line; each refuses what it cannot mean. It knows no command."""

from __future__ import annotations

import argparse
import re
from datetime import datetime


def positive(text: str) -> int:
    """A whole number from 1 on."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


def not_negative(text: str) -> int:
    """A whole number from 0 on."""
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError("at least 0")
    return number


def more_than_0(text: str) -> float:
    """A finite number above 0."""
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError("more than 0")
    return number


def share(text: str) -> float:
    """A number from 0 to 1."""
    number = float(text)
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError("0 to 1")
    return number


def moment(text: str) -> datetime:
    """An aware time."""
    found = datetime.fromisoformat(re.sub(r"[zZ]$", "+00:00", text))
    if found.tzinfo is None:
        raise argparse.ArgumentTypeError("a time needs its zone, for example 2026-01-31T06:10:00Z")
    return found
