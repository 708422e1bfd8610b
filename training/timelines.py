"""Real videos beside their annotation: the stage as it was said live and as it was revised, and every alert.

`python -m training.timelines --nantes DIR --out DIR [--stage MODEL]` replays the public set's folder the way the daemon
would take it, and draws one picture a video. It judges nothing, and what it shows of two videos is no statistic.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from monitor.vocabulary import PHASES

CONFIG = """
[site]
name = "replay"
node = "replay"
[[incubator]]
name = "none"
path = "."
[mqtt]
host = "none"
[storage]
path = "."
[engines]
stage = "{stage}"
"""
COLOURS = {
    "low_blastocyst_probability": "tab:purple", "arrest": "tab:red", "direct_cleavage": "tab:orange",
    "reverse_cleavage": "tab:brown", "blastocyst_reached": "tab:green", "imaging_degraded": "tab:gray",
    "well_empty": "tab:olive",
}  # fmt: skip


@dataclass(frozen=True)
class Alarm:
    """An alert from its first word to its last; `until_h` None where it still stood at the end."""

    kind: str
    about: str
    from_h: float
    until_h: float | None


def replay(source: Path, out: Path, stage: str) -> None:
    """`pellucid replay` over the public set's folder, with a stage model. Raises CalledProcessError."""
    out.mkdir(parents=True, exist_ok=True)
    config = out / "replay.toml"
    config.write_text(CONFIG.format(stage=stage))
    command = [sys.executable, "-m", "monitor", "replay", str(source), "--layout", "nantes", "--jobs", "1"]
    subprocess.run([*command, "--config", str(config), "--out", str(out)], check=True)


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def annotated(path: Path) -> dict[int, str]:
    """RUN -> phase, of `phase,first,last` with both ends."""
    found: dict[int, str] = {}
    with path.open(newline="", encoding="utf-8") as rows:
        for phase, first, last in csv.reader(rows):
            found |= dict.fromkeys(range(int(first), int(last) + 1), phase)
    return found


def alarms(words: Sequence[Mapping[str, Any]], hours: Mapping[str, float]) -> list[Alarm]:
    """The alerts of one embryo. `hours`: id of a reading -> its hour; a word's hour is its last reading's."""
    found: dict[str, Alarm] = {}
    for word in words:
        at_h = hours[word["evidence"]["readings"][-1]] if word["evidence"]["readings"] else None
        known = found.get(word["alert_id"])
        if known is None and at_h is not None:
            values = word["evidence"]["values"]
            about = str(values.get("cycle") or values.get("check") or values.get("stage") or "")
            found[word["alert_id"]] = Alarm(word["kind"], about, at_h, None)
        elif known is not None and word["state"] == "cleared":
            found[word["alert_id"]] = Alarm(known.kind, known.about, known.from_h, at_h)
    return list(found.values())


def draw(title: str, readings: Sequence[Mapping[str, Any]], truth: Mapping[int, str], told: Sequence[Alarm]) -> Figure:
    """One video: the stages above, the probability in the middle, the alerts below."""
    figure = Figure(figsize=(12.0, 8.0), layout="constrained")
    FigureCanvasAgg(figure)
    stages, chance, below = figure.subplots(3, 1, sharex=True, height_ratios=(5, 2, 2))
    _stages(stages, [one for one in readings if one["stage"] is not None], readings, truth)
    judged = [one for one in readings if one["blastocyst"] is not None]
    sound = [one["frame"]["hpi"] for one in judged if "blastocyst" not in one["lacks"]]
    chance.plot([one["frame"]["hpi"] for one in judged], [one["blastocyst"]["probability"] for one in judged], lw=1)
    if sound:
        chance.axvspan(judged[0]["frame"]["hpi"], min(sound), color="0.93", label="not enough data")
        chance.legend(loc="lower right", fontsize=8)
    chance.set(ylim=(0, 1), ylabel="P(blastocyst)")
    _alarms(below, told, readings[-1]["frame"]["hpi"])
    stages.set(title=title)
    below.set(xlabel="hours post insemination")
    return figure


def _stages(
    axes: Axes, staged: Sequence[Mapping[str, Any]], readings: Sequence[Mapping[str, Any]], truth: Mapping[int, str]
) -> None:
    known = [one for one in readings if one["frame"]["run"] in truth]
    axes.step(
        [one["frame"]["hpi"] for one in known],
        [PHASES.index(truth[one["frame"]["run"]]) for one in known],
        where="post", color="0.75", linewidth=6, label="annotation",
    )  # fmt: skip
    for name, colour, width in (("live", "tab:blue", 0.9), ("revised", "tab:red", 1.4)):
        hours = [one["frame"]["hpi"] for one in staged]
        axes.step(
            hours, [PHASES.index(one["stage"][name]) for one in staged], where="post", color=colour, linewidth=width,
            label=name,
        )  # fmt: skip
    if staged:
        last = staged[-1]["stage"]
        for phase, hour in last["onsets_h"].items():
            axes.errorbar(hour, PHASES.index(phase), xerr=last["onsets_sd_h"][phase], color="black", capsize=2, lw=0.8)
    axes.set_yticks(range(len(PHASES)), PHASES)
    axes.legend(loc="lower right", fontsize=8)


def _alarms(axes: Axes, told: Sequence[Alarm], last_h: float) -> None:
    """A bar for each alert while it stood."""
    names: list[str] = []
    for one in told:
        name = f"{one.kind} {one.about}".strip()
        names += [] if name in names else [name]
        row = names.index(name)
        until_h = last_h if one.until_h is None else one.until_h
        axes.barh(row, max(until_h - one.from_h, 0.3), left=one.from_h, height=0.6, color=COLOURS.get(one.kind, "0.5"))
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set(ylim=(max(len(names), 1) - 0.4, -0.6), ylabel="alerts")


def main() -> None:
    """Replay and draw."""
    command = argparse.ArgumentParser(description=__doc__)
    command.add_argument("--nantes", type=Path, required=True, help="the public set's folder")
    command.add_argument("--out", type=Path, required=True)
    command.add_argument("--stage", default="embryodiff-small")
    asked = command.parse_args()
    replay(asked.nantes, asked.out, asked.stage)
    readings, words = lines_of(asked.out / "readings.jsonl"), lines_of(asked.out / "alerts.jsonl")
    for video in sorted({one["embryo"]["dish"] for one in readings}):
        own = [one for one in readings if one["embryo"]["dish"] == video and one["frame"]["hpi"] is not None]
        hours = {one["id"]: one["frame"]["hpi"] for one in own}
        truth = annotated(asked.nantes / "embryo_dataset_annotations" / f"{video}_phases.csv")
        told = alarms([word for word in words if word["subject"]["dish"] == video], hours)
        figure = draw(f"{video}: said beside annotated", own, truth, told)
        figure.savefig(asked.out / f"{video}.png", dpi=110)
        for one in told:
            until = "the end" if one.until_h is None else f"{one.until_h:.1f} h"
            print(f"{video}: {one.kind} {one.about} from {one.from_h:.1f} h to {until}")


if __name__ == "__main__":
    main()
