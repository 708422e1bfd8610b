"""The arithmetic of classification figures, against answers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from training import metrics

# rows: truth a 3, b 2, c 1; columns: said a 2, b 2, c 2
TABLE = np.array([[2, 1, 0], [0, 1, 1], [0, 0, 1]])

tables = hnp.arrays(np.int64, st.integers(2, 5).map(lambda k: (k, k)), elements=st.integers(0, 50))


def test_rows_are_the_truth_and_columns_what_was_said() -> None:
    assert metrics.confusion([0, 0, 1, 1, 2, 2], [0, 0, 0, 1, 1, 2], 3).tolist() == TABLE.tolist()


@pytest.mark.parametrize(("said", "truth"), [([0, 1], [0]), ([3], [0]), ([0], [-1])])
def test_answers_without_a_question_and_classes_off_the_scale_are_refused(said: list[int], truth: list[int]) -> None:
    with pytest.raises(ValueError, match=r"answers to|classes go from"):
        metrics.confusion(said, truth, 3)


def test_figures_of_each_class_are_those_worked_out_by_hand() -> None:
    found = metrics.per_class(TABLE)
    assert found.precision.tolist() == pytest.approx([2 / 2, 1 / 2, 1 / 2])
    assert found.recall.tolist() == pytest.approx([2 / 3, 1 / 2, 1 / 1])
    assert found.dice.tolist() == pytest.approx([4 / 5, 2 / 4, 2 / 3])
    assert found.jaccard.tolist() == pytest.approx([2 / 3, 1 / 3, 1 / 2])
    assert found.accuracy.tolist() == pytest.approx([5 / 6, 4 / 6, 5 / 6])
    assert found.mean()["jaccard"] == pytest.approx(1 / 2)
    assert metrics.accuracy(TABLE) == pytest.approx(4 / 6)


def test_a_class_that_is_neither_there_nor_said_is_left_out_of_the_mean() -> None:
    found = metrics.per_class(np.array([[3, 0, 0], [0, 0, 0], [1, 0, 2]]))
    assert math.isnan(found.jaccard[1])
    assert found.mean()["recall"] == pytest.approx((1 + 2 / 3) / 2)


def test_a_class_that_is_there_but_never_said_counts_as_nothing_found() -> None:
    found = metrics.per_class(np.array([[4, 0], [2, 0]]))
    assert (found.precision[1], found.recall[1], found.dice[1]) == (0, 0, 0)
    assert found.mean()["precision"] == pytest.approx((4 / 6) / 2)


def test_the_kappa_worked_out_by_hand() -> None:
    """Observed 1 + 1 = 2; expected (6 + 24 + 4 + 4 + 8 + 2) / 6 = 8; kappa = 1 - 2 / 8."""
    assert metrics.quadratic_kappa(TABLE) == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("table", "kappa"),
    [
        ([[4, 0, 0], [0, 3, 0], [0, 0, 2]], 1.0),
        ([[0, 0, 5], [0, 0, 0], [5, 0, 0]], -1.0),
        ([[1, 1], [1, 1]], 0.0),
        ([[2, 4], [1, 2]], 0.0),
    ],
    ids=["all right", "all opposite", "by lot", "by lot, unequal classes"],
)
def test_kappa_is_one_for_agreement_zero_for_chance_minus_one_for_opposition(
    table: list[list[int]], kappa: float
) -> None:
    assert metrics.quadratic_kappa(np.array(table)) == pytest.approx(kappa)


def test_a_far_miss_costs_more_kappa_than_a_near_one() -> None:
    near, far = (np.diag([5, 5, 5]) for _ in range(2))
    near[0, 1] = far[0, 2] = 3
    assert metrics.quadratic_kappa(far) < metrics.quadratic_kappa(near) < 1


@pytest.mark.parametrize("table", [np.zeros((3, 3), int), np.diag([7, 0, 0])], ids=["nothing", "one class"])
def test_where_chance_cannot_be_told_from_skill_kappa_is_no_number(table: np.ndarray) -> None:
    assert math.isnan(metrics.quadratic_kappa(table))


def test_of_nothing_every_figure_is_no_number() -> None:
    nothing = np.zeros((2, 2), int)
    assert math.isnan(metrics.accuracy(nothing))
    assert all(math.isnan(value) for value in metrics.per_class(nothing).mean().values())


@given(tables)
def test_dice_and_jaccard_tell_the_same_story(table: np.ndarray) -> None:
    found = metrics.per_class(table)
    known = np.isfinite(found.dice)
    np.testing.assert_allclose(found.jaccard[known], found.dice[known] / (2 - found.dice[known]))


@given(tables)
def test_turning_truth_and_answers_round_exchanges_precision_and_recall(table: np.ndarray) -> None:
    one, other = metrics.per_class(table), metrics.per_class(table.T)
    np.testing.assert_array_equal(one.precision, other.recall)
    np.testing.assert_array_equal(one.jaccard, other.jaccard)


def test_the_table_for_people_has_a_line_for_every_class_that_is_there() -> None:
    lines = metrics.text(np.array([[2, 1, 0], [0, 0, 0], [0, 0, 1]]), ("A", "B", "C")).splitlines()
    assert [line.split()[0] for line in lines] == ["truth", "A", "C"]
    assert lines[1].split()[-1] == "0.667"
