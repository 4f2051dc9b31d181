"""OpenGradient's attestation documents get the verdicts that were recorded for them, by the check that is theirs."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.crypto.keccak import keccak256
from gateway.crypto.x509 import spki_sha256
from gateway.model.node import Node
from gateway.model.verdict import Outcome
from gateway.verify.opengradient.dossier import Live
from gateway.verify.opengradient.identity import appraise_identity
from gateway.verify.opengradient.identity_claims import grade
from gateway.verify.opengradient.pcrs import PcrVersion
from gateway.verify.tee.roots import VENDOR_ROOTS, Anchor, TrustRoots

FILE = Path(__file__).parents[2].parent / "shared/vectors/opengradient/attestation.json"
CASES: list[dict[str, Any]] = json.loads(FILE.read_bytes())["cases"] if FILE.is_file() else []

pytestmark = pytest.mark.skipif(not CASES, reason=f"the OpenGradient vectors are not at {FILE}")

#: The vectors' word for a refusal -> our check and reason.
REASONS = {
    "nonce_mismatch": ("fresh", "nonce_mismatch"),
    "signing_key_binding": ("key_bound", "signing_key_binding"),
    "tls_binding": ("channel_bound", "tls_binding"),
    "pcr_mismatch": ("keyset_valid", "pcr_mismatch"),
    "debug_enclave": ("evidence", "debug_enclave"),
    "cose_signature": ("evidence", "nitro_bad_signature"),
    "attestation_stale": ("fresh", "nitro_stale"),
    "untrusted_root": ("evidence", "nitro_untrusted_root"),
}


class Record(msgspec.Struct, frozen=True):
    tee_id: bytes
    public_key: bytes
    tls_certificate: bytes
    pcr_hash: bytes
    last_heartbeat_at: int
    registered_at: int = 0
    tee_type: int = 0
    enabled: bool = True


def test_all_nine_are_there() -> None:
    """The file holds the nine documents that the specification speaks of."""
    assert len(CASES) == 9
    assert {case.get("reason") for case in CASES} == {None, *REASONS}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_document(case: dict[str, Any]) -> None:
    """An honest document makes the node live-attested; each other one fails in its own check."""
    raw = {name: base64.b64decode(case[name] or "") for name in case if name.endswith("b64")}
    spki, tls = raw["signing_key_spki_b64"], raw["tls_cert_der_b64"]
    digest = hashlib.sha256(raw["root_der_b64"]).hexdigest()
    roots = TrustRoots((Anchor("nitro", "synthetic", digest, test=True),)) if raw["root_der_b64"] else VENDOR_ROOTS
    expected = bytes.fromhex(case["expected_pcr_hash"][2:])
    result, session = appraise_identity(
        Node("og", "opengradient", "https://198.51.100.7", ("gpt-4.1",), pin="0x" + keccak256(spki).hex()),
        Record(keccak256(spki), spki, tls, expected, case["clock_now"] - 60),
        None,
        Live(b"", raw["document_b64"]),
        None,
        nonce=case["expected_nonce_hex"] + "00" * 12,
        now=case["clock_now"],
        spki=spki_sha256(tls),
        tls=True,
        roots=roots,
        known_pcrs={expected: PcrVersion("", "", "", "", "publisher", "known")},
        max_heartbeat_age_s=1800.0,
        attestation_ttl_s=3600.0,
    )
    assert session is not None
    found = {check.id: check for check in result.checks}
    if case["expect"] == "accept":
        assert session.outcome is Outcome.AFFIRMING
        assert grade(result.claims) == "live-attested"
        return
    check, reason = REASONS[case["reason"]]
    assert (found[check].outcome, found[check].reason) == (Outcome.CONTRAINDICATED, reason)
    assert session.outcome is Outcome.CONTRAINDICATED
