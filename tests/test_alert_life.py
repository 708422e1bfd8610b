"""An alert's life beyond its number: one cause for many wells, quiet hours, who has taken note, who was called again.
An alert's life beyond its number: one cause for many wells, quiet hours, who has taken note, who was called again."""

from __future__ import annotations

from datetime import datetime, time, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from monitor.alert import Acknowledged, Alert, AlertSubject, Evidence
from monitor.alert_machine import EMPTY, Signal, Voice, Watching, acknowledge, advance, end, remind
from monitor.alert_rules import DEFAULTS, Alerts, FrameGap, QuietHours
from monitor.fakes import Shelf
from monitor.hearing import Hearing, merged
from monitor.vocabulary import Blastocyst, EmbryoName, FrameBody, Outcome, Quality, Reading
from tests.house import START

VOICE = Voice("lab", "box")
WELLS = 8


def reading(well: int, at_min: float, flags: tuple[str, ...]) -> Reading:
    at = START + timedelta(minutes=at_min)
    name = EmbryoName(incubator="inc1", dish="D1", well=str(well), embryo_id=f"inc1/D1/{well}/x")
    fit = not flags
    return Reading(
        id=f"{well} {at_min}",
        occurred_at=at,
        revision=1,
        supersedes=None,
        embryo=name,
        frame=FrameBody(
            captured_at=at, run=None, hpi=60.0, hpi_source="config", planes=(0,), missing_planes=(), sources=("x",)
        ),
        outcome=Outcome.JUDGED if fit else Outcome.UNFIT,
        blastocyst=Blastocyst(probability=0.5, state_age_h=3.0, segments_missed=0) if fit else None,
        quality=Quality(fit=fit, flags=flags),
        engines={},
    )


def hear_moments(
    shelf: Shelf, moments: range, bad_wells: set[int], flag: str = "dark", batch: int = WELLS
) -> list[Alert]:
    """A frame each ten minutes of every well, some of them bad; `batch` wells are decided on in one transaction."""
    shelf.embryos |= {f"embryo/inc1/D1/{well}/x" for well in range(1, WELLS + 1)}
    words: list[Alert] = []
    for moment in moments:
        for first in range(1, WELLS + 1, batch):
            hearing = Hearing(shelf, DEFAULTS, VOICE, None)
            wells = range(first, min(first + batch, WELLS + 1))
            verdicts = [
                one
                for well in wells
                for one in hearing.reading(reading(well, moment * 10, (flag,) if well in bad_wells else ()))
            ]
            words += shelf.put(merged(verdicts))
    return words


def gist(words: list[Alert]) -> list[tuple[str, str, str]]:
    return [(word.kind, word.state.value, word.subject.key) for word in words]


@pytest.mark.parametrize("batch", [1, 3, WELLS])
@pytest.mark.parametrize(("kind", "flag"), [("imaging_degraded", "dark"), ("well_empty", "blank")])
def test_a_dead_camera_is_one_alert_about_the_incubator_with_its_embryos_as_members(
    kind: str, flag: str, batch: int
) -> None:
    shelf, everyone = Shelf(), set(range(1, WELLS + 1))
    assert hear_moments(shelf, range(6), set(), flag, batch) == []
    words = hear_moments(shelf, range(6, 30), everyone, flag, batch)
    assert gist(words) == [(kind, "raised", "incubator/inc1")]
    assert set(words[0].members) == {f"inc1/D1/{well}/x" for well in everyone}
    assert words[0].evidence.values["embryos"] == WELLS
    assert words[0].limits.unit == "share of the incubator's embryos"
    healed = hear_moments(shelf, range(30, 40), set(), flag, batch)
    assert gist(healed) == [(kind, "cleared", "incubator/inc1")]
    assert shelf.by_subject.get("incubator/inc1", {}).keys() <= {kind}
    assert hear_moments(shelf, range(40, 50), set(), flag, batch) == []


def test_two_bad_wells_of_eight_are_told_of_one_by_one() -> None:
    words = hear_moments(Shelf(), range(12), {1, 2})
    assert gist(words) == [
        ("imaging_degraded", "raised", "embryo/inc1/D1/1/x"), ("imaging_degraded", "raised", "embryo/inc1/D1/2/x")
    ]  # fmt: skip


def test_a_well_that_is_still_bad_when_the_incubator_has_recovered_is_told_of_then() -> None:
    shelf = Shelf()
    first = hear_moments(shelf, range(10), set(range(1, WELLS + 1)))
    after = hear_moments(shelf, range(10, 25), {3})
    assert gist([*first, *after]) == [
        ("imaging_degraded", "raised", "incubator/inc1"),
        ("imaging_degraded", "cleared", "incubator/inc1"),
        ("imaging_degraded", "raised", "embryo/inc1/D1/3/x"),
    ]


def test_a_well_that_was_told_of_before_stays_told_of_and_is_a_member_too() -> None:
    shelf = Shelf()
    alone = hear_moments(shelf, range(10), {5})
    together = hear_moments(shelf, range(10, 30), set(range(1, WELLS + 1)))
    assert gist([*alone, *together]) == [
        ("imaging_degraded", "raised", "embryo/inc1/D1/5/x"), ("imaging_degraded", "raised", "incubator/inc1")
    ]  # fmt: skip
    assert "inc1/D1/5/x" in together[0].members


def test_when_the_dishes_of_a_dead_camera_are_taken_out_its_alert_ends_with_the_last() -> None:
    shelf = Shelf()
    hear_moments(shelf, range(10), set(range(1, WELLS + 1)))
    words: list[Alert] = []
    for well in range(1, WELLS + 1):
        subject = AlertSubject(incubator="inc1", dish="D1", well=str(well), embryo_id=f"inc1/D1/{well}/x")
        words += shelf.put(list(merged(Hearing(shelf, DEFAULTS, VOICE, START).ended(subject, START))))
    assert gist(words) == [("imaging_degraded", "cleared", "incubator/inc1")]


def test_the_last_word_about_an_incubator_that_is_configured_no_longer_names_it_not_an_embryo() -> None:
    shelf = Shelf()
    hear_moments(shelf, range(10), set(range(1, WELLS + 1)))
    subject = AlertSubject(incubator="inc1")
    (word,) = end(shelf.watchings(subject.key), subject, START, DEFAULTS, "not_configured")
    assert word.why_cleared == "not_configured" and "most embryos of this incubator" in word.text
    assert word.limits.unit == DEFAULTS.most_wells.unit


def test_an_embryo_that_leaves_another_incubator_counts_in_its_own_only() -> None:
    shelf = Shelf()
    hear_moments(shelf, range(10), set(range(1, WELLS + 1)))
    shelf.embryos.add("embryo/inc2/D1/1/x")
    hearing = Hearing(shelf, DEFAULTS, VOICE, START)
    hearing.ended(AlertSubject(incubator="inc2", dish="D1", well="1", embryo_id="inc2/D1/1/x"), START)
    assert hearing._wells("imaging_degraded", AlertSubject(incubator="inc1")).active == WELLS


@settings(deadline=None, max_examples=40)
@given(st.lists(st.frozensets(st.integers(1, WELLS)), max_size=30), st.integers(1, WELLS))
def test_whatever_wells_do_no_two_alerts_of_one_subject_stand_side_by_side(
    bad: list[frozenset[int]], batch: int
) -> None:
    shelf, standing = Shelf(), set()
    for moment, wells in enumerate(bad):
        for word in hear_moments(shelf, range(moment, moment + 1), set(wells), batch=batch):
            if word.state.value == "raised":
                assert word.subject.key not in standing
                standing.add(word.subject.key)
            elif word.state.value == "cleared":
                standing.remove(word.subject.key)


# -- taking note, calling again, quiet hours ---------------------------------------------------------------------------

RULE = FrameGap(escalate_after_min=30)
NIGHT = Alerts(frame_gap=RULE, quiet=QuietHours(begins=time(22), ends=time(6), kinds=("frame_gap",)))


def raised(at: datetime, quiet: bool = False) -> tuple[Watching, Alert]:
    signal = Signal(
        "frame_gap", AlertSubject(incubator="inc1"), 3.0, "n", at.timestamp(), at, "text", Evidence(),
        heard_at=at, quiet=quiet,
    )  # fmt: skip
    watching, word = advance(EMPTY, signal, RULE, VOICE)
    assert word is not None and word.quiet is quiet
    return watching, word


BY = Acknowledged(by="mk", at=START + timedelta(minutes=5), note="door was open")


def test_taking_note_is_said_once_and_every_later_word_carries_it() -> None:
    watching, last = raised(START)
    watching, word = acknowledge(watching, last, BY)
    assert word is not None
    assert (word.state.value, word.revision, word.acknowledged) == ("acknowledged", 2, BY)
    assert (word.alert_id, word.value, word.evidence) == (last.alert_id, last.value, last.evidence)
    assert word.id != last.id
    again, nothing = acknowledge(watching, word, BY)
    assert nothing is None and again == watching
    at = START + timedelta(minutes=20)
    better = Signal("frame_gap", last.subject, 0.0, "m", at.timestamp(), at, "text", Evidence())
    _, cleared = advance(watching, better, RULE, VOICE)
    assert cleared is not None
    assert (cleared.state.value, cleared.revision, cleared.acknowledged) == ("cleared", 3, BY)


def test_nobody_who_takes_note_in_time_is_called_again() -> None:
    watching, last = raised(START)
    assert remind(watching, last, RULE, START + timedelta(minutes=29), False)[1] is None
    noted, word = acknowledge(watching, last, BY)
    assert word is not None and remind(noted, word, RULE, START + timedelta(hours=9), False)[1] is None
    late, word = remind(watching, last, RULE, START + timedelta(minutes=30), False)
    assert word is not None
    assert (word.state.value, word.escalated_at) == ("escalated", START + timedelta(minutes=30))
    assert remind(late, word, RULE, START + timedelta(hours=9), False)[1] is None
    never = FrameGap(escalate_after_min=0)
    assert remind(watching, last, never, START + timedelta(hours=9), False)[1] is None


def test_an_alert_from_before_it_was_noted_when_somebody_was_told_waits_for_its_call_from_now() -> None:
    watching, last = raised(START)
    assert watching.open is not None
    old = watching.model_copy(update={"open": watching.open.model_copy(update={"told_at": None})})
    assert remind(old, last, RULE, START + timedelta(hours=1), True) == (old, None)
    now = START + timedelta(days=2)
    after, word = remind(old, last, RULE, now, False)
    assert word is None and after.open is not None and after.open.told_at == now
    assert remind(after, last, RULE, now + timedelta(minutes=29), False) == (after, None)
    _, word = remind(after, last, RULE, now + timedelta(minutes=30), False)
    assert word is not None and word.state.value == "escalated"


def test_what_was_raised_in_quiet_hours_is_said_again_when_they_end_and_waits_for_its_call_from_then() -> None:
    watching, last = raised(START, quiet=True)
    assert remind(watching, last, RULE, START + timedelta(hours=3), True)[1] is None
    morning = START + timedelta(hours=8)
    watching, word = remind(watching, last, RULE, morning, False)
    assert word is not None
    assert (word.state.value, word.quiet, word.revision) == ("updated", False, 2)
    assert remind(watching, word, RULE, morning + timedelta(minutes=29), False)[1] is None
    _, called = remind(watching, word, RULE, morning + timedelta(minutes=30), False)
    assert called is not None and called.state.value == "escalated"


def test_what_was_taken_note_of_in_quiet_hours_is_not_said_again() -> None:
    watching, last = raised(START, quiet=True)
    watching, word = acknowledge(watching, last, BY)
    assert word is not None and remind(watching, word, RULE, START + timedelta(hours=9), False)[1] is None


@pytest.mark.parametrize(
    ("hour", "minute", "quiet"), [(21, 59, False), (22, 0, True), (3, 0, True), (5, 59, True), (6, 0, False)]
)
def test_quiet_hours_may_pass_midnight_and_hold_for_their_kinds_alone(hour: int, minute: int, quiet: bool) -> None:
    now = START.replace(hour=hour, minute=minute)
    assert NIGHT.is_quiet("frame_gap", now) is quiet
    assert not NIGHT.is_quiet("storage_low", now)
    assert not NIGHT.is_quiet("frame_gap", None)
    assert not DEFAULTS.is_quiet("frame_gap", now)


@pytest.mark.parametrize(("begins", "ends"), [("22:00Z", "06:00"), ("22:00", "06:00+02:00"), (79200, "06:00")])
def test_quiet_hours_with_an_offset_are_refused(begins: object, ends: str) -> None:
    with pytest.raises(ValidationError, match="without an offset; use zone"):
        QuietHours.model_validate({"begins": begins, "ends": ends})


def test_quiet_hours_are_those_of_the_clinics_zone_in_summer_too() -> None:
    quiet = QuietHours(begins=time(22), ends=time(6), zone="Europe/Paris", kinds=("arrest",))
    assert quiet.hold("arrest", datetime.fromisoformat("2026-07-01T20:30:00+00:00"))  # 22:30 there
    assert not quiet.hold("arrest", datetime.fromisoformat("2026-01-01T20:30:00+00:00"))  # 21:30
    with pytest.raises(ValidationError, match="no time zone this machine knows"):
        QuietHours(begins=time(22), ends=time(6), zone="Nowhere/At-All")
    with pytest.raises(ValidationError, match="let them differ"):
        QuietHours(begins=time(22), ends=time(22))
