"""Alerts: what raises one, what holds it, what clears it. Tables over the pure rules, and properties of the machine."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from monitor.alert import Alert, AlertState, AlertSubject, Evidence
from monitor.alert_machine import EMPTY, Signal, Voice, Watching, advance, end
from monitor.alert_rules import (
    DEFAULTS,
    KINDS,
    Alerts,
    Checkpoint,
    FrameGap,
    ImagingDegraded,
    LowBlastocystProbability,
    Rule,
    StorageLow,
)
from monitor.alert_texts import OF_INCUBATOR, TEXTS
from monitor.decide import hear
from monitor.vocabulary import Blastocyst, EmbryoName, FrameBody, Outcome, Quality, Reading, reading_id
from tests.house import START

VOICE = Voice("lab", "box")
NODE = AlertSubject()


def signal(value: float | None, at_min: float | None, kind: str = "storage_low") -> Signal:
    at = None if at_min is None else START + timedelta(minutes=at_min)
    return Signal(kind, NODE, value, f"at {at_min}", at and at.timestamp(), at, "text", Evidence())


def run(rule: Rule, looks: list[tuple[float, float | None]]) -> list[tuple[int, str]]:
    """The words said over (minute, value) looks: (index of the look, state)."""
    watching, said = EMPTY, []
    for index, (at_min, value) in enumerate(looks):
        watching, word = advance(watching, signal(value, at_min), rule, VOICE)
        if word is not None:
            said.append((index, word.state.value))
    return said


HIGH = FrameGap(enter=3, leave=1, for_min=10, cooldown_min=30)
LOW = StorageLow(enter=2, leave=3, for_min=10, cooldown_min=0)


@pytest.mark.parametrize(
    ("rule", "looks", "said"),
    [
        (HIGH, [(0, 0), (10, 2.9), (20, 2.9), (90, 2.9)], []),
        (HIGH, [(0, 3), (9, 3)], []),
        (HIGH, [(0, 3), (10, 3)], [(1, "raised")]),
        (HIGH, [(0, 3), (5, 2.9), (10, 3), (19, 3)], []),  # a break begins the time anew
        (HIGH, [(0, 3), (5, None), (10, 3)], [(2, "raised")]),  # nothing known is no break
        (HIGH, [(0, 3), (10, 3), (11, 1.1), (12, 2.9)], [(1, "raised")]),  # between the limits nothing changes
        (HIGH, [(0, 3), (10, 3), (11, 1.0)], [(1, "raised"), (2, "cleared")]),
        (HIGH, [(0, 3), (10, 3), (11, 1), (12, 3), (30, 3)], [(1, "raised"), (2, "cleared")]),  # it rests 30 min
        (HIGH, [(0, 3), (10, 3), (11, 1), (12, 3), (41, 3)], [(1, "raised"), (2, "cleared"), (4, "raised")]),
        (HIGH, [(0, 3), (10, 3), (69, 9), (71, 9), (72, 9)], [(1, "raised"), (3, "updated")]),  # worse, once an hour
        (HIGH, [(0, 3), (10, 3), (80, 5.9), (200, 5.9)], [(1, "raised")]),  # not twice as bad: nothing new to say
        (
            HIGH,
            [(0, 3), (10, 3), *((60 * k, 6.0 * k) for k in range(2, 66))],
            [(1, "raised"), *((index, "updated") for index in (2, 4, 8, 16, 32, 64))],
        ),  # what grows for ever is said ever more rarely
        (LOW, [(0, 2.1), (20, 2.1)], []),
        (LOW, [(0, 2.0), (10, 1.9), (11, 2.5), (12, 3.0)], [(1, "raised"), (3, "cleared")]),
        (FrameGap(enabled=False), [(0, 9), (100, 9)], []),
        (HIGH, [(None, 3)], [(0, "raised")]),  # type: ignore[list-item]  # no clock: frames alone count, here one
    ],
)
def test_a_number_past_its_limit_for_long_enough_raises_and_only_the_other_limit_clears(
    rule: Rule, looks: list[tuple[float, float | None]], said: list[tuple[int, str]]
) -> None:
    assert run(rule, looks) == said


def test_a_kind_switched_off_clears_what_stands_open_and_says_why() -> None:
    watching, word = advance(EMPTY, signal(1.0, 0), StorageLow(for_min=0), VOICE)
    assert word is not None and word.state is AlertState.RAISED
    watching, word = advance(watching, signal(None, 1), StorageLow(enabled=False), VOICE)
    assert word is not None and (word.state, word.why_cleared) == (AlertState.CLEARED, "switched_off")
    assert watching == EMPTY


@given(st.lists(st.tuples(st.floats(0.1, 100), st.floats(0, 6) | st.none()), max_size=60))
def test_words_come_as_raised_then_updated_then_cleared_with_revisions_that_grow_by_one(
    steps: list[tuple[float, float | None]],
) -> None:
    watching, at_min, words = EMPTY, 0.0, []
    for wait_min, value in steps:
        at_min += wait_min
        before = watching
        # what is remembered survives the journal's text at any moment
        watching = Watching.model_validate_json(watching.model_dump_json(exclude_defaults=True))
        assert watching == before
        watching, word = advance(watching, signal(value, at_min), HIGH, VOICE)
        words += [] if word is None else [word]
    open_id: str | None = None
    revision = 0
    for word in words:
        if word.state is AlertState.RAISED:
            assert open_id is None and word.revision == 1
            open_id, revision = word.alert_id, 1
        else:
            assert (word.alert_id, word.revision) == (open_id, revision + 1)
            revision += 1
            open_id = None if word.state is AlertState.CLEARED else open_id
    assert len({word.id for word in words}) == len(words)
    assert (watching.open is not None) == (open_id is not None)


# -- readings ----------------------------------------------------------------------------------------------------------


def reading(
    at_min: float,
    outcome: Outcome = Outcome.JUDGED,
    flags: tuple[str, ...] = (),
    probability: float | None = 0.5,
    hpi: float | None = 120.0,
    age_h: float | None = 5.0,
    clock: bool = True,
) -> Reading:
    at = START + timedelta(minutes=at_min)
    name = EmbryoName(incubator="inc1", dish="D1", well="1", embryo_id="inc1/D1/1/x")
    told = outcome is Outcome.JUDGED and probability is not None
    return Reading(
        id=reading_id("lab", "box", name.embryo_id, str(at_min), 1),
        occurred_at=at if clock else None,
        revision=1,
        supersedes=None,
        embryo=name,
        frame=FrameBody(
            captured_at=at if clock else None,
            run=None,
            hpi=hpi,
            hpi_source="unknown" if hpi is None else "config",
            planes=(0,),
            missing_planes=(),
            sources=("x",),
        ),
        outcome=outcome,
        blastocyst=Blastocyst(probability=probability, state_age_h=age_h, segments_missed=0) if told else None,
        quality=Quality(fit=outcome is Outcome.JUDGED, flags=flags),
        engines={},
    )


def hear_all(readings: list[Reading], rules: Alerts = DEFAULTS) -> list[Alert]:
    remembered: dict[str, Watching] = {}
    words: list[Alert] = []
    for one in readings:
        changed, said = hear(one, remembered, rules, VOICE)
        remembered |= changed
        words += said
    return words


def told(words: list[Alert]) -> list[tuple[str, str]]:
    return [(word.kind, word.state.value) for word in words]


def test_pictures_that_stay_degraded_raise_one_alert_that_names_the_first_and_the_last_reading() -> None:
    good = [reading(k * 10) for k in range(6)]
    bad = [reading(60 + k * 10, Outcome.UNFIT, ("blurred",)) for k in range(6)]
    words = hear_all([*good, *bad])
    assert told(words) == [("imaging_degraded", "raised")]
    # half of the last six at the third bad frame, 20 minutes later still
    assert words[0].occurred_at == bad[4].frame.captured_at
    assert words[0].evidence.readings == (bad[2].id, bad[4].id)
    assert words[0].evidence.values["flags"] == "blurred"
    assert words[0].subject.embryo_id == "inc1/D1/1/x"


def test_degraded_pictures_that_come_and_go_raise_nothing_and_leave_nothing_behind() -> None:
    remembered: dict[str, Watching] = {}
    for k in range(40):
        flags = ("dark",) if k % 6 == 0 else ()
        changed, said = hear(reading(k * 10, flags=flags), remembered, DEFAULTS, VOICE)
        remembered |= changed
        assert said == []
    for k in range(40, 46):
        remembered |= hear(reading(k * 10), remembered, DEFAULTS, VOICE)[0]
    assert all(watching == EMPTY for watching in remembered.values())


def test_an_alert_about_pictures_clears_when_they_are_good_again() -> None:
    bad = [reading(k * 10, flags=("missing_planes",)) for k in range(8)]
    good = [reading(80 + k * 10) for k in range(6)]
    assert told(hear_all([*bad, *good])) == [("imaging_degraded", "raised"), ("imaging_degraded", "cleared")]


def test_a_frame_that_was_told_several_times_counts_once() -> None:
    lacks = [
        reading(0, Outcome.LACKING, ("lacking", "missing_planes")).model_copy(update={"revision": k}) for k in (1, 2, 3)
    ]
    judged = [reading(k * 10) for k in range(1, 6)]
    assert hear_all([*lacks, reading(0).model_copy(update={"revision": 4}), *judged]) == []


def test_a_copied_archive_whose_files_all_have_one_time_raises_after_enough_frames() -> None:
    dark = [reading(0, Outcome.UNFIT, ("dark", "clock_from_file")).model_copy(update={"id": str(k)}) for k in range(12)]
    words = hear_all(dark)
    assert told(words) == [("imaging_degraded", "raised")]
    assert words[0].evidence.readings == ("2", "7")


def test_a_well_in_which_no_embryo_is_seen_is_told_apart_from_a_bad_picture() -> None:
    blank = [reading(k * 10, Outcome.UNFIT, ("blank",)) for k in range(8)]
    assert told(hear_all(blank)) == [("well_empty", "raised")]
    lacking = [reading(k * 10, Outcome.LACKING, ("blank", "lacking")) for k in range(8)]
    assert told(hear_all(lacking)) == [("imaging_degraded", "raised")]
    out_of_focus = [reading(k * 10, Outcome.UNFIT, ("blank", "blurred")) for k in range(8)]
    assert told(hear_all(out_of_focus)) == [("imaging_degraded", "raised")]
    dark = [reading(k * 10, Outcome.UNFIT, ("dark",)) for k in range(8)]
    assert told(hear_all(dark)) == [("imaging_degraded", "raised")]


def low(**facts: object) -> list[Reading]:
    """Seven hours of a probability of .05, a frame every half hour."""
    return [reading(k * 30, **{"probability": 0.05, **facts}) for k in range(15)]  # type: ignore[arg-type]


def checked(first_hpi: float, probability: float, hours: int = 14) -> list[Reading]:
    """A frame each hour, from an hour post insemination on."""
    return [
        reading(60 * k, probability=probability, hpi=first_hpi + k).model_copy(update={"id": f"{first_hpi + k}"})
        for k in range(hours)
    ]


@pytest.mark.parametrize(
    ("first_hpi", "probability", "said"),
    [
        (60.0, 0.05, [("day3", 68.0)]),
        (60.0, 0.06, []),
        (65.0, 0.05, [("day3", 71.0)]),  # it must have lasted six hours
        (69.0, 0.05, []),  # its first frame came too late for the check
        (84.0, 0.10, [("day4", 92.0)]),
        (84.0, 0.11, []),
        (91.0, 0.10, [(None, 102.0)]),  # no time left for the check of day 4: told from 96 h on
    ],
)
def test_the_probability_is_looked_at_on_day_3_and_day_4_each_with_its_own_limit(
    first_hpi: float, probability: float, said: list[tuple[str | None, float]]
) -> None:
    words = hear_all(checked(first_hpi, probability))
    assert [(word.evidence.values.get("check"), word.evidence.values["hpi"]) for word in words] == said
    for word in words:
        limit = {"day3": 0.05, "day4": 0.10, None: 0.10}[word.evidence.values.get("check")]  # type: ignore[index]
        assert (word.kind, word.limits.enter) == ("low_blastocyst_probability", limit)


def test_one_low_probability_is_one_alert_from_day_3_to_day_5() -> None:
    words = hear_all([*checked(60.0, 0.03, 60)])
    assert told(words) == [("low_blastocyst_probability", "raised")]
    better = hear_all([*checked(60.0, 0.03, 20), *checked(80.0, 0.3, 4), *checked(84.0, 0.03, 40)])
    assert [(word.state.value, word.evidence.values.get("check")) for word in better] == [
        ("raised", "day3"), ("cleared", "day3"), ("raised", "day4")
    ]  # fmt: skip


def test_a_check_that_is_switched_off_says_nothing() -> None:
    rules = Alerts(low_blastocyst_probability=LowBlastocystProbability(day3=Checkpoint(hpi=68, enter=0)))
    assert hear_all(checked(60.0, 0.0), rules) == []
    with pytest.raises(ValidationError, match=r"must be above day4\.enter"):
        LowBlastocystProbability(day4=Checkpoint(hpi=92, enter=0.2))


@pytest.mark.parametrize(
    ("facts", "raised"),
    [
        ({}, True),
        ({"probability": 0.11}, False),
        ({"hpi": 80.0}, False),  # too young: day 3 tells little
        ({"hpi": None}, False),  # its age is not known
        ({"age_h": None}, False),  # judged from a single frame
        ({"flags": ("memory_lost",)}, False),
        ({"flags": ("beyond_training",)}, False),
        ({"flags": ("not_enough_data",)}, False),
        ({"flags": ("embryo_not_located",)}, False),
        ({"outcome": Outcome.REVISED}, False),
        ({"outcome": Outcome.OUT_OF_ORDER}, False),
    ],
)
def test_a_low_probability_is_told_of_only_where_it_can_be_taken_at_its_word(
    facts: dict[str, object], raised: bool
) -> None:
    words = hear_all(low(**facts))
    assert told(words) == ([("low_blastocyst_probability", "raised")] if raised else [])
    for word in words:
        assert word.occurred_at == START + timedelta(hours=6)
        assert word.evidence.values["probability"] == 0.05
        assert word.intended_use.endswith("adjunctive information only")


def test_without_a_clock_frames_alone_count() -> None:
    words = hear_all([reading(k, probability=0.01, clock=False) for k in range(4)])
    assert told(words) == [("low_blastocyst_probability", "raised")]
    assert words[0].occurred_at is None
    assert words[0].evidence.readings[0] != words[0].evidence.readings[1]


def test_the_end_of_a_run_clears_what_stands_open_and_says_so() -> None:
    remembered: dict[str, Watching] = {}
    for one in low():
        remembered |= hear(one, remembered, DEFAULTS, VOICE)[0]
    (word,) = end(remembered, AlertSubject(embryo_id="inc1/D1/1/x"), START, DEFAULTS)
    assert (word.state, word.why_cleared, word.value) == (AlertState.CLEARED, "run_ended", None)


def test_the_same_readings_give_the_same_words_and_another_node_other_ids() -> None:
    first, again = hear_all(low()), hear_all(low())
    assert [word.body() for word in first] == [word.body() for word in again]
    other = hear(low()[-1], _before_last(), DEFAULTS, Voice("lab", "other"))[1]
    assert other and other[0].alert_id != first[0].alert_id


def _before_last() -> dict[str, Watching]:
    remembered: dict[str, Watching] = {}
    for one in low()[:12]:
        remembered |= hear(one, remembered, DEFAULTS, VOICE)[0]
    return remembered


# -- limits ------------------------------------------------------------------------------------------------------------


def test_limits_on_the_wrong_side_of_each_other_are_refused() -> None:
    with pytest.raises(ValidationError, match="must be below enter"):
        ImagingDegraded(enter=0.3, leave=0.4)
    with pytest.raises(ValidationError, match="must be above enter"):
        LowBlastocystProbability(enter=0.3, leave=0.3)


def test_every_kind_has_its_limits_its_words_and_a_paragraph_in_the_runbook() -> None:
    runbook = (Path(__file__).resolve().parents[1] / "deploy" / "runbook.md").read_text()
    assert set(Alerts.model_fields) == {*KINDS, "most_wells", "quiet"}
    assert set(OF_INCUBATOR) < set(KINDS)
    assert set(TEXTS) == set(KINDS)
    for kind in KINDS:
        assert f"\n## {kind}\n" in runbook


def test_a_time_of_the_past_never_counts_as_waiting() -> None:
    watching = EMPTY
    for at_min in (0.0, -60.0):
        watching, word = advance(watching, signal(3.0, at_min), HIGH, VOICE)
        assert word is None
    assert (watching.past_frames, watching.past_since_s) == (2, START.timestamp())
