"""One piece of work in a thread of its own, so that a mount that hangs holds that thread and nobody else.

No thread can be taken back from a call that hangs in the kernel: who sent the errand goes on without it, and sends no
second one after it. It knows no folder.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

Result = TypeVar("Result")


class Errand(Generic[Result]):
    """Starts at once. `wake` is called from its thread when it comes back after somebody stopped waiting for it.

    The thread is a daemon: a process that ends does not wait for it.
    """

    def __init__(self, name: str, work: Callable[[], Result], wake: Callable[[], None]) -> None:
        self._work, self._wake = work, wake
        self._lock = threading.Lock()
        self._back = threading.Event()
        self._left_alone = False
        self._results: list[Result] = []
        self._fault: OSError | None = None
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def _run(self) -> None:
        try:
            self._results.append(self._work())
        except OSError as fault:
            self._fault = fault
        finally:
            with self._lock:
                self._back.set()
                late = self._left_alone
            if late:
                self._wake()

    @property
    def back(self) -> bool:
        return self._back.is_set()

    def wait(self, limit_s: float) -> bool:
        """Whether it is back, after so many real seconds at most; it is waited for once, and then only asked."""
        if self._back.wait(0.0 if self._left_alone else limit_s):
            return True
        with self._lock:
            self._left_alone = True
            return self._back.is_set()

    def result(self) -> Result:
        """What it brought, once it is back. Raises the OSError that it met."""
        if self._fault is not None:
            raise self._fault
        if not self._results:
            raise RuntimeError("an errand ended without a result: its thread's traceback says why")
        return self._results[0]
