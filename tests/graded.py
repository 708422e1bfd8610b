"""Models of day 5 that do what a test tells them, and drawn frames on which an embryo is found."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from engines.contract import Array, EngineError, EngineSpec
from engines.day5 import Labels, Part
from engines.host import HostEngine
from engines.load import Loaded
from engines.manifest import Manifest
from monitor.simulator import PLANES_UM, VirtualEmbryo
from tests.house import START, plane_path, scripted

SIDE_PX = 64
SIZE_PX = 250
INSEMINATED = START - timedelta(hours=110)  # START is 110 hpi: day 5 begins four hours later
EXPANSIONS = ("none", "1", "2", "3", "4", "5", "6")
LETTERS = ("A", "B", "C")


def drawn_blastocyst() -> Labels:
    """(SIDE_PX, SIDE_PX): rings around the middle, a cell mass within."""
    y, x = np.mgrid[:SIDE_PX, :SIDE_PX] - (SIDE_PX - 1) / 2
    r = np.hypot(x, y)
    labels = np.zeros((SIDE_PX, SIDE_PX), np.uint8)
    for part, radius_px in ((Part.ZP, 26.0), (Part.TE, 23.0), (Part.BLASTOCOEL, 20.0)):
        labels[r < radius_px] = part
    labels[np.hypot(x, y - 12) < 7] = Part.ICM
    return labels


class Segmenter(HostEngine):
    """`labels(x)` gives the label image; `faults`: calls that raise, counted from 0."""

    def __init__(self, spec: EngineSpec) -> None:
        super().__init__(spec)
        self.labels: Callable[[Array], Labels] = lambda x: drawn_blastocyst()
        self.faults: set[int] = set()
        self.calls = 0

    @property
    def runtime(self) -> str:
        return "scripted"

    def run_row(self, state: Array, inputs: dict[str, Array]) -> tuple[Array, dict[str, Array]]:
        call, self.calls = self.calls, self.calls + 1
        if call in self.faults:
            raise EngineError(f"{self.spec.name}: out of memory")
        labels = self.labels(inputs["x"])
        return state, {"y_parts": np.stack([labels == part for part in Part]).astype(np.float32)}


class Grader(HostEngine):
    """Always `words`: expansion, ICM, TE, each at .7; `faults` as above."""

    def __init__(self, spec: EngineSpec) -> None:
        super().__init__(spec)
        self.words = ("4", "A", "B")
        self.faults: set[int] = set()
        self.calls = 0

    @property
    def runtime(self) -> str:
        return "scripted"

    def run_row(self, state: Array, inputs: dict[str, Array]) -> tuple[Array, dict[str, Array]]:
        call, self.calls = self.calls, self.calls + 1
        if call in self.faults:
            raise EngineError(f"{self.spec.name}: out of memory")
        return state, {
            output.name: np.array([0.7 if one == word else 0.3 / (len(output.classes) - 1) for one in output.classes])
            .astype(np.float32)
            for output, word in zip(self.spec.outputs, self.words, strict=True)
        }  # fmt: skip


def day5_manifest(name: str, task: str, outputs: list[dict[str, object]]) -> Manifest:
    return Manifest.model_validate(
        {
            "schema": "pellucid.manifest/1",
            "name": name,
            "version": "0",
            "task": task,
            "graph": {"file": "none.onnx", "sha256": (name.encode().hex() + "0" * 64)[:64], "opset": 18},
            "state_id": (name.encode().hex() + "0" * 64)[:64],
            "inputs": [{"name": "x", "shape": [3, SIDE_PX, SIDE_PX]}],
            "outputs": outputs,
            "state": {"shape": [0]},
            "preprocess": {
                "planes_um": [-30, 0, 30],
                "height_px": SIDE_PX,
                "width_px": SIDE_PX,
                "mean": 0.0,
                "std": 1.0,
                "allowed_plane_counts": list(range(1, 8)),
                "crop": "blastocyst",
            },
            "tolerance": {"absolute": 1e-6},
            "provenance": {},
            "intended_use": "tests",
        }
    )


def segmenter_model() -> Loaded:
    classes = [part.name for part in Part]
    outputs: list[dict[str, object]] = [{"name": "y_parts", "shape": [5, SIDE_PX, SIDE_PX], "classes": classes}]
    manifest = day5_manifest("parts", "segmentation", outputs)
    return Loaded(Segmenter(manifest.spec()), manifest, "scripted")


def grader_model(name: str) -> Loaded:
    classes = {"y_expansion": EXPANSIONS, "y_icm": LETTERS, "y_te": LETTERS}
    outputs: list[dict[str, object]] = [
        {"name": output, "shape": [len(words)], "classes": list(words)} for output, words in classes.items()
    ]
    manifest = day5_manifest(name, "grade", outputs)
    return Loaded(Grader(manifest.spec()), manifest, "scripted")


def graded(beside: Loaded | None = None) -> Loaded:
    """A blastocyst model (scripted, or `beside` with its stage model) with a segmenter and two graders."""
    beside = beside or scripted(counts=(1, 5, 6, 7))
    return replace(beside, segmenter=segmenter_model(), graders=(grader_model("one"), grader_model("two")))


def segmenter_of(loaded: Loaded) -> Segmenter:
    assert loaded.segmenter is not None and isinstance(loaded.segmenter.engine, Segmenter)
    return loaded.segmenter.engine


def graders_of(loaded: Loaded) -> list[Grader]:
    return [one.engine for one in loaded.graders if isinstance(one.engine, Grader)]


@cache
def drawn_planes(hpi: float = 116.0, seed: int = 3) -> tuple[np.ndarray, ...]:
    """Seven planes of a blastocyst, ascending."""
    return tuple(VirtualEmbryo(seed, arrest_share=0.0).stack(hpi, SIZE_PX))


def blastocyst_png(plane_um: int, brightness: float = 1.0, seed: int = 3) -> bytes:
    gray = drawn_planes(seed=seed)[PLANES_UM.index(plane_um)].astype(np.float32) * brightness
    out = io.BytesIO()
    Image.fromarray(np.clip(gray, 0, 255).astype(np.uint8)).save(out, "PNG")
    return out.getvalue()


def write_blastocyst(root: Path, well: str, at: datetime, brightness: float = 1.0) -> None:
    """One frame in the layout `generic`, of a blastocyst."""
    for plane_um in PLANES_UM:
        path = plane_path(root, well, at, plane_um).with_suffix(".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(blastocyst_png(plane_um, brightness))
