"""What the models see of a frame: its planes' pixels, and where the embryo lies: looked for once for all models.

It knows one visit; no engine and no memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from engines.locate import Located
from engines.manifest import Preprocess
from engines.preprocess import fit_stack, locate_in
from monitor.runs import Visit
from monitor.vocabulary import Gray


@dataclass(frozen=True)
class Fitting:
    """One frame that is to be judged. What it gives raises EngineError where a picture is not fit to be cut."""

    visit: Visit

    @cached_property
    def grays(self) -> dict[int, Gray]:
        """Plane in um -> its pixels."""
        return self.visit.stack.grays

    @cached_property
    def found(self) -> Located:
        return locate_in(self.grays)

    def stack(self, how: Preprocess) -> Gray:
        """(P, H, W) as a model asks for it; the embryo is looked for only if it does."""
        return fit_stack(self.grays, how, self.found if how.crop else None)

    def flags(self, how: Preprocess) -> frozenset[str]:
        """What qualifies an answer of a model that looks at the embryo only."""
        sure = how.crop is None or self.found.embryo_is_sure
        return frozenset() if sure else frozenset({"embryo_not_located"})

    def embryo_ratio(self, how: Preprocess) -> float | None:
        """The embryo's diameter, a share of the well's; None where nobody looks for it or it is not found for sure."""
        if how.crop is None or not self.found.embryo_is_sure:
            return None
        return round(self.found.embryo.radius_px / self.found.well.radius_px, 3)
