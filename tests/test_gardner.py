"""One Gardner reading: the rule that joins two graders, what is not gradable, and measurements that contradict."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.day5 import Gardner, Grade, from_life, label_image
from engines.measure import Measurements, measure
from monitor import contradictions as limits
from monitor.contradictions import TABLE, contradictions
from monitor.gardner import LEAST_SURE, Agreement, Opinion, not_gradable, read_gardner
from monitor.simulator import VirtualEmbryo
from monitor.simulator.optics import FIELD_UM
from monitor.vocabulary import PHASES

A, B, C = Grade.A, Grade.B, Grade.C

# a blastocyst of expansion 4, grades A and B, as the drawing has it
PLAIN = Measurements(
    unit="um", body_area=19_900.0, icm_area=1800.0, te_area=2900.0, zona_area=3300.0, blastocoel_area=15_200.0,
    body_diameter=159.0, icm_diameter=47.9, outer_diameter=172.0, zona_thickness_mean=6.1, zona_thickness_min=5.6,
    te_thickness_mean=6.2, blastocoel_fraction=0.76, icm_roundness=0.95, zona_gap=0.0,
)  # fmt: skip


def sure(best: int | Grade, share: float = 0.9) -> dict[int, float] | dict[Grade, float]:
    """Probabilities with `share` on one class and the rest spread over the others."""
    classes = list(Grade) if isinstance(best, Grade) else list(range(1, 7))
    return {one: share if one == best else (1 - share) / (len(classes) - 1) for one in classes}  # type: ignore[misc]


def opinion(name: str, expansion: int = 4, icm: Grade = A, te: Grade = B, share: float = 0.9) -> Opinion:
    return Opinion(name, sure(expansion, share), sure(icm, share), sure(te, share))  # type: ignore[arg-type]


def lockhart(best: int, share: float = 0.9, icm: Grade = A, te: Grade = B) -> Opinion:
    """A grader that knows expansion 2 to 4 only."""
    rest = (1 - share) / 2
    return Opinion("lockhart", {n: share if n == best else rest for n in (2, 3, 4)}, sure(icm), sure(te))  # type: ignore[arg-type]


def test_two_graders_who_say_the_same_give_that_grade() -> None:
    told = read_gardner([opinion("one"), opinion("two")], PLAIN, "tEB")
    assert told.gradable and told.grade == Gardner(4, A, B) and told.text() == "4AB"
    assert told.expansion is not None and told.expansion.agreement is Agreement.SAME
    assert told.expansion.said == {"one": 4, "two": 4}
    assert told.expansion.probabilities[4] == pytest.approx(0.9)
    assert told.flags == ()


@pytest.mark.parametrize("expansion", [1, 2])
def test_below_expansion_3_neither_icm_nor_te_is_graded(expansion: int) -> None:
    told = read_gardner([opinion("one", expansion), opinion("two", expansion)], None, "tB")
    assert told.grade == Gardner(expansion)
    assert (told.icm, told.te) == (None, None)


@pytest.mark.parametrize("stage", PHASES[: PHASES.index("tSB")])
def test_below_tsb_there_is_no_blastocyst_however_sure_the_graders_are(stage: str) -> None:
    told = read_gardner([opinion("one", share=1.0), opinion("two", share=1.0)], PLAIN, stage)
    assert not told.gradable and told.grade == Gardner()
    assert told.text() == f"no blastocyst, not gradable: the stage is {stage}"


@pytest.mark.parametrize("stage", PHASES[PHASES.index("tSB") :])
def test_from_tsb_on_it_is_graded(stage: str) -> None:
    assert read_gardner([opinion("one")], PLAIN, stage).gradable


def test_a_single_moment_without_history_is_judged_by_the_networks_themselves() -> None:
    assert read_gardner([opinion("one"), opinion("two")], PLAIN, None).grade == Gardner(4, A, B)
    for fraction in (None, 0.0, 0.05):
        told = read_gardner([opinion("one")], replace(PLAIN, blastocoel_fraction=fraction), None)
        assert told.text() == "no blastocyst, not gradable: no cavity is seen"
    assert read_gardner(
        [opinion("one")], replace(PLAIN, blastocoel_fraction=0.0), "tB"
    ).gradable  # history knows better


def test_graders_one_step_apart_give_the_likelier_class_and_say_so() -> None:
    told = read_gardner([opinion("one", 3, share=0.6), opinion("two", 4, share=0.9)], None, "tB")
    assert told.grade.expansion == 4
    assert told.expansion is not None and told.expansion.agreement is Agreement.ONE_APART


def test_graders_far_apart_give_no_grade_and_the_reason_names_both() -> None:
    told = read_gardner([opinion("one", 2), opinion("two", 5)], None, "tB")
    assert not told.gradable
    assert told.text() == "not gradable: expansion: the graders disagree (one 2, two 5)"
    letters = read_gardner([opinion("one", icm=A), opinion("two", icm=C)], None, "tB")
    assert letters.gradable and letters.grade == Gardner(4, None, B) and letters.text() == "4-B"
    assert letters.icm is not None and letters.icm.reason == "the graders disagree (one A, two C)"
    assert letters.icm.agreement is Agreement.APART


def test_where_no_class_is_likely_nothing_is_graded() -> None:
    even = Opinion("one", dict.fromkeys(range(1, 7), 1 / 6), sure(A), sure(B))  # type: ignore[arg-type]
    told = read_gardner([even], None, "tB")
    assert not told.gradable and "no class is likely enough" in told.text()


def test_one_grader_alone_is_heard_and_said_to_be_alone() -> None:
    told = read_gardner([opinion("one", 5)], None, "tHB")
    assert told.grade == Gardner(5, A, B)
    assert told.expansion is not None and told.expansion.agreement is Agreement.ALONE
    assert read_gardner([], None, "tB").text() == "not gradable: no grader gave an answer"


def test_a_grader_that_does_not_know_a_class_has_no_say_in_it() -> None:
    told = read_gardner([opinion("memebg", 5, share=0.95), lockhart(4)], None, "tHB")
    assert told.grade.expansion == 5
    assert told.expansion is not None and told.expansion.said == {"memebg": 5, "lockhart": 4}
    assert sum(told.expansion.probabilities.values()) == pytest.approx(1.0)


raw = st.lists(st.floats(0.01, 1.0), min_size=6, max_size=6)


@settings(max_examples=60, deadline=None)
@given(raw, raw)
def test_the_rule_is_symmetric_and_never_prefers_what_both_find_less_likely(
    first: list[float], second: list[float]
) -> None:
    def opinions(*weights: list[float]) -> list[Opinion]:
        shares = [dict(enumerate((np.array(w) / sum(w)).tolist(), 1)) for w in weights]
        return [Opinion(f"grader {i}", told, sure(A), sure(B)) for i, told in enumerate(shares)]  # type: ignore[arg-type]

    there, back = (read_gardner(opinions(*pair), None, "tB") for pair in ((first, second), (second, first)))
    assert there.grade == back.grade
    assert there.expansion is not None
    assert sum(there.expansion.probabilities.values()) == pytest.approx(1.0)
    if there.grade.expansion is not None:
        best = there.grade.expansion - 1
        assert there.expansion.probabilities[best + 1] >= LEAST_SURE
        ones, twos = np.array(first) / sum(first), np.array(second) / sum(second)
        assert not ((ones > ones[best]) & (twos > twos[best])).any()


CLASHES: Mapping[str, tuple[Gardner, Measurements]] = {
    "zona_thick": (Gardner(4, A, B), replace(PLAIN, zona_thickness_mean=limits.ZONA_THICK_UM + 1)),
    "zona_thin": (Gardner(2), replace(PLAIN, zona_thickness_mean=limits.ZONA_THIN_UM - 1)),
    "cavity_small": (Gardner(3, A, B), replace(PLAIN, blastocoel_fraction=limits.CAVITY_SMALL - 0.1)),
    "cavity_large": (Gardner(1), replace(PLAIN, blastocoel_fraction=limits.CAVITY_LARGE + 0.05)),
    "body_small": (Gardner(4, A, B), replace(PLAIN, body_diameter=limits.BODY_SMALL_UM - 5)),
    "zona_open": (Gardner(4, A, B), replace(PLAIN, zona_gap=limits.ZONA_OPEN + 0.05)),
    "zona_closed": (Gardner(5, A, B), replace(PLAIN, zona_gap=0.0)),
    "icm_small": (Gardner(4, A, B), replace(PLAIN, icm_area=limits.ICM_SMALL_UM2 - 100)),
    "icm_large": (Gardner(4, C, B), replace(PLAIN, icm_area=limits.ICM_LARGE_UM2 + 100)),
}


def test_every_contradiction_has_a_case_here() -> None:
    assert {one.word for one in TABLE} == set(CLASHES)


@pytest.mark.parametrize("word", CLASHES)
def test_what_contradicts_a_grade_raises_its_flag_and_only_its_own(word: str) -> None:
    grade, measured = CLASHES[word]
    assert contradictions(grade, measured) == (word,)


def test_a_contradiction_flags_the_reading_and_leaves_the_grade() -> None:
    thick = replace(PLAIN, zona_thickness_mean=16.0)
    told = read_gardner([opinion("one"), opinion("two")], thick, "tEB")
    assert told.grade == Gardner(4, A, B)
    assert told.flags == ("zona_thick",) and told.text() == "4AB (zona_thick)"


def test_without_a_pixel_size_a_thick_zona_is_seen_by_its_share_of_the_body() -> None:
    thick, thin = (replace(PLAIN, unit="px", body_diameter=200.0, zona_thickness_mean=t) for t in (25.0, 12.0))
    assert contradictions(Gardner(4, A, B), thick) == ("zona_thick",)
    assert contradictions(Gardner(4, A, B), thin) == ()


def test_what_was_not_measured_or_not_graded_contradicts_nothing() -> None:
    nothing = Measurements("um", *[None] * 14)
    for expansion in (None, 1, 3, 4, 6):
        assert contradictions(Gardner(expansion, A, C), nothing) == ()
    assert contradictions(Gardner(), PLAIN) == ()


@pytest.mark.slow
def test_drawn_embryos_with_their_true_grades_and_masks_are_seldom_contradicted() -> None:
    flagged, count = 0, 0
    for seed in range(900_000, 900_060):
        one = VirtualEmbryo(seed, arrest_share=0.0)
        for hpi_h in (108.0, 116.0, 126.0):
            grade = from_life(one.life.expansion_at(hpi_h), one.life.icm_grade, one.life.te_grade)
            if grade.expansion is not None:
                measured = measure(label_image(one.masks(hpi_h, 300)), FIELD_UM / 300)
                flagged, count = flagged + bool(contradictions(grade, measured)), count + 1
    assert count > 100
    assert flagged / count < 0.08


@pytest.mark.parametrize(
    "wrong", [{4: 0.5, 5: 0.2}, {4: float("nan"), 5: 1.0}, {4: 1.5, 5: -0.5}, {0: 0.5, 4: 0.5}, {}]
)
def test_probabilities_that_are_none_are_refused_by_name(wrong: dict[int, float]) -> None:
    with pytest.raises(ValueError, match="one: "):
        Opinion("one", wrong, sure(A), sure(B))  # type: ignore[arg-type]


def test_a_stage_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="t5x"):
        read_gardner([opinion("one")], None, "t5x")


def test_no_word_advises_what_to_do_with_an_embryo() -> None:
    words = [one.says for one in TABLE] + [not_gradable("no embryo found").text()]
    words += [read_gardner([], None, stage).text() for stage in ("t8", "tB")]
    assert not [w for w in words if re.search(r"transfer|discard|diagnos|suitable|recommend|viab", w, re.IGNORECASE)]
