"""What a data set on this disk holds, and what is wrong with it, before anyone trains on it.

    python -m training.datasets.survey nantes DIR [--decode] [--movement --cache CACHE]
    python -m training.datasets.survey stork DIR
Exit code 1 when something cannot be read. It changes nothing, in no set.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from engines.contract import EngineError
from engines.locate import LEAST_EMBRYO_CONFIDENCE
from training.datasets import nantes, still
from training.datasets.cropped import Cropped
from training.datasets.embryo import DatasetError
from training.datasets.label_clock import fit_of
from training.datasets.stored import StoredEmbryo

SETS = ("nantes", "kromp", "blasts-online", "stork", "generated")


def read(name: str, root: Path, table: Path | None = None) -> tuple[list[StoredEmbryo], list[DatasetError]]:
    """The embryos of one set, and why others cannot be read. `table`: Kromp's CSV of grades."""
    if name == "nantes":
        return nantes.read_videos(root)
    if name == "kromp":
        if table is None:
            raise DatasetError(root, "Kromp's set needs --table, the CSV of its grades")
        return still.read_kromp(root, table), []
    if name == "blasts-online":
        return still.read_blasts_online(root), []
    if name == "stork":
        return still.read_stork(root), []
    return [one for part in ("tune", "report") for one in still.read_generated(root, part)], []


def summary(embryos: Sequence[StoredEmbryo]) -> list[str]:
    """Counts of what matters to a split, a label, a network."""
    outcomes = Counter({True: "reach", False: "do not", None: "unknown"}[one.reaches_blastocyst] for one in embryos)
    labelled = Counter(phase for one in embryos for phase in one.phases if phase)
    return [
        f"{len(embryos)} embryos of {len({one.group for one in embryos})} groups, "
        f"{sum(len(one.files) for one in embryos)} frames",
        f"planes (um): {dict(Counter(one.planes_um for one in embryos))}",
        f"blastocyst stage: {dict(outcomes)}",
        f"labelled frames: {dict(labelled)}",
        f"graded: {sum(one.grades is not None for one in embryos)}",
        f"marked: {sum(bool(one.mask_files) for one in embryos)}",
    ]


def pictures_faults(embryo: StoredEmbryo) -> Iterator[str]:
    """Every frame decoded: those that cannot be, and in the first that can whether there is an embryo at all."""
    looked = False
    for t in range(len(embryo.files)):
        try:
            if looked:
                embryo.stack(t)
                continue
            sure = Cropped(embryo).embryo_confidence(t)
            looked = True
            if sure < LEAST_EMBRYO_CONFIDENCE:
                yield f"no embryo is found in the first frame (confidence {sure:.2f}): a blank well?"
        except (DatasetError, EngineError) as fault:
            yield str(fault)


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m training.datasets.survey", description=__doc__.splitlines()[0])
    parser.add_argument("set", choices=SETS)
    parser.add_argument("root", type=Path)
    parser.add_argument("--table", type=Path, help="Kromp: the CSV of grades")
    parser.add_argument("--decode", action="store_true", help="decode every picture")
    parser.add_argument("--movement", action="store_true", help="hold labels against movement (cuts every frame)")
    parser.add_argument("--cache", type=Path, help="of cut frames, with --movement")
    chosen = parser.parse_args(arguments)
    try:
        embryos, faults = read(chosen.set, chosen.root, chosen.table)
    except DatasetError as fault:
        print(fault, file=sys.stderr)
        return 1
    print("\n".join(summary(embryos)))
    told = [str(fault) for fault in faults]
    for embryo in embryos:
        for note in embryo.notes:
            print(f"{embryo.name}: {note}")
        told += [f"{embryo.name}: {fault}" for fault in (pictures_faults(embryo) if chosen.decode else ())]
        fit = fit_of(Cropped(embryo, cache=chosen.cache)) if chosen.movement else None
        if fit is not None:
            print(f"{embryo.name}: {fit}")
    for line in told:
        print(f"cannot be used: {line}")
    return 1 if told else 0


if __name__ == "__main__":
    sys.exit(main())
