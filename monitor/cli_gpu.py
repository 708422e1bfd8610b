"""`pellucid engines build`, and what the other commands below `engines` say of the GPU and of its plans."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from monitor.errors import EngineError

if TYPE_CHECKING:
    from engines.bench import NotRun, Row
    from engines.device_memory import Lacking, Toolkit

Find = Callable[[], "Toolkit | Lacking"]


def build(arguments: argparse.Namespace, find: Find | None = None) -> int:
    """A plan for every graph that has none for this GPU; `--try`: parse and build, keep nothing. 1 where one failed."""
    from engines.build import try_build
    from engines.load import BUNDLED_MODELS, find_manifests

    paths = find_manifests(arguments.models or BUNDLED_MODELS)
    if arguments.try_only:
        return max(_told(try_build(path)) for path in paths)
    toolkit = _toolkit(find)
    return max(_told(build_missing(path, toolkit, arguments.plans)) for path in paths)


def _told(outcomes: Iterator[tuple[str, bool]]) -> int:
    """Each as it comes; 1 where one failed."""
    worst = 0
    for line, well in outcomes:
        print(line, file=sys.stdout if well else sys.stderr)
        worst = max(worst, int(not well))
    return worst


def plans_of(path: Path, folder: Path | None) -> list[str]:
    """A line for every plan that is kept of a model."""
    from engines.manifest import read_manifest
    from engines.plans import PlanStore, default_folder

    names = {part.spec.name for part in read_manifest(path).parts()}
    return [
        f"plan of {told['model']}: {told['precision']['compute']}, {told['bytes'] / 1e6:.1f} MB, for "
        f"{told['facts']['name']}, driver {told['facts']['driver']}, {told['facts']['runtime']}"
        for told in PlanStore(folder or default_folder()).records()
        if told.get("model") in names
    ]


def gpu_rows(paths: list[Path], folder: Path | None, find: Find | None = None) -> tuple[list[Row], list[NotRun]]:
    """The rows of `bench --device gpu`. Raises EngineError where no GPU can be used."""
    from engines.gpu_bench import bench_part
    from engines.load import load_engine
    from engines.plans import PlanStore, default_folder

    toolkit = _toolkit(find)
    rows: list[Row] = []
    not_run: list[NotRun] = []
    store = PlanStore((folder or default_folder()) / "bench")
    for path in paths:
        loaded = load_engine(path, "cpu")
        for part, reference in zip(loaded.manifest.parts(), loaded.engines, strict=True):
            ran = bench_part(path, loaded.manifest, part, reference, toolkit, store, rounds=200, say=_say)
            rows, not_run = [*rows, *ran.rows], [*not_run, *ran.not_run]
    return rows, not_run


def _toolkit(find: Find | None) -> Toolkit:
    from engines.device_memory import Lacking
    from engines.gpu import find_toolkit

    found = (find or find_toolkit)()
    if isinstance(found, Lacking):
        raise EngineError(str(found))
    return found


def build_missing(path: Path, toolkit: Toolkit, folder: Path | None) -> Iterator[tuple[str, bool]]:
    """A plan for every graph of a model that has none; a line for each, and whether it went well."""
    from engines.build import PROFILE, build_plan
    from engines.manifest import graph_path, read_manifest
    from engines.plans import PlanStore, default_folder, key_of

    manifest, store = read_manifest(path), PlanStore(folder or default_folder())
    for part in manifest.parts():
        key = key_of(part, toolkit.facts, PROFILE)
        try:
            if store.find_whole(key) is None:
                build_plan(graph_path(path, manifest, part.graph), part, toolkit, store, say=_say)
            where = f"{store.folder / key.stem}.plan"
            yield f"{part.spec.name}: {where}; it serves once it has said what the CPU says", True
        except EngineError as fault:
            yield f"{part.spec.name}: {fault}", False


def _say(line: str) -> None:
    print(line, file=sys.stderr)
