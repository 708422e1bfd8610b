"""The day-5 picture: parts in their colours where they are, words beside; a sheet from a folder or of drawn ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from engines.blastocyst import Ellipse, Found
from engines.day5 import Grade, Part
from engines.day5_models import Day5Models
from engines.measure import measure
from engines.square import Square
from monitor.day5_judge import Day5Judge
from monitor.day5_order import Known, auc_of, body_of, cavity_of, ordered, points_of
from monitor.day5_sheet import judged_sheet, main, read_stack, sheet_of_stacks
from monitor.gardner import Day5Reading, Opinion, read_gardner
from monitor.overlay import COLOURS, NAMES, SHOWN_PX, Shown, draw_overlay, draw_without, measured_lines, sheet_of
from monitor.simulator import VirtualEmbryo
from monitor.simulator.optics import PLANES_UM
from tests.graded import graded

FOUND = Found(Square(150.0, 150.0, 200.0, 256), Ellipse(150.0, 150.0, 70.0, 66.0, 0.3), 0.9)
SHOWN = Shown("embryo 7", "4AB")


def rings() -> np.ndarray:
    labels = np.zeros((256, 256), np.uint8)
    for part, radius in ((Part.ZP, 110), (Part.TE, 95), (Part.BLASTOCOEL, 80)):
        cv2.circle(labels, (128, 128), radius, int(part), cv2.FILLED)
    cv2.circle(labels, (90, 128), 25, int(Part.ICM), cv2.FILLED)
    return labels


def small() -> np.ndarray:
    labels = np.zeros((256, 256), np.uint8)
    for part, radius in ((Part.TE, 50), (Part.BLASTOCOEL, 20)):
        cv2.circle(labels, (128, 128), radius, int(part), cv2.FILLED)
    return labels


def at(picture: np.ndarray, x: int, y: int, half: int) -> np.ndarray:
    """B, G, R at a place of the crop (of 256) in the plain half (0) or the drawn one (1)."""
    return np.asarray(picture[28 + round(y / 256 * SHOWN_PX), half * SHOWN_PX + round(x / 256 * SHOWN_PX)].astype(int))


def test_each_part_is_veiled_in_its_own_colour_where_it_lies_and_the_rest_is_left() -> None:
    gray = np.full((300, 300), 128, np.uint8)
    gray[::2] = 120
    picture = draw_overlay(gray, FOUND, SHOWN, rings(), None, None)
    places = {Part.ICM: (90, 128), Part.BLASTOCOEL: (150, 128), Part.TE: (128, 41), Part.ZP: (128, 25)}
    for part, (x, y) in places.items():
        plain, drawn, colour = at(picture, x, y, 0), at(picture, x, y, 1), np.array(COLOURS[part])
        share = (drawn - plain) @ (colour - plain) / ((colour - plain) @ (colour - plain))
        assert 0.08 < share < 0.35, part  # of the way from the picture to the part's colour, and not aside
        assert np.abs(drawn - plain - share * (colour - plain)).max() < 3
    assert np.array_equal(at(picture, 10, 10, 0), at(picture, 10, 10, 1))


def test_every_part_has_a_colour_of_its_own_and_a_name() -> None:
    assert set(COLOURS) == set(NAMES) == set(Part) - {Part.BACKGROUND}
    assert len(set(COLOURS.values())) == 4


def test_the_picture_has_one_size_whether_parts_an_outline_or_nothing_is_drawn() -> None:
    gray = np.full((300, 300), 90, np.uint8)
    measured = measure(rings(), 0.5)
    pictures = [
        draw_overlay(gray, FOUND, SHOWN, rings(), measured, 0.56),
        draw_overlay(gray, FOUND, Shown("x", "not segmented yet"), None, None, None),
        draw_without(np.full((200, 300), 90, np.uint8), Shown("x", "no embryo found: nothing stands out " * 3)),
        draw_overlay(gray, FOUND, Shown("x", "4AB", ("a note that is long " * 9,)), rings(), measured, 0.56),
    ]
    assert len({picture.shape for picture in pictures}) == 1
    sheet = sheet_of(pictures[:3], columns=2)
    assert sheet.shape == (2 * pictures[0].shape[0], 2 * pictures[0].shape[1], 3)
    with pytest.raises(ValueError, match="at least one"):
        sheet_of([])


def test_the_scale_bar_is_50_um_long() -> None:
    picture = draw_overlay(np.full((300, 300), 60, np.uint8), FOUND, SHOWN, rings(), None, 0.5)
    row = picture[28 + SHOWN_PX - 12, SHOWN_PX : 2 * SHOWN_PX]
    assert (row == 255).all(1).sum() == pytest.approx(50 / (0.5 * 200 / SHOWN_PX), abs=4)


def test_measurements_are_told_with_their_unit_and_what_is_missing_is_left_out() -> None:
    told = dict(measured_lines(measure(rings(), 0.5)))
    assert told["body, across"] == "95 um" and told["zona, mean"].endswith(" um")
    assert told["inner cell mass"].endswith("um2")
    assert dict(measured_lines(measure(rings())))["body, across"] == "190 px"
    assert measured_lines(measure(np.zeros((20, 20), np.uint8))) == []


def put_stack(folder: Path, name: str, seed: int, bits: int = 8) -> None:
    (folder / name).mkdir(parents=True)
    for plane_um, plane in zip(PLANES_UM, VirtualEmbryo(seed, 0.0).stack(116.0, 250), strict=True):
        deep = plane if bits == 8 else plane.astype(np.uint16) * 257
        cv2.imwrite(str(folder / name / f"{name}_F{plane_um}.png"), deep)


def test_a_sheet_of_a_folder_shows_every_embryo_and_says_where_there_is_none(tmp_path: Path) -> None:
    put_stack(tmp_path / "in", "one", 900_001)
    (tmp_path / "in" / "empty").mkdir()
    cv2.imwrite(str(tmp_path / "in" / "empty" / "empty_F0.png"), VirtualEmbryo(900_002).empty(100.0, 250)[3])
    (tmp_path / "in" / "index.csv").write_text("embryo,grade,quality\none,3AA,good\n")
    sheet = sheet_of_stacks(tmp_path / "in", [])
    assert sheet.shape[1] > 2 * (2 * SHOWN_PX)
    assert main(["--stacks", str(tmp_path / "in"), "--out", str(tmp_path / "out" / "sheet.png")]) == 0
    assert cv2.imread(str(tmp_path / "out" / "sheet.png")).shape == sheet.shape


def test_a_judged_sheet_tells_each_reading_beside_the_words_of_the_clinic(tmp_path: Path) -> None:
    put_stack(tmp_path, "one", 900_001)
    (tmp_path / "empty").mkdir()
    cv2.imwrite(str(tmp_path / "empty" / "empty_F0.png"), VirtualEmbryo(900_002).empty(100.0, 250)[3])
    (tmp_path / "index.csv").write_text("embryo,grade,quality\none,3AA,good\nempty,1CC,poor\n")
    loaded = graded()
    assert loaded.segmenter is not None
    sheet, known = judged_sheet(tmp_path, [], Day5Judge(Day5Models(loaded.segmenter, loaded.graders)))
    assert [(one.embryo, one.words, one.quality) for one in known] == [("empty", "1CC", "poor"), ("one", "3AA", "good")]
    assert known[0].reading.text().startswith("not gradable: no embryo found") and known[1].reading.gradable
    assert sheet.shape == sheet_of_stacks(tmp_path, []).shape
    assert auc_of(known) == 1.0 and points_of(known[0].reading) == 0.0


def test_the_order_of_readings_follows_grade_and_letters_and_says_when_no_auc_can_be_had() -> None:
    def read(expansion: int, letter: Grade) -> Day5Reading:
        letters = {one: float(one is letter) for one in Grade}
        opinion = Opinion("one", {e: float(e == expansion) for e in range(1, 7)}, letters, letters)
        return read_gardner([opinion], None, "tB")

    full, early = read(4, Grade.A), read(2, Grade.A)
    assert points_of(full) == 8.0 and points_of(read(4, Grade.C)) == 4.0
    assert points_of(early) == 2.0  # no letters before expansion 3
    known = [Known("a", "1BB", "poor", full), Known("b", "3AA", "good", early), Known("c", "3AA", "good", full)]
    assert auc_of(known) == 0.25  # one pair the wrong way round, one a tie
    told = ordered("five", known).splitlines()
    assert told[-1] == "  AUC of good against poor: grade 0.25  body 0.50  cavity 0.50"  # nothing was measured
    sized = [
        replace(one, reading=replace(one.reading, measured=measure(rings() if one.quality == "good" else small())))
        for one in known
    ]
    assert (auc_of(sized, body_of), auc_of(sized, cavity_of)) == (1.0, 1.0)
    assert [line.split()[5] for line in ordered("sized", sized).splitlines()[1:4]] == ["b", "c", "a"]
    assert auc_of(known[1:]) is None and "no AUC" in ordered("good ones", known[1:])


def test_a_sheet_of_drawn_embryos_is_written_by_one_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--virtual", "1", "--seed", "900001", "--out", str(tmp_path / "drawn.png")]) == 0
    assert "drawn.png" in capsys.readouterr().out
    assert cv2.imread(str(tmp_path / "drawn.png")) is not None


def test_planes_come_in_order_and_what_is_wrong_with_a_folder_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put_stack(tmp_path, "one", 900_001)
    planes_um, stack = read_stack(tmp_path / "one")
    assert planes_um == PLANES_UM and stack.shape == (7, 250, 250)
    put_stack(tmp_path, "deep", 900_001, bits=16)
    assert main(["--stacks", str(tmp_path), "--out", str(tmp_path / "x.png")]) == 1
    assert "16 bits a pixel" in capsys.readouterr().out
    (tmp_path / "none").mkdir()
    assert main(["--stacks", str(tmp_path), "--only", "none", "--out", str(tmp_path / "x.png")]) == 1
    assert "none_F<um>" in capsys.readouterr().out
    assert not (tmp_path / "x.png").exists()
