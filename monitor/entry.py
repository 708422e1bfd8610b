"""What goes into the journal in one transaction, and what comes back: a frame's entry, a command's deed. Nouns only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from monitor.alert import Alert
from monitor.alert_table import Verdict
from monitor.command_body import Answer, Assess
from monitor.feature_table import FeatureRow
from monitor.file_table import FileRecord
from monitor.runs import Run
from monitor.vocabulary import Moment, Reading


@dataclass(frozen=True)
class Entry:
    """What one frame adds: the run as it leaves it, its reading (None: nothing new), files, new state digests, what the
    stage model was told of it, and its hours since the run's first frame (None: not known)."""

    run: Run
    ended: tuple[Run, str] | None
    reading: Reading | None
    moment: Moment
    files: tuple[FileRecord, ...]
    states: dict[str, str]
    complete_at: datetime | None
    verdicts: tuple[Verdict, ...] = ()
    features: tuple[FeatureRow, ...] = ()
    elapsed_h: float | None = None


@dataclass(frozen=True)
class Deed:
    """What a command changes. `audit`: what was said and what came of it; `answered`: the sender's id, the digest of
    what it stood on, and the answer; `assessed`: of whom, at which reading, and what."""

    subject: str
    audit: Mapping[str, object]
    answered: tuple[str, str, Answer] | None = None
    verdicts: tuple[Verdict, ...] = ()
    ended: Run | None = None
    assessed: tuple[Run, str | None, Assess] | None = None
    time_zero: tuple[Run, datetime] | None = None


@dataclass(frozen=True)
class Recorded:
    """What a transaction made true: readings and alerts as they will be told (with `seq`), in order; and the digests of
    states and of day-5 pictures that no row names any more."""

    readings: list[Reading]
    alerts: list[Alert]
    freed: set[str]
    freed_overlays: set[str] = field(default_factory=set)
