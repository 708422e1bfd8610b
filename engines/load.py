"""From a manifest to a running engine, each runtime imported only when it is asked for.

It decides which runtime serves; it knows no embryo and no clock.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from engines.contract import Engine, EngineError
from engines.device_memory import Lacking, Toolkit
from engines.manifest import Manifest, graph_path, read_manifest

log = logging.getLogger(__name__)
Device = Literal["auto", "cpu", "gpu"]
BUNDLED_MODELS = Path(__file__).parent / "models"


@dataclass(frozen=True)
class Loaded:
    """An engine, the manifest it was made from, and why this runtime serves it.

    `encoder`: the graph before the engine, of a model that has two (task "stage"). `stage`: the stage model that judges
    the same frames beside a blastocyst model, where one serves. `segmenter`, `graders`: the models of day 5, where they
    serve: both or neither. `lacks`: why the runtime that it was meant for is not to be had.
    """

    engine: Engine
    manifest: Manifest
    note: str
    encoder: Engine | None = None
    stage: Loaded | None = None
    segmenter: Loaded | None = None
    graders: tuple[Loaded, ...] = ()
    lacks: str | None = None

    @property
    def fallback(self) -> str | None:
        """Why it serves, just now, on another runtime than it was meant for; None where it does not."""
        reasons = [getattr(engine, "fallback", None) for engine in self.engines]
        return next((reason for reason in reasons if reason is not None), self.lacks)

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


@dataclass(frozen=True)
class GpuUse:
    """How a GPU is used where there is one. `plans`: their folder (None: the user's cache); `builds`: a plan that is
    missing is built, and all of it goes on beside the work (else a plan that is there is loaded and proven at once);
    `find`: what looks for a GPU (None: this machine's driver)."""

    plans: Path | None = None
    builds: bool = False
    find: Callable[[], Toolkit | Lacking] | None = None


def load_engine(manifest_path: Path, device: Device = "auto", threads: int = 0, gpu: GpuUse | None = None) -> Loaded:
    """Load one model on the runtime that `device` allows; on the CPU where a GPU cannot serve. Raises EngineError."""
    from engines.onnxruntime_engine import OnnxRuntimeEngine

    manifest, gpu = read_manifest(manifest_path), gpu or GpuUse()
    engines: list[Engine] = [
        OnnxRuntimeEngine(graph_path(manifest_path, manifest, part.graph), part.spec, threads)
        for part in manifest.parts()
    ]
    note, lacks = "asked for", None
    if device != "cpu":
        found = _find(gpu)
        if isinstance(found, Lacking):
            note = str(found)
            lacks = note if device == "gpu" or found.meant else None
        else:
            engines = [_guarded(manifest_path, manifest, i, one, found, gpu) for i, one in enumerate(engines)]
            note = f"{found.facts.name}, driver {found.facts.driver}"
    return Loaded(engines[-1], manifest, note, engines[0] if len(engines) > 1 else None, lacks=lacks)


def _find(gpu: GpuUse) -> Toolkit | Lacking:
    if gpu.find is not None:
        return gpu.find()
    from engines.gpu import find_toolkit

    return find_toolkit()


def _guarded(
    manifest_path: Path, manifest: Manifest, index: int, reference: Engine, toolkit: Toolkit, gpu: GpuUse
) -> Engine:
    from engines.build import build_elsewhere
    from engines.guard import GuardedEngine
    from engines.plans import PlanStore, default_folder

    store = PlanStore(gpu.plans or default_folder())

    def build() -> None:
        build_elsewhere(manifest_path, index, store, lambda line: log.info("plan", extra={"line": line}))

    part, tolerance, builds = manifest.parts()[index], manifest.tolerance, build if gpu.builds else None
    guarded = GuardedEngine(reference, part, tolerance, toolkit, store, builds, start=None if gpu.builds else _at_once)
    guarded.begin()
    return guarded


def _at_once(work: Callable[[], None]) -> None:
    """A command that builds nothing is there to tell whether the GPU serves: it waits for that."""
    work()
