"""The forms of the bundle, the trust root and the statement: one spelling each, and nothing unknown."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from tee_worlds import sigstore as world

from gateway.model.verdict import Outcome
from gateway.verify.provenance.trust_root import find_log, parse_trust_root
from gateway.verify.provenance.verify import PLAN

Change = Callable[[dict[str, Any]], object]


def changed(document: dict[str, Any], change: Change) -> dict[str, Any]:
    other = copy.deepcopy(document)
    change(other)
    return other


def material(bundle: dict[str, Any]) -> dict[str, Any]:
    return bundle["verificationMaterial"]


def entry(bundle: dict[str, Any]) -> dict[str, Any]:
    return material(bundle)["tlogEntries"][0]


@pytest.fixture(scope="module")
def bundle() -> dict[str, Any]:
    return world.make_bundle()


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda b: b.update(mediaType="application/json"), id="media type"),
        pytest.param(lambda b: b.update(mediaType="application/vnd.dev.sigstore.bundle+json;version=0.2"), id="v0.2"),
        pytest.param(lambda b: b.pop("dsseEnvelope"), id="no envelope"),
        pytest.param(lambda b: b.update(messageSignature={}), id="a second kind of signature"),
        pytest.param(lambda b: material(b).update(publicKey={"hint": "x"}), id="a key beside the certificate"),
        pytest.param(lambda b: material(b).update(x509CertificateChain={"certificates": []}), id="a chain beside it"),
        pytest.param(lambda b: material(b)["certificate"].update(rawBytes="AAAA"), id="no certificate"),
        pytest.param(lambda b: material(b)["certificate"].update(rawBytes="***"), id="certificate not base64"),
        pytest.param(lambda b: b["dsseEnvelope"].update(signatures=[]), id="no signature"),
        pytest.param(lambda b: b["dsseEnvelope"]["signatures"].append({"sig": "AA=="}), id="two signatures"),
        pytest.param(lambda b: b["dsseEnvelope"].update(payload=" "), id="payload not base64"),
        pytest.param(lambda b: material(b).update(tlogEntries=[entry(b)] * 17), id="too many entries"),
        pytest.param(lambda b: entry(b)["kindVersion"].update(kind="intoto"), id="another kind of entry"),
        pytest.param(lambda b: entry(b)["kindVersion"].update(version="0.0.2"), id="another version of entry"),
        pytest.param(lambda b: entry(b).update(logIndex="-1"), id="negative index"),
        pytest.param(lambda b: entry(b).update(logIndex=7), id="index not text"),
        pytest.param(lambda b: entry(b)["logId"].update(keyId="AAAA"), id="short log id"),
        pytest.param(lambda b: entry(b).update(integratedTime="9" * 30), id="absurd time"),
        pytest.param(lambda b: entry(b)["inclusionProof"].update(rootHash="AAAA"), id="short root"),
        pytest.param(lambda b: entry(b)["inclusionProof"].update(hashes=["AAAA"]), id="short hash"),
        pytest.param(lambda b: entry(b)["inclusionProof"].update(hashes=[world.b64(bytes(32))] * 64), id="long proof"),
        pytest.param(
            lambda b: entry(b)["inclusionProof"]["checkpoint"].update(envelope="x" * 16_385), id="long checkpoint"
        ),
        pytest.param(lambda b: entry(b).pop("inclusionProof"), id="no proof"),
    ],
)
def test_a_bundle_of_another_form_is_malformed(bundle: dict[str, Any], change: Change) -> None:
    """Whatever is missing, unknown, twice there or spelled otherwise makes the bundle malformed."""
    result = world.verify(changed(bundle, change))
    assert not result.claims.authentic
    assert result.claims.reject_code == "bundle_malformed"
    assert [c.id for c in result.checks] == list(PLAN)
    assert result.checks[1].outcome is Outcome.CONTRAINDICATED
    assert {c.reason for c in result.checks[2:]} == {"not_reached"}


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"null", b"\xff", b'{"mediaType":1}', b"[" * 100_000, b" " * (1 << 21)]
)
def test_bytes_that_are_no_bundle(data: bytes) -> None:
    """Bytes that are not JSON of the form, too deep or too long are malformed, and nothing is raised."""
    assert world.verify(data).claims.reject_code == "bundle_malformed"


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(
            lambda b: b.update(mediaType="application/vnd.dev.sigstore.bundle+json;version=0.3"), id="old spelling"
        ),
        pytest.param(lambda b: b["dsseEnvelope"]["signatures"][0].update(keyid="anything"), id="key id"),
        pytest.param(lambda b: material(b).update(timestampVerificationData={}), id="no timestamps"),
        pytest.param(
            lambda b: material(b).update(
                timestampVerificationData={"rfc3161Timestamps": [{"signedTimestamp": "AA=="}]}
            ),
            id="timestamps",
        ),
    ],
)
def test_what_proves_nothing_is_passed_over(bundle: dict[str, Any], change: Change) -> None:
    """Key ids and signed timestamps of others are read by nobody and change nothing."""
    assert world.verify(changed(bundle, change)).claims.authentic


def authority(root: dict[str, Any]) -> dict[str, Any]:
    return root["certificateAuthorities"][0]


def p384() -> str:
    return world.b64(world.spki(world.key(1, ec.SECP384R1)))


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda r: r.update(mediaType="application/json"), id="media type"),
        pytest.param(lambda r: r.pop("mediaType"), id="no media type"),
        pytest.param(lambda r: r.update(tlogs=[world.log_key(world.LOG)] * 65), id="too many logs"),
        pytest.param(lambda r: authority(r)["certChain"].update(certificates=[]), id="no certificate"),
        pytest.param(
            lambda r: authority(r)["certChain"].update(certificates=[{"rawBytes": "AA=="}] * 10), id="long chain"
        ),
        pytest.param(lambda r: authority(r)["certChain"].update(certificates=[{"rawBytes": "AA=="}]), id="no DER"),
        pytest.param(lambda r: authority(r)["validFor"].update(start="yesterday"), id="no time"),
        pytest.param(lambda r: authority(r)["validFor"].update(start="2025-01-01T00:00:00"), id="time without zone"),
        pytest.param(lambda r: r["tlogs"][0]["publicKey"].update(rawBytes="AAAA"), id="no key"),
        pytest.param(lambda r: r["tlogs"][0]["publicKey"].update(rawBytes=p384()), id="key of another curve"),
        pytest.param(lambda r: r["tlogs"][0]["logId"].update(keyId=world.b64(bytes(32))), id="foreign log id"),
        pytest.param(lambda r: r["ctlogs"][0]["logId"].update(keyId="AAAA"), id="short log id"),
    ],
)
def test_a_trust_root_that_cannot_be_used(bundle: dict[str, Any], change: Change) -> None:
    """A trust root with anything wrong in what is used is refused whole, before the bundle is looked at."""
    result = world.verify(bundle, changed(world.make_trust_root(), change))
    assert result.claims.reject_code == "trust_root_invalid"
    assert result.checks[0].outcome is Outcome.CONTRAINDICATED


def keyed(spki: bytes) -> dict[str, Any]:
    """A trust root whose log has that key under its own id, said to be P-256."""
    key = {"rawBytes": world.b64(spki), "keyDetails": "PKIX_ECDSA_P256_SHA_256"}
    log_id = {"keyId": world.b64(world.hashlib.sha256(spki).digest())}
    return world.make_trust_root(tlogs=[world.log_key(world.LOG, publicKey=key, logId=log_id)])


def test_a_key_is_of_the_kind_that_its_details_say(bundle: dict[str, Any]) -> None:
    """A key on another curve, or of another algorithm, is refused even under its own id."""
    ed = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key()
    for spki in (
        world.spki(world.key(1, ec.SECP384R1)),
        ed.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
    ):
        assert world.verify(bundle, keyed(spki)).claims.reject_code == "trust_root_invalid"
    assert world.verify(bundle, keyed(world.spki(world.key(world.LOG)))).claims.authentic
    many = world.make_trust_root(tlogs=[world.log_key(world.LOG)] * 64)
    assert world.verify(bundle, many).claims.authentic


@pytest.mark.parametrize("data", [b"", b"not json", b"[]", b" " * 300_000])
def test_bytes_that_are_no_trust_root(bundle: dict[str, Any], data: bytes) -> None:
    """Anything but JSON of the form is refused as a trust root."""
    assert world.verify(bundle, data).claims.reject_code == "trust_root_invalid"


def test_keys_of_other_kinds_are_passed_over() -> None:
    """A log with an Ed25519 or a P-384 key beside ours changes nothing; one with another hash is not used."""
    ed = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key()
    raw = world.b64(ed.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    other = world.log_key(world.LOG, publicKey={"rawBytes": raw, "keyDetails": "PKIX_ED25519"})
    hashed = world.log_key(world.LOG, hashAlgorithm="SHA2_512")
    root = world.make_trust_root(tlogs=[other, hashed, world.log_key(world.LOG)])
    parsed = parse_trust_root(json.dumps(root).encode())
    assert [log.id for log in parsed.tlogs] == [world.log_id(world.LOG)]
    assert world.verify(world.make_bundle(), root).claims.authentic


def test_a_p384_log_key_is_read() -> None:
    """A log may sign with P-384, with SHA-384."""
    private = world.key(9, ec.SECP384R1)
    spki = world.spki(private)
    log = {
        "baseUrl": "https://log.example",
        "hashAlgorithm": "SHA2_256",
        "publicKey": {"rawBytes": world.b64(spki), "keyDetails": "PKIX_ECDSA_P384_SHA_384"},
        "logId": {"keyId": world.b64(world.hashlib.sha256(spki).digest())},
    }
    (parsed,) = parse_trust_root(json.dumps(world.make_trust_root(tlogs=[log])).encode()).tlogs
    signature = private.sign(b"message", ec.ECDSA(world.hashes.SHA384()))
    assert parsed.signed(signature, b"message")
    assert not parsed.signed(signature, b"another")
    assert find_log((parsed,), parsed.id, 0.0) is parsed  # no period is any time


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"[]",
        json.dumps({**world.statement(), "extra": 1}).encode(),
        json.dumps({k: v for k, v in world.statement().items() if k != "predicate"}).encode(),
        json.dumps(world.statement(subject={})).encode(),
        b'{"_type":"a","_type":"b"}',
    ],
    ids=["empty", "list", "unknown member", "no predicate", "subject no list", "twice the same member"],
)
def test_a_payload_that_is_no_statement(payload: bytes) -> None:
    """A signed payload that is not exactly an in-toto statement is malformed."""
    assert world.verify(world.make_bundle(payload=payload)).claims.reject_code == "bundle_malformed"
