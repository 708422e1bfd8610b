"""A whole node whose model runs on a GPU that fails in the middle: the same readings as one that never had any."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import numpy as np

from engines.build import PROFILE, build_plan
from engines.fake_device import FakeToolkit, Faults
from engines.guard import GuardedEngine
from engines.load import GpuUse, Loaded, load_engine
from engines.plans import PlanStore
from monitor.vocabulary import Reading
from tests.house import START, FakeClock, node_over, take_all, write_frame
from tests.tiny import write_tiny

FRAMES, FAILS_AT = 14, 7  # every 3 h: segments of 6 h open, memories are committed before and after
WELLS = ("1", "2", "3")
PLANES = (0, 15)


def run(folder: Path, loaded: Loaded, faults: Faults | None = None, restart_at: int = -1) -> list[Reading]:
    """Every well's frames, one moment after the other; at FAILS_AT the GPU is gone."""
    folder.mkdir()
    clock, told = FakeClock(), []
    node = node_over(folder, clock, loaded, planes=PLANES)
    for frame in range(FRAMES):
        if frame == FAILS_AT and faults is not None:
            faults.lost = True
        if frame == restart_at:
            node.journal.close()
            node = node_over(folder, clock, loaded, boot_id="boot2", planes=PLANES)
        for well in WELLS:
            write_frame(folder / "inc", well, START + frame * timedelta(hours=3), PLANES, level=60 + 7 * frame)
        told += take_all(node)
        clock.pass_s(3 * 3600)
    node.journal.close()
    return told


def on_gpu(folder: Path, faults: Faults) -> Loaded:
    folder.mkdir()
    path, toolkit, plans = write_tiny(folder), FakeToolkit(faults=faults), folder / "plans"
    build_plan(
        path.with_suffix(".onnx"), load_engine(path, "cpu", 1).manifest.parts()[0], toolkit, PlanStore(plans), PROFILE
    )
    loaded = load_engine(path, "auto", 1, GpuUse(plans, find=lambda: toolkit))
    assert isinstance(loaded.engine, GuardedEngine) and loaded.fallback is None
    return loaded


def probabilities(told: list[Reading]) -> list[float]:
    judged = [reading.blastocyst for reading in told]
    return [one.probability for one in judged if one is not None]


def test_a_gpu_that_is_lost_in_mid_run_changes_no_reading(tmp_path: Path) -> None:
    (tmp_path / "cpu").mkdir()
    wanted = run(tmp_path / "a", load_engine(write_tiny(tmp_path / "cpu"), "cpu", 1))
    loaded = on_gpu(tmp_path / "gpu", faults := Faults())
    told = run(tmp_path / "b", loaded, faults)
    assert "the device is lost" in str(loaded.fallback)
    assert len(probabilities(told)) == len(WELLS) * FRAMES and len(set(probabilities(told))) > FRAMES
    np.testing.assert_allclose(probabilities(told), probabilities(wanted), atol=1e-5)
    assert [reading.quality.flags for reading in told] == [reading.quality.flags for reading in wanted]
    assert [reading.id for reading in told] == [reading.id for reading in wanted]


def test_memories_that_a_gpu_left_on_disk_go_on_where_there_is_none(tmp_path: Path) -> None:
    """The plan did not survive an update; the node starts again and restores what the GPU's engine had saved."""
    (tmp_path / "cpu").mkdir()
    wanted = run(tmp_path / "a", load_engine(write_tiny(tmp_path / "cpu"), "cpu", 1))
    loaded = on_gpu(tmp_path / "gpu", faults := Faults())
    told = run(tmp_path / "b", loaded, faults, restart_at=FAILS_AT)
    np.testing.assert_allclose(probabilities(told), probabilities(wanted), atol=1e-5)
    assert not any("memory" in flag for reading in told for flag in reading.quality.flags)
