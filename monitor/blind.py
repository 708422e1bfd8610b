"""Blind first: nothing that the models say of an embryo is shown before its own assessment has been recorded.

The journal holds everything all the while. A reading goes out without its scores, under an id of its own (another
content is another fact); words about what the models say, and results of day 5, are held back and said when the
assessment is there. What is wrong with pictures, incubators and machines is never held back. It knows no journal and
no broker.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from monitor.alert import Alert
from monitor.alert_rules import OF_EMBRYOS
from monitor.vocabulary import Reading

SCORES = ("blastocyst", "stage", "day5")
WITHHELD = "withheld"  # why a reading does not say them, in its `lacks`


@dataclass(frozen=True)
class Blind:
    """Whether scores are withheld at all, and of whom: those of whom `is_assessed` is not true."""

    on: bool
    is_assessed: Callable[[str], bool]

    def hides(self, embryo_id: str | None) -> bool:
        return self.on and embryo_id is not None and not self.is_assessed(embryo_id)

    def hides_word(self, word: Alert) -> bool:
        """Of alerts only those that tell what the models say of the embryo."""
        return word.kind in OF_EMBRYOS and self.hides(word.subject.embryo_id)

    def shown(self, reading: Reading) -> Reading:
        """The reading as it may be seen now, by whom ever: over MQTT, on a page, in a log."""
        return withheld(reading) if self.hides(reading.embryo.embryo_id) else reading


def withheld(reading: Reading) -> Reading:
    """A reading without its scores. Only its quality, its frame and its hour are left."""
    return reading.model_copy(
        update={
            "id": _other(reading.id),
            "supersedes": None if reading.supersedes is None else _other(reading.supersedes),
            **dict.fromkeys(SCORES),
            "lacks": {
                **{name: why for name, why in reading.lacks.items() if name == "hpi"},
                **dict.fromkeys(SCORES, WITHHELD),
            },
        }
    )


def _other(reading_id: str) -> str:
    return hashlib.sha256(f"{reading_id}\n{WITHHELD}".encode()).hexdigest()[:32]
