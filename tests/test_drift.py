"""How far an incubator's pictures have moved from its first frames: robust, and the same after a restart."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest

from monitor.drift import BASELINE_FRAMES, FEATURES, RECENT_FRAMES, WELLS, Drift, Seen
from tests.house import START

PLAIN = (60.0, 6.0, 1.4, 0.0)  # brightness, contrast, sharpness, focus


def frames(count: int, numbers: tuple[float, ...] = PLAIN, wells: int = 10, seed: int = 0, hour: float = 0.0, **more):
    """Frames of `wells` wells in turn, each feature scattered by a standard deviation of 4, 1, .1 and 15."""
    scatter = np.random.default_rng(seed).normal(0, (4.0, 1.0, 0.1, 15.0), (count, 4))
    for k, away in enumerate(scatter):
        at = START + timedelta(hours=hour, minutes=k // wells * 10)
        yield Seen(("D1", str(k % wells)), at, tuple(np.add(numbers, away)), **({"fit": True} | more))


def grown(*later: Seen) -> Drift:
    drift = Drift(frames(BASELINE_FRAMES))
    for seen in later:
        drift.see(seen)
    return drift


def shifted(feature: str, by: float) -> tuple[float, ...]:
    return tuple(number + by * (name == feature) for name, number in zip(FEATURES, PLAIN, strict=False))


def test_nothing_is_said_before_the_baseline_is_whole_or_without_a_recent_frame() -> None:
    drift = Drift()
    for seen in frames(BASELINE_FRAMES - 1):
        drift.see(seen)
    assert drift.figures() == {}
    drift.see(next(frames(1)))
    assert set(drift.figures()) == {"brightness", "contrast", "sharpness", "focus", "cadence"}
    assert Drift(frames(BASELINE_FRAMES)).figures() == {}


def test_pictures_as_they_were_lie_near_zero() -> None:
    figures = grown(*frames(100, seed=1, hour=20)).figures()
    assert all(abs(figure) < 0.5 for figure in figures.values())


@pytest.mark.parametrize(
    ("feature", "by", "figure"),
    [
        ("brightness", -12.0, -3.0),
        ("brightness", 20.0, 5.0),
        ("contrast", -2.0, -2.0),
        ("sharpness", -0.3, -3.0),
        ("focus", 30.0, 2.0),
    ],
)
def test_a_shift_is_told_in_standard_deviations_with_its_sign_and_for_its_feature_alone(feature, by, figure) -> None:
    figures = grown(*frames(100, shifted(feature, by), seed=1, hour=20)).figures()
    assert figures.pop(feature) == pytest.approx(figure, abs=0.5)
    assert all(abs(other) < 0.5 for other in figures.values())


def test_fewer_frames_an_hour_are_told_and_a_night_without_any_is_no_interval() -> None:
    drift = grown()
    for k in range(60):
        drift.see(
            Seen(("D1", str(k % 10)), START + timedelta(hours=20 + (k >= 30) * 30, minutes=k // 10 * 12), PLAIN, True)
        )
    assert drift.figures()["cadence"] == pytest.approx(2 / 0.5)


@pytest.mark.parametrize(("size", "figure"), [(0.62, 0.0), (0.74, 2.4), (None, None)])
def test_larger_embryos_are_told_where_they_were_looked_for(size: float | None, figure: float | None) -> None:
    drift = Drift(replace(seen, size=0.62) for seen in frames(BASELINE_FRAMES))
    for seen in frames(100, seed=1, hour=20):
        drift.see(replace(seen, size=size))
    assert drift.figures().get("embryo_size") == figure


def test_a_reference_that_was_frozen_is_not_moved_by_later_frames_or_by_what_was_pruned() -> None:
    frozen = grown().reference
    drift = Drift(reference=frozen)
    for seen in frames(BASELINE_FRAMES, shifted("brightness", 40.0), seed=1, hour=20):
        drift.see(seen)
    assert drift.reference == frozen and drift.figures()["brightness"] > 8


def test_one_odd_well_moves_nothing_and_most_wells_together_do() -> None:
    plain = list(frames(100, seed=1, hour=20))
    dark = list(frames(100, shifted("brightness", -40.0), seed=2, hour=20))
    by_well = {
        well: [pair for pair in zip(plain, dark, strict=True) if pair[0].well[1] == str(well)] for well in range(10)
    }
    for odd, moved in ((1, False), (7, True)):
        drift = grown(*(pair[well < odd] for well, pairs in by_well.items() for pair in pairs))
        assert (abs(drift.figures()["brightness"]) > 5) is moved


def test_bad_frames_among_the_first_make_no_other_baseline() -> None:
    first = list(frames(BASELINE_FRAMES))
    bad = list(frames(BASELINE_FRAMES // 10, (0.5, 0.01, 5.0, 45.0), seed=3))
    drift = Drift([*bad, *first][:BASELINE_FRAMES])
    for seen in frames(100, seed=1, hour=20):
        drift.see(seen)
    assert all(abs(figure) < 0.7 for figure in drift.figures().values())


def test_an_unfit_frame_is_no_baseline_but_counts_among_the_last() -> None:
    drift = Drift(frames(BASELINE_FRAMES, fit=False))
    for seen in frames(BASELINE_FRAMES):
        drift.see(seen)
    assert abs(drift.figures()["brightness"]) < 0.7
    for seen in frames(100, (8.0, 1.0, 1.4, 0.0), seed=1, hour=20, fit=False):
        drift.see(seen)
    assert drift.figures()["brightness"] == pytest.approx(-13, abs=1.5)


def test_an_archive_whose_frames_are_all_alike_divides_by_no_zero() -> None:
    at = START
    drift = Drift(Seen(("D1", "1"), at, PLAIN, True) for _ in range(BASELINE_FRAMES))
    drift.see(Seen(("D1", "1"), at, shifted("brightness", 2.0), True))
    assert drift.figures() == {"brightness": 2.0, "contrast": 0.0, "sharpness": 0.0, "focus": 0.0}


def test_a_well_that_was_quiet_for_a_day_has_no_say() -> None:
    drift = grown(*frames(90, shifted("brightness", -40.0), wells=9, seed=1, hour=20))
    now = START + timedelta(hours=50)
    for _ in range(RECENT_FRAMES):
        drift.see(Seen(("D2", "1"), now, PLAIN, True))
    assert abs(drift.figures()["brightness"]) < 0.3


def test_frames_without_a_clock_count_and_wells_of_the_past_are_let_go_in_the_end() -> None:
    drift = grown()
    for well in range(2 * WELLS):
        numbers = shifted("brightness", -40.0) if well < WELLS else PLAIN
        drift.see(Seen((f"D{well}", "1"), None, numbers, True))
    assert abs(drift.figures()["brightness"]) < 0.5


def test_recalled_after_a_restart_the_figures_are_the_same() -> None:
    later = list(frames(200, shifted("contrast", 1.5), seed=1, hour=20))
    kept = grown(*later)
    again = Drift(frames(BASELINE_FRAMES))
    for seen in later[-RECENT_FRAMES * 10 :]:
        again.recall(seen)
    assert again.figures() == kept.figures()
