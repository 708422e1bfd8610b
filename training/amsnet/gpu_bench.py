"""PyTorch on a GPU against which a plan is measured: eager, torch.compile and CUDA graphs, the same network and batch.

The next state stays on the device, as it does with a plan. Weights are random (a time does not depend on them), in
fp16, channels last. Refuses to know: the monitor, plans, parity.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import torch

from engines.bench import Clock, NotRun, Row
from engines.load import Loaded
from training.amsnet.bench import network_like
from training.amsnet.export import StepGraph
from training.amsnet.model import AMSNet

WARM_UP = 10
Step = Callable[[], object]


def bench_torch(
    loaded: Loaded,
    batches: Sequence[int],
    rounds: int,
    device: str = "cuda",
    ways: Sequence[str] = ("eager", "torch.compile", "CUDA graphs"),
    clock: Clock = time.perf_counter,
) -> tuple[list[Row], list[NotRun]]:
    """Rows of one blastocyst model; a way that fails here is told and the others go on."""
    model, name = network_like(loaded), loaded.manifest.name
    if model is None:
        return [], [NotRun(f"{name}: PyTorch", "no network of this shape is known")]
    rows: list[Row] = []
    missed: list[NotRun] = []
    makers = {"eager": _eager, "torch.compile": _compiled, "CUDA graphs": _graphed}
    for way in ways:
        make = makers[way]
        try:
            for batch in batches:
                rows += _rows(
                    f"{name} fp16", f"PyTorch {way}", batch, make(model, batch, device), rounds, device, clock
                )
        except (RuntimeError, torch.cuda.OutOfMemoryError, AssertionError) as fault:
            missed.append(NotRun(f"{name}: PyTorch {way}", f"{type(fault).__name__}: {str(fault).splitlines()[0]}"))
    return rows, missed


def _rows(name: str, way: str, batch: int, step: Step, rounds: int, device: str, clock: Clock) -> list[Row]:
    """Frames a second; of a single frame also its time to the answer."""
    with torch.inference_mode():
        for _ in range(WARM_UP):
            step()
        _wait(device)
        if batch == 1:
            laps = []
            for _ in range(rounds):
                began = clock()
                step()
                _wait(device)
                laps.append(clock() - began)
            return [
                Row(name, f"{way}: one frame, p{share}", float(np.percentile(laps, share)), "s") for share in (50, 99)
            ]
        turns, began = max(rounds // batch, 5), clock()
        for _ in range(turns):
            step()
        _wait(device)
        return [Row(name, f"{way}: frames a second, batch {batch}", turns * batch / (clock() - began))]


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _inputs(model: AMSNet, batch: int, device: str) -> tuple[StepGraph, list[torch.Tensor]]:
    half = torch.float16 if device == "cuda" else torch.float32
    graph = StepGraph(model).eval().to(device, half, memory_format=torch.channels_last)
    side_px = int(model.config.input_px or 0)
    tensors = [torch.zeros(batch, model.config.planes, side_px, side_px), torch.zeros(batch, model.state_size)]
    if model.config.hours:
        tensors.append(torch.zeros(batch, 2))
    return graph, [tensor.to(device, half) for tensor in tensors]


def _stepper(graph: Callable[..., tuple[torch.Tensor, torch.Tensor]], tensors: list[torch.Tensor]) -> Step:
    def step() -> torch.Tensor:
        said, after = graph(*tensors)
        tensors[1] = after.to(tensors[1].dtype)
        return said

    return step


def _eager(model: AMSNet, batch: int, device: str) -> Step:
    return _stepper(*_inputs(model, batch, device))


def _compiled(model: AMSNet, batch: int, device: str) -> Step:
    graph, tensors = _inputs(model, batch, device)
    return _stepper(torch.compile(graph), tensors)


def _graphed(model: AMSNet, batch: int, device: str) -> Step:
    """One recorded graph; the next state is copied over the last one inside of it."""
    if device != "cuda":
        raise RuntimeError("there is no GPU to record a graph on")
    graph, tensors = _inputs(model, batch, device)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.inference_mode(), torch.cuda.stream(stream):
        for _ in range(3):
            graph(*tensors)
    torch.cuda.current_stream().wait_stream(stream)
    recorded = torch.cuda.CUDAGraph()
    with torch.inference_mode(), torch.cuda.graph(recorded):
        _said, after = graph(*tensors)
        tensors[1].copy_(after)
    return recorded.replay
