"""From a model's ONNX file to a plan in the store, on the machine that will run it; in a process of its own if asked.

    python -m engines.build MANIFEST --graph 0 --plans DIR
A build takes minutes and much memory, and NVIDIA's builder may end its process: the monitor never builds in its own.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from engines.contract import EngineError
from engines.device_memory import DeviceError, Lacking, Profile, Say, Toolkit
from engines.manifest import Part, graph_path, read_manifest
from engines.plans import PlanStore, key_of

PROFILE = Profile(best=8, most=8)  # the monitor advances 8 embryos at once; memory grows with the largest batch
BUILD_LIMIT_S = 3600.0


def build_plan(
    graph: Path,
    part: Part,
    toolkit: Toolkit,
    store: PlanStore,
    profile: Profile = PROFILE,
    say: Say = lambda line: None,
    clock: Callable[[], float] = time.perf_counter,
) -> bytes:
    """Build and keep it. Raises DeviceError (the builder refused), EngineError (the disk)."""
    from engines.precision import ready_graph

    began = clock()
    say(f"{part.spec.name}: making the graph ready, {part.precision.compute}")
    ready = ready_graph(graph, part.precision)
    try:
        store.folder.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        raise EngineError(f"plans: {store.folder}: {fault.strerror}") from fault
    tf32 = part.precision.compute == "fp16"  # with fp32 parity is promised to the manifest's tolerance
    plan = toolkit.build(ready, profile, tf32, store.timing, lambda line: say(f"{part.spec.name}: {line}"))
    store.keep(key_of(part, toolkit.facts, profile), plan, clock() - began)
    say(f"{part.spec.name}: {len(plan) / 1e6:.1f} MB in {clock() - began:.0f} s")
    return plan


def build_elsewhere(manifest_path: Path, index: int, store: PlanStore, say: Say) -> None:
    """The same in another process, its lines handed to `say`. Raises DeviceError where it fails."""
    command = [sys.executable, "-m", "engines.build", str(manifest_path)]
    command += ["--graph", str(index), "--plans", str(store.folder)]
    last = ""
    try:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        limit = threading.Timer(BUILD_LIMIT_S, process.kill)
        limit.daemon = True
        limit.start()
        for line in process.stdout or ():
            last = line.strip() or last
            say(last)
        code = process.wait()
        limit.cancel()
    except OSError as fault:
        raise DeviceError(f"the build could not be started: {fault}") from fault
    if code:
        raise DeviceError(f"the build ended with {code}: {last}")


def try_build(manifest_path: Path) -> Iterator[tuple[str, bool]]:
    """Parse and build every graph of a model and keep nothing; a line for each, and whether it went well. TensorRT-RTX
    needs no GPU for it. Raises DeviceError where no TensorRT is installed."""
    from engines.gpu import TENSORRT, installed
    from engines.precision import ready_graph

    if not any(map(installed, TENSORRT)):
        raise DeviceError("no TensorRT is here: pip install 'pellucid[rtx-check]' brings one that builds without a GPU")
    from engines.nvidia import RUNTIME
    from engines.nvidia import build as build_here

    manifest = read_manifest(manifest_path)
    for part in manifest.parts():
        try:
            graph = ready_graph(graph_path(manifest_path, manifest, part.graph), part.precision)
            built = build_here(graph, PROFILE, part.precision.compute == "fp16")
            size = f"{len(built.plan) / 1e6:.1f} MB"
            yield f"{part.spec.name}: {RUNTIME} builds it in {part.precision.compute}, {size}", True
        except EngineError as fault:
            yield f"{part.spec.name}: {fault}", False


def main(argv: list[str] | None = None) -> int:
    from engines.gpu import find_toolkit

    parser = argparse.ArgumentParser(prog="python -m engines.build", description=__doc__)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--graph", type=int, required=True, help="which of the model's graphs, from 0")
    parser.add_argument("--plans", type=Path, required=True)
    arguments = parser.parse_args(argv)
    try:
        manifest = read_manifest(arguments.manifest)
        part = manifest.parts()[arguments.graph]
        toolkit = find_toolkit()
        if isinstance(toolkit, Lacking):
            raise DeviceError(str(toolkit))
        graph = graph_path(arguments.manifest, manifest, part.graph)
        build_plan(graph, part, toolkit, PlanStore(arguments.plans), say=lambda line: print(line, flush=True))
    except EngineError as fault:
        print(fault, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
