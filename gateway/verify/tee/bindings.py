"""Whom evidence speaks for: a closed registry of the networks' rules that tie a key or a nonce to genuine evidence.

    bind(BindingRule.DSTACK, claims, BindingInputs(signing_key=address, nonce=nonce)) -> Binding

Evidence that holds proves that *some* enclave runs *something*. Only what it commits to - the 64 bytes of report_data,
a nonce, Nitro's slots - ties it to the key that signs responses or to the channel that they arrive over. A rule says
which slot of the claims is compared, and builds what has to stand there, to its last byte:

    BOUND     the slot is exactly what follows from the inputs
    UNBOUND   the evidence is not authentic or ends in no root, its slot is absent or all zero, or the caller has no
              input to hold it to
    MISMATCH  the slot holds something else; also when only a part of it is as expected

Nothing is BOUND by default, by prefix or by one half. The caller takes the inputs from what it will rely on - the TLS
connection that carries the prompt, the key that verified the signature, the nonce that it drew - never from the
document beside the evidence. What each rule does not tie is in the documentation (verification, "Bindings").

Formats: docs/verification.md, Bindings.
"""

from __future__ import annotations

import enum
import hashlib
import re
from collections.abc import Callable

import msgspec

from gateway.model.tee import Binding, BindingStatus, Platform, TeeClaims

from . import commitments as at
from .commitments import CPU, MAX_TEXT, BindingInputs, Unbound, report_data, unhex

__all__ = ["GPU_OF_THIS_MACHINE", "BindingInputs", "BindingRule", "bind"]

_ZERO_G_ASCII = re.compile(rb"0x[0-9a-fA-F]{40}")


class BindingRule(enum.StrEnum):
    """The registered rules. The name is the `kind` of the binding in the claims."""

    BIND_V1 = "veriroute-bind-v1"
    DSTACK = "dstack-report-data"
    DSTACK_TLS = "dstack-report-data-tls"
    DSTACK_NONCE_SHA256 = "dstack-report-data-nonce-sha256"
    ACI = "aci-statement"
    ACI_NO_NONCE = "aci-statement-no-nonce"
    ZERO_G_ASCII = "0g-broker-ascii"
    ZERO_G_TAPP = "0g-tapp"
    TINFOIL = "tinfoil-spki-hpke"
    SECRETVM = "secretvm-spki"
    SECRETVM_GPU = "secretvm-spki-gpu"
    SECRETVM_CERT = "secretvm-certificate"
    SECRETVM_CERT_GPU = "secretvm-certificate-gpu"
    CHUTES = "chutes-e2e-spki"
    NILCC = "nilcc-spki"
    NITRO_PUBLIC_KEY = "nitro-public-key"
    NITRO_NONCE = "nitro-nonce"
    NITRO_PUBLIC_KEY_NONCE = "nitro-public-key-nonce"
    OPENGRADIENT = "opengradient-user-data"
    GCS = "gcs-nonce-audience"
    VTPM = "vtpm-extra-data"
    GPU_NONCE = "gpu-nonce"
    GPU_SECRETVM = "gpu-nonce-of-cpu-secretvm"
    GPU_CHUTES = "gpu-nonce-of-cpu-chutes"
    GPU_SHA256 = "gpu-nonce-of-cpu-sha256"


#: The rules that show that the machine itself asked the device. `GPU_NONCE` shows that some device answered us.
GPU_OF_THIS_MACHINE = frozenset((BindingRule.GPU_SECRETVM, BindingRule.GPU_CHUTES, BindingRule.GPU_SHA256))


class _Rule(msgspec.Struct, frozen=True):
    platforms: frozenset[Platform]
    slots: tuple[str, ...]
    expect: Callable[[BindingInputs], tuple[bytes, ...]]
    tls: bool = False  # whether the TLS key is what is bound, and so stands in the binding as its key


def bind(rule: BindingRule, claims: TeeClaims, inputs: BindingInputs) -> Binding:
    """Hold the claims of one item of evidence to `inputs` by `rule`. Total: any claims and inputs have an answer."""
    found = _RULES[rule]
    try:
        slots = _slots(found, claims)
        # A broker writes its address as text whose case is free; everything else is compared as it stands.
        if rule is BindingRule.ZERO_G_ASCII:
            slots = (_lower_ascii(slots[0]),)
        expected = found.expect(inputs)
    except Unbound as nothing:
        return Binding(BindingStatus.UNBOUND, rule, None, str(nothing))
    for name, slot, wanted in zip(found.slots, slots, expected, strict=True):
        if slot != wanted:
            return Binding(BindingStatus.MISMATCH, rule, None, _difference(name, slot, wanted))
    key = inputs.spki_sha256.hex() if found.tls and inputs.spki_sha256 is not None else None
    return Binding(BindingStatus.BOUND, rule, key)


def _slots(rule: _Rule, claims: TeeClaims) -> tuple[bytes, ...]:
    """What the evidence commits to, as it stands in authentic claims."""
    if not claims.authentic:
        raise Unbound("the evidence is not authentic")
    if claims.root is None:
        raise Unbound("the evidence ends in no root: anybody can make it")
    if claims.platform not in rule.platforms:
        raise Unbound(f"the rule is not for {claims.platform}")
    slots = tuple(_SLOTS[name](claims) for name in rule.slots)
    if not any(any(slot) for slot in slots):
        raise Unbound("the evidence commits to nothing: its slot is all zero")
    return slots


def _difference(name: str, slot: bytes, wanted: bytes) -> str:
    if len(slot) != len(wanted):
        return f"{name} has {len(slot)} bytes, not {len(wanted)}"
    if len(slot) == 64:
        halves = [half for half, i in (("first", 0), ("second", 32)) if slot[i : i + 32] != wanted[i : i + 32]]
        return f"{name} differs in its {' and '.join(halves)} half"
    return f"{name} differs"


# What is read from the claims


def _nonce(claims: TeeClaims) -> bytes:
    value = claims.nonce if claims.nonce is not None else claims.raw.get("nonce")
    return unhex(value, "nonce")


def _nonce_digest(claims: TeeClaims) -> bytes:
    nonce = _nonce(claims)
    if not any(nonce):
        raise Unbound("the evidence commits to nothing: its nonce is all zero")
    return hashlib.sha256(nonce).digest()


def _extra_data(claims: TeeClaims) -> bytes:
    return unhex(claims.raw.get("extra_data", claims.nonce), "extra_data")


def _public_key(claims: TeeClaims) -> bytes:
    return unhex(claims.raw.get("public_key"), "public_key")


def _user_data(claims: TeeClaims) -> bytes:
    return unhex(claims.raw.get("user_data"), "user_data")


def _bind_v1_slot(claims: TeeClaims) -> bytes:
    return _user_data(claims) if claims.platform is Platform.AWS_NITRO else report_data(claims)


def _eat_nonce(claims: TeeClaims) -> bytes:
    value = claims.raw.get("eat_nonce", claims.nonce)
    if not isinstance(value, str) or not value or len(value) > MAX_TEXT:
        raise Unbound("the evidence has no single eat_nonce")
    return value.encode("utf-8", "surrogatepass")


def _audience(claims: TeeClaims) -> bytes:
    value = claims.raw.get("aud")
    if not isinstance(value, str) or not value or len(value) > MAX_TEXT:
        raise Unbound("the evidence has no single audience")
    return value.encode("utf-8", "surrogatepass")


_SLOTS: dict[str, Callable[[TeeClaims], bytes]] = {
    "report_data": report_data,
    "nonce": _nonce,
    "SHA-256 of the nonce": _nonce_digest,
    "extra_data": _extra_data,
    "public_key": _public_key,
    "user_data": _user_data,
    "report_data or user_data": _bind_v1_slot,
    "eat_nonce": _eat_nonce,
    "aud": _audience,
}


def _lower_ascii(slot: bytes) -> bytes:
    return slot[:42].lower() + slot[42:] if _ZERO_G_ASCII.fullmatch(slot[:42]) else slot


_TDX = frozenset({Platform.INTEL_TDX})
_SNP = frozenset({Platform.AMD_SEV_SNP})
_NITRO = frozenset({Platform.AWS_NITRO})
_GPU = frozenset({Platform.NVIDIA_GPU, Platform.NVIDIA_SWITCH})
_REPORT_DATA = ("report_data",)

_RULES: dict[BindingRule, _Rule] = {
    BindingRule.BIND_V1: _Rule(CPU | _NITRO, ("report_data or user_data",), at.own, tls=True),
    BindingRule.DSTACK: _Rule(_TDX | _SNP, _REPORT_DATA, at.dstack),
    BindingRule.DSTACK_TLS: _Rule(_TDX | _SNP, _REPORT_DATA, at.dstack_tls, tls=True),
    BindingRule.DSTACK_NONCE_SHA256: _Rule(_TDX | _SNP, _REPORT_DATA, at.dstack_nonce_sha256),
    BindingRule.ACI: _Rule(CPU | _NITRO, ("report_data or user_data",), at.aci_statement),
    BindingRule.ACI_NO_NONCE: _Rule(CPU, _REPORT_DATA, at.aci_statement_no_nonce),
    BindingRule.ZERO_G_ASCII: _Rule(_TDX, _REPORT_DATA, at.zero_g_ascii),
    BindingRule.ZERO_G_TAPP: _Rule(_TDX, _REPORT_DATA, at.zero_g_tapp),
    BindingRule.TINFOIL: _Rule(_TDX | _SNP, _REPORT_DATA, at.tinfoil, tls=True),
    BindingRule.SECRETVM: _Rule(_TDX | _SNP, _REPORT_DATA, at.secretvm("spki_sha256", False), tls=True),
    BindingRule.SECRETVM_GPU: _Rule(_TDX | _SNP, _REPORT_DATA, at.secretvm("spki_sha256", True), tls=True),
    BindingRule.SECRETVM_CERT: _Rule(_TDX | _SNP, _REPORT_DATA, at.secretvm("certificate_sha256", False)),
    BindingRule.SECRETVM_CERT_GPU: _Rule(_TDX | _SNP, _REPORT_DATA, at.secretvm("certificate_sha256", True)),
    BindingRule.CHUTES: _Rule(_TDX, _REPORT_DATA, at.chutes, tls=True),
    BindingRule.NILCC: _Rule(_SNP, _REPORT_DATA, at.nilcc, tls=True),
    BindingRule.NITRO_PUBLIC_KEY: _Rule(_NITRO, ("public_key",), at.only_public_key),
    BindingRule.NITRO_NONCE: _Rule(_NITRO, ("nonce",), at.only_nonce),
    BindingRule.NITRO_PUBLIC_KEY_NONCE: _Rule(_NITRO, ("public_key", "nonce"), at.public_key_nonce),
    BindingRule.OPENGRADIENT: _Rule(_NITRO, ("user_data",), at.opengradient),
    BindingRule.GCS: _Rule(frozenset({Platform.GCP_CONFIDENTIAL_SPACE}), ("eat_nonce", "aud"), at.gcs),
    BindingRule.VTPM: _Rule(frozenset({Platform.AZURE_VTPM, Platform.TPM2}), ("extra_data",), at.only_nonce),
    BindingRule.GPU_NONCE: _Rule(_GPU, ("nonce",), at.gpu_nonce),
    BindingRule.GPU_SECRETVM: _Rule(_GPU, ("nonce",), at.gpu_of_cpu(32)),
    BindingRule.GPU_CHUTES: _Rule(_GPU, ("nonce",), at.gpu_of_cpu(0)),
    BindingRule.GPU_SHA256: _Rule(_GPU, ("SHA-256 of the nonce",), at.gpu_of_cpu(32)),
}
