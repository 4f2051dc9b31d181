"""The gateway's own front, with a ready signal, an exit code of 0 on SIGTERM, and connections that outlive its pool."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import sys
from collections.abc import Callable, Iterator

import uvicorn

from gateway import logs
from gateway.api.limits import Limits, raise_descriptor_limit
from gateway.api.protocol import serve_config

from .node import Node

#: Idle connections stay longer than a gateway keeps them, so that it is never we who close first. And a gateway reads
#: no faster than its own caller does, whom it cuts off by itself: we give up later than it.
LIMITS = Limits(idle_s=120, write_s=120, write_rate=256)
_OTHER_FILES = 384  # beside clients: up to 256 connections to a backend, the libraries' and our own files
_SWITCH_S = 0.0005  # the model's threads give way to the event loop this often; CPython's default is ten times that


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if not self.should_exit:
            # Until here uvicorn would print a traceback beside what `serve` says; from here on it is all there is.
            logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
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


def configuration(node: Node, tls: tuple[str, str] | None, limits: Limits = LIMITS) -> uvicorn.Config:
    """How a node is served. `tls` are the files of a certificate and its key."""
    return serve_config(
        node,
        limits=limits,
        shutdown_s=3,
        lifespan="on",
        log_level="critical",
        ssl_certfile=tls[0] if tls else None,
        ssl_keyfile=tls[1] if tls else None,
    )


def serve(node: Node, listener: socket.socket, tls: tuple[str, str] | None, ready: Callable[[], None]) -> int:
    """Serve until told to stop; defects go to stderr as JSON lines. Raises what kept the node from starting."""
    sys.setswitchinterval(_SWITCH_S)
    logs.configure()
    short = raise_descriptor_limit(LIMITS, reserve=_OTHER_FILES)
    if short:
        sys.stderr.write(
            f"warning    the limit of open files is {short} too low for {LIMITS.connections} connections\n"
        )
    config = configuration(node, tls)
    server = _Server(config, ready)
    # uvicorn leaves the process by itself when the application cannot start; we would rather say why.
    with contextlib.suppress(SystemExit), asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(server.serve(sockets=[listener]))
    if node.problem is not None:
        raise node.problem
    return 0 if server.started else 1
