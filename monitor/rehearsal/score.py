"""Decides on a record of the script, with the limits of a configuration, and scores every kind of alert.

`python -m monitor.rehearsal.score --record DIR [--config F]` prints a table in Markdown and writes `DIR/score.json`.
Kinds of events and of pictures: precision, recall, delay, false alarms for each incubator and week. The probability
at its checks: sensitivity, specificity, predictive values. It draws nothing and steps no model.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

from monitor.alert import Alert, AlertState, AlertSubject
from monitor.alert_machine import EMPTY, Voice, advance
from monitor.alert_rules import DEFAULTS, Alerts
from monitor.arguments import not_negative, positive
from monitor.config import read_config
from monitor.decide import of_node
from monitor.fakes import Shelf
from monitor.hearing import Hearing, merged
from monitor.rehearsal import ideal
from monitor.rehearsal.cases import Scene, script
from monitor.rehearsal.record import INSEMINATED, NODE, SITE
from monitor.rehearsal.truth import Due, due, gone_h
from monitor.simulator import Life
from monitor.vocabulary import Reading

VOICE = Voice(SITE, NODE)
KINDS = (
    *("imaging_degraded", "well_empty", "frame_gap", "arrest", "direct_cleavage", "reverse_cleavage"),
    "blastocyst_reached",
)
LOOK_EVERY_MIN = 5.0
CHECKS = ("day3", "day4", "from_hpi")


@dataclass(frozen=True)
class Played:
    """A scene with what was told of it."""

    scene: Scene
    words: tuple[Alert, ...]
    hours: float


@dataclass
class Score:
    """One kind's counts. `delays_h`: from the thing to its word; `rule_delays_h`: from when the rule, told the truth,
    would have said it."""

    due: int = 0
    found: int = 0
    raised: int = 0
    false: int = 0
    delays_h: tuple[float, ...] = ()
    rule_delays_h: tuple[float, ...] = ()


def play(scene: Scene, readings: Iterable[Reading], rules: Alerts) -> Played:
    """Every word about a scene, its readings heard moment by moment."""
    shelf = Shelf()
    in_order = sorted(readings, key=lambda one: (one.occurred_at or INSEMINATED, int(one.embryo.well)))
    words: list[Alert] = []
    for reading in in_order:
        shelf.embryos.add(f"embryo/{reading.embryo.embryo_id}")
        words += shelf.put(merged(Hearing(shelf, rules, VOICE, None).reading(reading)))
    words += _silences(scene, in_order, rules)
    hours = scene.hours()
    return Played(scene, tuple(words), hours[-1] - hours[0])


def _silences(scene: Scene, readings: Sequence[Reading], rules: Alerts) -> list[Alert]:
    """What looks at the clock tell between the frames."""
    moments = sorted({one.occurred_at for one in readings if one.occurred_at is not None})
    watching, words = EMPTY, []
    for before, after in pairwise(moments):
        steps = int((after - before) / timedelta(minutes=LOOK_EVERY_MIN))
        for step in range(steps):
            now = before + step * timedelta(minutes=LOOK_EVERY_MIN)
            cadences = step * LOOK_EVERY_MIN / scene.every_min
            signal = of_node("frame_gap", AlertSubject(incubator=scene.name), cadences, now, {})
            watching, word = advance(watching, signal, rules.frame_gap, VOICE)
            words += [] if word is None else [word]
    return words


def hpi_h(word: Alert) -> float:
    if word.occurred_at is None:
        raise ValueError("a word of a record has an hour")
    return (word.occurred_at - INSEMINATED) / timedelta(hours=1)


def _is_of(word: Alert, one: Due) -> bool:
    same = (
        word.kind in (one.kind, one.also) and word.subject.incubator == one.incubator and word.subject.well == one.well
    )
    fact = one.fact is None or word.evidence.values.get("cycle") == one.fact
    return same and fact and one.from_h <= hpi_h(word) <= one.until_h


def score(played: Sequence[Played]) -> dict[str, Score]:
    """kind -> its counts over all scenes."""
    scores = {kind: Score() for kind in KINDS}
    for one in played:
        expected = due(one.scene)
        raised = [word for word in one.words if word.state is AlertState.RAISED and word.kind in scores]
        for word in raised:
            scores[word.kind].raised += 1
            scores[word.kind].false += not any(_is_of(word, thing) for thing in expected)
        for thing in expected:
            _count(scores[thing.kind], thing, [hpi_h(word) for word in raised if _is_of(word, thing)])
    return scores


def _count(own: Score, thing: Due, hours: list[float]) -> None:
    own.due += 1
    if hours:
        own.found += 1
        own.delays_h += (min(hours) - thing.from_h,)
        own.rule_delays_h += () if thing.clear_h is None else (min(hours) - thing.clear_h,)


def prognosis(played: Sequence[Played]) -> dict[str, dict[str, int]]:
    """check -> how many embryos were told of as low (or not) that did not become a blastocyst (or did)."""
    counts = {check: dict.fromkeys(("true_low", "false_low", "missed", "true_rest"), 0) for check in (*CHECKS, "any")}
    for one in played:
        for well in one.scene.wells:
            if one.scene.last_h < 100 or gone_h(one.scene, well) < 1e9:
                continue  # nobody knows what would have become of it
            own = [word for word in one.words if word.kind == "low_blastocyst_probability"]
            said = {
                str(word.evidence.values.get("check", "from_hpi"))
                for word in own
                if word.state is AlertState.RAISED and word.subject.well == str(well.number)
            }
            becomes = Life.sample(well.seed).reaches_blastocyst
            for check in counts:
                low = bool(said) if check == "any" else check in said
                name = ("false_low" if becomes else "true_low") if low else ("true_rest" if becomes else "missed")
                counts[check][name] += 1
    return counts


def told(played: Sequence[Played]) -> tuple[str, dict[str, Any]]:
    """The tables as Markdown, and the same as plain values: one for each time between frames, and the prognosis."""
    texts: list[str] = []
    plain: dict[str, Any] = {}
    for every_min in sorted({one.scene.every_min for one in played}, reverse=True):
        text, values = _of_events([one for one in played if one.scene.every_min == every_min])
        texts.append(f"A frame each {every_min:.0f} minutes: {text}")
        plain[f"every_{every_min:.0f}_min"] = values
    text, plain["low_blastocyst_probability"] = _of_prognosis(played)
    return "\n\n".join([*texts, text]), plain


def _of_events(played: Sequence[Played]) -> tuple[str, dict[str, Any]]:
    weeks = sum(one.hours for one in played) / 168
    embryos = sum(len(one.scene.wells) for one in played)
    lines = [
        f"{embryos} embryos in {len(played)} incubators, {weeks:.1f} incubator-weeks.",
        "",
        "| kind | due | found | recall | raised | precision | false a week and incubator | delay h, median (90 %) |",
        "|---|---|---|---|---|---|---|---|",
    ]
    plain: dict[str, Any] = {"embryos": embryos, "incubators": len(played), "incubator_weeks": round(weeks, 2)}
    for kind, own in score(played).items():
        if not own.due and not own.raised:
            continue
        recall, precision = _ratio(own.found, own.due), _ratio(own.raised - own.false, own.raised)
        plain[kind] = {
            "due": own.due,
            "found": own.found,
            "recall": recall,
            "raised": own.raised,
            "precision": precision,
            "false_per_incubator_week": round(own.false / weeks, 2),
            "delay_h": [round(delay, 2) for delay in sorted(own.delays_h)],
            "delay_after_the_rule_h": [round(delay, 2) for delay in sorted(own.rule_delays_h)],
        }
        lines.append(
            f"| `{kind}` | {own.due} | {own.found} | {_text(recall)} | {own.raised} | {_text(precision)} | "
            f"{own.false / weeks:.2f} | {_delays(own.delays_h)} |"
        )
    if late := plain.get("arrest", {}).get("delay_after_the_rule_h"):
        lines += ["", f"`arrest`: {_delays(late)} h after the rule would have said so, told the truth."]
    return "\n".join(lines), plain


def _of_prognosis(played: Sequence[Played]) -> tuple[str, dict[str, Any]]:
    lines = ["| low probability | told low | sensitivity | specificity | PPV | NPV |", "|---|---|---|---|---|---|"]
    plain: dict[str, Any] = {}
    for check, n in prognosis(played).items():
        low, rest = n["true_low"] + n["false_low"], n["true_rest"] + n["missed"]
        figures = {
            "sensitivity": _ratio(n["true_low"], n["true_low"] + n["missed"]),
            "specificity": _ratio(n["true_rest"], n["true_rest"] + n["false_low"]),
            "ppv": _ratio(n["true_low"], low),
            "npv": _ratio(n["true_rest"], rest),
        }
        plain[check] = {**n, **figures}
        lines.append(f"| {check} | {low} of {low + rest} | {' | '.join(map(_text, figures.values()))} |")
    return "\n".join(lines), plain


def _ratio(part: int, whole: int) -> float | None:
    return round(part / whole, 3) if whole else None


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _delays(delays_h: Sequence[float]) -> str:
    if not delays_h:
        return "-"
    most = sorted(delays_h)[min(int(0.9 * len(delays_h)), len(delays_h) - 1)]
    return f"{statistics.median(delays_h):.1f} ({most:.1f})"


def recorded(folder: Path) -> list[tuple[Scene, list[Reading]]]:
    """The scenes of a record, each with its readings."""
    asked = json.loads((folder / "record.json").read_text(encoding="utf-8"))
    scenes = {scene.name: scene for scene in script(asked["embryos"], asked["ten_min"])}
    found = []
    for path in sorted(folder.glob("*.*.jsonl"), key=lambda path: [int(n) for n in re.findall(r"\d+", path.name)]):
        lines = path.read_text(encoding="utf-8").splitlines()
        found.append((scenes[path.name.split(".")[0]], [Reading.model_validate_json(line) for line in lines]))
    if not found:
        raise SystemExit(f"{folder}: nothing is recorded there")
    return found


def main() -> None:
    """Score a record."""
    command = argparse.ArgumentParser(description=__doc__)
    told_by = command.add_mutually_exclusive_group(required=True)
    told_by.add_argument("--record", type=Path, help="a folder written by monitor.rehearsal.record")
    told_by.add_argument("--ideal", type=positive, metavar="EMBRYOS", help="models that err in nothing, none drawn")
    command.add_argument("--ten-min", type=not_negative, default=20, help="with --ideal: more of them, every 10 min")
    command.add_argument("--config", type=Path, help="take the limits from this configuration")
    asked = command.parse_args()
    rules = DEFAULTS if asked.config is None else read_config(asked.config).alerts
    if asked.ideal is not None:
        scenes = script(asked.ideal, asked.ten_min)
        print(told([play(scene, ideal.readings(scene), rules) for scene in scenes])[0])
        return
    text, plain = told([play(scene, readings, rules) for scene, readings in recorded(asked.record)])
    (asked.record / "score.json").write_text(json.dumps(plain, indent=2) + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
