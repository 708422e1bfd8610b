"""What commands do: taken note of, time zero, assessment, end. Each is validated, carried out in one transaction or not
at all, and answered with what has changed or the reason why nothing has.

It knows the journal, the alarms and the clocks of the incubators; it knows no broker and no web page.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from pydantic import ValidationError

from monitor.alarms import Alarms
from monitor.alert import Acknowledged, Alert
from monitor.alert_table import Verdict
from monitor.command_body import (
    COMMANDS,
    PAYLOAD_LIMIT_BYTES,
    Acknowledge,
    Answer,
    Assess,
    Change,
    Code,
    Command,
    End,
    Insemination,
)
from monitor.hearing import merged
from monitor.journal import Deed, Journal, Recorded
from monitor.runs import RUN_ENDS_H, Run
from monitor.timezero import TimeZero
from monitor.vocabulary import Place, elapsed_h, rfc3339

log = logging.getLogger(__name__)

AHEAD = timedelta(minutes=5)  # a sender's clock may be a little fast
FIRST_FRAME_BEFORE_H = 24.0  # an embryo is imaged from some hours before insemination at the earliest


class RefusedError(Exception):
    """A command that changes nothing, and why."""

    def __init__(self, code: Code, reason: str) -> None:
        super().__init__(reason)
        self.code: Code = code


@dataclass(frozen=True)
class Done:
    """What carrying a command out comes to, before it is recorded. Nothing `changed`: it was so before."""

    reason: str
    subject: str
    changed: tuple[Change, ...] = ()
    verdicts: tuple[Verdict, ...] = ()
    ended: Run | None = None
    assessed: tuple[Run, str | None, Assess] | None = None
    time_zero: tuple[Run, datetime] | None = None


class Commands:
    """Carries commands out, for the one thread that works. `forget`: an embryo's run has ended, and what that freed."""

    def __init__(
        self,
        journal: Journal,
        alarms: Alarms,
        time_zeros: Mapping[str, TimeZero],
        enabled: Collection[str],
        boot_id: str,
        now: Callable[[], datetime],
        forget: Callable[[Run, Recorded], None],
    ) -> None:
        self._journal, self._alarms, self._time_zeros = journal, alarms, time_zeros
        self._enabled, self._boot_id, self._now, self._forget = enabled, boot_id, now, forget

    def refuse(self, name: str, reason: str, code: Code = "failed", command_id: str | None = None) -> Answer:
        """An answer that says no."""
        log.warning("a command is refused", extra={"command": name[:64], "code": code, "reason": reason})
        return self._answer(name[:64], command_id, False, code, reason)

    def execute(self, name: str, payload: bytes, source: str) -> tuple[Answer, list[Alert]]:
        """Carry a command out; the answer, and the words about alerts that came of it. Raises StorageError: then
        nothing has happened."""
        command_id = None
        try:
            command = self._read(name, payload)
            command_id = command.id
            content = hashlib.sha256(f"{name}\n{command.model_dump_json(exclude={'id'})}".encode()).hexdigest()
            before = None if command.id is None else self._journal.commands.answered(command.id)
            if before is not None:
                if before[0] != content:
                    raise RefusedError("conflict", f"the id {command.id} stood on another command")
                return before[1], []
            return self._record(command, content, self._carry_out(command), source)
        except RefusedError as refused:
            return self.refuse(name, str(refused), refused.code, command_id), []

    def _read(self, name: str, payload: bytes) -> Command:
        model = next((model for known, model in COMMANDS.items() if known == name), None)
        if model is None:
            raise RefusedError("unknown", f"there is no command {name[:64]!r}: {', '.join(COMMANDS)}")
        if name not in self._enabled:
            raise RefusedError("not_allowed", f"the command {name} is not enabled here: commands.enabled")
        if len(payload) > PAYLOAD_LIMIT_BYTES:
            raise RefusedError("malformed", f"{len(payload)} bytes are more than {PAYLOAD_LIMIT_BYTES}")
        try:
            return model.model_validate_json(payload)
        except ValidationError as fault:
            told = "; ".join(f"{_key(error['loc'])}: {error['msg']}" for error in fault.errors()[:3])
            raise RefusedError("malformed", told) from fault

    def _record(self, command: Command, content: str, done: Done, source: str) -> tuple[Answer, list[Alert]]:
        code: Code = "done" if done.changed else "nothing_new"
        answer = self._answer(command.name, command.id, True, code, done.reason, done.changed)
        if not done.changed and command.id is None:
            return answer, []
        said = {"command": command.name, "source": source, "said": json.loads(command.model_dump_json())}
        told = {"code": code, "changed": [json.loads(change.model_dump_json()) for change in done.changed]}
        recorded = self._journal.act(
            Deed(
                subject=done.subject,
                audit={**said, **told},
                answered=None if command.id is None else (command.id, content, answer),
                verdicts=done.verdicts,
                ended=done.ended,
                assessed=done.assessed,
                time_zero=done.time_zero,
            ),
            self._now(),
        )
        log.info("a command is carried out", extra={"command": command.name, "by": command.by, "subject": done.subject})
        if done.ended is not None:
            self._forget(done.ended, recorded)
        return answer, recorded.alerts

    def _answer(
        self,
        name: str,
        command_id: str | None,
        accepted: bool,
        code: Code,
        reason: str,
        changed: tuple[Change, ...] = (),
    ) -> Answer:
        return Answer(
            id=command_id,
            command=name,
            accepted=accepted,
            code=code,
            reason=reason,
            changed=changed,
            boot_id=self._boot_id,
            occurred_at=self._now(),
        )

    # -- one by one ----------------------------------------------------------------------------------------------------

    def _carry_out(self, command: Command) -> Done:
        if isinstance(command, Acknowledge):
            return self._acknowledge(command)
        if isinstance(command, Insemination):
            return self._insemination(command)
        if isinstance(command, Assess):
            return self._assess(command)
        if isinstance(command, End):
            return self._end(command)
        raise RefusedError("unknown", f"there is no command {command.name!r}")

    def _acknowledge(self, command: Acknowledge) -> Done:
        last = next((one for one in self._journal.alerts.standing() if one.alert_id == command.alert_id), None)
        if last is None or self._journal.blind.hides_word(last):
            raise RefusedError("conflict", f"no alert {command.alert_id} stands open")
        if last.acknowledged is not None:
            return Done(f"{last.acknowledged.by} has taken note of it before", last.subject.key)
        by = Acknowledged(by=command.by, at=self._now(), note=command.note)
        verdict = self._alarms.acknowledged(last, by)
        change = Change(what="acknowledged_by", before=None, after=command.by)
        reason = f"taken note of: {last.kind}"
        return Done(reason, last.subject.key, (change,), () if verdict is None else (verdict,))

    def _insemination(self, command: Insemination) -> Done:
        run = self._run_in(command.place, command.embryo_id)
        if run.latest.hours is not None:
            raise RefusedError("conflict", "the hours of this embryo come from its time file")
        if run.latest.at is None or run.first.at is None:
            raise RefusedError("conflict", "the frames of this embryo have no clock: no time zero makes hours of them")
        if command.time > self._now() + AHEAD:
            raise RefusedError("conflict", f"{rfc3339(command.time)} lies in the future")
        if not -FIRST_FRAME_BEFORE_H <= elapsed_h(run.first.at, command.time) <= RUN_ENDS_H:
            raise RefusedError("conflict", f"not within 200 h of the first frame, taken at {rfc3339(run.first.at)}")
        zero = self._time_zeros[run.place.incubator]
        before = zero.age(run.latest, run.counts_from, run.stated is not None)
        after = zero.age(run.latest, command.time, by_command=True)
        if after.hpi is not None and after.hpi > RUN_ENDS_H:
            raise RefusedError("conflict", f"its last frame would be {after.hpi:.0f} h old: over {RUN_ENDS_H:.0f}")
        subject = f"embryo/{run.embryo_id}"
        if run.stated == command.time:
            return Done("it was so before", subject)
        was = run.counts_from
        changed = (
            Change(what="insemination", before=None if was is None else rfc3339(was), after=rfc3339(command.time)),
            Change(what="hpi_of_the_last_frame", before=before.hpi, after=after.hpi),
        )
        return Done("hours count from it from the next reading on", subject, changed, time_zero=(run, command.time))

    def _assess(self, command: Assess) -> Done:
        run = self._run_in(command.place, command.embryo_id)
        said = command.model_dump_json(include={"by", "stage", "grade", "note"})
        if said in self._journal.commands.assessments(run.embryo_id)[-1:]:
            return Done("it was said before", f"embryo/{run.embryo_id}")
        changed = tuple(
            Change(what=what, before=None, after=value)
            for what, value in (("stage", command.stage), ("grade", command.grade), ("note", command.note))
            if value is not None
        )
        reading = self._journal.newest_reading(run.embryo_id)
        verdicts = merged(self._alarms.disclosed(run, self._now()))
        return Done("recorded", f"embryo/{run.embryo_id}", changed, verdicts, assessed=(run, reading, command))

    def _end(self, command: End) -> Done:
        place = command.place
        last = self._journal.runs(place)[-1:]
        if last and last[0].ended == "command" and command.embryo_id in (None, last[0].embryo_id):
            return Done("its run has been ended before", f"embryo/{last[0].embryo_id}")
        run = self._run_in(place, command.embryo_id)
        verdicts = self._alarms.ended(run, self._now())
        change = Change(what="run", before=run.embryo_id, after=None)
        return Done("its run is over", f"embryo/{run.embryo_id}", (change,), verdicts, ended=run)

    def _run_in(self, place: Place, embryo_id: str | None) -> Run:
        if place.incubator not in self._time_zeros:
            raise RefusedError("conflict", f"there is no incubator {place.incubator!r}: {', '.join(self._time_zeros)}")
        run = next((run for run in reversed(self._journal.runs(place)) if run.ended is None), None)
        if run is None:
            raise RefusedError("conflict", f"no embryo lies in {place}")
        if embryo_id is not None and embryo_id != run.embryo_id:
            raise RefusedError("conflict", f"in {place} lies {run.embryo_id}, not {embryo_id}")
        return run


def _key(where: tuple[int | str, ...]) -> str:
    return ".".join(map(str, where)) or "the payload"
