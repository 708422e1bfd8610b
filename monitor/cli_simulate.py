"""The command `pellucid simulate`: the virtual incubator alone, with its faults and its truth."""

from __future__ import annotations

import argparse
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TypeAlias

from monitor.arguments import moment, more_than_0, not_negative, positive, share
from monitor.errors import ConfigError

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_simulate(commands: Commands) -> None:
    """Add the command and its options."""
    command = commands.add_parser(
        "simulate",
        help="the virtual incubator: writes frames as a real one would",
        description="Virtual embryos, written as an incubator would, with their truth beside them. A run that was "
        "stopped goes on when the same command, with the same --start, is given again.",
    )
    command.add_argument("--out", type=Path, required=True)
    command.add_argument("--embryos", type=positive, default=6)
    command.add_argument("--hours", type=more_than_0, default=119.0)
    command.add_argument("--every-min", type=more_than_0, default=60.0, help="minutes between frames")
    command.add_argument("--seed", type=not_negative, default=0, help="of the first embryo; the next has the next")
    command.add_argument("--size-px", type=positive, default=500)
    command.add_argument(
        "--start", type=moment, help="time of the first frame (default: now; without --speed: so that the last is now)"
    )
    command.add_argument(
        "--speed", type=more_than_0, help="virtual seconds a second, 1 is live (default: as fast as it goes)"
    )
    command.add_argument("--first-hpi", type=float, default=0.0, help="hours post insemination of the first frame")
    command.add_argument("--layout", default="generic", help=f"one of {', '.join(_layouts())}")
    command.add_argument(
        "--fault",
        action="append",
        default=[],
        metavar="NAME[=RATE[:AMOUNT]]",
        help=f"something that goes wrong; again for another. {_told_faults()}",
    )
    command.add_argument("--arrest-share", type=share, default=0.36, help="share that never reaches tB")
    command.add_argument("--masks", type=Path, help="a folder outside of OUT for blastocysts with masks of their parts")
    command.set_defaults(command=_simulate)


def _layouts() -> tuple[str, ...]:
    from monitor.simulator.folders import LAYOUTS

    return LAYOUTS


def _told_faults() -> str:
    from monitor.simulator.faults import KINDS

    return "; ".join(f"{name}={kind.rate:g}:{kind.amount:g} ({kind.of}; {kind.unit})" for name, kind in KINDS.items())


def _simulate(arguments: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.progress import Progress

    from monitor.simulator import Fault, simulate

    now = datetime.now(timezone.utc).replace(second=0, microsecond=0)
    start = arguments.start or now - (timedelta(hours=arguments.hours) if arguments.speed is None else timedelta())
    console = Console(stderr=True)
    try:
        faults = [Fault.parse(text) for text in arguments.fault]
        with Progress(console=console, disable=not console.is_terminal) as bar:
            task = bar.add_task("frames", total=None)
            written = simulate(
                arguments.out,
                start=start,
                embryos=arguments.embryos,
                hours=arguments.hours,
                every_min=arguments.every_min,
                first_hpi_h=arguments.first_hpi,
                seed=arguments.seed,
                size_px=arguments.size_px,
                layout=arguments.layout,
                faults=faults,
                arrest_share=arguments.arrest_share,
                masks=arguments.masks,
                speed=arguments.speed,
                on_frame=lambda done, total: bar.update(task, completed=done, total=total),
            )
    except ValueError as fault:
        raise ConfigError(str(fault)) from fault
    print(f"{written} frames written below {arguments.out}; their truth below {arguments.out / 'truth'}")
    return 0
