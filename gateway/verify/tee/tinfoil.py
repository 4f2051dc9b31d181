"""Tinfoil: what its enclaves show, and how the parts of that belong together (docs/verification.md).

    attestation document  base64(gzip(SNP report or TDX quote)), named by a format URI
    report data           [0:32] SHA-256 of the TLS key's SubjectPublicKeyInfo, [32:64] an X25519 key for HPKE
    build attestation     a Sigstore bundle whose predicate gives the measurements of the release
    hardware list         a Sigstore bundle whose predicate gives MRTD and RTMR0 of each TDX platform

There is no nonce: that the machine is live is shown by the connection, whose key is in the report, and not by the
report. And it is the router that is judged here; which model server stands behind it is the router's word.

The functions here are the parts; `tinfoil_suite.judge` puts them together as the public conformance suite asks.
"""

from __future__ import annotations

import hashlib
import zlib

import msgspec

from gateway.crypto.encoding import unb64
from gateway.errors import FormatError
from gateway.model.provenance import Measurement
from gateway.model.tee import Golden, Platform, TeeClaims
from gateway.verify.provenance.measurement import MULTIPLATFORM, RTMR3_ZERO, SEV, TDX, make_measurement

from .findings import NotAuthentic

#: The largest report or quote that is unpacked.
MAX_UNPACKED_BYTES = 65_536
REPORT_DATA_BYTES = 64
HPKE_KEY_BYTES = 32

_REGISTER_NAMES = {
    Platform.AMD_SEV_SNP: (SEV, ("launch",)),
    Platform.INTEL_TDX: (TDX, ("mr_td", "rtmr0", "rtmr1", "rtmr2", "rtmr3")),
}


class KeyBinding(msgspec.Struct, frozen=True):
    """The two keys that report data commits to: the TLS key's fingerprint and the HPKE key, 32 bytes each."""

    tls_key_sha256: bytes
    hpke_key: bytes


def unpack(document: str) -> bytes:
    """The report or quote in an attestation document's body; `FormatError` unless it is base64 of one gzip member."""
    packed = unb64(document, "the attestation document")
    reader = zlib.decompressobj(wbits=31)
    try:
        data = reader.decompress(packed, MAX_UNPACKED_BYTES + 1)
    except zlib.error:
        raise FormatError("the attestation document is not gzip") from None
    if len(data) > MAX_UNPACKED_BYTES:
        raise FormatError(f"the attestation document unpacks to more than {MAX_UNPACKED_BYTES} bytes")
    if not reader.eof or reader.unused_data:
        raise FormatError("the attestation document is not one whole gzip member")
    return data


def document_hash(kind: str, body: str) -> str:
    """The digest that an enclave's certificate carries of its document: hex SHA-256 over format and body text."""
    return hashlib.sha256((kind + body).encode()).hexdigest()


def read_report_data(report_data: bytes) -> KeyBinding:
    """The keys in `report_data`; `FormatError` unless it has 64 bytes."""
    if len(report_data) != REPORT_DATA_BYTES:
        raise FormatError(f"report data has {len(report_data)} bytes, not {REPORT_DATA_BYTES}")
    return KeyBinding(report_data[:32], report_data[32:])


def check_hpke_key(report_data: bytes, offered: bytes) -> KeyBinding:
    """Show that the HPKE key that a server offers is the attested one.

    `NotAuthentic` with ehbp_key_binding_mismatch when it is another: whoever answers `/.well-known/hpke-keys` is
    believed only so far. `FormatError` for other lengths.
    """
    if len(offered) != HPKE_KEY_BYTES:
        raise FormatError(f"an X25519 key has {HPKE_KEY_BYTES} bytes, not {len(offered)}")
    binding = read_report_data(report_data)
    if binding.hpke_key != offered:
        raise NotAuthentic(
            "the HPKE key that is offered is not the attested one",
            reason="ehbp_key_binding_mismatch",
            found=offered.hex(),
            expected=binding.hpke_key.hex(),
            over="report data, bytes 32 to 64",
        )
    return binding


def measurement_of(claims: TeeClaims) -> Measurement:
    """The measurement that verified evidence gives; `NotAuthentic` when it is of another platform or incomplete."""
    kind, names = _REGISTER_NAMES.get(claims.platform, ("", ()))
    return make_measurement(kind, (claims.measurements.get(name) for name in names))


def golden_of(claims: TeeClaims, build: Measurement) -> Golden:
    """How verified evidence compares with the multi-platform measurement of a build, for `TeeClaims.golden`.

    Lists by the names of `TeeClaims.measurements` what differs or is missing; RTMR3 must be zero. Raises `NotAuthentic`
    when the evidence is refused, `build` of another kind, or the evidence of a platform that it does not cover.
    """
    if not claims.authentic:
        raise NotAuthentic("the evidence is not authentic", reason="not_authentic")
    if build.type != MULTIPLATFORM:
        raise NotAuthentic("not the measurement of a build", reason="measurement_type_combination_unsupported")
    launch, rtmr1, rtmr2 = build.registers
    expected = {
        Platform.AMD_SEV_SNP: {"launch": launch},
        Platform.INTEL_TDX: {"rtmr1": rtmr1, "rtmr2": rtmr2, "rtmr3": RTMR3_ZERO},
    }.get(claims.platform)
    if expected is None:
        raise NotAuthentic("no build is measured for this platform", reason="measurement_type_unknown")
    wrong = tuple(name for name, value in expected.items() if claims.measurements.get(name, "").lower() != value)
    return Golden("sigstore", len(expected) - len(wrong), wrong)
