"""The commands that may be given, and the answer to one. Nouns only; what a command does is in `monitor.commands`.

Unknown keys are refused, so that a misspelt key is not a command that silently does less.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from monitor.body import INTENDED_USE, Body, Time
from monitor.layouts import WORD, YEARS
from monitor.vocabulary import PHASES, Place

PAYLOAD_LIMIT_BYTES = 16_384
GRADE = re.compile(r"^([12]|[3-6]([ABC-][ABC-])?)$")

Name = Literal["acknowledge", "insemination", "assess", "end"]
Code = Literal["done", "nothing_new", "malformed", "not_allowed", "unknown", "conflict", "failed"]


def _word(text: str) -> str:
    if not WORD.match(text):
        raise ValueError("allowed: 1 to 64 of A-Z a-z 0-9 . _ -")
    return text


def _said_by(text: str) -> str:
    if not text.strip() or not text.isprintable():
        raise ValueError("who gives the command: 1 to 64 printable characters")
    return text.strip()


def _aware(value: Any) -> Any:
    """RFC 3339 with a zone. Numbers are no times here."""
    if not isinstance(value, str):
        raise ValueError("a time is a text like 2026-01-31T06:10:00Z")
    moment = datetime.fromisoformat(re.sub(r"[zZ]$", "+00:00", value.strip()))
    if moment.tzinfo is None:
        raise ValueError("it has no zone: for example 2026-01-31T06:10:00Z")
    if moment.year not in YEARS:
        raise ValueError(f"allowed years: {YEARS.start} to {YEARS.stop - 1}")
    return moment


Word = Annotated[str, AfterValidator(_word)]
By = Annotated[str, Field(max_length=64), AfterValidator(_said_by)]
Note = Annotated[str, Field(max_length=500)]


class Command(Body):
    """What every command holds. `id`: of the sender's choice; a command that comes again under its id does not act
    twice, and is answered as before."""

    name: ClassVar[Name]
    id: Word | None = None
    by: By


class Acknowledge(Command):
    """Somebody has taken note of an alert."""

    name: ClassVar[Name] = "acknowledge"
    alert_id: Annotated[str, Field(pattern="^[0-9a-f]{20}$")]
    note: Note | None = None


class _OfWell(Command):
    """About the embryo that lies in a well now. `embryo_id`: refused where it is another's by then."""

    incubator: Word
    dish: Word
    well: Word
    embryo_id: Annotated[str, Field(max_length=300)] | None = None

    @property
    def place(self) -> Place:
        return Place(self.incubator, self.dish, self.well)


class Insemination(_OfWell):
    """Time zero of the embryo in a well, from the next reading on."""

    name: ClassVar[Name] = "insemination"
    time: Annotated[Time, BeforeValidator(_aware)]


class Assess(_OfWell):
    """An embryologist's own assessment: a stage, a grade after Gardner (`4AB`), a note; one of them at least."""

    name: ClassVar[Name] = "assess"
    stage: str | None = None
    grade: Annotated[str, Field(pattern=GRADE.pattern)] | None = None
    note: Note | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Assess:
        if self.stage is not None and self.stage not in PHASES:
            raise ValueError(f"stage = {self.stage!r}: one of {', '.join(PHASES)}")
        if self.stage is None and self.grade is None and not (self.note or "").strip():
            raise ValueError("an assessment holds a stage, a grade or a note")
        return self


class End(_OfWell):
    """The embryo has left its well: its run is over."""

    name: ClassVar[Name] = "end"


COMMANDS: dict[Name, type[Acknowledge | Insemination | Assess | End]] = {
    one.name: one for one in (Acknowledge, Insemination, Assess, End)
}


class Change(Body):
    """One thing that is other than it was."""

    what: str
    before: str | float | None
    after: str | float | None


class Answer(Body):
    """Schema `pellucid.answer/1`. `id`: the command's, null where it had none (or none that could be read). `code`:
    `done` and `nothing_new` are accepted, the others are not, and then nothing has changed."""

    schema_: Literal["pellucid.answer/1"] = Field(default="pellucid.answer/1", alias="schema")
    id: str | None
    command: str
    accepted: bool
    code: Code
    reason: str
    changed: tuple[Change, ...] = ()
    boot_id: str
    occurred_at: Time
    intended_use: str = INTENDED_USE

    def body(self) -> str:
        """The JSON text that is sent."""
        return self.model_dump_json(by_alias=True)
