"""Appraise evidence of a trusted execution environment, from its raw bytes, offline.

One item, at a time that you choose (now, unless you say otherwise; archived evidence holds only near its own time):

  veriroute appraise --kind nitro --evidence doc.bin --now 2025-12-25T13:15:42Z --root nitro=aws_root.der
  veriroute appraise --kind tdx --evidence quote.bin --collateral collateral.json --policy strict --json
  veriroute appraise --kind snp --evidence report.bin --input ek=vcek.der --input ask=ask.der --root amd=ark.der

Or a folder of cases, each with its own time and what a verifier must say of it:

  veriroute appraise --manifest evidence/snp
  veriroute appraise --manifest evidence/snp --case google_milan_v2_debug

The kinds and their inputs: KINDS

Root certificates are believed only when their SHA-256 is one of those in docs/verification.md. --trust-test-root takes
another, and marks the result root=TEST, which every policy refuses; so does a folder's own root that is none of
those. Nothing is fetched. Without --policy the evidence
is asked only whether it is genuine, not in debug mode, and on a platform whose security version its vendor takes.

Exit codes: 0 genuine and accepted (all cases as expected), 1 not genuine or refused, 2 usage.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import math
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from gateway.errors import FormatError, PolicyError, VerirouteError
from gateway.model.tee import TeeResult
from gateway.model.verdict import Check, Outcome
from gateway.text import plain
from gateway.verify.tee.cases import Manifest, Ran, parse_manifest, run_case
from gateway.verify.tee.findings import MANDATORY
from gateway.verify.tee.kinds import KINDS, kind_of
from gateway.verify.tee.roots import VENDOR_ROOTS, Anchor, TrustRoots
from gateway.verify.tee.rules import BASELINE, CASES, RULES, TeeRules, judge, violations

from .terminal import Progress, mark, printable

HELP = "appraise evidence of a trusted execution environment, offline"

#: The largest file that is read.
MAX_FILE = 16 << 20

__doc__ = __doc__.replace("KINDS", "; ".join(f"{k.name} ({', '.join(k.inputs)})" for k in KINDS.values()))


class Usage(VerirouteError):
    """The command line does not make something that can be appraised."""

    code = "usage"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--manifest", metavar="DIR", type=Path, help="a folder with a manifest.json of cases")
    parser.add_argument("--case", metavar="ID", action="append", help="only this case (may be repeated)")
    parser.add_argument("--kind", choices=sorted(KINDS), help="what the evidence is")
    parser.add_argument("--evidence", metavar="FILE", type=Path, help="the evidence: the first input of its kind")
    parser.add_argument("--collateral", metavar="FILE", type=Path, help="the second input of its kind")
    parser.add_argument("--input", metavar="ROLE=FILE", action="append", default=[], help="any input, by its name")
    parser.add_argument("--root", metavar="NAME=FILE", action="append", default=[], help="a root certificate, DER")
    parser.add_argument("--trust-test-root", metavar="FILE", action="append", default=[], help="believe it, as TEST")
    parser.add_argument("--param", metavar="NAME=VALUE", action="append", default=[], help="nonce=HEX, aud=…, iss=…")
    parser.add_argument("--now", metavar="TIME", help="RFC 3339, or seconds since 1970 (default: this machine's clock)")
    parser.add_argument("--policy", metavar="NAME|FILE", help="judge by the section [tee] of this policy")
    parser.add_argument("--json", action="store_true", help="the claims record and every check as JSON")


def run(args: argparse.Namespace) -> int:
    rules = _rules(args.policy) if args.policy else BASELINE
    if args.manifest is not None:
        if args.kind or args.evidence:
            raise Usage("--manifest brings kind and evidence with it; give one or the other")
        return _folder(args.manifest, args.case or [], args.json)
    if not args.kind or not args.evidence:
        raise Usage("give --manifest DIR, or --kind and --evidence; `veriroute appraise --help` has examples")
    return _item(args, rules)


# -- one item ---------------------------------------------------------------------------------------------------------


def _item(args: argparse.Namespace, rules: TeeRules) -> int:
    kind = kind_of(args.kind)
    blobs = {kind.inputs[0]: _read(args.evidence)}
    if args.collateral is not None:
        if len(kind.inputs) < 2:
            raise Usage(f"evidence of the kind {kind.name} has no collateral")
        blobs[kind.inputs[1]] = _read(args.collateral)
    blobs |= {role: _read(Path(path)) for role, path in _pairs(args.input, "--input")}
    blobs |= {f"root:{name}": _read(Path(path)) for name, path in _pairs(args.root, "--root")}
    anchors = list(VENDOR_ROOTS.anchors)
    for number, path in enumerate(args.trust_test_root):
        data = blobs[f"root:test{number}"] = _read(Path(path))
        anchors += [Anchor(vendor, "test root", hashlib.sha256(data).hexdigest(), test=True) for vendor in kind.vendors]
    params = dict(_pairs(args.param, "--param"))
    try:
        result = kind.verify(blobs, _params(params), TrustRoots(tuple(anchors)), _time(args.now))
    except FormatError as error:
        raise Usage(f"{kind.title}: {error.message}; its inputs are {', '.join(kind.inputs)}") from None
    ruled = judge(result.claims, rules)
    bad = violations(ruled)
    if args.json:
        _print_json(_document(result, ruled, bad))
    else:
        _print(_human(kind.title, result, ruled, bad))
    return 1 if bad else 0


def _document(result: TeeResult, ruled: Sequence[Check], bad: Sequence[str]) -> dict[str, Any]:
    return {
        "accepted": not bad,
        "violations": list(bad),
        "claims": msgspec.to_builtins(result.claims),
        "checks": msgspec.to_builtins(result.checks),
        "rules": msgspec.to_builtins(ruled),
    }


def _human(title: str, result: TeeResult, ruled: Sequence[Check], bad: Sequence[str]) -> list[str]:
    claims = result.claims
    root = f"root=TEST ({claims.root.name})" if claims.root and claims.root.test else claims.root and claims.root.name
    rows = [f"{title}: {claims.platform.value} {plain(claims.product or '')}".rstrip()]
    rows += [f"  sha256  {claims.evidence_sha256}", f"  at      {_instant(claims.evaluated_at)}"]
    rows += [f"  root    {plain(root or 'none reached')}", "", "Is it genuine?"]
    rows += [_row(check, MANDATORY) for check in result.checks]
    rows += ["", "Is it acceptable?", *(_row(check, RULES) for check in ruled)]
    if claims.authentic:
        rows += ["", "What it states:"] + [f"  {plain(name):<22}{plain(value)}" for name, value in _facts(result)]
    verdict = "refused: " + ", ".join(bad) if bad else "genuine, and nothing that was asked speaks against it"
    return [*rows, "", f"{verdict} (exit {1 if bad else 0})"]


def _row(check: Check, titles: Any) -> str:
    about = titles.get(check.id, check.id)
    reason = f" [{check.reason}]" if check.reason else ""
    found = f"\n{'':21}found {check.found}" if check.found else ""
    expected = f"\n{'':21}expected {check.expected}" if check.expected and check.expected != check.found else ""
    return f"  {mark(check.outcome, sys.stdout)}  {plain(about + reason, 200)}{plain(found, 300)}{plain(expected, 300)}"


def _facts(result: TeeResult) -> Iterable[tuple[str, str]]:
    claims = result.claims
    yield "tcb status", claims.tcb_status.value if claims.tcb_status else "unknown"
    yield "debug", {None: "unknown", True: "ON", False: "off"}[claims.debug]
    for name, value in claims.flags.items():
        yield name, str(value).lower()
    for name, value in claims.measurements.items():
        if value.strip("0"):
            yield name, value
    for label, text in (("report data", claims.report_data), ("nonce", claims.nonce), ("machine", claims.machine_id)):
        if text:
            yield label, text
    yield "bound to", f"{claims.binding.status.value} {claims.binding.kind or ''}".rstrip()
    yield "freshness", claims.freshness.kind.value
    yield "host", claims.host_trust.value
    for advisory in claims.advisory_ids:
        yield "advisory", advisory


# -- a folder of cases ------------------------------------------------------------------------------------------------


def _folder(folder: Path, wanted: list[str], as_json: bool) -> int:
    manifest = parse_manifest(_read(folder / "manifest.json"))
    cases = [case for case in manifest.cases if not wanted or case.id in wanted]
    missing = sorted(set(wanted) - {case.id for case in cases})
    if missing:
        raise Usage(f"there is no case {missing[0]!r} in {folder / 'manifest.json'}")
    progress = Progress("cases")
    ran = []
    for number, case in enumerate(cases, 1):
        ran.append(run_case(manifest, case, lambda name: _inside(folder, name)))
        progress.update(number, len(cases))
    progress.clear()
    failed = sum(1 for one in ran if one.problems)
    if as_json:
        rows = [_case_document(one) for one in ran]
        _print_json({"kind": manifest.kind, "passed": len(ran) - failed, "failed": failed, "cases": rows})
    else:
        _print([*_case_rows(manifest, ran, bool(wanted)), f"{len(ran) - failed} passed, {failed} failed"])
    return 1 if failed else 0


def _case_rows(manifest: Manifest, ran: Sequence[Ran], detailed: bool) -> list[str]:
    rows = []
    for one in ran:
        outcome = Outcome.CONTRAINDICATED if one.problems else Outcome.AFFIRMING
        word = "FAIL" if one.problems else "ok"
        rows.append(
            f"{mark(outcome, sys.stdout)[:1]} {word:<5}{manifest.kind}/{plain(one.case.id, 80):<46} {_said(one)}"
        )
        rows += [f"       {plain(problem, 300)}" for problem in one.problems]
        if detailed and one.result is not None:
            rows += [_row(check, MANDATORY) for check in one.result.checks]
            rows += [_row(check, RULES) for check in judge(one.result.claims, CASES)]
    return rows


def _said(one: Ran) -> str:
    if one.result is None:
        return "not appraised"
    if not one.result.claims.authentic:
        return f"not authentic: {one.result.claims.reject_code}"
    bad = violations(judge(one.result.claims, CASES))
    root = " (root=TEST)" if one.result.claims.root and one.result.claims.root.test else ""
    return ("authentic, refused: " + ", ".join(bad) if bad else "authentic, accepted") + root


def _case_document(one: Ran) -> dict[str, Any]:
    claims = one.result.claims if one.result else None
    return {
        "id": one.case.id,
        "passed": not one.problems,
        "problems": list(one.problems),
        "authentic": claims.authentic if claims else None,
        "reject_code": claims.reject_code if claims else None,
        "violations": list(violations(judge(claims, CASES))) if claims else None,
    }


def _inside(folder: Path, name: str) -> bytes:
    """A file of the folder; a manifest cannot name one outside of it."""
    try:
        path = (folder / name).resolve()
    except (OSError, ValueError):  # a loop of links; a name with a zero byte
        raise FormatError(f"the manifest names no file: {name[:80]!r}") from None
    if not path.is_relative_to(folder.resolve()):
        raise FormatError(f"the manifest names a file outside of its folder: {name[:80]!r}")
    return _read(path)


# -- small things -----------------------------------------------------------------------------------------------------


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_FILE + 1)
    except OSError as error:
        raise Usage(f"cannot read {path}: {error.strerror}") from None
    if len(data) > MAX_FILE:
        raise Usage(f"{path} is over {MAX_FILE >> 20} MB, which no evidence is")
    return data


def _pairs(items: Iterable[str], option: str) -> Iterable[tuple[str, str]]:
    for item in items:
        name, sign, value = item.partition("=")
        if not sign or not name:
            raise Usage(f"{option} takes NAME=VALUE, not {item!r}")
        yield name, value


def _params(params: dict[str, str]) -> dict[str, Any]:
    """Numbers as numbers, by the parameter's name: a nonce of digits is a nonce."""
    return {name: _number(value) if name in _NUMBERS else value for name, value in params.items()}


_NUMBERS = ("max_age_s", "future_skew_s", "max_age", "lowest_evaluation")


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text  # the family says what it wants


def _time(text: str | None) -> float:
    if text is None:
        return time.time()
    try:
        seconds = float(text)
    except ValueError:
        pass
    else:
        if not math.isfinite(seconds):
            raise Usage(f"--now takes RFC 3339 or seconds since 1970, not {text!r}")
        return seconds
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise Usage(f"--now takes RFC 3339 or seconds since 1970, not {text!r}") from None
    if moment.tzinfo is None:
        raise Usage(f"--now needs a time zone: {text}Z for UTC")
    return moment.timestamp()


def _instant(at: float) -> str:
    try:
        return datetime.datetime.fromtimestamp(at, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return f"{at:.0f} s"


def _rules(name: str) -> TeeRules:
    from gateway.policy import parse_policy
    from gateway.policy_files import read_file, read_policies

    try:
        if name.endswith(".toml"):
            return parse_policy(name, read_file(Path(name))).tee_rules
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
