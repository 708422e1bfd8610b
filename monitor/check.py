"""What would happen if the daemon started now: engines, brokers, folders, disk. It changes nothing that it finds.

Each finding is a line: ok, warning or error, the thing, and the remedy.
"""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from engines.load import Loaded
from monitor.check_quality import quality_findings
from monitor.config import Config, Incubator
from monitor.errors import ConfigError
from monitor.finding import Finding
from monitor.intake import survey
from monitor.node import Source, check_planes, load_models, new_time_zero

LEAST_FREE_BYTES = 2 * 2**30


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
    yield _broker(config.mqtt.host, config.mqtt.port)
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


def _broker(host: str, port: int) -> Finding:
    try:
        with socket.create_connection((host, port), timeout=5):
            return Finding("ok", "mqtt", f"{host}:{port} accepts connections (login is tried by `run`)")
    except OSError as fault:
        return Finding("error", "mqtt", f"{host}:{port}: {fault.strerror or fault}; readings would wait in the outbox")


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
    yield from quality_findings(incubator, planes, root)
