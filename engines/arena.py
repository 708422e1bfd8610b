"""Rows of memory on a device: gathered into a batch, scattered out of one; given back when nobody holds them.

A row is never written twice: what a step leaves behind goes to fresh rows, so a step that fails has touched nothing.
Where the arena is full, the row that was longest not asked for moves to host memory. It refuses to know models.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict, deque

import numpy as np
import numpy.typing as npt

from engines.device_memory import Buffer, Device, DeviceError

Floats = npt.NDArray[np.float32]


class Row:
    """One memory: at slot `at` of the arena, in host memory (`host`, read-only), or both."""

    __slots__ = ("__weakref__", "at", "host")

    def __init__(self, at: int | None, host: Floats | None) -> None:
        self.at, self.host = at, host


class Arena:
    """`rows` slots of `size` float32 each; at least `least` of them, or it raises DeviceError.

    Where the device has no room for all, it tries half, and half of that.
    """

    def __init__(self, device: Device, size: int, rows: int, least: int) -> None:
        self._device, self._size, self.row_bytes = device, size, size * 4
        self.rows, self._buffer = _allocated(device, self.row_bytes, rows, least)
        self._free = deque(range(self.rows))
        self._held: OrderedDict[int, weakref.ref[Row]] = OrderedDict()
        # filled wherever the last holder lets go, emptied in our own thread
        self._given_back: deque[tuple[int, weakref.ref[Row]]] = deque()
        self._spill: Floats | None = None

    @property
    def free(self) -> int:
        self._reclaim()
        return len(self._free)

    def gather(self, row: Row, target: Buffer, index: int, staging: Floats) -> None:
        """Enqueue: the row becomes row `index` of a batch. `staging` (S,): page-locked and nobody else's until then,
        for a row that lies in host memory; it gets a slot, since who is asked for once is asked for again."""
        if row.at is None:
            staging[...] = row.host
            at = self._slot()
            self._device.upload(self._buffer, at * self.row_bytes, staging)
            self._hold(row, at)
        else:
            at = row.at
            self._held.move_to_end(at)
        self._device.copy(target, index * self.row_bytes, self._buffer, at * self.row_bytes, self.row_bytes)

    def scatter(self, source: Buffer, index: int) -> Row:
        """Enqueue: row `index` of a batch goes to a slot of its own."""
        at, row = self._slot(), Row(None, None)
        self._device.copy(self._buffer, at * self.row_bytes, source, index * self.row_bytes, self.row_bytes)
        self._hold(row, at)
        return row

    def fetch(self, row: Row) -> Floats:
        """The row in host memory, read-only; waits for the device where it is only there. Raises DeviceError."""
        if row.host is None:
            if row.at is None:
                raise DeviceError("a state is neither on the device nor in host memory")
            if self._spill is None:
                self._spill = np.asarray(self._device.page_locked((self._size,), "float32"), np.float32)
            self._device.download(self._spill, self._buffer, row.at * self.row_bytes)
            self._device.synchronise()
            row.host = frozen(self._spill)
        return row.host

    def close(self) -> None:
        self._spill = None  # page-locked: to be let go of in the device's own thread
        self._buffer.free()

    def _hold(self, row: Row, at: int) -> None:
        row.at = at
        self._held[at] = weakref.ref(row, lambda gone: self._given_back.append((at, gone)))

    def _slot(self) -> int:
        self._reclaim()
        if not self._free:
            at, oldest = self._held.popitem(last=False)
            if (row := oldest()) is not None:
                self.fetch(row)
                row.at = None
            self._free.append(at)
        return self._free.popleft()

    def _reclaim(self) -> None:
        while self._given_back:
            at, gone = self._given_back.popleft()
            if self._held.get(at) is gone:  # not one whose row had moved to host memory before
                del self._held[at]
                self._free.append(at)


def _allocated(device: Device, row_bytes: int, rows: int, least: int) -> tuple[int, Buffer]:
    while True:
        try:
            return rows, device.allocate(rows * row_bytes)
        except DeviceError:
            if rows // 2 < least:
                raise
            rows //= 2


def frozen(row: Floats) -> Floats:
    """A copy that nobody writes to."""
    own: Floats = row.copy()
    own.setflags(write=False)
    return own
