"""How the files below a folder would be read: embryos, frames, intervals, pictures, and what would not fit.

It reads names, and looks into a sample of the pictures; it changes nothing and knows no journal and no engine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

from monitor.errors import FrameError
from monitor.intake import refuse_the_future
from monitor.layouts import PRESETS, Layout
from monitor.pictures import Kind, bits_used, decode_pages, decode_plane, kind_of, read_bytes
from monitor.runs import elapsed_since_first_h
from monitor.vocabulary import FileSeen, Moment, Place, PlaneFile
from monitor.watch import Watch

PICTURES_LOOKED_INTO = 40
Faults = list[tuple[FileSeen, FrameError]]
Sampled = TypeVar("Sampled")


def look_over(root: Path) -> list[FileSeen]:
    """Every file below a folder, in order of path. Raises OSError."""
    return Watch(root, {}, 0.0, lambda: 0.0).look()


def read_names(root: Path, layout: Layout, incubator: str, files: Iterable[FileSeen]) -> tuple[list[PlaneFile], Faults]:
    """What the names say: the files' planes (of a stack the first), and what would be put aside. Raises OSError."""
    planes: list[PlaneFile] = []
    faults: Faults = []
    for file in files:
        try:
            plane = layout.read(incubator, root, file)
        except FrameError as fault:
            faults.append((file, fault))
            continue
        if plane is not None:
            planes.append(plane)
    return planes, faults


@dataclass(frozen=True)
class Frame:
    """The files of one embryo at one moment, by plane in um."""

    place: Place
    moment: Moment
    planes: dict[int, PlaneFile]


def gather(
    layout: Layout, files: Iterable[PlaneFile], planes_um: tuple[int, ...], now: datetime
) -> tuple[list[Frame], Faults]:
    """The frames that files make, in order per embryo, and the files that would be put aside from them."""
    frames: dict[tuple[Place, str | None, str], Frame] = {}
    faults: Faults = []
    for file in files:
        name = (file.place, file.moment.slide, file.moment.key)
        try:
            refuse_the_future(file, now)
            for plane in layout.planes_of(file, planes_um):
                _place_in(frames.setdefault(name, Frame(file.place, file.moment, {})), plane, planes_um)
        except FrameError as fault:
            faults.append((file.file, fault))
    made = [frame for frame in frames.values() if frame.planes]
    return sorted(made, key=lambda frame: (frame.place, frame.moment.rank)), faults


def _place_in(frame: Frame, plane: PlaneFile, planes_um: tuple[int, ...]) -> None:
    if plane.plane_um not in planes_um:
        raise FrameError("plane", f"{plane.file.path}: plane {plane.plane_um} um, declared {sorted(planes_um)}")
    if plane.plane_um in frame.planes:
        raise FrameError("duplicate", f"{plane.file.path}: a second file for plane {plane.plane_um}")
    frame.planes[plane.plane_um] = plane


def intervals_min(frames: Sequence[Frame]) -> list[float]:
    """Minutes between each two frames of an embryo that follow one another, where anything tells them."""
    pairs = [
        (earlier.moment, later.moment)
        for earlier, later in pairwise(frames)
        if (earlier.place, earlier.moment.slide) == (later.place, later.moment.slide)
    ]
    hours = [elapsed_since_first_h(later, earlier) for earlier, later in pairs]
    return [each * 60 for each in hours if each is not None]


def clock_of(moment: Moment) -> str | None:
    """What tells the time of a frame, in words; None where nothing does."""
    if moment.captured_at is not None:
        return "the names' clock"
    if moment.hours is not None:
        return "the time file"
    return None if moment.file_at is None else "the files' own time"


def fitting_preset(root: Path, files: Sequence[FileSeen]) -> tuple[str, int]:
    """The preset that reads most of these files, and how many it reads. Raises OSError."""
    reads = {name: len(read_names(root, layout, "any", files)[0]) for name, layout in sorted(PRESETS.items())}
    name = max(reads, key=lambda name: reads[name])
    return name, reads[name]


@dataclass(frozen=True)
class Pictures:
    """What a look into some pictures found. `bits_used`: the most that any gray picture of over 8 bits needs."""

    kinds: Counter[Kind]
    faults: Faults
    bits_used: int | None

    @property
    def looked_into(self) -> int:
        return sum(self.kinds.values()) + len({file for file, _ in self.faults})


def look_into(root: Path, files: Sequence[PlaneFile], planes: int) -> Pictures:
    """Decode some of the files, evenly over all of them."""
    kinds: Counter[Kind] = Counter()
    faults: Faults = []
    deepest: int | None = None
    for file in even_sample(files, PICTURES_LOOKED_INTO):
        try:
            data = read_bytes(root / file.file.path)
            _decode(data, file, planes)
            kind = kind_of(data, file.file.path)
            if kind.bits > 8:
                deepest = max(deepest or 0, bits_used(data, file.file.path))
        except FrameError as fault:
            faults.append((file.file, fault))
            continue
        kinds[kind] += 1
    return Pictures(kinds, faults, deepest)


def _decode(data: bytes, file: PlaneFile, planes: int) -> None:
    """Raises FrameError where the file, or any page of it, would not be used."""
    if file.page is None:
        decode_plane(data, file.file.path)
        return
    for page in decode_pages(data, file.file.path, planes):
        if isinstance(page, FrameError):
            raise page


def even_sample(files: Sequence[Sampled], count: int) -> list[Sampled]:
    """At most `count` (over 1) of the files or frames, evenly over all of them, first and last among them."""
    if len(files) <= count:
        return list(files)
    return [files[round(k * (len(files) - 1) / (count - 1))] for k in range(count)]
