"""Parts of a data set that no couple or patient is on both sides of, the same on every machine.

It knows groups and labels; it refuses to know pictures.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TypeVar

from training.datasets.embryo import Embryo

E = TypeVar("E", bound=Embryo)


def place_of(group: str, salt: str = "") -> float:
    """0 to 1, from the name alone."""
    digest = hashlib.sha256(f"{salt}\0{group}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def split(embryos: Sequence[E], shares: Mapping[str, float], salt: str = "") -> dict[str, list[E]]:
    """Embryos by part, whole groups only; `shares` of about 1 in all. A group's part never changes when others join.

    With few groups the shares are met only roughly: then use `split_stratified`.
    """
    ends = _ends(shares)
    parts: dict[str, list[E]] = {name: [] for name in shares}
    for embryo in embryos:
        at = place_of(embryo.group, salt)
        parts[next(name for name, end in ends.items() if at < end)].append(embryo)
    return parts


def split_stratified(
    embryos: Sequence[E], shares: Mapping[str, float], label: Callable[[E], Hashable], salt: str = ""
) -> dict[str, list[E]]:
    """As `split`, but every label is spread over the parts by its share of embryos, as far as whole groups allow.

    Rarest label first. A group counts with its rarest label and goes where that label is furthest below its share; in
    the order of the groups' hashes. A new group may move others.
    """
    _ends(shares)
    members: dict[str, list[E]] = defaultdict(list)
    for embryo in embryos:
        members[embryo.group].append(embryo)
    counts = Counter(label(embryo) for embryo in embryos)
    rarest = {
        group: min((label(embryo) for embryo in own), key=lambda one: (counts[one], repr(one)))
        for group, own in members.items()
    }
    held: dict[str, Counter[Hashable]] = {name: Counter() for name in shares}
    part_of: dict[str, str] = {}
    for group in sorted(members, key=lambda one: (counts[rarest[one]], repr(rarest[one]), place_of(one, salt))):
        own = rarest[group]
        part = max(shares, key=lambda name: shares[name] * counts[own] - held[name][own])
        part_of[group] = part
        held[part].update(label(embryo) for embryo in members[group])
    parts: dict[str, list[E]] = {name: [] for name in shares}
    for embryo in embryos:
        parts[part_of[embryo.group]].append(embryo)
    return parts


def _ends(shares: Mapping[str, float]) -> dict[str, float]:
    if not shares or min(shares.values()) <= 0 or abs(sum(shares.values()) - 1) > 1e-6:
        raise ValueError(f"shares {dict(shares)} must be above 0 and add up to 1")
    ends, sum_of = {}, 0.0
    for name, share in shares.items():
        sum_of += share
        ends[name] = sum_of
    ends[name] = 1.0 + 1e-9  # rounding leaves nobody out
    return ends
