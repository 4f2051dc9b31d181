"""Run the gateway.

examples:
  veriroute serve                                   # veriroute.toml in this folder, if there is one
  veriroute serve --config veriroute.toml
  VERIROUTE_SERVER_PORT=9000 veriroute serve        # the environment wins over the file

Prints one JSON line on stdout once it serves: {"event":"ready","url":"http://127.0.0.1:8080"}. Logs are JSON lines on
stderr. SIGTERM and Ctrl-C drain running exchanges (server.drain_s) and exit 0; a second one ends those at once, each
with its receipt.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import signal
import socket
import sys
from typing import Any

from gateway.errors import ConfigError
from gateway.settings import Settings, read

from ._install import check_install

HELP = "run the gateway"
DEFAULT_FILE = "veriroute.toml"
#: Open files beside the connections of callers and to nodes: the database, logs, what is being accepted.
OTHER_FILES = 128


def configure(parser: argparse.ArgumentParser) -> None:
    add_config(parser)
    parser.add_argument("--log-level", default="info", choices=["debug", "info", "warning", "error"])
    parser.add_argument(
        "--accept-rollback",
        action="store_true",
        help="start although the stored log is shorter than the checkpoint memory; leaves an alarm in the log",
    )


def add_config(parser: argparse.ArgumentParser) -> None:
    """The option that every command with settings has."""
    parser.add_argument("--config", metavar="FILE", help=f"settings file (default: {DEFAULT_FILE} when it is there)")


def settings_of(args: argparse.Namespace) -> Settings:
    """The effective settings of a command. Raises `ConfigError`."""
    path = args.config
    if path is None and os.path.exists(DEFAULT_FILE):
        path = DEFAULT_FILE
    return read(path, os.environ)


def run(args: argparse.Namespace) -> int:
    # Neither what is imported nor an exchange leaves cycles behind, so the young generation may grow further before it
    # is looked at; the imports of a start take a tenth less time so.
    gc.set_threshold(100_000, 20, 50)
    settings = settings_of(args)
    check_install()
    _check_port(settings.server.host, settings.server.port)
    from gateway.logs import configure as configure_logs

    configure_logs(level=args.log_level)
    if sys.platform != "win32":
        import uvloop

        return uvloop.run(_serve(settings, args.accept_rollback))
    return asyncio.run(_serve(settings, args.accept_rollback))


def _check_port(host: str, port: int) -> None:
    """Before the log is opened: a start that fails over its port leaves no entry there."""
    try:
        for family, kind, _, _, address in socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            _try_to_bind(family, kind, address)
    except OSError as error:
        raise _cannot_listen(host, port, error.strerror) from None


def _try_to_bind(family: int, kind: int, address: Any) -> None:
    try:
        probe = socket.socket(family, kind)
    except OSError:
        return  # a family that this machine has not; asyncio passes over it, too
    with probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        probe.bind(address)


def _cannot_listen(host: str, port: int, why: str) -> ConfigError:
    return ConfigError(f"cannot listen on {host}:{port} ({why}); server.host and server.port say where")


async def _serve(settings: Settings, accept_rollback: bool) -> int:
    import structlog
    import uvicorn

    from gateway.api.limits import Limits, Watch, raise_descriptor_limit
    from gateway.api.protocol import serve_config
    from gateway.app import Gateway
    from gateway.upstream.limits import Limits as UpstreamLimits

    gateway = Gateway(settings)
    limits = Limits(connections=settings.server.max_connections, write_s=settings.server.write_s)
    short = raise_descriptor_limit(limits, reserve=OTHER_FILES + UpstreamLimits().connections)
    if short:
        structlog.get_logger("veriroute").warning(
            "descriptors.few", count=short, notice="allow more open files (ulimit -n), or less server.max_connections"
        )
    await gateway.open(accept_rollback=accept_rollback)
    # What is there now stays: the collector need not walk it again and again.
    gc.collect()
    gc.freeze()
    config = serve_config(
        gateway.app,
        host=settings.server.host,
        port=settings.server.port,
        watch=Watch(limits, gateway.refusals),
        shutdown_s=settings.server.drain_s,
        lifespan="off",
    )

    class Announced(uvicorn.Server):
        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            if self.servers:
                _announce(self)

    server = Announced(config)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def asked(number: int) -> None:
        if stop.is_set():
            gateway.hurry()
            server.force_exit = True
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked, number)
    serving = asyncio.create_task(_run_server(server))
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([serving, stopping], return_when=asyncio.FIRST_COMPLETED)
        if serving.done() and not stop.is_set():
            await serving
            raise _cannot_listen(settings.server.host, settings.server.port, "the server ended")
    finally:
        stopping.cancel()
        if not await gateway.close():
            server.force_exit = True
        server.should_exit = True
        await serving
    return 0


async def _run_server(server: Any) -> None:
    # uvicorn's own signal handling is left out: stopping is ours to order (drain, then close the log, then go).
    try:
        await server._serve(None)
    except SystemExit:  # uvicorn's, which has logged why
        raise _cannot_listen(server.config.host, server.config.port, "is it taken?") from None


def _announce(server: Any) -> None:
    """The ready line: printed once connections are taken, with the port that was really bound."""
    host, port = server.servers[0].sockets[0].getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    sys.stdout.write(json.dumps({"event": "ready", "url": f"http://{shown}:{port}"}, separators=(",", ":")) + "\n")
    sys.stdout.flush()
