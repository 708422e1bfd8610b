"""What would happen if the daemon started now: engines, brokers, folders, disk. It changes nothing that it finds.

Each finding is a line: ok, warning or error, the thing, and the remedy.
"""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from engines.load import Loaded
from monitor.config import LOOPBACK, Config, Incubator, Mqtt, Site
from monitor.errors import ConfigError
from monitor.intake import survey
from monitor.mqtt_session import Connected, Ended, MqttSession
from monitor.node import Source, check_planes, load_models, new_time_zero

LEAST_FREE_BYTES = 2 * 2**30
BROKER_LIMIT_S = 10.0


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    level: Literal["ok", "warning", "error"]
    what: str
    detail: str

    def __str__(self) -> str:
        return f"{self.level:<8} {self.what:<24} {self.detail}"


def check(config: Config) -> Iterator[Finding]:
    """Every finding, as it is found."""
    try:
        loaded = load_models(config.engines)
    except ConfigError as fault:
        yield Finding("error", "engine", str(fault))
    else:
        yield _engine(loaded)
        yield from _planes(config, loaded)
    yield _storage(config.storage.path)
    yield _broker(config.mqtt, config.site)
    for incubator in config.incubator:
        yield _insemination(incubator)
        yield from folder_findings(incubator)


def _engine(loaded: Loaded) -> Finding:
    manifest = loaded.manifest
    text = f"{manifest.name} {manifest.version} on {loaded.engine.runtime} ({loaded.note}), one step done"
    return Finding("ok", "engine", f"{text}; {manifest.intended_use}")


def _planes(config: Config, loaded: Loaded) -> Iterator[Finding]:
    for incubator in config.incubator:
        try:
            check_planes(incubator, loaded.manifest.name, loaded.manifest.preprocess.allowed_plane_counts)
        except ConfigError as fault:
            yield Finding("error", f"{incubator.name} planes", str(fault))


def _storage(path: Path) -> Finding:
    at = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    if not os.access(at, os.W_OK | os.X_OK):
        return Finding("error", "storage.path", f"{path}: not writable by this user")
    free = shutil.disk_usage(at).free
    level: Literal["ok", "warning"] = "ok" if free >= LEAST_FREE_BYTES else "warning"
    return Finding(level, "storage.path", f"{path}: {free / 2**30:.1f} GiB free")


def _broker(mqtt: Mqtt, site: Site, limit_s: float = BROKER_LIMIT_S) -> Finding:
    """Log in as `run` would, under a client id of its own and without a will, say nothing, and leave."""
    where, version = f"{mqtt.host}:{mqtt.port}", "5" if mqtt.protocol == 5 else "3.1.1"
    # a daemon that runs keeps its session: a broker ends one for another of the same client id only
    client_id = f"pellucid-{site.name}-{site.node}-check-{secrets.token_hex(4)}"
    try:
        session = MqttSession(mqtt, client_id, None, lambda: None)
    except (OSError, ValueError) as fault:
        return Finding("error", "mqtt", f"{where}: {fault}; readings would wait in the outbox")
    try:
        answer = _answer(session, limit_s)
    finally:
        session.disconnect()
        if not session.join(1.0):
            session.abandon()
    if not isinstance(answer, Connected):
        return Finding("error", "mqtt", f"{where}: {answer.reason}; readings would wait in the outbox")
    line = answer.tls_version or "no TLS"
    text = f"{where}: logged in with MQTT {version}, {line}; whether its ACL takes our topics shows when `run` speaks"
    if answer.tls_version or mqtt.host in LOOPBACK:
        return Finding("ok", "mqtt", text)
    return Finding("warning", "mqtt", f"{text}; what is said can be read on the network: set mqtt.ca_file, or mqtt.tls")


def _answer(session: MqttSession, limit_s: float) -> Connected | Ended:
    """What the broker says to our CONNECT."""
    until_s = time.monotonic() + limit_s
    while (left_s := until_s - time.monotonic()) > 0:
        event = session.next_event(min(left_s, 0.2))
        if isinstance(event, Connected | Ended):
            return event
    return Ended(f"no answer to CONNECT in {limit_s:.0f} s; look at mqtt.protocol (5 or 311) and mqtt.port")


def _insemination(incubator: Incubator) -> Finding:
    what = f"{incubator.name} insemination"
    if incubator.insemination is None:
        return Finding("warning", what, "not given: hours post insemination stay unknown unless the files tell them")
    try:
        new_time_zero(Source(incubator))
    except ConfigError as fault:
        return Finding("error", what, str(fault))
    return Finding("ok", what, str(incubator.insemination))


def folder_findings(incubator: Incubator, folder: Path | None = None) -> Iterator[Finding]:
    """How the files below an incubator's folder (or another, with its layout) would be read."""
    root, what = folder or incubator.path, f"{incubator.name} folder"
    try:
        planes, faults = survey(root, incubator.reader, incubator.name)
    except OSError as fault:
        yield Finding("error", what, f"{root}: {fault.strerror}")
        return
    frames: dict[tuple[object, str], set[int]] = {}
    for plane in planes:
        frames.setdefault((plane.place, plane.moment.key), set()).add(plane.plane_um)
    places = {place for place, _ in frames}
    seen = sorted({plane.plane_um for plane in planes})
    whole = sum(stack >= set(incubator.planes) for stack in frames.values())
    text = f"{root}: {len(places)} embryos, {len(frames)} frames, {whole} with all planes; planes seen {seen} um"
    yield Finding("ok", what, text)
    if frames and (other := sorted(set(seen) - set(incubator.planes))):
        yield Finding("warning", what, f"planes {other} um are not declared: their files would be put aside")
    if faults:
        yield Finding("warning", what, f"{len(faults)} files would be put aside, the first: {faults[0][1].detail}")
