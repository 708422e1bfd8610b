"""How phases follow one another in drawn lives: the numbers that `engines.decoding` goes by.

Does: counts, over many lives that follow the public tables, the hours spent in each phase for every embryo that leaves
it, and how often a phase is passed without being seen in it. Refuses to know: pictures, networks.

    python -m training.embryodiff.lives --lives 2000
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable

import numpy as np

from monitor.simulator import Life
from monitor.vocabulary import PHASES

LAST_H = 144.0
_LONGEST_H = 1000.0  # told of a phase that nobody leaves


def following(onsets_h: Iterable[dict[str, float]], last_h: float = LAST_H) -> dict[str, list[float]]:
    """`dwell_h` and `passed_over` of engines.decoding, K values each, from the onsets of many lives.

    An embryo that stays in a phase to the end counts with its hours and with no leaving.
    """
    spent_h, left, met, passed = (np.zeros(len(PHASES)) for _ in range(4))
    for onsets in onsets_h:
        seen = sorted((PHASES.index(phase), hour) for phase, hour in onsets.items() if hour < last_h)
        ends = [*(hour for _, hour in seen[1:]), last_h]
        for (phase, begun_h), end_h in zip(seen, ends, strict=True):
            spent_h[phase] += end_h - begun_h
            left[phase] += end_h < last_h
        numbers = [phase for phase, _ in seen]
        met[numbers] += 1
        passed[[phase for phase in range(numbers[0], numbers[-1]) if phase not in numbers]] += 1
    dwell_h = np.where(left > 0, spent_h / np.maximum(left, 1), _LONGEST_H)
    passed_over = passed / np.maximum(met + passed, 1)
    return {"dwell_h": np.round(dwell_h, 2).tolist(), "passed_over": np.round(passed_over, 3).tolist()}


def main(arguments: list[str] | None = None) -> int:
    """Command line; prints JSON for `--decoding` of the evaluation and the export."""
    described = argparse.ArgumentParser(prog="python -m training.embryodiff.lives", description=__doc__.splitlines()[0])
    described.add_argument("--lives", type=int, default=2000)
    chosen = described.parse_args(arguments)
    print(json.dumps(following(Life.sample(seed).onsets_h for seed in range(chosen.lives))))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
