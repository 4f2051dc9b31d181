"""The kind `nitro_history`: a Nitro document whose PCR0 must stand in its publisher's signed history.

    doc            the attestation document
    history        the publisher's list (JSON, `pcr_history`)
    publisher_key  the publisher's key, SubjectPublicKeyInfo, which the caller pinned

The list of checks is that of `nitro`, then `pcr_history`. That an entry stands there says that the publisher once
signed this PCR0, and not that it is still wanted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from gateway.errors import FormatError
from gateway.model.tee import Golden, TeeClaims, TeeResult
from gateway.model.verdict import Check

from . import nitro
from .outcomes import fails, holds, refused, unknown
from .pcr_history import find, verify_history
from .roots import TrustRoots


def from_inputs(blobs: Mapping[str, bytes], params: Mapping[str, Any], roots: TrustRoots, now: float) -> TeeResult:
    """`nitro.from_inputs`, and the history. Raises `FormatError` with the reason `input_missing`."""
    for role in ("history", "publisher_key"):
        if role not in blobs:
            raise FormatError(f"there is no input {role}", reason="input_missing")
    result = nitro.from_inputs(blobs, params, roots, now)
    check, golden = _look_up(result.claims, blobs["history"], blobs["publisher_key"])
    claims = msgspec.structs.replace(result.claims, golden=(*result.claims.golden, *golden))
    return TeeResult((*result.checks, check), claims)


def _look_up(claims: TeeClaims, history: bytes, key: bytes) -> tuple[Check, tuple[Golden, ...]]:
    if not claims.authentic:
        return unknown("pcr_history", "document_not_authentic"), ()
    try:
        signed = verify_history(history, key)
    except FormatError as error:
        return refused("pcr_history", error), ()
    count = f"{len(signed.entries)} signed entries"
    if signed.refused:
        count += f", {len(signed.refused)} not signed by the publisher"
    match = find(signed, claims.measurements)
    if match is None:
        return fails("pcr_history", "pcr_history_no_entry", count, f"PCR0 {claims.measurements['pcr0'][:16]}…"), ()
    stated = ", ".join(match.differs)
    note = f"; its unsigned {stated} differ" if stated else ""
    return holds("pcr_history", f"PCR0 among {count}{note}", "PCR0"), (match.golden(),)
