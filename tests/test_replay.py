"""Recorded frames through the same way: order, bytes, resuming, real archives."""

from __future__ import annotations

import io
import json
import os
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engines.load import BUNDLED_MODELS, Loaded, find_manifest, load_engine
from monitor.config import Incubator
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
    write_frame(tmp_path / "rec", "1", START, level=0)
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


def test_an_archive_named_like_a_configured_incubator_is_judged_by_its_limits(tmp_path: Path) -> None:
    write_frame(tmp_path / "inc7", "1", START)
    strict = Incubator.model_validate({"name": "inc7", "path": "/", "quality": {"mean_gray": 210.0}})
    for configured, outcome in (((strict,), "unfit"), ((), "judged")):
        given = sources([tmp_path / "inc7"], "generic", None, None, configured)
        assert replay(given, tmp_path / outcome, scripted(), FakeClock()).outcomes == {outcome: 1}


def test_two_sources_of_one_name_are_refused(tmp_path: Path) -> None:
    for part in ("x", "y"):
        write_frame(tmp_path / part / "rec", "1", START)
    with pytest.raises(ConfigError, match="two sources are named 'rec'"):
        sources([tmp_path / "x" / "rec", tmp_path / "y" / "rec"], "generic", None, None)


# -- every layout and every kind of picture, by real files -------------------------------------------------------------


def grays(seed: int = 0, size_px: int = 32) -> list[np.ndarray]:
    """Seven planes, smooth enough to survive a JPEG, with detail enough to be judged."""
    rows, columns = np.mgrid[:size_px, :size_px]
    return [
        (110 + 40 * np.sin(rows / (1 + k / 20)) + 30 * np.cos((columns + seed) / 1.3)).astype(np.uint8)
        for k in range(len(PLANES_UM))
    ]


def as_gray(gray: np.ndarray) -> Image.Image:
    return Image.fromarray(gray)


def as_colour(mode: str):
    return lambda gray: Image.fromarray(gray).convert(mode)


def as_deep(gray: np.ndarray) -> Image.Image:
    return Image.fromarray(gray.astype(np.uint16) * 256 + 128)


def as_deep_big_endian(gray: np.ndarray) -> Image.Image:
    deep = (gray.astype(np.uint16) * 256 + 128).astype(">u2")
    return Image.frombytes("I;16B", (gray.shape[1], gray.shape[0]), deep.tobytes())


KINDS = {
    "jpeg": ("jpg", as_gray, {"quality": 95}),
    "jpeg, three colours": ("jpeg", as_colour("RGB"), {"quality": 95}),
    "jpeg, CMYK": ("jpg", as_colour("CMYK"), {"quality": 95}),
    "png": ("png", as_gray, {}),
    "png, 16 bits": ("png", as_deep, {}),
    "png, three colours": ("png", as_colour("RGB"), {}),
    "png, transparency": ("png", as_colour("RGBA"), {}),
    "png, palette": ("png", as_colour("P"), {}),
    "bmp": ("bmp", as_gray, {}),
    "bmp, three colours": ("bmp", as_colour("RGB"), {}),
    "tiff": ("tif", as_gray, {}),
    "tiff, 16 bits": ("tiff", as_deep, {}),
    "tiff, 16 bits big-endian": ("tif", as_deep_big_endian, {}),
    "tiff, lzw": ("tif", as_gray, {"compression": "tiff_lzw"}),
    "tiff, deflate": ("tif", as_deep, {"compression": "tiff_adobe_deflate"}),
    "tiff, jpeg": ("tif", as_gray, {"compression": "jpeg", "quality": 95}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_picture_is_judged_much_as_plain_gray_is(tmp_path: Path, bundled: Loaded, kind: str) -> None:
    probabilities = {}
    for name, (ending, stored, how) in {"plain": ("png", as_gray, {}), "kind": KINDS[kind]}.items():
        for plane_um, gray in zip(PLANES_UM, grays(size_px=128), strict=True):
            path = tmp_path / name / "D1" / "1" / f"20260105T080000Z_F{plane_um}.{ending}"
            path.parent.mkdir(parents=True, exist_ok=True)
            stored(gray).save(path, **how)
        assert run(tmp_path / name, tmp_path / f"{name}.out", bundled).put_aside == 0
        (reading,) = lines(tmp_path / f"{name}.out")
        assert (reading["outcome"], reading["frame"]["planes"]) == ("judged", list(PLANES_UM))
        probabilities[name] = reading["blastocyst"]["probability"]
    assert probabilities["kind"] == pytest.approx(probabilities["plain"], abs=0.02)


def stack_bytes(pages: int = 7) -> bytes:
    first, *rest = (Image.fromarray(gray) for gray in grays()[:pages])
    data = io.BytesIO()
    first.save(data, "TIFF", save_all=True, append_images=rest, compression="tiff_lzw")
    return data.getvalue()


def plane_bytes(number: int) -> bytes:
    data = io.BytesIO()
    Image.fromarray(grays()[number]).save(data, "JPEG", quality=95)
    return data.getvalue()


LAYOUTS = {
    "generic": ("D1/3/20260105T080000Z_F{plane}.jpg", "D1", "3"),
    "nantes": ("embryo_dataset_F{plane}/AA83-7/D2013.01.28_S0717_I132_WELL7_RUN12.jpeg", "AA83-7", "1"),
    "single-moment": ("e7/e7_F{plane}.jpg", "e7", "1"),
    "embryoscope": ("AA83-7/F{plane}/D2026.01.05_S0717_I132_WELL7_RUN12.jpg", "AA83", "7"),
    r"(?P<dish>\w+)-(?P<well>\d+)-(?P<run>\d+)_z(?P<plane>-?\d+)\.jpg": ("D1-4-12_z{plane}.jpg", "D1", "4"),
    "tiff-stack": ("D1/3/20260105T080000Z.tif", "D1", "3"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout_gives_one_reading_of_seven_planes_with_its_place(tmp_path: Path, layout: str) -> None:
    pattern, dish, well = LAYOUTS[layout]
    for number, plane_um in enumerate(PLANES_UM):
        path = tmp_path / "rec" / pattern.format(plane=plane_um)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(stack_bytes() if layout == "tiff-stack" else plane_bytes(number))
        os.utime(path, (START.timestamp(),) * 2)
    run(tmp_path / "rec", tmp_path / "out", scripted(), layout)
    (reading,) = lines(tmp_path / "out")
    assert (reading["embryo"]["dish"], reading["embryo"]["well"]) == (dish, well)
    assert (reading["outcome"], reading["frame"]["planes"]) == ("judged", list(PLANES_UM))
    assert reading["frame"]["sources"] == [pattern.format(plane=plane_um) for plane_um in PLANES_UM]
    clocks = {"generic": START, "tiff-stack": START, "embryoscope": START}
    expected = None if layout not in clocks else "2026-01-05T08:00:00Z"
    assert reading["occurred_at"] == reading["frame"]["captured_at"] == expected
    assert ("clock_from_file" in reading["quality"]["flags"]) == (layout == "embryoscope")


@pytest.mark.parametrize(("pages", "planes"), [(7, PLANES_UM), (1, (0,))])
def test_stacks_of_seven_pages_or_one_need_no_planes_said(tmp_path: Path, pages: int, planes: tuple[int, ...]) -> None:
    (tmp_path / "rec" / "D1" / "1").mkdir(parents=True)
    (tmp_path / "rec" / "D1" / "1" / "20260105T070000Z.tif").write_bytes(stack_bytes(3)[:-9])  # decides nothing
    for hour in (8, 9):
        (tmp_path / "rec" / "D1" / "1" / f"20260105T{hour:02}0000Z.tif").write_bytes(stack_bytes(pages))
    (source,) = sources([tmp_path / "rec"], "tiff-stack", None, None)
    assert source.incubator.planes == planes


def test_stacks_of_another_number_of_pages_ask_for_the_planes(tmp_path: Path) -> None:
    (tmp_path / "rec" / "D1" / "1").mkdir(parents=True)
    (tmp_path / "rec" / "D1" / "1" / "20260105T080000Z.tif").write_bytes(stack_bytes(3))
    with pytest.raises(ConfigError, match=r"hold 3 pages.*--planes -15,0,15"):
        sources([tmp_path / "rec"], "tiff-stack", None, None)
    given = sources([tmp_path / "rec"], "tiff-stack", (-15, 0, 15), None)
    replay(given, tmp_path / "out", scripted(counts=(3,)), FakeClock())
    (reading,) = lines(tmp_path / "out")
    assert (reading["outcome"], reading["frame"]["planes"]) == ("judged", [-15, 0, 15])


def test_two_slides_in_one_well_stand_one_after_the_other_whatever_their_files_times(tmp_path: Path) -> None:
    for slide in ("D2026.01.09_S2_I1", "D2026.01.05_S1_I1"):
        for frame in (1, 2):
            path = tmp_path / "rec" / "T1" / "F0" / f"{slide}_WELL7_RUN{frame}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(plane_bytes(frame))
            os.utime(path, (START.timestamp(),) * 2)
    run(tmp_path / "rec", tmp_path / "out", scripted(counts=(1,)), "embryoscope")
    told = [(r["embryo"]["embryo_id"], r["frame"]["sources"][0][6:17], r["outcome"]) for r in lines(tmp_path / "out")]
    assert told == [
        *[("rec/T1/7/run1", "D2026.01.05", "judged")] * 2,
        *[("rec/T1/7/run1.2", "D2026.01.09", "judged")] * 2,
    ]


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
