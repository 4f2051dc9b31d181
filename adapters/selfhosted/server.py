"""uvicorn, with a ready signal, an exit code of 0 on SIGTERM, and connections that outlive a gateway's pool."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import sys
from collections.abc import Callable, Iterator

import uvicorn

from .node import Node

KEEP_ALIVE_S = 120  #: longer than a gateway keeps an idle connection, so that it is never we who close first
_SWITCH_S = 0.0005  # the model's threads give way to the event loop this often; CPython's default is ten times that


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if not self.should_exit:
            self._ready()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn, but without raising the signal again at the end: being told to stop is no failure."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        yield

    def _stop(self) -> None:
        self.force_exit = self.should_exit  # a second signal does not wait for open answers
        self.should_exit = True


def serve(node: Node, listener: socket.socket, tls: tuple[str, str] | None, ready: Callable[[], None]) -> int:
    """Serve until told to stop. Raises what kept the node from starting."""
    sys.setswitchinterval(_SWITCH_S)
    config = uvicorn.Config(
        node,
        http="httptools",
        ws="none",
        lifespan="on",
        log_config=None,
        log_level="critical",
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=3,
        ssl_certfile=tls[0] if tls else None,
        ssl_keyfile=tls[1] if tls else None,
    )
    server = _Server(config, ready)
    # uvicorn leaves the process by itself when the application cannot start; we would rather say why.
    with contextlib.suppress(SystemExit), asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(server.serve(sockets=[listener]))
    if node.problem is not None:
        raise node.problem
    return 0 if server.started else 1
