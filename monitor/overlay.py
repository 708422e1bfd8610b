"""The day-5 picture of one embryo: its parts drawn on the best-focused plane, a legend, the measurements.

Axes: H, W, 3 (B, G, R). It draws what it is given. It refuses to know files, networks and whether the masks are right.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from engines.blastocyst import Found
from engines.day5 import Labels, Part
from engines.measure import Measurements
from engines.square import Gray, Square

Colour = tuple[int, int, int]
Picture = npt.NDArray[np.uint8]

SHOWN_PX = 360  # side of each of the two pictures
_TEXT_PX = 250  # width of the column of words
_VEIL = {Part.ICM: 0.25, Part.BLASTOCOEL: 0.12, Part.TE: 0.25, Part.ZP: 0.2}  # of its colour: cells stay to be seen
_PAPER, _INK, _FAINT = (250, 250, 250), (40, 40, 40), (120, 120, 120)
_ALARM: Colour = (30, 60, 190)
_BAR_UM = 50.0
_GRADE_LETTERS = 4  # a verdict this short is a grade

# Okabe and Ito's colours, told apart by colour-blind eyes too; B, G, R
COLOURS: dict[Part, Colour] = {
    Part.ICM: (0, 94, 213),
    Part.BLASTOCOEL: (233, 180, 86),
    Part.TE: (115, 158, 0),
    Part.ZP: (66, 228, 240),
}
NAMES = {
    Part.ICM: "inner cell mass",
    Part.BLASTOCOEL: "blastocoel",
    Part.TE: "trophectoderm",
    Part.ZP: "zona pellucida",
}


@dataclass(frozen=True)
class Shown:
    """What one overlay says beside its picture. `title`: which embryo and when; `verdict`: its grade, or why there is
    none; `notes`: further lines, such as flags in words."""

    title: str
    verdict: str
    notes: tuple[str, ...] = ()


def draw_overlay(
    plane: Gray,
    found: Found,
    shown: Shown,
    labels: Labels | None,
    measured: Measurements | None,
    um_per_px: float | None,
) -> Picture:
    """(SHOWN_PX + title, 2 SHOWN_PX + text, 3): the crop of `plane` (H, W), the same with its parts, and the words.

    `labels` (side, side) lie on `found.square`; without any the outline that was found is drawn. `um_per_px` is the
    frame's: with it there is a scale bar.
    """
    square = Square(found.square.x_px, found.square.y_px, found.square.width_px, SHOWN_PX)
    plain = np.asarray(cv2.cvtColor(_stretched(square.cut(plane)), cv2.COLOR_GRAY2BGR), dtype=np.uint8)
    drawn = _with_outline(plain, found, square) if labels is None else _with_parts(plain, labels)
    if um_per_px is not None:
        _scale_bar(drawn, um_per_px * square.step_px)
    words = _words(shown, labels is not None, measured)
    return _titled(np.hstack([plain, drawn, words]), shown.title)


def draw_without(plane: Gray, shown: Shown) -> Picture:
    """The same size for a frame in which no embryo was found: the whole frame, and the reason."""
    scale = SHOWN_PX / max(plane.shape)
    size = (round(plane.shape[1] * scale), round(plane.shape[0] * scale))
    small = cv2.resize(plane, size, interpolation=cv2.INTER_AREA)
    panel = np.full((SHOWN_PX, 2 * SHOWN_PX, 3), 235, np.uint8)
    panel[: size[1], : size[0]] = cv2.cvtColor(small, cv2.COLOR_GRAY2BGR)
    return _titled(np.hstack([panel, _words(shown, False, None)]), shown.title)


def sheet_of(pictures: list[Picture], columns: int = 2) -> Picture:
    """Pictures of one size in rows of `columns`; what is missing in the last row is paper. ValueError for none."""
    if not pictures:
        raise ValueError("a contact sheet needs at least one picture")
    blank = np.full_like(pictures[0], _PAPER[0])
    rows = [pictures[i : i + columns] for i in range(0, len(pictures), columns)]
    return np.asarray(np.vstack([np.hstack([*row, *[blank] * (columns - len(row))]) for row in rows]), dtype=np.uint8)


def _stretched(gray: Gray) -> Gray:
    """So that the embryo in the middle takes the whole range of gray: some wells are dim, and their ring is not."""
    edge = round(0.2 * gray.shape[0])
    low, high = (float(v) for v in np.percentile(gray[edge:-edge, edge:-edge], (0.3, 99.7)))
    scaled = (gray.astype(np.float32) - low) * (255.0 / max(high - low, 1.0))
    return np.asarray(np.clip(scaled, 0, 255), dtype=np.uint8)


def _with_parts(plain: Picture, labels: Labels) -> Picture:
    """Each part veiled in its colour, with a line of its own around it."""
    drawn = plain.astype(np.float32)
    masks = {part: _enlarged(labels, part) for part in COLOURS}
    for part, mask in masks.items():
        colour = np.array(COLOURS[part], np.float32)
        drawn[mask > 0] = (1 - _VEIL[part]) * drawn[mask > 0] + _VEIL[part] * colour
    picture = drawn.astype(np.uint8)
    for part in (Part.ZP, Part.TE, Part.ICM):  # the cavity's line would lie on theirs
        outlines, _ = cv2.findContours(masks[part], cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(picture, outlines, -1, COLOURS[part], 1, cv2.LINE_AA)
    return picture


def _enlarged(labels: Labels, part: Part) -> Picture:
    """(SHOWN_PX, SHOWN_PX) 0 or 1, with a smooth edge where the label image is smaller."""
    soft = cv2.resize((labels == part).astype(np.float32), (SHOWN_PX, SHOWN_PX), interpolation=cv2.INTER_CUBIC)
    return np.asarray(soft > 0.5, dtype=np.uint8)


def _with_outline(plain: Picture, found: Found, square: Square) -> Picture:
    outline, step_px = found.outline, square.step_px
    x, y = square.points_to_crop(np.array([[outline.x_px, outline.y_px]]))[0]
    axes = (round(outline.half_long_px / step_px), round(outline.half_short_px / step_px))
    turn = float(np.degrees(outline.angle_rad))
    return np.asarray(
        cv2.ellipse(plain.copy(), (round(x), round(y)), axes, turn, 0, 360, COLOURS[Part.BLASTOCOEL], 1, cv2.LINE_AA)
    )


def _scale_bar(picture: Picture, um_per_px: float) -> None:
    """White with a dark rim: it lies on a bright ring as often as on a dark floor."""
    long_px, (x, y) = round(_BAR_UM / um_per_px), (10, SHOWN_PX - 12)
    cv2.rectangle(picture, (x - 1, y - 2), (x + long_px, y + 2), _INK, cv2.FILLED)
    cv2.rectangle(picture, (x, y - 1), (x + long_px - 1, y + 1), (255, 255, 255), cv2.FILLED)
    for colour, weight in ((_INK, 3), ((255, 255, 255), 1)):
        _write(picture, f"{_BAR_UM:.0f} um", (x, y - 8), colour, 0.42, weight)


def _words(shown: Shown, legend: bool, measured: Measurements | None) -> Picture:
    """(SHOWN_PX, _TEXT_PX, 3): the verdict, notes, the legend, the measurements, from above."""
    panel = np.full((SHOWN_PX, _TEXT_PX, 3), _PAPER, np.uint8)
    y = _verdict(panel, shown)
    if legend:
        for part, colour in COLOURS.items():
            cv2.rectangle(panel, (14, y - 10), (28, y + 2), colour, cv2.FILLED)
            _write(panel, NAMES[part], (36, y), _INK, 0.44)
            y += 20
        y += 8
    for name, value in [] if measured is None else measured_lines(measured):
        _write(panel, name, (14, y), _FAINT, 0.42)
        _write(panel, value, (152, y), _INK, 0.42)
        y += 18
    return panel


def _verdict(panel: Picture, shown: Shown) -> int:
    """A grade large, a sentence small, notes below; gives the height that is free."""
    y = 34
    if len(shown.verdict) <= _GRADE_LETTERS:
        _write(panel, shown.verdict, (14, y), _INK, 0.9, 2)
        y += 24
    else:
        for line in _wrapped(shown.verdict, 28):
            _write(panel, line, (14, y), _INK, 0.46)
            y += 20
    for note in shown.notes:
        for line in _wrapped(note, 31):
            _write(panel, line, (14, y), _ALARM, 0.42)
            y += 17
        y += 4
    return y + 10


def measured_lines(measured: Measurements) -> list[tuple[str, str]]:
    """(name, value with its unit) of what was measured; what was not is left out."""
    unit, digits = measured.unit, 1 if measured.unit == "um" else 0
    lengths = [
        ("body, across", measured.body_diameter, 0),
        ("with the zona", measured.outer_diameter, 0),
        ("zona, mean", measured.zona_thickness_mean, 1),
        ("zona, least", measured.zona_thickness_min, 1),
        ("trophectoderm", measured.te_thickness_mean, 1),
    ]
    lines = [(name, f"{value:.{places}f} {unit}") for name, value, places in lengths if value is not None]
    if measured.icm_area is not None:
        lines.append(("inner cell mass", f"{measured.icm_area:.0f} {unit}2"))
    shares = [("its roundness", measured.icm_roundness), ("cavity / body", measured.blastocoel_fraction)]
    lines += [(name, f"{value:.2f}") for name, value in shares if value is not None]
    if measured.zona_gap is not None and measured.zona_gap > 0:
        lines.append(("gap in the zona", f"{100 * measured.zona_gap:.{digits}f} %"))
    return lines


def _titled(picture: Picture, title: str) -> Picture:
    strip = np.full((28, picture.shape[1], 3), 60, np.uint8)
    _write(strip, title, (10, 19), (255, 255, 255), 0.5)
    framed = np.vstack([strip, picture])
    return np.asarray(cv2.copyMakeBorder(framed, 0, 6, 0, 6, cv2.BORDER_CONSTANT, value=_PAPER), dtype=np.uint8)


def _write(picture: Picture, text: str, at: tuple[int, int], colour: Colour, size: float, weight: int = 1) -> None:
    cv2.putText(picture, text, at, cv2.FONT_HERSHEY_SIMPLEX, size, colour, weight, cv2.LINE_AA)


def _wrapped(text: str, width: int) -> list[str]:
    """Lines of at most `width` letters, broken between words."""
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append(word)
        else:
            lines[-1] = f"{lines[-1]} {word}".strip()
    return lines
