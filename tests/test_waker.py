"""File events wake, dropped ones are told, and a mount that hangs keeps nobody from stopping."""

import importlib
import logging
import struct
import threading
import types
from collections import Counter
from pathlib import Path

import pytest
from watchdog.observers import Observer

import monitor.waker
from monitor.waker import Waker
from monitor.watch import Watch


@pytest.fixture
def waker():
    woken = threading.Event()
    waker = Waker(woken.set)
    waker.start()
    yield waker, woken
    waker.stop()


def test_it_wakes_when_a_file_is_closed_and_when_one_is_renamed_into_place(tmp_path, waker):
    waker, woken = waker
    waker.watch(tmp_path)
    assert waker.hears(tmp_path)
    (tmp_path / "a.part").write_bytes(b"x")
    assert woken.wait(5)
    waker.stop()  # after this no event of the writing is under way
    woken.clear()
    second = Waker(woken.set)
    second.start()
    try:
        second.watch(tmp_path)
        (tmp_path / "a.part").rename(tmp_path / "a.jpg")
        assert woken.wait(5)
    finally:
        second.stop()


def test_it_listens_again_when_the_share_is_back(tmp_path, waker):
    waker, woken = waker
    root = tmp_path / "share"
    root.mkdir()
    waker.watch(root)
    root.rename(tmp_path / "away")
    with pytest.raises(FileNotFoundError):
        waker.watch(root)
    assert not waker.hears(root)
    root.mkdir()
    waker.watch(root)
    assert waker.hears(root)
    woken.clear()
    (root / "a.jpg").write_bytes(b"x")
    assert woken.wait(5)


def test_it_may_be_stopped_although_it_never_started():
    Waker(lambda: None).stop()


def test_it_wakes_for_a_new_folder_whose_files_were_closed_before_it_listened_there(tmp_path, waker):
    waker, woken = waker
    outside, root = tmp_path / "outside", tmp_path / "share"
    (outside / "D1").mkdir(parents=True)
    (outside / "D1" / "a.jpg").write_bytes(b"x")
    root.mkdir()
    waker.watch(root)
    (outside / "D1").rename(root / "D1")
    assert woken.wait(5)


def test_it_listens_in_a_folder_that_was_made_below_the_root(tmp_path, waker):
    waker, woken = waker
    waker.watch(tmp_path)
    (tmp_path / "D1").mkdir()
    for k in range(50):  # it listens there soon, not at once: until then the timed looks find files
        woken.clear()
        (tmp_path / "D1" / f"{k}.jpg").write_bytes(b"x")
        if woken.wait(0.2):
            return
    raise AssertionError("it never listened in the new folder")


def test_it_does_not_hear_a_root_that_was_removed(tmp_path, waker):
    waker, _ = waker
    root = tmp_path / "share"
    root.mkdir()
    waker.watch(root)
    (emitter,) = waker._observers[root].emitters
    root.rmdir()
    emitter.join(5)
    assert not waker.hears(root)


def test_a_mount_that_hangs_while_it_opens_its_ears_keeps_nobody_from_stopping(tmp_path, monkeypatch):
    gate = threading.Event()

    class Hanging(Observer):
        def start(self) -> None:
            gate.wait(30)

    monkeypatch.setattr(monitor.waker, "Observer", Hanging)
    waker = Waker(lambda: None)
    waker.start()
    opening = threading.Thread(target=waker.watch, args=(tmp_path,), daemon=True)
    opening.start()
    waker.stop()
    gate.set()
    opening.join(10)
    assert not opening.is_alive()
    assert not waker.hears(tmp_path)


# -- dropped events ----------------------------------------------------------------------------------------------------


@pytest.fixture
def overflow():
    """An event that is set when dropped file events were told, and a waker that tells them."""
    told = threading.Event()
    waker = Waker(lambda: None, told.set)
    waker.start()
    yield told, waker
    waker.stop()


def test_a_record_of_dropped_events_is_told_among_others_and_passed_on(overflow):
    told, _ = overflow
    module = importlib.import_module("watchdog.observers.inotify_c")
    parse = (getattr(module, "InotifyFD", None) or module.Inotify)._parse_event_buffer
    closed = struct.pack("iIII", 3, 0x8, 0, 8) + b"a.jpg\0\0\0"
    assert [record[0] for record in parse(closed)] == [3]
    assert not told.is_set()
    assert [record[0] for record in parse(closed + struct.pack("iIII", -1, 0x4000, 0, 0) + closed)] == [3, -1, 3]
    assert told.is_set()


def test_who_has_stopped_is_told_of_no_dropped_events(overflow):
    told, waker = overflow
    waker.stop()
    module = importlib.import_module("watchdog.observers.inotify_c")
    parse = (getattr(module, "InotifyFD", None) or module.Inotify)._parse_event_buffer
    list(parse(struct.pack("iIII", -1, 0x4000, 0, 0)))
    assert not told.is_set()


def test_a_watchdog_that_hides_dropped_events_is_said_and_listened_to_all_the_same(tmp_path, monkeypatch, caplog):
    other = types.SimpleNamespace(InotifyFD=types.SimpleNamespace())
    monkeypatch.setattr(monitor.waker.importlib, "import_module", lambda name: other)
    woken = threading.Event()
    waker = Waker(woken.set)
    with caplog.at_level(logging.WARNING):
        waker.start()
    try:
        assert "dropped file events are not counted" in caplog.text
        waker.watch(tmp_path)
        (tmp_path / "a.jpg").write_bytes(b"x")
        assert woken.wait(5)
    finally:
        waker.stop()


QUEUE = Path("/proc/sys/fs/inotify/max_queued_events")


def test_a_real_overflow_of_the_kernels_queue_is_told_and_a_full_look_finds_every_file(tmp_path, overflow):
    told, waker = overflow
    watch = Watch(tmp_path, {}, 0.0, lambda: 0.0)
    found = Counter(file.path for file in watch.look())
    usual = QUEUE.read_text()
    try:
        QUEUE.write_text("4")
    except OSError as fault:
        pytest.skip(f"the event queue cannot be made small here ({fault.strerror}): needs root")
    try:
        waker.watch(tmp_path)  # the queue keeps the length it is made with
    finally:
        QUEUE.write_text(usual)
    written = 0
    while not told.is_set() and written < 100_000:
        for _ in range(200):
            (tmp_path / f"{written % 7}").mkdir(exist_ok=True)
            (tmp_path / f"{written % 7}" / f"{written}.jpg").write_bytes(b"x")
            written += 1
    assert told.is_set()
    found.update(file.path for file in watch.look(full=True))
    assert sum(found.values()) == len(found) == written
