"""What has to stand in a slot of the evidence: for each network's rule, the bytes that follow from the inputs.

Every function here builds its slot whole, padding included, so that what is compared is all of it. An input that is
missing, of another length, or all zero raises `Unbound`: there is nothing to hold the evidence to.

    dstack             key (20 or 32, zero-padded to 32) || nonce
    dstack with TLS    SHA-256(key unpadded || spki_sha256) || nonce
    ACI                SHA-256(statement) || 0^32
    0G broker          ASCII "0x" + 40 hex digits || 0^22;   tapp: address || 0^44
    Tinfoil            spki_sha256 || HPKE key
    SecretVM           spki_sha256 or certificate_sha256 || GPU nonce or 0^32
    Chutes             SHA-256(nonce text || key in base64) || spki_sha256
    nilCC              00 || spki_sha256 || 0^31
    OpenGradient       12 20 || certificate_sha256 || 12 20 || signing_spki_sha256
    our own            SHA-512("veriroute-bind-v1" || adapter || nonce || spki_sha256)

Formats: docs/verification.md, Bindings.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable

import msgspec

from gateway.crypto.encoding import unb64
from gateway.errors import FormatError
from gateway.model.tee import Platform, TeeClaims
from gateway.verify import aci

BIND_V1 = b"veriroute-bind-v1"
CPU = frozenset({Platform.INTEL_TDX, Platform.INTEL_SGX, Platform.AMD_SEV_SNP, Platform.ARM_CCA})
MAX_TEXT = 4096
ML_KEM_768_BYTES = 1184

_ADAPTER = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_KEYSET_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_HEX64 = re.compile(r"[0-9a-f]{64}")
_HEX = re.compile(r"(?:[0-9a-f]{2})*")


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


class Unbound(Exception):
    """There is nothing to compare; the message says why. `bind` turns it into an answer."""


def unhex(value: object, name: str) -> bytes:
    """The bytes of a claim in lower-case hex, at most `MAX_TEXT`; `Unbound` when it is absent or anything else."""
    if not isinstance(value, str) or len(value) > 2 * MAX_TEXT or _HEX.fullmatch(value) is None:
        raise Unbound(f"the evidence has no {name}")
    return bytes.fromhex(value)


def report_data(claims: TeeClaims) -> bytes:
    """The 64 bytes of report_data; `Unbound` when they are not there."""
    data = unhex(claims.report_data, "report_data")
    if len(data) != 64:
        raise Unbound("report_data is not 64 bytes")
    return data


def bind_v1(adapter: str, nonce: bytes, spki_sha256: bytes) -> bytes:
    """The 64 bytes that evidence carries where we control the challenge: our own rule.

    SHA-512("veriroute-bind-v1" || adapter || nonce (32) || spki_sha256 (32)). The adapter's name is the one part of
    free length and stands between fixed ones. Raises `FormatError` for inputs of other lengths or alphabets.
    """
    if _ADAPTER.fullmatch(adapter) is None or len(nonce) != 32 or len(spki_sha256) != 32:
        raise FormatError("an adapter's name is 1 to 64 of a-z 0-9 . _ -, nonce and digest are 32 bytes each")
    return hashlib.sha512(BIND_V1 + adapter.encode() + nonce + spki_sha256).digest()


def _given(value: bytes | None, name: str, *lengths: int) -> bytes:
    """An input of one of `lengths` bytes (any from 1 to 1024 when none is named) that is not all zero."""
    if value is None:
        raise Unbound(f"no {name} was given to hold the evidence to")
    if len(value) not in (lengths or range(1, 1025)):
        raise Unbound(f"the {name} given has {len(value)} bytes")
    if not any(value):
        raise Unbound(f"the {name} given is all zero")
    return value


def _text(value: str | None, name: str) -> str:
    if not value or not value.isascii() or not value.isprintable() or len(value) > MAX_TEXT:
        raise Unbound(f"no usable {name} was given to hold the evidence to")
    return value


def own(inputs: BindingInputs) -> tuple[bytes]:
    """Our own rule's 64 bytes, of the adapter, the nonce and the TLS or signing key's digest."""
    nonce, spki = _given(inputs.nonce, "nonce", 32), _given(inputs.spki_sha256, "spki_sha256", 32)
    try:
        return (bind_v1(_text(inputs.adapter, "adapter"), nonce, spki),)
    except FormatError:
        raise Unbound("the adapter given is not a name") from None


def dstack(inputs: BindingInputs) -> tuple[bytes]:
    """report_data of a dstack node: signing key, padded, and nonce."""
    key = _given(inputs.signing_key, "signing_key", 20, 32)
    return (key.ljust(32, b"\0") + _given(inputs.nonce, "nonce", 32),)


def dstack_tls(inputs: BindingInputs) -> tuple[bytes]:
    """report_data of a dstack node that binds its TLS key as well; the signing key is not padded inside the digest."""
    key, spki = _given(inputs.signing_key, "signing_key", 20, 32), _given(inputs.spki_sha256, "spki_sha256", 32)
    return (hashlib.sha256(key + spki).digest() + _given(inputs.nonce, "nonce", 32),)


def dstack_nonce_sha256(inputs: BindingInputs) -> tuple[bytes]:
    """As `dstack`, for a relay that hands on the nonce's digest."""
    key = _given(inputs.signing_key, "signing_key", 20, 32)
    return (key.ljust(32, b"\0") + hashlib.sha256(_given(inputs.nonce, "nonce", 32)).digest(),)


def _statement(inputs: BindingInputs, nonce: str | None) -> tuple[bytes]:
    digest = _text(inputs.keyset_digest, "keyset_digest")
    if _KEYSET_DIGEST.fullmatch(digest) is None:
        raise Unbound("the keyset_digest given is not sha256:<64 hex digits>")
    return (aci.report_data(aci.statement(digest, nonce)),)


def aci_statement(inputs: BindingInputs) -> tuple[bytes]:
    """report_data for the statement with our nonce."""
    return _statement(inputs, _given(inputs.nonce, "nonce", 32).hex())


def aci_statement_no_nonce(inputs: BindingInputs) -> tuple[bytes]:
    """report_data for the statement whose nonce is null."""
    return _statement(inputs, None)


def zero_g_ascii(inputs: BindingInputs) -> tuple[bytes]:
    """report_data of a 0G broker: the address as lower-case text; `bind` brings the slot to that case."""
    return (f"0x{_given(inputs.signing_key, 'signing_key', 20).hex()}".encode().ljust(64, b"\0"),)


def zero_g_tapp(inputs: BindingInputs) -> tuple[bytes]:
    """report_data of a 0G tapp: the raw address and nothing else."""
    return (_given(inputs.signing_key, "signing_key", 20).ljust(64, b"\0"),)


def tinfoil(inputs: BindingInputs) -> tuple[bytes]:
    """report_data of a Tinfoil enclave: TLS key and HPKE key."""
    return (_given(inputs.spki_sha256, "spki_sha256", 32) + _given(inputs.public_key, "public_key", 32),)


def secretvm(first: str, gpu: bool) -> Callable[[BindingInputs], tuple[bytes]]:
    """report_data of a SecretVM: the input named `first`, and the nonce of its GPU evidence, or zeros without `gpu`."""

    def expect(inputs: BindingInputs) -> tuple[bytes]:
        channel = _given(getattr(inputs, first), first, 32)
        return (channel + (_given(inputs.gpu_nonce, "gpu_nonce", 32) if gpu else bytes(32)),)

    return expect


def chutes(inputs: BindingInputs) -> tuple[bytes]:
    """report_data of a Chutes instance: its nonce and encryption key, and the key of its certificate."""
    # Both as they are spelled on the wire: the decoded bytes give another digest. Nothing separates the two, so each
    # is held to the one spelling of its own length.
    nonce, key = _text(inputs.nonce_text, "nonce_text"), _text(inputs.e2e_key_text, "e2e_key_text")
    if _HEX64.fullmatch(nonce) is None or _spelled(key) != ML_KEM_768_BYTES:
        raise Unbound("the nonce_text given is not 64 hex digits, or the e2e_key_text not an ML-KEM-768 key in base64")
    return (hashlib.sha256((nonce + key).encode()).digest() + _given(inputs.spki_sha256, "spki_sha256", 32),)


def _spelled(text: str) -> int:
    """How many bytes `text` spells in canonical base64; 0 when it is none."""
    try:
        return len(unb64(text, "key"))
    except FormatError:
        return 0


def nilcc(inputs: BindingInputs) -> tuple[bytes]:
    """report_data of a nilCC machine: version 0, and the TLS key."""
    return (b"\0" + _given(inputs.spki_sha256, "spki_sha256", 32) + bytes(31),)


def only_public_key(inputs: BindingInputs) -> tuple[bytes]:
    """Nitro's public_key slot."""
    return (_given(inputs.public_key, "public_key"),)


def only_nonce(inputs: BindingInputs) -> tuple[bytes]:
    """A nonce of any length from 1 to 1024 bytes."""
    return (_given(inputs.nonce, "nonce"),)


def public_key_nonce(inputs: BindingInputs) -> tuple[bytes, bytes]:
    """Nitro's public_key and nonce slots."""
    return (_given(inputs.public_key, "public_key"), _given(inputs.nonce, "nonce"))


def opengradient(inputs: BindingInputs) -> tuple[bytes]:
    """user_data as nitriding writes it, 68 bytes."""
    # nitriding writes two multihashes (0x12 0x20: SHA-256, 32 bytes): the TLS certificate, and what the app registered.
    certificate = _given(inputs.certificate_sha256, "certificate_sha256", 32)
    key = _given(inputs.signing_spki_sha256, "signing_spki_sha256", 32)
    return (b"\x12\x20" + certificate + b"\x12\x20" + key,)


def gcs(inputs: BindingInputs) -> tuple[bytes, bytes]:
    """eat_nonce and aud of a Confidential Space token."""
    return _given(inputs.nonce, "nonce", 32).hex().encode(), _text(inputs.audience, "audience").encode()


def gpu_nonce(inputs: BindingInputs) -> tuple[bytes]:
    """The 32-byte nonce that we sent to the GPU."""
    return (_given(inputs.nonce, "nonce", 32),)


def gpu_of_cpu(at: int) -> Callable[[BindingInputs], tuple[bytes]]:
    """The GPU's nonce as 32 bytes of the CPU's report_data, from `at`; only of CPU evidence that is authentic."""

    def expect(inputs: BindingInputs) -> tuple[bytes]:
        if inputs.cpu is None or not inputs.cpu.authentic or inputs.cpu.root is None or inputs.cpu.platform not in CPU:
            raise Unbound("no authentic CPU evidence was given to hold the GPU to")
        half = report_data(inputs.cpu)[at : at + 32]
        return (_given(half, "half of the CPU's report_data", 32),)

    return expect
