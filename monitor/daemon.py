"""The loop around the way of the data: look, advance, publish, rest; ready, alive, stop.

One thread does the work. Time, the notifier and the publisher come in; `turn` is one pass and never sleeps.
"""

from __future__ import annotations

import logging
import shutil
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import zip_longest

import monitor
from engines.load import Loaded
from monitor.assemble import Assembled
from monitor.config import Config
from monitor.errors import EngineError, StorageError
from monitor.imaging import Imaging
from monitor.intake import Intake
from monitor.metrics import Metrics
from monitor.node import Node, Source, build_node
from monitor.notify import Notifier
from monitor.publish import Publisher
from monitor.vocabulary import Clock, Outcome, Place, Reading
from monitor.watch import Waker

log = logging.getLogger(__name__)

LOOK_EVERY_S = 5.0  # nobody needs to wake us: a share raises no events
LOOK_SOON_S = 0.5  # while a file is half seen or a frame waits for its planes
LOOK_GAP_S = 0.2  # between two looks, however many files move
FULL_LOOK_EVERY_S = 900.0  # every folder, also those that have not changed for long
SCAN_IS_FRESH_S = 60.0
BATCH = 8  # embryos advanced in one transaction: short enough to finish when asked to stop
ENGINE_STRIKES = 5  # frames lost to the engine in a row: a new process may do better
STOP_GRACE_S = 1.5


@dataclass
class Look:
    """When an incubator's folder was last looked over, and when it is to be looked over again (monotonic seconds)."""

    last_s: float = -1e9
    next_s: float = 0.0
    full_s: float = 0.0
    success_s: float | None = None
    failures: int = 0
    listening: bool = False


@dataclass
class Standing:
    """What the worker writes down for `/readyz` to read."""

    warm: bool = False
    store_open: bool = False
    looks: dict[str, Look] = field(default_factory=dict)


class Daemon:
    """One node at work. `wake` may be called from any thread; `stop` too."""

    def __init__(
        self,
        config: Config,
        loaded: Loaded,
        metrics: Metrics,
        clock: Clock,
        notifier: Notifier,
        told: Callable[[Reading], None] = lambda reading: None,
    ) -> None:
        self._config, self._metrics, self._clock, self._notifier = config, metrics, clock, notifier
        self._told = told
        self._waking = threading.Event()
        self._stopping = threading.Event()
        self._files_moved = threading.Event()
        self.boot_id = uuid.uuid4().hex[:16]
        self.node: Node = build_node(
            config.site.name,
            config.site.node,
            [Source(incubator) for incubator in config.incubator],
            loaded,
            config.storage.path,
            self.boot_id,
            clock,
            metrics,
        )
        self.imaging = Imaging(self.node.intakes, self.node.journal, metrics)
        self.root = f"pellucid/v1/{config.site.name}/{config.site.node}"
        self.publisher = Publisher(
            config.mqtt,
            self.root,
            self.node.journal,
            boot_id=self.boot_id,
            version=monitor.__version__,
            now=clock.now,
            monotonic=clock.monotonic,
            wake=self.wake,
            observe=metrics,
        )
        self._waker = Waker(self._file_event)
        self.standing = Standing(warm=True, store_open=True, looks={name: Look() for name in self.node.intakes})
        self._engine_strikes = 0
        self._storage_faults = 0
        self._declare(loaded)

    def _declare(self, loaded: Loaded) -> None:
        metrics, manifest = self._metrics, loaded.manifest
        metrics.declare(list(self.node.intakes))
        metrics.engine_fallback.labels(manifest.name).set(0)
        metrics.build_info.info({"version": monitor.__version__})
        facts = {"model": manifest.name, "version": manifest.version, "runtime": loaded.engine.runtime}
        metrics.engine_info.labels(manifest.task).info({**facts, "sha256": manifest.graph.sha256})

    # -- from other threads --------------------------------------------------------------------------------------------

    def wake(self) -> None:
        self._waking.set()

    def stop(self) -> None:
        """Finish the frame in hand and leave."""
        self._stopping.set()
        self._waking.set()

    def _file_event(self) -> None:
        self._files_moved.set()
        self._waking.set()

    def ready(self) -> dict[str, bool]:
        """The conditions of `/readyz`."""
        now = self._clock.monotonic()
        fresh = {
            f"scan_fresh_{name}": look.success_s is not None and now - look.success_s < SCAN_IS_FRESH_S
            for name, look in self.standing.looks.items()
        }
        return {"engines_warm": self.standing.warm, "store_open": self.standing.store_open, **fresh}

    # -- the loop ------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Work until `stop`. Raises EngineError when the engine keeps failing: the supervisor starts a new process."""
        self._waker.start()
        self._notifier.ready("engines warm, store open")
        log.info("pellucid runs", extra={"version": monitor.__version__, "boot_id": self.boot_id, "root": self.root})
        try:
            while not self._stopping.is_set():
                rest_s = self.turn()
                if self.standing.store_open:  # a queue that cannot be journalled does not move
                    self._notifier.progress(self.summary())
                self._waking.wait(min(rest_s, (self._notifier.watchdog_s or 60.0) / 3))
                self._waking.clear()
        finally:
            self._notifier.stopping()
            self._waker.stop()
            try:
                self.publisher.stop(STOP_GRACE_S)
            except StorageError as fault:
                self._storage_failed(fault)
            self.node.journal.close()
            log.info("pellucid has stopped")

    def turn(self) -> float:
        """One pass over everything. Gives the seconds until there is something to do again at the latest."""
        moved = self._files_moved.is_set()
        self._files_moved.clear()
        self._storage_faults = 0
        for intake in self.node.intakes.values():
            if not self._stopping.is_set():
                self._look(intake, moved)
        worked = self._advance()
        self._publish()
        self._refresh()
        self.standing.store_open = self._storage_faults == 0
        if worked:
            return 0.0
        busy = not self.publisher.connected or self.publisher.inflight > 0
        next_look_s = min(look.next_s for look in self.standing.looks.values()) - self._clock.monotonic()
        return max(0.0, min(next_look_s, LOOK_SOON_S if busy else LOOK_EVERY_S))

    def _look(self, intake: Intake, moved: bool) -> None:
        now, look = self._clock.monotonic(), self.standing.looks[intake.name]
        if moved and look.failures == 0:  # not at every event: seven planes come as fourteen of them
            look.next_s = min(look.next_s, look.last_s + LOOK_GAP_S)
        if now < look.next_s:
            return
        look.last_s = now
        full = now >= look.full_s or look.failures > 0  # back again: what was missed is offered again at once
        try:
            with self._metrics.scan.time():
                self.node.time_zeros[intake.name].refresh()
                intake.look(full)
            self._listen(intake, look)
        except OSError as fault:
            look.failures, look.listening = look.failures + 1, False
            look.next_s = now + min(60.0, 2.0 ** min(look.failures, 6))
            self._metrics.share_reachable.labels(intake.name).set(0)
            log.warning("a share is away", extra={"incubator": intake.name, "fault": str(fault)})
            return
        except StorageError as fault:
            self._storage_failed(fault)
            look.next_s = now + LOOK_EVERY_S
            return
        if full:
            look.full_s = now + FULL_LOOK_EVERY_S
        look.failures, look.success_s = 0, now
        look.next_s = now + (LOOK_EVERY_S if intake.idle else LOOK_SOON_S)
        self._metrics.share_reachable.labels(intake.name).set(1)
        self._metrics.scan_success.labels(intake.name).set(self._clock.now().timestamp())

    def _listen(self, intake: Intake, look: Look) -> None:
        if look.listening:
            return
        look.listening = True
        try:
            self._waker.watch(intake.root)
        except OSError as fault:  # no inotify here: the timed look still finds everything
            log.warning("no file events, looking by time", extra={"incubator": intake.name, "fault": str(fault)})

    def _advance(self) -> bool:
        """Take up to a batch of frames the whole way; whether there may be more."""
        queues = [[(intake, name) for name in intake.due()] for intake in self.node.intakes.values()]
        # in turn, so that one incubator's backlog does not keep another's frames waiting
        due = [pair for turn in zip_longest(*queues) for pair in turn if pair is not None][:BATCH]
        tried = [(intake, intake.assemble(name)) for intake, name in due]
        batch: list[tuple[Intake, Assembled]] = [(intake, frame) for intake, frame in tried if frame is not None]
        if not batch:
            return False
        try:
            told = self.node.pipeline.advance([frame for _, frame in batch])
        except StorageError as fault:
            self._storage_failed(fault)
            return False
        for intake, frame in batch:
            intake.done(frame)
        stacks = {frame.stack.place: frame.stack for _, frame in batch}  # at most one frame of each embryo
        for reading in told:
            embryo = reading.embryo
            stack = stacks[Place(embryo.incubator, embryo.dish, embryo.well)]
            self._metrics.told(reading, stack.complete_at)
            self.imaging.told(reading, stack, self._clock.now())
            self._say(reading)
        return True

    def _say(self, reading: Reading) -> None:
        embryo, blastocyst = reading.embryo, reading.blastocyst
        log.info(
            "reading",
            extra={
                "embryo_id": embryo.embryo_id,
                "frame": reading.frame.run if reading.occurred_at is None else reading.occurred_at,
                "hpi": reading.frame.hpi,
                "outcome": reading.outcome.value,
                "probability": blastocyst and blastocyst.probability,
                "flags": list(reading.quality.flags),
                "seq": reading.seq,
                "id": reading.id,
            },
        )
        self._told(reading)
        lost = reading.outcome is Outcome.ENGINE_FAILED
        self._engine_strikes = self._engine_strikes + 1 if lost else 0
        if self._engine_strikes >= ENGINE_STRIKES:
            raise EngineError(f"{self.node.model} gave no answer to {ENGINE_STRIKES} frames in a row")

    def _publish(self) -> None:
        try:
            self.publisher.tick()
        except StorageError as fault:
            self._storage_failed(fault)

    def _storage_failed(self, fault: StorageError) -> None:
        self._storage_faults += 1
        self._metrics.storage_failures.inc()
        log.error("storage does not take what must be kept; trying again", extra={"fault": str(fault)})

    def _refresh(self) -> None:
        metrics, now = self._metrics, self._clock.now()
        self.imaging.refresh()
        intakes = self.node.intakes.values()
        metrics.queue_depth.set(sum(len(intake.assembler) for intake in intakes))
        since = [since for intake in intakes if (since := intake.assembler.oldest_since()) is not None]
        metrics.queue_oldest.set(self._clock.monotonic() - min(since) if since else 0)
        depth, oldest = self.node.journal.outbox_depth()
        metrics.outbox_messages.set(depth)
        metrics.outbox_oldest.set((now - oldest).total_seconds() if oldest else 0)
        metrics.disk_free.set(shutil.disk_usage(self._config.storage.path).free)
        for name, count in self.node.journal.open_runs().items():
            metrics.active_embryos.labels(name).set(count)

    def summary(self) -> str:
        """One line for the supervisor."""
        waiting = sum(len(intake.assembler) for intake in self.node.intakes.values())
        broker = "connected" if self.publisher.connected else "away"
        return f"{waiting} frames wait, broker {broker}"
