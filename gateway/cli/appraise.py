"""Appraise evidence of a trusted execution environment, from its raw bytes, offline.

One item, at a time that you choose (now, unless you say otherwise; archived evidence holds only near its own time):

  veriroute appraise --kind nitro --evidence doc.bin --now 2025-12-25T13:15:42Z
  veriroute appraise --kind tdx --evidence quote.bin --collateral collateral.json --policy strict --json
  veriroute appraise --kind snp --evidence report.bin --input ek=vcek.der --input ask=ask.der --root amd=ark.der
  veriroute appraise --kind dstack --evidence report.json --collateral collateral.json

Is it tied to the key that signs answers, or to the connection that they come over?

  veriroute appraise --kind dstack --evidence report.json --collateral collateral.json \\
      --bind dstack-report-data --key 0x8a4d… --nonce 034b…

Or a folder of cases, each with its own time and what a verifier must say of it, or Tinfoil's conformance suite:

  veriroute appraise --manifest evidence/snp
  veriroute appraise --manifest evidence/snp --case google_milan_v2_debug
  veriroute appraise --conformance tinfoil-conformance/vectors

The kinds and their inputs, the evidence first, in brackets what may be left out:

KINDS

A file in place of a binary input may also spell it in hex, base64 or PEM. Root certificates are believed only when
their SHA-256 is one of those in docs/verification.md. --trust-test-root takes another, and marks the result root=TEST,
which every policy refuses; a folder's own root that is none of those is marked too. Nothing is fetched. Without
--policy the evidence is asked only whether it is genuine, not in debug mode, and on a platform whose security version
its vendor takes; a check of what runs there that fails refuses it too. With --bind it must be bound.

Exit codes: 0 genuine and accepted (all cases as expected), 1 not shown to be genuine, or refused, 2 usage.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from gateway.errors import FormatError, PolicyError
from gateway.model.tee import TeeResult
from gateway.model.verdict import Check
from gateway.verify.tee.kinds import KINDS, kind_of
from gateway.verify.tee.outcomes import contradicted
from gateway.verify.tee.roots import VENDOR_ROOTS, Anchor, TrustRoots
from gateway.verify.tee.rules import BASELINE, TeeRules, judge, violations
from gateway.verify.tee.tied import tied

from ._appraise_inputs import (
    Usage,
    binding_inputs,
    configure_binding,
    described,
    moment,
    pairs,
    parameters,
    read,
    read_role,
)
from ._appraise_show import human
from ._sigstore_root import trust_root
from .terminal import printable

HELP = "appraise evidence of a trusted execution environment, offline"

__doc__ = __doc__.replace("KINDS", described(KINDS))


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--manifest", metavar="DIR", type=Path, help="a folder with a manifest.json of cases")
    parser.add_argument("--conformance", metavar="DIR", type=Path, help="a folder of Tinfoil's conformance suite")
    parser.add_argument("--case", metavar="ID", action="append", help="only this case (may be repeated)")
    parser.add_argument("--kind", choices=sorted(KINDS), metavar="KIND", help="what the evidence is")
    parser.add_argument("--evidence", metavar="FILE", type=Path, help="the evidence: the first input of its kind")
    parser.add_argument(
        "--collateral", metavar="FILE", type=Path, help="its collateral, or the second input of its kind"
    )
    parser.add_argument("--input", metavar="ROLE=FILE", action="append", default=[], help="any input, by its name")
    parser.add_argument("--root", metavar="NAME=FILE", action="append", default=[], help="a root certificate, DER")
    parser.add_argument("--trust-test-root", metavar="FILE", action="append", default=[], help="believe it, as TEST")
    parser.add_argument("--sigstore-root", metavar="public-good|FILE", help="Sigstore's trusted_root.json")
    parser.add_argument("--param", metavar="NAME=VALUE", action="append", default=[], help="nonce=HEX, aud=…, iss=…")
    parser.add_argument("--now", metavar="TIME", help="RFC 3339, or seconds since 1970 (default: this machine's clock)")
    parser.add_argument("--policy", metavar="NAME|FILE", help="judge by the section [tee] of this policy")
    parser.add_argument("--json", action="store_true", help="the claims record and every check as JSON")
    configure_binding(parser)


def run(args: argparse.Namespace) -> int:
    folders = [folder for folder in (args.manifest, args.conformance) if folder is not None]
    if folders:
        if len(folders) == 2 or args.kind or args.evidence or args.bind or args.policy:
            raise Usage("a folder of cases brings everything with it; give one or the other")
        return _folder(args)
    if not args.kind or not (args.evidence or args.input):
        raise Usage("give --manifest DIR, or --kind and --evidence; `veriroute appraise --help` has examples")
    return _item(args, _rules(args.policy) if args.policy else BASELINE)


def _folder(args: argparse.Namespace) -> int:
    from ._appraise_folders import conformance_folder, manifest_folder

    wanted = args.case or []
    if args.manifest is not None:
        code, rows, document = manifest_folder(args.manifest, wanted)
    else:
        code, rows, document = conformance_folder(args.conformance, wanted)
    if args.json:
        _print_json(document)
    else:
        _print(rows)
    return code


def _item(args: argparse.Namespace, rules: TeeRules) -> int:
    kind = kind_of(args.kind)
    asked = binding_inputs(args)
    given = dict(pairs(args.input, "--input"))
    if args.evidence is not None:
        given.setdefault(kind.inputs[0], str(args.evidence))
    if args.collateral is not None:
        if kind.second is None:
            raise Usage(f"evidence of the kind {kind.name} has no collateral")
        given[kind.second] = str(args.collateral)
    blobs = {role: read_role(kind, role, Path(path)) for role, path in given.items()}
    if args.sigstore_root is not None:
        if "trust_root" not in kind.inputs + kind.optional:
            raise Usage(f"evidence of the kind {kind.name} has no build that Sigstore's trust root could speak for")
        blobs["trust_root"] = trust_root(args.sigstore_root)
    blobs |= {f"root:{name}": read(Path(path)) for name, path in pairs(args.root, "--root")}
    anchors = list(VENDOR_ROOTS.anchors)
    for number, path in enumerate(args.trust_test_root):
        data = blobs[f"root:test{number}"] = read(Path(path))
        anchors += [Anchor(vendor, "test root", hashlib.sha256(data).hexdigest(), test=True) for vendor in kind.vendors]
    try:
        result = kind.verify(blobs, parameters(args.param), TrustRoots(tuple(anchors)), moment(args.now))
    except FormatError as error:
        raise Usage(f"{kind.title}: {error.message}; its inputs are {', '.join(kind.inputs + kind.optional)}") from None
    if asked is not None:
        result = tied(result, *asked)
        rules = msgspec.structs.replace(rules, binding="required")
    ruled = judge(result.claims, rules)
    bad = (*violations(ruled), *contradicted(result))
    if args.json:
        _print_json(_document(result, ruled, bad))
    else:
        _print(human(kind.title, result, ruled, bad))
    return 1 if bad else 0


def _document(result: TeeResult, ruled: Sequence[Check], bad: Sequence[str]) -> dict[str, Any]:
    return {
        "accepted": not bad,
        "violations": list(bad),
        "claims": msgspec.to_builtins(result.claims),
        "checks": msgspec.to_builtins(result.checks),
        "rules": msgspec.to_builtins(ruled),
    }


def _rules(name: str) -> TeeRules:
    from gateway.policy_files import read_policies, read_policy

    try:
        if name.endswith(".toml"):
            return read_policy(Path(name)).tee_rules
        policies = read_policies()
    except PolicyError as error:
        raise Usage(str(error)) from None
    if name not in policies:
        raise Usage(f"there is no policy {name!r}; one of {', '.join(sorted(policies))}, or a file that ends in .toml")
    return policies[name].tee_rules


def _print(rows: Iterable[str]) -> None:
    sys.stdout.write("".join(printable(row, sys.stdout) + "\n" for row in rows))


def _print_json(document: object) -> None:
    """JSON in ASCII: evidence holds text from outside, and what JSON leaves as it is may still command a terminal."""
    text = msgspec.json.format(msgspec.json.encode(document), indent=2).decode()
    sys.stdout.write("".join(text if text.isascii() else map(_ascii, text)) + "\n")


def _ascii(char: str) -> str:
    return char if char.isascii() else json.dumps(char)[1:-1]
