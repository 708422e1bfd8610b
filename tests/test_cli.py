"""The commands as a user meets them: exit codes, messages, files."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest

from monitor.cli import main
from monitor.vocabulary import PHASES
from tests.house import START, picture, write_frame

SMALLEST = """
[site]
name = "lab1"
node = "box1"

[[incubator]]
name = "inc1"
path = "{path}"

[mqtt]
host = "127.0.0.1"
port = 1

[storage]
path = "{store}"
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "inc").mkdir()
    path = tmp_path / "pellucid.toml"
    path.write_text(SMALLEST.format(path=tmp_path / "inc", store=tmp_path / "store"))
    return path


def test_help_stands_everywhere(capsys: pytest.CaptureFixture[str]) -> None:
    commands = ("demo", "run", "check", "replay", "simulate", "engines list", "engines verify", "engines bench")
    for command in commands:
        with pytest.raises(SystemExit) as left:
            main([*command.split(), "--help"])
        assert left.value.code == 0
        assert "usage: pellucid" in capsys.readouterr().out


@pytest.mark.parametrize("words", [[], ["fly"], ["replay"], ["replay", "x", "--out", "y", "--planes", "a,b"]])
def test_wrong_usage_is_exit_2(words: list[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(words)
    assert left.value.code == 2


def test_a_bad_configuration_is_exit_78_and_names_key_value_and_remedy(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config.write_text(config.read_text().replace('name = "inc1"', 'name = "inc/1"\nlayuot = "generic"'))
    assert main(["check", "--config", str(config)]) == 78
    message = capsys.readouterr().err
    assert "incubator.0.name = 'inc/1': allowed: 1 to 64 of A-Z a-z 0-9 . _ -" in message
    assert "incubator.0.layuot" in message and "no such key" in message


def test_a_missing_configuration_is_exit_78(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--config", str(tmp_path / "none.toml")]) == 78
    assert "there is no such file" in capsys.readouterr().err


def test_check_tells_of_engine_store_broker_and_folder_and_changes_nothing(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_frame(tmp_path / "inc", "1", START)
    write_frame(tmp_path / "inc", "1", START + timedelta(hours=1), (0, 15))
    write_frame(tmp_path / "inc", "2+2", START, (0,))
    before = sorted(path for path in tmp_path.rglob("*"))
    assert main(["check", "--config", str(config)]) == 1
    said = capsys.readouterr().out
    assert "amsnet-small" in said and "one step done" in said
    assert "error    mqtt" in said and "Connection refused" in said
    assert "1 embryos, 2 frames, 1 with all planes" in said
    assert "1 files would be put aside" in said
    assert sorted(path for path in tmp_path.rglob("*")) == before


def test_check_incoming_reads_another_folder_with_the_incubators_layout(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_frame(tmp_path / "usb", "4", START)
    main(["check", "--config", str(config), "--incoming", str(tmp_path / "usb")])
    assert "1 embryos, 1 frames, 1 with all planes" in capsys.readouterr().out


def test_an_incubator_folder_that_is_not_there_is_an_error_for_check(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "inc").rmdir()
    assert main(["check", "--config", str(config)]) == 1
    assert "No such file or directory" in capsys.readouterr().out


def test_simulate_then_replay_gives_a_reading_for_each_frame_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = ["simulate", "--out", str(tmp_path / "virtual"), "--embryos", "2", "--hours", "3", "--size-px", "128"]
    assert main(drawn) == 0
    assert (
        main(
            ["replay", str(tmp_path / "virtual"), "--out", str(tmp_path / "out"), "--planes", "-45,-30,-15,0,15,30,45"]
        )
        == 0
    )
    said = capsys.readouterr().out
    assert "8 frames written" in said
    assert "8 readings" in said and "8 judged" in said
    first = json.loads((tmp_path / "out" / "readings.jsonl").read_text().splitlines()[0])
    assert first["frame"]["planes"] == [-45, -30, -15, 0, 15, 30, 45]
    assert set(first["engines"]) == {"amsnet-small", "embryodiff-small"}
    assert first["stage"]["live"] in PHASES and first["stage"]["onsets_h"] == {}


def test_replay_takes_the_hour_that_is_given_for_single_moments_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_frame(tmp_path / "rec", "1", START)
    words = ["replay", str(tmp_path / "rec"), "--out", str(tmp_path / "out"), "--hpi", "110"]
    assert main(words) == 78
    assert "not for layout 'generic'" in capsys.readouterr().err
    still = tmp_path / "stills" / "e1" / "e1_F0.jpg"
    still.parent.mkdir(parents=True)
    still.write_bytes(picture())
    words[1] = str(tmp_path / "stills")
    assert main([*words, "--layout", "single-moment"]) == 0
    frame = json.loads((tmp_path / "out" / "readings.jsonl").read_text())["frame"]
    assert (frame["hpi"], frame["hpi_source"]) == (110.0, "command")


def test_engines_list_names_the_model_and_its_intended_use(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["engines", "list"]) == 0
    said = capsys.readouterr().out
    assert "amsnet-small" in said and "research use, not validated on patients" in said
    assert main(["engines", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["schema"] == "pellucid.manifest/1"


def test_engines_verify_is_exit_1_on_a_changed_graph(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from engines.load import BUNDLED_MODELS

    assert main(["engines", "verify"]) == 0
    assert "keeps the contract" in capsys.readouterr().out
    for name in ("amsnet-small.json", "amsnet-small.onnx"):
        (tmp_path / name).write_bytes((BUNDLED_MODELS / name).read_bytes())
    with (tmp_path / "amsnet-small.onnx").open("ab") as graph:
        graph.write(b"\0")
    assert main(["engines", "verify", "--models", str(tmp_path)]) == 1
    assert "is not the file its manifest describes" in capsys.readouterr().out


def test_verifying_a_folder_without_a_model_is_a_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["engines", "verify", "--models", str(tmp_path)]) == 1
    assert "no model in" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [["demo", "--every-min", "0"], ["demo", "--hours", "-5"], ["simulate", "--out", "x", "--speed", "0"]],
)
def test_a_number_that_cannot_be_is_wrong_usage(words: list[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(words)
    assert left.value.code == 2


def test_check_refuses_planes_that_no_model_judges(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nine = list(range(-60, 61, 15))
    config.write_text(config.read_text().replace('name = "inc1"', f'name = "inc1"\nplanes = {nine}'))
    assert main(["check", "--config", str(config)]) == 1
    assert "judges stacks of 1, 2, 3, 4, 5, 6, 7 planes" in capsys.readouterr().out


def test_simulate_writes_faults_and_layouts_and_names_what_it_cannot(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["simulate", "--out", str(tmp_path / "v"), "--embryos", "2", "--hours", "3", "--size-px", "48"]
    assert main([*words, "--layout", "nantes", "--fault", "missing-planes=0.5:3", "--fault", "truncated=0.5"]) == 0
    assert "8 frames written" in capsys.readouterr().out
    records = json.loads((tmp_path / "v" / "truth" / "faults.json").read_text())
    assert {record["fault"] for record in records} == {"missing-planes", "truncated"}
    lost = sum(len(record["planes_um"]) for record in records if record["fault"] == "missing-planes")
    assert len(list((tmp_path / "v").glob("embryo_dataset*/D1-*/*.jpeg"))) == 8 * 7 - lost
    assert main([*words, "--fault", "rain"]) == 78
    assert "fault 'rain' is not known: gap," in capsys.readouterr().err
    assert main([*words, "--layout", "polaroid"]) == 78
    assert "layout 'polaroid'" in capsys.readouterr().err
