"""Decoding: constant memory, a path that never steps back, onsets with their uncertainty, steps back that are seen."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.contract import EngineError
from engines.decoding import Decoded, Decoder, DecodingRules, Track
from monitor.vocabulary import PHASES

RULES = DecodingRules(PHASES)
THREE = DecodingRules(("a", "b", "c"), evidence=1.0, counts=(0, 2))
DWELT = DecodingRules(
    ("a", "b", "c"), evidence=1.0, counts=(0, 2), dwell_h=(5.0, 0.5, 9.0), passed_over=(0.0, 0.4, 0.0)
)


def sure_of(phase: int, share: float = 0.9, size: int = len(PHASES)) -> np.ndarray:
    p = np.full(size, (1 - share) / (size - 1))
    p[phase] = share
    return p


def run(rules: DecodingRules, frames: list[np.ndarray], step_h: float = 0.25) -> tuple[Track, list[Decoded]]:
    decoder, said = Decoder(rules), []
    track = decoder.start()
    for number, p in enumerate(frames):
        track, one = decoder.advance(track, p, number * step_h)
        said.append(one)
    return track, said


def all_paths(rules: DecodingRules, frames: list[np.ndarray]) -> list[tuple[float, tuple[int, ...]]]:
    """Every path that never steps back, with its log weight: what the decoder must agree with."""
    size, found = len(rules.classes), []
    transitions = rules.log_transitions(1.0)
    for path in itertools.product(range(size), repeat=len(frames)):
        if all(a <= b for a, b in itertools.pairwise(path)):
            weight = sum(rules.evidence * np.log(max(p[k], 1e-4)) for p, k in zip(frames, path, strict=True))
            found.append((weight + sum(transitions[a, b] for a, b in itertools.pairwise(path)), path))
    return found


def posteriors(seed: int, frames: int = 6, size: int = 3) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).dirichlet(np.full(size, 0.7), frames))


@pytest.mark.parametrize("rules", [THREE, DWELT], ids=["even", "dwelt"])
@given(seed=st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_the_revised_path_is_the_likeliest_of_all_that_never_step_back(seed: int, rules: DecodingRules) -> None:
    frames = posteriors(seed)
    _, said = run(rules, frames, step_h=1.0)
    _, path = max(all_paths(rules, frames))
    onsets = {k: float(path.index(k)) for k in set(path) if path.index(k) > 0}
    assert (said[-1].began, said[-1].revised) == (path[0], path[-1])
    assert said[-1].onsets_h == onsets


@pytest.mark.parametrize("rules", [THREE, DWELT], ids=["even", "dwelt"])
@given(seed=st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_an_onsets_uncertainty_is_the_one_over_all_paths(seed: int, rules: DecodingRules) -> None:
    frames = posteriors(seed)
    _, said = run(rules, frames, step_h=1.0)
    weighed = all_paths(rules, frames)
    most = max(weight for weight, _ in weighed)
    for phase, told_h in said[-1].onsets_h.items():
        own = [(np.exp(weight - most), path.index(phase)) for weight, path in weighed if phase in path]
        own = [(weight, at) for weight, at in own if at > 0]
        total = sum(weight for weight, _ in own)
        variance = sum(weight * ((at - told_h) ** 2 + 1 / 12) for weight, at in own) / total
        assert said[-1].onsets_sd_h[phase] == pytest.approx(np.sqrt(variance), rel=1e-6)


def test_hours_spent_and_phases_passed_over_make_a_step_on_as_likely_as_they_say() -> None:
    """Whatever the interval between two frames; and a phase that few are seen in is cheap to leave out."""
    odds = np.exp(DWELT.log_transitions(1.0))
    assert np.allclose(odds.sum(1), 1.0, atol=1e-3)
    assert odds[0, 0] == pytest.approx(np.exp(-1 / 5)) and odds[1, 1] == pytest.approx(np.exp(-1 / 0.5))
    assert odds[0, 2] / odds[0, 1] == pytest.approx(0.4 / 0.6, rel=1e-3)
    assert np.all(odds[np.tril_indices(3, -1)] == 0)
    four = np.linalg.matrix_power(np.exp(DWELT.log_transitions(0.25)), 4)
    assert four[0, 0] == pytest.approx(odds[0, 0])
    assert np.isfinite(DWELT.log_transitions(0.0)[0, 1])


def test_rules_that_do_not_fit_the_phases_are_refused() -> None:
    with pytest.raises(EngineError, match="3 values each"):
        DecodingRules(("a", "b", "c"), dwell_h=(1.0, 2.0))
    with pytest.raises(EngineError, match="above 0"):
        DecodingRules(("a", "b", "c"), dwell_h=(1.0, 0.0, 2.0), passed_over=(0.0, 0.0, 0.0))


def test_a_sharp_onset_is_certain_to_the_frame_and_a_vague_one_is_not() -> None:
    sharp = [sure_of(2, 0.99)] * 40 + [sure_of(3, 0.99)] * 40
    vague = [sure_of(2, 0.9)] * 30 + [np.where(np.isin(np.arange(16), (2, 3)), 0.45, 0.1 / 14)] * 20
    vague += [sure_of(3, 0.9)] * 30
    (clear,), (unclear,) = ([run(RULES, frames)[1][-1].onsets_sd_h[3]] for frames in (sharp, vague))
    assert run(RULES, sharp)[1][-1].onsets_h == {3: 10.0}
    assert clear < 0.3 < 1.0 < unclear


def test_the_phase_of_the_first_frame_has_no_onset() -> None:
    """It began before anybody looked."""
    _, said = run(RULES, [sure_of(6)] * 10)
    assert said[-1].revised == 6
    assert said[-1].onsets_h == {}


def test_one_odd_frame_moves_neither_label() -> None:
    doubtful = 0.6 * sure_of(4) + 0.4 * sure_of(3)
    _, said = run(RULES, [sure_of(3)] * 10 + [0.5 * doubtful + 0.5 * sure_of(3, 0.5)] + [sure_of(3)] * 5)
    assert {one.live for one in said} == {3}
    assert said[-1].revised == 3


def test_the_live_label_follows_a_clear_lead_at_once_and_a_narrow_one_after_some_frames() -> None:
    narrow = np.zeros(16)
    narrow[[3, 4]] = 0.45, 0.55
    _, said = run(RULES, [sure_of(3)] * 5 + [narrow] * 4 + [sure_of(5)])
    assert [one.live for one in said[5:]] == [3, 3, 4, 4, 5]


def test_the_revised_label_goes_back_on_an_error_that_the_live_one_followed() -> None:
    _, said = run(RULES, [sure_of(3)] * 20 + [sure_of(7)] * 3 + [sure_of(3)] * 20)
    assert 7 in {one.live for one in said}
    assert said[-1].revised == 3
    assert said[-1].onsets_h == {}


def test_reverse_cleavage_is_seen_in_the_raw_posterior_and_never_decoded_away() -> None:
    two, four = PHASES.index("t2"), PHASES.index("t4")
    _, said = run(RULES, [sure_of(two)] * 20 + [sure_of(four)] * 20 + [sure_of(two)] * 8 + [sure_of(four)] * 10)
    seen = [number for number, one in enumerate(said) if one.fallen_back]
    assert seen == [43, 44, 45, 46, 47]
    assert all(one.revised == four for one in said[30:])


def test_a_growing_embryo_is_never_said_to_step_back() -> None:
    frames = [sure_of(phase, 0.8) for phase in range(16) for _ in range(12)]
    _, said = run(RULES, frames)
    assert not any(one.fallen_back for one in said)
    assert [one.revised for one in said][-1] == 15


def test_what_is_kept_does_not_grow_with_the_frames_seen() -> None:
    early, _ = run(RULES, [sure_of(0)] * 2)
    late, _ = run(RULES, [sure_of(phase) for phase in range(16) for _ in range(60)])
    assert {n: a.nbytes for n, a in early.arrays().items()} == {n: a.nbytes for n, a in late.arrays().items()}
    assert all(np.isfinite(array).all() for array in (late.reached, late.first, late.second))


def test_a_restored_track_goes_on_as_if_nothing_had_happened() -> None:
    frames = list(np.random.default_rng(1).dirichlet(np.full(16, 0.3), 40))
    decoder = Decoder(RULES)
    _, straight = run(RULES, frames)
    track, _ = run(RULES, frames[:17])
    track = decoder.restore({name: array.copy() for name, array in track.arrays().items()})
    for number, p in enumerate(frames[17:], start=17):
        track, said = decoder.advance(track, p, number * 0.25)
        assert said == straight[number]


def test_a_frame_of_unknown_hour_counts_at_the_last_one() -> None:
    decoder = Decoder(RULES)
    track = decoder.start()
    for hour_h in (3.0, 4.0, 5.0):
        track, _ = decoder.advance(track, sure_of(2), hour_h)
    for _ in range(12):
        track, said = decoder.advance(track, sure_of(3), None)
    assert said.onsets_h == {3: 5.0}


@pytest.mark.parametrize(
    ("p", "hour_h", "fault"),
    [
        (np.full(16, np.nan), 6.0, "no probabilities"),
        (np.full(16, 0.5), 6.0, "no probabilities"),
        (sure_of(1)[:-1], 6.0, "no probabilities"),
        (sure_of(1), 4.0, "comes before"),
        (sure_of(1), float("nan"), "comes before"),
    ],
)
def test_what_is_no_posterior_or_no_hour_is_refused(p: np.ndarray, hour_h: float, fault: str) -> None:
    decoder = Decoder(RULES)
    track, _ = decoder.advance(decoder.start(), sure_of(2), 5.0)
    with pytest.raises(EngineError, match=fault):
        decoder.advance(track, p, hour_h)


def test_a_track_of_another_number_of_phases_is_refused() -> None:
    with pytest.raises(EngineError, match=r"last is not|best is not"):
        Decoder(RULES).restore(Decoder(THREE).start().arrays())
