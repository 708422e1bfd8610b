"""One thread that owns a device: all its calls happen there, in order, and nobody waits longer than a limit.

A call that hangs holds that thread for good; the thread is a daemon, so a process that ends does not wait for it. It
refuses to know what is called.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as TimedOut
from typing import Any, TypeVar

from engines.contract import EngineError
from engines.device_memory import DeviceError, HangError

Result = TypeVar("Result")
Job = tuple[Callable[[], Any], "Future[Any]"]


class DeviceThread:
    """Starts at once."""

    def __init__(self, name: str) -> None:
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._name, self._hung = name, False
        threading.Thread(target=self._work, name=name, daemon=True).start()

    def call(self, work: Callable[[], Result], limit_s: float) -> Result:
        """What `work` gives. Raises HangError after `limit_s`, and at once for every call after that; EngineError as it
        comes; DeviceError for whatever else it raises."""
        if self._hung:
            raise HangError(f"{self._name}: hangs since an earlier call")
        future: Future[Result] = Future()
        self._jobs.put((work, future))
        try:
            return future.result(limit_s)
        except TimedOut as fault:
            if future.done():  # the work itself ran into a limit of its own
                raise DeviceError(f"{self._name}: {fault!r}") from fault
            self._hung = True
            raise HangError(f"{self._name}: no answer within {limit_s:g} s") from fault
        except EngineError:
            raise
        except Exception as fault:
            raise DeviceError(f"{self._name}: {fault!r}") from fault

    def end(self, work: Callable[[], object] = lambda: None) -> None:
        """Without waiting: `work` is the last thing that it does, and what that raises is nobody's any more."""
        self._jobs.put((work, Future()))
        self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            work, future = job
            try:
                result = work()
            except BaseException as fault:  # noqa: BLE001 - it is raised again where it was called from
                future.set_exception(fault)
            else:
                future.set_result(result)
            del job, work, future  # or it would hold states while it waits for the next
