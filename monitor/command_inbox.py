"""Where commands wait for the one thread that works, from whichever thread they come; each is answered once.

It knows payloads as bytes and answers; what a command means is in `monitor.commands`.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field

from monitor.command_body import Answer

WAITING_AT_MOST = 100
IN_ONE_TURN = 20


@dataclass(frozen=True)
class Given:
    """A command as it came: `source` is `mqtt` or `http`."""

    name: str
    payload: bytes
    source: str
    answer: Future[Answer] = field(default_factory=Future, compare=False)


class Inbox:
    """`submit` from any thread; `take` in the one that works. `refuse` makes the answer to what cannot wait."""

    def __init__(self, wake: Callable[[], None], refuse: Callable[[str, str], Answer]) -> None:
        self._given: queue.Queue[Given] = queue.Queue(WAITING_AT_MOST)
        self._wake, self._refuse = wake, refuse
        self._closed = False

    def submit(self, name: str, payload: bytes, source: str) -> Future[Answer]:
        """The answer to come. One that is not done yet may be cancelled: then it is not carried out either."""
        given = Given(name, payload, source)
        try:
            if self._closed:
                raise queue.Full
            self._given.put_nowait(given)
        except queue.Full:
            given.answer.set_result(self._refuse(name, "the monitor is stopping, or too many commands wait"))
        self._wake()
        return given.answer

    def take(self) -> Iterator[Given]:
        """Those that wait, a few at a time, without what was given up meanwhile."""
        for _ in range(IN_ONE_TURN):
            try:
                given = self._given.get_nowait()
            except queue.Empty:
                return
            if given.answer.set_running_or_notify_cancel():
                yield given

    @property
    def waiting(self) -> bool:
        return not self._given.empty()

    def close(self) -> None:
        """Nothing more is carried out: whoever waits is told so."""
        self._closed = True
        while self.waiting:
            for given in self.take():
                given.answer.set_result(self._refuse(given.name, "the monitor is stopping"))
