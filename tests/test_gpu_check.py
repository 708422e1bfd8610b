"""`deploy/gpu-check` and the commands below `engines` that ask for a GPU, tried over the device that is none."""

from __future__ import annotations

import json
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest

from engines.build import build_plan
from engines.device_memory import DeviceError, Lacking, Profile
from engines.fake_device import FakeToolkit, Faults
from engines.gpu import find_toolkit
from engines.gpu_bench import bench_part
from engines.load import load_engine
from engines.plans import PlanStore
from monitor.cli import main
from monitor.cli_gpu import build, build_missing, gpu_rows, plans_of
from monitor.errors import EngineError
from tests.tiny import write_tiny

HOME = Path(__file__).resolve().parents[1]
SMALL = Profile(2, 4)
needs_no_gpu = pytest.mark.skipif(not isinstance(find_toolkit(), Lacking), reason="this machine has a GPU")


def gpu_check(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(HOME / "deploy" / "gpu-check"), *arguments], capture_output=True, text=True, check=False
    )


def test_one_command_writes_a_table_and_the_same_as_json(tmp_path: Path) -> None:
    write_tiny(tmp_path)
    told = gpu_check(
        *("--fake", "--models", str(tmp_path), "--out", str(tmp_path / "out")),
        *("--rounds", "20", "--batches", "1", "4", "--no-torch"),
    )
    assert told.returncode == 0, told.stderr
    result = json.loads((tmp_path / "out" / "gpu-check.json").read_text())
    assert (result["schema"], result["faults"], result["not_run"]) == ("pellucid.gpu-check/1", [], [])
    assert result["gpu"]["name"] == "fake accelerator" and "cpu" in result["machine"]
    whats = {row["what"].partition(",")[0] for row in result["rows"]}
    assert whats >= {"plan", "outputs", "memory", "one frame", "frames a second", "frames a second from JPEG files"}
    page = (tmp_path / "out" / "gpu-check.md").read_text()
    assert page == told.stdout.rstrip("\n") + "\n" and "Broken promises and missed parity: none" in page


@needs_no_gpu
def test_without_a_gpu_it_says_what_is_missing_and_measures_nothing(tmp_path: Path) -> None:
    told = gpu_check("--out", str(tmp_path / "out"))
    assert told.returncode == 2 and "gpu-check: " in told.stderr and not (tmp_path / "out").exists()


def ran(tmp_path: Path, faults: Faults):  # type: ignore[no-untyped-def]
    path = write_tiny(tmp_path)
    loaded = load_engine(path, "cpu", 1)
    (part,), store = loaded.manifest.parts(), PlanStore(tmp_path / "plans")
    toolkit = FakeToolkit(faults=faults)
    return bench_part(path, loaded.manifest, part, loaded.engine, toolkit, store, 5, (1, 2), SMALL)


def test_a_plan_that_says_something_else_is_a_fault_and_the_rest_is_measured(tmp_path: Path) -> None:
    found = ran(tmp_path, Faults(wrong_by=0.25))
    assert len(found.faults) == 1 and "parity: its outputs lie 0.25" in found.faults[0]
    outputs = next(row for row in found.rows if row.what.startswith("outputs"))
    assert outputs.goal is not None and not outputs.goal.met(outputs.value)
    assert {row.what for row in found.rows} >= {"one frame, p99", "frames a second, batch 2"}


def test_what_fails_is_told_for_each_measure(tmp_path: Path) -> None:
    found = ran(tmp_path, Faults(run="an illegal address"))
    assert [line.what.partition(": ")[2] for line in found.not_run] == [
        *("contract", "parity", "one frame", "frames a second")
    ]
    assert len(found.faults) == 4 and all("an illegal address" in fault for fault in found.faults)


def test_a_plan_that_is_not_built_is_told_and_nothing_else_is_tried(tmp_path: Path) -> None:
    found = ran(tmp_path, Faults(build="capability 9.0 is not listed"))
    assert not found.rows and "capability 9.0 is not listed" in found.faults[0] and len(found.not_run) == 1


# The commands


def test_build_makes_what_is_missing_and_list_shows_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, plans, toolkit = write_tiny(tmp_path), tmp_path / "plans", FakeToolkit()
    arguments = Namespace(models=tmp_path, plans=plans, try_only=False)
    assert plans_of(path, plans) == []
    for _ in range(2):
        assert build(arguments, lambda: toolkit) == 0
    assert toolkit.builds == 1, "what is there is not built again"
    (plan,) = plans.glob("*.plan")
    plan.write_bytes(b"torn")
    assert build(arguments, lambda: toolkit) == 0 and toolkit.builds == 2, "what is torn is"
    assert "it serves once it has said what the CPU says" in capsys.readouterr().out
    assert main(["engines", "list", "--models", str(tmp_path), "--plans", str(plans)]) == 0
    assert "plan of tiny: fp32, 0.0 MB, for fake accelerator, driver 0, fake 1.0" in capsys.readouterr().out


def test_a_build_that_fails_is_told_and_the_others_are_built(tmp_path: Path) -> None:
    toolkit = FakeToolkit(faults=Faults(build="no room"))
    assert list(build_missing(write_tiny(tmp_path), toolkit, tmp_path / "plans")) == [("tiny: no room", False)]


@needs_no_gpu
@pytest.mark.parametrize("command", [["build"], ["bench", "--device", "gpu"]])
def test_without_a_gpu_the_commands_say_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    write_tiny(tmp_path)
    if command[0] == "build":
        assert main(["engines", *command, "--models", str(tmp_path)]) == 1
        assert str(find_toolkit()) in capsys.readouterr().err
        return
    with pytest.raises(EngineError, match=str(find_toolkit()).partition("(")[0]):
        gpu_rows([tmp_path / "tiny.json"], None)


@needs_no_gpu
def test_verify_on_the_gpu_is_broken_where_none_serves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tiny(tmp_path)
    assert main(["engines", "verify", "--models", str(tmp_path)]) == 0
    assert main(["engines", "verify", "--models", str(tmp_path), "--device", "gpu"]) == 1
    assert "tiny (onnxruntime" in (said := capsys.readouterr().out) and "not on the GPU: " in said


def test_bench_on_the_gpu_gives_the_rows_of_every_graph(tmp_path: Path) -> None:
    rows, not_run = gpu_rows([write_tiny(tmp_path)], tmp_path / "plans", FakeToolkit)
    assert not not_run and {row.model for row in rows} == {"tiny fp32"}
    assert {"one frame, p99", "frames a second, batch 64"} <= {row.what for row in rows}


def test_a_build_in_another_process_tells_why_it_failed(tmp_path: Path) -> None:
    from engines.build import build_elsewhere

    path, said = write_tiny(tmp_path), []
    if not isinstance(find_toolkit(), Lacking):
        pytest.skip("this machine has a GPU")
    with pytest.raises(DeviceError, match=r"the build ended with 1: .*NVIDIA driver"):
        build_elsewhere(path, 0, PlanStore(tmp_path / "plans"), said.append)
    assert len(said) == 1


def test_the_phases_of_a_build_are_told(tmp_path: Path) -> None:
    path, said = write_tiny(tmp_path), []
    loaded = load_engine(path, "cpu", 1)
    store = PlanStore(tmp_path / "plans")
    ticks = iter((0.0, 90.0, 90.0))
    build_plan(
        path.with_suffix(".onnx"),
        loaded.manifest.parts()[0],
        FakeToolkit(),
        store,
        SMALL,
        said.append,
        lambda: next(ticks),
    )
    assert said == ["tiny: making the graph ready, fp32", "tiny: building", "tiny: 0.0 MB in 90 s"]
    assert store.records()[0]["built_in_s"] == 90.0
