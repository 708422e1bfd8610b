"""ONNX Runtime against PyTorch eager, step for step, interleaved in one process: the row of the bench that needs torch.

Does: rebuilds the network whose shape a model's manifest tells, times both runtimes on the same input, writes rows that
`pellucid engines bench --add FILE` puts into its table. A time does not depend on the weights, so a model whose
checkpoint is not here is timed with random ones of the same shape. One thread each unless asked otherwise: PyTorch's
threads wait for each other by spinning, and on a busy machine the ratio would tell of the neighbours. Refuses to know:
the monitor; what the numbers mean.

    python -m training.amsnet.bench --out build/bench-pytorch.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch

from engines.bench import Clock, NotRun, Row, as_json, paired_ratio, timed
from engines.contract import Array, HostState
from engines.load import BUNDLED_MODELS, Loaded, find_manifests, load_engine
from engines.verify import sample_inputs
from training.amsnet import checkpoint as checkpoints
from training.amsnet.checkpoint import Checkpoint
from training.amsnet.export import StepGraph
from training.amsnet.model import BACKBONES, AMSNet, AMSNetConfig

FULL_SIZE = Path("build/models")
STEPS_ALIKE = 3


def network_like(loaded: Loaded) -> AMSNet | None:
    """A network with the model's planes, pixels and state, random weights (seed 0); None where we know no such one."""
    how = loaded.manifest.preprocess
    hours = any(tensor.name == "hours" for tensor in loaded.engine.spec.inputs)
    for backbone in BACKBONES:
        if len(how.planes_um) not in (1, 3, 5, 7) or how.height_px != how.width_px:
            continue
        config = AMSNetConfig(backbone, planes=len(how.planes_um), input_px=how.height_px, hours=hours)
        with torch.device("meta"):
            size = AMSNet(config).state_size
        if (size,) == loaded.engine.spec.state.shape:
            return checkpoints.with_random_weights(config, 0).model
    return None


def differs(loaded: Loaded, model: AMSNet) -> float | None:
    """Largest difference of value and state over chained steps; None where the weights are others."""
    how = loaded.manifest.preprocess
    width = how.width_in_well_radii if how.crop else None
    if checkpoints.state_id(Checkpoint(model, how.mean, how.std, width, how.planes_um)) != loaded.engine.spec.state_id:
        return None
    reference, worst = StepGraph(model).eval(), 0.0
    state, carried = loaded.engine.initial_state(), model.initial_state()
    for seed in range(STEPS_ALIKE):
        inputs = sample_inputs(loaded.engine, 1, seed)
        step = loaded.engine.step([state], inputs)
        state = step.states[0]
        with torch.inference_mode():
            said, carried = reference(torch.from_numpy(inputs["x"]), carried, _hours(inputs))
        assert isinstance(state, HostState)
        apart = (
            np.abs(step.outputs["y_blastocyst"] - said.numpy()).max(),
            np.abs(state.row - carried[0].numpy()).max(),
        )
        worst = max(worst, *map(float, apart))
    return worst


def _hours(inputs: dict[str, Array]) -> torch.Tensor | None:
    return torch.from_numpy(inputs["hours"]) if "hours" in inputs else None


def bench_pytorch(loaded: Loaded, model: AMSNet, rounds: int, clock: Clock = time.perf_counter) -> list[Row]:
    """Median seconds of PyTorch's step, and how many times it takes what ONNX Runtime takes."""
    reference, inputs = StepGraph(model).eval(), sample_inputs(loaded.engine, 1, 0)
    x, carried, state = torch.from_numpy(inputs["x"]), model.initial_state(), loaded.engine.initial_state()
    hours = _hours(inputs)
    ours: list[float] = []
    theirs: list[float] = []
    with torch.inference_mode():
        reference(x, carried, hours)  # allocates what it needs
        for _ in range(rounds):
            ours.append(timed(lambda: loaded.engine.step([state], inputs), clock))
            theirs.append(timed(lambda: reference(x, carried, hours), clock))
    name, threads = loaded.manifest.name, torch.get_num_threads()
    return [
        Row(name, f"one step, PyTorch eager, threads: {threads}", statistics.median(theirs), "s"),
        Row(name, f"PyTorch eager / ONNX Runtime, threads: {threads}", paired_ratio(theirs, ours)),
    ]


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m training.amsnet.bench", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="the rows, as JSON")
    parser.add_argument("--models", type=Path, nargs="+", help=f"folders (default: bundled, and {FULL_SIZE})")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1, help="of both (default: %(default)s)")
    chosen = parser.parse_args(arguments)
    folders = chosen.models or [BUNDLED_MODELS, *([FULL_SIZE] if any(FULL_SIZE.glob("*.json")) else [])]
    torch.set_num_threads(chosen.threads)
    rows: list[Row] = []
    missed: list[NotRun] = []
    for path in find_manifests(*folders):
        loaded = load_engine(path, "cpu", chosen.threads)
        if loaded.manifest.task != "blastocyst":
            continue
        model = network_like(loaded)
        if model is None:
            missed.append(
                NotRun(f"{path.stem}: ONNX Runtime against PyTorch eager", "no network of this shape is known")
            )
            continue
        apart = differs(loaded, model)
        if apart is not None and apart > loaded.manifest.tolerance.absolute:
            missed.append(NotRun(f"{path.stem}: ONNX Runtime against PyTorch eager", f"another function: {apart:.1e}"))
            continue
        rows += bench_pytorch(loaded, model, chosen.rounds)
    chosen.out.write_text(json.dumps(as_json(rows, missed), indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
