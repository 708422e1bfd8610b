"""The commands. Each reads its arguments, hands them to a room and turns named failures into exit codes.

Exit codes: 0 done, 1 failed while running, 2 wrong usage, 78 bad configuration (EX_CONFIG).
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from monitor import __version__
from monitor.arguments import more_than_0 as _more_than_0
from monitor.arguments import positive as _positive
from monitor.cli_engines import add_engines
from monitor.cli_journal import add_journal
from monitor.cli_page import add_page
from monitor.cli_replay import add_replay
from monitor.cli_simulate import add_simulate
from monitor.errors import ConfigError, EngineError, PellucidError

EX_CONFIG = 78


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit code."""
    arguments = _parser().parse_args(_negative_values(list(sys.argv[1:] if argv is None else argv)))
    try:
        code = int(arguments.command(arguments))
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # whoever reads, `head` for one, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except ConfigError as fault:
        print(f"pellucid: {fault}", file=sys.stderr)
        return EX_CONFIG
    except (PellucidError, EngineError) as fault:
        print(f"pellucid: {fault}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _negative_values(argv: list[str]) -> list[str]:
    """`--planes -45,0,45` -> `--planes=-45,0,45`: argparse would take the value for an option."""
    joined: list[str] = []
    for word in argv:
        if joined and joined[-1] == "--planes" and re.match(r"-\d", word):
            joined[-1] = f"--planes={word}"
        else:
            joined.append(word)
    return joined


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pellucid", description="Streaming monitor for IVF time-lapse incubators. Research use, adjunctive only."
    )
    parser.add_argument("--version", action="version", version=f"pellucid {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_demo(commands)
    _add_run_and_check(commands)
    add_replay(commands)
    add_simulate(commands)
    add_engines(commands)
    add_page(commands)
    add_journal(commands)
    return parser


_Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def _add_demo(commands: _Commands) -> None:
    from monitor.demo import Settings

    command = commands.add_parser("demo", help="everything on one machine, with virtual embryos; ends by itself")
    command.add_argument("--embryos", type=_positive, default=Settings.embryos)
    command.add_argument(
        "--hours", type=_more_than_0, default=Settings.hours, help="virtual hours (default: %(default)s)"
    )
    command.add_argument("--every-min", type=_more_than_0, default=Settings.every_min, help="minutes between frames")
    command.add_argument("--seed", type=int, default=Settings.seed)
    command.add_argument("--http-port", type=int, default=Settings.http_port, help="0: any free port")
    command.set_defaults(command=_demo)


def _add_run_and_check(commands: _Commands) -> None:
    run = commands.add_parser("run", help="the daemon")
    run.add_argument("--config", type=Path, required=True)
    run.set_defaults(command=_run)
    check = commands.add_parser("check", help="what would happen if the daemon started now; changes nothing")
    check.add_argument("--config", type=Path, required=True)
    check.add_argument("--incoming", type=Path, help="tell how the files in this folder would be read")
    check.set_defaults(command=_check)


def _demo(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from monitor.demo import Settings, demo

    settings = Settings(
        arguments.embryos, arguments.hours, arguments.every_min, arguments.seed, http_port=arguments.http_port
    )
    return demo(settings, Console())


def _run(arguments: argparse.Namespace) -> int:
    from prometheus_client import CollectorRegistry

    from monitor.clock import SystemClock
    from monitor.config import read_config
    from monitor.daemon import Daemon
    from monitor.logs import log_to_stderr
    from monitor.metrics import Metrics
    from monitor.node import load_models
    from monitor.notify import Notifier
    from monitor.page_process import endpoints_up

    log_to_stderr()
    config, clock = read_config(arguments.config), SystemClock()
    metrics = Metrics(CollectorRegistry(), clock.now)
    daemon = Daemon(config, load_models(config.engines, builds=True), metrics, clock, Notifier())
    for name in (signal.SIGTERM, signal.SIGINT):
        # from a thread: the handler runs inside the loop's own wait, whose lock `stop` needs
        signal.signal(name, lambda *_: threading.Thread(target=daemon.stop, daemon=True).start())
    with endpoints_up(config, metrics.registry, daemon.ready, daemon.submit) as endpoints:
        logging.getLogger(__name__).info("endpoints are up", extra={"url": endpoints.url})
        daemon.run()
    return 0


def _check(arguments: argparse.Namespace) -> int:
    from monitor.check import check, folder_findings
    from monitor.config import read_config

    config = read_config(arguments.config)
    findings = list(check(config))
    if arguments.incoming is not None:
        findings += [finding for inc in config.incubator for finding in folder_findings(inc, arguments.incoming)]
    for finding in findings:
        print(finding)
    return 1 if any(finding.level == "error" for finding in findings) else 0
