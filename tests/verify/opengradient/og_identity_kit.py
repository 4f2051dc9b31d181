"""An enclave made for tests: its keys, its documents under a test root, and what a registry would say of it."""

from __future__ import annotations

import copy
import datetime
import hashlib
from functools import cache
from typing import Any

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.crypto.keccak import keccak256
from gateway.crypto.x509 import spki_sha256
from gateway.model.node import Node
from gateway.testing.tee.nitro import NOW, World, default_pcrs
from gateway.verify.opengradient.dossier import Live
from gateway.verify.opengradient.identity import OhttpKey, Registered, appraise_identity
from gateway.verify.opengradient.pcrs import PcrVersion

NONCE = "ab" * 32
REGISTERED = NOW - 7200
WORLD = World(REGISTERED)
THEN = copy.copy(WORLD)  # the same root, its leaf two hours older
WORLD.renew(NOW)


class Record(msgspec.Struct, frozen=True, kw_only=True):
    tee_id: bytes
    public_key: bytes
    tls_certificate: bytes
    pcr_hash: bytes
    tee_type: int = 0
    enabled: bool = True
    registered_at: int = int(REGISTERED) + 10
    last_heartbeat_at: int = int(NOW) - 60


@cache
def rsa_spki(bits: int = 2048, number: int = 0) -> bytes:
    key = rsa.generate_private_key(65537, bits).public_key()
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@cache
def tls_certificate(number: int = 0) -> bytes:
    key = ec.derive_private_key(12345 + number, ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    start = datetime.datetime.fromtimestamp(NOW - 86_400, datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(7 + number).not_valid_before(start)
    built = builder.not_valid_after(start + datetime.timedelta(days=356)).sign(key, hashes.SHA256())
    return built.public_bytes(Encoding.DER)


def user_data(spki: bytes | None = None, tls: bytes | None = None) -> bytes:
    halves = (tls or tls_certificate(), spki or rsa_spki())
    return b"".join(b"\x12\x20" + hashlib.sha256(half).digest() for half in halves)


def pcr_hash_of(pcrs: dict[int, bytes]) -> bytes:
    return keccak256(pcrs[0] + pcrs[1] + pcrs[2])


PCRS = default_pcrs()
VERSION = PcrVersion("0x" + pcr_hash_of(PCRS).hex(), "a build", "repo", "0123abc", "publisher", "known")
KNOWN = {pcr_hash_of(PCRS): VERSION}
SPKI_PIN = spki_sha256(tls_certificate())
NODE = Node("og", "opengradient", "https://198.51.100.7", ("gpt-4.1",))


def record(**changes: Any) -> Record:
    spki = changes.get("public_key", rsa_spki())
    known: dict[str, Any] = {
        "tee_id": keccak256(spki),
        "public_key": spki,
        "tls_certificate": tls_certificate(),
        "pcr_hash": pcr_hash_of(PCRS),
    }
    return Record(**{**known, **changes})


def live(**changes: Any) -> Live:
    known: dict[str, Any] = {"user_data": user_data(), "nonce": bytes.fromhex(NONCE)[:20]}
    return Live(b"\0" * 20, WORLD.document(**{**known, **changes}))


def registered(document: bytes | None = None, **changes: Any) -> Registered:
    made = document or THEN.document(user_data=user_data())
    return Registered(**{"document": made, "spki": rsa_spki(), "tls_certificate": tls_certificate(), **changes})


def ohttp(reason: str | None = None) -> OhttpKey:
    return OhttpKey(b"\x07" * 32, reason)


def appraise(**changes: Any) -> Any:
    """`appraise_identity` of a node that has everything; every argument can be changed by name."""
    arguments: dict[str, Any] = {
        "node": NODE,
        "record": record(),
        "registration": registered(),
        "live": live(),
        "ohttp": None,
        "nonce": NONCE,
        "now": NOW,
        "spki": SPKI_PIN,
        "tls": True,
        "roots": WORLD.roots,
        "known_pcrs": KNOWN,
        "max_heartbeat_age_s": 1800.0,
        "attestation_ttl_s": 3600.0,
    }
    return appraise_identity(**{**arguments, **changes})


def said(checks: Any) -> dict[str, tuple[str, str | None]]:
    return {check.id: (check.outcome.value, check.reason) for check in checks}


def claimed(claims: Any) -> dict[str, tuple[str, str | None]]:
    return {claim.name: (claim.status, claim.reason) for claim in claims}
