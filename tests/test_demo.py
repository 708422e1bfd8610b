"""The demo, whole: broker, drawing, daemon, table. Short life, real parts."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from monitor.demo import Settings, demo
from monitor.page_process import can_serve

pytest.importorskip("amqtt", reason="the extra `demo` is not installed")


@pytest.mark.slow
def test_the_demo_tells_every_frame_and_ends_by_itself() -> None:
    said = io.StringIO()
    settings = Settings(embryos=2, hours=7, size_px=64, http_port=0)
    assert demo(settings, Console(file=said, width=120)) == 0
    text = said.getvalue()
    assert "16 readings of 16 frames arrived over MQTT" in text
    assert "/metrics" in text
    assert ("page     http://127.0.0.1:" in text) == can_serve()
    assert "not validated on patients" in text
