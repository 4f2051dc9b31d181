"""Three nodes (one dishonest), the gateway before them, and real requests through the openai SDK.

Prints what became of each request, checks one receipt offline, and leaves everything running for you to use until
Ctrl-C. State is kept in the folder: a second run continues the same log with the same keys.

examples:
  veriroute demo
  veriroute demo --port 0                            # any free port
  veriroute demo --once --json                       # one JSON object a line, then stop
  veriroute demo --dir /data --gateway http://127.0.0.1:8080    # the requests alone, to a gateway that runs already

exit code: 0 every request ended as it has to; 1 one did not, or something did not start; 2 usage or settings
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from gateway.errors import ConfigError

from . import EXIT_OK, EXIT_REJECTED

if TYPE_CHECKING:
    from ._demo_children import Children
    from ._demo_show import Show
    from ._demo_world import World

HELP = "three nodes (one dishonest), the gateway, and real requests through the openai SDK"


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--dir", type=Path, default=Path(".demo"), metavar="DIR", help="where state is kept (default: %(default)s)")
    add("--port", type=int, default=8080, help="the gateway's port; 0 takes a free one (default: %(default)s)")
    add("--once", action="store_true", help="stop after the table instead of staying up")
    add("--json", action="store_true", help="one JSON object a line instead of text")
    add(
        "--gateway",
        metavar="URL",
        help="start nothing: send the requests to this gateway, which runs with the settings in DIR/veriroute.toml "
        "and has the demo's nodes (as in compose.yaml)",
    )


def run(args: argparse.Namespace) -> int:
    _need("openai", *(() if args.gateway else ("numpy",)))
    from ._demo_children import Children, NotStarted, Signals, Stopped
    from ._demo_show import JsonShow, TextShow
    from ._demo_world import Folder, attach

    if args.gateway is None:
        _check_port(args.port)
    show: Show = JsonShow() if args.json else TextShow(recipes=not args.once)
    try:
        with Signals() as signals:
            if args.gateway is not None:
                return _tell(attach(args.dir.absolute(), args.gateway), show, attached=True)
            with Folder(args.dir) as folder, Children(signals, folder / "logs") as children:
                return _own(args, folder, show, children)
    except NotStarted as error:
        sys.stderr.write(f"veriroute demo: {error}\n")
        return EXIT_REJECTED
    except Stopped as stopped:
        return 128 + stopped.number


def _own(args: argparse.Namespace, folder: Path, show: Show, children: Children) -> int:
    """Start, tell, and stay until told to stop."""
    from ._demo_children import Stopped
    from ._demo_world import start

    show.starting(folder)
    code = _tell(start(folder, args.port, children), show, attached=False)
    if args.once:
        return code
    show.staying()
    try:
        _stay(show, children)
    except Stopped:
        show.stopping()
        children.stop()
        show.stopped(folder)
    return code


def _tell(world: World, show: Show, *, attached: bool) -> int:
    """The requests, the table, the offline check, and how to go on."""
    from ._demo_story import tell
    from ._demo_world import log_size, save_bundle, verify

    show.started(world, log_size(world))
    rows = []
    for heading, part in tell(world, attached=attached):
        show.heading(heading)
        for row in part:
            rows.append(row)
            show.row(row)
    bundle = save_bundle(world, next(row.receipt for row in rows if row.receipt))
    code, lines = verify(world, bundle)
    show.verified(world, bundle, code, lines)
    show.ready(world, bundle, rows, log_size(world))
    return EXIT_OK if code == 0 and all(row.expected is None for row in rows) else EXIT_REJECTED


def _stay(show: Show, children: Children) -> NoReturn:
    """Until `Stopped`. Raises `NotStarted` when the gateway ends by itself; a node may."""
    from ._demo_children import GATEWAY, NotStarted

    while True:
        for child in children.ended():
            if child.name == GATEWAY:
                raise NotStarted(f"the gateway stopped by itself (exit {child.process.returncode}){child.tail()}")
            show.lost(child)
        time.sleep(0.25)


def _need(*packages: str) -> None:
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"the demo needs {' and '.join(missing)}: the openai SDK sends the requests, and the nodes' model runs on "
            "NumPy. Install the extra: pip install 'veriroute[demo]' (in a checkout: make install)"
        )


def _check_port(port: int) -> None:
    """Before anything is started. The gateway itself would notice only after the nodes are up."""
    if not 0 <= port <= 65535:
        raise ConfigError("--port must be 0 to 65535")
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError as error:
        raise ConfigError(
            f"cannot listen on 127.0.0.1:{port} ({os.strerror(error.errno or 0)}); choose another port with --port, "
            "or --port 0 for a free one"
        ) from None
