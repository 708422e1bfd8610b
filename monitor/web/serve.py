"""The page as a process: one address, a gentle priority, and an end when the daemon's end is seen.

Started by the daemon it listens on a Unix socket that only this user can open, and the daemon's own server stands
before it (token, TLS). Started by hand it listens on loopback.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import threading
from pathlib import Path

import uvicorn

from monitor.config import Config
from monitor.errors import ConfigError, StorageError
from monitor.web.app import Page, application, page_of
from monitor.web.health import Health, over_http

log = logging.getLogger(__name__)

NICER = 5
_END_GRACE_S = 2.0
_AT_ONCE = 64


def serve(config: Config, path: Path | None, port: int, daemon: str | None, until_eof: bool) -> None:
    """Serve until a signal, or (`until_eof`) until standard input ends. `daemon`: the address of its server.

    Raises ConfigError when the address cannot be used.
    """
    give_way()
    page = page_of(config, Health(None if daemon is None else over_http(daemon, config.http)), daemon is not None)
    listener = _listen(path, port)
    server = uvicorn.Server(
        uvicorn.Config(
            application(page),
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            limit_concurrency=_AT_ONCE,
            timeout_graceful_shutdown=1,
        )
    )
    threading.Thread(target=_warm, args=(page,), name="warm", daemon=True).start()
    if until_eof:
        threading.Thread(target=_end_with_input, args=(server,), name="daemon-watch", daemon=True).start()
    if path is None:
        print(f"the page: http://127.0.0.1:{listener.getsockname()[1]}/", flush=True)
    server.run(sockets=[listener])
    os._exit(0)  # a thread that hangs in a share must not keep the process


def give_way() -> None:
    """The daemon's frames go first. A service manager may forbid it: then the two are equals."""
    try:
        os.nice(NICER)
    except OSError as fault:
        log.info("the page runs at the daemon's own priority", extra={"fault": str(fault)})


def _listen(path: Path | None, port: int) -> socket.socket:
    try:
        if path is None:
            listener = socket.socket()
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", port))
        else:
            path.unlink(missing_ok=True)
            listener = socket.socket(socket.AF_UNIX)
            before = os.umask(0o177)
            try:
                listener.bind(str(path))
            finally:
                os.umask(before)
    except OSError as fault:
        raise ConfigError(f"page: {path or f'port {port}'}: {fault.strerror or fault}") from fault
    return listener


def _warm(page: Page) -> None:
    """Read what the first view needs before it is asked for."""
    try:
        for one in page.config.incubator:
            page.look.incubator(one.name)
    except StorageError as fault:
        log.info("nothing to read yet", extra={"fault": str(fault)})


def _end_with_input(server: uvicorn.Server) -> None:
    """The daemon holds the other end of standard input: when it has gone, however it went, so does the page."""
    while sys.stdin.buffer.read(4096):
        continue
    server.should_exit = True
    threading.Timer(_END_GRACE_S, os._exit, args=(0,)).start()
