"""The one contract, run over every engine and every bundled model; and the proof that the contract test can fail."""

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from engines.contract import (
    Array,
    Arrays,
    Engine,
    EngineError,
    EngineSpec,
    HostState,
    State,
    StateMismatchError,
    Step,
    TensorSpec,
)
from engines.device_memory import Profile
from engines.fake_device import FakeToolkit
from engines.load import BUNDLED_MODELS, find_manifest, find_manifests, load_engine
from engines.manifest import graph_path, read_manifest
from engines.packing import pack, unpack
from engines.scripted_engine import ScriptedEngine, scripted_spec
from engines.tensorrt_engine import TensorRtEngine
from engines.verify import contract_faults, sample_inputs

BUNDLED = find_manifests(BUNDLED_MODELS)
bundled_models = pytest.mark.parametrize("manifest_path", BUNDLED, ids=[path.stem for path in BUNDLED])


def onnx_engine(threads: int = 1) -> Engine:
    return load_engine(BUNDLED[0], "cpu", threads).engine


def gpu_engine() -> Engine:
    """The GPU's engine on a device that keeps its arrays in host memory."""
    toolkit = FakeToolkit()
    plan = toolkit.build(BUNDLED[0].with_suffix(".onnx").read_bytes(), Profile(1, 2), False, None, lambda line: None)
    return TensorRtEngine(toolkit.open(), plan, read_manifest(BUNDLED[0]).spec(), "fake")


every_host_engine = pytest.mark.parametrize("make", [ScriptedEngine, onnx_engine])
every_engine = pytest.mark.parametrize("make", [ScriptedEngine, onnx_engine, gpu_engine])


# The contract holds


def test_the_package_carries_a_model():
    assert BUNDLED


def test_the_scripted_engine_keeps_the_contract():
    assert contract_faults(ScriptedEngine()) == []


@bundled_models
def test_every_bundled_model_keeps_the_contract_on_onnx_runtime(manifest_path: Path):
    loaded = load_engine(manifest_path, "cpu")
    try:
        assert contract_faults(loaded.engine) == []
        assert loaded.engine.runtime == f"onnxruntime {onnxruntime.__version__} cpu"
    finally:
        loaded.engine.close()


def test_a_model_without_memory_keeps_the_contract():
    assert contract_faults(WithoutMemory()) == []


class WithoutMemory(ScriptedEngine):
    """A model that judges each frame alone: its state holds nothing."""

    def __init__(self) -> None:
        spec = scripted_spec()
        super().__init__(
            EngineSpec(spec.name, spec.task, spec.state_id, spec.inputs, spec.outputs, TensorSpec("state", (0,)))
        )

    def run_row(self, state: Array, inputs: dict[str, Array]) -> tuple[Array, dict[str, Array]]:
        return np.zeros(0, np.float32), {"y_blastocyst": np.array([inputs["x"].mean()], np.float32)}


# The contract test can fail: one broken engine for each thing it says


class OtherwiseEachTime(ScriptedEngine):
    def run_row(self, state, inputs):
        after, outputs = super().run_row(state, inputs)
        return after, {name: output + np.float32(self.calls) for name, output in outputs.items()}


class Forgetful(ScriptedEngine):
    def run_row(self, state, inputs):
        return super().run_row(np.zeros_like(state), inputs)


class NeverFinite(ScriptedEngine):
    def run_row(self, state, inputs):
        after, outputs = super().run_row(state, inputs)
        return after, {name: output * np.float32("nan") for name, output in outputs.items()}


def written_over(state: State) -> None:
    assert isinstance(state, HostState)
    state.row.setflags(write=True)
    state.row[:] += 1
    state.row.setflags(write=False)


class StepWritesOverItsState(ScriptedEngine):
    def step(self, states: Sequence[State], inputs: Arrays) -> Step:
        step = super().step(states, inputs)
        for state in states:
            written_over(state)
        return step


class PeekTakes(ScriptedEngine):
    def peek(self, states: Sequence[State], inputs: Arrays) -> Step:
        step = super().peek(states, inputs)
        for state in states:
            written_over(state)
        return step


class PeekGivesTheNextState(ScriptedEngine):
    def peek(self, states: Sequence[State], inputs: Arrays) -> Step:
        return self.step(states, inputs)


class PeekSaysSomethingElse(ScriptedEngine):
    def peek(self, states: Sequence[State], inputs: Arrays) -> Step:
        step = super().peek(states, inputs)
        return Step(step.states, {name: output + 1 for name, output in step.outputs.items()}, step.failed)


class SaveLosesBits(ScriptedEngine):
    def save(self, state: State) -> bytes:
        assert isinstance(state, HostState)
        return super().save(HostState(state.state_id, state.row.astype(np.float16).astype(np.float32)))


class SaveCounts(ScriptedEngine):
    """Saves the same state as other bytes each time, as one does that writes a date into a header."""

    saves = 0

    def save(self, state: State) -> bytes:
        header, arrays = unpack(super().save(state))
        self.saves += 1
        return pack(header | {"saves": self.saves}, arrays)


class RestoresAnything(ScriptedEngine):
    def restore(self, blob: bytes) -> State:
        try:
            return super().restore(blob)
        except EngineError:
            return self.initial_state()


class RestoresOthersMemories(ScriptedEngine):
    def restore(self, blob: bytes) -> State:
        header, arrays = unpack(blob)
        return super().restore(pack(header | {"state_id": self.spec.state_id}, arrays))


class RowsShareTheirMean(ScriptedEngine):
    def step(self, states: Sequence[State], inputs: Arrays) -> Step:
        shared = {name: array - array.mean() for name, array in inputs.items()}
        return super().step(states, shared)


class RowsSwapTheirStates(ScriptedEngine):
    def step(self, states: Sequence[State], inputs: Arrays) -> Step:
        step = super().step(states, inputs)
        return Step(step.states[::-1], step.outputs, step.failed)


class NanSpreads(ScriptedEngine):
    """The rows of a batch share a number, and only the row that was NaN owns up."""

    def step(self, states: Sequence[State], inputs: Arrays) -> Step:
        step = super().step(states, inputs)
        spoilt = bool(step.failed)
        return Step(step.states, {n: o * np.nan if spoilt else o for n, o in step.outputs.items()}, step.failed)


class NanIsNotNamed(ScriptedEngine):
    def step(self, states: Sequence[State], inputs: Arrays) -> Step:
        step = super().step(states, inputs)
        return Step(step.states, step.outputs, ())


class NanIsKept(ScriptedEngine):
    """Names the failed row, but gives it a state that is not the one that came in."""

    def step(self, states: Sequence[State], inputs: Arrays) -> Step:
        step = super().step(states, inputs)
        poisoned = HostState(self.spec.state_id, np.full(self.spec.state.shape, np.nan, np.float32))
        after = [poisoned if i in step.failed else state for i, state in enumerate(step.states)]
        return Step(tuple(after), step.outputs, step.failed)


class NanIsAnswered(ScriptedEngine):
    """Names the failed row, but gives a number for it."""

    def step(self, states: Sequence[State], inputs: Arrays) -> Step:
        step = super().step(states, inputs)
        return Step(step.states, {name: np.nan_to_num(o) for name, o in step.outputs.items()}, step.failed)


class TakesAnything(ScriptedEngine):
    """Makes what it is given fit: fills in, cuts off, converts, and calls every state its own."""

    def step(self, states: Sequence[State], inputs: Arrays) -> Step:
        spec = self.spec.inputs[0]
        offered = np.asarray(np.real(inputs.get(spec.name, 0.0)), np.float32)
        fitting = {spec.name: np.resize(offered, (len(states), *spec.shape))}
        rows = [state.row for state in states if isinstance(state, HostState)]
        return super().step([HostState(self.spec.state_id, row) for row in rows], fitting)


class ChangesThenRefuses(ScriptedEngine):
    def step(self, states: Sequence[State], inputs: Arrays) -> Step:
        try:
            return super().step(states, inputs)
        except EngineError:
            for state in states:
                written_over(state)
            raise


class RefusesWithoutAName(ScriptedEngine):
    """Refuses another model's state, but not by the name a caller can tell it by."""

    def step(self, states: Sequence[State], inputs: Arrays) -> Step:
        try:
            return super().step(states, inputs)
        except StateMismatchError as fault:
            raise EngineError(str(fault)) from fault


@pytest.mark.parametrize(
    ("broken", "named"),
    [
        (OtherwiseEachTime, "the same frames gave other outputs the second time"),
        (NeverFinite, "the same frames gave other outputs the second time"),
        (StepWritesOverItsState, "a state that was stepped cannot be stepped again"),
        (Forgetful, "the outputs do not depend on the state at all"),
        (SaveLosesBits, "a saved and restored state goes on differently"),
        (SaveCounts, "saving a restored state gives other bytes"),
        (RowsShareTheirMean, "row 0 of a batch of 3 differs from the same row alone"),
        (RowsSwapTheirStates, "row 2 of a batch of 3 goes on differently from the same row alone"),
        (NanSpreads, "a NaN in one row reached another"),
        (NanIsNotNamed, "the row that was NaN is not named as failed"),
        (NanIsKept, "the row that was NaN did not keep the state it came with"),
        (NanIsAnswered, "the row that was NaN was given a number"),
        (PeekTakes, "a peek changed the state"),
        (PeekGivesTheNextState, "a peek gave another state back"),
        (PeekSaysSomethingElse, "a peek and a step of the same frame disagree"),
        (TakesAnything, "a wrong shape was not refused"),
        (TakesAnything, "a wrong number of rows was not refused"),
        (TakesAnything, "a wrong dtype was not refused"),
        (TakesAnything, "a missing input was not refused"),
        (TakesAnything, "an input too many was not refused"),
        (TakesAnything, "another model's state was not refused"),
        (RefusesWithoutAName, "another model's state was not refused"),
        (RestoresAnything, "torn bytes were restored as a state"),
        (RestoresAnything, "foreign bytes were restored as a state"),
        (RestoresOthersMemories, "another model's bytes were restored as a state"),
        (ChangesThenRefuses, "a refused step changed the state"),
    ],
)
def test_the_contract_test_names_what_a_broken_engine_breaks(broken: Callable[[], Engine], named: str):
    assert any(fault.startswith(named) for fault in contract_faults(broken()))


def test_a_difference_within_the_tolerance_is_no_fault():
    class Trembles(ScriptedEngine):
        def run_row(self, state, inputs):
            after, outputs = super().run_row(state, inputs)
            return after, {name: output + np.float32(1e-6 * (self.calls % 2)) for name, output in outputs.items()}

    assert contract_faults(Trembles(), tolerance=1e-4) == []
    assert contract_faults(Trembles(), tolerance=0.0) != []


# A failing call


@every_host_engine
@pytest.mark.parametrize("call", ["step", "peek"])
def test_a_call_that_fails_leaves_every_state_as_it_was(make: Callable[[], Engine], call: str, monkeypatch: Any):
    engine, untroubled = make(), make()
    inputs = sample_inputs(engine, 2, 3)
    first = engine.step([engine.initial_state()] * 2, inputs).states
    before = [engine.save(state) for state in first]
    run_row, rows = engine.run_row, []

    def fails_on_the_second_row(state: Array, row: dict[str, Array]) -> tuple[Array, dict[str, Array]]:
        rows.append(row)
        if len(rows) == 2:
            raise EngineError("the device is gone")
        return run_row(state, row)

    with monkeypatch.context() as patch:
        patch.setattr(engine, "run_row", fails_on_the_second_row)
        with pytest.raises(EngineError, match="the device is gone"):
            getattr(engine, call)(first, inputs)
    assert [engine.save(state) for state in first] == before
    again = engine.step(first, inputs)
    undisturbed = untroubled.step(untroubled.step([untroubled.initial_state()] * 2, inputs).states, inputs)
    for name, output in again.outputs.items():
        assert np.array_equal(output, undisturbed.outputs[name])


def test_a_row_whose_next_state_is_not_finite_has_failed_though_its_answer_was():
    class Overflows(ScriptedEngine):
        def run_row(self, state, inputs):
            after, outputs = super().run_row(state, inputs)
            return after * np.float32("inf"), outputs

    engine = Overflows()
    start = engine.initial_state()
    step = engine.step([start], sample_inputs(engine, 1, 0))
    assert step.failed == (0,)
    assert step.states == (start,)
    assert np.isnan(step.outputs["y_blastocyst"]).all()


def test_the_scripted_engine_fails_at_the_call_it_was_told_to():
    engine = ScriptedEngine(faults={1: "out of memory"})
    state, inputs = engine.initial_state(), sample_inputs(engine, 1, 0)
    engine.step([state], inputs)
    with pytest.raises(EngineError, match="scripted: out of memory"):
        engine.step([state], inputs)
    engine.step([state], inputs)


def test_what_onnx_runtime_throws_becomes_an_engine_error_that_names_the_model(monkeypatch: Any):
    engine = onnx_engine()

    class Gone:
        def run(self, *_: object) -> None:
            raise RuntimeError("bad allocation")

    monkeypatch.setattr(engine, "_session", Gone())
    with pytest.raises(EngineError, match=f"{BUNDLED[0].stem}: ONNX Runtime failed: bad allocation"):
        engine.step([engine.initial_state()], sample_inputs(engine, 1, 0))


@every_engine
def test_a_state_cannot_be_written_to_from_outside(make: Callable[[], Engine]):
    engine = make()
    state = engine.step([engine.initial_state()], sample_inputs(engine, 1, 0)).states[0]
    assert isinstance(state, HostState)
    with pytest.raises(ValueError, match="read-only"):
        state.row[0] = 1


def test_a_state_of_another_runtime_must_be_saved_and_restored_first():
    class OnDevice(State):
        pass

    engine = ScriptedEngine()
    with pytest.raises(StateMismatchError, match=r"OnDevice.*save and restore"):
        engine.step([OnDevice(engine.spec.state_id)], sample_inputs(engine, 1, 0))


def test_a_state_goes_over_from_one_engine_of_a_model_to_another():
    ours, theirs = onnx_engine(), onnx_engine()
    inputs = sample_inputs(ours, 1, 0)
    state = ours.step([ours.initial_state()], inputs).states[0]
    moved = theirs.restore(ours.save(state))
    assert theirs.save(moved) == ours.save(state)
    assert theirs.step([moved], inputs).outputs.keys() == {tensor.name for tensor in theirs.spec.outputs}


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(np.zeros(3, np.float32), id="another length"),
        pytest.param(np.zeros(2, np.float64), id="another precision"),
        pytest.param(np.array([0, np.nan], np.float32), id="not finite"),
    ],
)
def test_a_saved_state_that_is_not_the_models_is_refused(row: np.ndarray):
    engine = ScriptedEngine()
    with pytest.raises(EngineError, match="scripted: the saved state"):
        engine.restore(pack({"state_id": engine.spec.state_id}, {"state": row}))


def test_saving_another_models_state_is_refused_by_name():
    other = ScriptedEngine(scripted_spec(name="other")).initial_state()
    with pytest.raises(StateMismatchError, match=b"other".hex()):
        ScriptedEngine().save(other)


# Manifests


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The manifest of a copy of a bundled model, to be spoilt."""
    for suffix in (".json", ".onnx"):
        shutil.copy(BUNDLED[0].with_suffix(suffix), tmp_path / f"copy{suffix}")
    path = tmp_path / "copy.json"
    rewrite(path, lambda said: (said.update(name="copy"), said["graph"].update(file="copy.onnx")))
    return path


def rewrite(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    said = json.loads(path.read_text())
    change(said)
    path.write_text(json.dumps(said))


def test_a_copied_model_loads(model: Path):
    assert load_engine(model, "cpu").manifest.graph.file == "copy.onnx"


@pytest.mark.parametrize(
    ("change", "key"),
    [
        pytest.param(lambda said: said.update(colour="blue"), "colour", id="unknown key"),
        pytest.param(lambda said: said["preprocess"].update(gamma=2), "preprocess.gamma", id="unknown key inside"),
        pytest.param(lambda said: said.pop("state_id"), "state_id", id="missing key"),
        pytest.param(lambda said: said["graph"].pop("sha256"), "graph.sha256", id="missing key inside"),
        pytest.param(lambda said: said.update(schema="pellucid.manifest/9"), "schema", id="another schema"),
        pytest.param(lambda said: said.update(state_id="abc"), "state_id", id="no digest"),
        pytest.param(lambda said: said["preprocess"].update(std=0), "preprocess.std", id="no spread"),
        pytest.param(lambda said: said["preprocess"]["planes_um"].reverse(), "preprocess", id="planes descend"),
        pytest.param(lambda said: said["segments"].update(segment_h=-6), "segments.segment_h", id="negative hours"),
    ],
)
def test_a_manifest_that_is_wrong_is_refused_by_file_and_key(model: Path, change: Callable[..., object], key: str):
    rewrite(model, change)
    with pytest.raises(EngineError) as refusal:
        load_engine(model, "cpu")
    assert f"manifest {model}: {key}: " in str(refusal.value)


def test_a_manifest_that_is_no_json_is_refused_by_file(model: Path):
    model.write_text("{")
    with pytest.raises(EngineError, match=f"manifest {model}: the file: "):
        read_manifest(model)


def test_a_manifest_that_is_not_there_is_refused_by_file(tmp_path: Path):
    with pytest.raises(EngineError, match=f"manifest {tmp_path / 'none.json'}: No such file"):
        read_manifest(tmp_path / "none.json")


def test_a_picture_size_that_is_not_the_inputs_is_refused_before_the_first_frame(model: Path):
    rewrite(model, lambda said: said["preprocess"].update(height_px=96, width_px=96))
    with pytest.raises(EngineError, match=f"manifest {model}: .*preprocess makes .*96"):
        read_manifest(model)


def test_a_graph_that_is_not_the_one_described_is_refused_by_its_file(model: Path):
    with model.with_suffix(".onnx").open("ab") as graph:
        graph.write(b"\0")
    with pytest.raises(EngineError, match=r"copy\.onnx is not the file its manifest describes .*restore it or export"):
        load_engine(model, "cpu")


def test_a_graph_that_is_not_there_is_refused_by_its_file(model: Path):
    model.with_suffix(".onnx").unlink()
    with pytest.raises(EngineError, match=r"graph .*copy\.onnx: No such file"):
        graph_path(model, read_manifest(model))


def test_a_graph_onnx_runtime_cannot_read_is_refused_by_its_file(model: Path):
    model.with_suffix(".onnx").write_bytes(b"not a graph")
    digest = hashlib.sha256(b"not a graph").hexdigest()
    rewrite(model, lambda said: said["graph"].update(sha256=digest))
    with pytest.raises(EngineError, match=r"ONNX Runtime cannot load .*copy\.onnx"):
        load_engine(model, "cpu")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param(
            lambda said: said["inputs"].append({"name": "hours", "shape": [1]}), "the graph takes", id="input"
        ),
        pytest.param(lambda said: said["state"].update(shape=[3]), "the graph takes", id="state"),
        pytest.param(lambda said: said["outputs"][0].update(name="y_other"), "the graph gives", id="output"),
    ],
)
def test_a_manifest_whose_tensors_are_not_the_graphs_is_refused(model: Path, change: Callable[..., object], said: str):
    rewrite(model, change)
    with pytest.raises(EngineError, match=f"{said} .*its manifest says"):
        load_engine(model, "cpu")


# Finding and loading


def test_a_model_that_is_not_there_is_told_with_those_that_are(tmp_path: Path):
    for name in ("beta", "alpha"):
        (tmp_path / f"{name}.json").write_text("{}")
    assert find_manifest("beta", tmp_path) == tmp_path / "beta.json"
    with pytest.raises(EngineError, match=rf"no model 'gamma' in {tmp_path}; there are: alpha, beta"):
        find_manifest("gamma", tmp_path)


def test_a_folder_without_a_model_is_told_as_such(tmp_path: Path):
    with pytest.raises(EngineError, match="no model in"):
        find_manifest("gamma", tmp_path, tmp_path / "not there")


def test_two_models_of_one_name_are_refused(tmp_path: Path):
    for folder in ("ours", "theirs"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "alpha.json").write_text("{}")
    with pytest.raises(EngineError, match=r"two models are named 'alpha': .*ours.* and .*theirs"):
        find_manifests(tmp_path / "ours", tmp_path / "theirs")


def test_auto_says_why_the_cpu_serves():
    assert load_engine(BUNDLED[0]).note
    assert load_engine(BUNDLED[0], "cpu").note == "asked for"


@pytest.mark.parametrize("threads", [0, 1, 2])
def test_onnx_runtime_gets_its_threads_and_never_spins(monkeypatch: Any, threads: int):
    given: list[onnxruntime.SessionOptions] = []
    real = onnxruntime.InferenceSession

    def recorded(graph: str, options: onnxruntime.SessionOptions, **more: Any) -> Any:
        given.append(options)
        return real(graph, options, **more)

    monkeypatch.setattr(onnxruntime, "InferenceSession", recorded)
    onnx_engine(threads)
    (options,) = given
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (threads, 1)
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


RUNTIMES = {"torch", "tensorrt", "pycuda", "openvino", "onnxruntime"}
IMPORTS = "import sys, {modules}; print(' '.join({runtimes} & set(sys.modules)))"


@pytest.mark.parametrize(
    ("modules", "allowed"),
    [
        ("engines.load, engines.verify, engines.bench, engines.segments, engines.scripted_engine", set()),
        ("engines.onnxruntime_engine", {"onnxruntime"}),
        ("monitor.cli, monitor.node, monitor.pipeline", set()),
    ],
)
def test_importing_us_imports_no_runtime_that_was_not_asked_for(modules: str, allowed: set[str]):
    program = IMPORTS.format(modules=modules, runtimes=RUNTIMES - allowed)
    told = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=Path(__file__).parent.parent
    )
    assert told.stdout.split() == []


def test_a_manifest_whose_name_is_not_its_files_is_refused(model: Path) -> None:
    rewrite(model, lambda said: said.update(name="other"))
    with pytest.raises(EngineError, match=r"the file must be other\.json"):
        read_manifest(model)
