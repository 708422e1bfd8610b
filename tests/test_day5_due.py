"""When day-5 work is due: from 114 hpi or tSB on, for a newer frame, never while a frame waits."""

from __future__ import annotations

from dataclasses import replace

import pytest

from monitor.day5_due import AGAIN_AFTER_H, Progress, Work, due, next_due
from monitor.vocabulary import PHASES

FRAME = Progress("inc1/D1/W1/x", newest_order=7.0, newest_h=90.0, hpi=90.0, furthest="t9+")
BEFORE, AFTER = PHASES[: PHASES.index("tSB")], PHASES[PHASES.index("tSB") :]


@pytest.mark.parametrize("hpi", [0.5, 68.0, 113.9])
def test_before_day_5_nothing_is_due_below_tsb(hpi: float) -> None:
    for furthest in (None, *BEFORE):
        assert due(replace(FRAME, hpi=hpi, furthest=furthest)) is Work.NOTHING


@pytest.mark.parametrize("furthest", AFTER)
def test_from_tsb_on_it_is_due_at_any_hour_and_without_a_known_hour(furthest: str) -> None:
    for hpi in (None, 76.0, 116.0, 150.0):
        assert due(replace(FRAME, hpi=hpi, furthest=furthest)) is Work.JUDGE


@pytest.mark.parametrize("hpi", [114.0, 116.0, 118.0, 140.0])
def test_on_day_5_an_embryo_below_tsb_is_told_to_be_no_blastocyst_and_one_without_history_is_judged(hpi: float) -> None:
    for furthest in BEFORE:
        assert due(replace(FRAME, hpi=hpi, furthest=furthest)) is Work.SAY_NONE
    assert due(replace(FRAME, hpi=hpi, furthest=None)) is Work.JUDGE


def test_without_hours_and_without_history_nothing_says_that_it_is_day_5() -> None:
    assert due(replace(FRAME, hpi=None, furthest=None)) is Work.NOTHING


def test_the_same_frame_is_worked_on_once_and_an_older_one_never() -> None:
    done = replace(FRAME, hpi=116.0, furthest="tB", done_order=7.0, done_h=90.0)
    assert due(done) is Work.NOTHING
    assert due(replace(done, newest_order=6.0, newest_h=95.0)) is Work.NOTHING


@pytest.mark.parametrize(("later_h", "work"), [(0.17, Work.NOTHING), (AGAIN_AFTER_H, Work.JUDGE), (9.0, Work.JUDGE)])
def test_a_newer_frame_is_due_again_after_its_time(later_h: float, work: Work) -> None:
    newer = replace(FRAME, furthest="tB", done_order=7.0, done_h=90.0, newest_order=8.0, newest_h=90.0 + later_h)
    assert due(newer) is work
    assert due(replace(newer, newest_h=None)) is Work.JUDGE  # frames without hours: each newer one


def test_no_fit_frame_no_work() -> None:
    assert due(replace(FRAME, newest_order=None, newest_h=None, hpi=116.0, furthest="tB")) is Work.NOTHING


def test_while_a_frame_waits_for_its_step_no_work_is_due() -> None:
    ready = replace(FRAME, furthest="tB")
    assert next_due([ready], frames_waiting=1) is None
    assert next_due([ready], frames_waiting=0) == (ready, Work.JUDGE)
    assert next_due([FRAME], frames_waiting=0) is None
    assert next_due([], frames_waiting=0) is None


def test_never_worked_on_comes_first_then_who_waits_longest_whatever_the_order_asked_in() -> None:
    ready = replace(FRAME, furthest="tB", newest_order=50.0, newest_h=120.0)
    late = replace(ready, embryo_id="late", done_order=1.0, done_h=110.0)
    later = replace(ready, embryo_id="later", done_order=1.0, done_h=118.0)
    new = replace(ready, embryo_id="new")
    for asked in ([late, later, new], [new, later, late], [later, new, late]):
        order = []
        while (chosen := next_due(asked, 0)) is not None:
            order.append(chosen[0].embryo_id)
            asked = [one for one in asked if one is not chosen[0]]
        assert order == ["new", "late", "later"]


def test_a_phase_that_is_none_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="inc1/D1/W1/x: `blastocyst`"):
        due(replace(FRAME, furthest="blastocyst"))
