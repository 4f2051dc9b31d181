"""What OpenGradient's TEE registry says: its records, measurements and settings, decoded from answers of `eth_call`.

    TEEInfo, 11 fields   owner, paymentAddress, endpoint, publicKey, tlsCertificate, pcrHash, teeType, enabled,
                         registeredAt, lastHeartbeatAt, OhttpConfig(keyId, kemId, kdfId, aeadId, publicKey, keyConfig,
                         registeredAt)
    TEEInfo, 10 fields   the same without OhttpConfig
    TEERegistryV2        (teeId, TEEInfo of 10, OHTTPConfig as above with updatedAt)

All three are deployed somewhere; which one an answer has shows in the bytes, since the head of a record is longer with
11 fields than with 10 (`layout`). Everything here is a claim of the registry, that is of whoever answered: an identity
comes from hardware evidence, never from here. `tee_id` is computed from the key, never taken over.

Endpoints are free text of whoever registered, so one record can be unreadable; it is named in `refused` and the others
stand. A list that is itself malformed is refused whole.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from gateway.crypto.keccak import keccak256
from gateway.errors import FormatError

from . import abi
from .registry_calldata import CALLS, Registration, decode_registration

__all__ = [
    "OhttpRecord",
    "PcrKey",
    "PcrRecord",
    "Records",
    "Refused",
    "Registration",
    "TeeRecord",
    "decode_answer",
    "decode_pcr_record",
    "decode_pcrs",
    "decode_registration",
    "decode_tee",
    "decode_tees",
    "decode_v2_ohttp",
    "decode_v2_tees",
    "tee_id_of",
]

_INFO = "address,address,string,bytes,bytes,bytes32,uint8,bool,uint256,uint256"
_OHTTP = "(uint8,uint16,uint16,uint16,bytes,bytes,uint256)"
_OHTTP_V2 = "(uint8,uint16,uint16,uint16,bytes,bytes,uint256,uint256)"
INFO_11 = f"({_INFO},{_OHTTP})"
INFO_10 = f"({_INFO})"
RECORD_V2 = f"(bytes32,{INFO_10},{_OHTTP_V2})"

MAX_KEY = 4096
MAX_CERTIFICATE = 16 * 1024


class OhttpRecord(msgspec.Struct, frozen=True):
    """An OHTTP key as registered: ids of RFC 9180, the X25519 key, the RFC 9458 key config, Unix seconds.

    The registry of 11 fields states it without the enclave's signature; `updated_at` is V2's.
    """

    key_id: int
    kem_id: int
    kdf_id: int
    aead_id: int
    public_key: bytes
    key_config: bytes
    registered_at: int
    updated_at: int | None = None


class TeeRecord(msgspec.Struct, frozen=True):
    """One TEE as the registry states it. `tee_id` is keccak256 of `public_key` (SPKI DER), computed here.

    `owner` and `payment_address` are lower-case `0x` text, `pcr_hash` is keccak256(PCR0 || PCR1 || PCR2),
    `tls_certificate` DER; times are Unix seconds; `layout` is `tee-info-11`, `tee-info-10` or `registry-v2`.
    """

    tee_id: bytes
    owner: str
    payment_address: str
    endpoint: str
    public_key: bytes
    tls_certificate: bytes
    pcr_hash: bytes
    tee_type: int
    enabled: bool
    registered_at: int
    last_heartbeat_at: int
    ohttp: OhttpRecord | None
    layout: str


class Refused(msgspec.Struct, frozen=True):
    """A record that cannot be used: its place in the list, a stable reason and a sentence."""

    index: int
    reason: str
    message: str


class Records(msgspec.Struct, frozen=True):
    """A list as it was read. No records and none refused: the registry is empty, and says so."""

    records: tuple[TeeRecord, ...]
    refused: tuple[Refused, ...] = ()


class PcrKey(msgspec.Struct, frozen=True):
    """A measurement that the registry's administrator approves for a type of TEE."""

    pcr_hash: bytes
    tee_type: int


class PcrRecord(msgspec.Struct, frozen=True):
    """One approval: `version` is the administrator's text, `approved_at` Unix seconds, 0 where never approved."""

    active: bool
    tee_type: int
    approved_at: int
    version: str


def tee_id_of(spki: bytes) -> bytes:
    """The id of the TEE that signs with `spki` (DER): keccak256 of it, 32 bytes."""
    return keccak256(spki)


def decode_tees(data: bytes) -> Records:
    """`getActiveTEEs` and its like: `TEEInfo[]` of 11 or of 10 fields. Raises `FormatError` for the list itself."""
    return _records(data, _info)


def decode_v2_tees(data: bytes) -> Records:
    """`getActiveTEERecordsWithOHTTPConfig` of TEERegistryV2. Raises `FormatError` for the list itself."""
    return _records(data, _record_v2)


def decode_tee(data: bytes) -> TeeRecord:
    """`getTEE`: one `TEEInfo`. Raises `FormatError`."""
    if int.from_bytes(data[: abi.WORD], "big") != abi.WORD:
        raise FormatError("malformed ABI data: not one record", reason="abi_malformed")
    return _info(data[abi.WORD :])


def decode_v2_ohttp(data: bytes) -> OhttpRecord:
    """`getOHTTPConfig` of TEERegistryV2. Raises `FormatError`."""
    (fields,) = abi.decode([_OHTTP_V2], data)
    return _ohttp(fields)


def decode_pcrs(data: bytes) -> tuple[PcrKey, ...]:
    """`getApprovedPCRs`. Raises `FormatError`."""
    return tuple(PcrKey(*abi.decode(["bytes32", "uint8"], record)) for record in abi.static_records(data, 2 * abi.WORD))


def decode_pcr_record(data: bytes) -> PcrRecord:
    """`pcrRecords`. Raises `FormatError`."""
    active, tee_type, approved_at, version = abi.decode(["bool", "uint8", "uint256", "string"], data)
    return PcrRecord(active, tee_type, abi.number(approved_at, "approvedAt"), abi.text(version, "version"))


def decode_ids(data: bytes) -> tuple[bytes, ...]:
    """`getEnabledTEEs` and `getTEEsByType`: ids of 32 bytes. Raises `FormatError`."""
    return tuple(abi.static_records(data, abi.WORD))


def decode_bool(data: bytes) -> bool:
    """`isTEEActive`, `isTEEEnabled`, `isPCRApproved`. Raises `FormatError`."""
    return bool(abi.decode(["bool"], data)[0])


def decode_number(data: bytes) -> int:
    """`heartbeatMaxAge`, in seconds. Raises `FormatError`."""
    return abi.number(abi.decode(["uint256"], data)[0], "the number")


def decode_bytes(data: bytes) -> bytes:
    """`awsRootCertificate`, `getTEEPublicKey`. Raises `FormatError`."""
    return bytes(abi.decode(["bytes"], data)[0])


_ANSWERS: dict[str, Callable[[bytes], object]] = {
    "getActiveTEEs": decode_tees,
    "getActiveTEERecordsWithOHTTPConfig": decode_v2_tees,
    "getTEE": decode_tee,
    "getOHTTPConfig": decode_v2_ohttp,
    "getEnabledTEEs": decode_ids,
    "getTEEsByType": decode_ids,
    "isTEEActive": decode_bool,
    "isTEEEnabled": decode_bool,
    "isPCRApproved": decode_bool,
    "getTEEPublicKey": decode_bytes,
    "awsRootCertificate": decode_bytes,
    "heartbeatMaxAge": decode_number,
    "getApprovedPCRs": decode_pcrs,
    "pcrRecords": decode_pcr_record,
}


def decode_answer(calldata: bytes, data: bytes) -> tuple[str, object]:
    """The name of the view that `calldata` calls, and its answer: how a stored read is read again.

    Raises `FormatError` (reason `selector_unknown` for a call that is none of ours).
    """
    name = CALLS.get(calldata[:4])
    if name is None:
        raise FormatError("not a call that this reader knows", reason="selector_unknown")
    return name, _ANSWERS[name](data)


def _records(data: bytes, read: Callable[[bytes], TeeRecord]) -> Records:
    found: dict[bytes, TeeRecord] = {}
    refused: list[Refused] = []
    for index, record in enumerate(abi.dynamic_records(data)):
        try:
            tee = read(record)
            if tee.tee_id in found:
                raise FormatError("the same key stands in the list before", reason="duplicate_tee")
            found[tee.tee_id] = tee
        except FormatError as error:
            refused.append(Refused(index, error.reason or "record_malformed", error.message))
    return Records(tuple(found.values()), tuple(refused))


def _info(record: bytes) -> TeeRecord:
    # The first dynamic field's offset is the length of the head: 10 words, or 11 with the OHTTP config.
    if int.from_bytes(record[2 * abi.WORD : 3 * abi.WORD], "big") == 11 * abi.WORD:
        *fields, ohttp = abi.one_record(INFO_11, record)
        return _tee(fields, None if not any(ohttp) else _ohttp(ohttp), "tee-info-11")
    return _tee(abi.one_record(INFO_10, record), None, "tee-info-10")


def _record_v2(record: bytes) -> TeeRecord:
    tee_id, fields, ohttp = abi.one_record(RECORD_V2, record)
    tee = _tee(fields, _ohttp(ohttp), "registry-v2")
    if tee.tee_id != tee_id:
        raise FormatError("the record's id is not that of its key", reason="tee_id_mismatch")
    return tee


def _tee(fields: Any, ohttp: OhttpRecord | None, layout: str) -> TeeRecord:
    owner, payment, endpoint, key, certificate, pcr_hash, tee_type, enabled, registered_at, heartbeat = fields
    return TeeRecord(
        tee_id=tee_id_of(key),
        owner=owner,
        payment_address=payment,
        endpoint=abi.text(endpoint, "endpoint"),
        public_key=_at_most(key, MAX_KEY, "publicKey"),
        tls_certificate=_at_most(certificate, MAX_CERTIFICATE, "tlsCertificate"),
        pcr_hash=pcr_hash,
        tee_type=tee_type,
        enabled=enabled,
        registered_at=abi.number(registered_at, "registeredAt"),
        last_heartbeat_at=abi.number(heartbeat, "lastHeartbeatAt"),
        ohttp=ohttp,
        layout=layout,
    )


def _ohttp(fields: Any) -> OhttpRecord:
    key_id, kem, kdf, aead, key, config, registered_at, *updated = fields
    return OhttpRecord(
        key_id=key_id,
        kem_id=kem,
        kdf_id=kdf,
        aead_id=aead,
        public_key=_at_most(key, MAX_KEY, "the OHTTP key"),
        key_config=_at_most(config, MAX_KEY, "the OHTTP key config"),
        registered_at=abi.number(registered_at, "registeredAt"),
        updated_at=abi.number(updated[0], "updatedAt") if updated else None,
    )


def _at_most(value: bytes, most: int, what: str) -> bytes:
    if len(value) > most:
        raise FormatError(f"{what} has {len(value)} bytes, more than {most}", reason="field_too_long")
    return value
