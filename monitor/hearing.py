"""The readings of one batch, heard one after the other: each decides on what the ones before it have left.

Nothing of a batch is recorded until all of it is; what was decided in between is kept here, so that the eighth
embryo of a dead camera knows what the first seven have said. It records and sends nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Protocol

from monitor.alert import Alert, AlertSubject
from monitor.alert_group import GROUPED, Wells, hear_one_of_many, without_one
from monitor.alert_machine import EMPTY, Voice, Watching, advance, end
from monitor.alert_rules import Alerts
from monitor.alert_table import Verdict
from monitor.decide import looks, of_node, share, signal_of, subject_of
from monitor.vocabulary import Outcome, Reading

ENGINE_WINDOW_FRAMES = 20


class Remembered(Protocol):
    """What lies in the journal."""

    def watchings(self, subject: str) -> dict[str, Watching]:
        """Of one subject, by slot."""

    def of_embryos(self, kind: str, incubator: str) -> dict[str, Watching]:
        """Of one kind, by subject, of an incubator's embryos; those of which nothing is remembered are left out."""

    def lying(self, incubator: str, at: datetime | None) -> set[str]:
        """The embryos that lie in it at a time, by subject."""


class Hearing:
    """One batch. `heard_at`: by the node's clock, None in a replay."""

    def __init__(self, remembered: Remembered, rules: Alerts, voice: Voice, heard_at: datetime | None) -> None:
        self._remembered, self._rules, self._voice, self._heard_at = remembered, rules, voice, heard_at
        self._new: dict[str, dict[str, Watching]] = {}
        self._gone: set[str] = set()

    def reading(self, reading: Reading) -> list[Verdict]:
        """What a new reading decides on its embryo, and on the incubator it lies in."""
        subject = subject_of(reading)
        of_incubator = AlertSubject(incubator=subject.incubator)
        verdicts: list[Verdict] = []
        for look in looks(reading, self._of(subject.key), self._rules):
            signal = signal_of(reading, look, self._rules, self._heard_at)
            if look.kind in GROUPED:
                wells = self._wells(look.kind, of_incubator, reading.occurred_at)
                heard = hear_one_of_many(look, signal, wells, self._rules, self._voice)
                verdicts += self._put(of_incubator, look.slot, heard.wells, heard.wells_word)
                after, word = heard.watching, heard.word
            else:
                after, word = advance(look.watching, signal, look.rule, self._voice)
            verdicts += self._put(subject, look.slot, after, word)
        return verdicts

    def ended(self, subject: AlertSubject, at: datetime | None) -> list[Verdict]:
        """What the end of an embryo's run decides on it, and on the incubator it lay in."""
        words = end(self._of(subject.key), subject, at, self._rules)
        self._gone.add(subject.key)
        self._new.pop(subject.key, None)
        verdicts = [Verdict(subject, words=tuple(words), ended=True)]
        of_incubator = AlertSubject(incubator=subject.incubator)
        for kind in sorted(GROUPED):
            wells = self._wells(kind, of_incubator, at)
            after, word = without_one(
                kind, subject.incubator or "", wells, at, self._heard_at, self._rules, self._voice
            )
            verdicts += self._put(of_incubator, kind, after, word)
        return verdicts

    def engine(self, name: str, readings: Sequence[Reading], now: datetime) -> list[Verdict]:
        """What a batch's readings decide on the engine that judged them."""
        subject = AlertSubject(engine=name)
        watching = self._of(subject.key).get("engine_failing", EMPTY)
        verdicts: list[Verdict] = []
        for reading in readings:
            if reading.outcome not in (Outcome.JUDGED, Outcome.ENGINE_FAILED):
                continue
            watching, value = share(watching, reading.outcome is Outcome.ENGINE_FAILED, ENGINE_WINDOW_FRAMES)
            quiet = self._rules.is_quiet("engine_failing", now)
            lost: dict[str, float | int | str | None] = {"frames_lost_of_last_20": sum(watching.window)}
            signal = of_node("engine_failing", subject, value, now, lost, reading.id, quiet)
            watching, word = advance(watching, signal, self._rules.engine_failing, self._voice)
            verdicts += self._put(subject, "engine_failing", watching, word)
        return verdicts

    # -- what is remembered, with what this batch has changed ----------------------------------------------------------

    def _of(self, key: str) -> dict[str, Watching]:
        stored = {} if key in self._gone else self._remembered.watchings(key)
        return {**stored, **self._new.get(key, {})}

    def _wells(self, kind: str, of_incubator: AlertSubject, at: datetime | None = None) -> Wells:
        incubator = of_incubator.incubator or ""
        lying = self._remembered.lying(incubator, at) - self._gone
        stored = self._remembered.of_embryos(kind, incubator)
        embryos = {key: one for key, one in stored.items() if key in lying}
        for key, slots in self._new.items():
            if key.startswith(f"embryo/{incubator}/") and kind in slots:
                embryos[key] = slots[kind]
        own = self._of(of_incubator.key).get(kind, EMPTY)
        return Wells(own, embryos, len(lying))

    def _put(self, subject: AlertSubject, slot: str, after: Watching, word: Alert | None) -> list[Verdict]:
        if after == self._of(subject.key).get(slot, EMPTY) and word is None:
            return []
        self._new.setdefault(subject.key, {})[slot] = after
        return [Verdict(subject, {slot: after}, () if word is None else (word,))]


def merged(verdicts: Sequence[Verdict]) -> tuple[Verdict, ...]:
    """One verdict for each subject, in order of first mention, its words in order of saying."""
    found: dict[str, Verdict] = {}
    for one in verdicts:
        before = found.get(one.subject.key, Verdict(one.subject))
        watchings: Mapping[str, Watching] = {**before.watchings, **one.watchings}
        found[one.subject.key] = Verdict(one.subject, watchings, (*before.words, *one.words), before.ended or one.ended)
    return tuple(found.values())
