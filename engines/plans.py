"""Plans on disk: named by everything they are bound to, written whole or not at all, never handed on torn.

A plan is NAME-DIGEST.plan with a record NAME-DIGEST.json, written last: without a record there is no plan. While one
is tried for the first time in a process a mark lies beside it; a mark found at the start tells that the last try ended
the process. It refuses to know what a plan is made of, and who runs it.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engines.contract import EngineError
from engines.device_memory import GpuFacts, PlanError, Profile
from engines.manifest import Part, Precision

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PlanKey:
    """What a plan is bound to. `graph`: SHA-256 of the ONNX file in the package; `recipe`: how it was made ready."""

    model: str
    graph: str
    facts: GpuFacts
    precision: Precision
    profile: Profile
    recipe: int

    def content(self) -> dict[str, Any]:
        return asdict(self) | {"precision": self.precision.model_dump(mode="json")}

    @property
    def stem(self) -> str:
        digest = hashlib.sha256(json.dumps(self.content(), sort_keys=True).encode()).hexdigest()
        return f"{self._name}-{digest[:16]}"

    @property
    def _name(self) -> str:
        return self.model.replace(" ", "-")


def key_of(part: Part, facts: GpuFacts, profile: Profile) -> PlanKey:
    from engines.precision import RECIPE

    return PlanKey(part.spec.name, part.graph.sha256, facts, part.precision, profile, RECIPE)


def default_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Where plans lie: what systemd gives a service (CacheDirectory, else StateDirectory), else the user's cache."""
    for given in ("CACHE_DIRECTORY", "STATE_DIRECTORY"):
        if folder := environment.get(given, "").partition(":")[0]:
            return Path(folder) / "plans"
    if cache := environment.get("XDG_CACHE_HOME"):
        return Path(cache) / "pellucid" / "plans"
    try:
        return Path.home() / ".cache" / "pellucid" / "plans"
    except RuntimeError:  # a user without a home
        return Path("/var/cache/pellucid/plans")


class PlanStore:
    """The plans in one folder, which is made when the first is kept. Raises EngineError where the disk refuses."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def timing(self) -> Path:
        """Timings of kernels, shared by all builds on this machine; a runtime ignores those of another version."""
        return self.folder / "timing.cache"

    def find(self, key: PlanKey) -> bytes | None:
        """The plan, or None where there is none. Raises PlanError where its bytes are not those that were kept."""
        record = self._record(key)
        if record is None:
            return None
        try:
            plan = self._path(key, "plan").read_bytes()
        except OSError as fault:
            raise PlanError(f"plan {self._path(key, 'plan')}: {fault.strerror}") from fault
        if hashlib.sha256(plan).hexdigest() != record.get("sha256"):
            raise PlanError(f"plan {self._path(key, 'plan')} is damaged: its bytes are not those that were kept")
        return plan

    def find_whole(self, key: PlanKey) -> bytes | None:
        """The plan, or None where it must be built: there is none, or it is damaged."""
        try:
            return self.find(key)
        except PlanError:
            return None

    def keep(self, key: PlanKey, plan: bytes, built_in_s: float) -> None:
        """Write it; plans of the same model for another version, device or precision go."""
        record = {**key.content(), "sha256": hashlib.sha256(plan).hexdigest(), "bytes": len(plan)}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.drop(key)
            _write(self._path(key, "plan"), plan)
            _write(self._path(key, "json"), json.dumps(record | {"built_in_s": round(built_in_s, 1)}).encode())
            for other, told in self._records():
                if told.get("model") == key.model and other.stem != key.stem:
                    _remove(other, "json", "plan", "trying")
        except OSError as fault:
            raise EngineError(f"plans: {self.folder}: {fault.strerror}") from fault

    def drop(self, key: PlanKey) -> None:
        """Never to be tried again; no error where it is not there."""
        try:
            _remove(self._path(key, "json"), "json", "plan", "trying")
        except OSError as fault:
            raise EngineError(f"plans: {self.folder}: {fault.strerror}") from fault

    @contextmanager
    def trying(self, key: PlanKey) -> Iterator[None]:
        """Around the first use of a plan: what ends the process in there leaves a mark, but not a process that ends in
        order while another thread is in there."""
        mark = self._path(key, "trying")
        try:
            mark.touch()
        except OSError as fault:
            raise EngineError(f"plans: {mark}: {fault.strerror}") from fault

        def unmark() -> None:
            try:
                mark.unlink(missing_ok=True)
            except OSError as fault:  # what went on in there counts, not its mark
                log.warning("the mark of a tried plan stays", extra={"path": str(mark), "reason": str(fault)})

        atexit.register(unmark)
        try:
            yield
        finally:
            atexit.unregister(unmark)
            unmark()

    def ended_a_process(self, key: PlanKey) -> bool:
        mark = self._path(key, "trying")
        try:
            return mark.exists()
        except OSError as fault:
            raise EngineError(f"plans: {mark}: {fault.strerror}") from fault

    def records(self) -> list[dict[str, Any]]:
        """What is kept, in order of name."""
        return [told for _, told in self._records()]

    def _records(self) -> list[tuple[Path, dict[str, Any]]]:
        found = []
        for path in sorted(self.folder.glob("*.json")):
            told = _read(path)
            if told is not None:
                found.append((path, told))
        return found

    def _record(self, key: PlanKey) -> dict[str, Any] | None:
        return _read(self._path(key, "json"))

    def _path(self, key: PlanKey, suffix: str) -> Path:
        return self.folder / f"{key.stem}.{suffix}"


def _read(path: Path) -> dict[str, Any] | None:
    """A record; None where there is none, or it does not read: then there is no plan."""
    try:
        told = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return told if isinstance(told, dict) else None


def _write(path: Path, content: bytes) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with draft.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def _remove(path: Path, *suffixes: str) -> None:
    for suffix in suffixes:
        path.with_suffix(f".{suffix}").unlink(missing_ok=True)
