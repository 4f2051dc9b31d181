"""A DCAP quote without Intel's documents: signed by a key that Intel certified, and never authentic for that.

    result = verify_quote_alone(quote, roots=VENDOR_ROOTS, now=1751624163.0)
    result.claims.authentic, result.claims.reject_code          # False, "no_collateral"

The plan is that of `intel`. What needs no collateral is checked: the form, the PCK chain to the pinned root, the three
signatures. What needs it is `none` with the reason `no_collateral`: whether the key was revoked, whether the quoting
enclave is Intel's, whether the platform's security version is one that Intel still lists. An extracted key passes all
that is checked here, so the claims are `authentic: false` with the reject code `no_collateral`. Captured reports mostly
come without collateral, and this still tells a damaged or invented quote from one that only lacks its documents.
docs/verification.md has the list.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from gateway.crypto.certificates import ChainError, der_of
from gateway.model.tee import Platform, Root, TeeClaims, TeeResult

from . import pcs
from .findings import Findings, examine
from .intel import PLAN, check_signatures, machine_claims, report_claims, verify_intel
from .pck import read_pck
from .quote import is_sgx, parse_quote
from .roots import TrustRoots

NO_COLLATERAL = "no_collateral"


def verify_quote_alone(quote: bytes, *, roots: TrustRoots, now: float) -> TeeResult:
    """What a quote shows by itself at `now`, Unix seconds. Total for any bytes; never authentic."""
    platform = Platform.INTEL_SGX if is_sgx(quote) else Platform.INTEL_TDX
    result = examine(platform, quote, now, PLAN, lambda f: _verify(f, quote, roots))
    if not result.claims.authentic:
        return result
    return TeeResult(result.checks, _refused(result.claims))


def verify_quote(quote: bytes, blobs: Mapping[str, bytes], *, roots: TrustRoots, now: float) -> TeeResult:
    """The quote under the input `collateral`; without that input, as far as it goes alone."""
    if "collateral" in blobs:
        return verify_intel(quote, blobs["collateral"], roots=roots, now=now)
    return verify_quote_alone(quote, roots=roots, now=now)


def on_top(quoted: TeeResult, appraise: Callable[[TeeClaims], TeeResult]) -> TeeResult:
    """Add what `appraise` finds behind the registers of a quote to the quote's own checks.

    Where the quote lacks nothing but its collateral, its registers are what a certified key signed, and worth replaying
    a log against; the claims that come out are as little authentic as those that went in.
    """
    claims = quoted.claims
    if claims.reject_code != NO_COLLATERAL:
        found = appraise(claims)
        return TeeResult(quoted.checks + found.checks, found.claims)
    found = appraise(msgspec.structs.replace(claims, authentic=True, reject_code=None, reject_detail=None))
    return TeeResult(quoted.checks + found.checks, _refused(found.claims))


def _refused(claims: TeeClaims) -> TeeClaims:
    detail = "without Intel's collateral nobody knows whether the platform's keys are revoked or its version is known"
    return msgspec.structs.replace(claims, authentic=False, reject_code=NO_COLLATERAL, reject_detail=detail)


def _verify(f: Findings, quote: bytes, roots: TrustRoots) -> None:
    with f.step("tee_format") as step:
        parsed = parse_quote(quote)
        raw: dict[str, Any] = {}
        f.set(raw=raw, **report_claims(parsed, raw))
        with pcs.malformed("pck_malformed"):
            chain = pcs.load_chain(parsed.pck_chain)
        step.found = f"{parsed.tee.upper()} quote version {parsed.version}, {len(parsed.data)} bytes"
    with f.step("tee_chain") as step:
        root = _check_chain(chain, roots, f.evaluated_at)
        prints = [pcs.print_of(certificate) for certificate in chain]
        raw["chain"] = prints
        f.set(root=root, signer_chain=tuple(prints))
        step.found, step.over = root.name, "the chain of the PCK"
    with f.step("tee_signature") as step:
        check_signatures(parsed, chain)
        step.over = f"header and body, {len(parsed.signed)} bytes; the QE report, 384 bytes"
    with f.step("tee_identity"):
        f.set(**machine_claims(read_pck(chain[0]), parsed, raw))
    for check in ("tee_collateral", "tee_revocation", "tee_identity", "tee_tcb"):
        f.absent(check, NO_COLLATERAL, f"FMSPC {raw['fmspc']}" if check == "tee_collateral" else None)


def _check_chain(chain: pcs.Chain, roots: TrustRoots, now: float) -> Root:
    if not chain:
        raise ChainError("there is no certificate", reason="chain_empty")
    root = roots.find("intel", der_of(chain[-1]))
    if root is None:
        raise ChainError(
            f"the chain ends in {pcs.print_of(chain[-1])[:16]}, which is not the pinned root",
            reason="chain_untrusted_root",
        )
    pcs.check_roles(chain, pcs.PCK_CHAIN)
    pcs.check_held(chain, now)
    return root
