"""Go through all that a network needs before a prompt may leave for it, and print each check with what was found:
settings, registry, and for each node its evidence, appraised now, under the policy that would be in force. Where that
policy asks for proofs or audits, also what these need: operators, references, calibrations, circuits.

examples:
  veriroute doctor opengradient --config veriroute.toml
  veriroute doctor aci --policy strict
  veriroute doctor openai --policy quorum        # are there enough operators?
  veriroute doctor opengradient --node og --json

exit codes: 0 a prompt could leave for at least one node, and an answer of one of its models be proven as the policy
asks; 1 for none; 2 usage, settings, or an unreadable registry
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import msgspec

from gateway.errors import ConfigError
from gateway.fleet.attest import Attestation
from gateway.fleet.tee_roots import trust_roots
from gateway.logs import configure as configure_logs
from gateway.model.line import Line
from gateway.model.node import Node
from gateway.model.verdict import Check, Outcome
from gateway.policy import CompiledPolicy
from gateway.policy.build import with_test_roots
from gateway.policy.machine import under
from gateway.policy_files import read_policies
from gateway.routing import drop_reason, view_of
from gateway.settings import Settings
from gateway.text import plain

from ._doctor_proofs import proof_lines, provable
from ._network import open_network
from .serve import add_config, settings_of
from .terminal import as_document, mark, printable

HELP = "check a network: registry, nodes, evidence; print each check with what was found"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("network", metavar="NETWORK", help="as [[nodes]] names it, for example opengradient")
    parser.add_argument("--node", help="only this node, by id")
    parser.add_argument("--policy", help="the policy that nodes are held to (default: policy.default of the settings)")
    parser.add_argument("--json", action="store_true", help="JSON instead of text")
    add_config(parser)


@dataclass
class Examined:
    """One node: its appraisal, what policy makes of it, and the checks as they stand under that policy."""

    node: Node
    attestation: Attestation
    permitted: bool
    reason: str | None
    checks: tuple[Check, ...]


def run(args: argparse.Namespace) -> int:
    configure_logs(level="error", stream=sys.stderr)  # what went wrong is in what is printed here
    settings = settings_of(args)
    policy = _policy(settings, args.policy)
    examined, unresolved, proofs = asyncio.run(_examine(settings, args.network, args.node, policy))
    nodes = [item.node for item in examined if item.permitted]
    if args.json:
        document = {
            "network": args.network,
            "policy": policy.name,
            "nodes": [_document(item) for item in examined],
            "unresolved": unresolved,
            "proofs": [as_document(line) for line in proofs],
        }
        sys.stdout.write(json.dumps(document, indent=2) + "\n")
    else:
        lines = _lines(examined, unresolved, args.network, policy)
        lines += _proofs(proofs, policy)
        sys.stdout.write("".join(printable(line, sys.stdout) + "\n" for line in lines))
    return 0 if provable(proofs, nodes) else 1


def _policy(settings: Settings, name: str | None) -> CompiledPolicy:
    policies = read_policies(Path(settings.policy.dir) if settings.policy.dir else None)
    wanted = name or settings.policy.default
    if wanted not in policies:
        raise ConfigError(f"there is no policy {wanted!r}; there are {', '.join(sorted(policies))}")
    return with_test_roots(policies[wanted], trust_roots(settings).test_fingerprints)


async def _examine(
    settings: Settings, name: str, only: str | None, policy: CompiledPolicy
) -> tuple[list[Examined], dict[str, str], list[Line]]:
    async with open_network(settings, name) as network:
        found = await network.discover()
        nodes = [node for node in found.nodes if only in (None, node.id)]
        if only is not None and not nodes:
            raise ConfigError(f"there is no node {only!r}; there are {', '.join(n.id for n in found.nodes) or 'none'}")
        attestations = await asyncio.gather(*[network.attest(node) for node in nodes])
        examined = [_held(node, item, policy) for node, item in zip(nodes, attestations, strict=True)]
        # A quorum may span networks: the others' nodes count as the settings state them.
        others = [node for node in settings.node_values if node.network != name]
        usable = [item.node for item in examined if item.permitted] or nodes
        proofs = await proof_lines(settings, policy, [*usable, *others], network.pool, os.environ)
    return examined, dict(found.unresolved), proofs


def _held(node: Node, attestation: Attestation, policy: CompiledPolicy) -> Examined:
    session = attestation.session
    first = next((c for c in attestation.result.checks if c.outcome is not Outcome.AFFIRMING), None)
    view = view_of(node)
    view.session, view.absent = session, first.reason if first else None
    # Appraised a moment ago: only what the session states for itself ends it.
    view.appraised_at, view.lease_until = 0.0, 0.0 if session is None else session.expires - session.established
    # Routing's own answer, for any model that the node has: what holds a prompt back there holds it back here.
    reason = drop_reason(view, node.models[0], next(iter(node.endpoints), ""), policy, 0.0)
    checks = attestation.result.checks if session is None else under(session, policy)
    return Examined(node, attestation, reason is None, reason, checks)


def _document(item: Examined) -> dict[str, object]:
    session = item.attestation.session
    return {
        "node": item.node.id,
        "url": item.node.base_url,
        "permitted": item.permitted,
        "reason": item.reason,
        "checks": msgspec.to_builtins(item.checks),
        "claims": msgspec.to_builtins(item.attestation.result.claims),
        "session": None if session is None else session.id,
    }


def _lines(examined: list[Examined], unresolved: dict[str, str], network: str, policy: CompiledPolicy) -> list[str]:
    lines = [f"{plain(network)}, under policy {plain(policy.name)}"]
    lines += [f"  {plain(name)}: the registry names no such node ({plain(why)})" for name, why in unresolved.items()]
    for item in examined:
        lines += ["", f"{plain(item.node.id)}  {plain(item.node.base_url)}"]
        lines += [line for check in item.checks for line in _check(check)]
        lines += ["  claims"]
        for claim in item.attestation.result.claims:
            why = f" ({plain(claim.reason)})" if claim.reason else ""
            lines.append(f"    {claim.name:<28} {claim.status}{why}")
        lines.append(
            "  a prompt may leave for it"
            if item.permitted
            else f"  no prompt leaves for it: {plain(item.reason or '')}"
        )
    good = sum(item.permitted for item in examined)
    return [*lines, "", f"{good} of {len(examined)} nodes may be used"]


def _proofs(lines: list[Line], policy: CompiledPolicy) -> list[str]:
    if not lines:
        return []
    told = ["", f"what policy {plain(policy.name)} asks of answers"]
    for line in lines:
        about = f"{plain(line.about)}: " if line.about else ""
        told.append(f"  {mark(line.outcome, sys.stdout)}  {line.step:<14} {about}{plain(line.sentence)}")
        if line.detail:
            told.append(f"{'':36}{plain(line.detail, 400)}")
    return told


def _check(check: Check) -> list[str]:
    text = plain(check.reason or "")
    if check.found and check.found != check.reason:
        text += (", " if text else "") + f"found {plain(check.found)}"
    if check.expected:
        text += f", expected {plain(check.expected)}"
    return [f"  {mark(check.outcome, sys.stdout)}  {check.id:<14} {text}".rstrip()]
