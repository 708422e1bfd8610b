"""The commands below `pellucid engines`: what models are here, whether they keep the contract, how long they take."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from monitor.cli_gpu import build, gpu_rows, plans_of
from monitor.errors import ConfigError, EngineError

if TYPE_CHECKING:
    from engines.bench import NotRun, Row
    from engines.contract import Engine
    from engines.load import Loaded

_Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

FULL_SIZE = Path("build/models")  # where `make full-size` puts it


def add_engines(commands: _Commands) -> None:
    engines = commands.add_parser("engines", help="the models on this machine")
    what = engines.add_subparsers(required=True, metavar="WHAT")
    for name, command, text in (
        ("list", _list, "each model, its digest and where it comes from"),
        ("verify", _verify, "digests, and every promise of the engine contract; exit 1 where one is broken"),
        ("build", _build, "plans for the GPU of this machine; minutes for each model"),
        ("bench", _bench, "the whole way of a frame and the bare step: times, ratios, bytes, memory"),
    ):
        parser = what.add_parser(name, help=text)
        there = f", and {FULL_SIZE} where it is" if name == "bench" else ""
        parser.add_argument("--models", type=Path, help=f"a folder of models (default: the bundled ones{there})")
        parser.add_argument("--plans", type=Path, help="folder of the plans (default: as `run` finds it)")
        if name in ("verify", "bench"):
            first = "auto" if name == "verify" else "cpu"
            parser.add_argument("--device", choices=("auto", "gpu", "cpu"), default=first, help=f"default: {first}")
        if name == "build":
            parser.add_argument(
                "--try", action="store_true", dest="try_only", help="keep nothing; needs no GPU with TensorRT-RTX"
            )
        if name in ("list", "bench"):
            parser.add_argument("--json", action="store_true", help="machine-readable")
        if name == "bench":
            parser.add_argument("--json-file", type=Path, help="write the same there as JSON")
            parser.add_argument("--add", type=Path, help="rows measured by another program, as its JSON")
        parser.add_argument("--threads", type=int, default=0, help="0: one per physical core")
        parser.set_defaults(command=command)


def _list(arguments: argparse.Namespace) -> int:
    from engines.load import BUNDLED_MODELS, find_manifests
    from engines.manifest import read_manifest

    paths = find_manifests(arguments.models or BUNDLED_MODELS)
    manifests = [read_manifest(path) for path in paths]
    if arguments.json:
        print(json.dumps([manifest.model_dump(mode="json", by_alias=True) for manifest in manifests], indent=2))
        return 0
    for path, manifest in zip(paths, manifests, strict=True):
        print(f"{manifest.name} {manifest.version}: {manifest.task}, graph {manifest.graph.sha256[:12]}")
        print(f"  trained on {manifest.provenance.get('trained_on', 'not said')}; {manifest.intended_use}")
        for line in plans_of(path, arguments.plans):
            print(f"  {line}")
    missing = sorted({"segmentation", "grade"} - {manifest.task for manifest in manifests})
    if missing:
        print(f"day 5: no model here for {' and '.join(missing)}: nothing is graded")
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    from engines.load import BUNDLED_MODELS, GpuUse, find_manifests, load_engine
    from engines.verify import contract_faults

    worst = 0
    for path in find_manifests(arguments.models or BUNDLED_MODELS):
        try:
            loaded = load_engine(path, arguments.device, arguments.threads, GpuUse(arguments.plans))
            faults = [fault for engine in loaded.engines for fault in contract_faults(engine, _equal(loaded, engine))]
            if arguments.device == "gpu" and loaded.fallback is not None:
                faults.append(f"not on the GPU: {loaded.fallback}")
            runtime = ", ".join(dict.fromkeys(engine.runtime for engine in loaded.engines))
        except EngineError as fault:
            faults, runtime = [str(fault)], "not loaded"
        worst = max(worst, len(faults))
        print(f"{path.stem} ({runtime}): {'keeps the contract' if not faults else 'BROKEN'}")
        for fault_text in faults:
            print(f"  {fault_text}")
    return 1 if worst else 0


def _equal(loaded: Loaded, engine: Engine) -> float:
    """What the contract calls equal: exactly so on the CPU; on a GPU kernels of another batch size round otherwise."""
    from engines.golden import FP32_ABSOLUTE
    from engines.gpu_bench import FP16_CONTRACT

    if engine.runtime.startswith("onnxruntime"):
        return 0.0
    return FP16_CONTRACT if "fp16" in engine.runtime else max(loaded.manifest.tolerance.absolute, FP32_ABSOLUTE)


def _build(arguments: argparse.Namespace) -> int:
    return build(arguments)


def _bench(arguments: argparse.Namespace) -> int:
    logging.disable(logging.WARNING)  # a line for each frame would be part of what is measured
    try:
        return _measure(arguments)
    finally:
        logging.disable(logging.NOTSET)


def _measure(arguments: argparse.Namespace) -> int:
    from engines.bench import NotRun, as_json, bench_stage, engine_rows, table
    from engines.day5_bench import DAY5_TASKS
    from engines.load import BUNDLED_MODELS, find_manifests, load_engine
    from monitor.bench import machine

    folders = [arguments.models] if arguments.models else [BUNDLED_MODELS]
    not_run: list[NotRun] = []
    if not arguments.models and any(FULL_SIZE.glob("*.json")):
        folders.append(FULL_SIZE)
    elif not arguments.models:
        not_run.append(NotRun("full size (ResNet-50, 7 planes, 224 px)", f"no model in {FULL_SIZE}: make full-size"))
    rows: list[Row] = []
    measured: list[dict[str, Any]] = []
    where = machine()
    found = [load_engine(path, "cpu", arguments.threads) for path in find_manifests(*folders)]
    day5 = [loaded for loaded in found if loaded.manifest.task in DAY5_TASKS]
    amsnets = [loaded for loaded in found if loaded.manifest.task == "blastocyst"]
    for loaded in found:
        if loaded in day5:
            continue  # told together below
        if loaded.encoder is not None:
            rows += bench_stage(loaded, _beside(loaded, amsnets))
            continue
        engine, way, missed = _bench_one(loaded)
        rows += engine_rows(engine)
        measured.append({"engine": engine, "way": way})
        if way is not None:
            from monitor.bench import FULL_SIZE_PX, way_rows

            rows += way_rows(loaded.manifest.name, way, loaded.manifest.preprocess.height_px >= FULL_SIZE_PX)
        not_run += missed
    day5_rows, day5_missed = _bench_day5(day5, amsnets)
    rows, not_run = [*rows, *day5_rows], [*not_run, *day5_missed]
    if arguments.device != "cpu":
        gpu, gpu_missed = gpu_rows(find_manifests(*folders), arguments.plans)
        rows, not_run = [*rows, *gpu], [*not_run, *gpu_missed]
    more_rows, more_missed = _added(arguments.add)
    rows, not_run = [*rows, *more_rows], [*not_run, *more_missed]
    result = {"schema": "pellucid.bench/1", "machine": where, "models": measured, **as_json(rows, not_run)}
    if arguments.json_file is not None:
        arguments.json_file.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2) if arguments.json else table(rows, not_run))
    return 0


def _bench_day5(day5: list[Loaded], amsnets: list[Loaded]) -> tuple[list[Row], list[NotRun]]:
    """One drawn frame of day 5, from the whole picture to grades, in steps of AMSNet; both sizes where they are."""
    from engines.day5_bench import bench_day5
    from monitor.bench import FULL_SIZE_PX
    from monitor.simulator import PLANES_UM, VirtualEmbryo

    if not day5:
        return [], []
    print("day 5: crop, segmentation, both graders ...", file=sys.stderr)
    frame = VirtualEmbryo(3, arrest_share=0.0).stack(116.0)
    planes = dict(zip(PLANES_UM, frame, strict=True))
    steps = {loaded.manifest.preprocess.height_px >= FULL_SIZE_PX: loaded.engine for loaded in amsnets}
    return bench_day5(day5, planes, small=steps.get(False), full=steps.get(True))


def _beside(loaded: Loaded, amsnets: list[Loaded]) -> Engine | None:
    """The blastocyst model that sees pictures of the same size."""
    height_px = loaded.manifest.preprocess.height_px
    alike = [one for one in amsnets if one.manifest.preprocess.height_px == height_px]
    return alike[0].engine if alike else None


def _bench_one(loaded: Loaded) -> tuple[dict[str, Any], dict[str, Any] | None, list[NotRun]]:
    """The engine by itself, the whole way (None where it cannot be gone here), and what was not run."""
    from engines.bench import NotRun, bench_engine
    from monitor.bench import bench_way, broker_beside, plan_for

    name = loaded.manifest.name
    print(f"{name}: the step by itself (1,000 frames first) ...", file=sys.stderr)
    engine = bench_engine(loaded.engine)
    plan = plan_for(engine["step_frame_10_s"])
    missed = [] if plan.late else [NotRun(f"{name}: whole way, frame 1,000 / frame 10", "measured on the small model")]
    print(f"{name}: the whole way, {plan.rounds} rounds, {plan.embryos} embryos ...", file=sys.stderr)
    try:
        with _in_silence(), broker_beside() as broker:
            return engine, bench_way(loaded, broker, plan), missed
    except ConfigError as fault:
        return engine, None, [NotRun(f"{name}: the whole way", str(fault))]


@contextmanager
def _in_silence() -> Iterator[None]:
    """Sessions come and go in a bench; only errors are worth a line between its figures."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _added(path: Path | None) -> tuple[list[Row], list[NotRun]]:
    """Rows and gaps another program wrote. Raises ConfigError where it is no such file."""
    from engines.bench import NotRun, row_of

    what = "ONNX Runtime against PyTorch eager"
    if path is None or not path.exists():
        return [], [NotRun(what, "torch is not installed here, or this is not `make bench`")]
    try:
        told = json.loads(path.read_text())
        return [row_of(row) for row in told["rows"]], [NotRun(**gap) for gap in told["not_run"]]
    except (ValueError, KeyError, TypeError) as fault:
        raise ConfigError(f"--add {path}: no rows of a bench ({fault!r})") from fault
