"""A stage model that does what a test tells it: an encoder of brightness, a head that remembers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from engines.contract import Array, EngineError, EngineSpec
from engines.host import HostEngine
from engines.load import Loaded
from engines.manifest import Manifest
from monitor.vocabulary import PHASES
from tests.house import PLANES_UM, scripted

GRAYS_A_PHASE = 12.0  # a frame of gray g is said to be of phase g // 12
_KEPT = 3  # frames that the head's answer is a mean of


class _Encoder(HostEngine):
    """(mean brightness of the planes that are there, how many they are). `faults`: calls that raise, counted from 0."""

    def __init__(self, spec: EngineSpec) -> None:
        super().__init__(spec)
        self.calls = 0
        self.faults: set[int] = set()

    @property
    def runtime(self) -> str:
        return "scripted"

    def run_row(self, state: Array, inputs: dict[str, Array]) -> tuple[Array, dict[str, Array]]:
        call, self.calls = self.calls, self.calls + 1
        if call in self.faults:
            raise EngineError(f"{self.spec.name}: out of memory")
        present = inputs["present"]
        gray = (inputs["x"].mean(axis=(1, 2)) * present).sum() / present.sum() * 255
        return state, {"y_feature": np.array([gray, present.sum()], np.float32)}


class _Head(HostEngine):
    """Remembers the last three brightnesses and how many frames it took."""

    @property
    def runtime(self) -> str:
        return "scripted"

    def run_row(self, state: Array, inputs: dict[str, Array]) -> tuple[Array, dict[str, Array]]:
        taken = min(int(state[_KEPT]), _KEPT - 1)
        last = np.append(state[1:_KEPT], inputs["feature"][0])
        phase = min(int(last[_KEPT - 1 - taken :].mean() // GRAYS_A_PHASE), len(PHASES) - 1)
        p = np.full(len(PHASES), 0.1 / (len(PHASES) - 1))
        p[phase] = 0.9
        return np.append(last, state[_KEPT] + 1).astype(np.float32), {"y_stage": p.astype(np.float32)}


def stage_manifest(state_id: str = "5" * 64, size_px: int = 8) -> Manifest:
    graph = {"file": "none.onnx", "sha256": "0" * 64, "opset": 18}
    scalars = [{"name": name, "shape": [1]} for name in ("hours", "hours_known", "elapsed")]
    return Manifest.model_validate(
        {
            "schema": "pellucid.manifest/1",
            "name": "scripted-stage",
            "version": "0",
            "task": "stage",
            "graph": graph,
            "state_id": state_id,
            "inputs": [{"name": "feature", "shape": [2]}, *scalars],
            "outputs": [{"name": "y_stage", "shape": [len(PHASES)], "classes": PHASES}],
            "state": {"shape": [_KEPT + 1]},
            "encoder": {
                "graph": graph,
                "inputs": [{"name": "x", "shape": [7, size_px, size_px]}, {"name": "present", "shape": [7]}],
                "outputs": [{"name": "y_feature", "shape": [2]}],
            },
            "preprocess": {
                "planes_um": PLANES_UM,
                "height_px": size_px,
                "width_px": size_px,
                "mean": 0.0,
                "std": 1.0,
                "allowed_plane_counts": list(range(1, 8)),
            },
            "decoding": {"evidence": 1.0, "hold": 2, "settled_frames": 3, "fallen_frames": 3},
            "tolerance": {"absolute": 1e-6},
            "provenance": {},
            "intended_use": "tests",
        }
    )


def staged_model(manifest: Manifest | None = None) -> Loaded:
    manifest = manifest or stage_manifest()
    return Loaded(_Head(manifest.spec()), manifest, "scripted", _Encoder(manifest.encoder_spec()))


def staged(stage: Loaded | None = None, counts: tuple[int, ...] = (1, 5, 6, 7)) -> Loaded:
    """A scripted blastocyst model with a scripted stage model beside it."""
    return replace(scripted(counts=counts), stage=stage or staged_model())


def encoder_of(loaded: Loaded) -> _Encoder:
    assert loaded.stage is not None and isinstance(loaded.stage.encoder, _Encoder)
    return loaded.stage.encoder
