"""Any embryo cut around its body: located and cropped by the same function as the virtual ones (`cut.cut_stack`).

With a cache folder, a frame is decoded and cut once and lies on disk from then on. It refuses to know the set.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

import engines.locate
from engines.locate import Located
from training.datasets import cut as cut_module
from training.datasets.cut import SIDE_PX, WIDTH_IN_WELL_RADII, cut_masks, cut_stack
from training.datasets.embryo import DatasetError, Embryo, Grades, Gray
from training.datasets.stored import StoredEmbryo


@dataclass(frozen=True)
class Cropped:
    """An `Embryo` over another one; stacks (P, side_px, side_px)."""

    embryo: Embryo
    side_px: int = SIDE_PX
    width_in_well_radii: float = WIDTH_IN_WELL_RADII
    cache: Path | None = None
    _found: dict[int, Located] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def name(self) -> str:
        return self.embryo.name

    @property
    def source(self) -> str:
        return self.embryo.source

    @property
    def group(self) -> str:
        return self.embryo.group

    @property
    def planes_um(self) -> tuple[int, ...]:
        return self.embryo.planes_um

    @property
    def hours_h(self) -> npt.NDArray[np.float64]:
        return self.embryo.hours_h

    @property
    def hours_known(self) -> bool:
        return self.embryo.hours_known

    @property
    def phases(self) -> tuple[str | None, ...]:
        return self.embryo.phases

    @property
    def reaches_blastocyst(self) -> bool | None:
        return self.embryo.reaches_blastocyst

    @property
    def grades(self) -> Grades | None:
        return self.embryo.grades

    def stack(self, t: int) -> Gray:
        """(P, side_px, side_px) uint8, from the cache where it is there. DatasetError as the embryo's own."""
        if self.cache is None:
            return self._cut(t)
        path = self._path(t)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            unfinished = path.with_name(f".{os.getpid()}.{path.name}")
            try:
                np.save(unfinished, self._cut(t))
                unfinished.replace(path)
            finally:
                unfinished.unlink(missing_ok=True)
        stack: Gray = np.load(path)
        return stack

    def embryo_confidence(self, t: int) -> float:
        """How sure the locator is of the embryo in frame `t`, 0 to 1; decodes it if that has not been done."""
        return self._where(t).embryo_confidence

    def masks(self, t: int) -> dict[str, Gray] | None:
        """The embryo's masks cut at the same place as its stack."""
        whole = self.embryo.masks(t)
        if whole is None:
            return None
        return cut_masks(whole, self._where(t), self.side_px, self.width_in_well_radii)

    def _cut(self, t: int) -> Gray:
        stack, self._found[t] = cut_stack(self.embryo.stack(t), self.planes_um, self.side_px, self.width_in_well_radii)
        return stack

    def _where(self, t: int) -> Located:
        if t not in self._found:
            self._cut(t)
        return self._found[t]

    @cached_property
    def _key(self) -> str:
        """What, beside the files, a cut depends on."""
        known = hashlib.sha256(repr((self.side_px, self.width_in_well_radii, self.planes_um)).encode())
        for module in (engines.locate, cut_module):
            known.update(Path(str(module.__file__)).read_bytes())
        return known.hexdigest()[:12]

    def _path(self, t: int) -> Path:
        """Of frame `t` in the cache: a file that was changed since, or another embryo of the name, gets another one."""
        frame = repr(float(self.hours_h[t]))
        if isinstance(self.embryo, StoredEmbryo):
            frame = repr([_stamp(path) for _, path in sorted(self.embryo.files[t].items())])
        stamp = hashlib.sha256(frame.encode()).hexdigest()[:16]
        folder = hashlib.sha256(self.name.encode()).hexdigest()[:12]
        assert self.cache is not None
        return self.cache / f"{self.source}-{self._key}" / folder / f"{t}-{stamp}.npy"


def _stamp(path: Path) -> tuple[str, int, int]:
    """What tells a picture file from a later one of its name."""
    try:
        stat = path.stat()
    except OSError as fault:
        raise DatasetError(path, f"cannot be read: {fault.strerror}") from fault
    return str(path), stat.st_size, stat.st_mtime_ns
