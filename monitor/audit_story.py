"""The chain for people: an embryo's story line by line, and the whole for somebody else's tools.

It reads and words; whether the chain holds is `monitor.audit_check`'s.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from typing import Any, TextIO

from monitor.audit import COLUMNS, KEPT_ELSEWHERE, Link
from monitor.database import Connection
from monitor.errors import ConfigError

_HEAD = ("number", "recorded_at", "kind", "subject", "ref", "previous", "hash", "body", "told")


def story(db: Connection, embryo: str) -> Iterator[str]:
    """What was told of an embryo, and what it rests on. Raises ConfigError where the chain knows none."""
    subjects = _subjects(db, embryo)
    for subject in subjects:
        yield subject.removeprefix("embryo/")
        for link in _links(db, subject):
            yield from _told(db, link)
    yield from _software(db)


def _subjects(db: Connection, embryo: str) -> list[str]:
    whole = [f"embryo/{embryo}"] if "/" in embryo else []
    query = "SELECT DISTINCT subject FROM audit WHERE subject = ? OR (subject > ? AND subject < ?) ORDER BY subject"
    found = [subject for one in whole for (subject,) in db.rows(query, (one, f"{one}/", f"{one}0"))]  # '0' follows '/'
    if not found:
        raise ConfigError(f"the journal tells of no embryo {embryo!r}: an embryo_id is incubator/dish/well/first frame")
    return found


def _links(db: Connection, subject: str) -> Iterator[Link]:
    for row in db.rows(f"SELECT {COLUMNS} FROM audit WHERE subject = ? ORDER BY number", (subject,)):
        yield Link(*row)


def _told(db: Connection, link: Link) -> Iterator[str]:
    body, told = json.loads(link.body), _kept(db, link)
    if link.kind == "reading":
        words = _reading(body, told)
    elif link.kind == "alert":
        words = f"alert {told.get('kind')} {told.get('state')} ({told.get('alert_id')}): {told.get('text')}"
    elif link.kind == "event":
        words = _event(told)
    else:
        words = f"{link.kind} {json.dumps({key: value for key, value in body.items() if key not in _DIGESTS})}"
    yield _line(link, words)
    for model, (before, after) in sorted(body.get("states", {}).items()):
        if before != after and after is not None:
            yield f"{'':{_INDENT}}{model} now remembers {after[:12]}, before {before[:12] if before else 'nothing'}"


def _line(link: Link, words: str) -> str:
    return f"{link.recorded_at}  #{link.number:<8} {words}"


_INDENT = 41
_DIGESTS = ("standing", "files", "pictures", "states", "features")


def _reading(body: dict[str, Any], told: dict[str, Any]) -> str:
    frame, blastocyst, stage = told.get("frame", {}), told.get("blastocyst"), told.get("stage")
    hpi = frame.get("hpi")
    parts = [f"reading {told.get('outcome')}, revision {told.get('revision')}"]
    parts.append("hour not known" if hpi is None else f"{hpi:.1f} hpi")
    if blastocyst:
        parts.append(f"P(blastocyst) {blastocyst['probability']:.3f}")
    if stage:
        parts.append(f"stage {stage['live']} (revised {stage['revised']})")
    if flags := told.get("quality", {}).get("flags"):
        parts.append("flags " + " ".join(flags))
    parts.append(f"from {len(body.get('pictures', {}))} pictures")
    parts.append("engines " + " ".join(f"{name} {digest[:12]}" for name, digest in told.get("engines", {}).items()))
    return "; ".join(parts)


def _event(told: dict[str, Any]) -> str:
    day5 = told.get("day5") or {}
    grade = day5.get("grade") or {}
    words = " ".join(f"{name} {value}" for name, value in grade.items() if value is not None)
    return f"event {told.get('kind')}: {day5.get('outcome', '')} {words}".rstrip()


def _kept(db: Connection, link: Link) -> dict[str, Any]:
    """The body of the row that a link tells of; empty where it keeps none."""
    if link.kind not in KEPT_ELSEWHERE:
        return {}
    table, column = KEPT_ELSEWHERE[link.kind]
    row = next(db.rows(f"SELECT body FROM {table} WHERE {column} = ?", (link.ref,)), None)
    return {"outcome": "gone: see `journal verify`"} if row is None else dict(json.loads(row[0]))


def _software(db: Connection) -> Iterator[str]:
    """Which software and models there were: the boots are named by `boot_id` in what was told."""
    yield "software and models"
    for subject in ("start", "models"):
        for link in _links(db, subject):
            if link.kind != "stop":
                body = json.loads(link.body)
                yield _line(link, f"{link.kind} {json.dumps(body.get('changed') or body)}")


def export(db: Connection, out: TextIO, kind: str, embryo: str | None = None) -> int:
    """Every row of the chain in order (one embryo's), with the body of what it tells of; how many rows. JSON Lines or
    CSV with the same columns, bodies as JSON."""
    table = csv.writer(out) if kind == "csv" else None
    if table is not None:
        table.writerow(_HEAD)
    count = 0
    for link in _chosen(db, embryo):
        row = (link.number, link.recorded_at, link.kind, link.subject, link.ref, link.previous, link.hash)
        told = _kept(db, link) or None
        if table is not None:
            table.writerow([*row, link.body, "" if told is None else json.dumps(told, ensure_ascii=False)])
        else:
            whole = dict(zip(_HEAD, (*row, json.loads(link.body), told), strict=True))
            out.write(json.dumps(whole, ensure_ascii=False) + "\n")
        count += 1
    return count


def _chosen(db: Connection, embryo: str | None) -> Iterator[Link]:
    if embryo is not None:
        for subject in _subjects(db, embryo):
            yield from _links(db, subject)
        return
    for row in db.rows(f"SELECT {COLUMNS} FROM audit ORDER BY number"):
        yield Link(*row)
