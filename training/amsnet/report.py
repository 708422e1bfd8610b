"""The figures of one evaluation and how they are told: by day, as text, CSV and JSON. It computes from answers alone.

Every predictor is judged on the same embryos at the same moments. It refuses to know networks and pictures.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from training.amsnet import metrics
from training.amsnet.answers import Judged, answers_at
from training.amsnet.metrics import DAYS, Bools, Estimate, Floats
from training.amsnet.stream_pass import Cadences

OURS, CEILING, COUNTER = "AMSNet", "knows the truth so far", "knows hour and cell count"
PAPER_AUC = {3.0: 0.819, 4.0: 0.874, 5.0: 0.958}  # its own test videos, not ours
PAPER_AREA = 0.7633
NOT_PATIENTS = "Measured on virtual embryos, which are not patients: no figure here says anything about real ones."

Answers = Mapping[str, Sequence[Judged]]  # predictor -> its answers, OURS among them


@dataclass(frozen=True)
class Day:
    """The figures by the end of one day; `embryos`: those still imaged. By predictor, with 95 % intervals.

    `auc_less`: OURS less each of the others, paired. `rates`, `calibration_error` and `brier` are of OURS.
    """

    day: float
    embryos: int
    accuracy: dict[str, Estimate]
    auc: dict[str, Estimate]
    auc_less: dict[str, Estimate]
    rates: metrics.Rates
    calibration_error: float
    brier: float


def day_of(answers: Answers, day: float, rounds: int = 1000) -> Day:
    """Every predictor's figures by the end of `day`, from each embryo's last answer so far."""
    said = {name: answers_at(judged, 24 * day) for name, judged in answers.items()}
    ours, truth, rows = said[OURS]
    for name, (_, _, others) in said.items():
        if others != rows:
            raise ValueError(f"day {day:g}: {name} was asked about other embryos")
    return Day(
        day=day,
        embryos=len(truth),
        accuracy={name: _accuracy(scores, truth) for name, (scores, _, _) in said.items()},
        auc={name: metrics.auc_interval(scores, truth, rounds) for name, (scores, _, _) in said.items()},
        auc_less={
            name: metrics.auc_difference(ours, scores, truth, rounds)
            for name, (scores, _, _) in said.items()
            if name != OURS
        },
        rates=metrics.rates(ours, truth),
        calibration_error=metrics.expected_calibration_error(ours, truth),
        brier=metrics.brier(ours, truth),
    )


def _accuracy(scores: Floats, truth: Bools) -> Estimate:
    return metrics.share(int(((scores > 0.5) == truth).sum()), len(truth))


def areas_of(answers: Answers, days: Sequence[float] = DAYS, rounds: int = 1000) -> dict[str, Estimate]:
    """Area under the accuracy-time curve by predictor; NaN where a day has no embryo left."""
    found = {}
    for name, judged in answers.items():
        right = np.full((len(judged), len(days)), np.nan)  # 1 called right, 0 wrong, NaN no longer imaged
        for column, day in enumerate(days):
            scores, truth, rows = answers_at(judged, 24 * day)
            right[rows, column] = (scores > 0.5) == truth
        found[name] = metrics.bootstrap(partial(_area, right, days), len(judged), rounds)
    return found


def _area(right: Floats, days: Sequence[float], rows: metrics.Rows) -> float:
    imaged = np.isfinite(right[rows]).sum(axis=0)
    if not imaged.all():
        return float("nan")
    return metrics.area_over_days((np.nansum(right[rows], axis=0) / imaged).tolist(), days)


def text_of(days: Sequence[Day], areas: Mapping[str, Estimate], stream: Cadences | None) -> str:
    """The report as lines for a terminal."""
    lines = [NOT_PATIENTS, "", "day  imaged  accuracy              ROC AUC               its ceiling  hour + count"]
    for day in days:
        ceiling, counter = (f"{day.auc[name].value:.3f}" for name in (CEILING, COUNTER))
        lines.append(
            f"{day.day:<4g} {day.embryos:>6}  {day.accuracy[OURS]}  {day.auc[OURS]}  {ceiling:>11}  {counter:>12}"
        )
    lines += ["", f"area under the accuracy-time curve / 7 (the paper, on its own videos: {PAPER_AREA})"]
    lines += [f"  {name}: {area}" for name, area in areas.items()] + [""]
    for day in (one for one in days if one.day in PAPER_AUC):
        rates = day.rates
        lines += [
            f"day {day.day:g}: AUC less the ceiling's {day.auc_less[CEILING]}, less hour and count's "
            f"{day.auc_less[COUNTER]}; the paper, on its own videos: {PAPER_AUC[day.day]}",
            f"  sensitivity {rates.sensitivity}  specificity {rates.specificity}",
            f"  PPV {rates.ppv}  NPV {rates.npv}  ECE {day.calibration_error:.3f}  Brier {day.brier:.3f}",
        ]
    return "\n".join(lines + (_stream_lines(stream) if stream else [])) + "\n"


def _stream_lines(one: Cadences) -> list[str]:
    return [
        "",
        f"{one.embryos} embryos as a stream, {one.frames} frames; largest difference from the clip that sees the same",
        f"  on representatives {one.worst_on_representatives:.1e}, at the window's last frame {one.worst_at_end:.1e}",
        f"  ROC AUC: clip by its last representative before {one.window_h[1]:g} h {one.clip}",
        f"  stream by its last frame {one.stream}  shifted at every frame {one.wrong}",
        f"  less the clip's: stream {one.stream_less_clip}  shifted at every frame {one.wrong_less_clip}",
        f"  accuracy: clip {one.accuracy_clip}  stream {one.accuracy_stream:.3f}  shifted {one.accuracy_wrong:.3f}",
        f"  mean distance from the clip's answer: stream {one.stream_moved:.3f}, shifted {one.wrong_moved:.3f}",
        f"  {'agree' if one.agrees else 'DO NOT AGREE'}: to 1e-5 on the same frames, accuracy in the clip's interval",
    ]


def write_days(path: Path, days: Sequence[Day]) -> None:
    """One line a day and predictor."""
    head = ["day", "embryos", "predictor", "accuracy", "low", "high", "auc", "auc_low", "auc_high"]
    rows = [
        [day.day, day.embryos, name, *_numbers(day.accuracy[name]), *_numbers(day.auc[name])]
        for day in days
        for name in day.auc
    ]
    _write(path, head, rows)


def write_rates(path: Path, days: Sequence[Day]) -> None:
    """One line a day: counts, the four rates with their intervals, calibration."""
    names = ("sensitivity", "specificity", "ppv", "npv")
    counts = ("true_positives", "false_positives", "true_negatives", "false_negatives")
    head = ["day", *counts, *(f"{name}{end}" for name in names for end in ("", "_low", "_high")), "ece", "brier"]
    rows = []
    for day in days:
        shares = [number for name in names for number in _numbers(getattr(day.rates, name))]
        errors = [round(day.calibration_error, 4), round(day.brier, 4)]
        rows.append([day.day, *(getattr(day.rates, count) for count in counts), *shares, *errors])
    _write(path, head, rows)


def write_answers(path: Path, answers: Answers) -> None:
    """One line an embryo and moment: what each predictor said."""
    head = ["embryo", "reaches_blastocyst", "hours_post_insemination", *answers]
    rows: list[list[Any]] = []
    for same in zip(*answers.values(), strict=True):
        for t, hpi_h in enumerate(same[0].hours_h):
            said = [round(float(one.probability[t]), 5) for one in same]
            rows.append([same[0].name, int(same[0].reaches), round(float(hpi_h), 4), *said])
    _write(path, head, rows)


def write_reliability(path: Path, answers: Answers) -> None:
    """One line a day and bin: what was said on average, what came true, of how many."""
    rows = []
    for day in DAYS:
        scores, truth, _ = answers_at(answers[OURS], 24 * day)
        rows += [
            [day, *(round(value, 4) for value in asdict(one).values())] for one in metrics.reliability(scores, truth)
        ]
    _write(path, ["day", "low", "high", "embryos", "said", "came_true"], rows)


def write_json(
    path: Path, about: Mapping[str, Any], days: Sequence[Day], areas: Mapping[str, Estimate], stream: Cadences | None
) -> None:
    """Everything but the single answers. An estimate is {value, low, high}; what does not exist is null."""
    told = {
        "note": NOT_PATIENTS,
        **about,
        "area_under_accuracy_over_7": {name: asdict(area) for name, area in areas.items()},
        "days": [{**asdict(day), "rates": _rates(day.rates)} for day in days],
        "stream": {**asdict(stream), "agrees": stream.agrees} if stream else None,
    }
    path.write_text(json.dumps(_plain(told), indent=2) + "\n")


def figures_of(path: Path, state_id: str) -> dict[str, float]:
    """What a written report says of the test embryos, for a manifest. ValueError where it judged another model."""
    told = json.loads(path.read_text())
    if told["state_id"] != state_id:
        raise ValueError(f"{path} judges other weights than these: run training.amsnet.evaluate on them")
    found = {"test_embryos": float(told["embryos"]), "test_first_seed": float(told["first_seed"])}
    for day in told["days"]:
        if day["day"] in metrics.ROC_DAYS:
            name, ours = f"test_auc_day{day['day']:g}", day["auc"][OURS]
            found |= {name: ours["value"], f"{name}_low": ours["low"], f"{name}_high": ours["high"]}
            found[f"{name}_teacher"] = day["auc"][CEILING]["value"]
    return {name: value for name, value in found.items() if value is not None}


def _rates(rates: metrics.Rates) -> dict[str, Any]:
    return {
        **asdict(rates),
        **{name: asdict(getattr(rates, name)) for name in ("sensitivity", "specificity", "ppv", "npv")},
    }


def _plain(value: Any) -> Any:
    """JSON knows no NaN; five places are enough for everything but differences of 1e-7."""
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, (float, np.floating)):
        return None if not math.isfinite(value) else float(f"{value:.5g}")
    return value


def _numbers(estimate: Estimate) -> list[float]:
    return [round(number, 4) for number in (estimate.value, estimate.low, estimate.high)]


def _write(path: Path, head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([head, *rows])
