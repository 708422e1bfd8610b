"""The laboratory's own indicators as metrics: blastocysts observed and predicted, and how predictions are spread.

It joins the rows of outcomes and the metrics; how the figures come about is `monitor.outcomes`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from monitor.journal import Journal
from monitor.metrics import Metrics
from monitor.outcomes import Outcome, Outcomes


class Lab:
    """The incubators of one node; what was known when it stopped is remembered from the journal."""

    def __init__(self, incubators: Iterable[str], journal: Journal, metrics: Metrics) -> None:
        self._journal, self._metrics = journal, metrics
        self._seen = dict.fromkeys(incubators, 0)
        self._models = dict.fromkeys(self._seen, "")
        self._outcomes = {name: Outcomes() for name in self._seen}

    def refresh(self, now: datetime) -> None:
        """Tell the figures of the incubators in which runs have ended. Raises StorageError."""
        for name, of in self._outcomes.items():
            new = self._journal.outcomes.since(name, self._seen[name])
            if new:
                self._take(name, of, new, now)
                self._tell(name, of)

    def _take(self, name: str, of: Outcomes, new: Sequence[tuple[int, Outcome]], now: datetime) -> None:
        """Of several models only the last counts: another predicts otherwise."""
        model = new[-1][1].model
        if model != self._models[name]:
            whose, reference = self._journal.outcomes.reference(name)
            of.begin_anew(reference if whose == model else {})
            self._models[name] = model
        found = [of.add(one) for _, one in new if one.model == model]
        if any(found):
            self._journal.freeze_predictions(name, model, of.reference, now)
        self._seen[name] = new[-1][0]

    def _tell(self, name: str, of: Outcomes) -> None:
        figures = of.indicators()
        self._metrics.outcomes_known.labels(name).set(figures.known)
        if figures.share is not None:
            self._metrics.blastocyst_share.labels(name).set(figures.share)
        for day, mean in figures.predicted.items():
            self._metrics.blastocyst_predicted.labels(name, day).set(mean)
        for day, apart in figures.apart.items():
            self._metrics.prediction_drift.labels(name, day).set(apart)
