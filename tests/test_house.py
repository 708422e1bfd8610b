"""The house itself: who imports whom, and that the documents name what the code has."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from monitor.errors import PUT_ASIDE
from tests.house import FakeClock, new_metrics

HOME = Path(__file__).resolve().parents[1]
CONTRACT = (HOME / "deploy" / "contract.md").read_text()
README = (HOME / "README.md").read_text()


def imports(folder: str) -> Iterator[tuple[str, str]]:
    """(file, module) of every import below a folder, also those inside functions."""
    for path in sorted((HOME / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            yield from ((str(path.relative_to(HOME)), name) for name in names)


@pytest.mark.parametrize(
    ("library", "home"),
    [
        ("onnxruntime", {*("engines/onnxruntime_engine.py", "engines/precision.py", "engines/fake_device.py")}),
        ("onnx", {"engines/precision.py"}),
        ("sqlite3", {"monitor/database.py"}),
        ("watchdog", {"monitor/waker.py"}),
        ("PIL", {"monitor/pictures.py"}),
        ("paho", {"monitor/mqtt_session.py", "monitor/subscriber.py"}),
        ("amqtt", {"monitor/broker.py"}),
        ("prometheus_client", {*("monitor/metrics.py", "monitor/endpoints.py", "monitor/replay.py")} | {
            "monitor/rehearsal/record.py",
            "monitor/demo.py", "monitor/cli.py", "monitor/way.py", "monitor/page_process.py",
            "monitor/web/health.py", "monitor/web/bench.py"
        }),
        ("fastapi", {"monitor/web/app.py", "monitor/web/api.py", "monitor/web/render.py"}),
        ("uvicorn", {"monitor/web/serve.py"}),
        ("jinja2", {"monitor/web/render.py"}),
        ("torch", set()),
        ("tensorrt", {"engines/nvidia.py"}),
        ("tensorrt_rtx", {"engines/nvidia.py"}),
        ("pycuda", {"engines/pycuda_device.py"}),
        ("training", set()),
    ],
)  # fmt: skip
def test_each_library_is_imported_in_its_own_room_only(library: str, home: set[str]) -> None:
    users = {
        path for folder in ("monitor", "engines") for path, name in imports(folder) if name.split(".")[0] == library
    }
    assert users == home


def test_training_imports_of_the_monitor_only_the_simulator_the_words_and_the_reading_of_pictures() -> None:
    """One decoder and one set of file names for both: what the monitor refuses is not trained on."""
    allowed = ("monitor.simulator", "monitor.vocabulary", "monitor.pictures", "monitor.layouts", "monitor.errors")
    used = {name for _, name in imports("training") if name.split(".")[0] == "monitor"}
    assert all(name.startswith(allowed) for name in used), used


def test_engines_know_nothing_of_the_monitor() -> None:
    assert not {name for _, name in imports("engines") if name.split(".")[0] in ("monitor", "training")}


def test_the_daemon_starts_without_torch_or_a_gpu_library() -> None:
    code = "import sys, monitor.cli, monitor.daemon, monitor.node; print(sorted(sys.modules))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=HOME).stdout
    assert "'monitor.daemon'" in said
    for library in ("torch", "tensorrt", "pycuda", "onnx", "amqtt", "training", "fastapi", "monitor.web"):
        assert f"'{library}'" not in said


def test_every_metric_stands_in_the_contract() -> None:
    metrics = new_metrics(FakeClock())
    named = {family.name for family in metrics.registry.collect()}
    stated = set(re.findall(r"`pellucid_([a-z_]+?)(?:_total|_info)?[`{]", CONTRACT))
    assert {name.removeprefix("pellucid_") for name in named} == stated


def test_every_flag_and_every_outcome_stands_in_the_contract() -> None:
    from monitor.vocabulary import Outcome

    source = "".join(path.read_text() for path in (HOME / "monitor").glob("*.py"))
    flags = set(re.findall(r'flags\.add\("([a-z_]+)"\)|flags\.append\("([a-z_]+)"\)', source))
    words = {word for pair in flags for word in pair if word} | {outcome.value for outcome in Outcome}
    words |= {"engine_failed", "not_finite", "memory_lost", "memory_of_other_model"}
    missing = [word for word in sorted(words) if f"`{word}`" not in CONTRACT]
    assert not missing


def test_every_outcome_flag_and_key_of_day_5_stands_in_the_contract() -> None:
    from typing import get_args

    from monitor.contradictions import TABLE
    from monitor.day5_body import Day5, Day5Criterion, Day5Measured, Day5Outcome

    section = CONTRACT.partition("`day5`: an embryo is worked on")[2].partition("An alert:")[0]
    words = {*get_args(Day5Outcome), *(one.word for one in TABLE), "grader_failed"}
    words |= {*Day5.model_fields, *Day5Criterion.model_fields, *Day5Measured.model_fields}
    assert not [word for word in sorted(words) if not re.search(rf"\b{word}\b", section)]


def test_every_reason_for_putting_a_file_aside_stands_in_the_contract() -> None:
    source = "".join(path.read_text() for path in (HOME / "monitor").glob("*.py"))
    reasons = set(re.findall(r'FrameError\(\s*"([a-z_]+)"', source))
    assert len(reasons) > 8
    assert not [reason for reason in sorted(reasons) if f"`{reason}`" not in CONTRACT]
    assert set(PUT_ASIDE) == reasons - {"unreadable", "vanished"}


def test_every_command_and_make_target_of_the_readme_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (HOME / "Makefile").read_text(), re.MULTILINE))
    lines = re.findall(r"^make ([a-z -]+?) *(?:#.*)?$", README, re.MULTILINE)
    named = {target for line in lines for target in line.split()} | set(re.findall(r"`make ([a-z-]+)`", README))
    assert {"demo", "test", "check", "bench"} <= named <= targets
    commands = set(re.findall(r"bin/pellucid ([a-z]+)", README))
    assert commands == {"run", "replay", "check", "simulate", "engines", "journal", "page"}


def test_every_key_of_a_command_every_code_and_every_lack_stands_in_the_contract() -> None:
    from typing import get_args

    from monitor.command_body import COMMANDS, Answer, Code
    from monitor.lacks import INTERVALS

    section = CONTRACT.partition("## Commands to the monitor")[2].partition("\n## ")[0]
    for name, command in COMMANDS.items():
        row = next(line for line in section.splitlines() if line.startswith(f"| `{name}`"))
        assert {key.rstrip("?") for key in re.findall(r"`([a-z_0-9]+\??)`", row.split("|")[2])} >= set(
            command.model_fields
        )
    answer = {field.alias or name for name, field in Answer.model_fields.items()}
    assert not [word for word in (*get_args(Code), *answer) if not re.search(rf"\b{word}\b", section)]
    source = (HOME / "monitor" / "lacks.py").read_text()
    lacks = CONTRACT.partition("`lacks` names what is not said")[2].partition("`calibration {")[0]
    words = (
        set(re.findall(r'(?:return|else|or|:) "([a-z_]+)"', source)) | set(INTERVALS) | {"few_segments", "wide_spread"}
    )
    assert len(words) > 12
    assert not [word for word in sorted(words) if f"`{word}`" not in lacks]


def test_the_bundled_models_stay_under_30_mb_and_say_what_they_are_for() -> None:
    from engines.load import BUNDLED_MODELS, find_manifests
    from engines.manifest import read_manifest

    assert sum(path.stat().st_size for path in BUNDLED_MODELS.iterdir()) < 30e6
    for path in find_manifests(BUNDLED_MODELS):
        manifest = read_manifest(path)
        assert manifest.intended_use == "research use, not validated on patients"
        assert "virtual" in str(manifest.provenance["trained_on"])


def test_the_example_configuration_is_one_that_runs() -> None:
    from monitor.config import read_config

    config = read_config(HOME / "deploy" / "pellucid.example.toml")
    assert (config.mqtt.port, config.incubator[0].layout) == (1883, "generic")


def test_every_fault_and_option_of_simulate_stands_in_the_contract(capsys: pytest.CaptureFixture[str]) -> None:
    from monitor.cli import main
    from monitor.simulator.faults import KINDS

    section = CONTRACT.partition("## What `simulate` writes")[2].partition("\n## ")[0]
    assert not [name for name in KINDS if f"`{name}`" not in section]
    with pytest.raises(SystemExit):
        main(["simulate", "--help"])
    row = next(line for line in CONTRACT.splitlines() if line.startswith("| `pellucid simulate"))
    options = set(re.findall(r"^  (--[a-z-]+)", capsys.readouterr().out, re.MULTILINE))
    assert options and options <= set(re.findall(r"--[a-z-]+", row))
