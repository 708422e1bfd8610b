"""Faults on demand: what strikes is recorded, drawn from the seed alone, and answered by the daemon as it should be."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from monitor.config import Incubator
from monitor.layouts import PRESETS
from monitor.node import Source, build_node
from monitor.simulator import PLANES_UM, Fault, simulate
from monitor.simulator.faults import KINDS, apply
from monitor.simulator.folders import LAYOUTS, Folders
from monitor.simulator.plan import Schedule
from monitor.vocabulary import FileSeen, Reading
from tests.house import START, FakeClock, new_metrics, scripted, take_all

SCHEDULE = Schedule(START, wells=4, hours=47.0, every_min=60.0)


def struck(*texts: str, schedule: Schedule = SCHEDULE, seed: int = 7) -> tuple[list[Any], list[dict[str, Any]]]:
    return apply([Fault.parse(text) for text in texts], schedule.deliveries(), schedule, seed)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("rain", "fault 'rain' is not known: gap, "),
        ("gap=often", r"NAME\[=RATE\[:AMOUNT\]\]"),
        ("gap=1.5", "a share of moments"),
        ("gap=0.1:-2", "the amount is in hours"),
        ("truncated=0.1:1.5", "0 to 0.99"),
        ("gap=0.1:nan", "the amount"),
    ],
)
def test_a_fault_that_means_nothing_is_refused_with_what_is_allowed(text: str, says: str):
    with pytest.raises(ValueError, match=says):
        Fault.parse(text)


def test_rate_and_amount_have_defaults_of_their_kind():
    assert Fault.parse("gap") == Fault("gap", 0.01, 4.0)
    assert Fault.parse("gap=0.5") == Fault("gap", 0.5, 4.0)
    assert Fault.parse("gap=0.5:6") == Fault("gap", 0.5, 6.0)


@pytest.mark.parametrize("name", [name for name in KINDS if name != "clock-skew"])
def test_a_rate_of_0_changes_nothing_and_the_rate_is_about_kept(name: str):
    assert struck(f"{name}=0") == (SCHEDULE.deliveries(), [])
    wide = Schedule(START, wells=200, hours=9.0, every_min=60.0)
    records = struck(f"{name}=0.3:1" if KINDS[name].at_most > 1 else f"{name}=0.3", schedule=wide)[1]
    if name in ("gap", "dark"):
        assert 1 <= len(records) <= 7  # of 10 moments
    else:
        assert 0.15 < len(records) / (200 if name.endswith("wells") else 2000) < 0.45


@pytest.mark.parametrize("name", list(KINDS))
def test_every_change_is_recorded_and_every_record_is_of_a_change(name: str):
    deliveries, records = struck(f"{name}=0.4")
    assert records and all(record["fault"] == name and "amount" in record for record in records)
    untouched = set(SCHEDULE.deliveries()) & set(deliveries)
    changed = {(one.well, one.run) for one in set(SCHEDULE.deliveries()) - untouched}
    told: set[tuple[int, int]] = set()
    for record in records:
        runs = record.get("runs") or ([record["run"]] if "planes_um" in record else range(record.get("run", 1), 49))
        wells = [record["well"]] if "well" in record else range(1, 5)
        told |= {(well, run) for well in wells for run in runs}
    assert changed == told


def test_faults_of_a_moment_do_not_depend_on_more_wells_more_hours_or_the_order_they_are_named_in():
    texts = ("truncated=0.2", "late-planes=0.2", "gap=0.05:3")
    small = struck(*texts)[1]
    large = struck(*reversed(texts), schedule=Schedule(START, wells=6, hours=80.0, every_min=60.0))[1]
    frames = [record for record in small if "well" in record]
    assert frames and all(record in large for record in frames)
    assert struck(*texts, seed=8)[1] != small


def test_deliveries_stand_in_the_order_they_are_due():
    deliveries, _ = struck("out-of-order=0.2", "late-planes=0.2")
    assert [one.due_at for one in deliveries] == sorted(one.due_at for one in deliveries)
    assert any(one.due_at > one.at for one in deliveries)


def test_a_gap_ends_before_the_next_begins():
    records = struck("gap=0.5:5")[1]
    assert len(records) > 3
    assert all(a["until"] <= b["from"] for a, b in pairwise(records))


@dataclass
class Watched:
    """An incubator with faults, and a daemon that looks at its folder while it writes; an hour passes in a second."""

    root: Path
    faults: tuple[str, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    hours: float = 11.0
    told: list[Reading] = field(default_factory=list)
    put_aside: Counter[str] = field(default_factory=Counter)

    def run(self) -> dict[tuple[int, int], dict[str, Any]]:
        """The records of what went wrong, by well and run where they are about a frame, else by 0 and their number."""
        clock, passed = FakeClock(), [0.0]
        (self.root / "inc").mkdir()
        metrics = new_metrics(clock)
        settings = {"stable_s": 0, "deadline_s": 600, "cadence_min": 60.0, **self.settings}
        one = Incubator.model_validate({"name": "inc1", "path": self.root / "inc", **settings})
        node = build_node("lab", "box", [Source(one)], scripted(), self.root / "store", "boot1", clock, metrics)

        def sleep(seconds: float) -> None:
            passed[0] += seconds
            for _ in range(steps := max(round(12 * seconds), 1)):  # a look each 5 minutes or so
                clock.pass_s(3600 * seconds / steps)
                self.told.extend(take_all(node))

        simulate(
            self.root / "inc", start=START, embryos=2, hours=self.hours, seed=3, size_px=32, speed=3600.0,
            faults=[Fault.parse(text) for text in self.faults], sleep=sleep, monotonic=lambda: passed[0],
        )  # fmt: skip
        for _ in range(4):
            sleep(0.3)
        counted = [sample for family in metrics.registry.collect() for sample in family.samples]
        for sample in counted:
            if sample.name == "pellucid_files_quarantined_total" and sample.value:
                self.put_aside[sample.labels["reason"]] = int(sample.value)
        records = json.loads((self.root / "inc" / "truth" / "faults.json").read_text())
        assert records, "the fault never struck: nothing would be tested"
        return {(r.get("well", 0), r.get("run", n)) if "planes_um" in r else (0, n): r for n, r in enumerate(records)}

    def by_frame(self) -> dict[tuple[int, int], list[Reading]]:
        """The readings of each well and moment, in the order they were told."""
        found: dict[tuple[int, int], list[Reading]] = {}
        for reading in self.told:
            assert reading.occurred_at is not None
            run = round((reading.occurred_at - START) / timedelta(hours=1)) + 1
            found.setdefault((int(reading.embryo.well), run), []).append(reading)
        return found


def test_the_daemon_names_the_planes_that_never_came(tmp_path: Path):
    watched = Watched(tmp_path, ("missing-planes=0.3:2",))
    records = watched.run()
    for frame, readings in watched.by_frame().items():
        lost = records[frame]["planes_um"] if frame in records else []
        assert [list(reading.frame.missing_planes) for reading in readings] == [lost]
        assert readings[0].outcome == "judged"
    assert len(watched.by_frame()) == 24


def test_the_daemon_judges_without_late_planes_and_revises_when_they_come(tmp_path: Path):
    watched = Watched(tmp_path, ("late-planes=0.3:30",))
    records = watched.run()
    for frame, readings in watched.by_frame().items():
        if frame not in records:
            assert [reading.outcome for reading in readings] == ["judged"]
            continue
        late = records[frame]["planes_um"]
        expected = ["lacking", "judged"] if len(late) > 2 else ["judged", "revised"]  # 5 planes at least are judged
        assert [reading.outcome for reading in readings] == expected
        assert [list(reading.frame.missing_planes) for reading in readings] == [late, []]


def test_the_daemon_puts_truncated_files_aside_and_judges_the_other_planes(tmp_path: Path):
    watched = Watched(tmp_path, ("truncated=0.3",))
    records = watched.run()
    for frame, readings in watched.by_frame().items():
        cut = records[frame]["planes_um"] if frame in records else []
        assert ("broken_planes" in readings[-1].quality.flags) == bool(cut)
        assert set(PLANES_UM) - set(readings[-1].frame.planes) == set(cut)
    assert watched.put_aside["truncated"] == len(records)


def test_the_daemon_puts_a_second_file_of_a_plane_aside(tmp_path: Path):
    watched = Watched(tmp_path, ("duplicates=0.3",))
    records = watched.run()
    assert watched.put_aside == {"duplicate": len(records)}
    assert {readings[-1].outcome for readings in watched.by_frame().values()} == {"judged"}


def test_the_daemon_tells_a_frame_out_of_order_as_such(tmp_path: Path):
    watched = Watched(tmp_path, ("out-of-order=0.2:2",))
    records = watched.run()
    late = {frame for frame, record in records.items() if frame[1] <= 10}
    assert late
    for frame, readings in watched.by_frame().items():
        after = {(frame[0], run) for run in range(frame[1] + 1, frame[1] + 3) if run <= 12}
        expected = "out_of_order" if frame in late and after - set(records) else "judged"
        assert readings[0].outcome == expected, frame


def test_the_daemon_flags_the_first_frame_after_a_gap(tmp_path: Path):
    watched = Watched(tmp_path, ("gap=0.2:3",), hours=23.0)
    lost = {run for record in watched.run().values() for run in record["runs"]}
    first_after = {run + 1 for run in lost if run + 1 not in lost and set(range(1, run)) - lost}
    assert first_after & set(range(1, 25))
    for (_, run), readings in watched.by_frame().items():
        assert ("after_gap" in readings[0].quality.flags) == (run in first_after)
        assert run not in lost


@pytest.mark.parametrize(("fault", "flag"), [("dark=0.15:3", "dark"), ("blank-wells=0.6:4", "blank")])
def test_the_daemon_judges_no_picture_without_light_or_well(tmp_path: Path, fault: str, flag: str):
    watched = Watched(tmp_path, (fault,))
    records = list(watched.run().values())
    for (well, run), readings in watched.by_frame().items():
        struck = any(
            run in record["runs"] if flag == "dark" else well == record["well"] and run > 4 for record in records
        )
        assert (flag in readings[0].quality.flags) == struck
        assert readings[0].outcome == ("unfit" if struck else "judged")


def test_the_daemon_takes_a_known_clock_skew_off_the_hour(tmp_path: Path):
    watched = Watched(tmp_path, ("clock-skew=1:420",), {"clock_skew_s": 420, "insemination": START})
    assert next(iter(watched.run().values()))["run"] == 1
    for (_, run), readings in watched.by_frame().items():
        assert readings[0].occurred_at == START + timedelta(hours=run - 1, seconds=420)
        assert readings[0].frame.hpi == pytest.approx(run - 1, abs=1e-6)


def test_an_empty_well_looks_like_a_well_and_not_like_an_embryo(tmp_path: Path):
    for name in ("with", "without"):
        faults = [Fault("empty-wells", 1.0, 0.0)] if name == "without" else []
        simulate(tmp_path / name, start=START, embryos=1, hours=0, first_hpi_h=30, size_px=96, faults=faults)
    there, gone = (cv2.imread(str(next((tmp_path / name).glob("D1/1/*_F0.jpg"))), 0) for name in ("with", "without"))
    assert gone.std() > 8  # the ring and what lies outside of it are there
    sharp = [cv2.Laplacian(picture, cv2.CV_64F)[28:68, 28:68].std() for picture in (there, gone)]
    assert sharp[0] > 1.5 * sharp[1]


def test_a_run_with_faults_that_was_stopped_goes_on_to_the_same_bytes(tmp_path: Path):
    def run(out: Path, stop_after: int = 10**6) -> None:
        left = [stop_after]

        def stop() -> bool:
            left[0] -= 1
            return left[0] < 0

        faults = [Fault.parse(f"{name}=0.3") for name in KINDS if name != "gap"]
        simulate(out, start=START, embryos=2, hours=5, seed=1, size_px=48, faults=faults, stop=stop)

    run(tmp_path / "whole")
    run(tmp_path / "cut", stop_after=5)
    run(tmp_path / "cut")
    files = [{p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file()}
             for root in (tmp_path / "whole", tmp_path / "cut")]  # fmt: skip
    assert files[0] == files[1] and len(files[0]) > 80


@pytest.mark.parametrize("layout", LAYOUTS)
def test_names_of_every_layout_are_read_back_as_the_place_plane_and_moment_they_were_written_for(
    tmp_path: Path, layout: str
):
    if layout not in PRESETS:
        pytest.skip(f"this version does not read the layout {layout}")
    simulate(tmp_path, start=START, embryos=2, hours=2.0, seed=4, size_px=32, layout=layout)
    files = [p for p in sorted(tmp_path.rglob("*")) if p.is_file() and "truth" not in p.parts]
    read = [
        PRESETS[layout].read("inc1", tmp_path, FileSeen(p.relative_to(tmp_path).as_posix(), 1, p.stat().st_mtime_ns))
        for p in files
    ]
    planes = [plane for plane in read if plane is not None]
    per_moment = 1 if layout == "tiff-stack" else len(PLANES_UM)
    moments = 1 if layout == "single-moment" else 3
    assert len(planes) == 2 * moments * per_moment
    assert len({(plane.place, plane.moment) for plane in planes}) == 2 * moments
    if per_moment > 1:
        assert {plane.plane_um for plane in planes} == set(PLANES_UM)
    if layout == "nantes":
        assert sorted({plane.moment.hours for plane in planes}) == [0.0, 1.0, 2.0]


def test_a_tiff_holds_a_page_a_plane_in_ascending_order(tmp_path: Path):
    for layout in ("generic", "tiff-stack"):
        simulate(tmp_path / layout, start=START, embryos=1, hours=0, first_hpi_h=40, size_px=64, layout=layout)
    ok, pages = cv2.imreadmulti(str(next((tmp_path / "tiff-stack").glob("D1/1/*.tif"))), flags=cv2.IMREAD_UNCHANGED)
    assert ok and len(pages) == len(PLANES_UM)
    for plane_um, page in zip(PLANES_UM, pages, strict=True):
        plane = cv2.imread(str(next((tmp_path / "generic").glob(f"D1/1/*_F{plane_um}.jpg"))), cv2.IMREAD_UNCHANGED)
        assert np.abs(plane.astype(int) - page.astype(int)).mean() < 2  # the same picture but for JPEG


def test_files_of_an_embryoscope_carry_the_time_of_their_picture(tmp_path: Path):
    simulate(tmp_path, start=START, embryos=1, hours=1.0, size_px=32, layout="embryoscope",
             faults=[Fault("clock-skew", 1.0, 60.0)])  # fmt: skip
    times = {p.stat().st_mtime for p in tmp_path.glob("D1/F0/*_WELL1_RUN*.jpg")}
    assert times == {(START + timedelta(hours=h, seconds=60)).timestamp() for h in (0, 1)}


@pytest.mark.parametrize(
    ("layout", "fault", "says"),
    [
        ("nantes", "clock-skew", "nothing in layout 'nantes' tells the clock"),
        ("tiff-stack", "late-planes", "come in one file"),
        ("polaroid", "gap", "layout 'polaroid' is not one that can be written"),
    ],
)
def test_what_a_layout_cannot_show_is_refused(tmp_path: Path, layout: str, fault: str, says: str):
    with pytest.raises(ValueError, match=says):
        simulate(tmp_path, start=START, embryos=1, hours=0, layout=layout, faults=[Fault.parse(fault)])


def test_a_fault_named_twice_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="'gap' is named twice"):
        simulate(tmp_path, start=START, hours=0, faults=[Fault.parse("gap"), Fault.parse("gap=0.3")])


def test_a_second_file_has_another_name_in_every_layout():
    schedule = Schedule(START, wells=1, hours=0, every_min=1)
    for layout in LAYOUTS:
        folders = Folders(layout, "D1", START, 0)
        for file in folders.files(schedule.deliveries()[0]):
            assert folders.second(file).path != file.path
            assert folders.second(file).planes_um == file.planes_um
