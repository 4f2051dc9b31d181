"""Check a receipt away from the gateway: one line for each check, nothing fetched.

FILE is one of
  a bundle          /v1/receipts/<id>/bundle, *.veriroutebundle.json
  a receipt         /v1/receipts/<id> (a DSSE envelope), together with its .tlog-proof
  a saved answer    the JSON body of an answer whose policy attaches everything (attach = "full")

Trust roots come from --trust: a C2SP tlog-policy file with `log` and `witness` lines, and our `#!receipt <vkey>` lines
for the keys that sign receipts. Get it from whoever runs the gateway, by another way than the file you check. Without
it the keys in the bundle are used, which shows that the file agrees with itself and nothing more: the exit code is 3.

Exit code: 0 all that was asked for is affirming, or a warning; 1 something is contraindicated, or the recorded verdict
is; 2 usage; 3 something could not be decided. With several files, the worst of theirs (1, then 3, then 0).

examples:
  veriroute verify answer.veriroutebundle.json --trust gateway.trust
  veriroute verify receipt.json receipt.tlog-proof --trust gateway.trust --json
  curl -s $GATEWAY/v1/receipts/$ID/bundle | veriroute verify - --trust gateway.trust --require affirming
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

import msgspec

from gateway.errors import FormatError, VerirouteError
from gateway.log.bundle import MAX_BUNDLE, Bundle, parse_bundle
from gateway.log.proof import HEADER
from gateway.log.trust import TrustPolicy, parse_trust
from gateway.model.verdict import Outcome
from gateway.offline import Line, exit_code, recorded, verify_bundle
from gateway.offline.reappraise import reappraise
from gateway.offline.saved import bundle_from_answer
from gateway.text import plain

from . import EXIT_OK, EXIT_REJECTED, EXIT_UNDECIDED
from .terminal import as_document, show

HELP = "check a receipt bundle, or a receipt with its proof, offline"


class Usage(VerirouteError):
    """The files given do not make something that can be checked."""

    code = "usage"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "files", nargs="+", metavar="FILE", help="a bundle, a receipt, a .tlog-proof, an answer; - reads standard input"
    )
    parser.add_argument("--trust", metavar="FILE", help="your trust roots (tlog-policy with #!receipt lines)")
    parser.add_argument("--proof", metavar="FILE", help="the .tlog-proof of the one receipt among the files")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of lines")
    parser.add_argument(
        "--require",
        choices=["affirming"],
        help="also fail (1) unless the recorded verdict is affirming; warning passes otherwise",
    )
    parser.add_argument(
        "--authenticity-only",
        action="store_true",
        help="leave the recorded verdict out of the exit code: is the record genuine?",
    )
    parser.add_argument(
        "--trust-bundle-keys", action="store_true", help="without --trust: accept the keys that came with the file"
    )


def run(args: argparse.Namespace) -> int:
    trust = _trust(args.trust)
    worst = EXIT_OK
    results: list[dict[str, Any]] = []
    for name, bundle in _bundles(args.files, args.proof):
        now = time.time()
        lines = (
            [bundle]
            if isinstance(bundle, Line)
            else verify_bundle(bundle, trust, now=now, accept_bundle_keys=args.trust_bundle_keys, reappraise=reappraise)
        )
        code = exit_code(lines, authenticity_only=args.authenticity_only, require_affirming=args.require is not None)
        worst = _worse(worst, code)
        if args.json:
            results.append(_document(name, bundle, lines, code))
        else:
            show(_title(name, bundle), lines, code)
    if args.json:
        sys.stdout.write(json.dumps({"exit": worst, "files": results}, indent=1) + "\n")
    return worst


class _Peek(msgspec.Struct, rename="camel"):
    media_type: str | None = None
    payload_type: str | None = None
    verification: msgspec.Raw = msgspec.Raw()


def _bundles(names: list[str], proof: str | None) -> list[tuple[str, Bundle | Line]]:
    """What to check, in the order of the files; a receipt goes with the proof that stands in the same place."""
    found: list[tuple[str, Bundle | Line]] = []
    receipts: list[tuple[str, bytes]] = []
    proofs = [] if proof is None else [_text(proof, _read(proof))]
    for name in names:
        data = _read(name)
        if data.startswith(HEADER.encode()):
            proofs.append(_text(name, data))
            continue
        kind = _kind(name, data)
        if kind == "receipt":
            receipts.append((name, data))
        else:
            found.append((name, _bundle(data) if kind == "bundle" else _answer(data)))
    if len(proofs) > len(receipts):
        raise Usage("there are more proofs than receipts; give each receipt's DSSE envelope with its .tlog-proof")
    if proofs and len(proofs) < len(receipts):
        raise Usage(
            f"{len(receipts)} receipts and {len(proofs)} proofs: give a proof for each receipt, in the same order"
        )
    for number, (name, data) in enumerate(receipts):
        found.append((name, Bundle(receipt=data, proof=proofs[number] if proofs else "")))
    return found


def _bundle(data: bytes) -> Bundle | Line:
    try:
        return parse_bundle(data)
    except FormatError as error:
        return Line("format", Outcome.CONTRAINDICATED, str(error))


def _answer(data: bytes) -> Bundle | Line:
    try:
        return bundle_from_answer(data)
    except FormatError as error:  # an answer need not carry its receipt, so nothing is refuted
        return Line("format", Outcome.NONE, str(error))


def _kind(name: str, data: bytes) -> str:
    try:
        peek = msgspec.json.decode(data, type=_Peek)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        peek = _Peek()
    if peek.media_type is not None:
        return "bundle"
    if peek.payload_type is not None:
        return "receipt"
    if bytes(peek.verification):
        return "answer"
    raise Usage(
        f"{plain(name)} is no bundle, receipt, tlog-proof or saved answer; `veriroute verify --help` says what is"
    )


def _read(name: str) -> bytes:
    try:
        if name == "-":
            data = sys.stdin.buffer.read(MAX_BUNDLE + 1)
        else:
            with open(name, "rb") as file:
                data = file.read(MAX_BUNDLE + 1)
    except OSError as error:
        raise Usage(f"cannot read {plain(name)}: {error.strerror}") from None
    if len(data) > MAX_BUNDLE:
        raise Usage(f"{plain(name)} is over the limit of {MAX_BUNDLE >> 20} MiB")
    return data


def _text(name: str, data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise Usage(f"{plain(name)} is not UTF-8 text") from None


def _trust(name: str | None) -> TrustPolicy | None:
    if name is None:
        return None
    try:
        return parse_trust(_read(name))
    except FormatError as error:
        raise Usage(f"{plain(name)}: {error}") from None


def _worse(first: int, second: int) -> int:
    return max(first, second, key=(EXIT_OK, EXIT_UNDECIDED, EXIT_REJECTED).index)


def _title(name: str, bundle: Bundle | Line) -> str:
    statement = recorded(bundle) if isinstance(bundle, Bundle) else None
    return f"{name}: receipt {statement.predicate.receipt_id}" if statement else f"{name}: no receipt"


def _document(name: str, bundle: Bundle | Line, lines: list[Line], code: int) -> dict[str, Any]:
    statement = recorded(bundle) if isinstance(bundle, Bundle) else None
    return {
        "file": name,
        "exit": code,
        "receipt": statement.predicate.receipt_id if statement else None,
        "recordedVerdict": statement.predicate.verdict.value if statement else None,
        "recordedRelease": statement.predicate.release.value if statement else None,
        "lines": [as_document(line) for line in lines],
    }
