"""An MQTT broker inside this process, for `pellucid demo` only: loopback, anonymous, nothing kept on disk.

amqtt speaks 3.1.1 only (a v5 CONNECT is never answered) and now and then says a message twice, so clients of it use
protocol 311 and look at ids. Refuses to be a clinic's broker: that is Mosquitto's job.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Coroutine
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any, TypeVar

from monitor.errors import ConfigError

log = logging.getLogger(__name__)

START_LIMIT_S = 10.0
STOP_LIMIT_S = 2.0

T = TypeVar("T")


class EmbeddedBroker:
    """amqtt on 127.0.0.1, on a port the system chooses, with an event loop and a thread of its own."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._broker: Any = None

    def start(self) -> int:
        """Start, wait until it listens, and return its port.

        Raises ConfigError where the extra `demo` is not installed, OSError or amqtt's BrokerError where it cannot
        come up, RuntimeError where it runs already.
        """
        try:
            from amqtt.broker import Broker
            from amqtt.contexts import BrokerConfig
        except ImportError as error:
            raise ConfigError('the embedded broker needs the extra "demo": pip install "pellucid[demo]"') from error
        if self._loop is not None:
            raise RuntimeError("the embedded broker runs already")
        for name in ("amqtt", "transitions"):  # they log every packet otherwise
            logging.getLogger(name).setLevel(logging.WARNING)
        config = BrokerConfig.from_dict(
            {
                "listeners": {"default": {"type": "tcp", "bind": "127.0.0.1:0"}},
                "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
            }
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="embedded-broker", daemon=True)
        self._thread.start()
        with contextlib.ExitStack() as undo:
            undo.callback(self.stop)
            port = self._run(self._listen(Broker, config), START_LIMIT_S)
            undo.pop_all()
        return port

    def stop(self) -> None:
        """Stop, within a few seconds, cutting off whoever is still connected. Harmless when not running."""
        if self._loop is None or self._thread is None:
            return
        try:
            self._run(self._shut_down(), STOP_LIMIT_S)
        except FutureTimeoutError:
            log.warning("the embedded broker did not shut down in %.0f s and is dropped", STOP_LIMIT_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(STOP_LIMIT_S)
        if not self._thread.is_alive():
            self._loop.close()
        self._loop = self._thread = self._broker = None

    def _run(self, work: Coroutine[Any, Any, T], limit_s: float) -> T:
        if self._loop is None:
            raise RuntimeError("the embedded broker is not running")
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(limit_s)

    async def _listen(self, broker_class: Any, config: Any) -> int:
        broker = broker_class(config)
        await broker.start()
        self._broker = broker
        # amqtt tells its port nowhere; one found free beforehand could be another's by now
        return int(broker._servers["default"].instance.sockets[0].getsockname()[1])

    async def _shut_down(self) -> None:
        if self._broker is not None:
            await self._broker.shutdown()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
