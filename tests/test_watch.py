"""Finished and new files: none missed, none twice, whatever the share does. Time is a number the test sets."""

import errno
import logging
import os
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import monitor.watch
from monitor.watch import FOLDER_SETTLES_S, LAST_NS, Watch, probe

STABLE_S = 2.0


class Folder:
    """A folder, a watch over it, and the seconds that pass."""

    def __init__(self, root: Path, stable_s: float = STABLE_S) -> None:
        self.root, self.now_s = root, 1000.0
        self.watch = Watch(root, {}, stable_s, lambda: self.now_s)

    def write(self, path: str, content: bytes = b"x", mtime_s: int | None = None) -> Path:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        if mtime_s is not None:
            os.utime(file, (mtime_s, mtime_s))
        return file

    def look(self, after_s: float = 0.0, full: bool = False) -> list[str]:
        self.now_s += after_s
        return [file.path for file in self.watch.look(full)]

    def settle(self) -> None:
        """Look until nothing is new and every folder has stood still for long."""
        for _ in range(4):
            self.look(FOLDER_SETTLES_S)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    (tmp_path / "incubator").mkdir()
    return Folder(tmp_path / "incubator")


def old(path: Path) -> None:
    """The folder's time of change is as it was: what a coarse or cached file system shows."""
    os.utime(path, (1_600_000_000, 1_600_000_000))


def test_files_that_were_there_before_are_found_by_the_first_looks(folder):
    folder.write("D1/1/a.jpg")
    assert folder.look() == []
    assert folder.watch.unsettled == 1
    assert folder.look(STABLE_S) == ["D1/1/a.jpg"]
    assert folder.watch.unsettled == 0


def test_a_file_is_finished_only_when_unchanged_over_two_looks_and_quiet_for_long_enough(folder):
    folder.write("a.jpg")
    assert folder.look(1000.0) == []
    assert folder.look(STABLE_S - 0.1) == []
    assert folder.look(0.1) == ["a.jpg"]
    assert folder.look(1000.0) == []


def test_recorded_folders_are_taken_at_the_first_look(tmp_path):
    folder = Folder(tmp_path, stable_s=0.0)
    folder.write("b.jpg")
    folder.write("a.jpg")
    assert folder.look() == ["a.jpg", "b.jpg"]
    assert folder.look() == []


def test_a_file_written_in_ten_pieces_is_handed_out_once_when_it_is_finished(folder):
    for piece in range(1, 11):
        folder.write("a.jpg", b"x" * piece)
        assert folder.look(STABLE_S) == []
    assert folder.look(STABLE_S) == ["a.jpg"]
    assert folder.watch.look() == []


def test_what_is_handed_out_tells_size_and_time(folder):
    folder.write("a.jpg", b"abc", mtime_s=1_700_000_000)
    folder.look()
    folder.now_s += STABLE_S
    (file,) = folder.watch.look()
    assert (file.size_bytes, file.mtime_ns) == (3, 1_700_000_000 * 10**9)


def test_a_file_renamed_into_place_is_handed_out_under_its_last_name_only(folder):
    part = folder.write("a.jpg.part")
    folder.look()
    part.rename(folder.root / "a.jpg")
    assert folder.look(STABLE_S) == []
    assert folder.look(STABLE_S) == ["a.jpg"]
    assert folder.watch.unsettled == 0


@pytest.mark.parametrize("content", [b"x", b"other"])
def test_touched_and_rewritten_files_are_handed_out_again(folder, content):
    folder.write("a.jpg", mtime_s=1_700_000_000)
    folder.look()
    folder.look(STABLE_S)
    folder.write("a.jpg", content, mtime_s=1_700_000_100)
    assert folder.look() == []
    assert folder.look(STABLE_S) == ["a.jpg"]


def test_a_file_that_is_again_what_it_was_is_not_waited_for(folder):
    folder.write("a.jpg", mtime_s=1_700_000_000)
    folder.look()
    folder.look(STABLE_S)
    folder.write("a.jpg", b"other", mtime_s=1_700_000_001)
    folder.look()
    folder.write("a.jpg", mtime_s=1_700_000_000)
    assert folder.look(STABLE_S) == []
    assert folder.watch.unsettled == 0


def test_known_files_are_not_handed_out_unless_they_changed(folder):
    folder.write("a.jpg", mtime_s=1_700_000_000)
    folder.write("b.jpg", mtime_s=1_700_000_000)
    known = {"a.jpg": (1, 1_700_000_000 * 10**9), "b.jpg": (2, 1_700_000_000 * 10**9)}
    folder.watch = Watch(folder.root, known, 0.0, lambda: folder.now_s)
    assert folder.look() == ["b.jpg"]


def test_a_forgotten_file_is_offered_again(folder):
    folder.write("D1/a.jpg")
    folder.settle()
    folder.watch.forget("D1/a.jpg")
    folder.look()
    assert folder.look(STABLE_S) == ["D1/a.jpg"]


# -- quick and full looks ----------------------------------------------------------------------------------------------


def listed(folder: Folder, monkeypatch, full: bool = False) -> list[str]:
    """The folders that one look lists."""
    paths = []
    scandir = os.scandir

    def noted(path):
        paths.append(Path(path).relative_to(folder.root).as_posix())
        return scandir(path)

    with monkeypatch.context() as patch:
        patch.setattr(monitor.watch.os, "scandir", noted)
        folder.watch.look(full)
    return sorted(paths)


def test_a_quick_look_skips_folders_that_stood_still_and_a_full_one_does_not(folder, monkeypatch):
    folder.write("D1/1/a.jpg")
    folder.write("D2/1/a.jpg")
    folder.settle()
    assert listed(folder, monkeypatch) == []
    folder.write("D2/1/b.jpg")
    assert listed(folder, monkeypatch) == ["D2/1"]
    assert listed(folder, monkeypatch, full=True) == [".", "D1", "D1/1", "D2", "D2/1"]


def test_a_quick_look_finds_files_and_folders_that_were_added_later(folder):
    folder.write("D1/1/a.jpg")
    folder.settle()
    folder.write("D1/1/b.jpg")
    folder.write("D1/2/c.jpg")
    assert folder.look() == []
    assert folder.look(STABLE_S) == ["D1/1/b.jpg", "D1/2/c.jpg"]


def test_a_full_look_finds_a_file_that_was_rewritten_in_place(folder):
    folder.write("D1/a.jpg", mtime_s=1_700_000_000)
    folder.settle()
    folder.write("D1/a.jpg", b"other", mtime_s=1_700_000_100)
    assert folder.look(10.0) == []
    assert folder.look(10.0) == []
    assert folder.look(10.0, full=True) == []
    assert folder.look(STABLE_S) == ["D1/a.jpg"]  # a quick look again: it waits there for a file to become quiet


def test_a_file_added_behind_a_folder_time_that_stands_still_is_found_although_nobody_looked_for_long(tmp_path):
    folder = Folder(tmp_path, stable_s=0.0)
    folder.write("D1/a.jpg")
    old(folder.root / "D1")
    assert folder.look() == ["D1/a.jpg"]
    folder.write("D1/b.jpg")
    old(folder.root / "D1")
    assert folder.look(10 * FOLDER_SETTLES_S) == ["D1/b.jpg"]


def test_nothing_of_five_thousand_files_is_missed_and_each_comes_once(folder):
    paths = [f"D{dish}/{well}/{frame:03}_F0.jpg" for dish in range(5) for well in range(10) for frame in range(100)]
    found: Counter[str] = Counter()
    for start in range(0, len(paths), 1700):
        for path in paths[start : start + 1700]:
            folder.write(path)
        found.update(folder.look(1.0))
    for _ in range(3):
        found.update(folder.look(STABLE_S))
    assert found == Counter(paths)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("write"), st.integers(0, 5), st.integers(1, 4)),
            st.tuples(st.just("remove"), st.integers(0, 5), st.just(0)),
            st.tuples(st.just("look"), st.integers(0, 150), st.booleans()),
        ),
        max_size=25,
    )
)
def test_after_any_course_of_events_every_file_that_is_there_was_handed_out_as_it_is(tmp_path_factory, events):
    folder = Folder(tmp_path_factory.mktemp("any"))
    handed = []
    for number, (kind, value, more) in enumerate(events):
        path = f"D{value % 2}/{value}.jpg"
        if kind == "write":
            folder.write(path, b"x" * more, mtime_s=1_700_000_000 + number)
        elif kind == "remove":
            (folder.root / path).unlink(missing_ok=True)
        else:
            folder.now_s += value
            handed += folder.watch.look(bool(more))
    for _ in range(2):
        folder.now_s += STABLE_S
        handed += folder.watch.look(full=True)
    there = {
        (path.relative_to(folder.root).as_posix(), path.stat().st_size, path.stat().st_mtime_ns)
        for path in folder.root.rglob("*.jpg")
    }
    assert there <= {(file.path, file.size_bytes, file.mtime_ns) for file in handed}
    assert max(Counter(handed).values(), default=1) == 1
    assert folder.watch.unsettled == 0


# -- shares that misbehave ---------------------------------------------------------------------------------------------


def test_a_share_that_is_away_raises_and_afterwards_everything_is_found_none_twice(folder):
    folder.write("D1/a.jpg")
    folder.write("D1/b.jpg")
    folder.look()
    found = folder.look(STABLE_S)
    folder.write("D1/c.jpg")
    folder.look()
    away = folder.root.rename(folder.root.with_name("away"))
    for _ in range(3):
        with pytest.raises(OSError, match="incubator"):
            folder.look(60.0)
    away.rename(folder.root)
    folder.write("D2/d.jpg")
    for _ in range(3):
        found += folder.look(STABLE_S)
    assert sorted(found) == ["D1/a.jpg", "D1/b.jpg", "D1/c.jpg", "D2/d.jpg"]


@pytest.mark.parametrize("broken", ["D1", "D2", "D3"])
@pytest.mark.parametrize("stable_s", [0.0, STABLE_S])
def test_a_share_that_goes_away_in_the_middle_of_a_look_takes_no_file_with_it(tmp_path, monkeypatch, broken, stable_s):
    folder = Folder(tmp_path, stable_s)
    paths = [f"{dish}/{name}.jpg" for dish in ("D1", "D2", "D3") for name in "ab"]
    for path in paths:
        folder.write(path)
    if stable_s:
        folder.look()
    scandir = os.scandir

    def fails(path):
        if Path(path).name == broken:
            raise OSError(errno.EIO, "Input/output error")
        return scandir(path)

    with monkeypatch.context() as patch:
        patch.setattr(monitor.watch.os, "scandir", fails)
        with pytest.raises(OSError, match="Input"):
            folder.look(STABLE_S)
    found = folder.look(10 * FOLDER_SETTLES_S) + folder.look(STABLE_S)  # quick looks, long after
    assert sorted(found) == paths


def test_a_folder_removed_during_the_walk_hides_no_other_one(folder, monkeypatch):
    for dish in ("D1", "D2", "D3"):
        folder.write(f"{dish}/a.jpg")
    folder.look()
    scandir = os.scandir

    def vanishing(path):
        if Path(path).name == "D2":
            (Path(path) / "a.jpg").unlink(missing_ok=True)
            Path(path).rmdir()
        return scandir(path)

    with monkeypatch.context() as patch:
        patch.setattr(monitor.watch.os, "scandir", vanishing)
        assert folder.look(STABLE_S) == ["D1/a.jpg", "D3/a.jpg"]
    folder.write("D2/a.jpg")
    folder.look()
    assert folder.look(STABLE_S) == ["D2/a.jpg"]


def test_a_folder_that_may_not_be_read_is_said_once_and_hides_no_other_one(folder, monkeypatch, caplog):
    folder.write("D1/a.jpg")
    folder.write("lost+found/a.jpg")
    scandir = os.scandir

    def denied(path):
        if Path(path).name == "lost+found":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    with monkeypatch.context() as patch, caplog.at_level(logging.ERROR):
        patch.setattr(monitor.watch.os, "scandir", denied)
        folder.look()
        assert folder.look(STABLE_S) == ["D1/a.jpg"]
    assert [record.path for record in caplog.records] == ["lost+found"]
    folder.look()
    assert folder.look(STABLE_S) == ["lost+found/a.jpg"]


def test_a_root_that_may_not_be_read_is_a_share_that_is_away(folder, monkeypatch):
    def denied(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(monitor.watch.os, "scandir", denied)
    with pytest.raises(PermissionError):
        folder.look()


def test_a_folder_in_the_place_of_a_file_and_back_is_no_trouble(folder):
    file = folder.write("D1/x")
    folder.look()
    file.unlink()
    folder.write("D1/x/a.jpg")
    folder.look()
    assert folder.look(STABLE_S) == ["D1/x/a.jpg"]


def test_a_name_that_is_no_utf_8_is_handed_out_in_writable_letters_once(folder):
    (folder.root / "D\udcff").mkdir()
    (folder.root / "D\udcff" / "a\udcfe.jpg").write_bytes(b"x")
    folder.look()
    assert folder.look(STABLE_S) == ["D\\xff/a\\xfe.jpg"]
    assert folder.look(STABLE_S) == []


def test_a_file_in_a_folder_whose_name_is_no_utf_8_is_waited_for_too(tmp_path):
    folder = Folder(tmp_path, stable_s=3 * FOLDER_SETTLES_S)
    (folder.root / "D\udcff").mkdir()
    (folder.root / "D\udcff" / "a.jpg").write_bytes(b"x")
    found = [path for _ in range(8) for path in folder.look(FOLDER_SETTLES_S)]
    assert found == ["D\\xff/a.jpg"]


def test_links_that_go_round_or_nowhere_are_no_files_and_no_fault(folder):
    folder.write("D1/a.jpg")
    (folder.root / "D1" / "round").symlink_to(folder.root)
    (folder.root / "D1" / "self.jpg").symlink_to("self.jpg")
    (folder.root / "D1" / "nowhere.jpg").symlink_to("gone.jpg")
    (folder.root / "D1" / "through.jpg").symlink_to("a.jpg/b.jpg")
    folder.look()
    assert folder.look(STABLE_S) == ["D1/a.jpg"]


def test_pipes_and_sockets_are_no_files(folder):
    os.mkfifo(folder.root / "a.jpg")
    folder.look()
    assert folder.look(STABLE_S) == []


def test_a_file_from_the_far_future_has_a_time_that_can_be_recorded(folder):
    file = folder.write("a.jpg")
    try:
        os.utime(file, ns=(0, LAST_NS + 10**15))
    except (OSError, OverflowError):
        pytest.skip("this file system knows no such time")
    folder.look()
    folder.now_s += STABLE_S
    (seen,) = folder.watch.look()
    assert seen.mtime_ns <= LAST_NS
    assert seen.mtime.year <= 2262


@pytest.mark.slow
def test_of_fifty_thousand_files_that_come_while_we_look_none_is_missed_and_none_comes_twice(tmp_path):
    folder = Folder(tmp_path)
    paths = [f"D{n // 5000}/{n // 500 % 10}/{n:05}_F0.jpg" for n in range(50_000)]
    for parent in {path.rpartition("/")[0] for path in paths}:
        (tmp_path / parent).mkdir(parents=True)

    def copy_in() -> None:
        for path in paths:
            (tmp_path / path).touch()

    copying = threading.Thread(target=copy_in)
    copying.start()
    found: Counter[str] = Counter()
    looks = 0
    while copying.is_alive():
        found.update(folder.look(0.5))
        looks += 1
    copying.join()
    for _ in range(3):
        found.update(folder.look(STABLE_S))
    assert looks > 1
    assert found == Counter(paths)
    assert folder.watch.unsettled == 0


def test_what_a_long_look_saw_counts_as_seen_at_its_end(folder, monkeypatch):
    folder.write("D1/a.jpg")
    scandir = os.scandir

    def slow(path):
        folder.now_s += 3600.0  # a mount that hung
        return scandir(path)

    with monkeypatch.context() as patch:
        patch.setattr(monitor.watch.os, "scandir", slow)
        assert folder.look() == []
    assert folder.look(STABLE_S - 0.1) == []
    assert folder.look(0.1) == ["D1/a.jpg"]


def test_the_probe_tells_another_root_and_an_empty_one(tmp_path):
    root = tmp_path / "share"
    root.mkdir()
    first = probe(root)
    assert first.empty
    (root / "D1").mkdir()
    assert probe(root) == replace(first, empty=False)
    root.rename(tmp_path / "away")
    with pytest.raises(FileNotFoundError):
        probe(root)
    root.mkdir()
    assert probe(root).identity != first.identity
