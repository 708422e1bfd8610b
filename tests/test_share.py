"""A share that hangs, gives errors, is not mounted or raises no events: nothing missed, none twice, nobody held up."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from watchdog.observers import Observer

import monitor.waker
import monitor.watch
from monitor.config import make_config
from monitor.daemon import Daemon
from monitor.errand import Errand
from monitor.errors import FrameError
from monitor.metrics import Metrics
from monitor.notify import Notifier
from monitor.share import HANGS_AFTER_S, Share
from monitor.vocabulary import Gray, Reading
from monitor.watch import Root, probe
from tests.house import PLANES_UM, START, FakeClock, plane_path, scripted, write_frame
from tests.service import write_config

H = timedelta(hours=1)
LIMIT_S = 20.0


class Probe:
    """Asks the folder, but hangs while `gate` is closed."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.asked = 0

    def __call__(self, root: Path) -> Root:
        self.asked += 1
        self.gate.wait(LIMIT_S)
        return probe(root)


class Scene:
    """A daemon over tmp_path/inc1 and inc2 whose broker never answers; `told` collects its readings."""

    def __init__(self, tmp_path: Path, **incubator: object) -> None:
        self.roots = {name: tmp_path / name for name in ("inc1", "inc2")}
        self.store = tmp_path / "store"
        for root in self.roots.values():
            root.mkdir(exist_ok=True)
        self.root = self.roots["inc1"]
        self.clock = FakeClock(START + timedelta(days=1))
        self.told: list[Reading] = []
        self._settings = {"stable_s": 2, "deadline_s": 60, **incubator}
        self.start()

    def start(self) -> None:
        config = make_config(
            {
                "site": {"name": "lab", "node": "box"},
                "incubator": [{"name": name, "path": path, **self._settings} for name, path in self.roots.items()],
                "mqtt": {"host": "127.0.0.1", "port": 1},
                "storage": {"path": self.store},
            }
        )
        self.metrics = Metrics(CollectorRegistry(), self.clock.now)
        self.daemon = Daemon(config, scripted(), self.metrics, self.clock, Notifier({}), self.told.append)
        self.share = self.daemon.shares[0]
        self.probe = Probe()
        self.share._probe = self.probe
        for share in self.daemon.shares:
            share._patience_s = LIMIT_S

    def restart(self) -> None:
        self.close()
        self.start()

    def close(self) -> None:
        self.probe.gate.set()
        self.daemon._waker.stop()
        self.daemon.publisher.stop(0)
        self.daemon.node.journal.close()

    def turns(self, count: int, seconds: float = 1.0) -> None:
        for _ in range(count):
            self.daemon.turn()
            self.clock.pass_s(seconds)

    def hang(self) -> None:
        """From now on the share gives no answer, and the loop does not wait for it at all."""
        self.probe.gate.clear()
        self.share._patience_s = 0.0

    def recover(self) -> None:
        """It answers; the errand that hung has come back when this returns."""
        under_way = [errand for errand in (self.share._looking, self.share._reading) if errand is not None]
        self.probe.gate.set()
        for errand in under_way:
            assert errand._back.wait(LIMIT_S)
        self.share._patience_s = LIMIT_S

    def value(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"pellucid_{name}", labels)

    @property
    def reachable(self) -> float | None:
        return self.value("share_reachable", incubator="inc1")

    def moments(self, incubator: str = "inc1") -> list[object]:
        return [reading.occurred_at for reading in self.told if reading.embryo.incubator == incubator]


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path)
    yield made
    made.close()


def away_messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.fault for record in caplog.records if record.message == "a share is away"]  # type: ignore[attr-defined]


# -- a mount that hangs ------------------------------------------------------------------------------------------------


def test_a_hung_mount_is_away_after_ten_seconds_and_is_asked_by_one_thread_only(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    scene.turns(1)
    scene.hang()
    scene.clock.pass_s(10)
    asked = scene.probe.asked
    scene.turns(1)
    assert scene.reachable == 1, "a share that has only just been asked is not away"
    scene.turns(1, HANGS_AFTER_S)
    scene.turns(100, 30)
    assert scene.reachable == 0
    assert scene.probe.asked == asked + 1
    assert [thread.name for thread in threading.enumerate()].count("look-inc1") == 1
    assert away_messages(caplog) == [f"{scene.root} gives no answer"]


def test_while_one_mount_hangs_the_other_incubators_frames_go_on(scene: Scene) -> None:
    scene.turns(1)
    scene.hang()
    write_frame(scene.root, "1", START)
    write_frame(scene.roots["inc2"], "1", START)
    scene.turns(30)
    assert scene.moments("inc2") == [START]
    assert scene.moments("inc1") == []
    assert scene.value("share_reachable", incubator="inc2") == 1
    ready = scene.daemon.ready()
    assert ready["scan_fresh_inc2"]


def test_a_mount_that_hung_is_looked_over_fully_when_it_answers_and_every_frame_comes_once(scene: Scene) -> None:
    write_frame(scene.root, "1", START)
    scene.turns(8)
    scene.turns(10, 70)  # long enough that a quick look would pass by the folder, and what was told in it
    rewritten = plane_path(scene.root, "1", START, 0)
    scene.hang()
    scene.turns(5, 10)
    assert scene.reachable == 0
    assert not scene.share.intake.idle or scene.share.due() == []
    write_frame(scene.root, "1", START + H)
    rewritten.write_bytes(plane_path(scene.root, "1", START + H, 0).read_bytes())
    scene.recover()
    scene.turns(8)
    assert scene.reachable == 1
    assert sorted(map(str, scene.moments())) == sorted(map(str, [START, START, START + H]))
    assert [reading.revision for reading in scene.told if reading.occurred_at == START] == [1, 2]
    assert {thread.name for thread in threading.enumerate()} & {"look-inc1", "read-inc1"} == set()


def test_a_look_that_moves_is_not_away_however_long_it_takes(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    step, stepped = threading.Semaphore(0), threading.Semaphore(0)
    scandir = os.scandir

    def slow(path: Path):  # a share that takes 8 s for each folder
        if Path(path).is_relative_to(scene.root) and Path(path) != scene.root:
            stepped.release()
            assert step.acquire(timeout=LIMIT_S)
        return scandir(path)

    for dish in range(4):
        write_frame(scene.root, "1", START, dish=f"D{dish}")
    monkeypatch.setattr(monitor.watch.os, "scandir", slow)
    scene.share._patience_s = 0.0
    seen = []
    for _ in range(8):  # four dishes, a well in each
        scene.turns(1, 8)
        assert stepped.acquire(timeout=LIMIT_S)
        seen.append(scene.reachable)
        step.release()
    looking = scene.share._looking
    assert looking is not None and looking._back.wait(LIMIT_S)
    monkeypatch.undo()
    scene.share._patience_s = LIMIT_S
    assert scene.share._failures == 0 and len(seen) == 8
    scene.turns(8)
    assert len(scene.told) == 4


def test_a_picture_that_hangs_while_it_is_read_holds_neither_the_loop_nor_the_other_incubator(scene: Scene) -> None:
    gate, entered = threading.Event(), threading.Event()
    assembler = scene.share.intake.assembler
    good = assembler._read

    def read(path: Path) -> tuple[Gray, str]:
        entered.set()
        assert gate.wait(LIMIT_S)
        return good(path)

    def begin(names: list[object]) -> None:
        begun(names)
        scene.share._patience_s = 0.0  # the look before it was waited for

    assembler._read = read
    begun, scene.share.read = scene.share.read, begin
    write_frame(scene.root, "1", START)
    scene.turns(3)
    assert entered.wait(LIMIT_S)
    write_frame(scene.roots["inc2"], "1", START)
    asked = scene.probe.asked
    scene.turns(int(HANGS_AFTER_S) + 4)
    assert scene.moments("inc2") == [START]
    assert (scene.reachable, scene.moments("inc1"), scene.probe.asked) == (0, [], asked)
    reading = scene.share._reading
    gate.set()
    assert reading is not None and reading._back.wait(LIMIT_S)
    scene.share._patience_s = LIMIT_S
    scene.turns(4)
    assert scene.moments("inc1") == [START]
    assert scene.reachable == 1


def test_a_hung_errand_wakes_the_loop_when_it_comes_back(tmp_path: Path) -> None:
    woken, gate = threading.Event(), threading.Event()
    errand = Errand("test", lambda: gate.wait(LIMIT_S), woken.set)
    assert not errand.wait(0)
    gate.set()
    assert woken.wait(LIMIT_S)
    assert errand.result()
    prompt = Errand("test", lambda: None, lambda: pytest.fail("nobody left"))
    assert prompt.wait(LIMIT_S)


def test_an_errand_that_ends_in_an_unforeseen_way_is_not_taken_for_a_hung_one() -> None:
    seen: list[object] = []
    hook, threading.excepthook = threading.excepthook, lambda facts: seen.append(facts.exc_type)
    try:
        errand = Errand("test", lambda: 1 // 0, lambda: None)
        assert errand.wait(LIMIT_S)
        with pytest.raises(RuntimeError, match="without a result"):
            errand.result()
    finally:
        threading.excepthook = hook


_HANGS = """
import os, sys
import monitor.share
from monitor.cli import main

silent, _ = os.pipe()
asks = os.statvfs
os.statvfs = lambda path: os.read(silent, 1) if str(path).endswith("inc1") else asks(path)
monitor.share.HANGS_AFTER_S = 0.5
sys.exit(main(["run", "--config", sys.argv[1]]))
"""


def test_the_process_ends_at_sigterm_while_a_share_hangs_in_the_kernel(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _HANGS, str(write_config(tmp_path, 1))], stderr=subprocess.PIPE, text=True
    ) as service:
        assert service.stderr is not None
        try:
            seen = next((line for line in service.stderr if "gives no answer" in line), "")
            assert "a share is away" in seen
            service.send_signal(signal.SIGTERM)
            assert service.wait(5) == 0
            assert "pellucid has stopped" in service.stderr.read()
        finally:
            service.kill()


# -- a share that is not mounted ---------------------------------------------------------------------------------------


def unmount(root: Path) -> Path:
    """An empty mount point in the place of the share; where its content is now."""
    away = root.rename(root.with_name("unmounted"))
    root.mkdir()
    return away


def mount(root: Path, away: Path) -> None:
    root.rmdir()
    away.rename(root)


@pytest.mark.parametrize("restarted", [False, True])
def test_an_empty_mount_point_is_a_share_that_is_away_until_it_is_mounted(
    scene: Scene, caplog: pytest.LogCaptureFixture, restarted: bool
) -> None:
    write_frame(scene.root, "1", START)
    scene.turns(8)
    away = unmount(scene.root)
    if restarted:
        scene.restart()
    scene.turns(20, 7)
    assert scene.reachable == 0
    assert away_messages(caplog) == [f"{scene.root} is empty though 7 files of it are known: is it mounted?"]
    write_frame(away, "1", START + H)
    mount(scene.root, away)
    scene.turns(20, 7)
    assert scene.reachable == 1
    assert scene.moments() == [START, START + H]


def test_a_share_whose_files_were_none_of_ours_is_missed_too(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    (scene.root / "D1").mkdir()
    scene.turns(1)
    unmount(scene.root)
    scene.turns(2, 10)
    assert scene.reachable == 0
    assert away_messages(caplog) == [f"{scene.root} is empty though it held something before: is it mounted?"]


def test_an_empty_folder_that_never_held_anything_is_no_fault(scene: Scene) -> None:
    scene.turns(10, 7)
    assert scene.reachable == 1
    assert scene.daemon.ready()["scan_fresh_inc1"]


# -- a share that gives errors -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EHOSTDOWN])
def test_a_share_that_gives_errors_is_away_and_costs_no_frame(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    write_frame(scene.root, "1", START)
    scene.turns(8)
    write_frame(scene.root, "1", START + H)
    scene.turns(1)
    scandir = os.scandir

    def fails(path: Path):
        if Path(path).is_relative_to(scene.root):
            raise OSError(number, os.strerror(number))
        return scandir(path)

    with monkeypatch.context() as patch:
        patch.setattr(monitor.watch.os, "scandir", fails)
        scene.turns(20, 7)
        assert scene.reachable == 0
        assert len(away_messages(caplog)) == 1, "a share that stays away is said once"
    scene.turns(20, 7)
    assert scene.reachable == 1
    assert scene.moments() == [START, START + H]


def test_a_share_that_vanishes_in_the_middle_of_a_walk_loses_no_frame(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    for dish in range(3):
        write_frame(scene.root, "1", START, dish=f"D{dish}")
    scene.turns(1)
    scandir, away = os.scandir, scene.root.with_name("away")

    def vanishing(path: Path):
        if Path(path) == scene.root / "D1" and not away.exists():
            scene.root.rename(away)
        return scandir(path)

    monkeypatch.setattr(monitor.watch.os, "scandir", vanishing)
    scene.turns(5, 20)
    assert scene.reachable == 0
    write_frame(away, "1", START + H, dish="D1")
    away.rename(scene.root)
    (away).mkdir()  # it vanishes once only
    scene.turns(20, 7)
    told = sorted((reading.embryo.dish, str(reading.occurred_at)) for reading in scene.told)
    assert told == sorted([*((f"D{dish}", str(START)) for dish in range(3)), ("D1", str(START + H))])
    assert {reading.outcome.value for reading in scene.told} == {"judged"}


def test_no_deadline_runs_while_the_share_is_away(scene: Scene) -> None:
    write_frame(scene.root, "1", START, PLANES_UM[1:])
    scene.turns(8)
    away = scene.root.rename(scene.root.with_name("away"))
    scene.turns(40, 60)
    assert scene.told == []
    write_frame(away, "1", START, PLANES_UM[:1])
    away.rename(scene.root)
    scene.turns(30, 5)
    assert [(reading.revision, reading.frame.missing_planes) for reading in scene.told] == [(1, ())]


def test_the_deadline_goes_on_when_the_share_is_back(scene: Scene) -> None:
    write_frame(scene.root, "1", START, PLANES_UM[1:])
    scene.turns(8)
    away = scene.root.rename(scene.root.with_name("away"))
    scene.turns(10, 60)
    away.rename(scene.root)
    scene.turns(40, 5)
    assert [(reading.revision, reading.frame.missing_planes) for reading in scene.told] == [(1, (-45,))]


def test_pictures_that_cannot_be_read_because_the_share_has_gone_are_not_told_lacking(scene: Scene) -> None:
    assembler = scene.share.intake.assembler
    good, reads, is_there = assembler._read, [], [True]

    def read(path: Path) -> tuple[Gray, str]:
        reads.append(path)
        is_there[0] = is_there[0] and len(reads) != 1  # it goes away when the first picture is read, at the deadline
        if not is_there[0]:
            raise FrameError("unreadable", "Stale file handle")
        return good(path)

    def ask(root: Path) -> Root:
        if not is_there[0]:
            raise OSError(errno.ESTALE, "Stale file handle")
        return probe(root)

    assembler._read = read
    scene.share._probe = ask
    write_frame(scene.root, "1", START, PLANES_UM[1:])
    scene.turns(8, 7)
    assert (reads, scene.reachable) == ([], 1)
    scene.turns(20, 7)
    assert (scene.told, scene.reachable) == ([], 0)
    is_there[0] = True
    write_frame(scene.root, "1", START, PLANES_UM[:1])
    scene.turns(30, 5)
    assert [(reading.outcome.value, reading.frame.missing_planes) for reading in scene.told] == [("judged", ())]


def test_a_share_that_comes_and_goes_all_the_time_gives_every_frame_once(scene: Scene) -> None:
    away = scene.root.with_name("away")
    for hour in range(8):
        write_frame(scene.root if hour % 2 else (scene.root.rename(away)), "1", START + hour * H)
        scene.turns(5, 3)
        if away.exists():
            away.rename(scene.root)
            scene.turns(5, 9)
    scene.turns(20, 9)
    assert scene.moments() == [START + hour * H for hour in range(8)]
    assert {(reading.revision, reading.outcome.value) for reading in scene.told} == {(1, "judged")}


# -- file events -------------------------------------------------------------------------------------------------------


def listened(share: Share) -> None:
    """The ears that were asked for last are open, or could not be."""
    assert share._listening is not None and share._listening._back.wait(LIMIT_S)


def event_comes(daemon: Daemon, cause: Callable[[], object]) -> bool:
    daemon._files_moved.clear()
    cause()
    return daemon._files_moved.wait(LIMIT_S)


@pytest.mark.parametrize("refused", ["schedule", "start", "__init__"])
def test_a_share_without_events_is_said_once_and_its_frames_are_found_by_timed_looks(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, refused: str
) -> None:
    def refuse(*args: object, **more: object) -> None:
        raise OSError(errno.ENOSPC, "inotify watch limit reached")

    monkeypatch.setattr(monitor.waker, "Observer", type("NoEvents", (Observer,), {refused: refuse}))
    scene.daemon._waker.start()
    for hour in range(3):
        write_frame(scene.root, "1", START + hour * H)
        scene.turns(4, 3)
        for share in scene.daemon.shares:
            listened(share)
    assert scene.moments() == [START + hour * H for hour in range(3)]
    said = [record for record in caplog.records if record.message == "no file events, looking by time"]
    assert sorted(record.incubator for record in said) == ["inc1", "inc2"]  # type: ignore[attr-defined]


def test_events_come_again_from_a_share_that_was_away(scene: Scene) -> None:
    scene.daemon._waker.start()
    scene.turns(1)
    listened(scene.share)
    assert event_comes(scene.daemon, lambda: write_frame(scene.root, "1", START))
    away = scene.root.rename(scene.root.with_name("away"))
    scene.turns(3, 60)
    assert scene.reachable == 0
    before = scene.daemon._waker._observers[scene.root]
    away.rename(scene.root)
    scene.turns(3, 60)
    listened(scene.share)
    assert scene.daemon._waker._observers[scene.root] is not before, "an unmounted share makes the old ears deaf"
    assert event_comes(scene.daemon, lambda: write_frame(scene.root, "1", START + H))


def test_events_come_from_a_root_that_took_the_place_of_another_between_two_looks(scene: Scene) -> None:
    write_frame(scene.root, "1", START)
    scene.daemon._waker.start()
    scene.turns(1)
    listened(scene.share)
    scene.root.rename(scene.root.with_name("other"))
    write_frame(scene.root, "1", START)
    scene.turns(1, 10)
    scene.turns(1, 10)
    listened(scene.share)
    assert event_comes(scene.daemon, lambda: write_frame(scene.root, "1", START + H))
    assert scene.reachable == 1


def test_ears_that_do_not_open_hold_up_no_look_and_are_asked_for_once(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()

    class Hanging(Observer):
        def start(self) -> None:
            gate.wait(LIMIT_S)

    monkeypatch.setattr(monitor.waker, "Observer", Hanging)
    scene.daemon._waker.start()
    write_frame(scene.root, "1", START)
    scene.turns(10, 3)
    assert scene.moments() == [START]
    assert [thread.name for thread in threading.enumerate()].count("listen-inc1") == 1
    gate.set()
    listened(scene.share)


def test_dropped_events_are_counted_and_everything_is_looked_over_at_once(scene: Scene) -> None:
    write_frame(scene.root, "1", START)
    scene.daemon._waker.start()
    scene.turns(8)
    scene.turns(10, 70)
    listened(scene.share)
    ears = scene.daemon._waker._observers[scene.root]
    moved = plane_path(scene.root, "1", START, 0)
    moved.write_bytes(plane_path(scene.root, "1", START, 15).read_bytes())
    scene.turns(8)
    assert len(scene.told) == 1, "a quick look does not ask after each file of long ago"
    scene.daemon._overflow()
    scene.turns(5)
    assert [reading.revision for reading in scene.told] == [1, 2]
    assert scene.value("watch_overflows_total") == 1
    listened(scene.share)
    assert scene.daemon._waker._observers[scene.root] is not ears, "what told of a new folder may be lost too"


def test_an_event_that_comes_while_a_look_is_under_way_is_not_forgotten(scene: Scene) -> None:
    scene.turns(1)
    scene.clock.pass_s(10)
    scene.hang()
    scene.turns(1, 0.1)
    scene.daemon._file_event()
    scene.turns(1, 0.1)
    scene.recover()
    scene.turns(1, 0.3)
    asked = scene.probe.asked
    scene.turns(1)
    assert scene.probe.asked == asked + 1
