"""A node put together: engine, journal, memory, pipeline and the incubators' intakes, from what an operator configured.

The daemon, the replay and the check build their node here, so that all three are the same way. It runs nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from engines.contract import Engine
from engines.day5_models import Day5Models
from engines.load import BUNDLED_MODELS, GpuUse, Loaded, find_manifest, load_engine
from engines.locate import LEAST_SIDE_PX
from engines.segments import SegmentPolicy
from engines.stages import StagePolicy
from monitor import provenance
from monitor.alarms import Alarms
from monitor.alert_machine import Voice
from monitor.alert_rules import DEFAULTS, Alerts
from monitor.config import Engines, Incubator
from monitor.day5_judge import Day5Judge
from monitor.day5_work import OVERLAYS, Day5Work, Pictures
from monitor.errors import ConfigError, EngineError
from monitor.intake import Intake
from monitor.journal import Journal
from monitor.memory import IncubatorFacts, Memory
from monitor.metrics import Metrics
from monitor.observe import observe
from monitor.pipeline import Pipeline
from monitor.read import Speaker, calibration_of
from monitor.stages import Stages
from monitor.states import StateFiles
from monitor.timezero import TimeZero
from monitor.vocabulary import Clock, FocalStack, Observation

log = logging.getLogger(__name__)


def load_models(settings: Engines, builds: bool = False) -> Loaded:
    """The blastocyst model and those beside it (stage, day 5), warm. Raises ConfigError that says what is missing.

    `builds`: what a GPU here lacks is built beside the work, and serves once it has proven itself.
    """
    folder = BUNDLED_MODELS if settings.models == "bundled" else Path(settings.models)
    try:
        loaded = _loaded(settings, settings.blastocyst, "blastocyst", folder, "blastocyst", builds)
        name = settings.stage_model
        stage = _loaded(settings, name, "stage", folder, "stage", builds) if name else None
        if not settings.segmenter:
            return replace(loaded, stage=stage)
        segmenter = _loaded(settings, settings.segmenter, "segmentation", folder, "segmenter", builds)
        graders = tuple(_loaded(settings, name, "grade", folder, "graders", builds) for name in settings.graders)
        Day5Models(segmenter, graders)
        return replace(loaded, stage=stage, segmenter=segmenter, graders=graders)
    except EngineError as fault:
        raise ConfigError(f"engines: {fault}") from fault


def _loaded(settings: Engines, name: str, task: str, folder: Path, key: str, builds: bool) -> Loaded:
    loaded = load_engine(
        find_manifest(name, folder),
        settings.device,
        settings.threads,
        GpuUse(Path(settings.plans) if settings.plans else None, builds),
    )
    if loaded.manifest.task != task:
        raise ConfigError(f"engines.{key} = {name!r}: that model's task is {loaded.manifest.task!r}")
    for engine in loaded.engines:
        warm_up(engine)
    return loaded


def warm_up(engine: Engine) -> None:
    """One step that nobody remembers, so that the first frame finds everything allocated. Raises EngineError."""
    inputs = {tensor.name: np.zeros((1, *tensor.shape), tensor.dtype) for tensor in engine.spec.inputs}
    engine.step([engine.initial_state()], inputs)


@dataclass
class Node:
    """What works together. `day5`: the work between frames, None where its models do not serve."""

    journal: Journal
    memory: Memory
    alarms: Alarms
    pipeline: Pipeline
    intakes: dict[str, Intake]
    time_zeros: dict[str, TimeZero]
    model: str
    day5: Day5Work | None = None

    def backlog(self, now_s: float) -> tuple[int, float]:
        """Frames seen and not yet journalled, and how long (s) the oldest of them has waited; 0 where none does."""
        assemblers = [intake.assembler for intake in self.intakes.values()]
        since = [since_s for assembler in assemblers if (since_s := assembler.oldest_since()) is not None]
        return sum(map(len, assemblers)), now_s - min(since) if since else 0.0


@dataclass(frozen=True)
class Source:
    """An incubator and what only a replay says of it: the hour of its frames."""

    incubator: Incubator
    stated_hpi: float | None = None


def build_node(
    site: str,
    node: str,
    sources: Sequence[Source],
    loaded: Loaded,
    storage: Path,
    boot_id: str | None,
    clock: Clock,
    metrics: Metrics,
    rules: Alerts = DEFAULTS,
    blind_first: bool = False,
    going_on: Callable[[], None] = lambda: None,
) -> Node:
    """Put a node together over `storage`; `going_on`: see `Journal.begin`. Raises ConfigError, StorageError."""
    manifest = loaded.manifest
    segments = manifest.segments
    if segments is None:
        raise ConfigError(f"engines.blastocyst = {manifest.name!r}: its manifest names no `segments`")
    counts = manifest.preprocess.allowed_plane_counts
    for source in sources:
        check_planes(source.incubator, manifest.name, counts)
        for beside in loaded.serving[1:]:
            own = beside.manifest
            check_planes(source.incubator, own.name, own.preprocess.allowed_plane_counts)
    time_zeros = {source.incubator.name: new_time_zero(source) for source in sources}
    journal = Journal(storage, boot_id, blind_first)
    states = StateFiles(storage / "states")
    if not journal.is_new and (swept := states.sweep(journal.state_digests())):
        log.warning("state files that no reading names were removed", extra={"files": swept})
    policy = SegmentPolicy(loaded.engine, segments, manifest.preprocess, manifest.stability)
    facts = {
        source.incubator.name: IncubatorFacts(time_zeros[source.incubator.name], source.incubator.cadence_min)
        for source in sources
    }
    memory = Memory(
        journal, states, policy, manifest.name, facts, lambda outcome: metrics.restores.labels(outcome).inc()
    )
    stages = None if loaded.stage is None else _stages(loaded.stage, journal, states, metrics)
    digests = {one.manifest.name: one.manifest.graph.sha256 for one in loaded.serving}
    voice = Voice(site, node)
    alarms = Alarms(journal, rules, voice, clock.now if boot_id is not None else None)
    overlays = _overlays(loaded, journal, storage)
    pipeline = Pipeline(
        policy,
        manifest.preprocess,
        manifest.name,
        observer([source.incubator for source in sources], LEAST_SIDE_PX if manifest.preprocess.crop else 0),
        memory,
        journal,
        Speaker(site, node, digests, calibration_of(manifest.calibration), loaded.stage is not None),
        alarms,
        clock.now,
        lambda reason: metrics.step_failures.labels(manifest.name, reason).inc(),
        metrics.step.labels(manifest.name).time,
        stages,
        (lambda digests: None) if overlays is None else overlays.drop,
    )
    intakes = {
        source.incubator.name: _intake(
            source.incubator, time_zeros[source.incubator.name], counts, journal, clock, metrics
        )
        for source in sources
    }
    day5 = None
    if loaded.segmenter is not None and overlays is not None:
        day5 = _day5(loaded.segmenter, loaded.graders, sources, journal, overlays, voice, clock, metrics)
    journal.begin(provenance.software(), provenance.models(loaded), clock.now(), going_on)
    return Node(journal, memory, alarms, pipeline, intakes, time_zeros, manifest.name, day5)


def _overlays(loaded: Loaded, journal: Journal, storage: Path) -> StateFiles | None:
    """The pictures of day 5; None where there are none and no model makes any."""
    if loaded.segmenter is None and not (storage / OVERLAYS).is_dir():
        return None
    overlays = StateFiles(storage / OVERLAYS, ".png")
    if not journal.is_new and (swept := overlays.sweep(journal.day5.overlays())):
        log.warning("pictures of day 5 that no embryo names were removed", extra={"files": swept})
    return overlays


def _day5(
    segmenter: Loaded,
    graders: Sequence[Loaded],
    sources: Sequence[Source],
    journal: Journal,
    overlays: StateFiles,
    voice: Voice,
    clock: Clock,
    metrics: Metrics,
) -> Day5Work:
    models = Day5Models(segmenter, graders, lambda name: metrics.step.labels(name).time())
    judge = Day5Judge(models, lambda model, reason: metrics.step_failures.labels(model, reason).inc())
    pictures = {
        one.name: Pictures(one.path, len(one.planes) if one.reader.stacked else None, one.pixel_size_um)
        for one in (source.incubator for source in sources)
    }
    return Day5Work(judge, journal, overlays, pictures, voice, clock, metrics.day5_told)


def _stages(loaded: Loaded, journal: Journal, states: StateFiles, metrics: Metrics) -> Stages:
    name = loaded.manifest.name
    return Stages(
        StagePolicy(loaded),
        name,
        journal,
        states,
        lambda outcome: metrics.restores.labels(outcome).inc(),
        lambda reason: metrics.step_failures.labels(name, reason).inc(),
        metrics.step.labels(name).time,
    )


def check_planes(incubator: Incubator, model: str, counts: tuple[int, ...]) -> None:
    """Raises ConfigError when the model judges no stack of as many planes as the incubator gives."""
    if len(incubator.planes) not in counts:
        raise ConfigError(
            f"incubator {incubator.name!r}: planes = {list(incubator.planes)}: model {model!r} judges stacks of "
            f"{', '.join(map(str, counts))} planes"
        )


def observer(incubators: Sequence[Incubator], least_side_px: int = 0) -> Callable[[FocalStack], Observation]:
    """Observes each incubator's stacks with its own limits and clock."""
    settings = {one.name: (one.quality.limits, one.clock_skew_s, least_side_px) for one in incubators}
    return lambda stack: observe(stack, *settings[stack.place.incubator])


def new_time_zero(source: Source) -> TimeZero:
    """The time zero of a source. Raises ConfigError when its CSV does not read."""
    incubator = source.incubator
    return TimeZero(incubator.insemination, incubator.clock_skew_s, source.stated_hpi, incubator.reader.assumed_hpi)


def _intake(
    incubator: Incubator,
    time_zero: TimeZero,
    counts: tuple[int, ...],
    journal: Journal,
    clock: Clock,
    metrics: Metrics,
) -> Intake:
    return Intake(
        incubator.name,
        incubator.path,
        incubator.reader,
        incubator.planes,
        counts,
        journal,
        clock,
        time_zero.of,
        incubator.stable_s,
        incubator.deadline_s,
        lambda reason: metrics.quarantined.labels(reason).inc(),
    )
