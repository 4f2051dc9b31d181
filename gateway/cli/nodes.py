"""Show the nodes of a network: those of its registry, or of the settings where it has none. Nothing is attested here;
`veriroute doctor NETWORK` does that.

examples:
  veriroute nodes discover opengradient --config veriroute.toml
  veriroute nodes discover opengradient --json | jq .nodes[].id

exit codes: 0 there are nodes, 1 there are none, 2 usage, settings, or a registry that cannot be read
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys

import msgspec

from gateway.adapter import Discovered
from gateway.logs import configure as configure_logs
from gateway.settings import Settings
from gateway.text import plain

from ._network import open_network
from .serve import add_config, settings_of
from .terminal import printable

HELP = "show which nodes a network has now"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=["discover"])
    parser.add_argument("network", help="as [[nodes]] names it, for example opengradient")
    parser.add_argument("--json", action="store_true", help="JSON instead of text")
    add_config(parser)


def run(args: argparse.Namespace) -> int:
    configure_logs(level="error", stream=sys.stderr)  # what went wrong is in what is printed here
    found = asyncio.run(_discover(settings_of(args), args.network))
    if args.json:
        sys.stdout.write(json.dumps(as_document(found), indent=2) + "\n")
    else:
        sys.stdout.write("".join(printable(line, sys.stdout) + "\n" for line in _lines(found, args.network)))
    return 0 if found.nodes else 1


async def _discover(settings: Settings, name: str) -> Discovered:
    async with open_network(settings, name) as network:
        return await network.discover()


def as_document(found: Discovered) -> dict[str, object]:
    """Nodes, and configured nodes for which there are none, with their reasons."""
    return {
        "nodes": [msgspec.to_builtins(node) for node in found.nodes],
        "unresolved": dict(found.unresolved),
        "alarms": [{"kind": alarm.kind, **alarm.about} for alarm in found.alarms],
    }


def _lines(found: Discovered, name: str) -> list[str]:
    many = f"{len(found.nodes)} node" + ("" if len(found.nodes) == 1 else "s")
    lines = [f"{plain(name)}: {many}"]
    for node in found.nodes:
        lines.append(f"  {plain(node.id):<24} {plain(node.base_url)}")
        lines.append(f"  {'':<24} models {plain(', '.join(node.models))}; operator {plain(node.operator or 'unknown')}")
    lines += [f"  {plain(name):<24} none: {plain(reason)}" for name, reason in found.unresolved.items()]
    lines += [f"  alarm: {plain(alarm.kind)} {plain(str(dict(alarm.about)))}" for alarm in found.alarms]
    return lines
