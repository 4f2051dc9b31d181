"""The SPKI digest against the certificate library, and against bytes that are no certificate."""

import contextlib
import datetime
import hashlib

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.crypto.x509 import spki_sha256
from gateway.errors import FormatError


def certificate(key, name="node.example", san=1):
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    start = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(0x7F)
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(f"n{i}.example") for i in range(san)]), critical=False)
    )
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, algorithm).public_bytes(serialization.Encoding.DER)


KEYS = {
    "rsa": rsa.generate_private_key(65537, 2048),
    "p256": ec.generate_private_key(ec.SECP256R1()),
    "p384": ec.generate_private_key(ec.SECP384R1()),
    "ed25519": ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32)),
}
SMALL = certificate(KEYS["ed25519"])


@pytest.mark.parametrize("kind", KEYS)
@pytest.mark.parametrize("san", [1, 5000])
def test_digest_is_over_the_key_as_the_library_writes_it(kind, san):
    """For every kind of key the digest is the library's, whatever surrounds the key."""
    spki = (
        KEYS[kind]
        .public_key()
        .public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    assert spki_sha256(certificate(KEYS[kind], san=san)) == hashlib.sha256(spki).digest()


def tlv(tag: int, content: bytes) -> bytes:
    size = len(content)
    length = bytes([size]) if size < 128 else bytes([0x82]) + size.to_bytes(2, "big")
    return bytes([tag]) + length + content


def test_reads_a_version_1_certificate():
    """A certificate without a version field, as X.509 v1 has it, is read too."""
    spki = tlv(0x30, b"the key")
    fields = tlv(0x02, b"\1") + tlv(0x30, b"") * 4 + spki
    assert spki_sha256(tlv(0x30, tlv(0x30, fields) + b"rest")) == hashlib.sha256(spki).digest()


def test_reads_lengths_at_their_forms_edges():
    """A length of 127 has the short form, 128 and 255 one more byte, 256 two more."""
    for size, head in ((127, b"\x30\x7f"), (128, b"\x30\x81\x80"), (255, b"\x30\x81\xff"), (256, b"\x30\x82\1\0")):
        spki = head + bytes(size)
        fields = tlv(0x02, b"\1") + tlv(0x30, b"") * 4 + spki
        padded = fields + bytes(300)  # whatever follows the key is not looked at
        assert spki_sha256(tlv(0x30, tlv(0x30, padded))) == hashlib.sha256(spki).digest()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "expected a DER element with tag 0x30 (byte 0)"),
        (b"\x30", "expected a DER element"),
        (SMALL + b"\0", "1 bytes after its end"),
        (SMALL[:-1], "runs past its parent"),
        (b"\x31" + SMALL[1:], "tag 0x30"),
        (b"\x30\x80" + SMALL[4:] + b"\0\0", "bad DER length"),
        (b"\x30\x85\x00\x00\x00\x00\x02\x30\x00", "bad DER length"),
        (b"\x30\x84\x00", "bad DER length"),
        (b"\x30\x81\x02\x30\x00", "not minimal"),
        (b"\x30\x82\x00\x81" + bytes(0x81), "not minimal"),
        (b"\x30\x02\x30\x00", "tag 0x02"),
        (tlv(0x30, tlv(0x30, tlv(0xA0, b"")[:-1] + b"\x05")), "runs past its parent"),
    ],
)
def test_refuses_what_is_no_certificate(data, message):
    """Truncated, extended, indefinite and non-minimal encodings are refused."""
    with pytest.raises(FormatError) as caught:
        spki_sha256(data)
    assert message in str(caught.value)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(SMALL) - 1), st.binary(max_size=3))
def test_raises_format_error_only(at, replacement):
    """A damaged certificate gives a digest or a format error, nothing else."""
    with contextlib.suppress(FormatError):
        assert len(spki_sha256(SMALL[:at] + replacement + SMALL[at + 1 :])) == 32
