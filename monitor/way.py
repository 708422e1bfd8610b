"""The whole way of a frame with a stopwatch in it: a node over a folder, driven a frame at a time, nothing left out.

Files on disk -> looked over, decoded, observed, stepped, journalled with fsync, sent and acknowledged by the broker,
taken out of the outbox. Each part is the daemon's own; only its rests are left out. It knows no goals and no table.
"""

from __future__ import annotations

import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from prometheus_client import CollectorRegistry

from engines.load import Loaded
from monitor.assemble import Assembled
from monitor.clock import SystemClock
from monitor.config import Incubator, Mqtt
from monitor.errors import PellucidError
from monitor.metrics import Metrics
from monitor.mqtt_session import Session, Will
from monitor.node import Source, build_node
from monitor.publish import Publisher
from monitor.simulator import PLANES_UM, VirtualEmbryo
from monitor.vocabulary import Outcome

START = datetime(2026, 1, 5, 8, tzinfo=timezone.utc)
ANSWER_LIMIT_S = 30.0
CADENCE_S = 600.0
JPEG_QUALITY = 90
SHIFTS = 20  # by -10 to 9 pixels to each side


class Stopwatch:
    """Seconds by name. What is nested in another lap counts in both."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self.laps: dict[str, list[float]] = defaultdict(list)

    @contextmanager
    def lap(self, name: str) -> Iterator[None]:
        began = self._clock()
        yield
        self.laps[name].append(self._clock() - began)

    def around(self, owner: object, method: str, name: str) -> None:
        """Time every call of one object's method from now on."""
        work = getattr(owner, method)

        def timed(*arguments: Any, **named: Any) -> Any:
            with self.lap(name):
                return work(*arguments, **named)

        setattr(owner, method, timed)


class Pictures:
    """One virtual embryo's planes on disk, to be hard-linked into a folder as a frame of any moment.

    Each of `embryos` (400 at most) has them shifted otherwise by a few pixels, so that no two have the same pictures
    and the same memory; the embryo stays in the middle, where it is looked for.
    """

    def __init__(self, folder: Path, size_px: int = 500, embryos: int = 1, hpi_h: float = 60.0) -> None:
        folder.mkdir(parents=True)
        self._folder, self._embryos = folder, embryos
        stack = VirtualEmbryo(0).stack(hpi_h, size_px)  # P H W
        for embryo in range(embryos):
            moved = np.roll(stack, (embryo // SHIFTS - SHIFTS // 2, embryo % SHIFTS - SHIFTS // 2), axis=(1, 2))
            for plane_um, plane in zip(PLANES_UM, moved, strict=True):
                cv2.imwrite(str(self._path(embryo, plane_um)), plane, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])

    def _path(self, embryo: int, plane_um: int) -> Path:
        return self._folder / f"{embryo}_{plane_um}.jpg"

    def put(self, root: Path, dish: str, well: int, at: datetime, embryo: int) -> None:
        """A frame in the layout `generic`, there at once and whole."""
        folder = root / dish / str(well)
        folder.mkdir(parents=True, exist_ok=True)
        for plane_um in PLANES_UM:
            os.link(self._path(embryo % self._embryos, plane_um), folder / f"{at:%Y%m%dT%H%M%SZ}_F{plane_um}.jpg")


class PassingClock(SystemClock):
    """The machine's clock, on which minutes pass between two frames: what is fresh and what is settled hangs on it."""

    def __init__(self) -> None:
        self.passed_s = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.passed_s


class Way:
    """One node with one incubator, its store and its publisher. `take` drives whatever lies in the folder through.

    `open_session`: a session to speak through in the place of a broker. `folder` must not exist yet.
    """

    def __init__(
        self,
        loaded: Loaded,
        folder: Path,
        pictures: Pictures,
        broker: Mqtt,
        stopwatch: Stopwatch,
        open_session: Callable[[Will], Session] | None = None,
    ) -> None:
        self.root, self.store, self.stopwatch = folder / "inc1", folder / "store", stopwatch
        self.root.mkdir(parents=True)
        self._pictures = pictures
        self._answered = threading.Event()
        clock, self._passing = SystemClock(), PassingClock()
        metrics = Metrics(CollectorRegistry(), clock.now)
        incubator = Incubator(name="inc1", path=self.root, planes=PLANES_UM, stable_s=0, deadline_s=0)
        self.node = build_node(
            "bench", "bench", [Source(incubator)], loaded, self.store, "bench", self._passing, metrics
        )
        self.publisher = Publisher(
            broker,
            "pellucid/v1/bench/bench",
            self.node.journal.outbox,
            boot_id="bench",
            version="bench",
            now=clock.now,
            monotonic=clock.monotonic,
            wake=self._answered.set,
            observe=metrics,
            open_session=open_session,
        )
        stopwatch.around(self.node.journal, "commit", "journal")
        stopwatch.around(self.node.memory, "save", "state")
        self.last: Assembled | None = None
        self._say_everything()  # the session is open before the first frame

    def put(self, well: int, after: timedelta) -> None:
        """The well's frame so long after the first one."""
        self._pictures.put(self.root, "D1", well, START + after, well)

    def take(self, name: str) -> None:
        """Everything in the folder, whole; the laps are `name` and its parts. Raises PellucidError where it is lost."""
        intake, lap = self.node.intakes["inc1"], self.stopwatch.lap
        self._passing.passed_s += CADENCE_S
        with lap(name):
            with lap("look"):
                intake.look()
            for due in intake.due():
                with lap("decode"):
                    frame = intake.assemble(due)
                if frame is None:
                    raise PellucidError(f"bench: the frame {due} does not decode")
                with lap("advance"):
                    recorded = self.node.pipeline.advance([frame])
                intake.done(frame)
                self.last = frame
                odd = [reading.outcome.value for reading in recorded.readings if reading.outcome != Outcome.JUDGED]
                if odd:
                    raise PellucidError(f"bench: a drawn frame was not judged but {odd[0]}")
            with lap("publish"):
                self._say_everything()

    def _say_everything(self) -> None:
        """Until nothing waits in the outbox and nothing is on its way."""
        until_s = time.monotonic() + ANSWER_LIMIT_S
        self.publisher.tick()
        while not self.publisher.connected or self.publisher.inflight or self.node.journal.outbox.depth()[0]:
            if time.monotonic() > until_s:
                raise PellucidError(f"bench: the broker did not take everything within {ANSWER_LIMIT_S:.0f} s")
            self._answered.wait(0.1)
            self._answered.clear()
            self.publisher.tick()

    def close(self) -> None:
        self.publisher.stop(0.5)
        self.node.journal.close()
