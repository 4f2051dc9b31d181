"""The published vectors of ACI (private-ai-gateway, spec/test-vectors.md), byte for byte."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from gateway.crypto.canonical import jcs
from gateway.crypto.signatures import verify_ed25519
from gateway.verify import aci

FOLDER = Path(__file__).parents[2].parent / "shared/vectors/networks/aci"
SPEC = FOLDER / "spec-vectors"

pytestmark = pytest.mark.skipif(not SPEC.is_dir(), reason=f"the ACI vectors are not at {FOLDER}")


def load(name: str) -> bytes:
    return (SPEC / name).read_bytes().strip()


@pytest.fixture(scope="module")
def expected() -> dict[str, str]:
    return json.loads(load("expected.json"))


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_keyset_digest(expected: dict[str, str]) -> None:
    """The digest of a keyset is the one that the specification gives, and its file is in canonical form."""
    keyset = json.loads(load("keyset.json"))
    assert aci.keyset_digest(keyset) == expected["workload_keyset_digest"]
    assert jcs(keyset) == load("keyset.json")
    parsed = aci.parse_keyset(keyset)
    assert parsed.digest == expected["workload_keyset_digest"]
    assert parsed.keys[0].public_key.hex() == expected["receipt_public_key_ed25519"]


@pytest.mark.parametrize(
    ("file", "nonce", "data"),
    [
        ("statement_nonce.json", bytes(range(32)).hex(), "report_data_nonce"),
        ("statement_null.json", None, "report_data_null"),
    ],
)
def test_statement_and_report_data(expected: dict[str, str], file: str, nonce: str | None, data: str) -> None:
    """A statement has exactly the specification's bytes, and report_data is its digest padded to 64 bytes."""
    statement = aci.statement(expected["workload_keyset_digest"], nonce)
    assert statement == load(file)
    assert aci.report_data(statement) == bytes.fromhex(expected[data]) + bytes(32)


def test_body_hashes(expected: dict[str, str]) -> None:
    """Body hashes are over the exact bytes, and the receipt's events carry them."""
    request, response = "sha256:" + sha256(load("request.json")), "sha256:" + sha256(load("response.json"))
    assert (request, response) == (expected["request_body_hash"], expected["response_body_hash"])
    receipt = aci.parse_receipt(load("receipt.json")).receipt
    assert receipt.body_hash("request.received") == receipt.body_hash("request.forwarded") == request
    assert receipt.body_hash("response.returned") == response


def test_receipt_signature(expected: dict[str, str]) -> None:
    """A receipt's signature covers the canonical form of all of it but the signature."""
    sealed = aci.parse_receipt(load("receipt.json"))
    key = bytes.fromhex(expected["receipt_public_key_ed25519"])
    assert sealed.signed == load("receipt_signing_input.json")
    assert verify_ed25519(key, sealed.signed, sealed.signature)
    for place in (0, len(sealed.signed) // 2, len(sealed.signed) - 1):
        changed = bytearray(sealed.signed)
        changed[place] ^= 1
        assert not verify_ed25519(key, bytes(changed), sealed.signature)


def test_receipt_in_any_spelling(expected: dict[str, str]) -> None:
    """A receipt that was written with other spaces and member order is the same receipt."""
    document = dict(reversed(json.loads(load("receipt.json")).items()))
    sealed = aci.parse_receipt(json.dumps(document, indent=2).encode())
    assert sealed.signed == load("receipt_signing_input.json")


def test_session_id(expected: dict[str, str]) -> None:
    """An attested session is named by the digest of its canonical form."""
    assert aci.session_id(json.loads(load("session.json"))) == expected["session_id"]


def test_stub_report() -> None:
    """The stub report of the reference gateway parses, states its own digest, and is no fresh evidence."""
    data = (FOLDER / "report-stub-1/report.json").read_bytes()
    report = aci.parse_report(data)
    assert report.stated_digest == report.keyset.digest
    nothing = aci.report_data(aci.statement(report.keyset.digest, None))
    assert report.report_data != nothing
    assert report.evidence["vm_config"] == {"stub": True}
