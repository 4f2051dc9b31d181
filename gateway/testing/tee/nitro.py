"""Test material: Nitro attestation documents under a root that is not AWS's.

    world = World()
    document = world.document(nonce=b"…", public_key=b"…")
    verify_nitro(document, roots=world.roots, now=world.now)

Keys and signatures are derived from a seed, so a document is the same in every run. The chain has the shape of the real
one: root, region, zone, host, and a leaf of three hours.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import cbor2
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from gateway.verify.tee.roots import Anchor, TrustRoots

NOW = 1_790_000_000.0
MODULE_ID = "i-0123456789abcdef0-enc0123456789abcdef"
HOUR, DAY = 3600, 86_400
ES384 = bytes.fromhex("a1013822")
#: A member that is to be left out.
DROP = object()


def ec_key(seed: str, curve: ec.EllipticCurve | None = None) -> ec.EllipticCurvePrivateKey:
    """A private key from a seed: the same in every run, and of no secret value."""
    number = int.from_bytes(hashlib.sha256(f"veriroute test key {seed}".encode()).digest(), "big")
    return ec.derive_private_key(number, curve or ec.SECP384R1())


def sign_rs(key: ec.EllipticCurvePrivateKey, message: bytes, digest: hashes.HashAlgorithm | None = None) -> bytes:
    """r || s over `message`, deterministic (RFC 6979)."""
    size = (key.curve.key_size + 7) // 8
    der = key.sign(message, ec.ECDSA(digest or hashes.SHA384(), deterministic_signing=True))
    r, s = utils.decode_dss_signature(der)
    return r.to_bytes(size, "big") + s.to_bytes(size, "big")


def sign1(
    key: ec.EllipticCurvePrivateKey,
    payload: bytes,
    *,
    protected: bytes = ES384,
    unprotected: object = None,
    tag: int | None = None,
    digest: hashes.HashAlgorithm | None = None,
) -> bytes:
    """A COSE_Sign1 over `payload`, with whatever headers."""
    signature = sign_rs(key, cbor2.dumps(["Signature1", protected, b"", payload]), digest)
    array = [protected, {} if unprotected is None else unprotected, payload, signature]
    return cbor2.dumps(array if tag is None else cbor2.CBORTag(tag, array))


def indefinite_map(members: Iterable[tuple[object, object]]) -> bytes:
    """A map as newer hypervisors write it: of indefinite length, so that a key can also stand there twice."""
    return b"\xbf" + b"".join(cbor2.dumps(key) + cbor2.dumps(value) for key, value in members) + b"\xff"


def at(seconds: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC)


class World:
    """One root, one chain below it, and documents signed by its leaf at `now`."""

    def __init__(self, now: float = NOW, seed: str = "nitro", label: str | None = None) -> None:
        """`label` stands in the certificates' names; for want of one it is `seed`, which then is no secret."""
        self.now = now
        self.label = label or seed
        self.root_key, self.region_key, self.zone_key, self.host_key, self.leaf_key = (
            ec_key(f"{seed} {name}") for name in ("root", "region", "zone", "host", "leaf")
        )
        self.root = self.certificate("root", start=-3650 * DAY, end=7300 * DAY)
        self.renew(now)

    def renew(self, now: float) -> None:
        """Certificates below the root as they are at `now`: a leaf lives for three hours."""
        self.now = now
        self.region = self.certificate("region", "root", path_length=2, start=-10 * DAY, end=10 * DAY)
        self.zone = self.certificate("zone", "region", path_length=1, start=-DAY, end=5 * DAY)
        self.host = self.certificate("host", "zone", path_length=0, start=-HOUR, end=DAY)
        self.leaf = self.certificate("leaf", "host", ca=False, start=-60, end=3 * HOUR)

    def certificate(
        self,
        name: str,
        issuer: str | None = None,
        *,
        ca: bool | None = True,
        path_length: int | None = None,
        cert_sign: bool | None = None,
        digital_signature: bool | None = None,
        usage: bool = True,
        start: float = -60,
        end: float = 3 * HOUR,
        key: Any = None,
        signed_by: Any = None,
        extra: x509.ExtensionType | None = None,
        critical: bool = True,
    ) -> x509.Certificate:
        """A certificate for the key of this name, signed by `issuer`'s (itself when None). Seconds are from `now`."""
        subject, parent = self._name(name), self._name(issuer or name)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(parent)
            .public_key((key or getattr(self, f"{name}_key")).public_key())
            .serial_number(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") + 1)
            .not_valid_before(at(self.now + start))
            .not_valid_after(at(self.now + end))
        )
        if ca is not None:
            builder = builder.add_extension(x509.BasicConstraints(ca, path_length if ca else None), critical=True)
        if usage:
            signs = bool(ca) if cert_sign is None else cert_sign
            documents = not ca if digital_signature is None else digital_signature
            builder = builder.add_extension(
                x509.KeyUsage(documents, False, False, False, False, signs, False, False, False), critical=True
            )
        if extra is not None:
            builder = builder.add_extension(extra, critical=critical)
        signer = signed_by or getattr(self, f"{issuer or name}_key")
        return builder.sign(signer, hashes.SHA384(), ecdsa_deterministic=True)

    def _name(self, name: str) -> x509.Name:
        return x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Test, not Amazon"),
                x509.NameAttribute(NameOID.COMMON_NAME, f"{self.label}.{name}.test.nitro-enclaves"),
            ]
        )

    @property
    def roots(self) -> TrustRoots:
        """The anchors that believe this world's root."""
        digest = hashlib.sha256(der(self.root)).hexdigest()
        return TrustRoots((Anchor("nitro", "test.nitro-enclaves", digest, test=True),))

    def members(
        self,
        *,
        public_key: bytes | None = None,
        user_data: bytes | None = None,
        nonce: bytes | None = None,
        pcrs: Mapping[int, bytes] | None = None,
        timestamp: float | None = None,
        leaf: x509.Certificate | None = None,
        cabundle: Iterable[x509.Certificate] | None = None,
        change: Mapping[object, object] | None = None,
    ) -> dict[Any, Any]:
        """The members of a document's map. `timestamp` in Unix seconds; `change` sets or (DROP) leaves out members."""
        bundle = (self.root, self.region, self.zone, self.host) if cabundle is None else cabundle
        members: dict[Any, Any] = {
            "module_id": MODULE_ID,
            "digest": "SHA384",
            "timestamp": round((self.now if timestamp is None else timestamp) * 1000),
            "pcrs": dict(default_pcrs() if pcrs is None else pcrs),
            "certificate": der(leaf or self.leaf),
            "cabundle": [der(certificate) for certificate in bundle],
            "public_key": public_key,
            "user_data": user_data,
            "nonce": nonce,
        }
        members.update(change or {})
        return {name: value for name, value in members.items() if value is not DROP}

    def document(
        self,
        *,
        leaf_key: ec.EllipticCurvePrivateKey | None = None,
        protected: bytes = ES384,
        unprotected: object = None,
        tag: int | None = None,
        indefinite: bool = True,
        **members: Any,
    ) -> bytes:
        """A signed document. Keyword arguments that are not of the signature are those of `members`."""
        values = self.members(**members)
        payload = indefinite_map(values.items()) if indefinite else cbor2.dumps(values)
        return self.sign(payload, leaf_key=leaf_key, protected=protected, unprotected=unprotected, tag=tag)

    def sign(self, payload: bytes, *, leaf_key: ec.EllipticCurvePrivateKey | None = None, **headers: Any) -> bytes:
        """Whatever bytes as a payload, signed by the leaf."""
        return sign1(leaf_key or self.leaf_key, payload, **headers)


def der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)


def default_pcrs() -> dict[int, bytes]:
    """Sixteen registers, the first five of them used, as on a real host."""
    return {i: hashlib.sha384(f"pcr {i}".encode()).digest() if i < 5 else bytes(48) for i in range(16)}


def debug_pcrs() -> dict[int, bytes]:
    """What an enclave in debug mode shows: PCR0, PCR1 and PCR2 are zero, PCR4 is not."""
    return {**default_pcrs(), **{i: bytes(48) for i in range(3)}}
