"""Where a virtual incubator puts its files: the names of each layout that the monitor reads, written the other way.

The forms are those of `deploy/contract.md`; a test reads every name back. It refuses to know pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from monitor.simulator.plan import Delivery

LAYOUTS = ("generic", "nantes", "embryoscope", "tiff-stack", "single-moment")
_CLOCKLESS = ("nantes", "single-moment")  # neither a name nor a file's time tells when a picture was taken
_SECOND = {".jpg": ".jpeg", ".jpeg": ".jpg", ".tif": ".tiff"}


@dataclass(frozen=True)
class NamedFile:
    """A file to write: its path below the incubator's folder, with `/`, and the planes it holds, in order."""

    path: str
    planes_um: tuple[int, ...]


@dataclass(frozen=True)
class Folders:
    """The names of one dish. `start` and `seed` go into the names of layouts that have a date and a slide."""

    layout: str
    dish: str
    start: datetime
    seed: int

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS:
            raise ValueError(f"layout {self.layout!r} is not one that can be written: {', '.join(LAYOUTS)}")

    @property
    def stacked(self) -> bool:
        """Whether one file holds all planes."""
        return self.layout == "tiff-stack"

    @property
    def file_clock(self) -> bool:
        """Whether a file's own time is the time of its picture."""
        return self.layout == "embryoscope"

    @property
    def clockless(self) -> bool:
        """Whether nothing about the files tells the time of day."""
        return self.layout in _CLOCKLESS

    @property
    def one_moment(self) -> bool:
        """Whether there is room for one moment of an embryo only."""
        return self.layout == "single-moment"

    def video(self, well: int) -> str:
        """The name of one embryo's pictures where a layout or a table knows no wells."""
        return f"{self.dish}-{well}"

    def files(self, one: Delivery) -> list[NamedFile]:
        """The files of one delivery, in the order of their planes; second files are not among them."""
        if self.stacked:
            path = f"{self.dish}/{one.well}/{one.named_at:%Y%m%dT%H%M%SZ}.tif"
            return [NamedFile(path, one.planes_um)] if one.planes_um else []
        return [NamedFile(self._plane_path(one, plane_um), (plane_um,)) for plane_um in one.planes_um]

    def second(self, file: NamedFile) -> NamedFile:
        """Another name for the same moment and planes."""
        stem, dot, ending = file.path.rpartition(".")
        return NamedFile(stem + _SECOND[dot + ending], file.planes_um)

    def _plane_path(self, one: Delivery, plane_um: int) -> str:
        if self.layout == "generic":
            return f"{self.dish}/{one.well}/{one.named_at:%Y%m%dT%H%M%SZ}_F{plane_um}.jpg"
        if self.layout == "single-moment":
            return f"{self.video(one.well)}/{self.video(one.well)}_F{plane_um}.jpg"
        name = f"D{self.start:%Y.%m.%d}_S{self.seed % 9999 + 1:04d}_I132_WELL{one.well}_RUN{one.run}"
        if self.layout == "embryoscope":
            return f"{self.dish}/F{plane_um}/{name}.jpg"
        folder = "embryo_dataset" if plane_um == 0 else f"embryo_dataset_F{plane_um}"
        return f"{folder}/{self.video(one.well)}/{name}.jpeg"
