"""Show the nodes of a network: those of its registry, or of the settings where it has none. Nothing is attested here;
`veriroute doctor NETWORK` does that. And show, or begin anew, what canaries compare a node's answers with.

examples:
  veriroute nodes discover opengradient --config veriroute.toml
  veriroute nodes discover opengradient --json | jq .nodes[].id
  veriroute nodes baseline list                            # since when nodes answer as they do
  veriroute nodes baseline reset node-1                    # accept how it answers from now on
  veriroute nodes baseline reset node-1 --model veriroute-lm-1

exit codes: 0 there are some, 1 there are none, 2 usage, settings, or a registry that cannot be read
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from pathlib import Path

import msgspec

from gateway.adapter import Discovered
from gateway.baselines import Baseline, Baselines
from gateway.errors import ConfigError
from gateway.logs import configure as configure_logs
from gateway.model.receipt import instant
from gateway.settings import Settings, canaries_dir
from gateway.text import plain

from ._network import open_network
from .serve import add_config, settings_of
from .terminal import printable

HELP = "show which nodes a network has now, and what canaries found of them"


def configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="discover|baseline")
    discover = actions.add_parser("discover", help="the nodes that a network has now")
    discover.add_argument("network", metavar="NETWORK", help="as [[nodes]] names it, for example opengradient")
    baseline = actions.add_parser("baseline", help="what canaries compare a node's answers with")
    acts = baseline.add_subparsers(dest="act", required=True, metavar="list|reset")
    listing = acts.add_parser("list", help="every baseline, and what came of the last comparison with it")
    reset = acts.add_parser("reset", help="forget a node's baselines: its next canaries set new ones")
    reset.add_argument("node", metavar="NODE", help="the node's id")
    reset.add_argument("--model", help="only this model's")
    for action in (discover, listing, reset):
        action.add_argument("--json", action="store_true", help="JSON instead of text")
        add_config(action)


def run(args: argparse.Namespace) -> int:
    if args.action == "baseline":
        settings = settings_of(args)
        store = Baselines(Path(canaries_dir(settings)))
        return _reset(args, settings, store) if args.act == "reset" else _baselines(args, store)
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


def _baselines(args: argparse.Namespace, store: Baselines) -> int:
    found = store.all()
    if args.json:
        sys.stdout.write(json.dumps([_known(baseline) for baseline in found], indent=2) + "\n")
    elif not found:
        sys.stdout.write("no baselines yet; the settings canaries.every_s and canaries.models ask for canaries\n")
    for baseline in [] if args.json else found:
        for line in _told(baseline):
            sys.stdout.write(printable(line, sys.stdout) + "\n")
    return 0 if found else 1


def _known(baseline: Baseline) -> dict[str, object]:
    """What is known of a baseline; the samples themselves are only counted."""
    known: dict[str, object] = {**msgspec.structs.asdict(baseline), "samples": len(baseline.samples)}
    return {k: instant(v) if k.endswith("_ms") and isinstance(v, int) else v for k, v in known.items()}


def _told(baseline: Baseline) -> list[str]:
    words = {"set": "set", "stable": "stable since", "changed": "CHANGED since"}[baseline.state]
    line = f"{plain(baseline.node)}  {plain(baseline.model)}  {words} {instant(baseline.since_ms)}"
    if baseline.state == "set" or baseline.p is None:
        return [line, f"  {len(baseline.samples)} samples; nothing was compared with them yet"]
    keys = ", under another keyset" if baseline.rekeyed else ""
    many = f"{baseline.runs} run" + ("" if baseline.runs == 1 else "s")
    last = f"  {many}, the last {instant(baseline.last_ms)}: p {baseline.p:.3g}{keys}"
    return [line, f"{last}; {len(baseline.samples)} samples of {instant(baseline.set_ms)}"]


def _reset(args: argparse.Namespace, settings: Settings, store: Baselines) -> int:
    known = [baseline.model for baseline in store.all() if baseline.node == args.node]
    models = [args.model] if args.model is not None else list(dict.fromkeys([*known, *settings.canaries.models]))
    try:
        gone = store.reset(args.node, models)
    except OSError as error:
        raise ConfigError(f"cannot remove a baseline in {store.folder}: {error.strerror}") from None
    if args.json:
        sys.stdout.write(json.dumps({"node": args.node, "reset": gone}) + "\n")
    else:
        for model in gone:
            line = f"{plain(args.node)}  {plain(model)}  forgotten; the next canaries set a new baseline"
            sys.stdout.write(printable(line, sys.stdout) + "\n")
        if not gone:
            sys.stdout.write(printable(f"there is no baseline of {plain(args.node)}", sys.stdout) + "\n")
    return 0 if gone else 1


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
        if node.owner is not None:
            lines.append(f"  {'':<24} registered by {plain(node.owner)}")
    lines += [f"  {plain(name):<24} none: {plain(reason)}" for name, reason in found.unresolved.items()]
    lines += [f"  alarm: {plain(alarm.kind)} {plain(str(dict(alarm.about)))}" for alarm in found.alarms]
    return lines
