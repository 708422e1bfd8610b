"""The words of day 5: one enum, one converter for each source's coding, one label image."""

from __future__ import annotations

import numpy as np
import pytest

from engines.contract import EngineError
from engines.day5 import (
    Gardner,
    Grade,
    Part,
    from_kromp,
    from_life,
    from_lockhart_code,
    from_lockhart_slides,
    from_nantes,
    from_stork,
    label_image,
)
from monitor.simulator import VirtualEmbryo

A, B, C = Grade.A, Grade.B, Grade.C


def test_the_classes_of_a_label_image_are_in_the_order_from_inside_out() -> None:
    assert [part.name for part in Part] == ["BACKGROUND", "ICM", "BLASTOCOEL", "TE", "ZP"]
    assert [int(part) for part in Part] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("grading", "same"),
    [
        (from_kromp("3", "0", "1"), Gardner(4, A, B)),
        (from_kromp("0", "3", "3"), Gardner(1, None, None)),
        (from_kromp("2", "", "2"), Gardner(3, None, C)),
        (from_kromp("4", "1", "0"), Gardner(5, B, A)),
        (from_lockhart_slides(0, 0, 2), Gardner(4, A, C)),
        (from_lockhart_slides(2, 1, 0), Gardner(2, B, A)),
        (from_lockhart_code(2, 2, 0), Gardner(4, A, C)),
        (from_lockhart_code(0, 1, 2), Gardner(2, B, A)),
        (from_stork("3AB"), Gardner(None, A, B)),
        (from_stork("1B-B-"), Gardner(None, B, B)),
        (from_stork("2BA-"), Gardner(None, B, A)),
        (from_nantes("B", "A"), Gardner(None, A, B)),
        (from_nantes("NA", "NA"), Gardner()),
        (from_life(4, "A", "C"), Gardner(4, A, C)),
        (from_life(2, "A", "C"), Gardner(2)),
        (from_life(0, "A", "C"), Gardner()),
        (from_life(3, None, None), Gardner(3)),
    ],
)  # fmt: skip
def test_every_source_is_read_in_its_own_coding(grading: Gardner, same: Gardner) -> None:
    assert grading == same


def test_the_two_codings_of_one_paper_agree_on_the_embryo_and_on_no_number_but_the_middle_one() -> None:
    for code in range(3):
        assert from_lockhart_code(2 - code, 2 - code, 2 - code) == from_lockhart_slides(code, code, code)


@pytest.mark.parametrize("wrong", ["", "AB", "7AA", "3A", "3AAA", "3aa", "0AA"])
def test_a_grade_that_is_none_is_refused_by_name(wrong: str) -> None:
    with pytest.raises(EngineError, match="STORK"):
        from_stork(wrong)


def test_a_label_of_another_source_is_refused_by_name() -> None:
    with pytest.raises(EngineError, match="Kromp: `A`"):
        from_kromp("2", "A", "0")
    with pytest.raises(EngineError, match="Lockhart's code: `4`"):
        from_lockhart_code(4, 0, 0)
    with pytest.raises(EngineError, match="1 to 6"):
        Gardner(0)


def test_icm_and_te_are_told_from_expansion_3_on_and_where_the_expansion_is_unknown() -> None:
    assert Gardner(2, A, B).as_gardner() == Gardner(2)
    assert Gardner(3, A, B).as_gardner() == Gardner(3, A, B)
    assert Gardner(None, A, B).as_gardner() == Gardner(None, A, B)


def test_a_grading_is_written_as_embryologists_write_it() -> None:
    assert str(Gardner(4, A, B)) == "4AB"
    assert str(Gardner(2)) == "2--"
    assert str(Gardner(None, B, C)) == "-BC"


def test_a_label_image_of_a_drawn_blastocyst_is_its_masks() -> None:
    masks = VirtualEmbryo(900_001, arrest_share=0.0).masks(116.0, 200)
    labels = label_image(masks)
    for name, part in (("ICM", Part.ICM), ("TE", Part.TE), ("ZP", Part.ZP), ("blastocoel", Part.BLASTOCOEL)):
        assert np.array_equal(labels == part, masks[name])


def test_without_a_blastocoel_it_is_what_the_others_enclose() -> None:
    masks = VirtualEmbryo(900_001, arrest_share=0.0).masks(116.0, 200)
    told = label_image(masks)
    public = label_image({name: masks[name].astype(np.uint8) * 255 for name in ("ICM", "TE", "ZP")})
    assert (public[told == Part.BLASTOCOEL] == Part.BLASTOCOEL).all()
    assert (public == Part.BLASTOCOEL).sum() < 1.1 * (told == Part.BLASTOCOEL).sum()  # and the space around the cells
    assert np.array_equal(told == Part.TE, public == Part.TE)


def test_a_zona_without_a_blastocyst_encloses_no_cavity() -> None:
    ring = np.zeros((50, 50), np.uint8)
    ring[10:40, 10:40] = 255
    ring[15:35, 15:35] = 0
    nothing = np.zeros_like(ring)
    assert set(np.unique(label_image({"ICM": nothing, "TE": nothing, "ZP": ring}))) == {0, Part.ZP}


def test_where_masks_overlap_the_inner_part_wins() -> None:
    whole = np.ones((4, 4), bool)
    assert (label_image({"ICM": whole, "TE": whole, "ZP": whole}) == Part.ICM).all()
    assert (label_image({"ICM": ~whole, "TE": whole, "ZP": whole}) == Part.TE).all()


@pytest.mark.parametrize(
    "masks",
    [{}, {"ICM": np.zeros((2, 2))}, {name: np.zeros((2, len(name) + i)) for i, name in enumerate(("ICM", "TE", "ZP"))}],
)
def test_masks_that_do_not_belong_together_are_refused(masks: dict[str, np.ndarray]) -> None:
    with pytest.raises(EngineError, match="ICM, TE and ZP"):
        label_image(masks)
