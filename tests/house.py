"""What several tests need: a clock they own, frames on disk, a scripted manifest, a node over a folder."""

from __future__ import annotations

import io
import zlib
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
from PIL import Image
from prometheus_client import CollectorRegistry

from engines.contract import Engine
from engines.load import Loaded
from engines.manifest import Manifest
from engines.scripted_engine import ScriptedEngine, scripted_spec
from monitor.config import Incubator
from monitor.metrics import Metrics
from monitor.node import Node, Source, build_node
from monitor.vocabulary import Reading

PLANES_UM = (-45, -30, -15, 0, 15, 30, 45)
START = datetime(2026, 1, 5, 8, 0, tzinfo=timezone.utc)


class FakeClock:
    """Time that moves when told to; wall and monotonic move together."""

    def __init__(self, at: datetime = START) -> None:
        self.at = at
        self.seconds = 1000.0

    def now(self) -> datetime:
        return self.at

    def monotonic(self) -> float:
        return self.seconds

    def pass_s(self, seconds: float) -> None:
        self.seconds += seconds
        self.at += timedelta(seconds=seconds)


def picture(level: int = 100, size_px: int = 24, seed: int = 0) -> bytes:
    """A JPEG (size_px x size_px) of noise around a gray level, the more the brighter it is: level 0 is dark."""
    rng = np.random.default_rng(seed)
    gray = np.clip(rng.normal(level, 0.4 * level, (size_px, size_px)), 0, 255).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(gray).save(out, "JPEG", quality=90)
    return out.getvalue()


def plane_path(root: Path, well: str, at: datetime, plane_um: int, dish: str = "D1") -> Path:
    return root / dish / well / f"{at:%Y%m%dT%H%M%SZ}_F{plane_um}.jpg"


def write_frame(
    root: Path,
    well: str,
    at: datetime,
    planes_um: tuple[int, ...] = PLANES_UM,
    level: int = 100,
    dish: str = "D1",
    size_px: int = 24,
) -> None:
    """One frame in the layout `generic`; each plane other pixels, each moment other pixels."""
    for plane_um in planes_um:
        path = plane_path(root, well, at, plane_um, dish)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(level, size_px, seed=zlib.crc32(f"{well} {at} {plane_um}".encode())))


def scripted_manifest(engine: ScriptedEngine | None = None, counts: tuple[int, ...] = (5, 6, 7)) -> Manifest:
    spec = (engine or ScriptedEngine(scripted_spec())).spec
    return Manifest.model_validate(
        {
            "schema": "pellucid.manifest/1",
            "name": spec.name,
            "version": "0",
            "task": "blastocyst",
            "graph": {"file": "none.onnx", "sha256": "0" * 64, "opset": 18},
            "state_id": spec.state_id,
            "inputs": [{"name": "x", "shape": spec.inputs[0].shape}],
            "outputs": [{"name": "y_blastocyst", "shape": [1], "classes": ["blastocyst"]}],
            "state": {"shape": spec.state.shape},
            "preprocess": {
                "planes_um": PLANES_UM,
                "height_px": spec.inputs[0].shape[1],
                "width_px": spec.inputs[0].shape[2],
                "mean": 0.0,
                "std": 1.0,
                "allowed_plane_counts": counts,
            },
            "segments": {"segment_h": 6.0, "count": 28},
            "tolerance": {"absolute": 1e-6},
            "provenance": {},
            "intended_use": "tests",
        }
    )


def scripted(engine: ScriptedEngine | None = None, counts: tuple[int, ...] = (5, 6, 7)) -> Loaded:
    made: Engine = engine or ScriptedEngine(scripted_spec())
    return Loaded(made, scripted_manifest(engine, counts), "scripted")


def new_metrics(clock: FakeClock) -> Metrics:
    return Metrics(CollectorRegistry(), clock.now)


def node_over(
    tmp_path: Path, clock: FakeClock, loaded: Loaded | None = None, boot_id: str | None = "boot1", **incubator: object
) -> Node:
    """A node with one incubator `inc1` over tmp_path/inc, its journal in tmp_path/store; no quiet time, no deadline."""
    (tmp_path / "inc").mkdir(exist_ok=True)
    settings: dict[str, object] = {"stable_s": 0, "deadline_s": 0, **incubator}
    one = Incubator.model_validate({"name": "inc1", "path": tmp_path / "inc", **settings})
    return build_node(
        "lab", "box", [Source(one)], loaded or scripted(), tmp_path / "store", boot_id, clock, new_metrics(clock)
    )


def take_all(node: Node) -> list[Reading]:
    """Look, and take every due frame the whole way, one at a time."""
    told: list[Reading] = []
    for intake in node.intakes.values():
        intake.look(full=True)
        while due := intake.due():
            frame = intake.assemble(due[0])
            if frame is None:
                break
            told += node.pipeline.advance([frame]).readings
            intake.done(frame)
    return told
