"""What would happen if the daemon started now: engines, brokers, folders, disk. It changes nothing that it finds.

Each finding is a line: ok, warning or error, the thing, and the remedy.
"""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Literal

from engines.load import Loaded
from monitor.check_quality import quality_findings
from monitor.clock import SystemClock
from monitor.config import LOOPBACK, Config, Incubator, Mqtt, Site
from monitor.errors import ConfigError
from monitor.finding import Finding
from monitor.mqtt_session import Connected, Ended, MqttSession
from monitor.node import Source, check_planes, load_models, new_time_zero
from monitor.page_process import can_serve
from monitor.runs import GAP_IN_CADENCES
from monitor.survey import (
    Faults,
    Frame,
    Pictures,
    clock_of,
    fitting_preset,
    gather,
    intervals_min,
    look_into,
    look_over,
    read_names,
)
from monitor.vocabulary import Clock, Place, PlaneFile

LEAST_FREE_BYTES = 2 * 2**30
BROKER_LIMIT_S = 10.0
SHORTEST_INTERVAL_MIN = 0.5  # an incubator takes minutes to go round its wells
_CLOCK = SystemClock()


def check(config: Config) -> Iterator[Finding]:
    """Every finding, as it is found."""
    try:
        loaded = load_models(config.engines)
    except ConfigError as fault:
        yield Finding("error", "engine", str(fault))
    else:
        yield _gpu(loaded, config.engines.device)
        yield _engine(loaded)
        for beside in loaded.serving[1:]:
            yield _engine(beside)
        if loaded.segmenter is None:
            text = "no model of day 5 is configured (engines.segmenter, engines.graders): nothing is graded"
            yield Finding("ok", "day 5", text)
        yield from _planes(config, loaded)
    yield _storage(config.storage.path)
    if config.http.page:
        yield _page()
    yield _broker(config.mqtt, config.site)
    for incubator in config.incubator:
        yield _insemination(incubator)
        yield from folder_findings(incubator)


def _gpu(loaded: Loaded, device: str) -> Finding:
    """What of a GPU is here, and what is missing to use it."""
    if device == "cpu":
        return Finding("ok", "gpu", 'not looked for: engines.device = "cpu"')
    if loaded.lacks is None:
        return Finding("ok", "gpu", loaded.note)
    return Finding("error" if device == "gpu" else "warning", "gpu", f"{loaded.lacks}; until then the CPU serves")


def _engine(loaded: Loaded) -> Finding:
    manifest = loaded.manifest
    text = f"{manifest.name} {manifest.version} on {loaded.engine.runtime}, one step done; {manifest.intended_use}"
    if loaded.fallback is None or loaded.lacks is not None:
        return Finding("ok", "engine", text)
    return Finding("warning", "engine", f"{text}; not on the GPU: {loaded.fallback} (`run` builds what is missing)")


def _planes(config: Config, loaded: Loaded) -> Iterator[Finding]:
    for incubator in config.incubator:
        for one in loaded.serving:
            try:
                check_planes(incubator, one.manifest.name, one.manifest.preprocess.allowed_plane_counts)
            except ConfigError as fault:
                yield Finding("error", f"{incubator.name} planes", str(fault))


def _page() -> Finding:
    if can_serve():
        return Finding("ok", "http.page", "the daemon serves the page")
    return Finding("error", "http.page", "the page needs the extra \"web\": pip install 'pellucid[web]'")


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


def folder_findings(incubator: Incubator, folder: Path | None = None, clock: Clock = _CLOCK) -> Iterator[Finding]:
    """How the files below an incubator's folder (or another, with its layout) would be read."""
    root, what, reader = folder or incubator.path, f"{incubator.name} folder", incubator.reader
    try:
        seen = look_over(root)
        files, misnamed = read_names(root, reader, incubator.name, seen)
        fitting = fitting_preset(root, seen) if len(misnamed) > len(files) else None
    except OSError as fault:
        yield Finding("error", what, f"{root}: {fault.strerror}")
        return
    frames, unfit = gather(reader, files, incubator.planes, clock.now())
    yield _contents(incubator, root, files, frames)
    if fitting is not None and fitting[1] > len(files):
        pictures = len(files) + len(misnamed)
        text = f"layout {fitting[0]!r} would read {fitting[1]} of {pictures} pictures, {incubator.layout!r} reads"
        yield Finding("warning", what, f"{text} {len(files)}: set layout = {fitting[0]!r}")
    if faults := misnamed + unfit:
        yield Finding("warning", what, f"{len(faults)} files would be put aside: {_told(faults)}")
    yield from _undeclared(incubator, files, what)
    yield from _slides(frames, what)
    yield from _interval(incubator, frames)
    if frames:
        read = sorted({plane.file.path: plane for frame in frames for plane in frame.planes.values()}.items())
        yield from _pictures(incubator, look_into(root, [plane for _, plane in read], len(incubator.planes)))
        yield from quality_findings(incubator, [plane for frame in frames for plane in frame.planes.values()], root)


def _contents(incubator: Incubator, root: Path, files: Sequence[PlaneFile], frames: Sequence[Frame]) -> Finding:
    embryos = {(frame.place, frame.moment.slide) for frame in frames}
    whole = sum(set(frame.planes) >= set(incubator.planes) for frame in frames)
    text = f"{root}: {len(embryos)} embryos, {len(frames)} frames, {whole} with all planes"
    if incubator.reader.stacked:
        return Finding("ok", f"{incubator.name} folder", f"{text} if each file has a page for each")
    seen = sorted({plane.plane_um for plane in files})
    return Finding("ok", f"{incubator.name} folder", f"{text}; planes seen {seen} um")


def _told(faults: Faults) -> str:
    """How many for each reason, three of the files, and what is said of the first."""
    counts = Counter(fault.reason for _, fault in faults)
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items()))
    examples = ", ".join(repr(file.path[:120]) for file, _ in faults[:3])
    return f"{reasons}; for example {examples}; the first: {faults[0][1].detail}"


def _undeclared(incubator: Incubator, files: Sequence[PlaneFile], what: str) -> Iterator[Finding]:
    seen = set() if incubator.reader.stacked else {plane.plane_um for plane in files}
    if other := sorted(seen - set(incubator.planes)):
        yield Finding("warning", what, f"planes {other} um are not declared: their files would be put aside")


def _slides(frames: Sequence[Frame], what: str) -> Iterator[Finding]:
    slides: dict[Place, set[str]] = {}
    for frame in frames:
        if frame.moment.slide is not None:
            slides.setdefault(frame.place, set()).add(frame.moment.slide)
    several = {place: sorted(names) for place, names in slides.items() if len(names) > 1}
    if several:
        place, names = min(several.items())
        yield Finding(
            "warning",
            what,
            f"{len(several)} wells hold several slides, for example {place} holds {', '.join(names)}: they are taken "
            "for embryos one after the other; slides that fill at the same time need folders of their own",
        )


def _interval(incubator: Incubator, frames: Sequence[Frame]) -> Iterator[Finding]:
    what, between = f"{incubator.name} interval", intervals_min(frames)
    several = any(earlier.place == later.place for earlier, later in pairwise(frames))
    if several and not between:
        yield Finding("warning", what, "nothing tells the time between frames: hours and gaps stay unknown")
    if not between:
        return
    usual = median(between)
    clock = next(name for frame in frames if (name := clock_of(frame.moment)) is not None)
    text = f"{usual:.1f} min between frames (median; {min(between):.1f} to {max(between):.1f}), by {clock}"
    if usual < SHORTEST_INTERVAL_MIN:
        remedy = "were the files copied without their times? (cp -p and rsync -t keep them)"
        yield Finding(
            "warning", what, f"{text}: {remedy if incubator.reader.file_clock else 'no incubator is so fast'}"
        )
    elif incubator.cadence_min is None:
        yield Finding("ok", what, f"{text}; cadence_min = {usual:.0f} would flag longer waits")
    elif usual > GAP_IN_CADENCES * incubator.cadence_min:
        yield Finding("warning", what, f"{text}: with cadence_min = {incubator.cadence_min:g} all of them are gaps")
    else:
        yield Finding("ok", what, text)


def _pictures(incubator: Incubator, found: Pictures) -> Iterator[Finding]:
    what, looked = f"{incubator.name} pictures", f"{found.looked_into} looked into"
    if found.kinds:
        kinds = found.kinds.most_common()
        many = len(kinds) > 1
        text = "; ".join(f"{kind}{f' ({count})' if many else ''}" for kind, count in kinds[:5])
        width_px, height_px = kinds[0][0].width_px, kinds[0][0].height_px
        if incubator.pixel_size_um is not None:
            wide_um = width_px * incubator.pixel_size_um
            text += f"; a picture is {width_px} x {height_px} px, about {wide_um:.0f} um wide"
        sizes = {(kind.width_px, kind.height_px) for kind, _ in kinds}
        yield Finding("warning" if len(sizes) > 1 else "ok", what, f"{text}; {looked}")
    if found.bits_used is not None and found.bits_used <= 12 < min(kind.bits for kind in found.kinds if kind.bits > 8):
        yield Finding(
            "warning",
            what,
            f"the brightest pixel needs {found.bits_used} of 16 bits, and only the upper eight are read: such pictures "
            "are nearly black; let the incubator write 8 bits, or use all 16",
        )
    if found.faults:
        yield Finding("warning", what, f"{looked}, {len(found.faults)} of them cannot be used: {_told(found.faults)}")
