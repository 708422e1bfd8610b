"""The loop, one pass at a time: shares that come and go, storage that refuses, engines that fail, stopping."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import socket
import threading
from datetime import timedelta
from pathlib import Path

import pytest

import monitor.states
from engines.load import Loaded
from engines.scripted_engine import ScriptedEngine
from monitor.config import make_config
from monitor.daemon import ENGINE_STRIKES, Daemon
from monitor.errors import EngineError, StorageError
from monitor.journal import Journal
from monitor.logs import JsonLine
from monitor.metrics import Metrics
from monitor.notify import Notifier
from monitor.vocabulary import Reading
from tests.house import PLANES_UM, START, FakeClock, new_metrics, plane_path, scripted, write_frame


class Scene:
    """A daemon over tmp_path/inc whose broker never answers; `told` collects its readings."""

    def __init__(self, tmp_path: Path, loaded: Loaded | None = None, **incubator: object) -> None:
        self.root = tmp_path / "inc"
        self.root.mkdir(exist_ok=True)
        self.clock = FakeClock(START + timedelta(days=1))
        self.metrics: Metrics = new_metrics(self.clock)
        self.told: list[Reading] = []
        settings = {"stable_s": 2, "deadline_s": 60, **incubator}
        config = make_config(
            {
                "site": {"name": "lab", "node": "box"},
                "incubator": [{"name": "inc1", "path": self.root, **settings}],
                "mqtt": {"host": "127.0.0.1", "port": 1},
                "storage": {"path": tmp_path / "store"},
            }
        )
        self.daemon = Daemon(config, loaded or scripted(), self.metrics, self.clock, Notifier({}), self.told.append)

    def turns(self, count: int, seconds: float = 1.0) -> None:
        for _ in range(count):
            self.daemon.turn()
            self.clock.pass_s(seconds)

    def value(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"pellucid_{name}", labels)


@pytest.fixture
def scene(tmp_path: Path):
    made = Scene(tmp_path)
    yield made
    made.daemon.publisher.stop(0)
    made.daemon.node.journal.close()


def test_a_frame_in_the_folder_becomes_a_reading_when_its_files_are_quiet(scene: Scene) -> None:
    write_frame(scene.root, "1", START)
    scene.turns(1)
    assert scene.told == []
    scene.turns(5)
    assert [reading.embryo.well for reading in scene.told] == ["1"]
    assert scene.value("frames_total", incubator="inc1", outcome="judged") == 1
    assert scene.value("share_reachable", incubator="inc1") == 1
    assert scene.value("active_embryos", incubator="inc1") == 1
    assert scene.value("outbox_messages") == 1


def test_six_of_seven_planes_wait_for_the_deadline_and_are_judged_with_a_flag(scene: Scene) -> None:
    write_frame(scene.root, "1", START, PLANES_UM[1:])
    scene.turns(30)
    assert scene.told == []
    assert scene.value("queue_depth") == 1
    scene.turns(50)
    assert [reading.frame.missing_planes for reading in scene.told] == [(-45,)]
    assert scene.value("planes_missing_total", incubator="inc1") == 1


def test_a_name_that_cannot_be_a_topic_is_refused_and_counted_once(scene: Scene) -> None:
    write_frame(scene.root, "1+1", START)
    scene.turns(40)
    assert scene.told == []
    assert scene.value("files_quarantined_total", reason="name") == 7


def test_a_share_that_goes_away_and_comes_back_loses_nothing_and_repeats_nothing(scene: Scene) -> None:
    write_frame(scene.root, "1", START)
    scene.turns(6)
    away = scene.root.rename(scene.root.with_name("away"))
    scene.turns(20, seconds=7)
    assert scene.value("share_reachable", incubator="inc1") == 0
    assert not scene.daemon.ready()["scan_fresh_inc1"]
    write_frame(away, "1", START + timedelta(hours=1))
    away.rename(scene.root)
    scene.turns(20, seconds=7)
    assert [reading.frame.captured_at for reading in scene.told] == [START, START + timedelta(hours=1)]
    assert scene.value("share_reachable", incubator="inc1") == 1
    assert scene.daemon.ready()["scan_fresh_inc1"]


def test_a_folder_that_is_not_there_at_the_start_is_a_share_that_is_away(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.root.rmdir()
    scene.turns(3)
    assert scene.value("share_reachable", incubator="inc1") == 0
    write_frame(scene.root, "1", START)
    scene.turns(20, seconds=7)
    assert len(scene.told) == 1


def test_a_disk_that_is_full_for_a_while_costs_no_frame(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    good, full = Journal.commit, [True]

    def commit(self: Journal, *args: object) -> object:
        if full[0]:
            raise StorageError("disk full")
        return good(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Journal, "commit", commit)
    write_frame(scene.root, "1", START)
    scene.turns(10)
    assert scene.told == []
    assert not scene.daemon.ready()["store_open"]
    assert (scene.value("storage_failures_total") or 0) > 0
    full[0] = False
    scene.turns(3)
    assert len(scene.told) == 1
    assert scene.daemon.ready()["store_open"]


def test_a_disk_that_takes_no_state_for_a_while_costs_no_frame_and_leaves_no_draft(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_room(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write_frame(scene.root, "1", START)
    states = scene.daemon.node.memory._states._folder
    with monkeypatch.context() as patch:
        patch.setattr(monitor.states.os, "fsync", no_room)
        scene.turns(10)
        assert scene.told == []
        assert not scene.daemon.ready()["store_open"]
        assert (scene.value("storage_failures_total") or 0) > 1
        (fault,) = [record.fault for record in caplog.records if "storage does not take" in record.message]  # once
        assert fault.endswith("No space left on device")
    scene.turns(3)
    assert [reading.frame.captured_at for reading in scene.told] == [START]
    assert scene.daemon.ready()["store_open"]
    assert [path.suffix for path in states.glob("??/*")] == [""]


def test_active_embryos_fall_when_runs_end(scene: Scene) -> None:
    write_frame(scene.root, "1", START)
    scene.turns(6)
    assert scene.value("active_embryos", incubator="inc1") == 1
    scene.daemon.node.journal._db.execute("UPDATE run SET ended = 'gap'")
    scene.turns(1)
    assert scene.value("active_embryos", incubator="inc1") == 0


def test_an_engine_that_keeps_failing_ends_the_process_after_telling_each_frame(tmp_path: Path) -> None:
    engine = ScriptedEngine(faults=dict.fromkeys(range(100), "no memory"))
    scene = Scene(tmp_path, scripted(engine))
    for k in range(ENGINE_STRIKES):
        write_frame(scene.root, "1", START + timedelta(hours=k))
    with pytest.raises(EngineError, match="frames in a row"):
        scene.turns(20)
    assert len(scene.told) == ENGINE_STRIKES
    assert scene.value("step_failures_total", engine="scripted", reason="engine") == ENGINE_STRIKES


def test_what_may_go_wrong_is_counted_from_zero_so_that_the_first_time_is_an_increase(scene: Scene) -> None:
    assert scene.value("files_quarantined_total", reason="truncated") == 0
    assert scene.value("step_failures_total", engine="scripted", reason="not_finite") == 0
    assert scene.value("state_restores_total", outcome="lost") == 0


def test_ready_names_each_condition(scene: Scene) -> None:
    assert scene.daemon.ready() == {"engines_warm": True, "store_open": True, "scan_fresh_inc1": False}
    scene.turns(1)
    assert scene.daemon.ready() == {"engines_warm": True, "store_open": True, "scan_fresh_inc1": True}
    scene.clock.pass_s(3600)
    assert not scene.daemon.ready()["scan_fresh_inc1"]


def test_a_frame_of_many_embryos_at_once_is_taken_in_batches_and_all_are_told(scene: Scene) -> None:
    for well in range(1, 21):
        write_frame(scene.root, str(well), START)
    scene.turns(12)
    assert sorted(int(reading.embryo.well) for reading in scene.told) == list(range(1, 21))
    assert sorted(reading.seq or 0 for reading in scene.told) == list(range(1, 21))


def test_nothing_is_forgotten_when_a_file_vanishes_while_its_frame_waits(scene: Scene) -> None:
    write_frame(scene.root, "1", START, PLANES_UM[1:])
    scene.turns(5)
    plane_path(scene.root, "1", START, 0).unlink()
    scene.turns(90)
    (reading,) = scene.told
    assert reading.frame.missing_planes == (-45, 0)


def test_one_log_line_for_each_reading_is_a_json_object(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    write_frame(scene.root, "1", START)
    scene.turns(6)
    (record,) = [record for record in caplog.records if record.message == "reading"]
    line = json.loads(JsonLine().format(record))
    assert line["embryo_id"] == "inc1/D1/1/20260105T080000Z"
    assert line["outcome"] == "judged"
    assert 0 <= line["probability"] <= 1
    assert line["id"] == scene.told[0].id


def test_stop_ends_the_loop_and_tells_systemd(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(10)
        scene = Scene(tmp_path)
        scene.daemon._notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "30000000"})
        worker = threading.Thread(target=scene.daemon.run)
        worker.start()
        first, second = systemd.recv(4096).decode(), systemd.recv(4096).decode()
        scene.daemon.stop()
        worker.join(timeout=10)
        assert not worker.is_alive()
        systemd.settimeout(0.1)
        rest = []
        try:
            while True:
                rest.append(systemd.recv(4096).decode())
        except TimeoutError:
            pass
    assert first.startswith("READY=1")
    assert second.startswith("WATCHDOG=1")
    assert rest[-1] == "STOPPING=1"


def test_systemd_hears_of_no_progress_while_the_store_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good, tries = Journal.commit, []

    def commit(self: Journal, *args: object) -> object:
        tries.append(1)
        if len(tries) < 4:
            raise StorageError("disk full")
        return good(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Journal, "commit", commit)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(20)
        scene = Scene(tmp_path, stable_s=0)
        scene.daemon._notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify")})
        write_frame(scene.root, "1", START)
        worker = threading.Thread(target=scene.daemon.run)
        worker.start()
        assert systemd.recv(4096).startswith(b"READY=1")
        assert systemd.recv(4096).startswith(b"WATCHDOG=1")
        tried = len(tries)
        scene.daemon.stop()
        worker.join(timeout=10)
    assert tried >= 4


def test_the_scan_survives_a_tree_removed_and_made_anew(scene: Scene) -> None:
    write_frame(scene.root, "1", START)
    scene.turns(6)
    shutil.rmtree(scene.root)
    scene.turns(3, seconds=70)
    write_frame(scene.root, "1", START)
    write_frame(scene.root, "1", START + timedelta(hours=1))
    scene.turns(12, seconds=40)
    assert [reading.frame.captured_at for reading in scene.told] == [START, START + timedelta(hours=1)]


def test_a_backlog_in_one_incubator_does_not_keep_anothers_frames_waiting(tmp_path: Path) -> None:
    for name in ("inc1", "inc2"):
        (tmp_path / name).mkdir()
    for well in range(1, 31):
        write_frame(tmp_path / "inc1", str(well), START)
    write_frame(tmp_path / "inc2", "1", START)
    clock, told = FakeClock(START + timedelta(days=1)), []
    config = make_config(
        {
            "site": {"name": "lab", "node": "box"},
            "incubator": [{"name": name, "path": tmp_path / name, "stable_s": 0} for name in ("inc1", "inc2")],
            "mqtt": {"host": "127.0.0.1", "port": 1},
            "storage": {"path": tmp_path / "store"},
        }
    )
    daemon = Daemon(config, scripted(), new_metrics(clock), clock, Notifier({}), told.append)
    daemon.turn()
    daemon.publisher.stop(0)
    daemon.node.journal.close()
    assert "inc2" in {reading.embryo.incubator for reading in told}


def test_an_unreadable_file_delays_its_own_frame_once_and_no_other(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    import monitor.assemble
    from monitor.errors import FrameError

    write_frame(scene.root, "1", START)
    bad = plane_path(scene.root, "1", START, 0)
    assembler = scene.daemon.node.intakes["inc1"].assembler
    good = assembler._read

    def read(path: Path):
        if path == bad:
            raise FrameError("unreadable", "bad sector")
        return good(path)

    monkeypatch.setattr(assembler, "_read", read)
    scene.turns(80)
    assert [reading.frame.missing_planes for reading in scene.told] == [(0,)]
    assert monitor.assemble.UNREAD
    for hour in range(1, 4):
        write_frame(scene.root, "1", START + timedelta(hours=hour))
        before = len(scene.told)
        scene.turns(6)
        assert len(scene.told) == before + 1, "a newer frame waited for one that was told long ago"


def test_the_store_counts_as_open_again_as_soon_as_it_works(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    faults = iter([True])

    def tick() -> None:
        if next(faults, False):
            raise StorageError("locked")

    monkeypatch.setattr(scene.daemon.publisher, "tick", tick)
    scene.turns(1)
    assert not scene.daemon.ready()["store_open"]
    scene.turns(1)
    assert scene.daemon.ready()["store_open"]


def test_a_runtime_that_takes_anothers_place_is_in_the_audit(tmp_path: Path) -> None:
    class Movable(ScriptedEngine):
        where = "scripted"

        @property
        def runtime(self) -> str:
            return self.where

    engine = Movable()
    scene = Scene(tmp_path, scripted(engine))
    scene.turns(2)
    engine.where = "gpu"
    scene.turns(2)
    audit = scene.daemon.node.journal.audit
    last = audit.last("models")
    assert last is not None
    assert json.loads(last.body)["changed"] == {"scripted.runtime": ["scripted", "gpu"]}
    scene.turns(2)
    assert audit.last("models") == last
    scene.daemon.publisher.stop(0)
    scene.daemon.node.journal.close()
