"""The command `pellucid replay`: recorded frames through the same way, and where that differs from what was told."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from monitor.arguments import positive, share
from monitor.errors import ConfigError

if TYPE_CHECKING:
    from engines.load import Loaded
    from monitor.config import Config
    from monitor.node import Source
    from monitor.replay import Summary

_Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

MOST_LINES = 50  # of differences; all of them go into a file


def add_replay(commands: _Commands) -> None:
    command = commands.add_parser("replay", help="recorded frames through the same way: readings.jsonl")
    command.add_argument(
        "source",
        type=Path,
        nargs="*",
        help="a folder; its name becomes the incubator's (none: with --against, the incubators of --config)",
    )
    command.add_argument("--out", type=Path, required=True)
    command.add_argument("--layout", default="generic", help="a preset or a pattern (default: %(default)s)")
    command.add_argument("--planes", type=_planes, help="um, for example -45,0,45 (default: those seen in SOURCE)")
    command.add_argument("--hpi", type=float, help="hours post insemination of frames whose files do not tell it")
    command.add_argument("--config", type=Path, help="take site, node, engines, alerts and limits from this file")
    command.add_argument("--jobs", type=positive, default=2, help="threads that decode (default: %(default)s)")
    command.add_argument(
        "--against", type=Path, metavar="JOURNAL", help="say where its readings differ; exit 1 where any does"
    )
    command.add_argument(
        "--differ-by", type=share, default=0.001, metavar="P", help="a probability differs from here on (%(default)s)"
    )
    command.set_defaults(command=_replay)


def _planes(text: str) -> tuple[int, ...]:
    try:
        return tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError as fault:
        raise argparse.ArgumentTypeError("planes are um with commas between, for example -45,0,45") from fault


def _replay(arguments: argparse.Namespace) -> int:
    from monitor.config import Engines, read_config
    from monitor.node import load_models

    config = None if arguments.config is None else read_config(arguments.config)
    then = None if arguments.against is None else _journal(arguments.against)
    given = _sources(arguments, config)
    loaded = load_models(Engines() if config is None else config.engines)
    summary = _run(arguments, config, given, loaded)
    new = ", ".join(f"{count} {outcome}" for outcome, count in sorted(summary.outcomes.items())) or "nothing new"
    print(
        f"{summary.lines} readings in {arguments.out / 'readings.jsonl'} ({new}; {summary.put_aside} files put aside), "
        f"{summary.alerts} words about alerts in {arguments.out / 'alerts.jsonl'}"
        + (f", {summary.events} events in {arguments.out / 'events.jsonl'}" if loaded.segmenter is not None else "")
    )
    return 0 if then is None else _compare(then, arguments.out, arguments.differ_by, loaded)


def _journal(path: Path) -> Path:
    """The folder of a journal, named itself or by its file. Raises ConfigError where there is none."""
    folder = path.parent if path.name == "journal.sqlite" else path
    if not (folder / "journal.sqlite").is_file():
        raise ConfigError(f"--against {str(path)!r}: there is no journal.sqlite; name the folder of [storage] path")
    return folder


def _sources(arguments: argparse.Namespace, config: Config | None) -> list[Source]:
    from monitor.layouts import layout
    from monitor.replay import as_configured, sources

    layout(arguments.layout)
    incubators = () if config is None else config.incubator
    if arguments.source:
        return sources(arguments.source, arguments.layout, arguments.planes, arguments.hpi, incubators)
    if arguments.against is None or config is None:
        raise ConfigError("replay: name a SOURCE; only with --against and --config it may be left out")
    return as_configured(config.incubator)


def _run(arguments: argparse.Namespace, config: Config | None, given: list[Source], loaded: Loaded) -> Summary:
    from rich.console import Console
    from rich.progress import Progress

    from monitor.alert_rules import DEFAULTS
    from monitor.clock import SystemClock
    from monitor.replay import replay

    names = {} if config is None else {"site": config.site.name, "node_name": config.site.node}
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("frames", total=None)
        return replay(
            given,
            arguments.out,
            loaded,
            SystemClock(),
            jobs=arguments.jobs,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
            rules=DEFAULTS if config is None else config.alerts,
            **names,
        )


def _compare(then: Path, out: Path, differ_by: float, loaded: Loaded) -> int:
    from monitor.against import Comparison, compared

    found, path = Comparison(), out / "against.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for number, difference in enumerate(compared(then, out / "journal", differ_by, found), 1):
            file.write(difference.line() + "\n")
            if number <= MOST_LINES:
                print(difference)
    if found.differ > MOST_LINES:
        print(f"and {found.differ - MOST_LINES} more, all of them in {path}")
    serving = {one.manifest.name: {one.manifest.graph.sha256} for one in loaded.serving}
    other = [name for name, digests in found.engines_now.items() if digests != serving.get(name)]
    if other:
        raise ConfigError(f"--out {str(out)!r} holds readings of another {', '.join(other)}: choose a new folder")
    for line in found.lines():
        print(line)
    return 0 if found.same else 1
