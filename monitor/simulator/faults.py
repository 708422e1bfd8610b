"""What goes wrong in an incubator, on demand: each fault is a switch with a rate and an amount, and says what it did.

Whether a fault strikes is drawn from the seed, the fault, the well and the moment alone: more wells or hours change
nothing about the earlier ones, and a run that was stopped goes on with the same faults. It refuses to know pixels and
names of files.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from monitor.simulator.chance import Chance
from monitor.simulator.plan import Delivery, Look, Schedule

Struck = tuple[list[Delivery], list[dict[str, Any]]]
_STREAM = 0xFA17


@dataclass(frozen=True)
class Kind:
    """A fault that can be asked for. `of`: what `rate` is a share of. `amount` in `unit`, at most `at_most`."""

    strike: Callable[[Fault, Kind, list[Delivery], Schedule, int], Struck]
    rate: float
    of: str
    amount: float
    unit: str
    at_most: float = 1e6


@dataclass(frozen=True)
class Fault:
    """One switch: `rate` 0 to 1, `amount` in the unit of its kind."""

    name: str
    rate: float
    amount: float

    @classmethod
    def parse(cls, text: str) -> Fault:
        """`NAME`, `NAME=RATE` or `NAME=RATE:AMOUNT`. Raises ValueError, saying what is allowed."""
        name, _, values = text.partition("=")
        if name not in KINDS:
            raise ValueError(f"fault {name!r} is not known: {', '.join(KINDS)}")
        kind = KINDS[name]
        rate, _, amount = values.partition(":")
        try:
            fault = cls(name, float(rate) if rate else kind.rate, float(amount) if amount else kind.amount)
        except ValueError as fault_in_text:
            raise ValueError(f"fault {text!r}: NAME[=RATE[:AMOUNT]] with numbers, for example gap=0.02:6") from (
                fault_in_text
            )
        if not 0 <= fault.rate <= 1:
            raise ValueError(f"fault {text!r}: the rate is a share of {kind.of}, 0 to 1")
        if not (math.isfinite(fault.amount) and 0 <= fault.amount <= kind.at_most):
            raise ValueError(f"fault {text!r}: the amount is in {kind.unit}, 0 to {kind.at_most:g}")
        return fault


def apply(faults: Sequence[Fault], deliveries: list[Delivery], schedule: Schedule, seed: int) -> Struck:
    """The deliveries as the faults leave them, in the order they are due, and a record of each thing that went wrong.

    A record holds `fault`, `amount`, `unit`, and `well`, `run`, `captured_at` (true time), `planes_um` where they
    apply. Faults strike in the order of `KINDS`, whatever the order they are named in.
    """
    records: list[dict[str, Any]] = []
    for fault in sorted(faults, key=lambda one: list(KINDS).index(one.name)):
        kind = KINDS[fault.name]
        deliveries, found = kind.strike(fault, kind, deliveries, schedule, seed)
        records += [{"fault": fault.name, "amount": fault.amount, "unit": kind.unit, **record} for record in found]
    return sorted(deliveries, key=lambda one: (one.due_at, one.run, one.well)), records


def utc(moment: datetime) -> str:
    """RFC 3339."""
    return moment.isoformat().replace("+00:00", "Z")


def _chance(seed: int, fault: Fault, well: int, run: int) -> Chance:
    return Chance(seed, _STREAM, list(KINDS).index(fault.name), well, run)


def _frame(one: Delivery, planes_um: Sequence[int]) -> dict[str, Any]:
    return {"well": one.well, "run": one.run, "captured_at": utc(one.at), "planes_um": list(planes_um)}


def _struck_frames(fault: Fault, deliveries: list[Delivery], seed: int) -> Iterator[tuple[Delivery, Chance | None]]:
    """Each delivery with the chance to draw more from where the fault strikes it, else None."""
    for one in deliveries:
        chance = _chance(seed, fault, one.well, one.run)
        yield one, chance if chance.happens(fault.rate) else None


def _some_planes(chance: Chance, planes_um: tuple[int, ...], count: int) -> tuple[int, ...]:
    """`count` planes that lie anywhere, ascending; one at least stays out of them."""
    ranked = sorted(planes_um, key=lambda plane_um: (chance.share(), plane_um))
    return tuple(sorted(ranked[: max(min(count, len(planes_um) - 1), 0)]))


def _spans(fault: Fault, deliveries: list[Delivery], schedule: Schedule, seed: int) -> list[tuple[datetime, datetime]]:
    """Stretches of `amount` hours that begin at moments drawn at `rate`; one ends before the next begins."""
    found: list[tuple[datetime, datetime]] = []
    for run in sorted({one.run for one in deliveries}):
        begins = schedule.start + (run - 1) * schedule.cadence
        if (not found or begins >= found[-1][1]) and _chance(seed, fault, 0, run).happens(fault.rate):
            found.append((begins, begins + timedelta(hours=fault.amount)))
    return found


def _stretch(
    fault: Fault,
    deliveries: list[Delivery],
    schedule: Schedule,
    seed: int,
    change: Callable[[Delivery], Delivery | None],
) -> Struck:
    spans = _spans(fault, deliveries, schedule, seed)
    left: list[Delivery] = []
    struck: list[list[Delivery]] = [[] for _ in spans]
    for one in deliveries:
        which = next((i for i, (begins, ends) in enumerate(spans) if begins <= one.at < ends), None)
        changed = one if which is None else change(one)
        if which is not None:
            struck[which].append(one)
        if changed is not None:
            left.append(changed)
    return left, [
        {"from": utc(begins), "until": utc(ends), "runs": sorted({one.run for one in hit})}
        for (begins, ends), hit in zip(spans, struck, strict=True)
    ]


def _gap(fault: Fault, kind: Kind, deliveries: list[Delivery], schedule: Schedule, seed: int) -> Struck:
    return _stretch(fault, deliveries, schedule, seed, lambda one: None)


def _dark(fault: Fault, kind: Kind, deliveries: list[Delivery], schedule: Schedule, seed: int) -> Struck:
    return _stretch(fault, deliveries, schedule, seed, lambda one: replace(one, look=Look.DARK))


def _clock_skew(fault: Fault, kind: Kind, deliveries: list[Delivery], schedule: Schedule, seed: int) -> Struck:
    """No chance in it: the last `rate` of the moments are named by a clock that is ahead."""
    first = schedule.moments - round(fault.rate * schedule.moments) + 1
    ahead = timedelta(seconds=round(fault.amount))
    changed = [replace(one, named_at=one.named_at + ahead) if one.run >= first else one for one in deliveries]
    begins = schedule.start + (first - 1) * schedule.cadence
    return changed, [{"from": utc(begins), "run": first}] if first <= schedule.moments else []


def _wells(look: Look) -> Callable[[Fault, Kind, list[Delivery], Schedule, int], Struck]:
    def strike(fault: Fault, kind: Kind, deliveries: list[Delivery], schedule: Schedule, seed: int) -> Struck:
        begins = schedule.start + timedelta(hours=fault.amount)
        struck = [n for n in range(1, schedule.wells + 1) if _chance(seed, fault, n, 0).happens(fault.rate)]
        changed = [replace(one, look=look) if one.well in struck and one.at >= begins else one for one in deliveries]
        return changed, [{"well": well, "from": utc(begins)} for well in struck]

    return strike


def _missing_planes(fault: Fault, kind: Kind, deliveries: list[Delivery], schedule: Schedule, seed: int) -> Struck:
    left, records = [], []
    for one, chance in _struck_frames(fault, deliveries, seed):
        lost = _some_planes(chance, one.planes_um, round(fault.amount)) if chance is not None else ()
        left.append(replace(one, planes_um=tuple(um for um in one.planes_um if um not in lost)))
        records += [_frame(one, lost)] if lost else []
    return left, records


def _truncated(fault: Fault, kind: Kind, deliveries: list[Delivery], schedule: Schedule, seed: int) -> Struck:
    left, records = [], []
    for one, chance in _struck_frames(fault, deliveries, seed):
        cut = _some_planes(chance, one.planes_um, 1) or one.planes_um[:1] if chance is not None else ()
        left.append(replace(one, cut_um=cut, cut_share=fault.amount))
        records += [_frame(one, cut)] if cut else []
    return left, records


def _duplicates(fault: Fault, kind: Kind, deliveries: list[Delivery], schedule: Schedule, seed: int) -> Struck:
    left, records = [], []
    for one, chance in _struck_frames(fault, deliveries, seed):
        count = max(round(fault.amount), 1)
        twice = _some_planes(chance, one.planes_um, count) or one.planes_um[:1] if chance is not None else ()
        left.append(replace(one, twice_um=twice))
        records += [_frame(one, twice)] if twice else []
    return left, records


def _late_planes(fault: Fault, kind: Kind, deliveries: list[Delivery], schedule: Schedule, seed: int) -> Struck:
    left, records = [], []
    for one, chance in _struck_frames(fault, deliveries, seed):
        late = _some_planes(chance, one.planes_um, 1 + chance.index((3.0, 2.0, 1.0))) if chance is not None else ()
        if not late:
            left.append(one)
            continue
        due_at = one.due_at + timedelta(minutes=fault.amount)
        left.append(replace(one, planes_um=tuple(um for um in one.planes_um if um not in late)))
        left.append(replace(one, planes_um=late, due_at=due_at))
        records.append({**_frame(one, late), "due_at": utc(due_at)})
    return left, records


def _out_of_order(fault: Fault, kind: Kind, deliveries: list[Delivery], schedule: Schedule, seed: int) -> Struck:
    left, records = [], []
    late_by = round(fault.amount) * schedule.cadence + 0.5 * schedule.cadence  # after that moment's frames, not with
    for one, chance in _struck_frames(fault, deliveries, seed):
        left.append(one if chance is None else replace(one, due_at=one.due_at + late_by))
        records += [] if chance is None else [{**_frame(one, one.planes_um), "due_at": utc(one.due_at + late_by)}]
    return left, records


KINDS: dict[str, Kind] = {
    "gap": Kind(_gap, 0.01, "moments at which nothing is written any more", 4.0, "hours"),
    "clock-skew": Kind(_clock_skew, 1.0, "the run, at its end", 420.0, "seconds that the clock is ahead"),
    "blank-wells": Kind(_wells(Look.BLANK), 0.2, "wells", 0.0, "hours after the start"),
    "empty-wells": Kind(_wells(Look.EMPTY), 0.2, "wells", 0.0, "hours after the start"),
    "dark": Kind(_dark, 0.01, "moments at which the lamp goes out", 2.0, "hours"),
    "missing-planes": Kind(_missing_planes, 0.05, "frames", 2.0, "planes", 6),
    "truncated": Kind(_truncated, 0.02, "frames", 0.5, "share of a file's bytes that is there", 0.99),
    "duplicates": Kind(_duplicates, 0.02, "frames", 1.0, "planes with a second file", 7),
    "late-planes": Kind(_late_planes, 0.05, "frames", 30.0, "minutes"),
    "out-of-order": Kind(_out_of_order, 0.02, "frames", 2.0, "moments that it comes after its own"),
}
