"""The certificates of AMD's key distribution service, and its revocation list, read by our own DER reader.

Every VCEK and VLEK has serial number 0 and none of RFC 5280's extensions. The X.509 library that the rest of the
project uses warns of such certificates and announces that it will refuse them, so nothing here depends on it: what is
needed is few fields, and signatures are checked with the issuer's key over the bytes that were signed.

One signature algorithm is accepted, the one that AMD uses: RSASSA-PSS with SHA-384, MGF1 with SHA-384, a salt of 48
bytes (RFC 4055), in its two spellings (with and without the explicit default `trailerField`). Keys that sign
certificates are RSA of 3072 to 8192 bits with the exponent 65537; AMD's have 4096. Sources: AMD document 57230
("VCEK certificate and KDS interface"), docs/verification.md.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key

from gateway.crypto import der as d
from gateway.errors import FormatError

MAX_CERTIFICATE_BYTES = 16_384
MAX_CRL_BYTES = 65_536
MAX_EXTENSIONS = 32
MIN_RSA_BITS, MAX_RSA_BITS = 3072, 8192

_COMMON_NAME = bytes.fromhex("550403")
_BASIC_CONSTRAINTS = bytes.fromhex("551d13")
#: 1.3.6.1.4.1.3704.1, under which AMD's own extensions stand.
_AMD = bytes.fromhex("2b060104019c7801")
PRODUCT, HWID, CSP_ID = _AMD + b"\x02", _AMD + b"\x04", _AMD + b"\x05"
#: Security patch levels by component.
SPL = {
    "bl": _AMD + b"\x03\x01",
    "tee": _AMD + b"\x03\x02",
    "snp": _AMD + b"\x03\x03",
    "ucode": _AMD + b"\x03\x08",
    "fmc": _AMD + b"\x03\x09",
}

_SHA384 = bytes.fromhex("300d06096086480165030402020500")
_MGF1 = bytes.fromhex("301a06092a864886f70d010108") + _SHA384
_PSS_PARAMETERS = b"\xa0\x0f" + _SHA384 + b"\xa1\x1c" + _MGF1 + bytes.fromhex("a203020130")
_PSS_OID = bytes.fromhex("06092a864886f70d01010a")
_PSS = frozenset(
    b"\x30" + bytes([len(_PSS_OID) + 2 + len(parameters)]) + _PSS_OID + b"\x30" + bytes([len(parameters)]) + parameters
    for parameters in (_PSS_PARAMETERS, _PSS_PARAMETERS + bytes.fromhex("a303020101"))
)
_PADDING = padding.PSS(padding.MGF1(hashes.SHA384()), 48)


class AmdCertificate(msgspec.Struct, frozen=True):
    """What is read of one certificate. Names, key and `tbs` are DER; times are Unix seconds, both ends included."""

    der: bytes
    tbs: bytes
    signature: bytes
    serial: int
    issuer: bytes
    subject: bytes
    common_name: str
    not_before: float
    not_after: float
    spki: bytes
    extensions: Mapping[bytes, bytes]

    @property
    def sha256(self) -> str:
        """SHA-256 of the DER, lower-case hex."""
        return hashlib.sha256(self.der).hexdigest()

    @property
    def is_ca(self) -> bool:
        """Whether BasicConstraints says so. Raises `FormatError` when the extension is malformed."""
        value = self.extensions.get(_BASIC_CONSTRAINTS)
        return value is not None and d.Reader(value).enter(d.SEQUENCE).true()

    def spl(self, component: str) -> int | None:
        """The security patch level of a component of `SPL`, 0 to 255; None without the extension."""
        value = self.extensions.get(SPL[component])
        if value is None:
            return None
        reader = d.Reader(value)
        level = reader.integer(max_bytes=1)
        reader.end()
        return level

    def text(self, oid: bytes) -> str | None:
        """The IA5String in an extension; None without it."""
        value = self.extensions.get(oid)
        if value is None:
            return None
        reader = d.Reader(value)
        text = reader.contents(d.IA5_STRING)
        reader.end()
        if not text.isascii() or not text.decode("ascii").isprintable() or len(text) > 256:
            raise FormatError("an AMD extension is not short printable ASCII text")
        return text.decode("ascii")

    def hwid(self, length: int) -> bytes | None:
        """The chip's identity of `length` bytes, raw as the service writes it or wrapped in an OCTET STRING.

        None without the extension. Raises `FormatError` for any other length.
        """
        value = self.extensions.get(HWID)
        if value is None or len(value) == length:  # the length tells the two forms apart, never the first byte
            return value
        reader = d.Reader(value)
        chip = reader.contents(d.OCTET_STRING)
        reader.end()
        if len(chip) != length:
            raise FormatError(f"the certified chip identity has {len(chip)} bytes, not {length}")
        return chip

    def in_date(self, now: float) -> bool:
        """Whether `now` lies in the validity, ends included."""
        return self.not_before <= now <= self.not_after


class AmdCrl(msgspec.Struct, frozen=True):
    """A revocation list. `next_update` is None when the list does not say."""

    der: bytes
    tbs: bytes
    signature: bytes
    issuer: bytes
    this_update: float
    next_update: float | None
    revoked: frozenset[int]


def parse_certificate(der: bytes) -> AmdCertificate:
    """One certificate of AMD's hierarchy. Raises `FormatError` for anything else, trailing bytes included."""
    tbs, signature, body = _signed(der, MAX_CERTIFICATE_BYTES, "certificate")
    version = body.enter(d.explicit(0))
    if version.integer() != 2:
        raise FormatError("a certificate is not of version 3")
    version.end()
    serial = body.integer()
    _algorithm(body)
    issuer = body.element(d.SEQUENCE)
    validity = body.enter(d.SEQUENCE)
    not_before, not_after = validity.time(), validity.time()
    validity.end()
    subject = body.element(d.SEQUENCE)
    spki = body.element(d.SEQUENCE)
    extensions = _extensions(body.enter(d.explicit(3)))
    body.end()
    return AmdCertificate(
        der=der,
        tbs=tbs,
        signature=signature,
        serial=serial,
        issuer=issuer,
        subject=subject,
        common_name=_common_name(subject),
        not_before=not_before,
        not_after=not_after,
        spki=spki,
        extensions={oid: value for oid, _, value in extensions},
    )


def parse_crl(der: bytes) -> AmdCrl:
    """One certificate revocation list (RFC 5280 section 5), version 1 or 2. Raises `FormatError`.

    A list with a critical extension is refused: it is a delta or an indirect list, and so means something else.
    """
    tbs, signature, body = _signed(der, MAX_CRL_BYTES, "revocation list")
    if body.next_is(d.INTEGER) and body.integer() != 1:
        raise FormatError("a revocation list is not of version 2")
    _algorithm(body)
    issuer = body.element(d.SEQUENCE)
    this_update = body.time()
    next_update = body.time() if body.next_is(d.UTC_TIME) or body.next_is(d.GENERALIZED_TIME) else None
    revoked = frozenset(_revoked(body.enter(d.SEQUENCE))) if body.next_is(d.SEQUENCE) else frozenset()
    if body.more and any(critical for _, critical, _ in _extensions(body.enter(d.explicit(0)))):
        raise FormatError("a revocation list has a critical extension")
    body.end()
    return AmdCrl(der, tbs, signature, issuer, this_update, next_update, revoked)


def _signed(der: bytes, limit: int, what: str) -> tuple[bytes, bytes, d.Reader]:
    """`SIGNED{...}`: the signed bytes, the signature, and a reader over the contents."""
    if len(der) > limit:
        raise FormatError(f"a {what} has {len(der)} bytes; at most {limit} are read")
    outer = d.Reader(der)
    whole = outer.enter(d.SEQUENCE)
    outer.end()
    tbs = whole.element(d.SEQUENCE)
    _algorithm(whole)
    signature = whole.bits()
    whole.end()
    return tbs, signature, d.Reader(tbs).enter(d.SEQUENCE)


def _algorithm(reader: d.Reader) -> None:
    # Both places are held to the closed set, so they agree in all that matters.
    if reader.element(d.SEQUENCE) not in _PSS:
        raise FormatError("the signature algorithm is not RSASSA-PSS with SHA-384 and a salt of 48 bytes")


def _extensions(reader: d.Reader) -> list[tuple[bytes, bool, bytes]]:
    """Object identifier, criticality and value of each extension."""
    found: list[tuple[bytes, bool, bytes]] = []
    items = reader.enter(d.SEQUENCE)
    reader.end()
    while items.more:
        item = items.enter(d.SEQUENCE)
        found.append((item.contents(d.OID), item.true(), item.contents(d.OCTET_STRING)))
        item.end()
    if len(found) > MAX_EXTENSIONS or len({oid for oid, _, _ in found}) != len(found):
        raise FormatError("there are too many extensions, or one of them twice")
    return found


def _common_name(name: bytes) -> str:
    """The one commonName of a Name."""
    found = []
    parts = d.Reader(name).enter(d.SEQUENCE)
    while parts.more:
        one = parts.enter(d.SET)
        attribute = one.enter(d.SEQUENCE)
        one.end()
        if attribute.contents(d.OID) == _COMMON_NAME:
            found.append(attribute.text())
            attribute.end()
    if len(found) != 1:
        raise FormatError(f"a name has {len(found)} common names")
    return found[0]


def _revoked(entries: d.Reader) -> list[int]:
    serials = []
    while entries.more:
        entry = entries.enter(d.SEQUENCE)
        serials.append(entry.integer())
        entry.time()
        if entry.more:
            entry.element(d.SEQUENCE)
        entry.end()
    return serials


def signed_by(item: AmdCertificate | AmdCrl, issuer: AmdCertificate) -> bool:
    """Whether `issuer` is named as the issuer of `item` and its key made the signature. False for an unusable key."""
    if item.issuer != issuer.subject:
        return False
    try:
        key = load_der_public_key(issuer.spki)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return False
    if not isinstance(key, rsa.RSAPublicKey) or not MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS:
        return False
    if key.public_numbers().e != 65537:
        return False
    try:
        key.verify(item.signature, item.tbs, _PADDING, hashes.SHA384())
    except InvalidSignature:
        return False
    return True


def p384_key(certificate: AmdCertificate) -> ec.EllipticCurvePublicKey | None:
    """The certificate's key when it is one on P-384, else None."""
    try:
        key = load_der_public_key(certificate.spki)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return None
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP384R1):
        return key
    return None
