"""Three full incubators at once: 240 embryos, seven planes each, within one second; each reading acknowledged once."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from monitor.way import Pictures
from tests.house import PLANES_UM, START
from tests.mosquitto import Heard, Listener, Mosquitto, needs_mosquitto
from tests.service import Service, leave_nothing_running, write_config

pytestmark = [pytest.mark.broker, pytest.mark.slow, needs_mosquitto]

DISHES, WELLS = 20, 12
EMBRYOS = DISHES * WELLS
GIVE_UP_S = 300.0  # a hang, not a figure: nothing here asserts how long it takes


@pytest.fixture(autouse=True)
def tidy() -> Iterator[None]:
    yield
    leave_nothing_running()


def is_reading(one: Heard) -> bool:
    return one.topic.endswith("/reading") and bool(one.payload)


def drop_everything(pictures: Pictures, root: Path) -> float:
    """Link 1,680 finished files into the watched folder, as an incubator's export moves them; seconds it took."""
    began = time.monotonic()
    for embryo in range(EMBRYOS):
        pictures.put(root, f"D{embryo // WELLS + 1}", embryo % WELLS + 1, START, embryo)
    return time.monotonic() - began


def megabytes(pid: int, key: str) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024


def wait_until_acknowledged(service: Service, until_s: float) -> None:
    """Until the broker has answered every reading, as the daemon itself counts it."""
    while service.metric("published_total", kind="reading", outcome="delivered") != EMBRYOS:
        assert time.monotonic() < until_s, "not every reading was acknowledged"
        time.sleep(0.02)


def test_240_embryos_of_seven_planes_within_a_second_are_each_told_and_acknowledged_exactly_once(
    tmp_path: Path,
) -> None:
    pictures = Pictures(tmp_path / "pictures", size_px=500, embryos=EMBRYOS)
    with Mosquitto(tmp_path) as broker, Listener(broker.port, "pellucid/v1/+/+/embryo/#") as listener:
        service = Service(write_config(tmp_path, broker.port, deadline_s=60))
        pid, rest_mb = service.pid, megabytes(service.pid, "VmRSS")
        began = time.monotonic()
        dropped_s = drop_everything(pictures, tmp_path / "inc1")
        listener.wait_for(lambda heard: sum(map(is_reading, heard)) >= EMBRYOS, GIVE_UP_S)
        wait_until_acknowledged(service, began + GIVE_UP_S)
        took_s, peak_mb = time.monotonic() - began, megabytes(pid, "VmHWM")
        waiting = service.metric("outbox_messages")
        assert service.terminate() == 0
        told = [one.body for one in filter(is_reading, listener.take())]

    print(
        f"\n{EMBRYOS} embryos x {len(PLANES_UM)} planes ({EMBRYOS * len(PLANES_UM)} files, 500 px) moved in within "
        f"{dropped_s:.2f} s on {os.cpu_count()} cores: all {len(told)} readings acknowledged {took_s:.1f} s after the "
        f"first file, {EMBRYOS / took_s:.1f} frames/s; its memory {rest_mb:.0f} MB before, {peak_mb:.0f} MB at most"
    )
    assert waiting == 0
    assert Counter(Counter(reading["id"] for reading in told).values()) == {1: EMBRYOS}
    assert len({reading["embryo"]["embryo_id"] for reading in told}) == EMBRYOS
    assert {reading["seq"] for reading in told} == set(range(1, EMBRYOS + 1))
    assert {reading["outcome"] for reading in told} == {"judged"}
    assert {tuple(reading["frame"]["planes"]) for reading in told} == {PLANES_UM}
    assert {reading["historical"] for reading in told} == {False}, "files drawn just now were taken for old ones"
