"""What lies in deploy/ names what the code has: metrics, alerts, panels, paragraphs. No program is started here."""

from __future__ import annotations

import copy
import importlib.util
import itertools
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from prometheus_client.metrics import MetricWrapperBase

from monitor.layouts import PRESETS
from tests.house import FakeClock, new_metrics

DEPLOY = Path(__file__).resolve().parents[1] / "deploy"
RULES: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((DEPLOY / "prometheus" / "pellucid.rules.yml").read_text())["groups"]
    for rule in group["rules"]
]
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}
RULE_TESTS = yaml.safe_load((DEPLOY / "prometheus" / "pellucid.rules.test.yml").read_text())["tests"]
BOARDS: dict[str, dict[str, Any]] = {
    path.stem: json.loads(path.read_text()) for path in (DEPLOY / "grafana" / "dashboards").glob("*.json")
}
GRAFANA = {
    name: jsonschema.Draft7Validator(schema)
    for name, schema in json.loads((Path(__file__).parent / "grafana_schemas.json").read_text()).items()
    if name != "comment"
}


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
    assert used <= existing()


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
            if name != "up":
                base = re.sub(r"_(bucket|total)$", "", name)
                given = set(re.findall(r"(\w+)=", rest)) - {"job", "instance", "node"}
                assert given <= labels[base], series["series"]


def panels(board: dict[str, Any]) -> list[tuple[str, str, set[str]]]:
    """(title, description, metrics) of every panel."""
    return [
        (one["title"], one["description"], set().union(*(named(target["expr"]) for target in one["targets"])))
        for one in board["panels"]
    ]


def test_every_metric_the_dashboards_use_exists() -> None:
    assert set(BOARDS) == {"fleet", "incubator", "engine-room"}
    used = set().union(*(metrics for board in BOARDS.values() for _, _, metrics in panels(board)))
    assert len(used) > 25
    assert used <= existing()


def test_every_metric_of_the_monitor_is_looked_at_by_some_panel() -> None:
    used = set().union(*(metrics for board in BOARDS.values() for _, _, metrics in panels(board)))
    behind = {rule["record"]: named(rule["expr"]) for rule in RULES if "record" in rule}
    used = used.union(*(behind.get(metric, set()) for metric in used))
    shown = {re.sub(r"_(bucket|sum|count)$", "", metric) for metric in used}
    assert {re.sub(r"_(bucket|sum|count)$", "", name) for name in existing() if ":" not in name} <= shown


def test_every_alert_has_a_panel_that_names_it_and_shows_what_it_is_about() -> None:
    behind = {rule["record"]: named(rule["expr"]) for rule in RULES if "record" in rule}
    for alert, rule in ALERTS.items():
        about = named(rule["expr"]) or {"up"}
        about = about.union(*(behind.get(metric, set()) for metric in about))
        of_it = [one for board in BOARDS.values() for one in panels(board) if re.search(rf"\b{alert}\b", one[1])]
        assert of_it, alert
        exprs = [one["targets"][0]["expr"] for board in BOARDS.values() for one in board["panels"]]
        assert any(metrics & about for _, _, metrics in of_it) or any(
            "up{" in expr for expr in exprs if about == {"up"}
        )
    said = re.findall(r"Pellucid[A-Z]\w+", " ".join(one[1] for board in BOARDS.values() for one in panels(board)))
    assert set(said) == set(ALERTS)


def test_the_dashboards_are_what_is_drawn_from_their_declaration() -> None:
    spec = importlib.util.spec_from_file_location("draw", DEPLOY / "grafana" / "draw.py")
    assert spec is not None and spec.loader is not None
    draw = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(draw)
    for name, text in draw.drawn().items():
        assert (DEPLOY / "grafana" / "dashboards" / f"{name}.json").read_text() == text, "run deploy/grafana/draw.py"


@pytest.mark.parametrize("name", sorted(BOARDS))
def test_a_dashboard_keeps_the_schema_that_grafana_publishes(name: str) -> None:
    def faults(board: dict[str, Any]) -> list[str]:
        told = list(GRAFANA["dashboard"].iter_errors(board))
        for one in board["panels"]:
            told += GRAFANA[f"{one['type']}.options"].iter_errors(one["options"])
            if one["type"] == "timeseries":
                told += GRAFANA["timeseries.custom"].iter_errors(one["fieldConfig"]["defaults"]["custom"])
        return [f"{list(fault.path)}: {fault.message}" for fault in told]

    assert faults(BOARDS[name]) == []
    wrong = copy.deepcopy(BOARDS[name])
    wrong["refrsh"] = "1s"
    wrong["panels"][0]["gridPos"]["w"] = "wide"
    wrong["panels"][0]["options"]["textMode"] = "shout"
    assert len(faults(wrong)) >= 3


@pytest.mark.parametrize("name", sorted(BOARDS))
def test_no_two_panels_lie_upon_each_other_and_every_choice_is_used(name: str) -> None:
    board, places = BOARDS[name], [one["gridPos"] for one in BOARDS[name]["panels"]]
    assert len({one["id"] for one in board["panels"]}) == len(places)
    for a, b in itertools.combinations(places, 2):
        apart = (
            a["x"] + a["w"] <= b["x"]
            or b["x"] + b["w"] <= a["x"]
            or a["y"] + a["h"] <= b["y"]
            or b["y"] + b["h"] <= a["y"]
        )
        assert apart
    queries = " ".join(target["expr"] for one in board["panels"] for target in one["targets"])
    chosen = {one["name"] for one in board["templating"]["list"]} - {"datasource"}
    assert set(re.findall(r"\$(\w+)", queries)) == chosen


def anchor(heading: str) -> str:
    """As GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("name", ["README.md", "runbook.md", "contract.md"])
def test_every_link_of_the_documents_leads_somewhere(name: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", (DEPLOY / name).read_text()):
        file, _, place = target.partition("#")
        found = DEPLOY / (file or name)
        assert found.exists(), target
        if place and found.suffix == ".md":
            assert place in {
                anchor(heading) for heading in re.findall(r"^#+ (.*)$", found.read_text(), re.MULTILINE)
            }, target


def test_every_layout_is_told_how_to_connect() -> None:
    table = (DEPLOY / "README.md").read_text().partition("## Connect an incubator")[2].partition("\n## ")[0]
    assert set(re.findall(r"\| `([a-z-]+)` \|", table)) - {"layout"} == set(PRESETS)
