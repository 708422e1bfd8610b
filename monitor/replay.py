"""Recorded frames through the same way as live ones, as fast as it goes: `readings.jsonl`, a line for each frame, and
`alerts.jsonl`, a line for each word about an alert that frames raise (a replay knows no silence and no full disk).
Where models of day 5 serve, `events.jsonl` has a line for each of their results: an embryo's work is done before its
next frame is taken, so that it stands in that frame's reading.

It is resumable: a journal of its own below OUT remembers what was done. Nothing is sent. Two replays of the same
frames with the same models give the same bytes.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import CollectorRegistry

from engines.load import Loaded
from monitor.alert_rules import DEFAULTS, Alerts
from monitor.assemble import Assembled
from monitor.config import Incubator
from monitor.errors import ConfigError, FrameError
from monitor.intake import Intake
from monitor.layouts import WORD, layout
from monitor.metrics import Metrics
from monitor.node import Node, Source, build_node
from monitor.pictures import kind_of, read_bytes
from monitor.survey import even_sample, look_over, read_names
from monitor.vocabulary import Clock, PlaneFile

log = logging.getLogger(__name__)

BATCH = 16
_OF_THE_LAB = (
    "quality",
    "cadence_min",
    "clock_skew_s",
    "insemination",
    "pixel_size_um",
)  # what of an incubator holds for its archive
SAMPLE = 20  # files whose pages are counted
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Summary:
    """What a replay came to: readings by outcome (of this run), lines of readings and alerts, files put aside, lines of
    events."""

    outcomes: dict[str, int]
    lines: int
    alerts: int
    put_aside: int
    events: int = 0


def sources(
    folders: Sequence[Path],
    layout_name: str,
    planes: tuple[int, ...] | None,
    hpi: float | None,
    configured: Sequence[Incubator] = (),
) -> list[Source]:
    """Each folder as an incubator of its own name; the planes are those seen in it unless given. Raises ConfigError.

    Where a configured incubator has that name, its frames are judged by its limits, clock and cadence.
    """
    if hpi is not None and {"captured_at", "run"} & set(layout(layout_name).pattern.groupindex):
        raise ConfigError(f"--hpi gives one hour to all frames: not for layout {layout_name!r}, whose frames differ")
    found: dict[str, Source] = {}
    for folder in folders:
        name = folder.resolve().name
        if not WORD.match(name):
            raise ConfigError(f"source {str(folder)!r}: its name becomes the incubator's: only A-Z a-z 0-9 . _ -")
        if name in found:
            raise ConfigError(f"two sources are named {name!r}: replay them apart")
        seen = planes or planes_seen(folder, layout_name)
        facts = {"path": folder.resolve(), "layout": layout_name, "planes": seen, "stable_s": 0, "deadline_s": 0}
        own = [{key: getattr(other, key) for key in _OF_THE_LAB} for other in configured if other.name == name]
        found[name] = Source(Incubator.model_validate({"name": name, **facts, **(own[0] if own else {})}), hpi)
    return list(found.values())


def as_configured(incubators: Sequence[Incubator]) -> list[Source]:
    """The incubators under their own names, as they lie: what is there is there."""
    return [Source(one.model_copy(update={"stable_s": 0.0, "deadline_s": 0.0})) for one in incubators]


def planes_seen(folder: Path, layout_name: str) -> tuple[int, ...]:
    """The planes of a folder in um: those in its files' names; of stacks, the usual seven or the only one.

    Raises ConfigError when there is none, or when nobody can know which planes the pages of a stack are.
    """
    reader = layout(layout_name)
    try:
        planes, faults = read_names(folder, reader, "source", look_over(folder))
    except OSError as fault:
        raise ConfigError(f"source {str(folder)!r}: {fault.strerror}") from fault
    if not planes:
        seen = f"; there is for example {faults[0][0].path!r}" if faults else "; it holds no picture"
        raise ConfigError(f"source {str(folder)!r}: no file fits layout {layout_name!r}{seen}")
    if reader.stacked:
        return _planes_of_pages(folder, planes)
    return tuple(sorted({plane.plane_um for plane in planes}))


def _planes_of_pages(folder: Path, stacks: Sequence[PlaneFile]) -> tuple[int, ...]:
    """By the number of pages most of some files have, so that a damaged one decides nothing. Raises ConfigError."""
    pages: Counter[int] = Counter()
    for stack in even_sample(stacks, SAMPLE):
        try:
            pages[kind_of(read_bytes(folder / stack.file.path), stack.file.path).pages] += 1
        except FrameError as fault:
            log.warning("a stack is not counted", extra={"path": stack.file.path, "fault": str(fault)})
    if not pages:
        raise ConfigError(
            f"source {str(folder)!r}: no page of its files can be read; give --planes to replay it anyhow"
        )
    count = pages.most_common(1)[0][0]
    usual: tuple[int, ...] = Incubator.model_fields["planes"].default
    if count not in (1, len(usual)):
        raise ConfigError(
            f"source {str(folder)!r}: its files hold {count} pages, and pages do not say which planes they are: "
            "give them in um with --planes, ascending, for example --planes -15,0,15"
        )
    return usual if count == len(usual) else (0,)


def replay(
    given: Sequence[Source],
    out: Path,
    loaded: Loaded,
    clock: Clock,
    site: str = "replay",
    node_name: str = "replay",
    jobs: int = 1,
    progress: Progress = lambda done, total: None,
    rules: Alerts = DEFAULTS,
) -> Summary:
    """Take every frame of the sources the whole way and write OUT/readings.jsonl, OUT/alerts.jsonl, OUT/events.jsonl.

    Raises ConfigError, StorageError.
    """
    metrics = Metrics(CollectorRegistry(), clock.now)
    node = build_node(site, node_name, given, loaded, out / "journal", None, clock, metrics, rules)
    outcomes: dict[str, int] = {}
    events = 0
    try:
        if node.day5 is not None:
            node.day5.catch_up()  # what was cut off between a frame and its work
        for intake in node.intakes.values():
            intake.look(full=True)
        total, done = sum(len(intake.assembler) for intake in node.intakes.values()), 0
        with ThreadPoolExecutor(max_workers=max(1, jobs)) as pool:
            while batch := _next_batch(node, pool):
                for reading in node.pipeline.advance([frame for _, frame in batch]).readings:
                    outcomes[reading.outcome.value] = outcomes.get(reading.outcome.value, 0) + 1
                for intake, frame in batch:
                    intake.done(frame)
                if node.day5 is not None:
                    node.day5.catch_up()
                done += len(batch)
                progress(done, total)
        lines = _write(node.journal.bodies(), out / "readings.jsonl")
        alerts = _write(node.journal.alerts.bodies(), out / "alerts.jsonl")
        if node.day5 is not None:
            events = _write(node.journal.day5.bodies(), out / "events.jsonl")
    finally:
        node.journal.close()
    return Summary(outcomes, lines, alerts, _put_aside(metrics), events)


def _next_batch(node: Node, pool: Executor) -> list[tuple[Intake, Assembled]]:
    """The oldest frame of each of several embryos, decoded side by side (decoding is most of a small model's frame)."""
    due = [(intake, name) for intake in node.intakes.values() for name in intake.due()][:BATCH]
    frames = pool.map(lambda pair: pair[0].assemble(pair[1]), due)
    return [(intake, frame) for (intake, _), frame in zip(due, frames, strict=True) if frame is not None]


def _write(bodies: Iterable[str], path: Path) -> int:
    """Whole or not at all: a reader never meets half a file."""
    lines = 0
    draft = path.with_suffix(".part")
    with draft.open("w", encoding="utf-8", newline="\n") as file:
        for body in bodies:
            file.write(body + "\n")
            lines += 1
    draft.replace(path)
    return lines


def _put_aside(metrics: Metrics) -> int:
    samples = [sample for metric in metrics.quarantined.collect() for sample in metric.samples]
    return int(sum(sample.value for sample in samples if sample.name.endswith("_total")))
