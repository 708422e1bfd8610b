"""The command `pellucid page`: the page alone, beside a daemon or over the journal that one left."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from pathlib import Path
from typing import TypeAlias

from monitor.config import Config, make_config, read_config
from monitor.errors import ConfigError
from monitor.logs import log_to_stderr
from monitor.page_process import can_serve

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

_PORT = 9465


def add_page(commands: Commands) -> None:
    """Add the command and its options."""
    page = commands.add_parser(
        "page",
        help="the page alone (with [http] page = true the daemon serves it itself)",
        description="The page over the journal of a configuration, on loopback. It reads only. With [http] page = true "
        "the daemon starts it itself and stands before it with its token and TLS.",
    )
    page.add_argument(
        "--config", required=True, help="the daemon's file; -: as JSON on standard input, which stays open"
    )
    page.add_argument("--port", type=int, default=_PORT, help="on 127.0.0.1; 0: any free port (default: %(default)s)")
    page.add_argument("--socket", type=Path, help="a Unix socket instead of a port")
    page.add_argument("--daemon", metavar="URL", help="where the daemon's HTTP is, for the state of the system")
    page.set_defaults(command=_page)


def _page(arguments: argparse.Namespace) -> int:
    if not can_serve():
        raise ConfigError("the page needs the extra \"web\": pip install 'pellucid[web]'")
    from monitor.web.serve import serve

    log_to_stderr(logging.WARNING)
    piped = arguments.config == "-"
    config = _piped() if piped else read_config(Path(arguments.config))
    if arguments.socket is None and config.http.token_file is not None:
        raise ConfigError(
            "http.token_file is set and a port of its own would stand open without it: set http.page = true, and the "
            "daemon serves the page behind its token"
        )
    serve(config, arguments.socket, arguments.port, arguments.daemon, piped)
    return 0


def _piped() -> Config:
    return make_config(json.loads(sys.stdin.buffer.readline()), "the daemon's configuration")
