"""deploy/prometheus with the real programs: what they say of the files, and an alarm from a frame to a telephone."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.programs import program

pytestmark = pytest.mark.ops

HOME = Path(__file__).resolve().parents[1] / "deploy" / "prometheus"


def said(*command: str | Path) -> str:
    """What a program printed; AssertionError where it was not content."""
    ended = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr


def test_promtool_finds_every_rule_and_every_rule_test_right() -> None:
    promtool = program("promtool", "prometheus")
    assert "SUCCESS: 25 rules found" in said(promtool, "check", "rules", HOME / "pellucid.rules.yml")
    assert "SUCCESS" in said(promtool, "test", "rules", HOME / "pellucid.rules.test.yml")


def test_promtool_and_amtool_take_the_example_configurations() -> None:
    said(program("promtool", "prometheus"), "check", "config", HOME / "prometheus.yml")
    said(program("amtool", "prometheus-alertmanager"), "check-config", HOME / "alertmanager.yml")
