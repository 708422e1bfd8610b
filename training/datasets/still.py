"""Sets of single pictures: Kromp 2023, BlastsOnline (Saeedi), STORK, and the generated stages. One frame an embryo.

Each set's words are turned into the field's here, by a converter of its own: what is A in one is 0, 1 or 2 in another.
It refuses to know what is in a picture.
"""

from __future__ import annotations

import re
from pathlib import Path

from training.datasets.embryo import DatasetError, Grades
from training.datasets.stored import StoredEmbryo
from training.datasets.tables import records_of, rows_of

MASKS = ("ICM", "TE", "ZP")
PHASE_OF_GENERATED = {"2cell": "t2", "4cell": "t4", "8cell": "t8", "Morula": "tM", "Blastocyst": "tB"}
GENERATED_TO_TUNE = 30  # the first of each class; the others are for the report
_LETTERS = ("A", "B", "C", None)  # Kromp: 3 = not defined
_STORK_GRADE = re.compile(r"(\d)([ABC])[+-]?([ABC])[+-]?")
_PICTURES = (".png", ".bmp", ".jpg", ".jpeg", ".tif", ".tiff")


def read_kromp(pictures: Path, table: Path) -> list[StoredEmbryo]:
    """Kromp et al. 2023 (figshare 20123153, CC BY 4.0): `table` has rows `file,EXP,ICM,TE` without a header.

    EXP 0 to 4 is Gardner's 1 to 5 (its last class holds what hatches and what has hatched); ICM and TE 0, 1, 2 are A,
    B, C and 3 is not defined. The set names no patients: every picture is a group of its own.
    DatasetError: a picture that is not there or named twice, a code off the scale.
    """
    found: dict[str, StoredEmbryo] = {}
    for number, (file, *codes) in rows_of(table, 4):
        if number == 1 and not any(code.lstrip("-").isdigit() for code in codes):
            continue  # some copies name their columns
        if not (pictures / file).is_file():
            raise DatasetError(table, f"line {number}: there is no picture {pictures / file}")
        if file in found:
            raise DatasetError(table, f"line {number}: {file} stands here twice")
        found[file] = StoredEmbryo(
            name=file,
            source="kromp",
            group=file,
            planes_um=(0,),
            files=({0: pictures / file},),
            reaches_blastocyst=True,
            grades=_kromp_grades(table, number, codes),
        )
    return list(found.values())


def _kromp_grades(table: Path, number: int, codes: list[str]) -> Grades:
    try:
        expansion, icm, te = (int(code) for code in codes)
    except ValueError as fault:
        raise DatasetError(table, f"line {number}: {fault}") from fault
    if not (0 <= expansion <= 4 and 0 <= icm <= 3 and 0 <= te <= 3):
        raise DatasetError(table, f"line {number}: {codes}: EXP is 0 to 4, ICM and TE are 0 to 3")
    return Grades(expansion + 1, _LETTERS[icm], _LETTERS[te])


def read_blasts_online(root: Path) -> list[StoredEmbryo]:
    """BlastsOnline (Saeedi et al. 2017) and what we simulate: `Images/<stem>.BMP`, `GT_<part>/<stem> <part>_Mask.bmp`.

    Stems hold spaces, and the case of `_Mask` and of endings varies. No patient is named: every picture is its own
    group. DatasetError: a picture without one of its masks, a mask without its picture, two of one name.
    """
    pictures = _by_stem(root / "Images", re.compile(r"(.+)", re.DOTALL))
    if not pictures:
        raise DatasetError(root / "Images", "holds no picture; the set has Images/<stem>.BMP")
    marked = {part: _by_stem(root / f"GT_{part}", re.compile(rf"(.+?)[ _]{part}_mask", re.I)) for part in MASKS}
    for part, masks in marked.items():
        if missing := sorted(pictures.keys() - masks.keys()):
            raise DatasetError(root / f"GT_{part}", f"no {part} mask for {missing[0]!r} ({len(missing)} missing)")
        if lonely := sorted(masks.keys() - pictures.keys()):
            raise DatasetError(masks[lonely[0]], f"is a mask without a picture ({len(lonely)} such)")
    return [
        StoredEmbryo(
            name=pictures[stem].stem,
            source="blasts-online",
            group=pictures[stem].stem,
            planes_um=(0,),
            files=({0: pictures[stem]},),
            reaches_blastocyst=True,
            mask_files=({part: marked[part][stem] for part in MASKS},),
        )
        for stem in sorted(pictures)
    ]


def _by_stem(folder: Path, name: re.Pattern[str]) -> dict[str, Path]:
    """Pictures by the stem in their name, in lower case."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        match = name.fullmatch(path.stem) if path.suffix.lower() in _PICTURES else None
        if match is None:
            continue
        if (stem := match[1].strip().lower()) in found:
            raise DatasetError(path, f"has the same name as {found[stem].name}")
        found[stem] = path
    return found


def read_stork(root: Path) -> list[StoredEmbryo]:
    """STORK (Khosravi et al. 2019, MIT): `index.csv` with `file,embryo,plane_um,grade,quality`, up to seven planes.

    ICM and TE are read without their + or -. The leading digit is the clinic's own 1 to 3 and not Gardner's: it stays
    in `said` and no expansion is claimed. All are blastocysts of day 5, their hours are unknown.
    """
    table = root / "index.csv"
    files: dict[str, dict[int, Path]] = {}
    said: dict[str, dict[str, str]] = {}
    for number, record in records_of(table, ("file", "embryo", "plane_um", "grade", "quality")):
        path, embryo = root / record["file"], record["embryo"]
        own = {"grade": record["grade"], "quality": record["quality"]}
        if not path.is_file():
            raise DatasetError(table, f"line {number}: there is no picture {path}")
        if said.setdefault(embryo, own) != own:
            raise DatasetError(table, f"line {number}: embryo {embryo} is {own} here and {said[embryo]} above")
        try:
            files.setdefault(embryo, {})[int(record["plane_um"])] = path
        except ValueError as fault:
            raise DatasetError(table, f"line {number}: {fault}") from fault
    return [
        StoredEmbryo(
            name=embryo,
            source="stork",
            group=embryo,
            planes_um=tuple(sorted(planes)),
            files=(planes,),
            reaches_blastocyst=True,
            grades=_stork_grades(table, said[embryo]["grade"]),
            said=said[embryo],
        )
        for embryo, planes in sorted(files.items())
    ]


def _stork_grades(table: Path, text: str) -> Grades:
    match = _STORK_GRADE.fullmatch(text)
    if match is None:
        raise DatasetError(table, f"{text!r} is not a grade like 3AA or 1B-B-")
    return Grades(None, match[2], match[3])


def read_generated(root: Path, part: str) -> list[StoredEmbryo]:
    """Generated pictures of five stages (Presacan et al. 2025, MIT), one folder a stage, with the stage as label.

    `part`: "tune" the first 30 of each stage, "report" the others. Nobody knows their hour.
    """
    if part not in ("tune", "report"):
        raise ValueError(f"part {part!r}: tune or report")
    chosen = []
    for stage, phase in PHASE_OF_GENERATED.items():
        paths = sorted((root / stage).glob("*.png"))
        if not paths:
            raise DatasetError(root / stage, "holds no picture")
        for path in paths[:GENERATED_TO_TUNE] if part == "tune" else paths[GENERATED_TO_TUNE:]:
            name = f"{stage}-{path.stem}"
            chosen.append(
                StoredEmbryo(name, "generated", name, (0,), ({0: path},), phases=(phase,), said={"stage": stage})
            )
    return chosen
