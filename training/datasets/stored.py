"""An embryo whose frames are picture files: decoded when asked for, a missing plane filled with the nearest one.

It decodes as the monitor does (`monitor.pictures`), which refuses what is cut off. It refuses to know how any set names
its files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from engines.preprocess import nearest_plane_um
from monitor.errors import FrameError
from monitor.pictures import read_plane
from training.datasets.embryo import DatasetError, Grades, Gray

NO_HOUR = np.zeros(1)  # of a single picture of which nobody says when it was taken


@dataclass(frozen=True, eq=False)
class StoredEmbryo:
    """An `Embryo` over files. `files` (T,): of each frame, path by plane in um; a frame has one plane at least.

    `mask_files` (T,) or empty: of each frame, path by part. `runs` (T,) or empty: the set's own frame numbers. `said`:
    what the set says beside, in its own words. `notes`: what the loader found wrong or put right, one sentence each.
    """

    name: str
    source: str
    group: str
    planes_um: tuple[int, ...]
    files: tuple[Mapping[int, Path], ...]
    hours_h: npt.NDArray[np.float64] = field(default_factory=NO_HOUR.copy)
    hours_known: bool = False
    phases: tuple[str | None, ...] = (None,)
    reaches_blastocyst: bool | None = None
    grades: Grades | None = None
    mask_files: tuple[Mapping[str, Path], ...] = ()
    runs: tuple[int, ...] = ()
    said: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not len(self.files) == len(self.hours_h) == len(self.phases):
            raise ValueError(
                f"{self.name}: {len(self.files)} frames, {len(self.hours_h)} hours, {len(self.phases)} labels"
            )
        if not self.files or not all(self.files):
            raise ValueError(f"{self.name}: an embryo has at least one frame, and a frame at least one plane")

    def stack(self, t: int) -> Gray:
        """(P, H, W) uint8. DatasetError names the file that does not decode, or that is of another size."""
        present = self.files[t]
        shown = [nearest_plane_um(plane_um, tuple(sorted(present))) for plane_um in self.planes_um]
        decoded = {plane_um: read_gray(present[plane_um]) for plane_um in sorted(set(shown))}
        first = decoded[shown[0]]
        for plane_um, picture in decoded.items():
            if picture.shape != first.shape:
                raise DatasetError(
                    present[plane_um], f"is {_size(picture)}, the frame's other planes are {_size(first)}"
                )
        return np.stack([decoded[plane_um] for plane_um in shown])

    def masks(self, t: int) -> dict[str, Gray] | None:
        """ "ICM", "TE", "ZP" -> (H, W) uint8, 0 or 255; what a file shows above half is inside."""
        if not self.mask_files or not self.mask_files[t]:
            return None
        decoded = {part: read_gray(path) for part, path in self.mask_files[t].items()}
        return {part: np.where(mask > 127, np.uint8(255), np.uint8(0)) for part, mask in decoded.items()}


def read_gray(path: Path) -> Gray:
    """(H, W) uint8. DatasetError names the file and the fault."""
    try:
        return read_plane(path)[0]
    except FrameError as fault:
        raise DatasetError(path, str(fault)) from fault


def _size(picture: Gray) -> str:
    return f"{picture.shape[1]} x {picture.shape[0]} px"
