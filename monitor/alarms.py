"""Decisions with their memory: asks the journal what is remembered of a subject and gives back what is to be recorded.

What is remembered lies in the journal only, so that a restart changes nothing. It records only what no frame has
decided, and sends nothing itself.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from monitor.alert import Acknowledged, Alert, AlertSubject
from monitor.alert_machine import EMPTY, Values, Voice, Watching, acknowledge, advance, disclose, end, remind
from monitor.alert_rules import Alerts
from monitor.alert_table import Verdict
from monitor.decide import of_node
from monitor.hearing import Hearing, merged
from monitor.journal import Journal
from monitor.runs import Run, Visit
from monitor.vocabulary import Reading


@dataclass(frozen=True)
class Silence:
    """An incubator in which embryos lie: how long no frame has come, and the time between its frames."""

    incubator: str
    silence_s: float
    cadence_min: float
    embryos: int


class Batch:
    """Frames that are decided on together, one after the other, and recorded in one transaction."""

    def __init__(self, hearing: Hearing, live: bool) -> None:
        self._hearing, self._live = hearing, live

    def after(self, visit: Visit, reading: Reading | None) -> tuple[Verdict, ...]:
        """What a frame's reading decides: on its embryo, and on the one whose run it ended."""
        verdicts = []
        if visit.ended is not None:
            verdicts += self._hearing.ended(subject_of_run(visit.ended[0]), visit.run.first.captured_at)
        if reading is not None:
            verdicts += self._hearing.reading(reading)
        return merged(verdicts)

    def engine(self, name: str, readings: Sequence[Reading], now: datetime) -> tuple[Verdict, ...]:
        """What the batch's readings decide on the engine that judged them. In a replay nothing: that hangs on the order
        in which embryos come."""
        return merged(self._hearing.engine(name, readings, now)) if self._live else ()


class Alarms:
    """One node's decisions. The limits come from the configuration, what is remembered from the journal.

    `now`: the node's clock; None in a replay, where nobody is rung and nobody is waited for.
    """

    def __init__(self, journal: Journal, rules: Alerts, voice: Voice, now: Callable[[], datetime] | None) -> None:
        self._journal, self._rules, self._voice, self._now = journal, rules, voice, now

    def batch(self) -> Batch:
        heard_at = None if self._now is None else self._now()
        return Batch(self._hearing(heard_at), self._now is not None)

    def ended(self, run: Run, at: datetime | None) -> tuple[Verdict, ...]:
        """What the end of a run decides that no frame has brought about."""
        return merged(self._hearing(at).ended(subject_of_run(run), at))

    def _hearing(self, heard_at: datetime | None) -> Hearing:
        return Hearing(self._journal.alerts, self._rules, self._voice, heard_at)

    def retire(self, incubators: Collection[str], engines: Collection[str], now: datetime) -> list[Alert]:
        """Clear what stands open about incubators and engines that are configured no longer; recorded at once."""
        gone = {
            alert.subject.key: alert.subject
            for alert in self._journal.alerts.standing()
            if alert.subject.incubator not in (None, *incubators) or alert.subject.engine not in (None, *engines)
        }
        verdicts = [
            Verdict(
                subject,
                words=tuple(end(self._journal.alerts.watchings(key), subject, now, self._rules, "not_configured")),
                ended=True,
            )
            for key, subject in gone.items()
        ]
        return self._journal.decide(verdicts, now) if verdicts else []

    # -- what no frame tells -------------------------------------------------------------------------------------------

    def node(self, silences: Sequence[Silence], free_bytes: int, now: datetime) -> list[Alert]:
        """What the clock and the disk tell; recorded at once. Raises StorageError."""
        verdicts = [self._gap(silence, now) for silence in silences]
        free_gib = free_bytes / 2**30
        verdicts.append(self._look("storage_low", AlertSubject(), free_gib, now, {"free_bytes": free_bytes}))
        due = [verdict for verdict in verdicts if verdict is not None]
        return self._journal.decide(due, now) if due else []

    def remind(self, now: datetime) -> list[Alert]:
        """Say again what was said in quiet hours that are over, and call again where nobody has taken note; recorded at
        once. Raises StorageError."""
        verdicts = []
        for last in self._journal.alerts.standing():
            if self._journal.blind.hides_word(last):
                continue
            rule = self._rules.most_wells if last.members else self._rules.of(last.kind)
            slot, watching = self._find(last)
            after, word = remind(watching, last, rule, now, self._rules.is_quiet(last.kind, now))
            if after != watching:
                verdicts.append(Verdict(last.subject, {slot: after}, () if word is None else (word,)))
        return self._journal.decide(verdicts, now) if verdicts else []

    def acknowledged(self, last: Alert, by: Acknowledged) -> Verdict | None:
        """What taking note of a standing alert changes; None where that was done before. `last`: its last word."""
        slot, watching = self._find(last)
        after, word = acknowledge(watching, last, by)
        return None if word is None else Verdict(last.subject, {slot: after}, (word,))

    def disclosed(self, run: Run, now: datetime) -> list[Verdict]:
        """What stands open about an embryo and was withheld: said now that it may be. Nothing where nothing was."""
        verdicts = []
        for last in self._journal.alerts.standing():
            if last.subject.embryo_id == run.embryo_id and self._journal.blind.hides_word(last):
                slot, watching = self._find(last)
                after, word = disclose(watching, last, now, self._rules.is_quiet(last.kind, now))
                verdicts += [] if word is None else [Verdict(last.subject, {slot: after}, (word,))]
        return verdicts

    def _find(self, last: Alert) -> tuple[str, Watching]:
        """Where a standing alert is watched."""
        for slot, watching in self._journal.alerts.watchings(last.subject.key).items():
            if watching.open is not None and watching.open.alert_id == last.alert_id:
                return slot, watching
        return last.kind, EMPTY

    def _gap(self, silence: Silence, now: datetime) -> Verdict | None:
        cadences = silence.silence_s / 60 / silence.cadence_min
        values: Values = {
            "silence_s": round(silence.silence_s, 1),
            "cadence_min": round(silence.cadence_min, 2),
            "embryos": silence.embryos,
        }
        return self._look("frame_gap", AlertSubject(incubator=silence.incubator), cadences, now, values)

    def _look(self, kind: str, subject: AlertSubject, value: float, now: datetime, values: Values) -> Verdict | None:
        before = self._journal.alerts.watchings(subject.key).get(kind, EMPTY)
        signal = of_node(kind, subject, value, now, values, quiet=self._rules.is_quiet(kind, now))
        after, word = advance(before, signal, self._rules.of(kind), self._voice)
        if after == before and word is None:
            return None
        return Verdict(subject, {kind: after}, () if word is None else (word,))


def subject_of_run(run: Run) -> AlertSubject:
    return AlertSubject(
        incubator=run.place.incubator, dish=run.place.dish, well=run.place.well, embryo_id=run.embryo_id
    )
