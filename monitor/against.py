"""The readings that a journal holds against those that the models of now make of the same frames: where they differ.

A frame is compared as it was first told in both. It reads two journals and changes neither; what the difference means
for anybody is not said.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from monitor.database import Connection, opened_for_reading
from monitor.vocabulary import Reading

DIFFER_BY = 0.001  # of a probability; two runtimes of one model differ by less


@dataclass(frozen=True)
class Difference:
    """One frame of one embryo: what the journal says of it, and what is said now, by the name of what differs."""

    embryo_id: str
    frame: str
    hpi: float | None
    then: dict[str, object]
    now: dict[str, object]

    def __str__(self) -> str:
        hour = "hour not known" if self.hpi is None else f"{self.hpi:.1f} hpi"
        what = "; ".join(f"{key} {_told(self.then[key])} -> {_told(self.now[key])}" for key in self.then)
        return f"{self.embryo_id} {self.frame} ({hour}): {what}"

    def line(self) -> str:
        """As JSON."""
        facts = {"embryo_id": self.embryo_id, "frame": self.frame, "hpi": self.hpi, "then": self.then, "now": self.now}
        return json.dumps(facts, ensure_ascii=False)


@dataclass
class Comparison:
    """What was compared: frames in both, those of one only, engines of both, how many frames differ in what, and the
    largest difference of probability with the frame it is of."""

    frames: int = 0
    only_then: int = 0
    only_now: int = 0
    differ: int = 0
    engines_then: dict[str, set[str]] = field(default_factory=dict)
    engines_now: dict[str, set[str]] = field(default_factory=dict)
    by_kind: Counter[str] = field(default_factory=Counter)
    largest: tuple[float, str] = (0.0, "")

    @property
    def same(self) -> bool:
        return not (self.differ or self.only_then or self.only_now)

    def lines(self) -> Iterator[str]:
        """A summary to print."""
        yield f"{self.frames} frames in both, {self.differ} of them read otherwise now"
        for name in sorted({*self.engines_then, *self.engines_now}):
            yield f"  {name}: {_digests(self.engines_then.get(name))} -> {_digests(self.engines_now.get(name))}"
        for kind, count in sorted(self.by_kind.items()):
            yield f"  {kind}: {count} frames"
        if self.largest[1]:
            yield f"  probability at most {self.largest[0]:.3f} apart: {self.largest[1]}"
        if self.only_then:
            yield f"  {self.only_then} frames stand in the journal only: their pictures are not there any more"
        if self.only_now:
            yield f"  {self.only_now} frames are told now only: the journal does not hold them"


def compared(then: Path, now: Path, differ_by: float, found: Comparison) -> Iterator[Difference]:
    """Every frame that differs, embryo by embryo; `found` is complete when the last is given. Both are folders of
    journals. Raises ConfigError, StorageError."""
    with opened_for_reading(then) as before, opened_for_reading(now) as after:
        incubators = [name for (name,) in after.rows("SELECT DISTINCT incubator FROM run ORDER BY incubator")]
        for embryo_id in _embryos(before, after, incubators):
            yield from _of_embryo(embryo_id, _first(before, embryo_id), _first(after, embryo_id), differ_by, found)


def _embryos(before: Connection, after: Connection, incubators: Iterable[str]) -> list[str]:
    query = "SELECT embryo_id FROM run WHERE incubator = ?"
    return sorted({one for db in (before, after) for name in incubators for (one,) in db.rows(query, (name,))})


def _first(db: Connection, embryo_id: str) -> dict[str, Reading]:
    """frame -> its reading as first told."""
    query = "SELECT frame_key, body FROM reading WHERE embryo_id = ? AND revision = 1 ORDER BY frame_order, frame_key"
    return {key: Reading.model_validate_json(body) for key, body in db.rows(query, (embryo_id,))}


def _of_embryo(
    embryo_id: str, then: dict[str, Reading], now: dict[str, Reading], differ_by: float, found: Comparison
) -> Iterator[Difference]:
    found.only_then += len(then.keys() - now.keys())
    found.only_now += len(now.keys() - then.keys())
    for frame, was in then.items():
        if (reading := now.get(frame)) is None:
            continue
        found.frames += 1
        for engines, digests in ((found.engines_then, was.engines), (found.engines_now, reading.engines)):
            for name, digest in digests.items():
                engines.setdefault(name, set()).add(digest)
        before, after = _said(was), _said(reading)
        apart = _apart(before["probability"], after["probability"])
        if apart is not None and apart > found.largest[0]:
            found.largest = (apart, f"{embryo_id} {frame}")
        kinds = [
            kind
            for kind in before
            if before[kind] != after[kind] and not (kind == "probability" and apart is not None and apart <= differ_by)
        ]
        if kinds:
            found.differ += 1
            found.by_kind.update(kinds)
            both = ({kind: side[kind] for kind in kinds} for side in (before, after))
            yield Difference(embryo_id, frame, reading.frame.hpi, *both)


def _said(reading: Reading) -> dict[str, object]:
    """What of a reading is compared. Not its day 5: that hangs on when there was time for the work."""
    stage = reading.stage
    return {
        "outcome": reading.outcome.value,
        "probability": None if reading.blastocyst is None else reading.blastocyst.probability,
        "stage": None if stage is None else stage.live,
        "revised": None if stage is None else stage.revised,
        "hpi": reading.frame.hpi,
        "flags": list(reading.quality.flags),
        "planes": list(reading.frame.planes),
    }


def _apart(before: object, after: object) -> float | None:
    return abs(after - before) if isinstance(before, float) and isinstance(after, float) else None


def _told(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, list):
        return " ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)


def _digests(digests: set[str] | None) -> str:
    return "not there" if not digests else ", ".join(sorted(digest[:12] for digest in digests))
