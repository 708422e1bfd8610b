"""How pictures are cut into folds: Lockhart's three, stratified on the rarest label, and MEmEBG's five times two.

Axes: N pictures with one label each, any hashable. Refuses to know: what a label means.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

LOCKHART_FOLDS, LOCKHART_SHARE = 3, 0.15  # of validation, and of test


@dataclass(frozen=True)
class Fold:
    """Indices, ascending; `validation` may be empty."""

    train: tuple[int, ...]
    validation: tuple[int, ...]
    test: tuple[int, ...]


def _by_label(labels: Sequence[Hashable], rng: np.random.Generator) -> dict[Hashable, list[int]]:
    own: dict[Hashable, list[int]] = defaultdict(list)
    for index in rng.permutation(len(labels)):
        own[labels[int(index)]].append(int(index))
    return dict(sorted(own.items(), key=lambda item: repr(item[0])))


def lockhart_folds(labels: Sequence[Hashable], seed: int = 0) -> list[Fold]:
    """Three folds of 70 / 15 / 15 % by one label; no picture is tested in two of them.

    Every class, the rarest too, has the same number of pictures in each fold's validation and test, and at least one.
    ValueError where a class is too small for that.
    """
    held: list[tuple[list[int], list[int], list[int]]] = [([], [], []) for _ in range(LOCKHART_FOLDS)]
    for label, own in _by_label(labels, np.random.default_rng(seed)).items():
        share = max(1, round(LOCKHART_SHARE * len(own)))
        if len(own) < max(LOCKHART_FOLDS * share, 2 * share + 1):
            raise ValueError(f"class {label!r} has {len(own)} pictures: too few for {LOCKHART_FOLDS} folds")
        for fold, (train, validation, test) in enumerate(held):
            turned = own[fold * share :] + own[: fold * share]
            test += turned[:share]
            validation += turned[share : 2 * share]
            train += turned[2 * share :]
    return [Fold(*(tuple(sorted(part)) for part in parts)) for parts in held]


def five_by_two(labels: Sequence[Hashable], seed: int = 0) -> list[Fold]:
    """Ten folds: five times the pictures are cut in two halves by label, and each half is tested once."""
    folds = []
    for turn in range(5):
        halves: tuple[list[int], list[int]] = ([], [])
        begin = 0
        for own in _by_label(labels, np.random.default_rng((seed, turn))).values():
            for place, index in enumerate(own, start=begin):
                halves[place % 2].append(index)
            begin += len(own)  # odd classes fill the halves in turn
        one, other = (tuple(sorted(half)) for half in halves)
        folds += [Fold(one, (), other), Fold(other, (), one)]
    return folds
