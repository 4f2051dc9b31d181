"""ACI reports with evidence of hardware, of a keyset with one signing key."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from tee_worlds.intel import NOW

from gateway.crypto.canonical import jcs
from gateway.crypto.signatures import Ed25519Signer
from gateway.verify import aci

NONCE = "ab" * 32


class Keyset:
    """A keyset, its digest, and what a report has to be bound to: the statement of digest and nonce."""

    def __init__(self, *spki: str) -> None:
        self.document = {
            "subject": "test",
            "not_after": int(NOW) + 86_400,
            "receipt_signing_keys": [
                {"key_id": "k1", "algo": "ed25519", "public_key": Ed25519Signer(b"\7" * 32).public_key.hex()}
            ],
            "e2ee_public_keys": [],
            "tls_public_keys": [{"spki_sha256": key} for key in spki],
        }
        self.digest = "sha256:" + hashlib.sha256(jcs(self.document)).hexdigest()
        self.bound = aci.report_data(aci.statement(self.digest, NONCE))

    def report(self, evidence: Mapping[str, Any], tee_type: str = "tdx", **capabilities: Any) -> bytes:
        """The report that shows `evidence`."""
        return json.dumps(
            {
                "api_version": "aci/1",
                "workload_keyset_digest": self.digest,
                "attestation": {
                    "tee_type": tee_type,
                    "workload_keyset": self.document,
                    "report_data": self.bound.hex(),
                    "evidence": dict(evidence),
                },
                "service_capabilities": {"serving": "direct", "models": ["m"], **capabilities},
            }
        ).encode()
