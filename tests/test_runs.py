"""Which embryo a frame belongs to, its hour, and what becomes of it: rules as tables, no clock but the frames' own."""

import logging
import os
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from monitor.errors import ConfigError
from monitor.observe import observe
from monitor.runs import (
    Fate,
    Run,
    Visit,
    after_visit,
    begin_run,
    elapsed_since_first_h,
    fate_of,
    is_of_the_past,
    moment_flags,
    owner_of,
    why_new_run,
)
from monitor.timezero import Age, TimeZero
from monitor.vocabulary import (
    Blastocyst,
    EmbryoName,
    FocalStack,
    FrameBody,
    Moment,
    Observation,
    Outcome,
    Place,
    Quality,
    Reading,
)

T0 = datetime(2026, 1, 5, 8, 0, tzinfo=timezone.utc)
PLACE = Place("inc1", "D1", "1")
UNKNOWN = Age(None, "unknown")


@pytest.mark.parametrize(("age", "told"), [(Age(116.0, "assumed"), None), (Age(90.5, "file"), 90.5), (UNKNOWN, None)])
def test_a_model_is_told_an_hour_that_is_known_never_one_that_is_assumed(age: Age, told: float | None):
    assert age.told == told


def at(hours: float) -> Moment:
    return Moment(T0 + timedelta(hours=hours))


def run_from(first: Moment, latest: Moment | None = None, **more) -> Run:
    return Run(f"{PLACE}/{first.key}", PLACE, first, latest or first, **more)


def seen(moment: Moment, fit: bool = True) -> Observation:
    return Observation(FocalStack(PLACE, moment, (), ()), fit, ())


def reading(probability: float | None) -> Reading:
    told = None if probability is None else Blastocyst(probability=probability, state_age_h=None, segments_missed=0)
    return Reading(
        id="x",
        occurred_at=None,
        revision=1,
        supersedes=None,
        embryo=EmbryoName(incubator="inc1", dish="D1", well="1", embryo_id="e"),
        frame=FrameBody(
            captured_at=None, run=1, hpi=None, hpi_source="unknown", planes=(), missing_planes=(), sources=()
        ),
        outcome=Outcome.JUDGED,
        blastocyst=told,
        quality=Quality(fit=True, flags=()),
        engines={},
    )


# -- runs --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("moment", "age", "entry", "reason"),
    [
        (at(1), UNKNOWN, T0, None),
        (at(1), UNKNOWN, None, None),
        (at(1), UNKNOWN, T0 + timedelta(minutes=1), "insemination_changed"),
        (at(24), UNKNOWN, T0, None),
        (at(24.01), UNKNOWN, T0, "gap"),
        (at(1), Age(200.0, "config"), T0, None),
        (at(1), Age(200.1, "config"), T0, "past_200_h"),
        (at(1), Age(200.1, "file"), T0, "past_200_h"),
        (at(1), Age(300.0, "command"), T0, None),  # one hour said of all frames is no clock
        (at(1), Age(300.0, "assumed"), T0, None),
        (at(-1), Age(200.1, "config"), T0, None),  # an older frame begins nothing
    ],
)
def test_a_new_run_begins_on_a_changed_insemination_a_long_gap_or_past_200_hours(moment, age, entry, reason):
    assert why_new_run(run_from(at(0), insemination=T0), moment, age, entry) == reason


def test_without_a_known_hour_200_hours_count_from_the_first_frame():
    run = run_from(at(0), at(190))
    assert why_new_run(run, at(200), UNKNOWN, None) is None
    assert why_new_run(run, at(200.1), UNKNOWN, None) == "past_200_h"


def test_an_entry_that_comes_later_is_no_changed_one():
    assert why_new_run(run_from(at(0)), at(1), UNKNOWN, T0) is None


def test_a_time_file_that_counts_beyond_200_hours_from_the_start_makes_one_run_not_one_for_each_frame():
    run = run_from(Moment(run=1, hours=300.0))
    later = Moment(run=2, hours=300.25)
    assert why_new_run(run, later, Age(300.25, "file"), None) is None


def test_frame_numbers_alone_begin_no_run():
    assert why_new_run(run_from(Moment(run=1)), Moment(run=5000), UNKNOWN, None) is None


def test_a_run_after_a_gap_is_unconfirmed_and_says_so_in_every_frame():
    run = begin_run(PLACE, at(30), T0, "gap", run_from(at(0), insemination=T0))
    assert run.unconfirmed
    assert run.embryo_id == "inc1/D1/1/20260106T140000Z"
    assert "run_unconfirmed" in moment_flags(run, at(31), UNKNOWN, None)
    assert not begin_run(PLACE, at(0), T0, None, None).unconfirmed


@pytest.mark.parametrize("after", ["gap", "past_200_h"])
def test_a_spent_insemination_gives_unknown_hours_until_another_entry_comes(after):
    run = begin_run(PLACE, at(210), T0, after, run_from(at(0), insemination=T0))
    assert (run.spent, run.counts_from) == (True, None)
    assert TimeZero(None).age(at(210), run.counts_from) == UNKNOWN
    again = begin_run(PLACE, at(420), T0, "gap", run)
    assert again.counts_from is None
    other = T0 + timedelta(hours=400)
    assert why_new_run(run, at(211), UNKNOWN, other) == "insemination_changed"
    assert begin_run(PLACE, at(420), other, "insemination_changed", run).counts_from == other


def test_hours_between_frames_come_from_clock_or_time_file_never_from_numbers():
    assert elapsed_since_first_h(at(2.5), at(0)) == 2.5
    assert elapsed_since_first_h(Moment(run=9, hours=20.5), Moment(run=1, hours=18.5)) == 2.0
    assert elapsed_since_first_h(Moment(run=9), Moment(run=1)) is None
    assert elapsed_since_first_h(Moment(run=9, hours=20.5), Moment(run=1)) is None


# -- frames numbered within a slide, and dated by their files ----------------------------------------------------------

OLD, NEW = "D2025.12.01_S1_I1", "D2026.01.05_S2_I1"


def numbered(run: int, hours: float, slide: str = NEW) -> Moment:
    return Moment(run=run, slide=slide, file_at=T0 + timedelta(hours=hours))


@pytest.mark.parametrize("hours", [-1000, 25, 201, 80_000])
def test_no_time_of_a_file_begins_a_run(hours):
    assert why_new_run(run_from(numbered(1, 0)), numbered(2, hours), Age(hours, "config"), T0) is None


def test_another_slide_or_a_changed_entry_begins_a_run():
    run = run_from(numbered(1, 0, OLD), insemination=T0)
    assert why_new_run(run, numbered(1, 1), UNKNOWN, T0) == "slide_changed"
    assert why_new_run(run, numbered(2, 1, OLD), UNKNOWN, T0 + timedelta(hours=1)) == "insemination_changed"


def test_a_frame_goes_to_the_run_of_its_slide_also_when_that_has_ended():
    ended = run_from(numbered(1, 0, OLD), ended="slide_changed")
    still_open = run_from(numbered(1, 100))
    runs = [ended, still_open]
    assert owner_of(runs, numbered(7, 500, OLD), lambda run: UNKNOWN, None) == (ended, None)
    assert owner_of(runs, numbered(2, 0), lambda run: UNKNOWN, None) == (still_open, None)


@pytest.mark.parametrize(
    ("moment", "late"),
    [
        (at(5), True),
        (at(10), True),
        (at(11), True),
        (at(12), False),  # the end was recorded then
        (at(-1), True),
        (at(-25), False),  # a clock that was set back says nothing of the former patient
        (Moment(run=1), False),  # numbers begin anew with each embryo
        (Moment(), False),
    ],
)
def test_a_frame_from_before_the_end_that_somebody_said_begins_no_run(moment: Moment, late: bool):
    ended = run_from(at(0), at(10), ended="command")
    owner = owner_of([ended], moment, lambda run: UNKNOWN, None, lambda run: T0 + timedelta(hours=12))
    assert owner == ((ended if late else None), None)
    for why in ("gap", "expired"):
        assert owner_of([run_from(at(0), at(10), ended=why)], moment, lambda run: UNKNOWN, None) == (None, None)


def test_numbered_frames_after_the_end_begin_the_next_embryo():
    ended = run_from(Moment(run=1), Moment(run=500), ended="command")
    assert owner_of([ended], Moment(run=1), lambda run: UNKNOWN, None, lambda run: T0) == (None, None)


def test_a_slide_from_before_the_one_in_the_well_is_of_the_past_and_a_later_one_is_not():
    assert is_of_the_past(numbered(1, 0, OLD), run_from(numbered(1, 0)))
    assert not is_of_the_past(numbered(1, 0), run_from(numbered(1, 0, OLD)))
    assert not is_of_the_past(at(0), run_from(numbered(1, 0)))


def test_files_tell_hours_within_200_of_one_another_and_say_that_they_do():
    first = numbered(1, 0)
    assert elapsed_since_first_h(numbered(2, 6), first) == 6
    assert elapsed_since_first_h(numbered(2, 201), first) is None
    run = run_from(first)
    assert moment_flags(run, numbered(2, 6), UNKNOWN, None) == {"clock_from_file"}
    assert moment_flags(run, numbered(2, 201), UNKNOWN, None) == {"clock_from_file", "clock_unknown"}
    assert moment_flags(run, numbered(3, 6), UNKNOWN, 60) == {"clock_from_file", "after_gap"}


def test_a_file_that_is_younger_than_its_entry_by_over_200_hours_gives_no_hours():
    begun = begin_run(PLACE, numbered(1, 201), T0, None, None)
    assert (begun.spent, begun.embryo_id) == (True, f"{PLACE}/run1")
    assert not begin_run(PLACE, numbered(1, 100), T0, None, None).spent


# -- flags -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("latest", "moment", "cadence_min", "flagged"),
    [
        (at(0), at(25 / 60), 10.0, False),
        (at(0), at(26 / 60), 10.0, True),
        (at(0), at(3), None, False),
        (at(0), at(-3), 10.0, False),
        (Moment(run=4), Moment(run=5), 10.0, False),
        (Moment(run=4), Moment(run=6), None, True),
        (Moment(run=4, hours=1.0), Moment(run=5, hours=4.0), 10.0, True),
    ],
)
def test_a_gap_is_visible_by_the_cadence_or_by_a_skipped_number(latest, moment, cadence_min, flagged):
    flags = moment_flags(run_from(latest), moment, UNKNOWN, cadence_min)
    assert ("after_gap" in flags) is flagged


def test_a_frame_whose_hours_since_the_first_nobody_knows_is_flagged():
    run = run_from(Moment(run=1))
    assert "clock_unknown" in moment_flags(run, Moment(run=2), UNKNOWN, None)
    assert moment_flags(run, Moment(run=1), UNKNOWN, None) == set()
    assert moment_flags(run_from(at(0)), at(1), UNKNOWN, None) == set()


def test_a_frame_before_its_insemination_is_flagged():
    assert moment_flags(run_from(at(0)), at(0), Age(-0.5, "config"), None) == {"before_insemination"}


# -- fates -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prior", "changed", "fit", "stepped", "fate", "out_of_order"),
    [
        (None, True, True, None, Fate.STEP, False),
        (None, True, True, at(0), Fate.STEP, False),
        (None, True, False, at(0), Fate.KEEP_ONLY, False),
        (None, True, True, at(2), Fate.KEEP_ONLY, True),
        (None, True, False, at(2), Fate.KEEP_ONLY, True),
        (reading(0.5), False, True, at(1), Fate.NOTHING_NEW, False),  # touched
        (reading(None), False, True, at(1), Fate.NOTHING_NEW, False),
        (reading(0.5), True, True, at(1), Fate.REVISE, False),
        (reading(0.5), True, True, at(2), Fate.REVISE, False),  # a late plane of an older frame
        (reading(0.5), True, False, at(1), Fate.REVISE, False),
        (reading(None), True, True, at(0), Fate.STEP, False),  # it was lacking and is whole now
        (reading(None), True, True, at(2), Fate.KEEP_ONLY, True),  # but newer ones were judged since
        (reading(None), True, False, at(0), Fate.KEEP_ONLY, False),
    ],
)
def test_the_fate_of_a_frame(prior, changed, fit, stepped, fate, out_of_order):
    run = run_from(at(-1), stepped_order=stepped and stepped.order)
    assert fate_of(seen(at(1), fit), run, prior, changed) == (fate, out_of_order)


def visit(moment: Moment, run: Run) -> Visit:
    return Visit(seen(moment), run, None, None, Fate.STEP, False, Age(None, "unknown"), 0.0, ())


def test_a_run_remembers_its_latest_frame_and_the_last_one_judged():
    run = run_from(at(0))
    judged = after_visit(visit(at(1), run), judged=True)
    assert (judged.latest, judged.stepped_order) == (at(1), at(1).order)
    kept = after_visit(visit(at(2), judged), judged=False)
    assert (kept.latest, kept.stepped_order) == (at(2), at(1).order)
    late = after_visit(visit(at(0.5), kept), judged=False)
    assert (late.latest, late.stepped_order, late.first) == (at(2), at(1).order, at(0))


def test_a_stack_of_no_picture_is_never_stepped():
    observation = observe(FocalStack(PLACE, at(0), (), (0,), lacking=True))
    assert fate_of(observation, run_from(at(0)), None, True) == (Fate.KEEP_ONLY, False)


# -- time zero ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("moment", "entry", "stated", "assumed", "age"),
    [
        (Moment(run=1, hours=18.5), T0, 30.0, 116.0, Age(18.5, "file")),
        (at(20), T0, 30.0, 116.0, Age(20.0, "config")),
        (at(20), None, 30.0, 116.0, Age(30.0, "command")),
        (Moment(), T0, 30.0, 116.0, Age(30.0, "command")),
        (Moment(), T0, None, 116.0, Age(116.0, "assumed")),
        (at(20), None, None, None, UNKNOWN),
        (Moment(run=7), T0, None, None, UNKNOWN),
    ],
)
def test_the_hour_says_where_it_comes_from(moment, entry, stated, assumed, age):
    assert TimeZero(None, 0.0, stated, assumed).age(moment, entry) == age


def test_a_clock_that_is_ahead_is_set_right():
    assert TimeZero(None, clock_skew_s=1200).age(at(10), T0) == Age(round(10 - 1 / 3, 4), "config")
    assert TimeZero(None, clock_skew_s=-1200).age(at(10), T0) == Age(round(10 + 1 / 3, 4), "config")


def test_one_time_holds_for_all_wells():
    zero = TimeZero(T0.astimezone(timezone(timedelta(hours=2))))
    assert zero.of(PLACE) == zero.of(Place("inc1", "D7", "12")) == T0
    assert TimeZero(None).of(PLACE) is None


class Table:
    """A CSV on disk whose time of change moves with every writing."""

    def __init__(self, path: Path) -> None:
        self.path, self._written_at = path, 1_700_000_000
        self.write(f"D1,1,{T0.isoformat()}\n")

    def write(self, rows: str, first: str = "dish,well,time\n") -> None:
        self.path.write_text(first + rows)
        self._written_at += 1
        os.utime(self.path, (self._written_at, self._written_at))


@pytest.fixture
def table(tmp_path: Path) -> Table:
    return Table(tmp_path / "insemination.csv")


def test_a_csv_says_the_time_of_each_well_and_is_read_again_when_it_changes(table):
    zero = TimeZero(table.path)
    assert (zero.of(PLACE), zero.of(Place("inc1", "D2", "1"))) == (T0, None)
    later = T0 + timedelta(hours=1)
    table.write(f"D1,1,{T0.isoformat()}\nD2,1,{later.isoformat()}\n")
    assert zero.of(Place("inc1", "D2", "1")) is None
    zero.refresh()
    assert zero.of(Place("inc1", "D2", "1")) == later


@pytest.mark.parametrize("damage", ["", "dish,well,time\nD1,1,soon\n", "dish,well,time\nD1,1,0001-01-01T00:00:00+14\n"])
def test_a_csv_that_is_damaged_keeps_its_last_good_content_and_says_so_once(table, caplog, damage):
    zero = TimeZero(table.path)
    table.write(damage, first="")
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            zero.refresh()
    assert zero.of(PLACE) == T0
    assert len(caplog.records) == 1
    table.write(f"D1,1,{(T0 + timedelta(hours=1)).isoformat()}\n")
    zero.refresh()
    assert zero.of(PLACE) == T0 + timedelta(hours=1)


def test_a_csv_that_is_in_another_encoding_for_a_while_keeps_its_last_good_content(table):
    zero = TimeZero(table.path)
    table.path.write_bytes(b"dish,well,time\nD\xe9,1,x\n")
    os.utime(table.path, (1, 1))
    zero.refresh()
    assert zero.of(PLACE) == T0


def test_a_csv_that_is_away_for_a_while_keeps_its_last_good_content_and_is_read_when_it_is_back(table, monkeypatch):
    zero = TimeZero(table.path)
    away = table.path.rename(table.path.with_name("away"))
    zero.refresh()
    assert zero.of(PLACE) == T0
    away.rename(table.path)
    table.write(f"D1,1,{(T0 + timedelta(hours=1)).isoformat()}\n")
    opened = Path.open
    with monkeypatch.context() as patch:  # its time of change can be seen, its content not yet

        def unreadable(self, *rest, **more):
            if self == table.path:
                raise OSError(5, "Input/output error")
            return opened(self, *rest, **more)

        patch.setattr(Path, "open", unreadable)
        zero.refresh()
    zero.refresh()
    assert zero.of(PLACE) == T0 + timedelta(hours=1)


def test_a_csv_that_is_not_there_at_the_start_is_a_configuration_error(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        TimeZero(tmp_path / "none.csv")
