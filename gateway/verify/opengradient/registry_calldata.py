"""Calls to OpenGradient's TEE registry: the calldata of its views, and the registration that a transaction carried.

    calldata = keccak256(signature)[:4] || abi.encode(arguments)

The Nitro attestation document of a TEE is not in the contract's state; it stands in the calldata of the transaction
that registered it, for good. `decode_registration` takes it out, so that it can be verified again by anybody, at any
time, without the enclave and without believing the chain's own check.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from gateway.crypto.keccak import keccak256
from gateway.errors import FormatError

from . import abi

#: View -> the types of its arguments.
VIEWS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "getActiveTEEs": ("uint8",),
        "getActiveTEERecordsWithOHTTPConfig": ("uint8",),
        "getEnabledTEEs": ("uint8",),
        "getTEEsByType": ("uint8",),
        "getTEE": ("bytes32",),
        "getTEEPublicKey": ("bytes32",),
        "getOHTTPConfig": ("bytes32",),
        "isTEEActive": ("bytes32",),
        "isTEEEnabled": ("bytes32",),
        "isPCRApproved": ("uint8", "bytes32"),
        "pcrRecords": ("uint8", "bytes32"),
        "getApprovedPCRs": (),
        "heartbeatMaxAge": (),
        "awsRootCertificate": (),
    }
)


def selector(name: str, types: tuple[str, ...]) -> bytes:
    """The first four bytes of calldata for the function `name(types)`."""
    return keccak256(f"{name}({','.join(types)})".encode())[:4]


#: Selector -> view.
CALLS: Mapping[bytes, str] = MappingProxyType({selector(name, types): name for name, types in VIEWS.items()})

_REGISTER = ("bytes", "bytes", "bytes", "address", "string", "uint8")
#: V2's form: the same, then keyId, kemId, kdfId, aeadId, public key, key config, the enclave's signature over them.
_REGISTER_V2 = (*_REGISTER, "uint8", "uint16", "uint16", "uint16", "bytes", "bytes", "bytes")
REGISTRATIONS: Mapping[bytes, tuple[str, ...]] = MappingProxyType(
    {
        selector("registerTEEWithAttestation", _REGISTER): _REGISTER,
        selector("registerTEEWithAttestationAndOHTTPConfig", _REGISTER_V2): _REGISTER_V2,
    }
)
#: The longest registration that is read: a Nitro document has about 5 KB, a certificate 1 KB.
MAX_REGISTRATION = 256 * 1024


class Registration(msgspec.Struct, frozen=True):
    """What a TEE was registered with: Nitro document, SPKI and TLS certificate (DER), payee, endpoint, type.

    `ohttp_signature` is the enclave's signature over its OHTTP key config, where the registration carried one.
    """

    document: bytes
    spki: bytes
    tls_certificate: bytes
    payment_address: str
    endpoint: str
    tee_type: int
    ohttp_signature: bytes | None = None


def calldata(view: str, *arguments: Any) -> bytes:
    """The calldata of `view`, a key of `VIEWS`. Raises `FormatError` for arguments that are not of its types."""
    types = VIEWS[view]
    if len(arguments) != len(types):
        raise FormatError(f"{view} takes {len(types)} arguments")
    return selector(view, types) + (abi.encode(types, arguments) if types else b"")


def decode_registration(data: bytes) -> Registration:
    """The registration in the calldata of a transaction. Raises `FormatError`.

    Reasons: `registration_unknown` for another function (a registration made through another contract stands in that
    contract's own form), `too_large`, `abi_malformed`.
    """
    if len(data) > MAX_REGISTRATION:
        raise FormatError(f"calldata of {len(data)} bytes is over the limit of {MAX_REGISTRATION}", reason="too_large")
    types = REGISTRATIONS.get(data[:4])
    if types is None:
        raise FormatError("the transaction calls another function", reason="registration_unknown")
    document, spki, certificate, payee, endpoint, tee_type, *ohttp = abi.decode(types, data[4:])
    return Registration(
        document, spki, certificate, payee, abi.text(endpoint, "the endpoint"), tee_type, ohttp[-1] if ohttp else None
    )
