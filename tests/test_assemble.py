"""Planes to stacks: what waits, what goes on without a plane, and that no arrival order changes a stack."""

import itertools
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from monitor.assemble import RETRY_S, Assembled, Assembler
from monitor.errors import FrameError, StorageError
from monitor.intake import Intake
from monitor.journal import Journal
from monitor.layouts import Layout, layout
from monitor.vocabulary import FileSeen, Moment, Place, PlaneFile
from tests.house import START, FakeClock

PLANES_UM = (-15, 0, 15)
DEADLINE_S = 120.0
WELL_1, WELL_2 = Place("inc1", "D1", "1"), Place("inc1", "D1", "2")


class Desk:
    """An assembler over a folder; frames are numbered, `now_s` is set by the test."""

    def __init__(self, root: Path, planes_um=PLANES_UM, allowed=(1, 2, 3), earlier=lambda place, moment: ()) -> None:
        self.root, self.now_s, self._stamps = root, 0.0, itertools.count(1)
        self.assembler = Assembler(root, planes_um, allowed, DEADLINE_S, earlier)

    def file(self, run: int, plane_um: int, place: Place = WELL_1, level: int = 100, size=(8, 8), end=".png"):
        """A plane on disk."""
        path = f"{place.well}_{run}_{plane_um}{end}"
        Image.fromarray(np.full(size, level, np.uint8)).save(self.root / path)
        return self.seen(path, run, plane_um, place)

    def broken(self, run: int, plane_um: int, content: bytes = b"\x89PNG\r\n\x1a\n half a picture") -> PlaneFile:
        path = f"1_{run}_{plane_um}.png"
        (self.root / path).write_bytes(content)
        return self.seen(path, run, plane_um, WELL_1)

    def seen(self, path: str, run: int, plane_um: int, place: Place) -> PlaneFile:
        return PlaneFile(place, Moment(run=run), plane_um, FileSeen(path, 1, next(self._stamps)))

    def add(self, *files: PlaneFile) -> None:
        for file in files:
            self.assembler.add(file, self.now_s)

    def due(self) -> list[tuple[Place, str]]:
        return self.assembler.due(self.now_s)

    def gone_on(self) -> list[Assembled]:
        """All frames that go on now, in their order."""
        frames = []
        while names := self.due():
            made = [frame for name in names if (frame := self.assembler.assemble(name, self.now_s)) is not None]
            if not made:
                break
            for frame in made:
                self.assembler.done(frame.name)
            frames += made
        return frames

    def one(self) -> Assembled:
        (frame,) = self.gone_on()
        return frame


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def planes(frame: Assembled) -> list[int]:
    return [image.source.plane_um for image in frame.stack.images]


def reasons(frame: Assembled) -> dict[str, str]:
    return {file.path: fault.reason for file, fault in frame.files_aside}


def test_all_planes_make_a_complete_stack_in_ascending_order(desk):
    desk.add(desk.file(1, 15, level=30), desk.file(1, -15, level=10), desk.file(1, 0, level=20))
    frame = desk.one()
    assert planes(frame) == [-15, 0, 15]
    assert [int(image.gray[0, 0]) for image in frame.stack.images] == [10, 20, 30]
    assert (frame.stack.missing_um, frame.stack.broken, frame.stack.lacking) == ((), (), False)
    assert (frame.quarantined, frame.unread) == ((), ())
    assert len(desk.assembler) == 0


def test_an_incomplete_frame_waits_until_the_deadline_and_then_goes_on_with_what_there_is(desk):
    desk.add(desk.file(1, 0))
    desk.now_s = 60.0
    desk.add(desk.file(1, 15))
    desk.now_s = DEADLINE_S - 0.1
    assert desk.due() == []
    assert desk.assembler.oldest_since() == 0.0
    desk.now_s = DEADLINE_S
    frame = desk.one()
    assert (planes(frame), frame.stack.missing_um, frame.stack.lacking) == ([0, 15], (-15,), False)
    assert desk.assembler.oldest_since() is None


def test_a_frame_of_fewer_planes_than_the_models_judge_is_lacking(tmp_path):
    desk = Desk(tmp_path, allowed=(1, 3))
    desk.add(desk.file(1, 0), desk.file(1, 15))
    desk.now_s = DEADLINE_S
    frame = desk.one()
    assert (frame.stack.missing_um, frame.stack.lacking) == ((-15,), True)
    assert planes(frame) == [0, 15]


def test_a_broken_plane_is_waited_for_and_put_aside_at_the_deadline_with_its_reason(desk):
    desk.add(desk.file(1, -15), desk.broken(1, 0), desk.file(1, 15))
    assert desk.gone_on() == []
    assert desk.due() == []
    desk.now_s = DEADLINE_S
    frame = desk.one()
    assert (planes(frame), frame.stack.missing_um) == ([-15, 15], (0,))
    assert frame.stack.broken == ("1_1_0.png",)
    assert reasons(frame) == {"1_1_0.png": "not_a_picture"}


def test_an_empty_plane_is_named_empty(desk):
    desk.add(desk.file(1, -15), desk.broken(1, 0, b""), desk.file(1, 15))
    desk.now_s = DEADLINE_S
    assert reasons(desk.one()) == {"1_1_0.png": "empty"}


def test_a_broken_plane_that_is_rewritten_heals_the_stack(desk):
    desk.add(desk.file(1, -15), desk.broken(1, 0), desk.file(1, 15))
    assert desk.gone_on() == []
    desk.add(desk.file(1, 0))
    frame = desk.one()
    assert (planes(frame), frame.stack.broken, frame.quarantined) == ([-15, 0, 15], (), ())


def test_a_frame_with_no_readable_plane_is_lacking(desk):
    desk.add(*(desk.broken(1, plane_um) for plane_um in PLANES_UM))
    desk.now_s = DEADLINE_S
    frame = desk.one()
    assert (frame.stack.images, frame.stack.missing_um, frame.stack.lacking) == ((), PLANES_UM, True)
    assert frame.stack.complete_at is None
    assert set(reasons(frame).values()) == {"not_a_picture"}


# -- order -------------------------------------------------------------------------------------------------------------


def test_a_newer_frame_waits_for_the_older_of_its_embryo_but_not_for_another_embryos(desk):
    desk.add(desk.file(1, 0))
    desk.add(*(desk.file(2, plane_um) for plane_um in PLANES_UM))
    desk.add(*(desk.file(2, plane_um, WELL_2) for plane_um in PLANES_UM))
    assert [frame.name for frame in desk.gone_on()] == [(WELL_2, "run2")]
    desk.add(desk.file(1, -15), desk.file(1, 15))
    assert [frame.name for frame in desk.gone_on()] == [(WELL_1, "run1"), (WELL_1, "run2")]


def test_a_newer_frame_goes_on_after_the_deadline_of_the_older(desk):
    desk.add(desk.file(1, 0))
    desk.now_s = DEADLINE_S - 1
    desk.add(*(desk.file(2, plane_um) for plane_um in PLANES_UM))
    assert desk.due() == []
    desk.now_s = DEADLINE_S
    assert [frame.name[1] for frame in desk.gone_on()] == ["run1", "run2"]


def test_due_frames_come_in_order_of_moment_and_place_one_of_each_embryo(desk):
    for run, place in ((10, WELL_1), (9, WELL_2), (9, WELL_1), (8, WELL_2)):
        desk.add(*(desk.file(run, plane_um, place) for plane_um in PLANES_UM))
    assert desk.due() == [(WELL_2, "run8"), (WELL_1, "run9")]


# -- files that do not belong ------------------------------------------------------------------------------------------


def test_a_plane_that_is_not_declared_is_refused(desk):
    with pytest.raises(FrameError) as fault:
        desk.add(desk.file(1, 30))
    assert fault.value.reason == "plane"
    assert "[-15, 0, 15]" in fault.value.detail
    assert len(desk.assembler) == 0


def test_a_second_file_for_a_plane_is_put_aside_once_and_the_first_stays(desk):
    rival = desk.file(1, 0, level=99, end=".bmp")
    desk.add(desk.file(1, 0, level=50), rival, rival, desk.file(1, -15), desk.file(1, 15))
    frame = desk.one()
    assert int(frame.stack.images[1].gray[0, 0]) == 50
    assert [(file.path, fault.reason) for file, fault in frame.files_aside] == [("1_1_0.bmp", "duplicate")]


@pytest.mark.parametrize("odd_um", PLANES_UM)
def test_the_plane_whose_size_is_not_that_of_the_others_is_put_aside(desk, odd_um):
    desk.add(*(desk.file(1, plane_um, size=(4, 4) if plane_um == odd_um else (8, 8)) for plane_um in PLANES_UM))
    assert desk.gone_on() == []
    desk.now_s = DEADLINE_S
    frame = desk.one()
    assert frame.stack.missing_um == (odd_um,)
    assert reasons(frame) == {f"1_1_{odd_um}.png": "size"}


def test_planes_that_are_rewritten_one_by_one_in_another_size_make_a_whole_stack(desk):
    desk.add(desk.file(1, -15, size=(4, 4)), desk.file(1, 0), desk.file(1, 15))
    assert desk.gone_on() == []
    desk.add(desk.file(1, 0, size=(4, 4)))
    assert desk.gone_on() == []
    desk.add(desk.file(1, 15, size=(4, 4)))
    assert planes(desk.one()) == [-15, 0, 15]


# -- late planes and shares that go away -------------------------------------------------------------------------------


def test_a_late_plane_meets_the_earlier_files_of_its_frame(tmp_path):
    desk = Desk(tmp_path)
    before = [desk.file(1, -15), desk.file(1, 0)]
    desk = Desk(tmp_path, earlier=lambda place, moment: before if moment.run == 1 else ())
    desk.add(desk.file(1, 15))
    assert planes(desk.one()) == [-15, 0, 15]


def test_a_rewritten_file_takes_the_place_of_its_earlier_self(tmp_path):
    desk = Desk(tmp_path)
    before = [desk.file(1, plane_um, level=10) for plane_um in PLANES_UM]
    desk = Desk(tmp_path, earlier=lambda place, moment: before)
    desk.add(desk.file(1, 0, level=20))
    frame = desk.one()
    assert [int(image.gray[0, 0]) for image in frame.stack.images] == [10, 20, 10]
    assert frame.quarantined == ()


def test_a_vanished_file_is_missing_but_not_put_aside_so_that_it_may_come_back(desk):
    files = [desk.file(1, plane_um) for plane_um in PLANES_UM]
    desk.add(*files)
    (desk.root / files[1].file.path).unlink()
    assert desk.gone_on() == []
    desk.now_s = DEADLINE_S
    frame = desk.one()
    assert (planes(frame), frame.stack.missing_um, frame.stack.broken) == ([-15, 15], (0,), ())
    assert frame.quarantined == ()
    assert [(plane, fault.reason) for plane, fault in frame.unread] == [(files[1], "vanished")]


def test_a_share_that_is_away_for_a_while_costs_no_plane(desk):
    files = [desk.file(1, plane_um) for plane_um in PLANES_UM]
    desk.add(*files)
    away = desk.root.rename(desk.root.with_name("away"))
    assert desk.gone_on() == []
    desk.now_s = RETRY_S / 2
    assert desk.due() == []  # not tried again at every turn
    away.rename(desk.root)
    desk.now_s = RETRY_S
    frame = desk.one()
    assert (planes(frame), frame.stack.missing_um, frame.unread) == ([-15, 0, 15], (), ())


def test_a_share_that_is_back_just_before_the_deadline_is_tried_once_more(desk):
    desk.add(*(desk.file(1, plane_um) for plane_um in PLANES_UM))
    away = desk.root.rename(desk.root.with_name("away"))
    desk.now_s = DEADLINE_S - 0.1
    assert desk.gone_on() == []
    away.rename(desk.root)
    desk.now_s = DEADLINE_S
    assert planes(desk.one()) == [-15, 0, 15]


FRAMES = [(place, run, plane_um) for place in (WELL_1, WELL_2) for run in (1, 2, 3) for plane_um in PLANES_UM]


@settings(max_examples=40, deadline=None)
@given(st.permutations(FRAMES), st.sets(st.sampled_from(FRAMES), max_size=4))
def test_any_order_of_arrival_gives_the_same_stacks(tmp_path_factory, order, never_come):
    desk = Desk(tmp_path_factory.getbasetemp())
    for place, run, plane_um in order:
        if (place, run, plane_um) not in never_come:
            path = f"{place.well}_{run}_{plane_um}"
            desk.add(PlaneFile(place, Moment(run=run), plane_um, FileSeen(path, 1, 1)))
    desk.assembler._read = lambda path: (np.zeros((2, 2), np.uint8), path.name)
    frames = desk.gone_on()
    desk.now_s = DEADLINE_S
    frames += desk.gone_on()
    for place in (WELL_1, WELL_2):
        mine = [frame for frame in frames if frame.stack.place == place]
        told = {frame.stack.moment.run: [image.digest for image in frame.stack.images] for frame in mine}
        expected = {
            run: files
            for run in (1, 2, 3)
            if (
                files := [
                    f"{place.well}_{run}_{plane_um}"
                    for plane_um in PLANES_UM
                    if (place, run, plane_um) not in never_come
                ]
            )
        }
        assert told == expected
        assert list(told) == sorted(told)


# -- one incubator's way in: the folder, the names and the assembler together ------------------------------------------


class Inlet:
    """An intake over a folder with a real journal; looks until what is there is finished."""

    def __init__(self, tmp_path: Path) -> None:
        self.root, self.clock, self.counted = tmp_path / "incubator", FakeClock(START + timedelta(days=60)), []
        self.root.mkdir()
        self.journal = Journal(tmp_path / "journal", None)
        self.intake = Intake(
            *("inc1", self.root, layout("generic"), PLANES_UM, (1, 2, 3), self.journal, self.clock),
            stable_s=2.0,
            deadline_s=DEADLINE_S,
            count_quarantine=self.counted.append,
        )

    def write(self, plane_um: int) -> Path:
        path = self.root / f"D1/1/20260131T061000Z_F{plane_um}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), 100, np.uint8)).save(path)
        return path

    def look_twice(self) -> None:
        for _ in range(2):
            self.intake.look()
            self.clock.pass_s(2.0)


@pytest.fixture
def inlet(tmp_path: Path):
    inlet = Inlet(tmp_path)
    yield inlet
    inlet.journal.close()


def test_a_frame_whose_folder_went_away_until_after_its_deadline_comes_again_when_it_is_back(inlet):
    for plane_um in PLANES_UM:
        inlet.write(plane_um)
    inlet.look_twice()
    away = inlet.root.rename(inlet.root.with_name("away"))
    inlet.clock.pass_s(DEADLINE_S)
    (name,) = inlet.intake.due()
    frame = inlet.intake.assemble(name)
    assert frame.stack.lacking
    inlet.intake.done(frame)
    assert (inlet.counted, inlet.intake.idle) == ([], True)
    away.rename(inlet.root)
    inlet.intake.look(full=True)
    inlet.look_twice()
    (name,) = inlet.intake.due()
    assert planes(inlet.intake.assemble(name)) == [-15, 0, 15]


def test_a_share_that_goes_away_between_looking_and_reading_names_loses_no_file(inlet, monkeypatch):
    for plane_um in PLANES_UM:
        inlet.write(plane_um)
    (inlet.root / "no frame.png").write_bytes(b"x")
    inlet.intake.look()
    inlet.clock.pass_s(2.0)
    with monkeypatch.context() as patch:
        patch.setattr(Layout, "read", raising(OSError(5, "Input/output error")))
        with pytest.raises(OSError, match="Input"):
            inlet.intake.look()
    inlet.look_twice()
    (name,) = inlet.intake.due()
    assert planes(inlet.intake.assemble(name)) == [-15, 0, 15]
    assert inlet.counted == ["name"]


def test_a_journal_that_cannot_be_written_loses_no_file_and_counts_it_once(inlet, monkeypatch):
    (inlet.root / "no frame.png").write_bytes(b"x")
    inlet.write(0)
    inlet.intake.look()
    inlet.clock.pass_s(2.0)
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "put_aside", raising(StorageError("disk full")))
        with pytest.raises(StorageError):
            inlet.intake.look()
    inlet.look_twice()
    assert inlet.counted == ["name"]
    inlet.clock.pass_s(DEADLINE_S)
    (name,) = inlet.intake.due()
    assert planes(inlet.intake.assemble(name)) == [0]


def raising(fault: Exception):
    def fails(*_: object) -> None:
        raise fault

    return fails


# -- one file, many planes ---------------------------------------------------------------------------------------------


def stacked(planes_um=PLANES_UM, run: int = 1, mtime_ns: int = 1, end: str = "tif") -> list[PlaneFile]:
    file = FileSeen(f"{run}.{end}", 1, mtime_ns)
    return [PlaneFile(WELL_1, Moment(run=run), plane_um, file, page) for page, plane_um in enumerate(planes_um)]


def pages_read(desk: Desk, pages) -> list[Path]:
    """The desk's files hold these pages; gives the list of what was opened."""
    opened: list[Path] = []

    def read(path: Path, count: int):
        opened.append(path)
        if isinstance(pages, FrameError):
            raise pages
        return pages[:count], "digest"

    desk.assembler._read_pages = read
    return opened


def test_a_stack_is_opened_once_and_gives_each_page_to_its_plane(desk):
    opened = pages_read(desk, [np.full((4, 4), level, np.uint8) for level in (10, 20, 30)])
    desk.add(*stacked())
    frame = desk.one()
    assert opened == [desk.root / "1.tif"]
    assert [(image.source.plane_um, int(image.gray[0, 0])) for image in frame.stack.images] == [
        *((-15, 10), (0, 20), (15, 30)),
    ]
    assert {image.digest for image in frame.stack.images} == {"digest"}


def test_a_damaged_page_is_waited_for_and_then_the_others_go_on(desk):
    whole = np.full((4, 4), 10, np.uint8)
    pages_read(desk, [whole, FrameError("truncated", "page 2"), whole])
    desk.add(*stacked())
    assert desk.gone_on() == []
    desk.now_s = DEADLINE_S
    frame = desk.one()
    assert (planes(frame), frame.stack.missing_um, frame.stack.broken) == ([-15, 15], (0,), ("1.tif",))
    assert [(plane.page, fault.reason) for plane, fault in frame.quarantined] == [(1, "truncated")]


def test_a_stack_that_cannot_be_used_at_all_is_put_aside_once_however_many_planes_it_stands_for(desk):
    pages_read(desk, FrameError("pages", "1.tif holds 5 pages, 3 planes are declared"))
    desk.add(*stacked())
    desk.now_s = DEADLINE_S
    frame = desk.one()
    assert (frame.stack.lacking, frame.stack.missing_um, frame.stack.broken) == (True, PLANES_UM, ("1.tif",))
    assert [(file.path, fault.reason) for file, fault in frame.files_aside] == [("1.tif", "pages")]
    assert len(frame.quarantined) == 3  # a record for each page, so that none of an older version is left


def test_a_second_stack_for_a_frame_is_put_aside_once(desk):
    pages_read(desk, [np.full((4, 4), 10, np.uint8)] * 3)
    desk.add(*stacked(), *stacked(end="tiff"))
    assert [(file.path, fault.reason) for file, fault in desk.one().files_aside] == [("1.tiff", "duplicate")]


# -- time and identity where names hold no clock -----------------------------------------------------------------------


def numbered(desk: Desk, plane_um: int, at: datetime, slide: str = "S1", run: int = 1, place: Place = WELL_1):
    """A plane on disk whose file was written at `at`."""
    path = f"{slide}_{run}_{plane_um}.png"
    Image.fromarray(np.full((4, 4), 9, np.uint8)).save(desk.root / path)
    file = FileSeen(path, 1, int(at.timestamp()) * 10**9 + 999)
    return PlaneFile(place, Moment(run=run, slide=slide, file_at=at), plane_um, file)


@given(st.permutations(PLANES_UM))
@settings(max_examples=6, deadline=None)
def test_a_frame_without_a_clock_is_dated_by_its_first_file_in_whatever_order_they_come(tmp_path_factory, order):
    desk = Desk(tmp_path_factory.getbasetemp())
    desk.add(*(numbered(desk, plane_um, START + timedelta(seconds=plane_um)) for plane_um in order))
    assert desk.one().stack.moment.file_at == START - timedelta(seconds=15)


def test_the_same_frame_number_of_two_slides_makes_two_frames_the_older_slide_first(desk):
    for slide in ("D2026.02.01_S2", "D2026.01.01_S1"):
        desk.add(*(numbered(desk, plane_um, START, slide) for plane_um in PLANES_UM))
    desk.add(*(numbered(desk, plane_um, START, "D2026.01.01_S1", run=2) for plane_um in PLANES_UM))
    told = [(frame.stack.moment.slide, frame.stack.moment.key) for frame in desk.gone_on()]
    assert told == [("D2026.01.01_S1", "run1"), ("D2026.01.01_S1", "run2"), ("D2026.02.01_S2", "run1")]
