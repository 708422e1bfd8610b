"""Draws the dashboards: `python deploy/grafana/draw.py` writes dashboards/*.json from boards.yml (needs PyYAML).

Colours say nothing alone: every value is written out, and blue, orange and red are told apart by colour-blind eyes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
INTENDED_USE = "Research use, not validated on patients; adjunctive information only."
COLUMNS, HEIGHT = 24, 7
CHOICES = {
    "node": 'label_values(up{job="pellucid"}, node)',
    "incubator": 'label_values(pellucid_share_reachable{node=~"$node"}, incubator)',
}
OPTIONS: dict[str, dict[str, Any]] = {
    "timeseries": {
        "legend": {"showLegend": True, "displayMode": "list", "placement": "bottom", "calcs": []},
        "tooltip": {"mode": "multi", "sort": "none"},
    },
    "stat": {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "colorMode": "background",
        "graphMode": "none",
        "textMode": "value_and_name",
        "justifyMode": "auto",
        "orientation": "auto",
        "percentChangeColorMode": "standard",
        "showPercentChange": False,
        "wideLayout": True,
    },
    "table": {"showHeader": True, "cellHeight": "sm", "frameIndex": 0},
}


def board(name: str, declared: dict[str, Any]) -> dict[str, Any]:
    """A dashboard of boards.yml as Grafana reads it: panels from left to right, a new row where one does not fit."""
    panels, x, y = [], 0, 0
    for number, one in enumerate(declared["panels"], 1):
        width = one.get("width", 8)
        if x + width > COLUMNS:
            x, y = 0, y + HEIGHT
        panels.append(_panel(one) | {"id": number, "gridPos": {"h": HEIGHT, "w": width, "x": x, "y": y}})
        x += width
    source = {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Prometheus"}
    others = {"title": "Pellucid", "type": "dashboards", "tags": ["pellucid"], "icon": "external link", "tooltip": ""}
    return {
        "uid": f"pellucid-{name}",
        "title": declared["title"],
        "description": f"{declared['text']} {INTENDED_USE}",
        "tags": ["pellucid"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-24h", "to": "now"},
        "timezone": "browser",
        "links": [others | {"asDropdown": False, "includeVars": True, "keepTime": True, "targetBlank": False}],
        "templating": {"list": [source, *(_choice(choice) for choice in declared["choices"])]},
        "panels": panels,
    }


def _choice(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": CHOICES[name], "refId": name},
        "refresh": 2,
        "includeAll": True,
        "multi": True,
        "current": {"text": "All", "value": "$__all"},
    }


def _panel(one: dict[str, Any]) -> dict[str, Any]:
    kind, alerts, limits = one.get("kind", "timeseries"), one.get("alerts", []), one.get("limits", [])
    told = one.get("text", "") + (f" Alerts: {', '.join(alerts)} (deploy/runbook.md)." if alerts else "")
    steps = [{"color": "blue", "value": None}, *({"color": color, "value": value} for value, color in limits)]
    words = [{"type": "value", "options": {value: {"text": word}}} for value, word in one.get("words", {}).items()]
    defaults = {
        "unit": one.get("unit", "short"),
        "thresholds": {"mode": "absolute", "steps": steps},
        "mappings": words,
        "noValue": "no answer",
    }
    if kind == "timeseries":
        lines = {"mode": "dashed" if limits else "off"}
        defaults["custom"] = {"drawStyle": "line", "fillOpacity": 8, "spanNulls": False, "thresholdsStyle": lines}
    return {
        "title": one["title"],
        "description": told.strip(),
        "type": kind,
        "datasource": SOURCE,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": OPTIONS[kind],
        "targets": [_target("ABC"[k], query, legend, kind) for k, (query, legend) in enumerate(one["queries"])],
    }


def _target(ref: str, query: str, legend: str, kind: str) -> dict[str, Any]:
    over_time = kind == "timeseries"
    return {
        "refId": ref,
        "datasource": SOURCE,
        "expr": query,
        "legendFormat": legend,
        "instant": not over_time,
        "range": over_time,
        "format": "table" if kind == "table" else "time_series",
    }


def drawn() -> dict[str, str]:
    """Name -> the text of its file."""
    boards = yaml.safe_load((HERE / "boards.yml").read_text())
    return {name: json.dumps(board(name, declared), indent=1) + "\n" for name, declared in boards.items()}


if __name__ == "__main__":
    for name, text in drawn().items():
        (HERE / "dashboards" / f"{name}.json").write_text(text)
