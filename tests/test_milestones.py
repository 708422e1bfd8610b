"""What stages say: lateness beyond what people agree about, short cycles, steps back, the blastocyst; and intervals."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from engines.segments import SegmentAnswer
from monitor import milestones
from monitor.alert import Alert
from monitor.alert_machine import Voice, Watching
from monitor.alert_rules import DEFAULTS, Arrest
from monitor.decide import hear
from monitor.lacks import intervals_of, lacks_of
from monitor.population import HUMAN_SD_H, followers, interval_p95_h, onset_p95_h
from monitor.vocabulary import PHASES, Blastocyst, EmbryoName, FrameBody, Outcome, Quality, Reading, Stage, reading_id
from tests.house import START

VOICE = Voice("lab", "box")


def stage(
    now: str, onsets_h: dict[str, float] | None = None, sd_h: float = 0.3, back: bool = False, sure: float = 0.9
) -> Stage:
    onsets = onsets_h or {}
    rest = (1 - sure) / (len(PHASES) - 1)
    return Stage(
        live=now,
        live_probability=sure,
        revised=now,
        probabilities={phase: sure if phase == now else rest for phase in PHASES},
        onsets_h=onsets,
        onsets_sd_h=dict.fromkeys(onsets, sd_h),
        onsets_since="insemination",
        stepped_back=back,
    )


def reading(hpi: float | None, told: Stage | None, flags: tuple[str, ...] = ()) -> Reading:
    at = START + timedelta(hours=hpi or 0)
    name = EmbryoName(incubator="inc1", dish="D1", well="1", embryo_id="inc1/D1/1/x")
    return Reading(
        id=reading_id("lab", "box", name.embryo_id, str(hpi), 1),
        occurred_at=at,
        revision=1,
        supersedes=None,
        embryo=name,
        frame=FrameBody(
            captured_at=at,
            run=None,
            hpi=hpi,
            hpi_source="unknown" if hpi is None else "config",
            planes=(0,),
            missing_planes=(),
            sources=("x",),
        ),
        outcome=Outcome.JUDGED,
        blastocyst=None,
        stage=told,
        quality=Quality(fit=True, flags=flags),
        engines={},
    )


def heard(readings: list[Reading]) -> list[Alert]:
    remembered: dict[str, Watching] = {}
    words: list[Alert] = []
    for one in readings:
        changed, said = hear(one, remembered, DEFAULTS, VOICE)
        remembered |= changed
        words += said
    return words


def told(words: list[Alert]) -> list[tuple[str, str]]:
    return [(word.kind, word.state.value) for word in words]


# -- arrest ------------------------------------------------------------------------------------------------------------


def test_every_stage_before_the_blastocyst_has_a_next_one_with_its_hour_and_its_scatter() -> None:
    for phase in PHASES[: PHASES.index("tB")]:
        assert followers(phase)
        for later in followers(phase):
            assert onset_p95_h(later) is not None and HUMAN_SD_H[later] > 0
    assert [followers(phase) for phase in ("t2", "t3", "t4", "t5")] == [("t3", "t4"), ("t5",), ("t5", "t6"), ("t8",)]
    assert interval_p95_h("t5") == {"t3": 15.5}


@pytest.mark.parametrize(
    ("hpi", "told", "late"),
    [
        (47.0, stage("t2", {"t2": 25.0}), 1.9),  # t4 is the more patient: 44.5 + 1.34 k; t3 is at 1.99
        (47.3, stage("t2", {"t2": 25.0}), 2.1),
        (47.3, stage("t2", {"t2": 33.0}), 0.44),  # slow from the start: two cells for 14 h only, most 13.5
        (47.3, stage("t2"), 2.1),  # it had two cells at the first frame: the hour alone
        (113.4, stage("t9+", {"t9+": 65.0}), 2.0),
        (90.0, stage("tB", {"tB": 88.0}), milestones.NOT_LATE),
    ],
)
def test_an_embryo_is_late_by_both_clocks_in_the_scatter_of_people(hpi: float, told: Stage, late: float) -> None:
    said = milestones.lateness(told, hpi)
    assert said.value == pytest.approx(late, abs=0.08)


def test_without_an_hour_post_insemination_nobody_is_called_late() -> None:
    assert milestones.lateness(stage("t2", {"t2": 25.0}), None).value is None


def test_the_further_of_the_two_labels_counts() -> None:
    behind = stage("t4", {"t2": 25.0}).model_copy(update={"live": "t2"})
    assert milestones.lateness(behind, 50.0).values["stage"] == "t4"


@settings(deadline=None)
@given(st.floats(20, 140), st.floats(0.1, 30), st.sampled_from(PHASES[3:13]), st.floats(0, 3))
def test_lateness_grows_with_the_hour_and_shrinks_with_the_doubt_about_the_onset(
    hpi: float, more_h: float, phase: str, sd_h: float
) -> None:
    since = {phase: hpi - 10}
    now = milestones.lateness(stage(phase, since, sd_h), hpi).value
    later = milestones.lateness(stage(phase, since, sd_h), hpi + more_h).value
    doubtful = milestones.lateness(stage(phase, since, sd_h + 1), hpi + more_h).value
    assert now is not None and later is not None and doubtful is not None
    assert now <= later
    assert doubtful <= later or later <= 0


def test_a_model_that_wavers_between_two_stages_has_seen_nobody_stand_still() -> None:
    sure = stage("t4", {"t4": 36.0})
    wavers = sure.model_copy(update={"probabilities": {**sure.probabilities, "t4": 0.6, "t5": 0.3}})
    assert milestones.lateness(sure, 80.0).value is not None
    assert milestones.lateness(wavers, 80.0).value is None


def test_an_arrest_is_raised_once_in_a_stage_and_cleared_when_the_embryo_goes_on() -> None:
    stays = [reading(hpi, stage("t4", {"t4": 36.0})) for hpi in range(55, 70)]
    goes = [reading(hpi, stage("t5", {"t4": 36.0, "t5": 70.0})) for hpi in range(70, 74)]
    falls_back = [reading(hpi, stage("t4", {"t4": 36.0})) for hpi in range(74, 80)]
    words = heard([*stays, *goes, *falls_back])
    assert told(words) == [("arrest", "raised"), ("arrest", "cleared")]
    assert words[0].evidence.values["waited_for"] == "t6"
    assert words[0].evidence.values["stage"] == "t4"
    # past t6's 60.0 by two standard deviations of 1.61 h, in three frames
    assert words[0].evidence.values["hpi"] == 66.0


def test_no_limit_of_arrest_may_be_tighter_than_people_agree() -> None:
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        Arrest(enter=0.5, leave=0.0)


# -- cycles ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("onsets", "cycle", "p"),
    [
        ({"t2": 25.0, "t3": 30.0}, "cc2", 0.5),
        ({"t2": 25.0, "t3": 27.0}, "cc2", 1.0),
        ({"t2": 25.0, "t3": 36.0}, "cc2", 0.0),
        ({"t2": 25.0, "t4": 27.0}, "cc2", 1.0),  # t3 lay hidden between two frames
        ({"t3": 36.0, "t5": 39.0}, "cc3", 1.0),
        ({"t4": 36.0, "t5": 39.0}, "cc3", 1.0),
        ({"t3": 36.0}, "cc2", None),  # two cells were there at the first frame: nobody saw when
    ],
)
def test_the_chance_of_a_short_cycle_comes_from_the_onsets_and_their_scatter(
    onsets: dict[str, float], cycle: str, p: float | None
) -> None:
    said = milestones.direct_cleavage(stage("t4", onsets), cycle)
    assert said.value == (None if p is None else pytest.approx(p, abs=1e-3))
    vague = milestones.direct_cleavage(stage("t4", onsets, sd_h=5.0), cycle)
    if p is not None:
        assert vague.value is not None and said.value is not None
        assert abs(vague.value - 0.5) <= abs(said.value - 0.5)


def test_a_direct_cleavage_is_told_once_for_each_cycle_however_the_onsets_are_revised() -> None:
    short, long = {"t2": 25.0, "t3": 27.0}, {"t2": 25.0, "t3": 36.0}
    both = {"t2": 25.0, "t3": 27.0, "t5": 29.0}
    readings = [reading(28 + k, stage("t3", short)) for k in range(5)]
    readings += [reading(33 + k, stage("t3", long)) for k in range(3)]
    readings += [reading(36 + k, stage("t5", both)) for k in range(5)]
    words = heard(readings)
    assert told(words) == [("direct_cleavage", "raised"), ("direct_cleavage", "cleared"), ("direct_cleavage", "raised")]
    assert [word.evidence.values["cycle"] for word in words] == ["cc2", "cc2", "cc3"]
    assert words[0].alert_id == words[1].alert_id != words[2].alert_id
    again = heard([one.model_copy(update={"id": f"other {k}"}) for k, one in enumerate(readings)])
    assert [word.alert_id for word in again] == [word.alert_id for word in words]  # the fact names it, not the frame


def test_fewer_cells_than_were_reached_are_told_and_cleared_when_they_are_back_for_six_frames() -> None:
    readings = [reading(40 + k, stage("t4", back=k in (2, 3, 4))) for k in range(14)]
    words = heard(readings)
    assert told(words) == [("reverse_cleavage", "raised"), ("reverse_cleavage", "cleared")]
    assert [word.evidence.values["hpi"] for word in words] == [43.0, 50.0]


def test_a_blastocyst_is_news_after_three_frames_and_only_once() -> None:
    words = heard([reading(95 + k, stage("tSB" if k < 2 else "tB")) for k in range(8)])
    assert told(words) == [("blastocyst_reached", "raised")]
    assert words[0].evidence.values["hpi"] == 99.0
    flickers = [reading(95 + k, stage("tB" if (k // 4) % 2 else "t9+")) for k in range(24)]
    assert told(heard(flickers)).count(("blastocyst_reached", "raised")) == 1


@pytest.mark.parametrize("flag", ["memory_lost", "memory_of_other_model", "embryo_not_located"])
def test_a_stage_in_doubt_raises_nothing(flag: str) -> None:
    assert heard([reading(95 + k, stage("tB"), (flag,)) for k in range(8)]) == []


# -- what a reading says of them ---------------------------------------------------------------------------------------


def test_intervals_stand_where_both_onsets_are_known_with_the_scatter_of_both() -> None:
    onsets = {"t2": 25.0, "t3": 36.0, "t4": 36.5, "t5": 48.0}
    hours, sds = intervals_of(onsets, {"t2": 0.3, "t3": 0.4, "t4": 0, "t5": 0})
    assert hours == {"cc2": 11.0, "s2": 0.5, "cc3": 12.0}
    assert sds == {"cc2": 0.5, "s2": 0.4, "cc3": 0.4}


@pytest.mark.parametrize(
    ("now", "onsets", "why"),
    [
        ("t2", {"t2": 25.0}, "not_reached"),
        ("t4", {"t2": 25.0, "t4": 36.0}, "passed_over"),
        ("t4", {"t4": 36.0}, "before_first_frame"),
        ("t4", {"t2": 25.0, "t3": 35.0, "t4": 36.0}, None),
    ],
)
def test_an_interval_that_is_not_known_says_why(now: str, onsets: dict[str, float], why: str | None) -> None:
    lacks = lacks_of(Outcome.JUDGED, None, None, stage(now, onsets), True, 50.0, set())
    assert lacks.get("cc2") == why


@pytest.mark.parametrize(
    ("outcome", "answer", "age_h", "flags", "why"),
    [
        (Outcome.JUDGED, SegmentAnswer({}, 5.0, 0), 5.0, set(), None),
        (Outcome.JUDGED, SegmentAnswer({}, 5.0, 0, too_little=("few_segments",)), 5.0, set(), "few_segments"),
        (Outcome.JUDGED, SegmentAnswer({}, 5.0, 0, too_little=("wide_spread",)), 5.0, set(), "wide_spread"),
        (Outcome.JUDGED, SegmentAnswer({}, None, 0), None, set(), "no_memory"),
        (Outcome.JUDGED, SegmentAnswer({}, 5.0, 0), 5.0, {"memory_lost"}, "memory_lost"),
        (Outcome.UNFIT, None, None, {"dark"}, "unfit"),
        (Outcome.ENGINE_FAILED, None, None, set(), "engine_failed"),
    ],
)
def test_a_probability_that_is_missing_or_rests_on_too_little_says_why(
    outcome: Outcome, answer: SegmentAnswer | None, age_h: float | None, flags: set[str], why: str | None
) -> None:
    number = None if answer is None else Blastocyst(probability=0.5, state_age_h=age_h, segments_missed=0)
    lacks = lacks_of(outcome, number, answer, None, False, None, flags)
    assert lacks.get("blastocyst") == why
    assert lacks["hpi"] == "time_zero_unknown"
    assert lacks["stage"] == ("unfit" if outcome is Outcome.UNFIT else "no_model")
