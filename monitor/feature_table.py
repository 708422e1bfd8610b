"""What the stage model was told of every frame, in the journal: its vector and its hours, in the order of the frames.

From these rows its memory can be made again after a restart. It knows rows; no engine, and not what a vector means.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from engines.stages import StageFrame
from monitor.audit import row_digest
from monitor.database import Database
from monitor.errors import StorageError


@dataclass(frozen=True)
class FeatureRow:
    """One frame of an embryo: `number` counts those that the model took, from 0; `state_id`: whose vector it is."""

    model: str
    state_id: str
    number: int
    frame: StageFrame


class FeatureTable:
    """Rows by embryo and model. `put` and `drop` belong into a transaction."""

    def __init__(self, database: Database) -> None:
        self._db = database.connection

    def put(self, embryo_id: str, row: FeatureRow) -> None:
        """A row of a number that is there already takes its place: another model began anew."""
        self._db.execute(
            "INSERT OR REPLACE INTO feature VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                *(embryo_id, row.model, row.number, row.state_id, row.frame.hpi, row.frame.elapsed_h),
                row.frame.feature.astype("<f4").tobytes(),
            ),
        )

    def of(self, embryo_id: str, model: str, state_id: str, since: int) -> list[StageFrame]:
        """The frames from number `since` on that these weights have taken, in order. Raises StorageError for a gap."""
        rows = self._db.execute(
            "SELECT number, hpi, elapsed_h, vector FROM feature "
            "WHERE embryo_id = ? AND model = ? AND state_id = ? AND number >= ? ORDER BY number",
            (embryo_id, model, state_id, since),
        ).fetchall()
        if [number for number, *_ in rows] != list(range(since, since + len(rows))):
            raise StorageError(f"the journal lacks some of the vectors of {embryo_id} from frame {since} on")
        return [
            StageFrame(np.frombuffer(vector, "<f4").astype(np.float32), hpi, elapsed_h)
            for _, hpi, elapsed_h, vector in rows
        ]

    def of_others(self, embryo_id: str, model: str, state_id: str) -> bool:
        """Whether other weights of this model have taken frames of the embryo."""
        query = "SELECT 1 FROM feature WHERE embryo_id = ? AND model = ? AND state_id != ? LIMIT 1"
        return self._db.execute(query, (embryo_id, model, state_id)).fetchone() is not None

    def digests(self, embryo_id: str, numbers: Iterable[tuple[str, int]] | None = None) -> list[tuple[str, int, str]]:
        """Model, number and digest of rows as they stand: of those named by model and number, else of all."""
        key = "SELECT model, number FROM feature WHERE embryo_id = ?"
        named = self._db.execute(key, (embryo_id,)).fetchall() if numbers is None else numbers
        query = "SELECT * FROM feature WHERE embryo_id = ? AND model = ? AND number = ?"
        return [
            (model, number, row_digest(self._db.execute(query, (embryo_id, model, number)).fetchone()))
            for model, number in named
        ]

    def drop(self, embryo_id: str) -> None:
        """The run has ended: nothing of it is ever stepped again."""
        self._db.execute("DELETE FROM feature WHERE embryo_id = ?", (embryo_id,))
