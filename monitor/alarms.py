"""Decisions with their memory: asks the journal what is remembered of a subject and gives back what is to be recorded.

What is remembered lies in the journal only, so that a restart changes nothing. It records and sends nothing itself.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from monitor.alert import Alert, AlertSubject
from monitor.alert_rules import Alerts
from monitor.alert_table import Verdict
from monitor.decide import EMPTY, Voice, advance, end, hear, of_node, share, subject_of
from monitor.journal import Journal
from monitor.runs import Run, Visit
from monitor.vocabulary import Outcome, Reading

ENGINE_WINDOW_FRAMES = 20


@dataclass(frozen=True)
class Silence:
    """An incubator in which embryos lie: how long no frame has come, and the time between its frames."""

    incubator: str
    silence_s: float
    cadence_min: float
    embryos: int


class Alarms:
    """One node's decisions. The limits come from the configuration, what is remembered from the journal.

    `live` False (a replay): nothing is said of the engine, for that hangs on the order in which embryos come.
    """

    def __init__(self, journal: Journal, rules: Alerts, voice: Voice, live: bool = True) -> None:
        self._journal, self._rules, self._voice, self._live = journal, rules, voice, live

    def after(self, visit: Visit, reading: Reading | None) -> tuple[Verdict, ...]:
        """What a frame's reading decides: on its embryo, and on the one whose run it ended."""
        verdicts = [] if visit.ended is None else [self._end(visit.ended[0], visit.run.first.captured_at)]
        if reading is not None:
            subject = subject_of(reading)
            watchings, words = hear(reading, self._journal.alerts.watchings(subject.key), self._rules, self._voice)
            verdicts.append(Verdict(subject, watchings, tuple(words)))
        return tuple(verdict for verdict in verdicts if verdict.watchings or verdict.words or verdict.ended)

    def _end(self, run: Run, at: datetime | None) -> Verdict:
        subject = AlertSubject(
            incubator=run.place.incubator, dish=run.place.dish, well=run.place.well, embryo_id=run.embryo_id
        )
        words = end(self._journal.alerts.watchings(subject.key), subject, at, self._rules)
        return Verdict(subject, words=tuple(words), ended=True)

    def engine(self, name: str, readings: Sequence[Reading], now: datetime) -> tuple[Verdict, ...]:
        """What a batch's readings decide on the engine that judged them."""
        subject = AlertSubject(engine=name)
        stepped = [reading for reading in readings if self._live and _was_stepped(reading)]
        before = watching = self._journal.alerts.watchings(subject.key).get("engine_failing", EMPTY)
        words = []
        for reading in stepped:
            watching, value = share(watching, reading.outcome is Outcome.ENGINE_FAILED, ENGINE_WINDOW_FRAMES)
            values: dict[str, float | int | str | None] = {"frames_lost_of_last_20": sum(watching.window)}
            signal = of_node("engine_failing", subject, value, now, values, reading.id)
            watching, word = advance(watching, signal, self._rules.engine_failing, self._voice)
            words += [] if word is None else [word]
        return () if watching == before else (Verdict(subject, {"engine_failing": watching}, tuple(words)),)

    def retire(self, incubators: Collection[str], engines: Collection[str], now: datetime) -> list[Alert]:
        """Clear what stands open about incubators and engines that are configured no longer; recorded at once."""
        gone = {
            alert.subject.key: alert.subject
            for alert in map(Alert.model_validate_json, self._journal.alerts.open_bodies().values())
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

    def node(self, silences: Sequence[Silence], free_bytes: int, now: datetime) -> list[Alert]:
        """What the clock and the disk tell; recorded at once. Raises StorageError."""
        verdicts = [self._gap(silence, now) for silence in silences]
        free_gib = free_bytes / 2**30
        verdicts.append(self._look("storage_low", AlertSubject(), free_gib, now, {"free_bytes": free_bytes}))
        due = [verdict for verdict in verdicts if verdict is not None]
        return self._journal.decide(due, now) if due else []

    def _gap(self, silence: Silence, now: datetime) -> Verdict | None:
        cadences = silence.silence_s / 60 / silence.cadence_min
        values: dict[str, float | int | str | None] = {
            "silence_s": round(silence.silence_s, 1),
            "cadence_min": round(silence.cadence_min, 2),
            "embryos": silence.embryos,
        }
        return self._look("frame_gap", AlertSubject(incubator=silence.incubator), cadences, now, values)

    def _look(
        self,
        kind: str,
        subject: AlertSubject,
        value: float,
        now: datetime,
        values: dict[str, float | int | str | None],
    ) -> Verdict | None:
        before = self._journal.alerts.watchings(subject.key).get(kind, EMPTY)
        after, word = advance(before, of_node(kind, subject, value, now, values), self._rules.of(kind), self._voice)
        if after == before and word is None:
            return None
        return Verdict(subject, {kind: after}, () if word is None else (word,))


def _was_stepped(reading: Reading) -> bool:
    return reading.outcome in (Outcome.JUDGED, Outcome.ENGINE_FAILED)
