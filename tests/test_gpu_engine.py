"""The GPU engine's own logic over a device that keeps arrays in host memory: arena, pieces, sets, transactions."""

from __future__ import annotations

import gc
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.arena import Arena, Row
from engines.build import build_plan
from engines.contract import EngineError, EngineSpec, HostState, State, TensorSpec
from engines.device_memory import DeviceError, PlanError, Profile
from engines.device_thread import DeviceThread
from engines.fake_device import FACTS, FakeDevice, FakeToolkit, Faults
from engines.load import BUNDLED_MODELS, find_manifests, load_engine
from engines.manifest import graph_path, read_manifest
from engines.onnxruntime_engine import OnnxRuntimeEngine
from engines.plans import PlanStore
from engines.tensorrt_engine import DeviceState, TensorRtEngine
from engines.verify import contract_faults, sample_inputs
from tests.tiny import GRAPH, tiny_manifest, write_tiny

BUNDLED = find_manifests(BUNDLED_MODELS)
CLOSE = 1e-5  # kernels that see another batch size round differently


def tiny_engine(folder: Path, faults: Faults | None = None, most: int = 8, **how: object) -> TensorRtEngine:
    toolkit = FakeToolkit(faults=faults or Faults())
    plan = toolkit.build(GRAPH, Profile(2, most), False, None, lambda line: None)
    spec = tiny_manifest(folder).spec()
    return TensorRtEngine(toolkit.open(), plan, spec, "fake", **how)  # type: ignore[arg-type]


def device_of(engine: TensorRtEngine) -> FakeDevice:
    assert isinstance(engine._device, FakeDevice)
    return engine._device


def reference(folder: Path) -> OnnxRuntimeEngine:
    manifest_path = write_tiny(folder)
    return OnnxRuntimeEngine(manifest_path.with_suffix(".onnx"), read_manifest(manifest_path).spec(), 1)


# The contract


@pytest.mark.parametrize("mirrored", [True, False])
@pytest.mark.parametrize("manifest_path", BUNDLED, ids=[path.stem for path in BUNDLED])
def test_every_graph_of_every_bundled_model_keeps_the_contract_on_a_device(
    tmp_path: Path, manifest_path: Path, mirrored: bool
) -> None:
    manifest, toolkit = read_manifest(manifest_path), FakeToolkit()
    for part in manifest.parts():
        fp32 = part.__class__(part.graph, part.spec, part.precision.model_copy(update={"compute": "fp32"}))
        graph = graph_path(manifest_path, manifest, part.graph)
        plan = build_plan(graph, fp32, toolkit, PlanStore(tmp_path), Profile(2, 4))
        engine = TensorRtEngine(toolkit.open(), plan, part.spec, "fake", mirrored)
        assert contract_faults(engine, CLOSE) == []
        engine.close()
        assert (device_of(engine).allocated_bytes, device_of(engine).closed) == (0, True)


@pytest.mark.parametrize("capture_refused", [False, True])
def test_it_keeps_the_contract_with_recorded_graphs_and_call_by_call(tmp_path: Path, capture_refused: bool) -> None:
    engine = tiny_engine(tmp_path, Faults(capture_refused=capture_refused))
    assert contract_faults(engine, CLOSE) == []
    assert engine.captured is not capture_refused


def test_it_says_what_onnx_runtime_says_and_its_states_go_over_as_they_are(tmp_path: Path) -> None:
    ours, theirs = tiny_engine(tmp_path), reference(tmp_path)
    state = ours.initial_state()
    for seed in range(5):
        state = ours.step([state], sample_inputs(ours, 1, seed)).states[0]
    assert isinstance(state, DeviceState) and isinstance(state, HostState)
    inputs = sample_inputs(ours, 1, 9)
    here, there = ours.step([state], inputs), theirs.step([state], inputs)  # the very state, not saved and restored
    np.testing.assert_allclose(here.outputs["y_blastocyst"], there.outputs["y_blastocyst"], atol=CLOSE)
    assert theirs.save(state) == ours.save(state)
    back = ours.step([there.states[0]], inputs)
    assert not back.failed


# Pieces


@pytest.mark.parametrize(
    ("rows", "pieces"), [(1, [1]), (3, [4]), (5, [8]), (8, [8]), (9, [8, 1]), (21, [8, 8, 8]), (0, [])]
)
def test_a_batch_is_cut_into_fixed_sizes_and_the_last_piece_is_filled_up(
    tmp_path: Path, rows: int, pieces: list[int]
) -> None:
    engine = tiny_engine(tmp_path)
    step = engine.step([engine.initial_state()] * rows, sample_inputs(engine, rows, 0))
    assert (device_of(engine).runs, len(step.states), step.outputs["y_blastocyst"].shape) == (pieces, rows, (rows, 1))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=9, unique=True), min_size=1, max_size=8))
def test_embryos_in_any_batches_are_told_what_each_alone_is_told(
    tmp_path_factory: pytest.TempPathFactory, turns: list[list[int]]
) -> None:
    """Ten embryos, batches of any of them in any order, an arena too small for all: each goes its own way."""
    folder = tmp_path_factory.mktemp("tiny")
    engine, alone = tiny_engine(folder, most=2, arena_bytes=0, mirrored=False), reference(folder)
    ours: dict[int, State] = {}
    theirs: dict[int, State] = {}
    for turn, embryos in enumerate(turns):
        inputs = sample_inputs(engine, len(embryos), turn)
        states = [ours.get(one) or engine.initial_state() for one in embryos]
        expected = alone.step([theirs.get(one) or alone.initial_state() for one in embryos], inputs)
        step = engine.step(states, inputs)
        np.testing.assert_allclose(step.outputs["y_blastocyst"], expected.outputs["y_blastocyst"], atol=CLOSE)
        ours |= dict(zip(embryos, step.states, strict=True))
        theirs |= dict(zip(embryos, expected.states, strict=True))
    for one, state in ours.items():
        np.testing.assert_allclose(state.row, theirs[one].row, atol=CLOSE)  # type: ignore[attr-defined]


# Transactions


def test_a_run_that_fails_leaves_every_state_and_every_slot_as_it_was(tmp_path: Path) -> None:
    faults = Faults()
    engine = tiny_engine(tmp_path, faults)
    states = engine.step([engine.initial_state()] * 3, sample_inputs(engine, 3, 0)).states
    saved, free = [engine.save(state) for state in states], engine.free_rows
    faults.run = "an illegal address"
    with pytest.raises(DeviceError, match="illegal address"):
        engine.step(states, sample_inputs(engine, 3, 1))
    faults.run = ""
    assert [engine.save(state) for state in states] == saved
    assert engine.free_rows == free
    engine.step(states, sample_inputs(engine, 3, 1))


def test_a_row_without_a_number_keeps_its_state_and_gives_its_slot_back(tmp_path: Path) -> None:
    engine = tiny_engine(tmp_path, faults := Faults())
    states = engine.step([engine.initial_state()] * 3, sample_inputs(engine, 3, 0)).states
    free, faults.not_finite_rows = engine.free_rows, (1,)
    step = engine.step(states, sample_inputs(engine, 3, 1))
    assert (step.failed, step.states[1] is states[1], engine.free_rows) == ((1,), True, free - 2)
    assert np.isnan(step.outputs["y_blastocyst"][1]).all() and np.isfinite(step.outputs["y_blastocyst"][[0, 2]]).all()


def test_a_slot_is_free_again_when_nobody_holds_its_state(tmp_path: Path) -> None:
    engine = tiny_engine(tmp_path)
    free = engine.free_rows
    state = engine.step([engine.initial_state()], sample_inputs(engine, 1, 0)).states[0]
    used = free - engine.free_rows
    for seed in range(50):
        state = engine.step([state], sample_inputs(engine, 1, seed)).states[0]
    assert free - engine.free_rows == used
    del state
    gc.collect()
    assert engine.free_rows == free - 1  # the start is held by the engine itself


def test_a_mirrored_state_outlives_the_device(tmp_path: Path) -> None:
    engine = tiny_engine(tmp_path, faults := Faults())
    state = engine.step([engine.initial_state()], sample_inputs(engine, 1, 0)).states[0]
    saved, faults.lost = engine.save(state), True
    assert engine.save(state) == saved
    assert not reference(tmp_path).step([state], sample_inputs(engine, 1, 1)).failed


def test_a_state_that_is_only_on_a_lost_device_is_an_error_and_never_zeros(tmp_path: Path) -> None:
    engine = tiny_engine(tmp_path, faults := Faults(), mirrored=False)
    state = engine.step([engine.initial_state()], sample_inputs(engine, 1, 0)).states[0]
    faults.lost = True
    with pytest.raises(DeviceError, match="the device is lost"):
        engine.save(state)


def test_a_state_of_a_runtime_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    engine = tiny_engine(tmp_path)
    with pytest.raises(EngineError, match="save and restore it first"):
        engine.step([State(engine.spec.state_id)], sample_inputs(engine, 1, 0))


# The arena


def test_the_arena_takes_half_where_there_is_no_room_for_all_and_fails_where_there_is_too_little() -> None:
    def arena(rows: int) -> Arena:
        return Arena(FakeDevice(FACTS, Faults(allocations_bytes=10 * 16)), 4, rows, least=4)

    assert [arena(rows).rows for rows in (10, 16, 40)] == [10, 8, 10]
    with pytest.raises(DeviceError, match="out of memory"):
        Arena(FakeDevice(FACTS, Faults(allocations_bytes=3 * 16)), 4, 16, least=4)


def test_the_row_longest_not_asked_for_moves_to_host_memory_and_comes_back() -> None:
    device = FakeDevice(FACTS, Faults())
    arena, batch, staging = Arena(device, 4, 3, 1), device.allocate(16), np.zeros(4, np.float32)
    rows = []
    for number in range(5):
        device.upload(batch, 0, np.full(4, number, np.float32))
        rows.append(arena.scatter(batch, 0))
        arena.gather(rows[0], batch, 0, staging)  # asked for all the time: it stays
    assert [row.at is None for row in rows] == [False, True, True, False, False] and rows[0].at == 0, "it never moved"
    assert [float(arena.fetch(row)[0]) for row in rows] == [0, 1, 2, 3, 4]
    arena.gather(rows[1], batch, 0, staging)
    assert rows[1].at is not None


def test_a_row_that_is_nowhere_is_an_error() -> None:
    with pytest.raises(DeviceError, match="neither on the device nor in host memory"):
        Arena(FakeDevice(FACTS, Faults()), 4, 3, 1).fetch(Row(None, None))


# Plans that do not fit


@pytest.mark.parametrize("change", ["inputs", "outputs", "state"])
def test_a_plan_whose_tensors_are_not_the_manifests_is_refused(tmp_path: Path, change: str) -> None:
    toolkit = FakeToolkit()
    spec = tiny_manifest(tmp_path).spec()
    other = TensorSpec("state", (21,)) if change == "state" else (TensorSpec("other", (2,)),)
    fields = {**spec.__dict__, change: other}
    plan = toolkit.build(GRAPH, Profile(2, 8), False, None, lambda line: None)
    with pytest.raises(PlanError, match=r"tiny: the plan has .* its manifest says"):
        TensorRtEngine(toolkit.open(), plan, EngineSpec(**fields), "fake")


def test_a_model_without_memory_takes_no_room_for_it(tmp_path: Path) -> None:
    path = next(path for path in BUNDLED if read_manifest(path).encoder is not None)
    loaded = load_engine(path, "cpu", 1)
    manifest, toolkit = loaded.manifest, FakeToolkit()
    part = manifest.parts()[0]
    plan = toolkit.build(
        graph_path(path, manifest, part.graph).read_bytes(), Profile(1, 2), False, None, lambda line: None
    )
    engine = TensorRtEngine(toolkit.open(), plan, part.spec, "fake")
    assert loaded.encoder is not None
    inputs = sample_inputs(engine, 3, 0)
    step = engine.step([engine.initial_state()] * 3, inputs)
    wanted = loaded.encoder.step([loaded.encoder.initial_state()] * 3, inputs)
    np.testing.assert_allclose(step.outputs["y_feature"], wanted.outputs["y_feature"], atol=1e-4)
    assert engine.save(step.states[0]) == loaded.encoder.save(wanted.states[0])


# The thread


def test_a_call_that_hangs_is_given_up_and_none_is_tried_after_it() -> None:
    thread, never = DeviceThread("gpu"), threading.Event()
    with pytest.raises(DeviceError, match=r"no answer within 0\.01 s"):
        thread.call(never.wait, 0.01)
    with pytest.raises(DeviceError, match="hangs since an earlier call"):
        thread.call(lambda: 1, 10)
    never.set()


def test_whatever_a_call_raises_is_a_device_error_and_an_engine_error_stays_one() -> None:
    thread = DeviceThread("gpu")

    def failing(fault: Exception) -> None:
        raise fault

    with pytest.raises(DeviceError, match="ZeroDivisionError"):
        thread.call(lambda: 1 / 0, 10)
    with pytest.raises(DeviceError, match="TimeoutError"):
        thread.call(lambda: failing(TimeoutError("of its own")), 10)
    with pytest.raises(PlanError, match="torn"):
        thread.call(lambda: failing(PlanError("torn")), 10)
    assert thread.call(threading.current_thread, 10).name == "gpu"
