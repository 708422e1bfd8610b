"""State bytes on disk, named by their own digest: written and fsynced before the transaction that names them.

A crash between the two leaves a file that no row names; it is swept at the next start. It knows bytes, no engine.
"""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path

from monitor.errors import StorageError

log = logging.getLogger(__name__)


class StateFiles:
    """Content-addressed files below one folder, `<2 digits>/<digest><suffix>`. Raises StorageError when the disk does
    not take or give them."""

    def __init__(self, folder: Path, suffix: str = "") -> None:
        self._folder, self._suffix = folder, suffix
        folder.mkdir(parents=True, exist_ok=True)

    def _path(self, digest: str) -> Path:
        return self._folder / digest[:2] / f"{digest}{self._suffix}"

    def put(self, blob: bytes) -> str:
        """Store and return the digest; on the disk for good when this returns."""
        digest = hashlib.sha256(blob).hexdigest()
        path = self._path(digest)
        try:
            if path.exists():  # perhaps from a try that failed after the renaming
                _sync_folder(path.parent)
                return digest
            path.parent.mkdir(exist_ok=True)
            draft = path.with_suffix(".part")
            with draft.open("wb") as file:
                file.write(blob)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
            _sync_folder(path.parent)
            _sync_folder(self._folder)
        except OSError as fault:
            raise StorageError(f"state {path}: {fault.strerror}") from fault
        return digest

    def get(self, digest: str) -> bytes:
        """Raises StorageError when the file is gone or its content is not what its name says."""
        path = self._path(digest)
        try:
            blob = path.read_bytes()
        except OSError as fault:
            raise StorageError(f"state {path}: {fault.strerror}") from fault
        if hashlib.sha256(blob).hexdigest() != digest:
            raise StorageError(f"state {path} is damaged: its content is not what its name says")
        return blob

    def drop(self, digests: set[str]) -> None:
        """Remove files that no row names any more; what cannot be removed now is swept at the next start."""
        for digest in digests:
            try:
                self._path(digest).unlink(missing_ok=True)
            except OSError as fault:  # the readings are told: this must not stop them
                log.warning("a state nobody needs stays on the disk", extra={"digest": digest, "fault": str(fault)})

    def sweep(self, named: set[str]) -> int:
        """Remove what a crash or a full disk left behind, half-written ones too; how many files that were."""
        kept = {f"{digest}{self._suffix}" for digest in named}
        stray = [path for path in self._folder.glob("??/*") if path.name not in kept]
        for path in stray:
            path.unlink()
        return len(stray)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
