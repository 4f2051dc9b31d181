"""The digest that pins a TLS key: SHA-256 over a certificate's SubjectPublicKeyInfo, byte for byte as it stands there.

The bytes are cut out by position (RFC 5280 section 4.1) instead of being parsed and written again, so that the digest
is the one that other tools compute even where a library would re-encode the key. Nothing else of the certificate is
judged.
"""

from __future__ import annotations

import hashlib

from gateway.errors import FormatError

_SEQUENCE, _INTEGER, _VERSION = 0x30, 0x02, 0xA0


def spki_sha256(der_cert: bytes) -> bytes:
    """SHA-256 (32 raw bytes) of the SubjectPublicKeyInfo of one DER certificate; `FormatError` when it is not one."""
    start, end = _element(der_cert, 0, len(der_cert), _SEQUENCE)
    if end != len(der_cert):
        raise FormatError(f"certificate: {len(der_cert) - end} bytes after its end")
    at, tbs_end = _element(der_cert, start, end, _SEQUENCE)
    if at < tbs_end and der_cert[at] == _VERSION:
        _, at = _element(der_cert, at, tbs_end, _VERSION)
    for tag in (_INTEGER, _SEQUENCE, _SEQUENCE, _SEQUENCE, _SEQUENCE):  # serial, algorithm, issuer, validity, subject
        _, at = _element(der_cert, at, tbs_end, tag)
    _, spki_end = _element(der_cert, at, tbs_end, _SEQUENCE)
    return hashlib.sha256(der_cert[at:spki_end]).digest()


def _element(der: bytes, at: int, limit: int, tag: int) -> tuple[int, int]:
    """Where the content of the element at `at` starts and ends; it must have `tag` and end by `limit`."""
    if limit - at < 2 or der[at] != tag:
        raise FormatError(f"certificate: expected a DER element with tag 0x{tag:02x} (byte {at})")
    length, start = der[at + 1], at + 2
    if length >= 0x80:
        count = length & 0x7F
        start += count
        if not 1 <= count <= 4 or start > limit:
            raise FormatError(f"certificate: bad DER length (byte {at + 1})")
        length = int.from_bytes(der[at + 2 : start], "big")
        if length < 0x80 or length >> (8 * (count - 1)) == 0:
            raise FormatError(f"certificate: DER length is not minimal (byte {at + 1})")
    if start + length > limit:
        raise FormatError(f"certificate: a DER element runs past its parent (byte {at})")
    return start, start + length
