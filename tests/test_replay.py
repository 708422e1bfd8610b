"""Recorded frames through the same way: order, bytes, resuming, real archives."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest

from engines.load import BUNDLED_MODELS, Loaded, find_manifest, load_engine
from monitor.errors import ConfigError, StorageError
from monitor.journal import Journal
from monitor.replay import Summary, replay, sources
from tests.house import PLANES_UM, START, FakeClock, scripted, write_frame

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
needs_data = pytest.mark.skipif(
    not DATA.is_dir(), reason="the real pictures (../shared/data) are not beside the checkout"
)


@pytest.fixture(scope="module")
def bundled() -> Loaded:
    return load_engine(find_manifest("amsnet-small", BUNDLED_MODELS), "cpu")


def run(folder: Path, out: Path, loaded: Loaded, layout: str = "generic", **more: object) -> Summary:
    return replay(sources([folder], layout, None, None), out, loaded, FakeClock(), **more)  # type: ignore[arg-type]


def lines(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "readings.jsonl").read_text().splitlines()]


def test_two_replays_give_the_same_bytes_and_a_second_run_into_the_same_folder_adds_nothing(tmp_path: Path) -> None:
    for k in range(9):
        for well in ("1", "2", "10"):
            write_frame(tmp_path / "rec", well, START + timedelta(hours=k))
    first = run(tmp_path / "rec", tmp_path / "a", scripted())
    run(tmp_path / "rec", tmp_path / "b", scripted(), jobs=4)
    again = run(tmp_path / "rec", tmp_path / "a", scripted())
    assert first == Summary({"judged": 27}, lines=27, alerts=0, put_aside=0)
    assert again == Summary({}, lines=27, alerts=0, put_aside=0)
    assert (tmp_path / "a" / "readings.jsonl").read_bytes() == (tmp_path / "b" / "readings.jsonl").read_bytes()


def test_a_replay_that_was_cut_off_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for k in range(9):
        write_frame(tmp_path / "rec", "1", START + timedelta(hours=k))
    run(tmp_path / "rec", tmp_path / "whole", scripted())
    good, left = Journal.commit, [4]

    def commit(self: Journal, *args: object) -> object:
        left[0] -= 1
        if left[0] < 0:
            raise StorageError("the power went")
        return good(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Journal, "commit", commit)
    with pytest.raises(StorageError):
        run(tmp_path / "rec", tmp_path / "cut", scripted())
    monkeypatch.setattr(Journal, "commit", good)
    assert run(tmp_path / "rec", tmp_path / "cut", scripted()).outcomes == {"judged": 5}
    assert (tmp_path / "cut" / "readings.jsonl").read_bytes() == (tmp_path / "whole" / "readings.jsonl").read_bytes()


def test_frames_stand_in_order_per_embryo_also_those_judged_unfit(tmp_path: Path) -> None:
    write_frame(tmp_path / "rec", "1", START + timedelta(hours=2))
    write_frame(tmp_path / "rec", "1", START, level=-40)
    write_frame(tmp_path / "rec", "1", START + timedelta(hours=1), PLANES_UM[:2])
    run(tmp_path / "rec", tmp_path / "out", scripted())
    told = lines(tmp_path / "out")
    assert [reading["outcome"] for reading in told] == ["unfit", "lacking", "judged"]
    assert not {"seq", "boot_id", "published_at"} & set(told[0])


def test_an_archive_of_one_plane_is_not_degraded(tmp_path: Path) -> None:
    write_frame(tmp_path / "rec", "1", START, (0,))
    run(tmp_path / "rec", tmp_path / "out", scripted(counts=(1, 7)))
    (reading,) = lines(tmp_path / "out")
    assert (reading["frame"]["planes"], reading["frame"]["missing_planes"]) == ([0], [])
    assert reading["quality"]["flags"] == []


def test_a_folder_that_fits_no_layout_is_a_clear_error_with_an_example(tmp_path: Path) -> None:
    (tmp_path / "rec" / "a").mkdir(parents=True)
    (tmp_path / "rec" / "a" / "b.jpg").write_bytes(b"x")
    with pytest.raises(ConfigError, match=r"no file fits layout 'generic'.*a/b\.jpg"):
        sources([tmp_path / "rec"], "generic", None, None)
    with pytest.raises(ConfigError, match="No such file"):
        sources([tmp_path / "nowhere"], "generic", None, None)


def test_two_sources_of_one_name_are_refused(tmp_path: Path) -> None:
    for part in ("x", "y"):
        write_frame(tmp_path / part / "rec", "1", START)
    with pytest.raises(ConfigError, match="two sources are named 'rec'"):
        sources([tmp_path / "x" / "rec", tmp_path / "y" / "rec"], "generic", None, None)


@needs_data
def test_ten_real_blastocysts_give_ten_readings_of_seven_planes_twice_the_same(tmp_path: Path, bundled: Loaded) -> None:
    for out in ("a", "b"):
        assert run(DATA / "stork", tmp_path / out, bundled, "single-moment").outcomes == {"judged": 10}
    told = lines(tmp_path / "a")
    assert [len(reading["frame"]["planes"]) for reading in told] == [7] * 10
    assert {(reading["frame"]["hpi"], reading["frame"]["hpi_source"]) for reading in told} == {(116.0, "assumed")}
    assert (tmp_path / "a" / "readings.jsonl").read_bytes() == (tmp_path / "b" / "readings.jsonl").read_bytes()


@needs_data
def test_two_real_videos_give_715_readings_in_order_and_a_missing_frame_is_seen(
    tmp_path: Path, bundled: Loaded
) -> None:
    run(DATA / "nantes", tmp_path / "out", bundled, "nantes", jobs=2)
    told = lines(tmp_path / "out")
    by_video: dict[str, list[dict]] = {}
    for reading in told:
        by_video.setdefault(reading["embryo"]["dish"], []).append(reading)
    assert {video: len(readings) for video, readings in by_video.items()} == {"AA83-7": 285, "AAL839-6": 430}
    for readings in by_video.values():
        runs = [reading["frame"]["run"] for reading in readings]
        hours = [reading["frame"]["hpi"] for reading in readings]
        assert runs == sorted(runs) and hours == sorted(hours)
        assert {reading["frame"]["hpi_source"] for reading in readings} == {"file"}
        assert all(reading["blastocyst"] is not None for reading in readings)
    runs = {reading["frame"]["run"]: reading for reading in by_video["AAL839-6"]}
    assert 95 not in runs
    assert "after_gap" in runs[96]["quality"]["flags"]
    assert runs[96]["frame"]["hpi"] == pytest.approx(96 * 0.2526, abs=1e-3)
    flagged = [reading["frame"]["run"] for reading in told if "after_gap" in reading["quality"]["flags"]]
    assert flagged == [96]
