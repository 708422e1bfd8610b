"""How the monitor is, as rows to read: what, its state in a word, and what it means. It knows no HTML.

A state is `good`, `attention` or `unknown`; the page gives each a sign and a word, never a colour alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from monitor.web.health import Figures
from monitor.web.look import Look

State = Literal["good", "attention", "unknown"]

_LONG_S = 300.0
_GIB = 2**30
_DISK_LOW_GIB = 2.0
_SKEW_S = 60.0
_DRIFT = 3.0


@dataclass(frozen=True)
class Check:
    """One row. `says`: the figure in words, or why it is unknown."""

    what: str
    state: State
    says: str


@dataclass(frozen=True)
class Group:
    name: str
    checks: tuple[Check, ...]


def checks(figures: Figures, look: Look, incubators: Sequence[str], now: datetime) -> list[Group]:
    """The whole node, each incubator, and the files that could not be used. Raises StorageError."""
    groups = [Group("This machine", tuple(_node(figures, look, now)))]
    groups.append(Group("Models", tuple(_engines(figures))))
    for name in incubators:
        groups.append(Group(f"Incubator {name}", tuple(_incubator(figures, look, name, now))))
    return groups


def duration(seconds: float) -> str:
    """In words short enough for a row."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.0f} days"


def _unknown(what: str, figures: Figures, why: str) -> Check:
    return Check(what, "unknown", f"unknown: {figures.fault or why}")


def _node(figures: Figures, look: Look, now: datetime) -> Iterator[Check]:
    if figures.fault is not None:
        yield Check("monitor", "unknown", figures.fault)
    else:
        version = next(
            (labels["version"] for labels, _ in figures.all_of("build_info") if "version" in labels), "unknown"
        )
        yield Check("monitor", "good", f"answers; version {version}")
    connected = figures.of("mqtt_connected")
    if connected is None:
        yield _unknown("broker", figures, "not told")
    else:
        yield Check(
            "broker", "good" if connected else "attention", "connected" if connected else "away: nothing is lost"
        )
    count, oldest = look.outbox()
    age_s = 0.0 if oldest is None else max(0.0, (now - oldest).total_seconds())
    told = "empty" if not count else f"{count} messages wait, the oldest for {duration(age_s)}"
    yield Check("outbox", "attention" if age_s > _LONG_S else "good", told)
    depth, waited = figures.of("queue_depth"), figures.of("queue_oldest_age_seconds")
    if depth is None or waited is None:
        yield _unknown("frames waiting", figures, "not told")
    else:
        told = "none" if not depth else f"{depth:.0f}, the oldest for {duration(waited)}"
        yield Check("frames waiting", "attention" if waited > _LONG_S else "good", told)
    free = figures.of("disk_free_bytes")
    if free is None:
        yield _unknown("disk", figures, "not told")
    else:
        state: State = "attention" if free < _DISK_LOW_GIB * _GIB else "good"
        yield Check("disk", state, f"{free / _GIB:.1f} GiB free where the journal lies")
    failures = figures.of("storage_failures_total")
    if failures is None:
        yield _unknown("writing", figures, "not told")
    else:
        told = (
            "everything was written" if not failures else f"{failures:.0f} times it could not be written; tried again"
        )
        yield Check("writing", "attention" if failures else "good", told)


def _engines(figures: Figures) -> Iterator[Check]:
    found = figures.all_of("engine_info")
    if not found:
        yield _unknown("models", figures, "none was told")
    for labels, _ in sorted(found, key=lambda pair: pair[0]["task"]):
        name = labels["model"]
        fallback = figures.of("engine_fallback", engine=name) == 1
        failed = sum(value for own, value in figures.all_of("step_failures_total") if own.get("engine") == name)
        told = f"{name} {labels['version']} on {labels['runtime']}{', a fallback' if fallback else ''}; "
        told += f"{failed:.0f} frames got no answer since the start" if failed else "every frame was answered"
        yield Check(labels["task"], "attention" if fallback or failed else "good", told)


def _incubator(figures: Figures, look: Look, name: str, now: datetime) -> Iterator[Check]:
    reachable = figures.of("share_reachable", incubator=name)
    if reachable is None:
        yield _unknown("folder", figures, "not told")
    else:
        told = "can be read" if reachable else "away: it gives errors, no answer, or is empty. Frames wait there"
        yield Check("folder", "good" if reachable else "attention", told)
    last = look.last_frame(name)
    if last is None:
        yield Check("last frame", "unknown", "none yet")
    else:
        age = duration(max(0.0, (now - last.recorded_at).total_seconds()))
        gap = any(one.kind == "frame_gap" and one.subject.incubator == name for one in look.open_alerts())
        yield Check("last frame", "attention" if gap else "good", f"taken in {age} ago")
    embryos = look.embryos_in((name,))[name]
    yield Check("embryos", "good", f"{embryos} with an open run")
    skew = figures.of("clock_skew_seconds", incubator=name)
    if skew is None:
        yield _unknown("clock", figures, "no live frame with a clock in its name yet")
    else:
        told = f"{duration(abs(skew))} {'ahead of' if skew > 0 else 'behind'} its files' clock"
        yield Check("clock", "attention" if abs(skew) > _SKEW_S else "good", told)
    yield _drift(figures, name)
    aside = [(reason, count) for incubator, reason, count in look.put_aside() if incubator == name]
    told = ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in aside) or "none"
    yield Check("files put aside", "attention" if aside else "good", told)


def _drift(figures: Figures, name: str) -> Check:
    drift = [(own["feature"], value) for own, value in figures.all_of("input_drift") if own.get("incubator") == name]
    if not drift:
        return _unknown("pictures", figures, "drift is told after 1,000 fit frames")
    told = ", ".join(f"{feature} {value:+.1f}" for feature, value in sorted(drift))
    far = any(abs(value) > _DRIFT for _, value in drift)
    return Check("pictures", "attention" if far else "good", f"against the first 1,000 frames: {told}")
