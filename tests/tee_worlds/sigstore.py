"""A whole Sigstore of our own: CA, transparency log, certificate log and workflow, under keys that are in this file.

    bundle = make_bundle()                        # genuine, as JSON-able data
    verify(bundle)                                # authentic
    make_bundle(Leaf(extensions={...}))           # a certificate for somebody else

Every key is derived from a small number, so that whoever sees one of these certificates knows what it is worth.
"""

from __future__ import annotations

import base64
import calendar
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from gateway.crypto.merkle import leaf_hash, verify_inclusion
from gateway.model.provenance import ProvenanceResult
from gateway.verify.provenance.measurement import MULTIPLATFORM
from gateway.verify.provenance.verify import GITHUB, IdentityPolicy, verify_bundle

SIGNED = datetime(2026, 1, 1, 0, 5, tzinfo=UTC)
NOW = SIGNED.timestamp() + 60
REPOSITORY = "example/router"
REF = "refs/tags/v1.2.3"
SIGNER = f"https://github.com/{REPOSITORY}/.github/workflows/build.yml@{REF}"
COMMIT = "c0ffee" * 6 + "c0ff"
ARTIFACT = hashlib.sha256(b"the release").hexdigest()
SNP, RTMR1, RTMR2 = "a1" * 48, "b2" * 48, "c3" * 48
SCT_LIST = x509.ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2")
POLICY = IdentityPolicy(repository=REPOSITORY, predicate_types=(MULTIPLATFORM,))


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


@cache
def key(number: int, curve: type[ec.EllipticCurve] = ec.SECP256R1) -> ec.EllipticCurvePrivateKey:
    """The test key of that number. Anybody can compute it."""
    return ec.derive_private_key(0x7E57_0000 + number, curve())


ROOT, INTERMEDIATE, LOG, CT, LEAF, STRANGER = range(1, 7)


def spki(private: ec.EllipticCurvePrivateKey) -> bytes:
    return private.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def log_id(number: int) -> bytes:
    return hashlib.sha256(spki(key(number))).digest()


def sign(number: int, message: bytes) -> bytes:
    return key(number).sign(message, ec.ECDSA(hashes.SHA256()))


def _length(count: int) -> bytes:
    if count < 0x80:
        return bytes([count])
    return b"\x81" + bytes([count]) if count < 0x100 else b"\x82" + count.to_bytes(2, "big")


def utf8(text: str) -> bytes:
    data = text.encode()
    return b"\x0c" + _length(len(data)) + data


FULCIO: dict[int, bytes] = {
    1: GITHUB.encode(),
    3: COMMIT.encode(),
    5: REPOSITORY.encode(),
    6: REF.encode(),
    8: utf8(GITHUB),
    9: utf8(SIGNER),
    12: utf8(f"https://github.com/{REPOSITORY}"),
    13: utf8(COMMIT),
    14: utf8(REF),
}


@dataclass(frozen=True)
class Leaf:
    """What the signer's certificate says. An extension of None is left out."""

    extensions: dict[int, bytes | None] = field(default_factory=dict)
    names: Sequence[str] = (SIGNER,)
    start: datetime = SIGNED - timedelta(minutes=2)
    end: datetime = SIGNED + timedelta(minutes=8)
    ca: bool = False
    digital_signature: bool = True
    usage: x509.ObjectIdentifier | None = ExtendedKeyUsageOID.CODE_SIGNING
    issuer: int = INTERMEDIATE
    curve: type[ec.EllipticCurve] = ec.SECP256R1
    public_key: Any = None
    scts: Sequence[tuple[int, int]] = ((CT, 0),)  # (log's key, seconds after SIGNED)
    sct_list: bytes | None = None  # the list itself, in place of `scts`
    no_sct_extension: bool = False


def name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"TEST {text}")])


@cache
def authority(number: int, issuer: int, text: str) -> x509.Certificate:
    builder = (
        x509.CertificateBuilder()
        .subject_name(name(text))
        .issuer_name(name("root"))
        .public_key(key(number).public_key())
        .serial_number(number)
        .not_valid_before(SIGNED - timedelta(days=365))
        .not_valid_after(SIGNED + timedelta(days=365))
        .add_extension(x509.BasicConstraints(True, None), True)
        .add_extension(x509.KeyUsage(False, False, False, False, False, True, True, False, False), True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key(number).public_key()), False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key(issuer).public_key()), False)
    )
    return builder.sign(key(issuer), hashes.SHA256())


def root_certificate() -> x509.Certificate:
    return authority(ROOT, ROOT, "root")


def intermediate_certificate() -> x509.Certificate:
    return authority(INTERMEDIATE, ROOT, "intermediate")


def der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)


def make_leaf(leaf: Leaf) -> x509.Certificate:
    """The certificate that `leaf` describes, with its certificate log's promises embedded."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(name("intermediate" if leaf.issuer == INTERMEDIATE else "root"))
        .public_key(leaf.public_key or key(LEAF, leaf.curve).public_key())
        .serial_number(77)
        .not_valid_before(leaf.start)
        .not_valid_after(leaf.end)
        .add_extension(x509.BasicConstraints(leaf.ca, None), True)
        .add_extension(
            x509.KeyUsage(leaf.digital_signature, False, False, False, False, leaf.ca or not leaf.digital_signature,
                          False, False, False),
            True,
        )
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key(leaf.issuer).public_key()), False)
    )  # fmt: skip
    if leaf.usage is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([leaf.usage]), False)
    if leaf.names:
        uris = [x509.UniformResourceIdentifier(uri) for uri in leaf.names]
        builder = builder.add_extension(x509.SubjectAlternativeName(uris), True)
    for number, value in {**FULCIO, **leaf.extensions}.items():
        if value is not None:
            oid = x509.ObjectIdentifier(f"1.3.6.1.4.1.57264.1.{number}")
            builder = builder.add_extension(x509.UnrecognizedExtension(oid, value), False)
    if leaf.no_sct_extension:
        return builder.sign(key(leaf.issuer), hashes.SHA256())
    tbs = builder.sign(key(leaf.issuer), hashes.SHA256()).tbs_certificate_bytes
    stamps = leaf.sct_list if leaf.sct_list is not None else sct_list(tbs, leaf)
    value = b"\x04" + _length(len(stamps)) + stamps
    return builder.add_extension(x509.UnrecognizedExtension(SCT_LIST, value), False).sign(
        key(leaf.issuer), hashes.SHA256()
    )


def sct_list(tbs: bytes, leaf: Leaf) -> bytes:
    entry = hashlib.sha256(spki(key(leaf.issuer))).digest() + len(tbs).to_bytes(3, "big") + tbs
    return listed(*(sct(entry, number, calendar.timegm(SIGNED.timetuple()) + after) for number, after in leaf.scts))


def listed(*items: bytes) -> bytes:
    """The list of SCTs, its length in front."""
    data = b"".join(items)
    return len(data).to_bytes(2, "big") + data


def sct(entry: bytes, number: int, at: float, *, signature: bytes | None = None) -> bytes:
    """One promise of the certificate log with that key, its length in front."""
    stamp = int(at * 1000).to_bytes(8, "big")
    signed = b"\0\0" + stamp + b"\0\1" + entry + b"\0\0"
    value = sign(number, signed) if signature is None else signature
    data = b"\0" + log_id(number) + stamp + b"\0\0" + b"\4\3" + len(value).to_bytes(2, "big") + value
    return len(data).to_bytes(2, "big") + data


def statement(**changes: Any) -> dict[str, Any]:
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "release.json", "digest": {"sha256": ARTIFACT}}],
        "predicateType": MULTIPLATFORM,
        "predicate": {"snp_measurement": SNP, "tdx_measurement": {"rtmr1": RTMR1, "rtmr2": RTMR2}},
        **changes,
    }


def proof(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """The inclusion proof of one leaf among `leaves`, by the definition of RFC 6962 section 2.1.1."""
    if len(leaves) == 1:
        return []
    half = 1 << (len(leaves) - 1).bit_length() - 1
    if index < half:
        return [*proof(leaves[:half], index), tree_root(leaves[half:])]
    return [*proof(leaves[half:], index - half), tree_root(leaves[:half])]


def tree_root(leaves: Sequence[bytes]) -> bytes:
    if len(leaves) == 1:
        return leaves[0]
    half = 1 << (len(leaves) - 1).bit_length() - 1
    return hashlib.sha256(b"\1" + tree_root(leaves[:half]) + tree_root(leaves[half:])).digest()


def checkpoint(size: int, root: bytes, number: int = LOG, origin: str = "log.example - 42") -> str:
    text = f"{origin}\n{size}\n{b64(root)}\n"
    return f"{text}\n— log.example {b64(log_id(number)[:4] + sign(number, text.encode()))}\n"


def logged_body(envelope: dict[str, Any], certificate: x509.Certificate) -> dict[str, Any]:
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    payload = base64.b64decode(envelope["payload"])
    return {
        "apiVersion": "0.0.1",
        "kind": "dsse",
        "spec": {
            "envelopeHash": {"algorithm": "sha256", "value": "00" * 32},
            "payloadHash": {"algorithm": "sha256", "value": hashlib.sha256(payload).hexdigest()},
            "signatures": [{"signature": envelope["signatures"][0]["sig"], "verifier": b64(pem)}],
        },
    }


def entry(
    body: bytes, *, at: int, index: int = 5, size: int = 11, number: int = LOG, offset: int = 1000
) -> dict[str, Any]:
    """A log entry for `body` as leaf `index` of a tree of `size` leaves, with everything that shows it."""
    leaves = [leaf_hash(b"other %d" % other) for other in range(size)]
    leaves[index] = leaf_hash(body)
    root = tree_root(leaves)
    hashes_ = proof(leaves, index)
    verify_inclusion(leaves[index], index, size, hashes_, root)
    return {
        "logIndex": str(offset + index),
        "logId": {"keyId": b64(log_id(number))},
        "kindVersion": {"kind": "dsse", "version": "0.0.1"},
        "integratedTime": str(at),
        "inclusionPromise": {"signedEntryTimestamp": b64(promise(body, at, offset + index, number))},
        "inclusionProof": {
            "logIndex": str(index),
            "treeSize": str(size),
            "rootHash": b64(root),
            "hashes": [b64(value) for value in hashes_],
            "checkpoint": {"envelope": checkpoint(size, root, number)},
        },
        "canonicalizedBody": b64(body),
    }


def promise(body: bytes, at: int, index: int, number: int = LOG) -> bytes:
    members = {"body": b64(body), "integratedTime": at, "logID": log_id(number).hex(), "logIndex": index}
    return sign(number, json.dumps(members, separators=(",", ":"), sort_keys=True).encode())


def make_bundle(
    leaf: Leaf = Leaf(),
    *,
    payload: bytes | None = None,
    payload_type: str = "application/vnd.in-toto+json",
    at: Sequence[int] | None = None,
    change_body: Callable[[dict[str, Any]], Any] = lambda body: body,
    signer: ec.EllipticCurvePrivateKey | None = None,
    **entry_options: Any,
) -> dict[str, Any]:
    """A bundle as JSON-able data; genuine unless an argument says otherwise."""
    certificate = make_leaf(leaf)
    data = json.dumps(statement()).encode() if payload is None else payload
    kind = payload_type.encode()
    message = b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(data), data)
    private = signer or key(LEAF, leaf.curve)
    algorithm = hashes.SHA384() if isinstance(private.curve, ec.SECP384R1) else hashes.SHA256()
    envelope = {
        "payload": b64(data),
        "payloadType": payload_type,
        "signatures": [{"sig": b64(private.sign(message, ec.ECDSA(algorithm)))}],
    }
    body = json.dumps(change_body(logged_body(envelope, certificate))).encode()
    times = [int(SIGNED.timestamp())] if at is None else at
    return {
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": {
            "certificate": {"rawBytes": b64(der(certificate))},
            "tlogEntries": [
                entry(body, **{"at": when, "index": place, **entry_options}) for place, when in enumerate(times)
            ],
        },
        "dsseEnvelope": envelope,
    }


def log_key(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "baseUrl": "https://log.example",
        "hashAlgorithm": "SHA2_256",
        "publicKey": {
            "rawBytes": b64(spki(key(number))),
            "keyDetails": "PKIX_ECDSA_P256_SHA_256",
            "validFor": {"start": "2025-01-01T00:00:00Z", "end": "2026-12-31T23:59:59.999Z"},
        },
        "logId": {"keyId": b64(log_id(number))},
        **changes,
    }


def make_trust_root(**changes: Any) -> dict[str, Any]:
    """The world's trusted_root.json as JSON-able data."""
    return {
        "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
        "tlogs": [log_key(LOG)],
        "certificateAuthorities": [
            {
                "subject": {"organization": "TEST", "commonName": "TEST root"},
                "uri": "https://ca.example",
                "certChain": {
                    "certificates": [
                        {"rawBytes": b64(der(intermediate_certificate()))},
                        {"rawBytes": b64(der(root_certificate()))},
                    ]
                },
                "validFor": {"start": "2025-01-01T00:00:00Z"},
            }
        ],
        "ctlogs": [log_key(CT)],
        "timestampAuthorities": [],
        **changes,
    }


@cache
def genuine() -> tuple[bytes, bytes]:
    """A genuine bundle and its trust root, as bytes."""
    return json.dumps(make_bundle()).encode(), json.dumps(make_trust_root()).encode()


def verify(
    bundle: dict[str, Any] | bytes,
    trust_root: dict[str, Any] | bytes | None = None,
    *,
    policy: IdentityPolicy = POLICY,
    digest: str | None = ARTIFACT,
    now: float = NOW,
) -> ProvenanceResult:
    data = bundle if isinstance(bundle, bytes) else json.dumps(bundle).encode()
    root = genuine()[1] if trust_root is None else trust_root
    root_data = root if isinstance(root, bytes) else json.dumps(root).encode()
    return verify_bundle(data, root_data, identity_policy=policy, artifact_digest=digest, now=now)


def seeds() -> list[bytes]:
    """Genuine bundles and a trust root for a fuzzer to start from."""
    two = json.dumps(make_bundle(at=(int(SIGNED.timestamp()), int(SIGNED.timestamp()) + 1))).encode()
    return [genuine()[0], two, genuine()[1], json.dumps(statement()).encode()]


def run(data: bytes) -> None:
    """Read `data` as a bundle and as a trust root; nothing may be raised, and only genuine bundles are authentic."""
    result = verify(data)
    if result.claims.authentic:
        assert result.claims.artifact_sha256 == ARTIFACT
        assert result.claims.measurement is not None
        assert result.claims.measurement.registers == (SNP, RTMR1, RTMR2)
    verify(genuine()[0], data)
