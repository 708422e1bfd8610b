"""The loop around the way of the data: look, advance, publish, rest; ready, alive, stop.

One thread does the work. Time, the notifier and the publisher come in; `turn` is one pass and never sleeps.
"""

from __future__ import annotations

import logging
import shutil
import threading
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import datetime
from itertools import zip_longest

import monitor
from engines.load import Loaded
from monitor.alert import Alert
from monitor.assemble import FrameName
from monitor.bulletins import Bulletins
from monitor.cadence import Cadences
from monitor.command_body import Answer
from monitor.command_inbox import Inbox
from monitor.commands import Commands
from monitor.config import Config
from monitor.errors import EngineError, StorageError
from monitor.imaging import Imaging
from monitor.keeping import Keeping
from monitor.lab import Lab
from monitor.lookout import Lookout
from monitor.metrics import Metrics
from monitor.node import Node, Source, build_node
from monitor.notify import Notifier
from monitor.provenance import configuration, models
from monitor.publish import Publisher, Reply
from monitor.serving import Serving
from monitor.share import LOOK_EVERY_S, LOOK_SOON_S, Share
from monitor.vocabulary import Clock, Outcome, Place, Reading
from monitor.waker import Waker

log = logging.getLogger(__name__)

BATCH = 8  # embryos advanced in one transaction: short enough to finish when asked to stop
ENGINE_STRIKES = 5  # frames lost to the engine in a row: a new process may do better
STOP_GRACE_S = 1.5


@dataclass
class Standing:
    """What the worker writes down for `/readyz` to read."""

    warm: bool = False
    store_open: bool = False


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
        self._events_lost = threading.Event()
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
            config.alerts,
            config.commands.blind_first,
            lambda: notifier.starting("a journal of an earlier version is taken in"),
        )
        self.node.journal.configured(configuration(config), clock.now())
        self.imaging = Imaging(self.node.intakes, self.node.journal, metrics)
        self._loaded, self._models = loaded, models(loaded)
        self.lab = Lab(self.node.intakes, self.node.journal, metrics)
        self.root = f"pellucid/v1/{config.site.name}/{config.site.node}"
        self.publisher = Publisher(
            config.mqtt,
            self.root,
            self.node.journal.outbox,
            boot_id=self.boot_id,
            version=monitor.__version__,
            now=clock.now,
            monotonic=clock.monotonic,
            wake=self.wake,
            observe=metrics,
            on_command=self._commanded if config.commands.enabled else None,
        )
        self.commands = Commands(
            self.node.journal,
            self.node.alarms,
            self.node.time_zeros,
            config.commands.enabled,
            self.boot_id,
            clock.now,
            self.node.pipeline.forget,
        )
        self.inbox = Inbox(self.wake, self.commands.refuse)
        self._waker = Waker(self._file_event, self._overflow)
        self.shares = [
            Share(intake, self.node.time_zeros[name], self._waker, metrics, clock, self.wake)
            for name, intake in self.node.intakes.items()
        ]
        self.standing = Standing(warm=True, store_open=True)
        cadences = Cadences(
            {incubator.name: incubator.cadence_min for incubator in config.incubator},
            self.node.journal.last_frames,
            clock.monotonic,
        )
        self.lookout = Lookout(self.node.alarms, self.node.journal, self.shares, cadences, config.storage.path, clock)
        self.serving = Serving(loaded, metrics, clock.monotonic)
        self.bulletins = Bulletins(
            self.node,
            cadences,
            {share.name: share for share in self.shares},
            self.serving.facts,
            config.storage.path,
            self.publisher,
            clock,
            self.boot_id,
            monitor.__version__,
        )
        self.keeping = Keeping(
            self.node.journal,
            self.node.alarms,
            config.storage.keep_days,
            clock,
            self.node.pipeline.forget,
            self._say_alerts,
        )
        self._engine_strikes = 0
        self._storage_faults = 0
        self._storage_text = ""
        if self.node.day5 is not None:
            self.node.day5.wake = self.wake
            metrics.declare_gradings()
        self._declare(loaded)

    def _declare(self, loaded: Loaded) -> None:
        metrics, manifest = self._metrics, loaded.manifest
        metrics.declare(list(self.node.intakes), [one.manifest.name for one in loaded.serving])
        self._say_alerts(self.node.alarms.retire(list(self.node.intakes), [manifest.name], self._clock.now()))
        metrics.open_alerts(self.node.journal.alerts_open())
        metrics.build_info.info({"version": monitor.__version__})
        self.serving.refresh()

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

    def _overflow(self) -> None:
        """The kernel dropped file events: only a full look finds what they would have told."""
        self._metrics.watch_overflows.inc()
        self._events_lost.set()
        self._waking.set()

    def submit(self, name: str, payload: bytes, source: str) -> Future[Answer]:
        """A command from any thread; the one that works carries it out."""
        return self.inbox.submit(name, payload, source)

    def ready(self) -> dict[str, bool]:
        """The conditions of `/readyz`."""
        fresh = {f"scan_fresh_{share.name}": share.fresh for share in self.shares}
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
            self.inbox.close()
            try:
                self.publisher.stop(STOP_GRACE_S)
                self.node.journal.seal(self._clock.now())
            except StorageError as fault:
                self._storage_failed(fault)
            self.node.journal.close()
            log.info("pellucid has stopped")

    def turn(self) -> float:
        """One pass over everything. Gives the seconds until there is something to do again at the latest."""
        moved = self._files_moved.is_set()
        self._files_moved.clear()
        lost = self._events_lost.is_set()
        self._events_lost.clear()
        self._storage_faults = 0
        for share in self.shares:
            if not self._stopping.is_set():
                self._look(share, moved, lost)
        self._obey()
        worked = self._advance() or self._work_on_day5() or self._keep()
        self._look_out()
        self._publish()
        self._refresh()
        self.standing.store_open = self._storage_faults == 0
        if self.standing.store_open and self._storage_text:
            self._storage_text = ""
            log.info("storage takes what must be kept again")
        self.bulletins.tell(self.standing.store_open)
        if worked or self.inbox.waiting:
            return 0.0
        busy = not self.publisher.connected or self.publisher.inflight > 0
        next_look_s = min(share.next_s for share in self.shares) - self._clock.monotonic()
        return max(0.0, min(next_look_s, LOOK_SOON_S if busy else LOOK_EVERY_S))

    def _look(self, share: Share, moved: bool, lost: bool) -> None:
        try:
            share.look(moved, lost)
        except StorageError as fault:
            self._storage_failed(fault)

    def _advance(self) -> bool:
        """Take up to a batch of frames the whole way; whether there may be more."""
        for share, names in self._due().items():
            share.read(names)
        batch = [(share.intake, frame) for share in self.shares for frame in share.frames()]
        if not batch:
            return False
        try:
            recorded = self.node.pipeline.advance([frame for _, frame in batch])
        except StorageError as fault:
            self._storage_failed(fault)
            return False
        for intake, frame in batch:
            intake.done(frame)
        stacks = {frame.stack.place: frame.stack for _, frame in batch}  # at most one frame of each embryo
        for reading in recorded.readings:
            embryo = reading.embryo
            stack = stacks[Place(embryo.incubator, embryo.dish, embryo.well)]
            self._metrics.told(reading, stack.complete_at)
            self.imaging.told(reading, stack, self._clock.now())
        self._say_alerts(recorded.alerts)
        for reading in recorded.readings:
            self._say(reading)
        return True

    def _work_on_day5(self) -> bool:
        """One embryo's day 5, while no frame waits for its step; whether there may be more."""
        if self.node.day5 is None or self._stopping.is_set():
            return False
        waiting, away = sum(share.waiting for share in self.shares), {share.name for share in self.shares if share.away}
        try:
            return self.node.day5.turn(waiting, away)
        except StorageError as fault:
            self._storage_failed(fault)
            return False

    def _commanded(self, name: str, payload: bytes, reply: Reply) -> None:
        """A command over MQTT: answered, where an answer is wanted, when it is carried out."""
        coming = self.inbox.submit(name, payload, "mqtt")
        coming.add_done_callback(lambda done: self.publisher.answer(reply, done.result().body()))

    def _obey(self) -> None:
        """Carry out the commands that wait."""
        for given in self.inbox.take():
            try:
                answer, alerts = self.commands.execute(given.name, given.payload, given.source)
            except StorageError as fault:
                self._storage_failed(fault)
                answer, alerts = self.commands.refuse(given.name, "storage does not take it now: give it again"), []
            self._say_alerts(alerts)
            given.answer.set_result(answer)

    def _keep(self) -> bool:
        """A slice of what is kept no longer goes; whether there may be more."""
        try:
            return not self._stopping.is_set() and self.keeping.turn()
        except StorageError as fault:
            self._storage_failed(fault)
            return False

    def _look_out(self) -> None:
        try:
            self._say_alerts(self.lookout.look())
        except StorageError as fault:
            self._storage_failed(fault)

    def _say_alerts(self, alerts: Sequence[Alert]) -> None:
        for alert in alerts:
            if self.node.journal.blind.hides_word(alert):
                continue
            log.warning(
                "alert",
                extra={
                    "alert_id": alert.alert_id,
                    "kind": alert.kind,
                    "state": alert.state.value,
                    "subject": alert.subject.key,
                    "value": alert.value,
                    "text": alert.text,
                    "id": alert.id,
                },
            )
        if alerts:
            self._metrics.open_alerts(self.node.journal.alerts_open())

    def _due(self) -> dict[Share, list[FrameName]]:
        """A batch of frames, a frame of each share in turn: one's backlog does not keep another's frames waiting."""
        queues = [[(share, name) for name in share.due()] for share in self.shares]
        in_turn = [pair for turn in zip_longest(*queues) for pair in turn if pair is not None]
        due: dict[Share, list[FrameName]] = {}
        for share, name in in_turn[:BATCH]:
            due.setdefault(share, []).append(name)
        return due

    def _say(self, reading: Reading) -> None:
        blind = self.node.journal.blind
        embryo, blastocyst = reading.embryo, blind.shown(reading).blastocyst
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
        if str(fault) != self._storage_text:  # said once: a full disk takes no flood of lines
            log.error("storage does not take what must be kept; trying again", extra={"fault": str(fault)})
        self._storage_text = str(fault)

    def _refresh(self) -> None:
        metrics, now = self._metrics, self._clock.now()
        self._refresh_indicators(now)
        self.serving.refresh()
        frames, oldest_frame_age_s = self.node.backlog(self._clock.monotonic())
        metrics.queue_depth.set(frames)
        metrics.queue_oldest.set(oldest_frame_age_s)
        depth, oldest = self.node.journal.outbox.depth()
        metrics.outbox_messages.set(depth)
        metrics.outbox_oldest.set((now - oldest).total_seconds() if oldest else 0)
        metrics.disk_free.set(shutil.disk_usage(self._config.storage.path).free)
        runs = self.node.journal.open_runs()
        for name in self.node.intakes:
            metrics.active_embryos.labels(name).set(runs.get(name, 0))

    def _refresh_indicators(self, now: datetime) -> None:
        """What the journal holds for good of pictures, outcomes and models."""
        try:
            self.imaging.refresh(now)
            self.lab.refresh(now)
            if (serving := models(self._loaded)) != self._models:  # a runtime may take another's place
                self.node.journal.serves(serving, now)
                self._models = serving
        except StorageError as fault:
            self._storage_failed(fault)

    def summary(self) -> str:
        """One line for the supervisor."""
        waiting = sum(len(intake.assembler) for intake in self.node.intakes.values())
        broker = "connected" if self.publisher.connected else "away"
        return f"{waiting} frames wait, broker {broker}"
