"""A contact sheet of day-5 pictures, to look at: real stacks from a folder, or drawn embryos with their true masks.

    python -m monitor.day5_sheet --stacks ../shared/data/stork --models bundled --out build/day5.png
    python -m monitor.day5_sheet --virtual 12 --out build/day5-virtual.png

Stacks lie as `<embryo>/<embryo>_F<plane um>.<ext>`, seven planes or fewer. With `--models` they are judged as the
daemon judges a single moment; without, the square that was found is shown. It refuses to know how a model works.
"""

from __future__ import annotations

import argparse
import csv
import re
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from engines.blastocyst import NotFound, find_in_well, sharpest_plane
from engines.contract import EngineError
from engines.day5 import Gardner, from_life, label_image
from engines.day5_models import load_day5
from engines.load import BUNDLED_MODELS
from engines.measure import Measurements, measure
from engines.square import Gray
from monitor.contradictions import TABLE, contradictions
from monitor.day5_judge import Day5Judge, Judged5
from monitor.day5_order import Known, ordered
from monitor.overlay import Picture, Shown, draw_overlay, draw_without, sheet_of
from monitor.simulator import VirtualEmbryo
from monitor.simulator.optics import FIELD_UM, PLANES_UM

STORK_UM_PER_PX = FIELD_UM / 500  # 500 px of an EmbryoScope's field
_SAYS = {one.word: one.says for one in TABLE}
_DRAWN_PX = 500


def read_stack(folder: Path) -> tuple[tuple[int, ...], Gray]:
    """Planes in um, ascending, and (P, H, W) uint8 of `<embryo>/<embryo>_F<um>.<ext>`. ValueError on anything else."""
    planes = {}
    for path in folder.iterdir():
        named = re.fullmatch(rf"{re.escape(folder.name)}_F(-?\d+)", path.stem)
        if named is None:
            continue
        picture = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        if picture is None:
            raise ValueError(f"{path} is no picture that can be decoded")
        if picture.dtype != np.uint8:
            raise ValueError(
                f"{path} has {8 * picture.dtype.itemsize} bits a pixel: bring the planes to 8 by one scale"
            )
        planes[int(named[1])] = picture if picture.ndim == 2 else cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY)
    if not planes or len({plane.shape for plane in planes.values()}) != 1:
        raise ValueError(f"{folder}: expected planes of one size named {folder.name}_F<um>, found {len(planes)}")
    order = tuple(sorted(planes))
    return order, np.stack([planes[um] for um in order]).astype(np.uint8)


def words_of(folder: Path) -> dict[str, tuple[str, str]]:
    """Embryo -> the clinic's grade and verdict, where the folder has an `index.csv` (`embryo`, `grade`, `quality`)."""
    index = folder / "index.csv"
    if not index.is_file():
        return {}
    with index.open(newline="") as file:
        return {row["embryo"]: (row["grade"], row.get("quality") or "") for row in csv.DictReader(file)}


def judged_stack(folder: Path, told: str, judge: Day5Judge, um_per_px: float | None = STORK_UM_PER_PX) -> Judged5:
    """One embryo of a folder as the daemon judges a single moment; `told`: the clinic's own words, for the title."""
    planes_um, stack = read_stack(folder)
    planes = dict(zip(planes_um, stack, strict=True))
    return judge.judge(planes, None, still=True, um_per_px=um_per_px, title=f"{folder.name}   {told}".strip())


def picture_of_stack(folder: Path, told: str, um_per_px: float | None) -> Picture:
    """One embryo of a folder: found on the middle plane, drawn on its sharpest, not judged."""
    planes_um, stack = read_stack(folder)
    found = find_in_well(stack[len(stack) // 2])
    title = f"{folder.name}   {told}".strip()
    if isinstance(found, NotFound):
        return draw_without(stack[len(stack) // 2], Shown(title, found.reason))
    best = sharpest_plane(stack, found)
    title += f"   F{planes_um[best]:+d} um   crop {found.confidence:.2f}"
    return draw_overlay(stack[best], found, Shown(title, "not judged: no models"), None, None, um_per_px)


def picture_of_virtual(seed: int, hpi_h: float) -> Picture:
    """A drawn embryo with its true masks and grade, and what of its measurements contradicts that grade."""
    one = VirtualEmbryo(seed, arrest_share=0.0)
    um_per_px = FIELD_UM / _DRAWN_PX
    stack, life = one.stack(hpi_h, _DRAWN_PX), one.life
    grade = from_life(life.expansion_at(hpi_h), life.icm_grade, life.te_grade)
    title = f"drawn {seed}, true masks and grade   {hpi_h:.0f} hpi   {life.phase_at(hpi_h)}"
    found = find_in_well(stack[len(stack) // 2])
    if isinstance(found, NotFound):
        return draw_without(stack[len(stack) // 2], Shown(title, found.reason))
    best = sharpest_plane(stack, found)
    labels = found.square.cut_labels(label_image(one.masks(hpi_h, _DRAWN_PX)))
    measured = measure(labels, um_per_px * found.square.step_px)
    shown = Shown(f"{title}   F{PLANES_UM[best]:+d} um   crop {found.confidence:.2f}", *_verdict(grade, measured))
    return draw_overlay(stack[best], found, shown, labels, measured, um_per_px)


def _verdict(grade: Gardner, measured: Measurements) -> tuple[str, tuple[str, ...]]:
    if grade.expansion is None:
        return "no blastocyst, not gradable", ()
    return str(grade), tuple(_SAYS[word] for word in contradictions(grade, measured))


def sheet_of_stacks(folder: Path, names: Sequence[str]) -> Picture:
    """One picture for each embryo named, or for all of `folder`. ValueError where there is none."""
    words = words_of(folder)
    return sheet_of(
        [
            picture_of_stack(folder / one, " ".join(words.get(one, ())), STORK_UM_PER_PX)
            for one in names_in(folder, names)
        ]
    )


def judged_sheet(folder: Path, names: Sequence[str], judge: Day5Judge) -> tuple[Picture, list[Known]]:
    """The same with what the models say, and each reading beside the clinic's words."""
    words, pictures, known = words_of(folder), [], []
    for one in names_in(folder, names):
        grade, quality = words.get(one, ("", ""))
        judged = judged_stack(folder / one, f"{grade} {quality}", judge)
        known.append(Known(one, grade, quality, judged.reading))
        if judged.picture is not None:
            pictures.append(judged.picture)
    return sheet_of(pictures), known


def names_in(folder: Path, names: Sequence[str] = ()) -> list[str]:
    """The embryos named, or all of the folder. ValueError where there is none."""
    chosen = list(names) or sorted(path.name for path in folder.iterdir() if path.is_dir())
    if not chosen:
        raise ValueError(f"{folder} holds no embryo: expected <embryo>/<embryo>_F<um>.jpg")
    return chosen


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m monitor.day5_sheet", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--stacks", type=Path, help="folder of embryos with their planes")
    parser.add_argument("--only", default="", help="embryos of that folder, with commas between; all if not given")
    parser.add_argument("--models", help="`bundled`, or a folder of models: judge the stacks of --stacks with them")
    parser.add_argument("--tuned-on", default="", help="embryos that anything was tuned on, told apart in the ordering")
    parser.add_argument("--virtual", type=int, default=0, help="how many drawn embryos, with their true masks")
    parser.add_argument("--seed", type=int, default=900_000, help="the first drawn embryo")
    parser.add_argument("--hpi", type=float, default=116.0, help="hours post insemination of the drawn ones")
    parser.add_argument("--out", type=Path, required=True, help="the PNG to write")
    args = parser.parse_args(argv)
    if bool(args.stacks) == bool(args.virtual):
        parser.error("say either --stacks FOLDER or --virtual N")
    try:
        if args.stacks:
            picture = _sheet(args.stacks, _named(args.only), args.models, _named(args.tuned_on))
        else:
            picture = sheet_of([picture_of_virtual(args.seed + i, args.hpi) for i in range(args.virtual)])
    except (ValueError, OSError, EngineError) as fault:
        print(f"no sheet: {fault}")
        return 1
    args.out.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(args.out), picture):
        print(f"no sheet: {args.out} cannot be written as a picture; name it .png")
        return 1
    print(args.out)
    return 0


def _named(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def _sheet(stacks: Path, names: Sequence[str], models: str | None, tuned_on: Sequence[str]) -> Picture:
    """The sheet; where it is judged and the clinic's verdicts are known, their order is printed too."""
    if not models:
        return sheet_of_stacks(stacks, names)
    judge = Day5Judge(load_day5(BUNDLED_MODELS if models == "bundled" else Path(models), "cpu"))
    picture, known = judged_sheet(stacks, names, judge)
    for title, some in (
        ("tuned on", [one for one in known if one.embryo in tuned_on]),
        ("not tuned on", [one for one in known if one.embryo not in tuned_on]),
    ):
        if some:
            print(ordered(title, some))
    return picture


if __name__ == "__main__":
    raise SystemExit(main())
