"""What the body of a virtual embryo keeps to: fragments of the stated volume, cells apart from the cavity."""

from dataclasses import replace

import numpy as np
import pytest

from monitor.simulator import Life, VirtualEmbryo
from monitor.simulator.blastocyst import around_cavity
from monitor.simulator.body import Body
from monitor.simulator.cleavage import Fragments, balls


@pytest.mark.parametrize("ratio", [0.05, 0.15, 0.3])
def test_fragments_hold_about_the_share_of_the_volume_that_the_truth_states(ratio: float) -> None:
    zygote_um = 52.0
    held = []
    for seed in range(40):
        life = replace(Life.sample(seed), fragmentation_ratio=ratio, frozen_after_h=float("inf"))
        fragments = Fragments(np.random.default_rng(seed), life, zygote_um)
        rows = fragments.at(1e4, 60.0, np.zeros((1, 3)), np.array([20.0]), 0.0)
        held.append(float((rows[:, 3] ** 3).sum() / zygote_um**3))
    assert 0.7 * ratio < np.median(held) < 1.35 * ratio + 0.01


def test_cells_make_way_for_the_cavity_and_stay_within_the_wall() -> None:
    rng = np.random.default_rng(4)
    lobes = balls(rng.normal(0.0, 18.0, (20, 3)), np.full(20, 17.0), 9.0, 0.7, 1.0)
    cavity = np.array([[20.0, 0.0, 0.0, 30.0, 1.0]])
    around_cavity(lobes, cavity, 58.0)
    from_cavity = np.linalg.norm(lobes[:, :3] - cavity[0, :3], axis=1)
    assert (from_cavity > 30.0 - 1e-6).all()
    assert (np.linalg.norm(lobes[:, :3], axis=1) < 58.0).all()
    assert (lobes[:, 4] <= 17.0 + 1e-6).all()


def test_a_growing_cavity_lies_within_the_body_and_gets_larger() -> None:
    seed = next(s for s in range(200) if np.isfinite(Life.sample(s).onsets_h.get("tEB", np.inf)))
    life = replace(Life.sample(seed), collapses=())
    body = Body(life)
    start_h, end_h = life.onsets_h["tSB"], life.onsets_h["tEB"]
    sizes = []
    for hour in np.linspace(start_h + 0.5 * (life.onsets_h["tB"] - start_h), end_h - 0.5, 6):
        pose = body.at(float(hour))
        assert len(pose.cavity)
        assert (np.linalg.norm(pose.cavity[:, :3], axis=1) + pose.cavity[:, 3] < pose.radius_um).all()
        sizes.append(pose.cavity[0, 3])
    assert sizes == sorted(sizes)


def test_while_the_cavity_grows_only_its_inside_is_marked_as_hollow() -> None:
    seed = next(s for s in range(200) if "tB" in Life.sample(s).onsets_h)
    embryo = VirtualEmbryo(seed)
    onsets_h = embryo.life.onsets_h
    early, late = (
        embryo.masks(onsets_h["tSB"] + share * (onsets_h["tB"] - onsets_h["tSB"]), 250)["blastocoel"].sum()
        for share in (0.45, 1.0)
    )
    assert 0 < early < late


def test_the_zona_is_rounder_than_the_cells_within_it() -> None:
    masks = VirtualEmbryo(3).masks(10.0, 250)["ZP"]
    rows, columns = masks.nonzero()
    away = np.hypot(rows - rows.mean(), columns - columns.mean())
    outer = [away[np.abs(np.arctan2(rows - rows.mean(), columns - columns.mean()) - turn) < 0.1].max()
             for turn in np.linspace(-3.0, 3.0, 24)]  # fmt: skip
    assert np.std(outer) < 0.02 * np.mean(outer)


def test_an_embryo_lives_the_life_that_it_is_given() -> None:
    life = replace(Life.sample(5), fragmentation_ratio=0.4)
    assert VirtualEmbryo(5, life=life).life is life
    given, own = VirtualEmbryo(5, life=life).stack(60.0, 112), VirtualEmbryo(5).stack(60.0, 112)
    assert not np.array_equal(given, own)
