"""Drawn blastocysts of day 5: which moments, what is kept on disk, what of it a network is shown, how folds are cut."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from engines.blastocyst import sharpest_plane
from engines.day5 import Part
from monitor.simulator import Life, VirtualEmbryo
from training.datasets.virtual import TEST_SEEDS_FROM, VALIDATION_SEEDS_FROM
from training.day5 import blastocysts
from training.day5.blastocysts import Blastocyst, Moment, Settings
from training.day5.folds import five_by_two, lockhart_folds
from training.day5.look import CHANNELS_UM, LOOKS, Varied, one_or_three, sharpest, shown, varied

TINY = Settings(frame_px=160, side_px=48, planes_um=(-30, 0, 30))
PLANES_UM = (-45, -30, -15, 0, 15, 30, 45)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Blastocyst:
    """An expanded blastocyst, small."""
    moment = next(m for m in blastocysts.training_moments(24) if m.expansion == 4)
    return Blastocyst(moment, TINY, tmp_path_factory.mktemp("cache"))


# --- moments


def test_every_expansion_is_there_alike_and_an_eighth_is_no_blastocyst() -> None:
    chosen = blastocysts.training_moments(48)
    counts = Counter(moment.expansion for moment in chosen)
    assert counts == {0: 6, **dict.fromkeys(range(1, 7), 7)}
    assert len({moment.seed for moment in chosen}) == 48


def test_a_moment_says_the_expansion_that_its_embryo_has_then_within_day_5() -> None:
    for moment in blastocysts.training_moments(32):
        assert blastocysts.FIRST_H <= moment.hpi_h <= blastocysts.LAST_H
        assert Life.sample(moment.seed).expansion_at(moment.hpi_h) == moment.expansion


def test_a_cavity_that_is_no_blastocyst_yet_is_left_out() -> None:
    phases = {Life.sample(m.seed).phase_at(m.hpi_h) for m in blastocysts.training_moments(64) if m.expansion == 0}
    assert phases and "tSB" not in phases


def test_seeds_to_train_to_validate_and_to_test_never_meet() -> None:
    train, validate = blastocysts.training_moments(40), blastocysts.validation_moments(20)
    test = blastocysts.test_moments(40)
    assert max(moment.seed for moment in train) < VALIDATION_SEEDS_FROM <= min(moment.seed for moment in validate)
    assert max(moment.seed for moment in validate) < TEST_SEEDS_FROM <= min(moment.seed for moment in test)
    assert max(moment.seed for moment in test) < TEST_SEEDS_FROM + blastocysts.TEST_EMBRYOS


def test_the_same_question_gives_the_same_moments() -> None:
    assert blastocysts.test_moments(30) == blastocysts.test_moments(30)


# --- the cache


def test_what_is_kept_is_what_the_simulator_draws_and_marks(one: Blastocyst) -> None:
    stack = VirtualEmbryo(one.moment.seed).stack(one.moment.hpi_h, TINY.frame_px, TINY.planes_um)
    found = blastocysts.find(stack, TINY.planes_um, TINY.side_px)
    square = found.square
    assert (one.found.square, one.found.outline, one.found.confidence) == (square, found.outline, found.confidence)
    assert found.confidence > 0.3
    np.testing.assert_array_equal(one.planes[1], square.cut(stack[1]))
    drawn = VirtualEmbryo(one.moment.seed).masks(one.moment.hpi_h, TINY.frame_px)["ICM"].astype(np.uint8)
    np.testing.assert_array_equal(one.labels == Part.ICM, square.cut_labels(drawn) > 0)
    assert set(np.unique(one.labels)) == set(Part)
    assert one.um_per_px == pytest.approx(square.step_px * 280 / TINY.frame_px)


def test_what_is_there_is_not_drawn_again_and_what_was_cut_short_is(tmp_path: Path, one: Blastocyst) -> None:
    again = Blastocyst(one.moment, TINY, tmp_path)
    first = again.planes.copy()
    path = next(tmp_path.rglob("*.planes.npy"))
    path.write_bytes(path.read_bytes()[:-1] + bytes([first.flat[-1] ^ 1]))
    assert Blastocyst(one.moment, TINY, tmp_path).planes.flat[-1] == first.flat[-1] ^ 1
    path.unlink()  # as where the power went between labels and planes
    np.testing.assert_array_equal(Blastocyst(one.moment, TINY, tmp_path).planes, first)


def test_another_size_gets_another_folder(tmp_path: Path) -> None:
    assert TINY.folder(tmp_path) != Settings(frame_px=161, side_px=48, planes_um=TINY.planes_um).folder(tmp_path)


def test_a_moment_without_a_blastocyst_carries_no_grade(tmp_path: Path) -> None:
    none = next(m for m in blastocysts.training_moments(24) if m.expansion == 0)
    early = next(m for m in blastocysts.training_moments(24) if m.expansion == 1)
    assert str(Blastocyst(none, TINY, tmp_path).gardner) == "---"
    assert str(Blastocyst(early, TINY, tmp_path).gardner) == "1--"


def test_counts_are_told_by_class() -> None:
    told = blastocysts.told([Moment(m.seed, m.hpi_h, m.expansion) for m in blastocysts.training_moments(24)])
    assert sum(told["expansion"].values()) == 24
    graded = sum(count for name, count in told["expansion"].items() if name in "3456")
    assert sum(told["icm"].values()) == sum(told["te"].values()) == graded


# --- looks


def noise(size: int = 64, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (size, size)).astype(np.uint8)


def test_the_best_plane_of_a_drawn_one_is_the_sharpest_within_its_outline(one: Blastocyst) -> None:
    """Told from the crop it is the plane that the monitor tells from the frame."""
    stack = VirtualEmbryo(one.moment.seed).stack(one.moment.hpi_h, TINY.frame_px, TINY.planes_um)
    assert one.best_plane == sharpest_plane(stack, one.found)


def test_the_best_plane_is_shown_three_times() -> None:
    planes = np.stack([noise(seed=i) for i in range(7)])
    np.testing.assert_array_equal(shown(planes, PLANES_UM, "best", 4), np.repeat(planes[4][None], 3, 0))


def test_the_sharpest_fusion_takes_each_side_from_the_plane_that_is_sharp_there() -> None:
    blurred = cv2.GaussianBlur(noise(), (0, 0), 4)
    left, right = blurred.copy(), blurred.copy()
    left[:, :32], right[:, 32:] = noise()[:, :32], noise()[:, 32:]
    off = np.abs(sharpest(np.stack([left, right])).astype(int) - noise().astype(int))
    assert off[:, :20].mean() < 8 and off[:, 44:].mean() < 8
    assert np.abs(blurred.astype(int) - noise().astype(int)).mean() > 50


def test_three_planes_are_the_middle_and_its_neighbours_two_steps_off() -> None:
    planes = np.stack([np.full((8, 8), um + 100, np.uint8) for um in PLANES_UM])
    assert shown(planes, PLANES_UM, "three")[:, 0, 0].tolist() == [um + 100 for um in CHANNELS_UM]
    assert shown(planes[3:4], (0,), "three")[:, 0, 0].tolist() == [100] * 3
    assert shown(planes, PLANES_UM, "mean")[:, 0, 0].tolist() == [100] * 3


def test_an_unknown_look_is_refused_and_the_known_ones_are_named() -> None:
    with pytest.raises(ValueError, match="three, best, mean, sharpest"):
        shown(np.zeros((7, 8, 8), np.uint8), PLANES_UM, "blurred")
    assert {shown(np.zeros((7, 8, 8), np.uint8), PLANES_UM, look).shape for look in LOOKS} == {(3, 8, 8)}


def test_training_sees_three_planes_or_one_of_them_thrice() -> None:
    planes = np.stack([np.full((4, 4), i, np.uint8) for i in range(7)])
    rng = np.random.default_rng(0)
    seen = {tuple(one_or_three(planes, PLANES_UM, rng)[:, 0, 0].tolist()) for _ in range(60)}
    assert (1, 3, 5) in seen
    assert seen - {(1, 3, 5)} == {(i, i, i) for i in range(1, 6)}


def test_labels_move_with_their_picture() -> None:
    labels = np.zeros((96, 96), np.uint8)
    cv2.circle(labels, (40, 52), 30, int(Part.ZP), -1)
    cv2.circle(labels, (40, 52), 22, int(Part.BLASTOCOEL), -1)
    cv2.circle(labels, (30, 44), 9, int(Part.ICM), -1)
    channels = np.repeat((labels * 50)[None], 3, 0)
    for seed in range(8):
        how = Varied(light=False, shear=0.1, quarter_turns=True)
        image, parts = varied(channels, labels, np.random.default_rng(seed), how, 64)
        assert image.shape == (3, 64, 64) and parts.shape == (64, 64)
        agree = np.abs(image[0] * 255 - parts * 50.0) < 20
        assert agree.mean() > 0.9


def test_light_changes_the_picture_and_never_leaves_its_range() -> None:
    channels = np.repeat(noise()[None], 3, 0)
    pictures = [
        varied(channels, noise() % 5, np.random.default_rng(seed), Varied(scale=(1, 1)), 64)[0] for seed in range(6)
    ]
    assert all(picture.min() >= 0 and picture.max() <= 1 for picture in pictures)
    assert np.std([picture.mean() for picture in pictures]) > 0.01


# --- folds


def test_lockharts_folds_test_no_picture_twice_and_hold_as_many_of_the_rarest_class() -> None:
    labels = ["A"] * 72 + ["B"] * 27 + ["C"] * 7
    folds = lockhart_folds(labels)
    assert len(folds) == 3
    tested = [i for fold in folds for i in fold.test]
    assert len(tested) == len(set(tested))
    for fold in folds:
        assert sorted((*fold.train, *fold.validation, *fold.test)) == list(range(106))
        assert Counter(labels[i] for i in fold.test) == Counter(labels[i] for i in fold.validation)
        assert Counter(labels[i] for i in fold.test) == {"A": 11, "B": 4, "C": 1}


def test_a_class_too_small_for_three_folds_is_named() -> None:
    with pytest.raises(ValueError, match="'C' has 2 pictures"):
        lockhart_folds(["A"] * 50 + ["C"] * 2)


def test_five_times_two_halves_each_tested_once_and_classes_split_evenly() -> None:
    labels = [0] * 21 + [1] * 11
    folds = five_by_two(labels)
    assert len(folds) == 10
    for one_half, other in zip(folds[::2], folds[1::2], strict=True):
        assert one_half.train == other.test and one_half.test == other.train
        assert sorted((*one_half.train, *one_half.test)) == list(range(32))
        assert abs(sum(labels[i] for i in one_half.test) - 5.5) < 1
        assert len(one_half.test) == 16
    assert len({fold.test for fold in folds}) == 10
