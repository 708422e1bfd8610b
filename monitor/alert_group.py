"""Alarms with one cause are one alarm: where most embryos of an incubator are past one kind's limit at once, the
incubator is told of, with its embryos as members, and no embryo by itself. Pure: what is remembered is passed in.

One dead camera is one alert, not 72. An embryo that was told of before stays told of; one that is still bad when the
incubator has recovered is told of then.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from monitor.alert import Alert, AlertState, AlertSubject, Evidence
from monitor.alert_machine import Signal, Values, Voice, Watching, advance
from monitor.alert_rules import Alerts
from monitor.alert_texts import OF_INCUBATOR
from monitor.decide import Look

GROUPED = frozenset(OF_INCUBATOR)


@dataclass(frozen=True)
class Wells:
    """What is remembered of one kind in one incubator: of itself, of its embryos (by subject), and how many lie in it.
    What is remembered of one kind in one incubator: of itself, of its embryos (by subject), and how many lie in it."""

    own: Watching
    embryos: Mapping[str, Watching]
    active: int

    def past(self) -> tuple[str, ...]:
        """The embryos that are past the limit now, by name."""
        return tuple(sorted(key.removeprefix("embryo/") for key, one in self.embryos.items() if one.past))

    def with_one(self, subject: str, watching: Watching) -> Wells:
        return replace(self, embryos={**self.embryos, subject: watching})


@dataclass(frozen=True)
class Heard:
    """What a look changes: the embryo's watching and word, and the incubator's."""

    watching: Watching
    word: Alert | None
    wells: Watching
    wells_word: Alert | None = None


def hear_one_of_many(look: Look, signal: Signal, wells: Wells, rules: Alerts, voice: Voice) -> Heard:
    """One look of a kind that most wells may share."""
    after, word = advance(look.watching, signal, look.rule, voice)
    now = wells.with_one(signal.subject.key, after)
    raises = word is not None and word.state is AlertState.RAISED
    many = len(now.past()) >= rules.most_wells.least and _share(now) >= rules.most_wells.enter
    if wells.own.open is None and not (raises and many):
        return Heard(after, word, wells.own)
    together, wells_word = advance(wells.own, _of_wells(signal, now), rules.most_wells, voice)
    if raises and together.open is not None:  # told of with the others
        after, word = advance(look.watching, signal, look.rule, voice, hold=True)
    return Heard(after, word, together, wells_word)


def without_one(
    kind: str, incubator: str, wells: Wells, at: datetime | None, now: datetime | None, rules: Alerts, voice: Voice
) -> tuple[Watching, Alert | None]:
    """An embryo has gone: whether the others still have one cause."""
    if wells.own.open is None:
        return wells.own, None
    gone = Signal(
        kind,
        AlertSubject(incubator=incubator),
        _share(wells),
        "",
        None if at is None else at.timestamp(),
        at,
        OF_INCUBATOR[kind],
        _evidence(wells),
        heard_at=now,
        quiet=rules.is_quiet(kind, now),
    )
    return advance(wells.own, gone, rules.most_wells, voice)


def _share(wells: Wells) -> float:
    past = len(wells.past())
    return past / max(wells.active, past, 1)


def _of_wells(signal: Signal, wells: Wells) -> Signal:
    return replace(
        signal,
        subject=AlertSubject(incubator=signal.subject.incubator),
        value=_share(wells),
        text=OF_INCUBATOR[signal.kind],
        evidence=_evidence(wells, signal),
        members=wells.past(),
        file_clock=False,
    )


def _evidence(wells: Wells, signal: Signal | None = None) -> Evidence:
    counted: Values = {"embryos_past": len(wells.past()), "embryos": wells.active}
    if signal is None:
        return Evidence(values=counted)
    return Evidence(readings=signal.evidence.readings, values={**signal.evidence.values, **counted})
