"""What serves now and on what, told to health and metrics; and the GPU's figures, where there is one.

An engine may change its runtime while the daemon runs (see `engines.guard`), so it is asked again and again. A driver
may hang with its device: its figures are read in a thread, and while that does not come back there are none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from engines.gpu_figures import GpuFigures, read_figures
from engines.load import Loaded
from monitor.errand import Errand
from monitor.health import EngineFacts
from monitor.metrics import Metrics

EVERY_S = 15.0


def engine_facts(loaded: Loaded) -> tuple[EngineFacts, ...]:
    """Of every model that serves."""
    return tuple(
        EngineFacts(
            one.manifest.task,
            one.manifest.name,
            one.manifest.version,
            one.engine.runtime,
            one.manifest.graph.sha256,
            fallback=(reason := one.fallback) is not None,
            reason=reason,
        )
        for one in loaded.serving
    )


class Serving:
    """The engines of one node. `refresh` is called at every turn and mostly does nothing. `read`: the GPU's figures."""

    def __init__(
        self,
        loaded: Loaded,
        metrics: Metrics,
        monotonic: Callable[[], float],
        read: Callable[[], Sequence[GpuFigures]] = read_figures,
    ) -> None:
        self._loaded, self._metrics, self._monotonic, self._read = loaded, metrics, monotonic, read
        self._told: tuple[EngineFacts, ...] = ()
        self._errand: Errand[Sequence[GpuFigures]] | None = None
        self._sent_s = -1e9

    def facts(self) -> tuple[EngineFacts, ...]:
        return engine_facts(self._loaded)

    def refresh(self) -> None:
        facts = self.facts()
        if facts != self._told:
            self._told = facts
            for one in facts:
                self._metrics.engine_fallback.labels(one.name).set(int(one.fallback))
                told = {"version": one.version, "runtime": one.runtime, "sha256": one.sha256}
                self._metrics.engine_info.labels(one.task, one.name).info(told)
        self._ask_gpu()

    def _ask_gpu(self) -> None:
        now_s = self._monotonic()
        if self._errand is not None:
            if self._errand.back:
                self._metrics.gpu_told(self._errand.result())
                self._errand = None
            elif now_s - self._sent_s >= EVERY_S:
                self._metrics.gpu_told(())  # no answer: an old figure would look like a new one
            return
        if now_s - self._sent_s >= EVERY_S:
            self._sent_s = now_s
            self._errand = Errand("gpu figures", self._read, lambda: None)
