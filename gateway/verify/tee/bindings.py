"""Whom evidence speaks for: a closed registry of the networks' rules that tie a key or a nonce to genuine evidence.

    bind(BindingRule.DSTACK, claims, BindingInputs(signing_key=address, nonce=nonce)) -> Binding

Evidence that holds proves that *some* enclave runs *something*. Only what it commits to - the 64 bytes of report_data,
a nonce, Nitro's slots - ties it to the key that signs responses or to the channel that they arrive over. A rule says
which slot of the claims is compared, and builds what has to stand there, to its last byte:

    BOUND     the slot is exactly what follows from the inputs
    UNBOUND   the evidence is not authentic, its slot is absent or all zero, or the caller has no input to hold it to
    MISMATCH  the slot holds something else; also when only a part of it is as expected

Nothing is BOUND by default, by prefix or by one half. The caller takes the inputs from what it will rely on - the TLS
connection that carries the prompt, the key that verified the signature, the nonce that it drew - never from the
document beside the evidence. What each rule does not tie is in the documentation (verification, "Bindings").

Formats: networks 1.2 and the sections of each network; tee 4; opengradient 1.5.
"""

from __future__ import annotations

import enum
import hashlib
import re
from collections.abc import Callable

import msgspec

from gateway.errors import FormatError
from gateway.model.tee import Binding, BindingStatus, Platform, TeeClaims
from gateway.verify import aci

BIND_V1 = b"veriroute-bind-v1"

_ADAPTER = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_KEYSET_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_HEX = re.compile(r"(?:[0-9a-f]{2})*")
_ZERO_G_ASCII = re.compile(rb"0x[0-9a-fA-F]{40}")
_MAX_TEXT = 4096


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


class BindingInputs(msgspec.Struct, frozen=True, kw_only=True):
    """What the evidence is held to. A rule that needs a member that is None answers UNBOUND.

    `spki_sha256` and `certificate_sha256` are of the TLS leaf of the connection that carries the exchange (32 bytes);
    `signing_key` the Ethereum address (20) or Ed25519 key (32) that signs responses; `signing_spki_sha256` the digest
    of such a key's SubjectPublicKeyInfo; `public_key` the raw HPKE, x25519 or enclave key that we encrypt to or verify
    with; `nonce` the bytes that we sent; `nonce_text` and `e2e_key_text` their spellings on the wire (Chutes);
    `gpu_nonce` that of GPU evidence that was verified; `cpu` the claims of the machine's CPU evidence.
    """

    spki_sha256: bytes | None = None
    certificate_sha256: bytes | None = None
    signing_key: bytes | None = None
    signing_spki_sha256: bytes | None = None
    public_key: bytes | None = None
    nonce: bytes | None = None
    nonce_text: str | None = None
    e2e_key_text: str | None = None
    keyset_digest: str | None = None
    audience: str | None = None
    adapter: str | None = None
    gpu_nonce: bytes | None = None
    cpu: TeeClaims | None = None


class _Unbound(Exception):
    """There is nothing to compare; the message says why. Never leaves this module."""


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
    except _Unbound as nothing:
        return Binding(BindingStatus.UNBOUND, rule, None, str(nothing))
    for name, slot, wanted in zip(found.slots, slots, expected, strict=True):
        if slot != wanted:
            return Binding(BindingStatus.MISMATCH, rule, None, _difference(name, slot, wanted))
    key = inputs.spki_sha256.hex() if found.tls and inputs.spki_sha256 is not None else None
    return Binding(BindingStatus.BOUND, rule, key)


def bind_v1(adapter: str, nonce: bytes, spki_sha256: bytes) -> bytes:
    """The 64 bytes that evidence carries where we control the challenge: our own rule (tee 4).

    SHA-512("veriroute-bind-v1" || adapter || nonce (32) || spki_sha256 (32)). The adapter's name is the one part of free
    length and stands between parts of fixed length. Raises `FormatError` for inputs of other lengths or alphabets.
    """
    if _ADAPTER.fullmatch(adapter) is None or len(nonce) != 32 or len(spki_sha256) != 32:
        raise FormatError("an adapter's name is 1 to 64 of a-z 0-9 . _ -, nonce and digest are 32 bytes each")
    return hashlib.sha512(BIND_V1 + adapter.encode() + nonce + spki_sha256).digest()


def _slots(rule: _Rule, claims: TeeClaims) -> tuple[bytes, ...]:
    """What the evidence commits to, as it stands in authentic claims."""
    if not claims.authentic:
        raise _Unbound("the evidence is not authentic")
    if claims.platform not in rule.platforms:
        raise _Unbound(f"the rule is not for {claims.platform}")
    slots = tuple(_SLOTS[name](claims) for name in rule.slots)
    if not any(any(slot) for slot in slots):
        raise _Unbound("the evidence commits to nothing: its slot is all zero")
    return slots


def _difference(name: str, slot: bytes, wanted: bytes) -> str:
    if len(slot) != len(wanted):
        return f"{name} has {len(slot)} bytes, not {len(wanted)}"
    if len(slot) == 64:
        halves = [half for half, at in (("first", 0), ("second", 32)) if slot[at : at + 32] != wanted[at : at + 32]]
        return f"{name} differs in its {' and '.join(halves)} half"
    return f"{name} differs"


# What is read from the claims


def _unhex(value: object, name: str) -> bytes:
    if not isinstance(value, str) or len(value) > 2 * _MAX_TEXT or _HEX.fullmatch(value) is None:
        raise _Unbound(f"the evidence has no {name}")
    return bytes.fromhex(value)


def _report_data(claims: TeeClaims) -> bytes:
    data = _unhex(claims.report_data, "report_data")
    if len(data) != 64:
        raise _Unbound("report_data is not 64 bytes")
    return data


def _nonce(claims: TeeClaims) -> bytes:
    value = claims.nonce if claims.nonce is not None else claims.raw.get("nonce")
    return _unhex(value, "nonce")


def _extra_data(claims: TeeClaims) -> bytes:
    return _unhex(claims.raw.get("extra_data", claims.nonce), "extra_data")


def _public_key(claims: TeeClaims) -> bytes:
    return _unhex(claims.raw.get("public_key"), "public_key")


def _user_data(claims: TeeClaims) -> bytes:
    return _unhex(claims.raw.get("user_data"), "user_data")


def _bind_v1_slot(claims: TeeClaims) -> bytes:
    return _user_data(claims) if claims.platform is Platform.AWS_NITRO else _report_data(claims)


def _eat_nonce(claims: TeeClaims) -> bytes:
    value = claims.raw.get("eat_nonce", claims.nonce)
    if not isinstance(value, str) or not value or len(value) > _MAX_TEXT:
        raise _Unbound("the evidence has no single eat_nonce")
    return value.encode("utf-8", "surrogatepass")


def _audience(claims: TeeClaims) -> bytes:
    value = claims.raw.get("aud")
    if not isinstance(value, str) or not value or len(value) > _MAX_TEXT:
        raise _Unbound("the evidence has no single audience")
    return value.encode("utf-8", "surrogatepass")


_SLOTS: dict[str, Callable[[TeeClaims], bytes]] = {
    "report_data": _report_data,
    "nonce": _nonce,
    "extra_data": _extra_data,
    "public_key": _public_key,
    "user_data": _user_data,
    "report_data or user_data": _bind_v1_slot,
    "eat_nonce": _eat_nonce,
    "aud": _audience,
}


def _lower_ascii(slot: bytes) -> bytes:
    return slot[:42].lower() + slot[42:] if _ZERO_G_ASCII.fullmatch(slot[:42]) else slot


# What has to stand there


def _given(value: bytes | None, name: str, *lengths: int) -> bytes:
    """An input of one of `lengths` bytes (any from 1 to 1024 when none is named) that is not all zero."""
    if value is None:
        raise _Unbound(f"no {name} was given to hold the evidence to")
    if len(value) not in (lengths or range(1, 1025)):
        raise _Unbound(f"the {name} given has {len(value)} bytes")
    if not any(value):
        raise _Unbound(f"the {name} given is all zero")
    return value


def _text(value: str | None, name: str) -> str:
    if not value or not value.isascii() or not value.isprintable() or len(value) > _MAX_TEXT:
        raise _Unbound(f"no usable {name} was given to hold the evidence to")
    return value


def _own(inputs: BindingInputs) -> tuple[bytes]:
    nonce, spki = _given(inputs.nonce, "nonce", 32), _given(inputs.spki_sha256, "spki_sha256", 32)
    adapter = _text(inputs.adapter, "adapter")
    if _ADAPTER.fullmatch(adapter) is None:
        raise _Unbound("the adapter given is not a name")
    return (bind_v1(adapter, nonce, spki),)


def _dstack(inputs: BindingInputs) -> tuple[bytes]:
    key = _given(inputs.signing_key, "signing_key", 20, 32)
    return (key.ljust(32, b"\0") + _given(inputs.nonce, "nonce", 32),)


def _dstack_tls(inputs: BindingInputs) -> tuple[bytes]:
    key, spki = _given(inputs.signing_key, "signing_key", 20, 32), _given(inputs.spki_sha256, "spki_sha256", 32)
    return (hashlib.sha256(key + spki).digest() + _given(inputs.nonce, "nonce", 32),)


def _dstack_nonce_sha256(inputs: BindingInputs) -> tuple[bytes]:
    key = _given(inputs.signing_key, "signing_key", 20, 32)
    return (key.ljust(32, b"\0") + hashlib.sha256(_given(inputs.nonce, "nonce", 32)).digest(),)


def _statement(inputs: BindingInputs, nonce: str | None) -> tuple[bytes]:
    digest = _text(inputs.keyset_digest, "keyset_digest")
    if _KEYSET_DIGEST.fullmatch(digest) is None:
        raise _Unbound("the keyset_digest given is not sha256:<64 hex digits>")
    return (aci.report_data(aci.statement(digest, nonce)),)


def _aci(inputs: BindingInputs) -> tuple[bytes]:
    return _statement(inputs, _given(inputs.nonce, "nonce", 32).hex())


def _aci_no_nonce(inputs: BindingInputs) -> tuple[bytes]:
    return _statement(inputs, None)


def _zero_g_ascii(inputs: BindingInputs) -> tuple[bytes]:
    return (f"0x{_given(inputs.signing_key, 'signing_key', 20).hex()}".encode().ljust(64, b"\0"),)


def _zero_g_tapp(inputs: BindingInputs) -> tuple[bytes]:
    return (_given(inputs.signing_key, "signing_key", 20).ljust(64, b"\0"),)


def _tinfoil(inputs: BindingInputs) -> tuple[bytes]:
    return (_given(inputs.spki_sha256, "spki_sha256", 32) + _given(inputs.public_key, "public_key", 32),)


def _secretvm(first: str, gpu: bool) -> Callable[[BindingInputs], tuple[bytes]]:
    def expect(inputs: BindingInputs) -> tuple[bytes]:
        channel = _given(getattr(inputs, first), first, 32)
        return (channel + (_given(inputs.gpu_nonce, "gpu_nonce", 32) if gpu else bytes(32)),)

    return expect


def _chutes(inputs: BindingInputs) -> tuple[bytes]:
    # Both as they are spelled on the wire: the decoded bytes give another digest.
    said = _text(inputs.nonce_text, "nonce_text") + _text(inputs.e2e_key_text, "e2e_key_text")
    return (hashlib.sha256(said.encode()).digest() + _given(inputs.spki_sha256, "spki_sha256", 32),)


def _nilcc(inputs: BindingInputs) -> tuple[bytes]:
    return (b"\0" + _given(inputs.spki_sha256, "spki_sha256", 32) + bytes(31),)


def _only_public_key(inputs: BindingInputs) -> tuple[bytes]:
    return (_given(inputs.public_key, "public_key"),)


def _only_nonce(inputs: BindingInputs) -> tuple[bytes]:
    return (_given(inputs.nonce, "nonce"),)


def _public_key_nonce(inputs: BindingInputs) -> tuple[bytes, bytes]:
    return (_given(inputs.public_key, "public_key"), _given(inputs.nonce, "nonce"))


def _opengradient(inputs: BindingInputs) -> tuple[bytes]:
    # nitriding writes two multihashes (0x12 0x20: SHA-256, 32 bytes): the TLS certificate, and what the app registered.
    certificate = _given(inputs.certificate_sha256, "certificate_sha256", 32)
    key = _given(inputs.signing_spki_sha256, "signing_spki_sha256", 32)
    return (b"\x12\x20" + certificate + b"\x12\x20" + key,)


def _gcs(inputs: BindingInputs) -> tuple[bytes, bytes]:
    return _given(inputs.nonce, "nonce", 32).hex().encode(), _text(inputs.audience, "audience").encode()


def _gpu_nonce(inputs: BindingInputs) -> tuple[bytes]:
    return (_given(inputs.nonce, "nonce", 32),)


def _gpu_of_cpu(at: int) -> Callable[[BindingInputs], tuple[bytes]]:
    def expect(inputs: BindingInputs) -> tuple[bytes]:
        if inputs.cpu is None or not inputs.cpu.authentic or inputs.cpu.platform not in _CPU:
            raise _Unbound("no authentic CPU evidence was given to hold the GPU to")
        half = _report_data(inputs.cpu)[at : at + 32]
        return (_given(half, "half of the CPU's report_data", 32),)

    return expect


_CPU = frozenset({Platform.INTEL_TDX, Platform.INTEL_SGX, Platform.AMD_SEV_SNP, Platform.ARM_CCA})
_TDX = frozenset({Platform.INTEL_TDX})
_SNP = frozenset({Platform.AMD_SEV_SNP})
_NITRO = frozenset({Platform.AWS_NITRO})
_GPU = frozenset({Platform.NVIDIA_GPU, Platform.NVIDIA_SWITCH})
_REPORT_DATA = ("report_data",)

_RULES: dict[BindingRule, _Rule] = {
    BindingRule.BIND_V1: _Rule(_CPU | _NITRO, ("report_data or user_data",), _own, tls=True),
    BindingRule.DSTACK: _Rule(_TDX | _SNP, _REPORT_DATA, _dstack),
    BindingRule.DSTACK_TLS: _Rule(_TDX | _SNP, _REPORT_DATA, _dstack_tls, tls=True),
    BindingRule.DSTACK_NONCE_SHA256: _Rule(_TDX | _SNP, _REPORT_DATA, _dstack_nonce_sha256),
    BindingRule.ACI: _Rule(_CPU, _REPORT_DATA, _aci),
    BindingRule.ACI_NO_NONCE: _Rule(_CPU, _REPORT_DATA, _aci_no_nonce),
    BindingRule.ZERO_G_ASCII: _Rule(_TDX, _REPORT_DATA, _zero_g_ascii),
    BindingRule.ZERO_G_TAPP: _Rule(_TDX, _REPORT_DATA, _zero_g_tapp),
    BindingRule.TINFOIL: _Rule(_TDX | _SNP, _REPORT_DATA, _tinfoil, tls=True),
    BindingRule.SECRETVM: _Rule(_TDX | _SNP, _REPORT_DATA, _secretvm("spki_sha256", False), tls=True),
    BindingRule.SECRETVM_GPU: _Rule(_TDX | _SNP, _REPORT_DATA, _secretvm("spki_sha256", True), tls=True),
    BindingRule.SECRETVM_CERT: _Rule(_TDX | _SNP, _REPORT_DATA, _secretvm("certificate_sha256", False)),
    BindingRule.SECRETVM_CERT_GPU: _Rule(_TDX | _SNP, _REPORT_DATA, _secretvm("certificate_sha256", True)),
    BindingRule.CHUTES: _Rule(_TDX, _REPORT_DATA, _chutes, tls=True),
    BindingRule.NILCC: _Rule(_SNP, _REPORT_DATA, _nilcc, tls=True),
    BindingRule.NITRO_PUBLIC_KEY: _Rule(_NITRO, ("public_key",), _only_public_key),
    BindingRule.NITRO_NONCE: _Rule(_NITRO, ("nonce",), _only_nonce),
    BindingRule.NITRO_PUBLIC_KEY_NONCE: _Rule(_NITRO, ("public_key", "nonce"), _public_key_nonce),
    BindingRule.OPENGRADIENT: _Rule(_NITRO, ("user_data",), _opengradient),
    BindingRule.GCS: _Rule(frozenset({Platform.GCP_CONFIDENTIAL_SPACE}), ("eat_nonce", "aud"), _gcs),
    BindingRule.VTPM: _Rule(frozenset({Platform.AZURE_VTPM, Platform.TPM2}), ("extra_data",), _only_nonce),
    BindingRule.GPU_NONCE: _Rule(_GPU, ("nonce",), _gpu_nonce),
    BindingRule.GPU_SECRETVM: _Rule(_GPU, ("nonce",), _gpu_of_cpu(32)),
    BindingRule.GPU_CHUTES: _Rule(_GPU, ("nonce",), _gpu_of_cpu(0)),
}
