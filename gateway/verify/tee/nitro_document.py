"""The attestation document of AWS Nitro Enclaves: COSE_Sign1 around one CBOR map, read strictly.

Written to aws-nitro-enclaves-nsm-api `docs/attestation_process.md` sections 2.2, 3.1 and 3.2.2, and held to what the
hypervisor really writes: absent optional members are null although the text forbids null, and newer hypervisors write
the map with indefinite length. The text says 512 bytes for two of the optional members and its grammar 1024; 1024 is
taken, for real documents come near to 512 and a length is no proof of anything.

    {module_id: text, digest: "SHA384", timestamp: ms, pcrs: {0..31: 32|48|64 bytes}, certificate: DER,
     cabundle: [root, ..., issuer of certificate], public_key|user_data|nonce: bytes or null}
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from gateway.crypto import cbor, cose
from gateway.errors import FormatError

from .findings import NotAuthentic

MAX_DOCUMENT_BYTES = 32_768
MAX_PAYLOAD_BYTES = 16_384
MAX_CERTIFICATE_BYTES = 1_024
MAX_OPTIONAL_BYTES = 1_024
MAX_MODULE_ID = 256
MAX_BUNDLE = 9
#: The end of the year 9999 in milliseconds, which is where dates end.
MAX_TIMESTAMP_MS = 253_402_300_799_999

_REQUIRED = ("module_id", "digest", "timestamp", "pcrs", "certificate", "cabundle")
_OPTIONAL = ("public_key", "user_data", "nonce")

#: What the readers of CBOR and COSE say, in the words of this family. Everything else is nitro_bad_cbor.
_REASONS = {
    "cbor_too_big": "nitro_too_big",
    "cbor_trailing_bytes": "nitro_trailing_bytes",
    "cbor_tag": "nitro_bad_tag",
    "cose_not_sign1": "nitro_not_cose_sign1",
    "cose_bad_types": "nitro_bad_types",
    "cose_bad_protected_header": "nitro_bad_protected_header",
    "cose_unprotected_header": "nitro_unprotected_header",
    "cose_bad_length": "nitro_bad_length",
}


class NitroDocument(msgspec.Struct, frozen=True):
    """What a document says, none of it shown yet. `cabundle` is root first; `pcrs` by index, ascending."""

    message: cose.CoseSign1
    module_id: str
    timestamp_ms: int
    pcrs: dict[int, bytes]
    certificate: bytes
    cabundle: tuple[bytes, ...]
    public_key: bytes | None
    user_data: bytes | None
    nonce: bytes | None
    others: tuple[str, ...]

    @property
    def issued_at(self) -> float:
        """The hypervisor's time, Unix seconds."""
        return self.timestamp_ms / 1000

    @property
    def instance_id(self) -> str:
        """The EC2 instance's part of the module id: `i-…` of `i-…-enc…`."""
        instance, mark, _ = self.module_id.partition("-enc")
        return instance if mark and instance else self.module_id

    @property
    def debug(self) -> bool | None:
        """An enclave in debug mode has PCR0 to PCR2 all zero; PCR0 alone decides. None when there is no PCR0."""
        pcr0 = self.pcrs.get(0)
        return None if pcr0 is None else not any(pcr0)


def parse(data: bytes) -> NitroDocument:
    """The document that `data` is, to its last byte. Raises `NotAuthentic` with a reason that begins with nitro_."""
    try:
        message = cose.read_sign1(data, max_bytes=MAX_DOCUMENT_BYTES, max_payload=MAX_PAYLOAD_BYTES)
        members = cbor.load(message.payload)
    except FormatError as error:
        reason = _REASONS.get(error.reason or "", "nitro_bad_cbor")
        raise NotAuthentic(f"not an attestation document: {error.message}", reason=reason) from None
    if not isinstance(members, Mapping) or any(name not in members for name in _REQUIRED):
        raise NotAuthentic("the document lacks a member that it must have", reason="nitro_missing_field")
    if members["digest"] != "SHA384":
        raise NotAuthentic("the document's digest is not SHA384", reason="nitro_bad_digest")
    return NitroDocument(
        message=message,
        module_id=_module_id(members["module_id"]),
        timestamp_ms=_timestamp(members["timestamp"]),
        pcrs=_pcrs(members["pcrs"]),
        certificate=_certificate(members["certificate"]),
        cabundle=_cabundle(members["cabundle"]),
        public_key=_optional(members, "public_key"),
        user_data=_optional(members, "user_data"),
        nonce=_optional(members, "nonce"),
        others=tuple(sorted(repr(name)[:80] for name in members if name not in (*_REQUIRED, *_OPTIONAL))),
    )


def _module_id(value: object) -> str:
    # Printable ASCII is more than AWS says and less than a text string may hold: it is shown to people.
    if (
        not isinstance(value, str)
        or not 1 <= len(value) <= MAX_MODULE_ID
        or not (value.isascii() and value.isprintable())
    ):
        raise NotAuthentic(f"module_id is not 1 to {MAX_MODULE_ID} printable characters", reason="nitro_bad_module_id")
    return value


def _timestamp(value: object) -> int:
    if type(value) is not int or not 0 < value <= MAX_TIMESTAMP_MS:
        raise NotAuthentic("timestamp is not milliseconds of a year up to 9999", reason="nitro_bad_timestamp")
    return value


def _pcrs(value: object) -> dict[int, bytes]:
    if not isinstance(value, Mapping) or not 1 <= len(value) <= 32:
        raise NotAuthentic("pcrs is not a map of 1 to 32 registers", reason="nitro_bad_pcrs")
    for index, digest in value.items():
        if type(index) is not int or not 0 <= index <= 31:
            raise NotAuthentic("a register's index is not 0 to 31", reason="nitro_bad_pcr")
        if not isinstance(digest, bytes) or len(digest) not in (32, 48, 64):
            raise NotAuthentic(f"register {index} has not 32, 48 or 64 bytes", reason="nitro_bad_pcr")
    return dict(sorted(value.items()))


def _certificate(value: object) -> bytes:
    if not isinstance(value, bytes) or not 1 <= len(value) <= MAX_CERTIFICATE_BYTES:
        raise NotAuthentic(
            f"a certificate is not a string of 1 to {MAX_CERTIFICATE_BYTES} bytes", reason="nitro_bad_cert_len"
        )
    return value


def _cabundle(value: object) -> tuple[bytes, ...]:
    if not isinstance(value, (list, tuple)) or not 1 <= len(value) <= MAX_BUNDLE:
        raise NotAuthentic(f"cabundle is not 1 to {MAX_BUNDLE} certificates", reason="nitro_bad_cabundle")
    return tuple(_certificate(der) for der in value)


def _optional(members: Mapping[int | str, cbor.CborValue], name: str) -> bytes | None:
    value = members.get(name)
    if value is not None and (not isinstance(value, bytes) or len(value) > MAX_OPTIONAL_BYTES):
        raise NotAuthentic(
            f"{name} is neither null nor a string of at most {MAX_OPTIONAL_BYTES} bytes", reason=f"nitro_bad_{name}"
        )
    return value
