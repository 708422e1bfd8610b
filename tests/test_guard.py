"""The engine guard: when a plan may serve, when the CPU takes over, and that no embryo loses its memory by it."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engines.build import build_plan
from engines.contract import Engine, EngineError, EngineSpec, State, TensorSpec
from engines.device_memory import Device, DeviceError, GpuFacts, Lacking, PlanError, Profile
from engines.fake_device import FACTS, FakeDevice, FakeToolkit, Faults
from engines.golden import Apart, allowed, apart, batches_of, golden_inputs
from engines.guard import GuardedEngine, Limits
from engines.load import GpuUse, load_engine
from engines.manifest import Part, Precision, Tolerance, read_manifest
from engines.onnxruntime_engine import OnnxRuntimeEngine
from engines.plans import PlanStore, default_folder, key_of
from engines.verify import contract_faults, sample_inputs
from tests.tiny import GRAPH, write_tiny

SMALL = Profile(2, 4)


class Bench:
    """A guarded engine over a fake device, and what a test turns and reads. The first try of a plan is done at once,
    other work beside the work waits for `beside`."""

    def __init__(self, folder: Path, plan: bool = True, builds: bool = True, limits: Limits | None = None) -> None:
        self.manifest_path = write_tiny(folder)
        self.manifest = read_manifest(self.manifest_path)
        (self.part,) = self.manifest.parts()
        self.faults = Faults()
        self.toolkit = FakeToolkit(faults=self.faults)
        self.store = PlanStore(folder / "plans")
        self.waiting: list[Callable[[], None]] = []
        self.limits, self.builds = limits, builds
        if plan:
            self.build()
        self.engine = self.guard()

    def build(self) -> None:
        build_plan(self.manifest_path.with_suffix(".onnx"), self.part, self.toolkit, self.store, SMALL)

    def guard(self) -> GuardedEngine:
        begun: list[bool] = []

        def start(work: Callable[[], None]) -> None:
            if begun:
                self.waiting.append(work)
            else:
                begun.append(True)
                work()

        return GuardedEngine(
            self.reference(),
            self.part,
            self.manifest.tolerance,
            self.toolkit,
            self.store,
            self.build if self.builds else None,
            SMALL,
            self.limits,
            start,
        )

    def reference(self) -> OnnxRuntimeEngine:
        return OnnxRuntimeEngine(self.manifest_path.with_suffix(".onnx"), self.part.spec, 1)

    def beside(self) -> None:
        work, self.waiting = self.waiting, []
        for one in work:
            one()

    @property
    def plan_path(self) -> Path:
        return self.store.folder / f"{key_of(self.part, self.toolkit.facts, SMALL).stem}.plan"

    @property
    def on_gpu(self) -> bool:
        return self.engine.runtime.startswith("fake 1.0 fp32")


def frames(engine: Engine, state: State, count: int, seed: int = 0) -> tuple[State, list[float]]:
    said = []
    for frame in range(seed, seed + count):
        step = engine.step([state], sample_inputs(engine, 1, frame))
        state = step.states[0]
        said.append(float(step.outputs["y_blastocyst"][0, 0]))
    return state, said


def closed_soon(device: FakeDevice) -> bool:
    return device.ended.wait(10)


# What may serve


def test_a_plan_that_says_what_the_cpu_says_serves(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.engine.begin()
    assert (bench.on_gpu, bench.engine.fallback, bench.waiting, bench.toolkit.builds) == (True, None, [], 1)
    assert contract_faults(bench.engine, 1e-5) == []
    assert "fake accelerator" in bench.engine.runtime
    bench.engine.close()


def test_without_a_plan_the_cpu_serves_until_one_is_built_and_proven(tmp_path: Path) -> None:
    bench = Bench(tmp_path, plan=False)
    bench.engine.begin()
    assert not bench.on_gpu and "no plan for fake accelerator with fake 1.0 yet" in str(bench.engine.fallback)
    state, before = frames(bench.engine, bench.engine.initial_state(), 3)
    bench.beside()
    assert bench.on_gpu and bench.engine.fallback is None
    _, after = frames(bench.engine, state, 3, seed=3)
    _, wanted = frames(alone := bench.reference(), alone.initial_state(), 6)
    np.testing.assert_allclose(before + after, wanted, atol=1e-5)


def test_where_nothing_may_be_built_the_cpu_serves_on_and_the_disk_is_as_it_was(tmp_path: Path) -> None:
    bench = Bench(tmp_path, builds=False)
    wrong_result(bench)
    bench.engine.begin()
    assert not bench.waiting and bench.engine.fallback is not None and bench.plan_path.exists()
    ended_the_process(bench)
    bench.guard().begin()
    assert bench.plan_path.exists() and bench.store.ended_a_process(key_of(bench.part, FACTS, SMALL))


def wrong_result(bench: Bench) -> None:
    bench.faults.wrong_by = 1e-3


def does_not_load(bench: Bench) -> None:
    bench.faults.load = "serialised with another version"


def corrupt_plan(bench: Bench) -> None:
    bench.plan_path.write_bytes(bench.plan_path.read_bytes()[:-1])


def plan_gone(bench: Bench) -> None:
    bench.plan_path.unlink()


def device_fails(bench: Bench) -> None:
    bench.faults.run = "an illegal address"


def no_room(bench: Bench) -> None:
    bench.faults.allocations_bytes = 10


def says_no_number(bench: Bench) -> None:
    bench.faults.not_finite_rows = (1,)  # of a batch only


def ended_the_process(bench: Bench) -> None:
    bench.plan_path.with_suffix(".trying").touch()


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (wrong_result, "its outputs lie 0.001 from the reference's, allowed are 0.0001"),
        (says_no_number, "its outputs lie inf from the reference's"),
        (does_not_load, "serialised with another version"),
        (corrupt_plan, "is damaged"),
        (plan_gone, "No such file"),
        (device_fails, "an illegal address"),
        (no_room, "out of memory"),
        (ended_the_process, "the last try of its plan ended the process"),
    ],
)
def test_a_plan_that_is_not_fit_never_serves_is_told_and_built_again_once(
    tmp_path: Path, spoil: Callable[[Bench], None], reason: str
) -> None:
    bench = Bench(tmp_path)
    spoil(bench)
    bench.engine.begin()
    assert not bench.on_gpu and reason in str(bench.engine.fallback)
    assert all(closed_soon(device) for device in bench.toolkit.opened), "what was opened for it is closed"
    _, said = frames(bench.engine, bench.engine.initial_state(), 3)
    assert said == frames(alone := bench.reference(), alone.initial_state(), 3)[1]
    assert len(bench.waiting) == 1
    bench.faults.__init__()  # type: ignore[misc]  # whatever it was is over
    bench.beside()
    assert (bench.on_gpu, bench.engine.fallback, bench.toolkit.builds) == (True, None, 2)
    bench.faults.run = "again"
    frames(bench.engine, bench.engine.initial_state(), 1)
    assert not bench.on_gpu and not bench.waiting, "it is built again once, not for ever"


def test_a_plan_of_another_version_device_driver_precision_or_profile_is_no_plan(tmp_path: Path) -> None:
    part = Bench(tmp_path).part
    ours = key_of(part, FACTS, SMALL)
    halved = Part(part.graph, part.spec, Precision(compute="fp16"))
    for other in (
        key_of(part, replace(FACTS, runtime="fake 2.0"), SMALL),
        key_of(part, replace(FACTS, name="another"), SMALL),
        key_of(part, replace(FACTS, driver="1"), SMALL),
        key_of(part, replace(FACTS, capability="9.0"), SMALL),
        key_of(halved, FACTS, SMALL),
        key_of(part, FACTS, Profile(2, 8)),
        replace(ours, graph="0" * 64),
        replace(ours, recipe=99),
    ):
        assert other.stem != ours.stem


def test_after_an_update_of_the_runtime_the_old_plan_is_not_used_and_goes_when_the_new_one_is_there(
    tmp_path: Path,
) -> None:
    bench = Bench(tmp_path)
    old = bench.plan_path
    bench.toolkit.facts = GpuFacts(FACTS.name, FACTS.capability, FACTS.driver, "fake 2.0")
    bench.engine = bench.guard()
    bench.engine.begin()
    assert old.exists() and "no plan for fake accelerator with fake 2.0 yet" in str(bench.engine.fallback)
    bench.beside()
    assert bench.engine.runtime.startswith("fake 2.0") and not old.exists() and bench.plan_path.exists()


def test_a_build_that_fails_leaves_the_cpu_serving_and_says_why(tmp_path: Path) -> None:
    bench = Bench(tmp_path, plan=False)
    bench.engine.begin()
    bench.faults.build = "the flavour does not list compute capability 9.0"
    bench.beside()
    assert "could not be built: the flavour does not list" in str(bench.engine.fallback)
    assert frames(bench.engine, bench.engine.initial_state(), 1)


def test_the_plan_proves_itself_anew_after_each_restart(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.engine.begin()
    assert bench.on_gpu
    wrong_result(bench)  # the driver was updated in place, say
    bench.engine = bench.guard()
    bench.engine.begin()
    assert not bench.on_gpu


def test_every_batch_size_is_bound_before_the_first_frame(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.engine.begin()
    (device,) = bench.toolkit.opened
    bound = list(device.binds)
    assert bound == [1, 1, 2, 2, 4, 4]
    for rows in (1, 2, 3, 4):
        bench.engine.step([bench.engine.initial_state()] * rows, sample_inputs(bench.engine, rows, 0))
    assert device.binds == bound


def test_a_device_without_room_for_the_buffers_is_closed_again(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.faults.allocations_bytes = 1024 * 80 + 300  # the arena, and not much more
    bench.engine.begin()
    (device,) = bench.toolkit.opened
    assert "out of memory" in str(bench.engine.fallback) and closed_soon(device) and device.allocated_bytes == 0


def test_a_try_that_ended_well_leaves_no_mark(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.engine.begin()
    assert not bench.plan_path.with_suffix(".trying").exists()


@pytest.mark.parametrize(("end", "left"), [("", False), ("os._exit(0)", True)])
def test_a_process_that_ends_in_order_while_a_plan_is_tried_leaves_no_mark(
    tmp_path: Path, end: str, left: bool
) -> None:
    """The try goes on beside the work, so a service that is stopped may be in the midst of it."""
    bench = Bench(tmp_path)
    code = f"""
import os, pickle, sys, threading
from pathlib import Path
from engines.plans import PlanStore
key = pickle.loads(bytes.fromhex({pickle.dumps(key_of(bench.part, FACTS, SMALL)).hex()!r}))
marked = threading.Event()
def tries():
    with PlanStore(Path({str(bench.store.folder)!r})).trying(key):
        marked.set()
        threading.Event().wait()
threading.Thread(target=tries, daemon=True).start()
marked.wait()
{end}
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).resolve().parents[1], timeout=60)
    assert bench.plan_path.with_suffix(".trying").exists() is left


# In mid-run


def lost(bench: Bench) -> None:
    bench.faults.lost = True


def no_number(bench: Bench) -> None:
    bench.faults.not_finite_rows = (0,)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lost, "the device is lost"),
        (device_fails, "an illegal address"),
        (no_number, "it gave no number where the reference gives one"),
    ],
)
def test_a_fallback_in_mid_run_loses_no_frame_and_no_embryos_memory(
    tmp_path: Path, spoil: Callable[[Bench], None], reason: str
) -> None:
    bench = Bench(tmp_path)
    bench.engine.begin()
    engine, alone, embryos = bench.engine, bench.reference(), 5
    ours, theirs = [engine.initial_state()] * embryos, [alone.initial_state()] * embryos
    for frame in range(12):
        if frame == 6:
            assert bench.on_gpu
            spoil(bench)
        inputs = sample_inputs(engine, embryos, frame)
        step, wanted = engine.step(ours, inputs), alone.step(theirs, inputs)
        assert not step.failed
        np.testing.assert_allclose(step.outputs["y_blastocyst"], wanted.outputs["y_blastocyst"], atol=1e-5)
        ours, theirs = list(step.states), list(wanted.states)
        if frame == 6:
            assert not bench.on_gpu and reason in str(engine.fallback)
        if frame == 8:  # rebuilt beside the work; the memories go back to the device
            bench.faults.__init__()  # type: ignore[misc]
            bench.beside()
            assert bench.on_gpu and engine.fallback is None
    for our, their in zip(ours, theirs, strict=True):
        ((_, a), (_, b)) = ((blob, np.frombuffer(blob[-80:], np.float32)) for blob in map(engine.save, (our, their)))
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_a_hang_loses_no_frame_and_all_guards_of_the_device_fall_back_at_once_for_good(tmp_path: Path) -> None:
    bench = Bench(tmp_path, limits=Limits(60.0, 1.0))
    guards = [bench.engine, bench.guard(), bench.guard()]
    for guard in guards:
        guard.begin()
        assert guard.fallback is None
    bench.faults.hold = hold = threading.Event()
    inputs = sample_inputs(bench.engine, 1, 0)
    wanted = (alone := bench.reference()).step([alone.initial_state()], inputs).outputs["y_blastocyst"]
    waited = []
    for guard in guards:
        began = time.monotonic()
        np.testing.assert_allclose(guard.step([guard.initial_state()], inputs).outputs["y_blastocyst"], wanted)
        waited.append(time.monotonic() - began)
        assert "the device hangs" in str(guard.fallback) and guard.runtime.startswith("onnxruntime")
        assert all("no answer within 1 s" in str(one.fallback) for one in guards)
    assert waited[0] >= 1 > max(waited[1:]), "one waits for all"
    hold.set()
    bench.faults.hold = None
    assert not bench.waiting, "nothing is built for a device that hangs"
    (late := bench.guard()).begin()
    assert "the device hangs" in str(late.fallback) and len(bench.toolkit.opened) == 3


def test_a_plan_that_hangs_while_it_is_proven_is_not_tried_at_the_next_start(tmp_path: Path) -> None:
    bench = Bench(tmp_path, limits=Limits(60.0, 0.2))
    bench.faults.hold = hold = threading.Event()
    bench.engine.begin()
    hold.set()
    assert "the device hangs" in str(bench.engine.fallback) and not bench.plan_path.exists() and not bench.waiting


def test_the_cpu_serves_from_the_first_frame_while_a_plan_is_loaded_and_proven(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.faults.hold = hold = threading.Event()
    part, tolerance = bench.part, bench.manifest.tolerance
    engine = GuardedEngine(bench.reference(), part, tolerance, bench.toolkit, bench.store, None, SMALL)
    engine.begin()  # it would wait for ever
    assert frames(engine, engine.initial_state(), 2) and "not tried yet" in str(engine.fallback)
    hold.set()
    end_s = time.monotonic() + 30
    while engine.fallback is not None and time.monotonic() < end_s:
        threading.Event().wait(0.01)
    assert engine.fallback is None


def test_a_candidate_of_before_a_hang_does_not_serve_after_it(tmp_path: Path) -> None:
    bench = Bench(tmp_path, plan=False)
    bench.engine.begin()
    opened = bench.toolkit.open

    def hangs_meanwhile() -> Device:
        bench.toolkit.standing.hangs = "another engine had no answer"
        return opened()

    bench.toolkit.open = hangs_meanwhile  # type: ignore[method-assign]
    bench.beside()
    (device,) = bench.toolkit.opened
    assert not bench.on_gpu and "another engine" in str(bench.engine.fallback) and closed_soon(device)


def test_an_engine_that_was_closed_while_its_plan_was_built_holds_no_device(tmp_path: Path) -> None:
    bench = Bench(tmp_path, plan=False)
    bench.engine.begin()
    bench.engine.close()
    bench.beside()
    assert bench.toolkit.builds == 0 and not bench.toolkit.opened


def test_a_late_fault_of_what_served_before_does_not_end_what_serves_now(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.engine.begin()
    before = bench.engine._now.serving
    assert before is not None
    lost(bench)
    frames(bench.engine, bench.engine.initial_state(), 1)
    bench.faults.__init__()  # type: ignore[misc]
    bench.beside()
    assert bench.on_gpu
    bench.engine._fall_back(before, "a second thread heard of it late")
    assert bench.on_gpu and bench.engine.fallback is None and bench.plan_path.exists()


def test_plans_are_built_one_after_another(tmp_path: Path) -> None:
    bench = Bench(tmp_path, plan=False)
    at_once, most, build = 0, 0, bench.build

    def slow() -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        threading.Event().wait(0.05)
        build()
        at_once -= 1

    bench.build = slow  # type: ignore[method-assign]
    for guard in [bench.guard() for _ in range(3)]:
        guard.begin()
    threads = [threading.Thread(target=work) for work in bench.waiting]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert (bench.toolkit.builds, most) == (3, 1)


def test_a_plans_folder_that_refuses_does_not_end_the_daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(tmp_path)
    bench.engine.begin()

    def refused(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refused)
    lost(bench)
    assert frames(bench.engine, bench.engine.initial_state(), 1) and not bench.on_gpu
    monkeypatch.setattr(Path, "exists", refused)
    again = bench.guard()
    again.begin()
    assert "Permission denied" in str(again.fallback)


def test_a_peek_falls_back_too(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.engine.begin()
    lost(bench)
    state = bench.engine.initial_state()
    peeked = bench.engine.peek([state], sample_inputs(bench.engine, 1, 0))
    assert not peeked.failed and peeked.states == (state,) and not bench.on_gpu


def test_what_the_caller_does_wrong_is_no_fault_of_the_device(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.engine.begin()
    with pytest.raises(EngineError, match="inputs are"):
        bench.engine.step([bench.engine.initial_state()], {})
    spoilt = {"x": np.full((1, 2, 4, 4), np.nan, np.float32)}
    assert bench.engine.step([bench.engine.initial_state()], spoilt).failed == (0,)
    assert bench.on_gpu


def test_a_picture_that_is_no_number_is_no_fault_of_the_device_even_where_the_cpu_swallows_it(tmp_path: Path) -> None:
    class Swallows(OnnxRuntimeEngine):
        def run_row(self, state, inputs):  # type: ignore[no-untyped-def]
            return super().run_row(state, {name: np.nan_to_num(array) for name, array in inputs.items()})

    bench = Bench(tmp_path)
    graph = bench.manifest_path.with_suffix(".onnx")
    bench.reference = lambda: Swallows(graph, bench.part.spec, 1)  # type: ignore[method-assign]
    bench.engine = bench.guard()
    bench.engine.begin()
    spoilt = {"x": np.full((1, 2, 4, 4), np.nan, np.float32)}
    assert bench.engine.step([bench.engine.initial_state()], spoilt).failed == (0,)
    assert bench.on_gpu


# The golden frames


@pytest.mark.parametrize(
    ("found", "word"),
    [
        (Apart(1e-5, 1e-3), None),
        (Apart(1e-4, 0.0), None),
        (Apart(1.1e-4, 0.0), "outputs"),
        (Apart(float("nan"), 0.0), "outputs"),
        (Apart(0.0, 2e-3), "memory"),
        (Apart(0.0, float("inf")), "memory"),
    ],
)
def test_a_runtime_is_fit_within_the_tolerance_and_never_where_it_is_no_number(
    tmp_path: Path, found: Apart, word: str | None
) -> None:
    part = Bench(tmp_path, plan=False).part
    fault = found.fault(part, Tolerance(absolute=1e-5))
    assert fault is None if word is None else word in str(fault)
    half = Part(part.graph, part.spec, Precision(compute="fp16", absolute=0.5))
    assert [allowed(one, Tolerance(absolute=a)) for one, a in ((part, 1e-3), (half, 1e-3))] == [1e-3, 0.5]


def test_golden_frames_find_a_memory_that_goes_to_the_wrong_embryo(tmp_path: Path) -> None:
    class Swapped(OnnxRuntimeEngine):
        def step(self, states, inputs):  # type: ignore[no-untyped-def]
            return super().step(states[::-1], inputs)

    bench = Bench(tmp_path, plan=False)
    graph = bench.manifest_path.with_suffix(".onnx")
    assert apart(bench.reference(), bench.reference()) == Apart(0.0, 0.0)
    assert apart(Swapped(graph, bench.part.spec, 1), bench.reference()).outputs > 1e-3


@pytest.mark.parametrize("rows", [1, 2])
def test_golden_frames_try_an_embryo_alone_and_two_in_one_batch(tmp_path: Path, rows: int) -> None:
    class Wrong(OnnxRuntimeEngine):
        def step(self, states, inputs):  # type: ignore[no-untyped-def]
            step = super().step(states, inputs)
            off = np.float32(0.01 * (len(states) == rows))
            return replace(step, outputs={name: output + off for name, output in step.outputs.items()})

    bench = Bench(tmp_path, plan=False)
    wrong = Wrong(bench.manifest_path.with_suffix(".onnx"), bench.part.spec, 1)
    assert apart(wrong, bench.reference()).outputs == pytest.approx(0.01, abs=1e-4)


@pytest.mark.parametrize("rows", [1, 2, 4, 8])
def test_a_plan_that_is_wrong_at_one_batch_size_only_may_not_serve(tmp_path: Path, rows: int) -> None:
    bench = Bench(tmp_path, plan=False)
    profile = Profile(8, 8)
    build_plan(bench.manifest_path.with_suffix(".onnx"), bench.part, bench.toolkit, bench.store, profile)
    bench.faults.wrong_by, bench.faults.wrong_rows = 0.01, rows
    args = (bench.reference(), bench.part, bench.manifest.tolerance, bench.toolkit, bench.store, None, profile)
    engine = GuardedEngine(*args, start=lambda work: work())
    engine.begin()
    assert "its outputs lie 0.01 from" in str(engine.fallback)


def test_the_batches_that_are_tried_are_a_filled_one_every_size_and_two_pieces() -> None:
    assert [batches_of(most) for most in (1, 2, 8, 16)] == [[3], [3], [3, 4, 8, 9], [3, 4, 8, 16, 17]]


def test_golden_hours_reach_over_a_whole_culture_and_flags_do_not() -> None:
    row = (TensorSpec("hours", (2,)), TensorSpec("elapsed", (1,)))
    spec = EngineSpec("m", "t", "s", row, (), TensorSpec("state", (0,)))
    drawn = golden_inputs(spec, 64, 0)
    assert drawn["hours"][:, 0].max() > 120 and drawn["elapsed"].max() > 120 and drawn["hours"][:, 1].max() <= 1


# From a manifest to an engine


def test_where_a_gpu_is_the_model_is_guarded_and_tells_its_fallback(tmp_path: Path) -> None:
    path, toolkit = write_tiny(tmp_path), FakeToolkit()
    use = GpuUse(tmp_path / "plans", builds=False, find=lambda: toolkit)
    loaded = load_engine(path, "auto", 1, use)
    assert "no plan for" in str(loaded.fallback) and loaded.note == "fake accelerator, driver 0"
    build_plan(path.with_suffix(".onnx"), loaded.manifest.parts()[0], toolkit, PlanStore(tmp_path / "plans"))
    loaded = load_engine(path, "auto", 1, use)
    assert loaded.fallback is None and loaded.engine.runtime.startswith("fake 1.0")
    assert load_engine(path, "cpu", 1, use).engine.runtime.startswith("onnxruntime")


@pytest.mark.parametrize(
    ("device", "meant", "fallback"), [("auto", False, None), ("auto", True, "x: y"), ("gpu", False, "x: y")]
)
def test_without_a_gpu_the_cpu_serves_and_it_is_a_fallback_only_where_one_was_meant(
    tmp_path: Path, device: str, meant: bool, fallback: str | None
) -> None:
    use = GpuUse(find=lambda: Lacking("x", "y", meant))
    loaded = load_engine(write_tiny(tmp_path), device, 1, use)  # type: ignore[arg-type]
    assert (loaded.engine.runtime.split()[0], loaded.note, loaded.fallback) == ("onnxruntime", "x: y", fallback)


# Plans on disk


def test_a_plan_is_kept_whole_with_what_it_is_bound_to(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    (record,) = bench.store.records()
    assert record["model"] == "tiny" and record["facts"]["runtime"] == "fake 1.0" and record["bytes"] > len(GRAPH)
    names = {path.suffix for path in bench.store.folder.iterdir()}
    assert names == {".plan", ".json", ".cache"}, "nothing half-written is left"


def test_a_record_that_does_not_read_is_no_plan(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.plan_path.with_suffix(".json").write_text("{")
    assert bench.store.find(key_of(bench.part, FACTS, SMALL)) is None and bench.store.records() == []


def test_a_folder_that_takes_no_plan_is_an_error_that_names_it(tmp_path: Path) -> None:
    bench = Bench(tmp_path, plan=False)
    bench.store = PlanStore(tmp_path / "tiny.json" / "plans")
    with pytest.raises(EngineError, match=r"plans: .*tiny\.json"):
        bench.build()


def test_a_plan_that_was_changed_on_disk_is_never_handed_on(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    corrupt_plan(bench)
    with pytest.raises(PlanError, match="is damaged"):
        bench.store.find(key_of(bench.part, FACTS, SMALL))


def test_a_graph_that_onnx_runtime_cannot_read_is_an_error_that_names_it(tmp_path: Path) -> None:
    bench = Bench(tmp_path, plan=False)
    bench.manifest_path.with_suffix(".onnx").write_bytes(b"not a graph")
    with pytest.raises(DeviceError, match=r"tiny\.onnx: ONNX Runtime cannot fold"):
        bench.build()


@pytest.mark.parametrize(
    ("environment", "folder"),
    [
        ({"CACHE_DIRECTORY": "/var/cache/pellucid:/b", "STATE_DIRECTORY": "/s"}, "/var/cache/pellucid/plans"),
        ({"STATE_DIRECTORY": "/var/lib/pellucid", "XDG_CACHE_HOME": "/c"}, "/var/lib/pellucid/plans"),
        ({"XDG_CACHE_HOME": "/c"}, "/c/pellucid/plans"),
    ],
)
def test_plans_lie_where_the_service_may_write(environment: dict[str, str], folder: str) -> None:
    assert str(default_folder(environment)) == folder


def test_a_user_without_a_home_is_no_reason_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    assert str(default_folder({})) == "/var/cache/pellucid/plans"


def test_what_is_kept_of_a_plan_is_json_that_a_person_reads(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    told = json.loads(bench.plan_path.with_suffix(".json").read_text())
    assert {"model", "graph", "facts", "precision", "profile", "recipe", "sha256", "bytes", "built_in_s"} == set(told)
