"""deploy/README.md followed to the letter in a machine with the real systemd: from nothing to a watched service.

The tests go through one machine's life in their order: installed, looked at, hung, killed, stopped, upgraded, away.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from tests.house import write_frame
from tests.machine import Machine, machine
from tests.programs import leave_out, program

pytestmark = pytest.mark.ops

HOME = Path(__file__).resolve().parents[1]
README = (HOME / "deploy" / "README.md").read_text()
BOX_PYTHON = "/usr/bin/python3"
RELEASES = "/opt/pellucid/releases"
# what a hang is made of: the work stands still while the process, its threads and its endpoints live
HANGS_ON_DEMAND = """
import pathlib, sys, time
from monitor.cli import main
from monitor.daemon import Daemon
advance = Daemon._advance
def advance_or_hang(self):
    while pathlib.Path("/run/pellucid-hang").exists():
        time.sleep(0.1)
    return advance(self)
Daemon._advance = advance_or_hang
sys.exit(main(sys.argv[1:]))
"""


def blocks(mark: str) -> list[str]:
    """The commands of every block marked so, in their order."""
    return re.findall(rf"^```sh {mark}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def workshop(home: Path) -> Path:
    """Follow the block of the workshop in a checkout; the bundle."""
    quiet = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    box_python = subprocess.run([BOX_PYTHON, "-V"], capture_output=True, text=True, check=True).stdout
    if box_python.split(".")[:2] != ["Python 3", str(sys.version_info.minor)]:  # "with the box's Python version"
        quiet |= {"VENV": "build/venv", "PYTHON": BOX_PYTHON}
    (script,) = blocks("workshop")
    made = subprocess.run(["bash", "-euc", script], cwd=home, env=quiet, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stdout + made.stderr
    (bundle,) = (home / "build").glob("pellucid-*.tar")
    return bundle


def next_version(bundle: Path, folder: Path) -> Path:
    """The same wheels, with a pellucid that calls itself 0.9.9."""
    shutil.unpack_archive(bundle, folder)
    (unpacked,) = folder.iterdir()
    tree = folder / "tree"
    for name in ("monitor", "engines"):
        shutil.copytree(HOME / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(HOME / name, tree)
    start = tree / "monitor" / "__init__.py"
    start.write_text(re.sub(r'__version__ = ".*"', '__version__ = "0.9.9"', start.read_text()))
    (wheel,) = (unpacked / "wheels").glob("pellucid-*.whl")
    wheel.unlink()
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", unpacked / "wheels", tree]
    subprocess.run([str(word) for word in command], check=True, capture_output=True)
    newer = unpacked.rename(folder / "pellucid-0.9.9")
    return Path(shutil.make_archive(str(newer), "tar", folder, newer.name))


class Box(Machine):
    """The machine, and what was said while the document was followed in it."""

    said: str = ""

    def follow(self, mark: str, *, only: str = "") -> str:
        """Run the marked blocks (those with `only` in them) as they stand, in one shell; what they printed."""
        chosen = [script for script in blocks(mark) if only in script]
        assert chosen, (mark, only)
        printed = self.run("".join(chosen), limit_s=300)
        self.said += printed
        return printed

    def give(self, bundle: Path) -> None:
        shutil.copy(bundle, self.root / "root")

    def install(self) -> subprocess.CompletedProcess[str]:
        """The same commands where they are to fail."""
        return self.ask(
            "set +e; tar -xf pellucid-*.tar; pellucid-*/deploy/install.sh; code=$?; rm -r pellucid-*; exit $code"
        )

    def frames(self, well: str, count: int, after_min: int = 0) -> None:
        """An incubator writes `count` frames of a well, one a minute, the last a little while ago."""
        begin = datetime.now(timezone.utc).replace(second=0, microsecond=0) - timedelta(hours=2)
        for minute in range(after_min, after_min + count):
            at = begin + timedelta(minutes=minute)
            write_frame(self.root / "srv/incubator1", well, at, dish="D9", size_px=128)

    def journal(self, *selected: str) -> list[dict[str, Any]]:
        told = self.run(f"journalctl --no-pager -u pellucid -o json {' '.join(selected)}")
        return [json.loads(line) for line in told.splitlines()]

    def readings(self, well: str = "") -> list[dict[str, Any]]:
        """What the record holds of a well, or of all."""
        of = f"--embryo inc1/D9/{well}" if well else ""
        rows = self.ask(f"runuser -u pellucid -- pellucid journal export --storage /var/lib/pellucid {of}").stdout
        return [row["told"] for row in map(json.loads, rows.splitlines()) if row["kind"] == "reading"]

    def wait_for_readings(self, well: str, count: int) -> None:
        deadline_s = time.monotonic() + 60
        while (there := len(self.readings(well))) < count:
            assert time.monotonic() < deadline_s, f"only {there} of {count} frames of well {well} were told"
            time.sleep(0.25)

    def metric(self, series: str) -> float:
        ask = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:9464/metrics').read().decode())"
        text = self.wait_until(f'python3 -c "{ask}"')
        return float(re.findall(rf"^{re.escape(series)} (.*)$", text, re.MULTILINE)[0])

    @property
    def version(self) -> str:
        return self.run("pellucid --version").split()[1]


@pytest.fixture(scope="module")
def booted() -> Iterator[Machine]:
    (names,) = re.findall(r"^apt-get install -y (.*)$", README, re.MULTILINE)
    known = subprocess.run([program("dpkg", "dpkg"), "-s", *names.split()], capture_output=True, text=True, check=False)
    if known.returncode != 0:  # the machine has no network: what it is told to install has to be there
        leave_out(f"packages are missing that deploy/README.md installs: {known.stderr.strip()}")
    with machine("box1") as made:
        yield made


@pytest.fixture(scope="module")
def bundle(booted: Machine) -> Path:  # after it: where no machine can be had, nothing is to be built
    return workshop(HOME)


@pytest.fixture(scope="module")
def newer(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return next_version(bundle, tmp_path_factory.mktemp("newer"))


@pytest.fixture(scope="module")
def box(booted: Machine, bundle: Path) -> Box:
    made = Box(booted.root, booted.pid)
    made.give(bundle)
    made.follow("box")
    return made


def test_following_the_document_ends_in_a_service_that_judges_tells_and_is_watched(box: Box) -> None:
    assert box.show("pellucid", "ActiveState", "SubState", "UnitFileState") == {
        "ActiveState": "active",
        "SubState": "running",
        "UnitFileState": "enabled",
    }
    heard = re.findall(r"^pellucid/v1/lab1/box1/embryo/inc1/D1/[12]/reading (\{.*\})$", box.said, re.MULTILINE)
    assert len(heard) == 2
    assert all(json.loads(body)["outcome"] == "judged" for body in heard)
    assert re.search(r'"command": ?"insemination".*"accepted": ?true', box.said)
    assert "error " not in box.said and re.search(
        r"^ok +mqtt +localhost:8883: logged in with MQTT 5", box.said, re.MULTILINE
    )
    box.wait_until("promtool query instant http://127.0.0.1:9090 'up{job=\"pellucid\"} == 1' | grep node=.box1")
    assert box.metric("pellucid_mqtt_connected") == 1


def test_the_page_is_served_within_the_same_bounds(box: Box) -> None:
    page = box.wait_until(
        "python3 -c \"import urllib.request as u; print(u.urlopen('http://127.0.0.1:9464/').read().decode())\""
    )
    assert "inc1" in page and "research use" in page.lower()
    assert box.run("pgrep --count --uid pellucid").strip() == "2"


def test_it_runs_as_nobody_of_note_sees_no_device_and_writes_only_where_its_journal_lies(box: Box) -> None:
    pid = box.show("pellucid", "MainPID")["MainPID"]
    status = dict(line.split(":\t", 1) for line in box.run(f"cat /proc/{pid}/status").splitlines() if ":\t" in line)
    assert status["Uid"].split()[0] == box.run("id -u pellucid").strip() != "0"
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    inside = f"nsenter -t {pid} -m --"
    assert "Read-only file system" in box.ask(f"{inside} touch /srv/incubator1/x").stderr
    assert "Read-only file system" in box.ask(f"{inside} touch /etc/pellucid/x").stderr
    box.run(f"{inside} touch /var/lib/pellucid/x && rm /var/lib/pellucid/x")
    harmless = "char|core|fd|full|hugepages|log|mqueue|null|ptmx|pts|random|shm|std(in|out|err)|tty|urandom|zero"
    assert box.run(f"{inside} ls /dev | grep -vxE '{harmless}' || true") == ""
    assert box.run(f"{inside} ls -A /root /home").split() == ["/home:", "/root:"]


def test_the_exposure_that_systemd_reckons_is_at_most_the_goal_with_a_gpu_and_without(box: Box) -> None:
    def exposure() -> float:
        return float(
            re.findall(r"exposure level for .*: ([0-9.]+)", box.run("systemd-analyze security --no-pager pellucid"))[0]
        )

    assert exposure() <= 0.9
    deployed = "/opt/pellucid/current/deploy/systemd"
    for device in ("gpu", "jetson"):
        folder = "/etc/systemd/system/pellucid.service.d"
        box.run(f"install -D -m 644 {deployed}/{device}.conf {folder}/{device}.conf && systemctl daemon-reload")
        assert exposure() <= 1.3
        assert (
            box.run("systemd-analyze verify /etc/systemd/system/pellucid.service 2>&1 | grep -v Documentation || true")
            == ""
        )
        box.run(f"rm {folder}/{device}.conf && systemctl daemon-reload")


def test_its_password_is_roots_alone_and_reaches_it_as_a_credential(box: Box) -> None:
    assert box.run("stat -c '%a %U' /etc/pellucid/secrets /etc/pellucid/secrets/mqtt-password").split() == [
        "700",
        "root",
        "600",
        "root",
    ]
    assert box.ask("runuser -u pellucid -- cat /etc/pellucid/secrets/mqtt-password").returncode != 0
    given = "/run/credentials/pellucid.service/mqtt-password"
    assert box.run(f"cat {given}") == box.run("cat /root/passwords/pellucid-box1")
    assert box.ask(f"runuser -u mosquitto -- cat {given}").returncode != 0


def test_the_journal_can_be_asked_by_embryo_by_event_and_by_priority(box: Box) -> None:
    (one, *_) = box.journal("PELLUCID_EVENT=reading")
    assert one["_SYSTEMD_UNIT"] == "pellucid.service" and one["PRIORITY"] == "6"
    assert one["PELLUCID_OUTCOME"] == "judged" and one["SYSLOG_IDENTIFIER"] == "pellucid"
    assert json.loads(one["MESSAGE"])["id"] == one["PELLUCID_ID"]
    of_one = box.journal(f"PELLUCID_EMBRYO_ID={one['PELLUCID_EMBRYO_ID']}")
    assert {line["PELLUCID_EMBRYO_ID"] for line in of_one} == {one["PELLUCID_EMBRYO_ID"]} and len(of_one) == 7
    assert box.journal("-p", "err") == []


def test_a_share_that_is_mounted_when_the_service_already_runs_is_seen_by_it(box: Box) -> None:
    box.run("mount -t tmpfs tmpfs /srv/incubator1")
    box.wait_until("journalctl --no-pager -u pellucid PELLUCID_EVENT='a share is away' | grep 'is it mounted'")
    box.run("umount /srv/incubator1")
    box.wait_until("journalctl --no-pager -u pellucid PELLUCID_EVENT='a share is back' | grep back")


SETTINGS = "/run/systemd/system/pellucid.service.d"


def hold(box: Box, *lines: str) -> int:
    """Lay settings of the test over the unit and start it anew with them; what `systemctl` ended with."""
    (box.root / "root/test.conf").write_text("\n".join(("[Service]", *lines, "")))
    box.run(f"install -D -m 644 test.conf {SETTINGS}/test.conf && systemctl daemon-reload")
    return box.ask("systemctl restart pellucid").returncode


def let_go(box: Box) -> None:
    box.run(f"rm -f {SETTINGS}/test.conf /run/pellucid-hang && systemctl daemon-reload")
    box.run("systemctl reset-failed pellucid; systemctl restart pellucid")


def test_work_that_hangs_in_a_living_process_is_ended_by_the_watchdog_with_its_stack_and_goes_on_where_it_was(
    box: Box,
) -> None:
    box.frames("1", 3)
    box.wait_for_readings("1", 3)
    (box.root / "opt/hangs.py").write_text(HANGS_ON_DEMAND)
    run = "/opt/pellucid/current/bin/python /opt/hangs.py run --config /etc/pellucid/pellucid.toml"
    assert hold(box, "ExecStart=", f"ExecStart={run}", "WatchdogSec=3", "RestartSec=100ms") == 0
    before = box.show("pellucid", "MainPID")["MainPID"]
    box.run("touch /run/pellucid-hang")
    box.frames("1", 3, after_min=3)
    box.wait_until("journalctl --no-pager -u pellucid | grep 'Watchdog timeout (limit 3s)'", limit_s=15)
    box.run("rm /run/pellucid-hang")
    box.wait_for_readings("1", 6)
    assert box.show("pellucid", "MainPID")["MainPID"] != before
    assert int(box.show("pellucid", "NRestarts")["NRestarts"]) >= 1
    assert "advance_or_hang" in box.run("journalctl --no-pager -u pellucid -o cat | grep -A3 'most recent call first'")
    assert box.metric('pellucid_state_restores_total{outcome="lost"}') == 0
    let_go(box)


def test_killed_in_the_middle_it_loses_no_frame_tells_none_twice_and_finds_its_memories(box: Box) -> None:
    box.frames("2", 60)
    box.wait_for_readings("2", 1)
    box.run("systemctl kill --signal=KILL pellucid")
    box.wait_for_readings("2", 60)
    told = box.readings()
    assert sorted(reading["seq"] for reading in told) == list(range(1, len(told) + 1))
    assert len({(str(reading["embryo"]), reading["occurred_at"]) for reading in told}) == len(told)
    assert box.metric('pellucid_state_restores_total{outcome="lost"}') == 0


def test_it_stops_within_5_seconds_with_a_whole_record_and_starts_again_with_what_it_knew(box: Box) -> None:
    box.frames("3", 40)
    box.wait_for_readings("3", 1)
    began_s = time.monotonic()
    box.run("systemctl stop pellucid")
    assert time.monotonic() - began_s < 5
    assert box.show("pellucid", "Result", "ExecMainStatus") == {"Result": "success", "ExecMainStatus": "0"}
    assert "the journal holds" in box.follow("box-end", only="journal verify")
    box.run("systemctl start pellucid")
    box.wait_for_readings("3", 40)


def test_a_configuration_that_cannot_be_used_ends_with_78_and_is_not_tried_again(box: Box) -> None:
    config = box.root / "etc/pellucid/pellucid.toml"
    good = config.read_text()
    config.write_text(good.replace('"generic"', '"nonsense"'))
    assert box.ask("systemctl restart pellucid").returncode != 0
    shown = box.show("pellucid", "ActiveState", "ExecMainStatus", "NRestarts")
    assert shown == {"ActiveState": "failed", "ExecMainStatus": "78", "NRestarts": "0"}
    assert "nonsense" in box.run("journalctl --no-pager -u pellucid -o cat -n 5")
    config.write_text(good)
    box.run("systemctl reset-failed pellucid && systemctl start pellucid")


def test_five_ends_within_five_minutes_are_the_budget(box: Box) -> None:
    hold(box, "Type=exec", "ExecStart=", "ExecStart=/bin/false", "RestartSec=50ms")
    box.wait_until("journalctl --no-pager -u pellucid | grep 'Start request repeated too quickly'")
    assert box.show("pellucid", "ActiveState")["ActiveState"] == "failed"
    let_go(box)


def test_installing_the_same_again_changes_nothing(box: Box, bundle: Path) -> None:
    state = (
        f"readlink /opt/pellucid/current; ls {RELEASES}; md5sum /etc/pellucid/*.* /etc/systemd/system/pellucid.service"
    )
    before, pid = box.ask(state).stdout, box.show("pellucid", "MainPID")
    box.give(bundle)
    assert "is in place" in box.follow("box", only="install.sh")
    assert (box.ask(state).stdout, box.show("pellucid", "MainPID")) == (before, pid)


def test_an_upgrade_of_a_machine_with_a_gpu_asks_for_what_a_gpu_needs_and_changes_nothing_without(
    box: Box, bundle: Path
) -> None:
    drop_in = box.root / "etc/systemd/system/pellucid.service.d/gpu.conf"
    drop_in.parent.mkdir(exist_ok=True)
    drop_in.write_text("[Service]\n")
    before, pid = box.run("readlink /opt/pellucid/current"), box.show("pellucid", "MainPID")
    box.give(bundle)
    ended = box.install()
    assert ended.returncode == 1 and "pip did not find everything in" in ended.stderr and "tensorrt" in ended.stderr
    assert (box.run("readlink /opt/pellucid/current"), box.show("pellucid", "MainPID")) == (before, pid)
    drop_in.unlink()
    box.run("systemctl daemon-reload")


def test_upgrade_roll_back_backup_and_restore_lose_nothing(box: Box, newer: Path) -> None:
    version, known = box.version, [reading["id"] for reading in box.readings()]
    box.give(newer)
    box.follow("box-upgrade", only="tar -xf pellucid-")
    assert (box.version, box.show("pellucid", "ActiveState")["ActiveState"]) == ("0.9.9", "active")
    assert box.run("ls /var/backups/pellucid | wc -l").strip() == "1"
    box.follow("box-upgrade", only="--roll-back")
    assert (box.version, box.show("pellucid", "ActiveState")["ActiveState"]) == (version, "active")
    box.follow("box-upgrade", only="--backup")
    box.frames("4", 2)
    box.wait_for_readings("4", 2)
    late = {reading["id"] for reading in box.readings("4")}
    box.follow("box-upgrade", only="tar -C /")
    box.wait_for_readings("4", 2)  # what came after the backup is judged once more, under the ids it had
    assert {reading["id"] for reading in box.readings("4")} == late
    assert [reading["id"] for reading in box.readings()][: len(known)] == known


@pytest.mark.parametrize(
    ("starts", "says"),
    [
        ("/opt/pellucid/current/bin/pellucid walk", "invalid choice: 'walk'"),  # exit 2: not tried again
        ("/bin/bash -c 'echo out of order; exit 1'", "out of order"),  # tried again: neither active nor failed
    ],
)
def test_a_version_that_does_not_start_gives_way_to_the_one_before(
    box: Box, newer: Path, starts: str, says: str
) -> None:
    version = box.version
    box.give(newer)
    if not list((box.root / RELEASES[1:]).glob("0.9.9-*")):
        assert box.install().returncode == 0
        box.run("/opt/pellucid/current/deploy/install.sh --roll-back")
        box.give(newer)
    (unit,) = (box.root / RELEASES[1:]).glob("0.9.9-*/deploy/systemd/pellucid.service")
    unit.write_text(re.sub("^ExecStart=.*", lambda _: f"ExecStart={starts}", unit.read_text(), flags=re.MULTILINE))
    ended = box.install()
    assert ended.returncode == 1 and "did not start; the version before serves again" in ended.stderr
    assert says in ended.stderr
    assert (box.version, box.show("pellucid", "ActiveState")["ActiveState"]) == (version, "active")


@pytest.mark.parametrize("end", ["exit 2", "kill -TERM 0; sleep 9"], ids=["fails", "ended"])
def test_a_backup_that_ends_early_leaves_the_monitor_running_and_nothing_half_made(box: Box, end: str) -> None:
    folder, kept = box.root / "root/odd", box.run("ls /var/backups/pellucid")
    folder.mkdir(exist_ok=True)
    (folder / "tar").write_text(f'#!/bin/sh\n: > "$4"; {end}\n')  # tar -C / -cf FILE ...
    (folder / "tar").chmod(0o755)
    # a session of its own: the signal is for the whole group, as Ctrl-C is (which a test begun with & would not get)
    ended = box.ask("PATH=/root/odd:$PATH setsid --wait /opt/pellucid/current/deploy/install.sh --backup")
    assert ended.returncode in (2, 143) and "the monitor runs again" in ended.stderr
    assert box.show("pellucid", "ActiveState")["ActiveState"] == "active"
    assert box.run("ls /var/backups/pellucid") == kept


def test_a_backup_without_room_for_it_does_not_stop_the_monitor(box: Box) -> None:
    pid = box.show("pellucid", "MainPID")
    box.run("mount -t tmpfs -o size=16k tmpfs /var/backups/pellucid")
    ended = box.ask("/opt/pellucid/current/deploy/install.sh --backup")
    box.run("umount /var/backups/pellucid")
    assert ended.returncode == 1 and "nothing was stopped" in ended.stderr
    assert box.show("pellucid", "MainPID") == pid


def test_uninstalled_it_leaves_what_it_knew_and_nothing_that_runs(box: Box) -> None:
    box.follow("box-end", only="--uninstall")
    assert box.show("pellucid", "LoadState", "ActiveState") == {"LoadState": "not-found", "ActiveState": "inactive"}
    box.run("test ! -e /opt/pellucid && test ! -e /usr/local/bin/pellucid")
    box.run(
        "test -s /var/lib/pellucid/journal.sqlite && test -s /etc/pellucid/pellucid.toml && ls -d /var/backups/pellucid"
    )


def test_a_machine_that_is_done_leaves_no_process_behind() -> None:
    with machine("box2") as made:
        made.run("systemd-run --quiet sleep 1000")
        first = made.pid
        assert Path(f"/proc/{first}").exists()
    assert not Path(f"/proc/{first}").exists()
