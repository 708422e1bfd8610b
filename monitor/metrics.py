"""Every Prometheus metric, declared once. Prefix `pellucid_`, base units, classic histograms, no embryo in a label.

The registry is passed in. It counts what it is told; it asks nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info

from engines.gpu_figures import GpuFigures
from monitor.alert_rules import KINDS
from monitor.day5_body import Day5Outcome
from monitor.errors import PUT_ASIDE
from monitor.event import Event
from monitor.outbox import OutboxRow
from monitor.vocabulary import Outcome, Reading

_STEP_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_LATENCY_BUCKETS_S = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3600.0)


class Metrics:
    """The metrics of one node, and the publisher's observer."""

    def __init__(self, registry: CollectorRegistry, now: Callable[[], datetime]) -> None:
        self.registry, self._now = registry, now

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, namespace="pellucid", registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(name, text, labels, namespace="pellucid", registry=registry)

        self.frames = counter("frames_total", "Frames journalled, by what became of them.", "incubator", "outcome")
        self.planes_missing = counter("planes_missing_total", "Planes that frames went on without.", "incubator")
        self.quarantined = counter("files_quarantined_total", "Files put aside, by reason.", "reason")
        self.last_frame = gauge(
            "last_frame_timestamp_seconds", "When the last journalled frame was captured (its file's time where the "
            "source has no clock).", "incubator"
        )  # fmt: skip
        self.scan = Histogram(
            "scan_duration_seconds",
            "Time one look over one incubator's folder takes.",
            namespace="pellucid",
            registry=registry,
            buckets=_STEP_BUCKETS_S,
        )
        self.scan_success = gauge(
            "scan_last_success_timestamp_seconds", "When the incubator's folder was last looked over.", "incubator"
        )
        self.watch_overflows = counter(
            "watch_overflows_total", "Times the kernel dropped file events: then all is scanned."
        )
        self.share_reachable = gauge("share_reachable", "1 while the incubator's folder can be listed.", "incubator")
        self.clock_skew = gauge(
            "clock_skew_seconds", "How far the incubator's clock is ahead of its files' (negative: behind), median of "
            "the last live frames.", "incubator"
        )  # fmt: skip
        self.input_drift = gauge(
            "input_drift", "How many standard deviations of its first frames an incubator's pictures lie from them.",
            "incubator", "feature"
        )  # fmt: skip
        self.blastocyst_share = gauge(
            "blastocyst_share", "Share of an incubator's last embryos that became blastocysts, of those of which it is "
            "known.", "incubator"
        )  # fmt: skip
        self.blastocyst_predicted = gauge(
            "blastocyst_predicted", "Mean probability of blastocyst predicted of these embryos, by the day of the "
            "check.", "incubator", "day"
        )  # fmt: skip
        self.outcomes_known = gauge(
            "outcomes_known", "How many of an incubator's last embryos that share is of.", "incubator"
        )
        self.prediction_drift = gauge(
            "prediction_drift", "How far the last predictions are spread otherwise than the first (0 alike, 1 wholly "
            "apart), by the day of the check.", "incubator", "day"
        )  # fmt: skip
        self.active_embryos = gauge("active_embryos", "Embryos with an open run.", "incubator")
        self.queue_depth = gauge("queue_depth", "Frames seen and not yet journalled.")
        self.queue_oldest = gauge("queue_oldest_age_seconds", "How long the oldest of them has waited.")
        self.step = Histogram(
            "step_duration_seconds",
            "Time of one call of an engine (a batch of frames).",
            ("engine",),
            namespace="pellucid",
            registry=registry,
            buckets=_STEP_BUCKETS_S,
        )
        self.step_failures = counter("step_failures_total", "Frames an engine gave no answer to.", "engine", "reason")
        self.engine_fallback = gauge("engine_fallback", "1 while an engine serves on a fallback runtime.", "engine")
        self.gpu_memory = gauge("gpu_memory_bytes", "Memory of the GPU (a Jetson's is the machine's).", "gpu", "kind")
        self.gpu_temperature = gauge("gpu_temperature_celsius", "Temperature of the GPU.", "gpu")
        self.gpu_power = gauge("gpu_power_watts", "What the GPU (on a Jetson: its rail) takes.", "gpu")
        self.gpu_throttled = gauge("gpu_throttled", "1 while heat or power hold the GPU's clocks down.", "gpu")
        self.restores = counter("state_restores_total", "Memories recalled from disk, by outcome.", "outcome")
        self.storage_failures = counter("storage_failures_total", "Times the journal or a state could not be written.")
        self.disk_free = gauge("disk_free_bytes", "Free space where the journal lies.")
        self.mqtt_connected = gauge("mqtt_connected", "1 while the broker has accepted the session.")
        self.mqtt_session = gauge("mqtt_session", "Number of the current or last MQTT session.")
        self.outbox_messages = gauge("outbox_messages", "Messages not yet acknowledged by the broker.")
        self.outbox_oldest = gauge("outbox_oldest_age_seconds", "Age of the oldest of them.")
        self.messages = counter("published_total", "Messages the broker answered, by outcome.", "kind", "outcome")
        self.latency = Histogram(
            "frame_latency_seconds",
            "From the frame's last file complete to its reading acknowledged by the broker.",
            namespace="pellucid",
            registry=registry,
            buckets=_LATENCY_BUCKETS_S,
        )
        self.alerts_open = gauge("alerts_open", "Alerts that stand open.", "kind")
        self.gradings = counter("gradings_total", "Results of day 5 journalled, by outcome.", "outcome")
        self.engine_info = Info(
            "engine", "The engines that serve.", ("task", "model"), namespace="pellucid", registry=registry
        )
        self.build_info = Info("build", "This software.", namespace="pellucid", registry=registry)

    def declare(self, incubators: list[str], engines: list[str]) -> None:
        """Make the series of incubators and engines exist at zero: an increase over a series that is new is zero, and
        a first failure would ring no alarm."""
        for reason in PUT_ASIDE:
            self.quarantined.labels(reason)
        for outcome in ("restored", "lost", "other_model"):
            self.restores.labels(outcome)
        for engine in engines:
            for reason in ("engine", "not_finite"):
                self.step_failures.labels(engine, reason)
        for name in incubators:
            for frame_outcome in Outcome:
                self.frames.labels(name, frame_outcome.value)
            self.planes_missing.labels(name)
            self.share_reachable.labels(name).set(0)
            self.active_embryos.labels(name).set(0)

    def declare_gradings(self) -> None:
        """The same of day 5, where its models serve."""
        for outcome in get_args(Day5Outcome):
            self.gradings.labels(outcome)

    def open_alerts(self, counts: Mapping[str, int]) -> None:
        """How many alerts of each kind stand open; every kind has its series."""
        for kind in KINDS:
            self.alerts_open.labels(kind).set(counts.get(kind, 0))

    def told(self, reading: Reading, complete_at: datetime | None) -> None:
        """A reading was journalled."""
        name = reading.embryo.incubator
        self.frames.labels(name, reading.outcome.value).inc()
        if reading.revision == 1:
            self.planes_missing.labels(name).inc(len(reading.frame.missing_planes))
        captured_at = reading.frame.captured_at or complete_at
        if captured_at is not None and reading.outcome is not Outcome.OUT_OF_ORDER:
            self.last_frame.labels(name).set(captured_at.timestamp())

    def day5_told(self, event: Event) -> None:
        """A result of day 5 was journalled."""
        self.gradings.labels(event.day5.outcome).inc()

    def gpu_told(self, figures: Sequence[GpuFigures]) -> None:
        """What the GPUs told last; what is not told has no series."""
        for gauge in (self.gpu_memory, self.gpu_temperature, self.gpu_power, self.gpu_throttled):
            gauge.clear()
        for one in figures:
            for gauge, labels, value in (
                (self.gpu_memory, (one.gpu, "used"), one.memory_used_bytes),
                (self.gpu_memory, (one.gpu, "total"), one.memory_total_bytes),
                (self.gpu_temperature, (one.gpu,), one.temperature_celsius),
                (self.gpu_power, (one.gpu,), one.power_watts),
                (self.gpu_throttled, (one.gpu,), one.throttled),
            ):
                if value is not None:
                    gauge.labels(*labels).set(value)

    def connected(self, up: bool, session: int) -> None:
        self.mqtt_connected.set(int(up))
        self.mqtt_session.set(session)

    def published(self, kind: str, outcome: str, row: OutboxRow) -> None:
        self.messages.labels(kind, outcome).inc()
        if kind == "reading" and outcome == "delivered" and row.complete_at is not None:
            self.latency.observe(max(0.0, (self._now() - row.complete_at).total_seconds()))
