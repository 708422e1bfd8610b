"""Health and incubator status: the facts gathered, and told when they are due.

Every 60 s, at once in every new session, and an incubator's when it changes (looked for once a second at most). They
are coalesced: nothing waits in the outbox for them, the next one replaces the last. Refuses to know what they say.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Protocol

from monitor import health
from monitor.cadence import Cadences
from monitor.health import EngineFacts, IncubatorFacts, NodeFacts
from monitor.journal import Journal
from monitor.last_frames import LastFrame
from monitor.node import Node
from monitor.publish import Publisher
from monitor.vocabulary import Clock

EVERY_S = 60.0
LOOK_EVERY_S = 1.0


class LookedOver(Protocol):
    """When a folder was last looked over with success (monotonic seconds), and whether it is away since."""

    @property
    def looked_s(self) -> float | None: ...
    @property
    def away(self) -> bool: ...


class Bulletins:
    """The standing messages of one node; `tell` is called at every turn and mostly does nothing."""

    def __init__(
        self,
        node: Node,
        cadences: Cadences,
        looks: Mapping[str, LookedOver],
        engines: Callable[[], tuple[EngineFacts, ...]],
        storage: Path,
        publisher: Publisher,
        clock: Clock,
        boot_id: str,
        version: str,
    ) -> None:
        self._node, self._looks, self._storage = node, looks, storage
        self._cadences = cadences
        self._publisher, self._clock, self._boot_id, self._version = publisher, clock, boot_id, version
        self._engines = engines
        self._began_s = clock.monotonic()
        self._session = 0
        self._looked_s = -1e9
        self._told_s: dict[str, float] = {}
        self._told: dict[str, object] = {}  # what of an incubator counts as a change

    @property
    def _journal(self) -> Journal:
        return self._node.journal

    def tell(self, storage_ok: bool) -> None:
        """Say what is due, if anybody listens."""
        now_s = self._clock.monotonic()
        if not self._publisher.connected:
            return
        if self._publisher.session != self._session:
            self._session = self._publisher.session
            self._told_s.clear()
        elif now_s - self._looked_s < LOOK_EVERY_S:
            return
        self._looked_s = now_s
        last_frames = {name: self._journal.last_frames.of(name) for name in self._looks}
        if self._is_due(health.HEALTH_TOPIC, now_s):
            facts = self._node_facts(list(last_frames.values()), storage_ok)
            self._say(health.HEALTH_TOPIC, health.health_body(facts, self._boot_id, self._clock.now()))
        active = self._journal.open_runs()
        for name, last_frame in last_frames.items():
            topic = health.incubator_topic(name)
            gist = (self._reachable(name), last_frame, active.get(name, 0))
            if self._is_due(topic, now_s) or self._told.get(name) != gist:
                self._told[name] = gist
                body = health.incubator_body(
                    self._incubator_facts(name, last_frame, active.get(name, 0)), self._boot_id, self._clock.now()
                )
                self._say(topic, body)

    def _is_due(self, topic: str, now_s: float) -> bool:
        return now_s - self._told_s.get(topic, -1e9) >= EVERY_S

    def _say(self, topic: str, body: str) -> None:
        if self._publisher.publish_now(topic, body, True):
            self._told_s[topic] = self._clock.monotonic()

    def _reachable(self, name: str) -> bool:
        return self._looks[name].looked_s is not None and not self._looks[name].away

    def _node_facts(self, last_frames: list[LastFrame | None], storage_ok: bool) -> NodeFacts:
        now, now_s = self._clock.now(), self._clock.monotonic()
        frames, oldest_frame_age_s = self._node.backlog(now_s)
        messages, oldest = self._journal.outbox.depth()
        return NodeFacts(
            version=self._version,
            uptime_s=now_s - self._began_s,
            frames_waiting=frames,
            oldest_frame_age_s=oldest_frame_age_s,
            outbox_messages=messages,
            outbox_oldest_age_s=max(0.0, (now - oldest).total_seconds()) if oldest else 0.0,
            last_step_at=max((last.judged_at for last in last_frames if last and last.judged_at), default=None),
            engines=self._engines(),
            alerts_open=self._journal.alerts_open(),
            disk_free_bytes=shutil.disk_usage(self._storage).free,
            storage_ok=storage_ok,
            audit_head=self._journal.audit.head(),
        )

    def _incubator_facts(self, name: str, last: LastFrame | None, active: int) -> IncubatorFacts:
        looked_s = self._looks[name].looked_s
        ago = None if looked_s is None else timedelta(seconds=self._clock.monotonic() - looked_s)
        configured = self._cadences.configured_min(name)
        return IncubatorFacts(
            incubator=name,
            reachable=self._reachable(name),
            captured_at=None if last is None else last.captured_at,
            recorded_at=None if last is None else last.recorded_at,
            configured_cadence_min=configured,
            measured_cadence_min=None if configured else self._cadences.measured_min(name),
            active_embryos=active,
            last_scan_at=None if ago is None else self._clock.now() - ago,
        )
