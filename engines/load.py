"""From a manifest to a running engine, each runtime imported only when it is asked for.

It decides which runtime serves; it knows no embryo and no clock.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from engines.contract import Engine, EngineError
from engines.manifest import Manifest, graph_path, read_manifest

Device = Literal["auto", "cpu", "gpu"]
BUNDLED_MODELS = Path(__file__).parent / "models"


@dataclass(frozen=True)
class Loaded:
    """An engine, the manifest it was made from, and why this runtime serves it.

    `encoder`: the graph before the engine, of a model that has two (task "stage"). `stage`: the stage model that judges
    the same frames beside a blastocyst model, where one serves. `segmenter`, `graders`: the models of day 5, where they
    serve: both or neither.
    """

    engine: Engine
    manifest: Manifest
    note: str
    encoder: Engine | None = None
    stage: Loaded | None = None
    segmenter: Loaded | None = None
    graders: tuple[Loaded, ...] = ()

    @property
    def engines(self) -> tuple[Engine, ...]:
        """Its graphs in the order they run."""
        return (self.engine,) if self.encoder is None else (self.encoder, self.engine)

    @property
    def serving(self) -> tuple[Loaded, ...]:
        """It and every model beside it."""
        beside = [one for one in (self.stage, self.segmenter) if one is not None]
        return (self, *beside, *self.graders)


def find_manifests(*folders: Path) -> list[Path]:
    """Every manifest in the folders, in order of name. Raises EngineError when two models share a name."""
    found: dict[str, Path] = {}
    for path in sorted(path for folder in folders for path in folder.glob("*.json")):
        if path.stem in found:
            raise EngineError(f"two models are named {path.stem!r}: {found[path.stem]} and {path}")
        found[path.stem] = path
    if not found:
        raise EngineError(
            f"no model in {', '.join(map(str, folders))}: a model is NAME.onnx with its manifest NAME.json"
        )
    return list(found.values())


def find_manifest(name: str, *folders: Path) -> Path:
    """The manifest of the model `name`. Raises EngineError that lists what is there."""
    paths = {path.stem: path for path in find_manifests(*folders)}
    if name not in paths:
        raise EngineError(
            f"no model {name!r} in {', '.join(map(str, folders))}; there are: {', '.join(paths) or 'none'}"
        )
    return paths[name]


def load_engine(manifest_path: Path, device: Device = "auto", threads: int = 0) -> Loaded:
    """Load one model on the runtime that `device` allows. Raises EngineError saying what is missing, and a way out."""
    manifest = read_manifest(manifest_path)
    graph = graph_path(manifest_path, manifest)
    if device == "gpu":
        missing = [name for name in ("tensorrt", "pycuda") if importlib.util.find_spec(name) is None]
        reason = f"{' and '.join(missing)} not installed" if missing else "this version has no TensorRT engine yet"
        raise EngineError(f"{manifest.name}: device 'gpu' cannot serve here ({reason}); set [engines] device = \"cpu\"")
    from engines.onnxruntime_engine import OnnxRuntimeEngine

    note = "asked for" if device == "cpu" else "no GPU engine in this version"
    encoder = None
    if manifest.encoder is not None:
        first = graph_path(manifest_path, manifest, manifest.encoder.graph)
        encoder = OnnxRuntimeEngine(first, manifest.encoder_spec(), threads)
    return Loaded(OnnxRuntimeEngine(graph, manifest.spec(), threads), manifest, note, encoder)
