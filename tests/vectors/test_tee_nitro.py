"""Nitro documents of real enclaves, and of the networks that run them, give the verdicts that were recorded for them."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.model.tee import FreshnessClass, HostTrust
from gateway.verify.tee.nitro import from_inputs, verify_nitro
from gateway.verify.tee.pcr_history import find, verify_history
from gateway.verify.tee.roots import VENDOR_ROOTS, Anchor, TrustRoots

VECTORS = Path(__file__).parents[2].parent / "shared/vectors"
FOLDER = VECTORS / "tee/nitro"
NETWORKS = VECTORS / "networks"
MAPLE = NETWORKS / "opensecret-maple"
OPENGRADIENT = VECTORS / "opengradient/attestation.json"

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"the TEE vectors are not at {FOLDER}")


def mutated(data: bytes, change: dict[str, Any]) -> bytes:
    at = change.get("offset", 0)
    if change["op"] == "xor":
        return data[:at] + bytes((data[at] ^ change["mask"],)) + data[at + 1 :]
    if change["op"] == "write":
        new = bytes.fromhex(change["hex"])
        return data[:at] + new + data[at + len(new) :]
    if change["op"] == "truncate":
        return data[: change["length"]]
    assert change["op"] == "append"
    return data + bytes.fromhex(change["hex"])


def cases() -> Iterator[Any]:
    if not FOLDER.is_dir():
        return
    manifest = json.loads((FOLDER / "manifest.json").read_bytes())
    for case in manifest["cases"]:
        yield pytest.param(manifest, case, id=case["id"])


@pytest.mark.parametrize(("manifest", "case"), list(cases()))
def test_vector(manifest: dict[str, Any], case: dict[str, Any]) -> None:
    """Verdict, reject code and every claim that the manifest names are ours."""
    blobs = {role: (FOLDER / name).read_bytes() for role, name in case["inputs"].items()}
    for role, name in case["inputs"].items():
        assert hashlib.sha256(blobs[role]).hexdigest() == manifest["files"][name]["sha256"]
    for change in case.get("mutations", []):
        blobs[change["target"]] = mutated(blobs[change["target"]], change)
    for name, path in manifest["roots"].items():
        blobs[f"root:{name}"] = (FOLDER / path).read_bytes()
    claims = from_inputs(blobs, case.get("params", {}), VENDOR_ROOTS, case["evaluation_time"]).claims
    expected = case["expected"]
    assert claims.authentic is expected["authentic"]
    assert claims.reject_code == expected.get("reject_code")
    for name, value in expected.get("claims", {}).items():
        assert (claims.raw[name] if name in claims.raw else getattr(claims, name)) == value, name
    if claims.authentic:
        assert claims.host_trust is HostTrust.HYPERSCALER
        assert claims.root is not None
        assert not claims.root.test


def network_document(name: str) -> bytes:
    data = (NETWORKS / name).read_bytes()
    if name.startswith("dstack"):  # a SCALE envelope: two bytes, a compact length, then the document
        length = int.from_bytes(data[2:4], "little") >> 2
        return data[4 : 4 + length]
    return data


@pytest.mark.parametrize(
    ("name", "now"),
    [
        ("dstack/nitro/attestation.bin", 1766678664.0),
        ("marlin/nitro-2024-08/attestation.bin", 1723012694.0),
        ("marlin/nitro-2025-04-pcr16/attestation.bin", 1745922764.0),
        ("opensecret-maple/nitro-attestation-2024-10/attestation.cbor", 1730141661.0),
    ],
)
def test_the_networks_documents_hold_at_their_own_time(name: str, now: float) -> None:
    """Captured documents hold seconds after they were made, not years later, and historically with a label."""
    document = network_document(name)
    claims = verify_nitro(document, roots=VENDOR_ROOTS, now=now, max_age_s=300).claims
    assert claims.authentic, claims.reject_detail
    assert claims.debug is False
    later = 1_795_000_000.0
    assert verify_nitro(document, roots=VENDOR_ROOTS, now=later).claims.reject_code == "cert_expired_or_not_yet_valid"
    past = verify_nitro(document, roots=VENDOR_ROOTS, now=later, historical=True).claims
    assert past.authentic
    assert past.raw["historical"] is True
    assert past.freshness.kind is FreshnessClass.DATED
    assert past.freshness.age_s is not None
    assert past.freshness.age_s > 300 * 86_400
    assert past.measurements == claims.measurements


def test_a_document_under_a_root_of_somebodys_own_is_refused() -> None:
    """A document whose chain and signature hold under a root of its maker's is not AWS's, in either mode."""
    document = network_document("marlin/custom-root/attestation.bin")
    for historical in (False, True):
        result = verify_nitro(document, roots=VENDOR_ROOTS, now=1734080750.0, historical=historical)
        assert result.claims.reject_code == "nitro_untrusted_root"


def test_the_registers_and_keys_that_networks_rely_on_are_read() -> None:
    """Marlin's PCR16 and 64-byte key, Maple's x25519 key and UUID nonce are where a binding looks for them."""
    marlin = verify_nitro(
        network_document("marlin/nitro-2025-04-pcr16/attestation.bin"), roots=VENDOR_ROOTS, now=1745922764.0
    ).claims
    assert marlin.measurements["pcr16"].startswith("30e84b2d7eeffe6d90a47579")
    document = network_document("opensecret-maple/nitro-attestation-2024-10/attestation.cbor")
    nonce = b"cc6b95ef-a0d7-477d-90f2-36cc088d2449"
    maple = verify_nitro(document, roots=VENDOR_ROOTS, now=1730141661.0, nonce=nonce).claims
    assert maple.authentic
    assert maple.freshness.kind is FreshnessClass.CHALLENGE
    assert maple.raw["public_key"] == "f58ab2958d71f7df2bcf475d881cd880b8c467dc054a81209e0474e0e4aee50f"
    assert not verify_nitro(document, roots=VENDOR_ROOTS, now=1730141661.0, nonce=nonce.upper()).claims.authentic


def test_the_published_pcr_history_is_signed_and_does_not_name_the_old_document() -> None:
    """All 134 entries hold under the publisher's key; the captured document's PCR0 is not among them."""
    key = base64.b64decode((MAPLE / "pcrProdHistory/public_key.b64").read_bytes())
    data = (MAPLE / "pcrProdHistory/pcrProdHistory.json").read_bytes()
    history = verify_history(data, key)
    assert (len(history.entries), history.refused) == (134, ())
    first = history.entries[0]
    match = find(history, {"pcr0": first.pcr0, **first.stated})
    assert match is not None
    assert match.differs == ()
    document = network_document("opensecret-maple/nitro-attestation-2024-10/attestation.cbor")
    claims = verify_nitro(document, roots=VENDOR_ROOTS, now=1730141661.0).claims
    assert find(history, claims.measurements) is None
    moved = data.replace(first.pcr0.encode(), claims.measurements["pcr0"].encode(), 1)
    assert verify_history(moved, key).refused == (0,)


#: What of OpenGradient's cases is the document's own matter; the rest is bindings and reference values.
OPENGRADIENT_REFUSED = {
    "attestation_wrong_nonce": "nonce_mismatch",
    "attestation_bad_signature": "nitro_bad_signature",
    "attestation_old": "nitro_stale",
    "attestation_not_aws_root": "nitro_untrusted_root",
}


def opengradient_cases() -> list[dict[str, Any]]:
    return json.loads(OPENGRADIENT.read_bytes())["cases"] if OPENGRADIENT.is_file() else []


@pytest.mark.parametrize("case", opengradient_cases(), ids=lambda case: case["name"])
def test_opengradients_documents(case: dict[str, Any]) -> None:
    """Each case is refused here, or shows here the value that a binding or a reference value refuses."""
    root = case["root_der_b64"]
    roots = VENDOR_ROOTS
    if root is not None:
        digest = hashlib.sha256(base64.b64decode(root)).hexdigest()
        roots = TrustRoots((Anchor("nitro", "synthetic", digest, test=True),))
    nonce = bytes.fromhex(case["expected_nonce_hex"])
    document = base64.b64decode(case["document_b64"])
    claims = verify_nitro(document, roots=roots, now=case["clock_now"], nonce=nonce, max_age_s=300).claims
    assert claims.reject_code == OPENGRADIENT_REFUSED.get(case["name"])
    if claims.reject_code is not None:
        return
    tls, spki = (hashlib.sha256(base64.b64decode(case[k])) for k in ("tls_cert_der_b64", "signing_key_spki_b64"))
    user_data = bytes.fromhex(claims.raw["user_data"])
    assert len(user_data) == 68
    assert user_data[:2] == user_data[34:36] == b"\x12\x20"
    assert (user_data[2:34] != tls.digest()) is (case["name"] == "attestation_other_tls_cert")
    assert (user_data[36:] != spki.digest()) is (case["name"] == "attestation_other_signing_key")
    assert claims.debug is (case["name"] == "attestation_debug_mode")
