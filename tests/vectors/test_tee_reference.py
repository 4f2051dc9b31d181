"""Our verifiers against the reference checks over the reference's own synthetic worlds: the same things hold and fail.

The stored self-check makes evidence, good and broken, and asks a reference verifier. Here every question that it asks
of a family that we have is put to ours in its place, and the two must agree whether the evidence holds.
"""

from __future__ import annotations

import functools
import importlib
import json
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.model.tee import TeeResult
from gateway.verify.tee.cca import verify_cca
from gateway.verify.tee.intel import verify_intel
from gateway.verify.tee.nitro import verify_nitro
from gateway.verify.tee.nvidia_gpu import verify_spdm
from gateway.verify.tee.roots import Anchor, TrustRoots
from gateway.verify.tee.snp import verify_snp

FOLDER = Path(__file__).parents[2].parent / "shared/vectors/tee/synth"

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"the reference checks are not at {FOLDER}")

#: What the self-check asks of another piece than these five verifiers.
OTHERS = ("dcap-qvl", "nras", "gcs", "maa", "azure")


@functools.cache
def reference() -> tuple[ModuleType, ModuleType]:
    sys.path.insert(0, str(FOLDER))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module("refverify"), importlib.import_module("selfcheck")
    finally:
        sys.path.remove(str(FOLDER))


def der(certificate: Any) -> bytes:
    return certificate.public_bytes(Encoding.DER)


def answer(result: TeeResult, expected: bytes | None = None) -> dict[str, Any]:
    """The result in the reference's words: what it looks at in its claims, or its exception."""
    refuse = reference()[0].Reject
    claims = result.claims
    if not claims.authentic:
        raise refuse(str(claims.reject_code))
    if expected is not None and claims.report_data != expected.hex():
        raise refuse("report_data_mismatch")
    return {"debug": claims.debug, "tcb_status": claims.tcb_status, "report_data": claims.report_data}


def anchors(vendor: str, *certificates: Any) -> TrustRoots:
    prints = (reference()[0].fp(c) if not isinstance(c, str) else c for c in certificates)
    return TrustRoots(tuple(Anchor(vendor, "synthetic", print_, test=True) for print_ in prints))


def snp(
    report: bytes,
    ek: Any,
    ask: Any,
    arks: list[Any],
    now: float,
    *,
    crl: Any = None,
    expected_report_data: bytes | None = None,
    **_: Any,
) -> Any:
    listed = None if crl is None else der(crl)
    roots = anchors("amd", *arks)
    return answer(
        verify_snp(report, der(ek), der(ask), der(arks[0]), roots=roots, now=now, crl=listed), expected_report_data
    )


def nitro(
    doc: bytes, roots: set[str], now: float, *, nonce: bytes | None = None, max_age: float | None = None, **_: Any
) -> Any:
    return answer(verify_nitro(doc, roots=anchors("nitro", *roots), now=now, nonce=nonce, max_age_s=max_age))


def intel(
    quote: bytes, collateral: dict[str, Any], root: Any, now: float, *, expected_report_data: bytes | None = None
) -> Any:
    found = verify_intel(quote, json.dumps(collateral).encode(), roots=anchors("intel", root), now=now)
    return answer(found, expected_report_data)


def nvidia(report: bytes, chain: bytes, roots: set[str], now: float, *, nonce: str | None = None) -> Any:
    asked = None if nonce is None else bytes.fromhex(nonce)
    return answer(verify_spdm(report, chain, roots=anchors("nvidia_device", *roots), now=now, nonce=asked))


def cca(token: bytes, key: Any, *, nonce: bytes | None = None) -> Any:
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return answer(verify_cca(token, spki, roots=TrustRoots(), now=1.8e9, challenge=nonce))


OURS = {"snp_verify": snp, "nitro_verify": nitro, "dcap_verify": intel, "nvidia_verify": nvidia, "cca_verify": cca}


def asked() -> Iterator[tuple[str, Callable[[], Any]]]:
    """Every question of the self-check, in its order."""
    _, check = reference()
    found: list[tuple[str, Callable[[], Any]]] = []
    original = check.expect
    check.expect = lambda label, want, question: found.append((label, question))
    try:
        for part in (check.snp, check.nitro, check.tdx, check.nvidia, check.azure_cca):
            part()
    finally:
        check.expect = original
    return iter(found)


def verdict(question: Callable[[], Any]) -> tuple[bool, str]:
    try:
        return True, str(question())
    except reference()[0].Reject as refused:
        return False, refused.code


def test_the_same_things_hold_and_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """For each question of the reference's self-check, ours and its verifier say the same: it holds, or it does not."""
    warnings.simplefilter("ignore")  # the reference reads AMD's serial number 0 with the library's warning
    module, _ = reference()
    questions = [(label, q) for label, q in asked() if not label.startswith(OTHERS)]
    assert len(questions) > 70
    theirs = {label: verdict(question) for label, question in questions}
    for name, function in OURS.items():
        monkeypatch.setattr(module, name, function)
    ours = {label: verdict(question) for label, question in questions}
    differ = {label: (theirs[label], ours[label]) for label in theirs if theirs[label][0] is not ours[label][0]}
    assert not differ
    assert 20 <= sum(held for held, _ in ours.values()) < len(ours)
