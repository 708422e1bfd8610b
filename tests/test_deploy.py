"""What lies in deploy/ names what the code has: metrics, alerts, panels, paragraphs. No program is started here."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from prometheus_client.metrics import MetricWrapperBase

from tests.house import FakeClock, new_metrics

DEPLOY = Path(__file__).resolve().parents[1] / "deploy"
RULES: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((DEPLOY / "prometheus" / "pellucid.rules.yml").read_text())["groups"]
    for rule in group["rules"]
]
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}
RULE_TESTS = yaml.safe_load((DEPLOY / "prometheus" / "pellucid.rules.test.yml").read_text())["tests"]
# named by the rules before the code has them; must become empty, and may not name what exists
PENDING: set[str] = set()


def existing() -> set[str]:
    """Every name that /metrics may show, and every recorded one."""
    names: set[str] = set()
    for family in new_metrics(FakeClock()).registry.collect():
        suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "info": ("_info",)}
        names |= {family.name + suffix for suffix in suffixes.get(family.type, ("",))}
    return names | {rule["record"] for rule in RULES if "record" in rule}


def named(text: str) -> set[str]:
    return set(re.findall(r"\bpellucid[_:][a-z0-9_:]+", text))


def test_every_metric_the_rules_use_exists() -> None:
    used = set().union(*(named(rule["expr"]) for rule in RULES))
    assert len(used) > 20
    assert used - existing() <= PENDING
    assert not PENDING & existing(), "no longer pending: take them off the list"


def test_every_alert_is_tested_where_it_rings_and_where_it_is_silent() -> None:
    moments = [
        (moment["alertname"], bool(moment["exp_alerts"])) for one in RULE_TESTS for moment in one["alert_rule_test"]
    ]
    assert set(moments) == {(alert, rings) for alert in ALERTS for rings in (True, False)}


def test_every_alert_has_a_paragraph_in_the_runbook_and_names_it() -> None:
    part = (DEPLOY / "runbook.md").read_text().partition("# Alerts of Prometheus")[2]
    paragraphs = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", part, re.MULTILINE | re.DOTALL))
    assert set(paragraphs) == set(ALERTS)
    assert all(len(text) > 60 for text in paragraphs.values())
    for alert, rule in ALERTS.items():
        assert rule["annotations"]["runbook"] == f"runbook.md#{alert.lower()}"
        assert rule["labels"]["severity"] in ("critical", "warning")


def test_the_series_of_rule_tests_carry_the_labels_the_metrics_have() -> None:
    metrics = [metric for metric in vars(new_metrics(FakeClock())).values() if isinstance(metric, MetricWrapperBase)]
    labels = {metric._name: {*metric._labelnames, "le"} for metric in metrics}
    for one in RULE_TESTS:
        for series in one.get("input_series", ()):
            name, _, rest = series["series"].partition("{")
            if name != "up" and name not in PENDING:
                base = re.sub(r"_(bucket|total)$", "", name)
                given = set(re.findall(r"(\w+)=", rest)) - {"job", "instance", "node"}
                assert given <= labels[base], series["series"]
