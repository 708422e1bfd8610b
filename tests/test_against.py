"""A replay against a journal: where the models of now read otherwise, by how much, and how it ends."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from engines.contract import Array
from engines.load import Loaded
from engines.scripted_engine import ScriptedEngine, scripted_spec
from monitor.cli import main
from tests.house import START, FakeClock, node_over, plane_path, scripted, take_all, write_frame
from tests.staged import staged_model

CONFIG = """
[site]
name = "lab"
node = "box"
[[incubator]]
name = "inc1"
path = "{root}/inc"
[mqtt]
host = "nowhere"
[storage]
path = "{root}/store"
"""


class Gloomier(ScriptedEngine):
    """The same, a little less hopeful."""

    by = 0.05

    def run_row(self, state: Array, inputs: dict[str, Array]) -> tuple[Array, dict[str, Array]]:
        after, outputs = super().run_row(state, inputs)
        return after, {**outputs, "y_blastocyst": outputs["y_blastocyst"] * (1 - self.by)}


def other(by: float = 0.05) -> Loaded:
    engine = Gloomier(scripted_spec())
    engine.by = by
    loaded = scripted()
    graph = loaded.manifest.graph.model_copy(update={"sha256": "1" * 64})
    return Loaded(engine, loaded.manifest.model_copy(update={"graph": graph}), "scripted")


@pytest.fixture
def told(tmp_path: Path) -> Path:
    """A journal of what a node told of two embryos, and the configuration it ran with."""
    node = node_over(tmp_path, FakeClock(START + timedelta(days=1)))
    for hour in range(4):
        for well in ("1", "2"):
            write_frame(
                tmp_path / "inc", well, START + timedelta(hours=hour), level=0 if (hour, well) == (3, "2") else 100
            )
    take_all(node)
    node.journal.close()
    (tmp_path / "c.toml").write_text(CONFIG.format(root=tmp_path))
    return tmp_path


@pytest.fixture
def against(
    told: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Replay the node's own incubators with some models, against what was told."""

    def run(loaded: Loaded, *words: str, out: str = "out") -> tuple[int, str, str]:
        monkeypatch.setattr("monitor.node.load_models", lambda engines: loaded)
        where = ["--config", str(told / "c.toml"), "--out", str(told / out), "--against", str(told / "store")]
        code = main(["replay", *where, *words])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def test_the_same_models_read_the_same_and_it_is_exit_0(against: Callable[..., tuple[int, str, str]]) -> None:
    code, out, _ = against(scripted())
    assert code == 0
    assert "8 frames in both, 0 of them read otherwise now" in out
    assert "scripted: 000000000000 -> 000000000000" in out


def test_other_models_are_told_frame_by_frame_with_how_far_they_are_apart(
    told: Path, against: Callable[..., tuple[int, str, str]]
) -> None:
    code, out, _ = against(other())
    lines = [json.loads(line) for line in (told / "out" / "against.jsonl").read_text().splitlines()]
    assert code == 1 and len(lines) == 7, "the dark frame was judged by neither"
    for line in lines:
        assert set(line["then"]) == {"probability"}
        assert line["now"]["probability"] == pytest.approx(line["then"]["probability"] * 0.95, abs=2e-4)
    assert "inc1/D1/1/20260105T080000Z 20260105T080000Z (hour not known): probability 0." in out
    assert "8 frames in both, 7 of them read otherwise now" in out and "  probability: 7 frames" in out
    assert "scripted: 000000000000 -> 111111111111" in out and "apart: inc1/D1/" in out


def test_what_is_nearer_than_asked_for_is_no_difference(against: Callable[..., tuple[int, str, str]]) -> None:
    assert against(other(), "--differ-by", "0.06")[0] == 0


def test_a_stage_model_that_was_not_there_before_is_told(against: Callable[..., tuple[int, str, str]]) -> None:
    code, out, _ = against(replace(scripted(), stage=staged_model()))
    assert code == 1 and "stage none -> t" in out and "scripted-stage: not there -> 000000000000" in out


def test_frames_that_are_in_one_only_are_counted_and_it_is_exit_1(
    told: Path, against: Callable[..., tuple[int, str, str]]
) -> None:
    for path in (told / "inc" / "D1" / "1").glob(f"{START:%Y%m%dT%H%M%SZ}*"):
        path.unlink()  # the first frame of a run names it: the whole run is another embryo's
    plane_path(told / "inc", "2", START + timedelta(hours=1), 45).unlink()
    code, out, _ = against(scripted())
    assert code == 1
    assert "4 frames in both, 1 of them" in out and "planes: 1 frames" in out
    assert "4 frames stand in the journal only" in out and "3 frames are told now only" in out


def test_a_folder_of_another_models_readings_is_not_taken_for_this_ones(
    against: Callable[..., tuple[int, str, str]],
) -> None:
    assert against(scripted())[0] == 0
    code, _, err = against(other())
    assert code == 78 and "holds readings of another scripted: choose a new folder" in err
    assert against(other(), out="another")[0] == 1


def test_a_journal_that_is_not_there_and_a_source_that_is_missing_are_named(
    told: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["replay", "--out", str(told / "o"), "--against", str(told / "nowhere")]) == 78
    assert "there is no journal.sqlite" in capsys.readouterr().err
    assert main(["replay", "--out", str(told / "o"), "--against", str(told / "store" / "journal.sqlite")]) == 78
    assert "name a SOURCE" in capsys.readouterr().err
    assert main(["replay", "--out", str(told / "o")]) == 78
