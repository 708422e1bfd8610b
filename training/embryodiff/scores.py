"""Figures of a predicted sequence of phases against the true one: frames, segments, onsets.

Does: arithmetic on labels and hours. Refuses to know: networks, files, videos.

Frame accuracy, segmental edit score and F1 at overlaps of 10, 25 and 50 % as in action segmentation (Lea et al. 2017,
which DiffAct follows); onsets in hours, and p_t, the share of them within one standard deviation of what two human
operators differ by.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from monitor.simulator.tables import ONSET_H
from monitor.vocabulary import PHASES

Labels = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

OVERLAPS = (0.10, 0.25, 0.50)
# hours, 1 SD, between operators (MODELS.md, section 7); tPB2 and tHB are not in that study
HUMAN_SCATTER_H: Mapping[str, float] = {
    "tPNa": 1.13, "tPNf": 0.50, "t2": 0.91, "t3": 1.81, "t4": 1.34, "t5": 1.49, "t6": 1.61, "t7": 2.93, "t8": 5.36,
    "t9+": 4.42, "tM": 5.46, "tSB": 3.78, "tB": 3.29, "tEB": 4.85,
}  # fmt: skip


def segments(labels: Labels) -> list[tuple[int, int, int]]:
    """(label, first, end) of every stretch of one label, the end not included."""
    cuts = [0, *(np.flatnonzero(np.diff(labels)) + 1).tolist(), len(labels)]
    return [(int(labels[a]), a, b) for a, b in pairwise(cuts)] if len(labels) else []


def accuracy(said: Labels, truth: Labels, within: int = 0) -> float:
    """Share of frames called right, or at most `within` phases beside it."""
    return float((np.abs(said - truth) <= within).mean())


def edit_score(said: Labels, truth: Labels) -> float:
    """100 less the Levenshtein distance between the orders of segments, in % of the longer one."""
    ours, theirs = ([label for label, _, _ in segments(labels)] for labels in (said, truth))
    row = np.arange(len(theirs) + 1)
    for number, label in enumerate(ours, start=1):
        before, row[0] = row.copy(), number
        for place, other in enumerate(theirs, start=1):
            row[place] = min(before[place] + 1, row[place - 1] + 1, before[place - 1] + (label != other))
    return float(100 * (1 - row[-1] / max(len(ours), len(theirs), 1)))


def f1(said: Sequence[Labels], truth: Sequence[Labels], overlap: float) -> float:
    """Segmental F1 over videos, in %: a segment is found when it overlaps one of its label by so much, each once."""
    found = wrong = missed = 0
    for ours, theirs in zip(said, truth, strict=True):
        left = segments(theirs)
        for label, first, end in segments(ours):
            shares = [
                (min(end, b) - max(first, a)) / (max(end, b) - min(first, a)) if other == label else -1.0
                for other, a, b in left
            ]
            best = int(np.argmax(shares)) if shares else -1
            if best >= 0 and shares[best] >= overlap:
                found += 1
                left.pop(best)
            else:
                wrong += 1
        missed += len(left)
    return 100 * 2 * found / max(2 * found + wrong + missed, 1)


def onsets_h(labels: Labels, hours_h: Floats) -> dict[str, float]:
    """phase -> hour of its first frame, of the phases that begin after the first frame."""
    first = {label: float(hours_h[start]) for label, start, _ in reversed(segments(labels)) if start > 0}
    return {PHASES[label]: first[label] for label in sorted(first)}


def onset_errors_h(said: Mapping[str, float], truth: Mapping[str, float]) -> dict[str, float]:
    """phase -> hours too late, of the true onsets that were told at all."""
    return {phase: said[phase] - hour for phase, hour in truth.items() if phase in said}


def within_scatter(errors_h: Sequence[Mapping[str, float]], truth: Sequence[Mapping[str, float]]) -> float:
    """p_t: share of all true onsets that were told within the human scatter; one that was not told counts as missed."""
    asked = [(phase, number) for number, true in enumerate(truth) for phase in true if phase in HUMAN_SCATTER_H]
    hits = [abs(errors_h[number].get(phase, np.inf)) <= HUMAN_SCATTER_H[phase] for phase, number in asked]
    return float(np.mean(hits)) if hits else float("nan")


def confusion(said: Labels, truth: Labels) -> npt.NDArray[np.int64]:
    """(16, 16) counts: row is what it is, column what was said."""
    table = np.zeros((len(PHASES), len(PHASES)), np.int64)
    np.add.at(table, (truth, said), 1)
    return table


def by_hour(hours_h: Floats) -> Labels:
    """What someone says who knows only the hour: the last phase whose median onset has passed (tHB has none)."""
    medians = np.array([hours[2] for hours in ONSET_H.values()])
    order = np.maximum.accumulate(medians)  # t6 and t7 share a median: the later one wins
    return np.asarray(np.clip(np.searchsorted(order, hours_h, side="right") - 1, 0, None), dtype=np.int64)


def figures(said: Sequence[Labels], truth: Sequence[Labels], hours_h: Sequence[Floats]) -> dict[str, float]:
    """All of it over several videos; frame figures are over all frames together."""
    ours, theirs = np.concatenate(list(said)), np.concatenate(list(truth))
    told = [onsets_h(labels, hours) for labels, hours in zip(said, hours_h, strict=True)]
    true = [onsets_h(labels, hours) for labels, hours in zip(truth, hours_h, strict=True)]
    errors = [onset_errors_h(one, other) for one, other in zip(told, true, strict=True)]
    all_errors = np.array([abs(error) for one in errors for error in one.values()])
    return {
        "frames": float(len(theirs)),
        "accuracy": accuracy(ours, theirs),
        "within_one": accuracy(ours, theirs, 1),
        "edit": float(np.mean([edit_score(*pair) for pair in zip(said, truth, strict=True)])),
        **{f"f1_{round(100 * overlap)}": f1(said, truth, overlap) for overlap in OVERLAPS},
        "onset_median_error_h": float(np.median(all_errors)) if len(all_errors) else float("nan"),
        "onset_mean_error_h": float(all_errors.mean()) if len(all_errors) else float("nan"),
        "p_t": within_scatter(errors, true),
    }
