"""From files on disk to readings: what the field does to a folder, and names that say less than a frame needs."""

from __future__ import annotations

import io
import os
import struct
import zlib
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engines.scripted_engine import ScriptedEngine
from monitor.node import Node
from monitor.vocabulary import Outcome, Reading
from tests.house import PLANES_UM, START, FakeClock, node_over, picture, plane_path, scripted, take_all, write_frame

H = timedelta(hours=1)
OLD, NEW = "D2025.12.01_S0716_I132", "D2026.01.05_S0717_I132"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(START + timedelta(days=12))


def put_aside(node: Node) -> dict[str, int]:
    """reason -> files, as the journal has them."""
    rows = node.journal._db.execute("SELECT reason, COUNT(DISTINCT path) FROM file WHERE reason IS NOT NULL GROUP BY 1")
    return dict(rows.fetchall())


# -- what is no picture, or no usable one ------------------------------------------------------------------------------


def png_of_zeros(width_px: int, height_px: int, honest: bool = True) -> bytes:
    """A PNG of black: small on disk however many pixels it holds. `honest`: it really holds them."""
    head = b"IHDR" + struct.pack(">IIBBBBB", width_px, height_px, 8, 0, 0, 0, 0)
    packer = zlib.compressobj(9)
    rows = height_px if honest else 1
    pixels = b"".join(packer.compress(bytes(width_px + 1)) for _ in range(rows)) + packer.flush()
    chunks = [head, b"IDAT" + pixels, b"IEND"]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks
    )


def bmp_header(width_px: int, height_px: int) -> bytes:
    info = struct.pack("<IiiHHIIiiII", 40, width_px, height_px, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 1078, 0, 0, 54) + info + bytes(1024)


def jpeg_header(width_px: int, height_px: int) -> bytes:
    data = bytearray(picture())
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", height_px, width_px)
    return bytes(data)


def tiff_header(width_px: int, height_px: int) -> bytes:
    data = io.BytesIO()
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(data, "TIFF")
    changed = bytearray(data.getvalue())
    first = struct.unpack_from("<I", changed, 4)[0]
    for entry in range(first + 2, first + 2 + 24, 12):  # the first two tags are width and height
        value = {256: width_px, 257: height_px}[struct.unpack_from("<H", changed, entry)[0]]
        struct.pack_into("<HII", changed, entry + 2, 4, 1, value)
    return bytes(changed)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (png_of_zeros(5000, 5000), "pixels"),
        (png_of_zeros(50_000, 50_000, honest=False), "pixels"),
        (bmp_header(50_000, 50_000), "pixels"),
        (jpeg_header(50_000, 50_000), "pixels"),
        (tiff_header(50_000, 50_000), "pixels"),
        (picture()[:200], "not_a_picture"),
        (picture()[:-40], "truncated"),
        (b"\0" * 5000, "not_a_picture"),
    ],
    ids=["0 bytes", "bomb", "png header", "bmp header", "jpeg header", "tiff header", "no table", "cut off", "zeros"],
)
def test_one_bad_plane_is_put_aside_with_its_reason_and_the_other_six_are_judged(
    tmp_path: Path, clock: FakeClock, content: bytes, reason: str
) -> None:
    node = node_over(tmp_path, clock)
    write_frame(tmp_path / "inc", "1", START)
    plane_path(tmp_path / "inc", "1", START, 15).write_bytes(content)
    (reading,) = take_all(node)
    assert (reading.outcome, reading.frame.missing_planes) == (Outcome.JUDGED, (15,))
    assert set(reading.quality.flags) >= {"broken_planes", "missing_planes"}
    assert put_aside(node) == {reason: 1}


def test_names_that_could_not_stand_in_a_topic_are_refused_as_real_files_and_counted(
    tmp_path: Path, clock: FakeClock
) -> None:
    node = node_over(tmp_path, clock)
    name = "20260105T080000Z_F0.jpg"
    words = ("a+b", "a#b", "a b", "é", "胚", "e\u0301", "new\nline", "$SYS", "d" * 200, "back\\slash", "a..b")
    for word in words:
        (tmp_path / "inc" / "D1" / word).mkdir(parents=True)
        (tmp_path / "inc" / "D1" / word / name).write_bytes(picture())
    deep = tmp_path / "inc" / "/".join(["d" * 200] * 15)
    deep.mkdir(parents=True)
    (deep / name).write_bytes(picture())  # a path of over 3,000 characters
    latin = tmp_path / "inc" / "D1" / os.fsdecode(b"\xe9")
    latin.mkdir()
    (latin / name).write_bytes(picture())
    told = take_all(node)
    assert [reading.embryo.well for reading in told] == ["a..b"]  # two dots inside a word lead nowhere
    assert put_aside(node) == {"name": len(words) - 1 + 2}
    with pytest.raises(ValueError, match="null"):
        (tmp_path / "inc" / "a\0b").write_bytes(b"")  # the operating system has no such name


# -- one file a frame --------------------------------------------------------------------------------------------------


def write_stack(
    root: Path, at: datetime, pages: int = 7, level: int = 100, seed: int = 0, ending: str = "tif", **how: object
) -> Path:
    rng = np.random.default_rng(seed)
    first, *rest = (
        Image.fromarray(np.clip(rng.normal(level, 40, (24, 24)), 0, 255).astype(np.uint8)) for _ in range(pages)
    )
    path = root / "D1" / "3" / f"{at:%Y%m%dT%H%M%SZ}.{ending}"
    path.parent.mkdir(parents=True, exist_ok=True)
    first.save(path, save_all=True, append_images=rest, **how)
    return path


def test_a_stack_becomes_one_reading_of_all_planes_that_names_the_file_for_each(
    tmp_path: Path, clock: FakeClock
) -> None:
    node = node_over(tmp_path, clock, layout="tiff-stack")
    write_stack(tmp_path / "inc", START)
    (reading,) = take_all(node)
    assert (reading.outcome, reading.frame.planes, reading.quality.flags) == (Outcome.JUDGED, PLANES_UM, ())
    assert reading.frame.sources == ("D1/3/20260105T080000Z.tif",) * 7
    assert reading.occurred_at == START
    assert take_all(node) == []


def test_a_stack_is_known_after_a_restart_and_a_touch_is_nothing_new(tmp_path: Path, clock: FakeClock) -> None:
    node = node_over(tmp_path, clock, layout="tiff-stack")
    path = write_stack(tmp_path / "inc", START)
    assert len(take_all(node)) == 1
    os.utime(path, (1, 1))
    assert take_all(node) == []
    node.journal.close()
    node = node_over(tmp_path, clock, layout="tiff-stack")
    assert node.intakes["inc1"].look() == 0


def test_a_stack_of_another_number_of_pages_is_put_aside_once_and_judged_when_it_is_put_right(
    tmp_path: Path, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    node = node_over(tmp_path, clock, layout="tiff-stack")
    write_stack(tmp_path / "inc", START, pages=5)
    (lack,) = take_all(node)
    assert (lack.outcome, lack.frame.missing_planes) == (Outcome.LACKING, PLANES_UM)
    assert put_aside(node) == {"pages": 1}
    (said,) = [record for record in caplog.records if record.getMessage() == "a file is put aside"]
    assert "holds 5 pages, 7 planes are declared" in said.detail  # type: ignore[attr-defined]
    node.journal.close()
    node = node_over(tmp_path, clock, layout="tiff-stack")
    assert take_all(node) == []
    write_stack(tmp_path / "inc", START, seed=1)
    (whole,) = take_all(node)
    assert (whole.outcome, whole.revision, whole.frame.missing_planes) == (Outcome.JUDGED, 2, ())
    assert put_aside(node) == {}


def test_a_stack_with_a_damaged_page_is_judged_by_the_others_and_healed_by_a_rewrite(
    tmp_path: Path, clock: FakeClock
) -> None:
    node = node_over(tmp_path, clock, layout="tiff-stack")
    path = write_stack(tmp_path / "inc", START, compression="jpeg")
    whole = path.read_bytes()
    starts = [at for at in range(len(whole) - 1) if whole[at : at + 2] == b"\xff\xda"]
    path.write_bytes(whole[: starts[2] - 4] + bytes(30) + whole[starts[2] + 26 :])
    (first,) = take_all(node)
    assert (first.outcome, first.frame.missing_planes) == (Outcome.JUDGED, (-15,))
    assert set(first.quality.flags) == {"broken_planes", "missing_planes"}
    assert put_aside(node) == {"truncated": 1}
    path.write_bytes(whole)
    (second,) = take_all(node)
    assert (second.outcome, second.frame.planes) == (Outcome.REVISED, PLANES_UM)
    assert second.blastocyst == first.blastocyst


def test_a_second_file_of_a_stack_is_put_aside_as_a_duplicate(tmp_path: Path, clock: FakeClock) -> None:
    node = node_over(tmp_path, clock, layout="tiff-stack")
    write_stack(tmp_path / "inc", START)
    write_stack(tmp_path / "inc", START, seed=5, ending="tiff")
    (reading,) = take_all(node)
    assert set(reading.frame.sources) == {"D1/3/20260105T080000Z.tif"}
    assert put_aside(node) == {"duplicate": 1}


# -- names without a clock ---------------------------------------------------------------------------------------------


def drop(
    root: Path, run: int, at: datetime, planes_um: tuple[int, ...] = PLANES_UM, slide: str = NEW, well: int = 7
) -> list[Path]:
    """A frame of an EmbryoScope's export whose files were written one second after the other."""
    paths = []
    for number, plane_um in enumerate(planes_um):
        path = root / "T1" / f"F{plane_um}" / f"{slide}_WELL{well}_RUN{run}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(seed=zlib.crc32(f"{slide} {run} {plane_um}".encode())))
        written_s = (at + timedelta(seconds=number)).timestamp()
        os.utime(path, (written_s, written_s))
        paths.append(path)
    return paths


def scope(tmp_path: Path, clock: FakeClock, engine: ScriptedEngine | None = None, **more: object) -> Node:
    return node_over(tmp_path, clock, scripted(engine), layout="embryoscope", **more)


def embryos(told: list[Reading]) -> list[str]:
    return [reading.embryo.embryo_id for reading in told]


def test_a_frame_is_named_by_its_number_and_dated_by_its_first_file_and_says_so(
    tmp_path: Path, clock: FakeClock
) -> None:
    node = scope(tmp_path, clock, insemination=START - 20 * H)
    drop(tmp_path / "inc", 1, START)
    drop(tmp_path / "inc", 2, START + 7 * H)
    told = take_all(node)
    assert embryos(told) == ["inc1/T1/7/run1"] * 2
    assert [(r.frame.run, r.frame.captured_at, r.frame.hpi) for r in told] == [
        (1, START, 20.0),
        (2, START + 7 * H, 27.0),
    ]
    assert {(r.quality.flags, r.frame.hpi_source) for r in told} == {(("clock_from_file",), "config")}
    assert told[1].blastocyst is not None and told[1].blastocyst.state_age_h == 7.0


def test_a_touched_or_copied_frame_is_no_new_one_and_a_late_plane_keeps_the_time_that_was_told(
    tmp_path: Path, clock: FakeClock
) -> None:
    node = scope(tmp_path, clock)
    paths = drop(tmp_path / "inc", 1, START, PLANES_UM[:6])
    (first,) = take_all(node)
    for path in paths:
        os.utime(path, ((START + 90 * H).timestamp(),) * 2)
    assert take_all(node) == []
    node.journal.close()
    node = scope(tmp_path, clock)
    drop(tmp_path / "inc", 1, START + 95 * H, PLANES_UM[6:])
    (second,) = take_all(node)
    assert (second.outcome, second.revision, second.supersedes) == (Outcome.REVISED, 2, first.id)
    assert second.frame.captured_at == first.frame.captured_at == START
    assert embryos([second]) == embryos([first])


def test_files_dated_back_or_far_ahead_break_neither_the_embryo_nor_its_memory(
    tmp_path: Path, clock: FakeClock
) -> None:
    node = scope(tmp_path, clock)
    for run, hours in enumerate((0, 30, 6, 250, 36, -5, 42), start=1):
        drop(tmp_path / "inc", run, START + hours * H)
    told = take_all(node)
    assert set(embryos(told)) == {"inc1/T1/7/run1"}
    assert [reading.outcome for reading in told] == [Outcome.JUDGED] * 7
    assert [reading.frame.run for reading in told if "clock_unknown" in reading.quality.flags] == [4]


def test_a_restart_between_any_two_frames_changes_no_reading_though_only_files_tell_the_time(
    tmp_path: Path, clock: FakeClock
) -> None:
    hours = (0, 6, 4, 13, 230, 19)
    for part in ("straight", "broken"):
        (tmp_path / part).mkdir()
        for run, hour in enumerate(hours, start=1):
            drop(tmp_path / part / "inc", run, START + hour * H)
    straight = [reading.body() for reading in take_all(scope(tmp_path / "straight", clock))]
    restarted = []
    for _ in hours:
        node = scope(tmp_path / "broken", clock)
        (intake,) = node.intakes.values()
        intake.look()
        frame = intake.assemble(intake.due()[0])
        assert frame is not None
        restarted += [reading.body() for reading in node.pipeline.advance([frame]).readings]
        node.journal.close()
    assert restarted == straight


def test_numbers_that_begin_anew_with_the_next_slide_in_a_well_are_the_next_embryo(
    tmp_path: Path, clock: FakeClock
) -> None:
    node = scope(tmp_path, clock)
    for run in (1, 2, 3):
        drop(tmp_path / "inc", run, START + run * H, slide=OLD)
    assert set(embryos(take_all(node))) == {"inc1/T1/7/run1"}
    for run in (1, 2):
        drop(tmp_path / "inc", run, START + (150 + run) * H)
    new = take_all(node)
    assert embryos(new) == ["inc1/T1/7/run1.2"] * 2
    assert [(reading.outcome, reading.revision) for reading in new] == [(Outcome.JUDGED, 1)] * 2
    drop(tmp_path / "inc", 4, START + 4 * H, slide=OLD)  # a late word of the embryo before
    (late,) = take_all(node)
    assert (embryos([late]), late.outcome) == (["inc1/T1/7/run1"], Outcome.OUT_OF_ORDER)
    drop(tmp_path / "inc", 3, START + 153 * H)
    assert embryos(take_all(node)) == ["inc1/T1/7/run1.2"]


def test_an_archive_of_an_older_slide_copied_in_later_ends_nothing_and_steps_no_engine(
    tmp_path: Path, clock: FakeClock
) -> None:
    engine = ScriptedEngine()
    node = scope(tmp_path, clock, engine)
    drop(tmp_path / "inc", 1, START)
    take_all(node)
    calls = engine.calls
    for run in (1, 2):
        drop(tmp_path / "inc", run, START + run * H, slide=OLD)
    old = take_all(node)
    assert [reading.outcome for reading in old] == [Outcome.OUT_OF_ORDER] * 2
    assert (set(embryos(old)), engine.calls) == ({"inc1/T1/7/run1.2"}, calls)
    assert [row.retain for row in node.journal.outbox.pending(0, 10)] == [True, False, False]
    drop(tmp_path / "inc", 2, START + H)
    (newest,) = take_all(node)
    assert (embryos([newest]), newest.outcome) == (["inc1/T1/7/run1"], Outcome.JUDGED)


def test_a_file_dated_over_a_day_ahead_is_put_aside_by_its_time_as_a_clock_would_be(
    tmp_path: Path, clock: FakeClock
) -> None:
    node = scope(tmp_path, clock)
    drop(tmp_path / "inc", 1, START)
    drop(tmp_path / "inc", 2, clock.now() + 25 * H)
    assert [reading.frame.run for reading in take_all(node)] == [1]
    assert put_aside(node) == {"clock": 7}
    drop(tmp_path / "inc", 2, START + H)
    assert [reading.frame.run for reading in take_all(node)] == [2]
