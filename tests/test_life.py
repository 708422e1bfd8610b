"""The lives of virtual embryos: they hang together, follow the public tables, and are the same on every machine."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import replace
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.simulator.chance import Chance
from monitor.simulator.life import PHASES, Life
from monitor.simulator.outlook import known_by, outlook_auc, roc_auc
from monitor.simulator.statistics import compare, main
from monitor.simulator.tables import DIRECT_CLEAVAGE_H, LEAST_GAP_H
from monitor.simulator.truth import life_json

SEEDS = st.integers(0, 2**40)


@cache
def lives(count: int = 1000) -> tuple[Life, ...]:
    return tuple(Life.sample(seed) for seed in range(count))


def digest(seeds: range, arrest_share: float) -> str:
    rounded = json.dumps([life_json(Life.sample(seed, arrest_share)) for seed in seeds], sort_keys=True)
    return hashlib.sha256(rounded.encode()).hexdigest()[:16]


def test_the_same_seed_is_the_same_life_on_every_machine():
    """The digests were taken once; a machine or a numpy that gives others draws other embryos."""
    assert digest(range(300), 0.36) == "379a4dab8c45671c"
    assert digest(range(2**40, 2**40 + 50), 0.9) == "4c407339d7c28015"


def test_all_hours_are_rounded_to_a_millionth_so_that_last_bits_of_other_platforms_do_not_show():
    for life in lives()[:50]:
        plain = json.loads(json.dumps(life_json(life)), parse_float=lambda text: (float(text), text))
        longest = max(len(text.partition(".")[2]) for _, text in plain["onsets_h"].values())
        assert longest <= 6
        assert all(len(text.partition(".")[2]) <= 6 for _, text in plain["divisions_h"])


def test_chance_gives_uniform_and_normal_draws_and_a_negative_seed_is_refused():
    chance = Chance(1, 2)
    uniform, normal = np.array(chance.shares(4000)), np.array(chance.normals(4000))
    assert abs(uniform.mean() - 0.5) < 0.02 and 0 < uniform.min() < uniform.max() < 1
    assert abs(normal.mean()) < 0.06 and abs(normal.std() - 1) < 0.05
    assert Chance(1, 2).shares(5) != Chance(1, 3).shares(5)
    with pytest.raises(ValueError, match="seed = -1"):
        Chance(-1, 0)


@given(SEEDS)
def test_onsets_are_in_the_order_of_the_phases_and_a_frame_apart(seed: int):
    drawn = Life.sample(seed)
    phases = list(drawn.onsets_h)
    assert phases == sorted(phases, key=PHASES.index)
    assert all(after - before >= LEAST_GAP_H - 2e-6 for before, after in pairwise(drawn.onsets_h.values()))
    assert drawn.onsets_h["tPB2"] > 0


@given(SEEDS, st.floats(0, 1))
def test_the_outcome_agrees_with_the_onsets(seed: int, arrest_share: float):
    drawn = Life.sample(seed, arrest_share)
    assert drawn.reaches_blastocyst == ("tB" in drawn.onsets_h)
    assert ("tHB" in drawn.onsets_h) <= ("tEB" in drawn.onsets_h) <= ("tB" in drawn.onsets_h)
    assert math.isfinite(drawn.frozen_after_h) == (not drawn.reaches_blastocyst)
    assert all(onset_h < drawn.frozen_after_h for onset_h in drawn.onsets_h.values())
    assert drawn.hatching_h == drawn.onsets_h.get("tHB", math.inf)
    assert (drawn.icm_grade in ("A", "B", "C")) == (drawn.te_grade in ("A", "B", "C")) == drawn.reaches_blastocyst


@given(SEEDS, st.floats(0, 160))
def test_phase_and_cell_count_agree_at_any_hour(seed: int, hpi_h: float):
    drawn = Life.sample(seed)
    phase, cells = drawn.phase_at(hpi_h), drawn.cell_count_at(hpi_h)
    expected = {None: 1, "tPB2": 1, "tPNa": 1, "tPNf": 1} | {f"t{n}": n for n in range(2, 9)}
    fused = sum(start_h <= hpi_h < end_h for start_h, end_h in drawn.reverse_cleavage)
    assert cells + fused == expected[phase] if phase in expected else cells + fused >= 9


@given(SEEDS, st.floats(0, 160), st.floats(0, 20))
def test_expansion_never_falls_and_is_that_of_the_phase(seed: int, hpi_h: float, later_h: float):
    drawn = Life.sample(seed, arrest_share=0.1)
    allowed = {"tB": {1, 2, 3}, "tEB": {4}, "tHB": {5, 6}}
    assert drawn.expansion_at(hpi_h) in allowed.get(drawn.phase_at(hpi_h) or "", {0})
    assert drawn.expansion_at(hpi_h + later_h) >= drawn.expansion_at(hpi_h)


def test_direct_cleavage_is_what_its_definition_says():
    for life in lives():
        if "t3" in life.onsets_h:
            assert life.direct_cleavage == (life.onsets_h["t3"] - life.onsets_h["t2"] < DIRECT_CLEAVAGE_H)
        else:
            assert not life.direct_cleavage


def test_incidents_lie_within_the_hours_in_which_they_can_happen():
    for life in lives():
        assert 0 <= life.fragmentation_ratio <= 0.5 and 0 < life.unevenness < 0.5
        assert set(life.multinucleated) <= {0, 1} and (not life.multinucleated or "t2" in life.onsets_h)
        for start_h, end_h in life.reverse_cleavage:
            assert life.onsets_h["t2"] < start_h < end_h <= life.frozen_after_h
            middle_h = (start_h + end_h) / 2
            assert life.cell_count_at(middle_h) == replace(life, reverse_cleavage=()).cell_count_at(middle_h) - 1
        assert all(birth_h < gone_h and 0 < ratio < 1 for birth_h, gone_h, ratio in life.vacuoles)
        for start_h, depth, recovered_h in life.collapses:
            assert life.onsets_h["tEB"] < start_h < recovered_h < life.hatching_h
            assert 0 < depth < 1


def test_every_incident_happens_to_some_and_to_few_enough():
    shares = {
        name: np.mean([bool(getattr(life, name)) for life in lives()])
        for name in ("direct_cleavage", "reverse_cleavage", "multinucleated", "vacuoles", "collapses")
    }
    asked = {
        "direct_cleavage": 0.12,
        "reverse_cleavage": 0.08,
        "multinucleated": 0.23,
        "vacuoles": 0.1,
        "collapses": 0.14,
    }
    assert {name: share for name, share in shares.items() if abs(share - asked[name]) > 0.035} == {}
    assert max(life.fragmentation_ratio for life in lives()) > 0.4


def test_cells_divide_at_hours_of_their_own_and_a_skipped_count_falls_together_with_the_next():
    seen = [life for life in lives() if "tSB" in life.onsets_h]
    late = [hour for life in seen for hour in life.divisions_h if hour > life.onsets_h["t9+"]]
    assert len(set(late)) > 0.99 * len(late)
    skipping = next(life for life in seen if "t3" not in life.onsets_h)
    assert skipping.divisions_h[1] == skipping.divisions_h[2] == skipping.onsets_h["t4"]


@pytest.mark.parametrize("share", [0.0, 0.36, 1.0])
def test_the_share_of_arrest_follows_the_parameter(share: float):
    arrested = np.mean([not Life.sample(seed, share).reaches_blastocyst for seed in range(500)])
    assert abs(arrested - share) < 0.065


def test_a_share_beyond_0_and_1_is_refused():
    with pytest.raises(ValueError, match=r"arrest_share = 1\.5"):
        Life.sample(0, 1.5)


def test_arresting_embryos_are_slower_more_fragmented_and_less_even_with_overlap():
    stops = [x for x in lives() if not x.reaches_blastocyst]
    goes_on = [x for x in lives() if x.reaches_blastocyst]
    for sign in ("fragmentation_ratio", "unevenness", "direct_cleavage"):
        assert np.mean([getattr(x, sign) for x in stops]) > 1.2 * np.mean([getattr(x, sign) for x in goes_on])
    slow, usual = ([x.onsets_h["t2"] for x in group if "t2" in x.onsets_h] for group in (stops, goes_on))
    assert np.median(slow) > np.median(usual)
    assert min(slow) < np.median(usual) < max(slow)


def test_1000_embryos_lie_within_the_sampling_error_of_every_figure_of_the_public_tables():
    rows = compare(lives())
    assert len(rows) == 121
    assert [(row.what, row.table, row.virtual) for row in rows if not row.within] == []


def test_the_comparison_sees_a_population_that_is_a_tenth_slower():
    slower = [
        replace(life, onsets_h={phase: 1.1 * onset_h for phase, onset_h in life.onsets_h.items()}) for life in lives()
    ]
    outside = [row.what for row in compare(slower) if not row.within]
    assert {"t2 p50", "t3 p50", "tM p50", "tB - tSB p50"} & set(outside) >= {"t2 p50", "t3 p50"}


def test_the_comparison_sees_shares_that_are_off():
    outside = [row.what for row in compare([Life.sample(seed, 0.5) for seed in range(500)]) if not row.within]
    assert {"shows tB", "shows tEB"} <= set(outside)


def test_the_area_under_the_curve_is_that_of_pairs_with_ties_as_half():
    assert roc_auc(np.array([0.1, 0.4, 0.4, 0.8]), np.array([False, False, True, True])) == 3.5 / 4
    assert roc_auc(np.array([3.0, 2.0, 1.0]), np.array([True, False, False])) == 1.0


@given(SEEDS, st.floats(10, 140))
def test_the_outlook_knows_nothing_of_the_hours_to_come(seed: int, hpi_h: float):
    """A life whose later onsets are taken away looks the same by then."""
    whole = Life.sample(seed)
    so_far = {phase: onset_h for phase, onset_h in whole.onsets_h.items() if onset_h <= hpi_h}
    cut = replace(whole, onsets_h=so_far, frozen_after_h=hpi_h, reaches_blastocyst=False, icm_grade=None)
    assert known_by(cut, hpi_h) == known_by(whole, hpi_h)


def test_the_truth_so_far_tells_the_end_about_as_well_as_in_life_and_never_surely():
    day_3, day_4 = (outlook_auc(lives(), 24.0 * day) for day in (3, 4))
    assert 0.85 < day_3 < 0.93
    assert 0.92 < day_4 < 0.975
    assert day_3 < day_4


@pytest.mark.slow
def test_the_outlook_of_4000_embryos_is_about_90_on_day_3_and_95_on_day_4():
    assert outlook_auc(lives(4000), 72.0) == pytest.approx(0.90, abs=0.015)
    assert outlook_auc(lives(4000), 96.0) == pytest.approx(0.95, abs=0.01)


def test_the_statistics_print_every_figure_and_how_many_are_outside(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("sys.argv", ["statistics", "--embryos", "60", "--outlook", "0"])
    main()
    said = capsys.readouterr().out
    assert "tB - tSB p95" in said and "t4 -> t6" in said and "of 121 figures outside" in said
