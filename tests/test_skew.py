"""The incubator's clock against its files': what is told ahead, what the running median says, what it leaves out."""

from __future__ import annotations

from datetime import datetime, timedelta

import numpy as np
import pytest

from monitor.observe import observe
from monitor.skew import AHEAD_BY_S, FRAMES, LIVE_WITHIN_S, Skew, clock_is_ahead
from monitor.vocabulary import FileSeen, FocalStack, Moment, Place, PlaneFile, PlaneImage
from tests.house import START

PLACE = Place("inc1", "D1", "1")
GRAY = np.random.default_rng(1).integers(20, 120, (32, 32)).astype(np.uint8)


def frame(captured_at: datetime | None, *finished_s: float, start: datetime = START) -> FocalStack:
    """A frame whose planes were finished so many seconds after `start`."""
    moment = Moment(captured_at) if captured_at is not None else Moment(run=7)
    ns = [int((start.timestamp() + seconds) * 1e9) for seconds in finished_s]
    images = [
        PlaneImage(PlaneFile(PLACE, moment, plane, FileSeen(f"{plane}", 1, at)), GRAY, "d")
        for plane, at in enumerate(ns)
    ]
    return FocalStack(PLACE, moment, tuple(images), ())


@pytest.mark.parametrize(
    ("ahead_s", "stated_skew_s", "flagged"),
    [
        (-3600.0, 0.0, False),
        (0.0, 0.0, False),
        (AHEAD_BY_S, 0.0, False),
        (AHEAD_BY_S + 1, 0.0, True),
        (1200.0, 0.0, True),
        (1200.0, 1200.0, False),
        (1200.0, 1100.0, True),
        (0.0, -1200.0, True),
    ],
)
def test_a_frame_captured_after_its_last_file_was_finished_is_flagged(ahead_s, stated_skew_s, flagged) -> None:
    stack = frame(START + timedelta(seconds=ahead_s), -30.0, 0.0)
    assert clock_is_ahead(stack, stated_skew_s) is flagged
    seen = observe(stack, clock_skew_s=stated_skew_s)
    assert ("clock_ahead" in seen.flags, seen.fit) == (flagged, True)


def test_a_frame_without_a_clock_or_without_a_file_is_never_ahead() -> None:
    assert not clock_is_ahead(frame(None, -9e6))
    assert not clock_is_ahead(frame(START))


def test_the_skew_is_positive_when_the_incubator_is_ahead_and_counts_from_the_first_file() -> None:
    assert Skew().see(frame(START + timedelta(minutes=20), 5.0, 0.0, 9.0), START) == 1200.0
    assert Skew().see(frame(START - timedelta(minutes=20), 5.0, 0.0, 9.0), START) == -1200.0


def test_the_median_passes_over_a_frame_that_came_late_and_follows_a_clock_put_right() -> None:
    skew = Skew()
    told = [skew.see(frame(START + timedelta(seconds=s), 0.0), START) for s in [600.0] * 10 + [-300.0] + [600.0] * 10]
    assert set(told) == {600.0}
    after = [skew.see(frame(START, 0.0), START) for _ in range(FRAMES // 2 + 1)]
    assert after[-1] == 0.0


def test_a_frame_that_is_not_live_or_has_no_clock_says_nothing() -> None:
    skew = Skew()
    assert skew.see(frame(START, -LIVE_WITHIN_S - 1), START) is None
    assert skew.see(frame(START, LIVE_WITHIN_S + 1), START) is None
    assert skew.see(frame(None, 0.0), START) is None
    assert skew.see(frame(START), START) is None
    assert skew.see(frame(START, -LIVE_WITHIN_S), START) == LIVE_WITHIN_S
