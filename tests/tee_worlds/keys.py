"""Keys, signatures and claims made for tests: deterministic but for RSA, whose keys are drawn once a run.

`seeds` and `run` are what the long fuzz target calls: a seed packs one question (a signature, a preimage, a signature
object, a binding) into bytes, and `run` asks the question that any bytes happen to pack.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from functools import cache

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.crypto.algorithms import Alg, verify
from gateway.crypto.ecdsa import P256, P384, SECP256K1, Curve
from gateway.crypto.keccak import keccak256
from gateway.crypto.secp256k1 import eip191_digest
from gateway.crypto.signatures import Ed25519Signer
from gateway.errors import FormatError
from gateway.model.tee import BindingStatus, Platform, Root, TeeClaims
from gateway.verify.preimages import PreimageRule, preimage
from gateway.verify.signed_text import judge_signed_text, parse_signed_text
from gateway.verify.tee.bindings import BindingInputs, BindingRule, bind

CURVES = {"p256": P256, "p384": P384, "secp256k1": SECP256K1}
MESSAGE = b"what the node says"


class EcKey:
    """One private key `d` on a curve, that signs with a nonce `k` of the caller's choice."""

    def __init__(self, curve: Curve, d: int) -> None:
        self.curve, self.d = curve, d
        self.public = ec.derive_private_key(d, curve.curve).public_key()
        self.uncompressed = self.public.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        self.compressed = self.public.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
        self.spki = self.public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self.raw = self.uncompressed[1:]
        self.address = keccak256(self.raw)[12:]

    def numbers(self, digest: bytes, k: int = 7_777_777) -> tuple[int, int, int]:
        """(r, s, parity of R's y), s as it falls."""
        point = ec.derive_private_key(k, self.curve.curve).public_key().public_numbers()
        r = point.x % self.curve.order
        s = pow(k, -1, self.curve.order) * (int.from_bytes(digest, "big") + r * self.d) % self.curve.order
        return r, s, point.y & 1

    def sign(self, message: bytes) -> bytes:
        """`r || s` over the curve's own hash of the message."""
        return self.fixed(*self.numbers(hashlib.new(self.curve.hash.name, message).digest())[:2])

    def fixed(self, r: int, s: int) -> bytes:
        return r.to_bytes(self.curve.size, "big") + s.to_bytes(self.curve.size, "big")

    def sign_der(self, message: bytes) -> bytes:
        signature, size = self.sign(message), self.curve.size
        return encode_dss_signature(int.from_bytes(signature[:size], "big"), int.from_bytes(signature[size:], "big"))

    def personal_sign(self, message: bytes, *, high_s: bool = False, v_from: int = 27) -> bytes:
        """EIP-191: r, s, v with the lower s, or the higher."""
        r, s, parity = self.numbers(eip191_digest(message))
        if (s > self.curve.order // 2) != high_s:
            s, parity = self.curve.order - s, parity ^ 1
        return self.fixed(r, s) + bytes([v_from + parity])


@cache
def ec_key(curve: str, d: int = 0xC0FFEE) -> EcKey:
    return EcKey(CURVES[curve], d)


@cache
def rsa_key(bits: int = 2048, exponent: int = 65537) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(exponent, bits)


def spki(key: rsa.RSAPrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def genuine(message: bytes = MESSAGE) -> dict[Alg, tuple[bytes, bytes]]:
    """(key, signature over `message`) for every algorithm."""
    k1, p256, p384, edwards = ec_key("secp256k1"), ec_key("p256"), ec_key("p384"), Ed25519Signer(b"\7" * 32)
    r, s = k1.numbers(hashlib.sha256(message).digest())[:2]
    low = k1.fixed(r, min(s, SECP256K1.order - s))
    signed = {
        Alg.ED25519: (edwards.public_key, edwards.sign(message)),
        Alg.EIP191: (k1.address, k1.personal_sign(message)),
        Alg.EIP191_LOW_S: (k1.raw, k1.personal_sign(message)),
        Alg.ES256K: (k1.compressed, k1.sign(message)),
        Alg.ES256K_LOW_S: (k1.uncompressed, low),
        Alg.ES256K_DER: (k1.spki, k1.sign_der(message)),
        Alg.ES256: (p256.raw, p256.sign(message)),
        Alg.ES256_DER: (p256.uncompressed, p256.sign_der(message)),
        Alg.ES384: (p384.spki, p384.sign(message)),
        Alg.ES384_DER: (p384.compressed, p384.sign_der(message)),
    }
    for name, digest in (("256", hashes.SHA256()), ("384", hashes.SHA384())):
        pss = padding.PSS(padding.MGF1(digest), digest.digest_size)
        signed[Alg(f"ps{name}")] = (spki(rsa_key()), rsa_key().sign(message, pss, digest))
        signed[Alg(f"rs{name}")] = (spki(rsa_key()), rsa_key().sign(message, padding.PKCS1v15(), digest))
    return signed


def claims(platform: Platform = Platform.INTEL_TDX, *, authentic: bool = True, **members: object) -> TeeClaims:
    """Claims of evidence that some verifier found authentic, or not."""
    members = {"root": Root("a root", "00" * 32), **members}
    return TeeClaims(platform=platform, evidence_sha256="00" * 32, authentic=authentic, evaluated_at=0.0, **members)  # type: ignore[arg-type]


# Packed questions

_ALGS, _PREIMAGES, _BINDINGS, _PLATFORMS = list(Alg), list(PreimageRule), list(BindingRule), list(Platform)


def pack(kind: int, choice: int, *parts: bytes) -> bytes:
    return bytes([kind, choice]) + b"".join(len(part).to_bytes(2, "big") + part for part in parts)


def unpack(data: bytes, count: int) -> list[bytes]:
    """`count` parts, however short the data is; the last takes what is left."""
    parts, at = [], 2
    for left in range(count, 0, -1):
        size = int.from_bytes(data[at : at + 2], "big")
        parts.append(data[at + 2 : at + 2 + size] if left > 1 else data[at + 2 :])
        at += 2 + size
    return parts


def seeds() -> list[bytes]:
    """One genuine question of each kind and choice."""
    found = [pack(0, _ALGS.index(alg), key, MESSAGE, sig) for alg, (key, sig) in genuine().items()]
    response = b'{"id":"1","choices":[{"text":"\xc3\xa9","logprob":-0.5}],"signature":"AAAA"}'
    strings = (b"m", b'{"signature":"' + b"00" * 64 + b'"}', b"1700000000000000000", b"gonka1qqqqqqqq")
    found += [pack(1, i, b'{"model":"m"}', response, *strings) for i in range(len(_PREIMAGES))]
    text = preimage(PreimageRule.DSTACK, b"a", b"b", {}).message
    document = {
        "text": text.decode(),
        "signature": "0x" + ec_key("secp256k1").personal_sign(text).hex(),
        "signing_address": "0x" + ec_key("secp256k1").address.hex(),
        "signing_algo": "ecdsa",
    }
    found.append(pack(2, 0, ec_key("secp256k1").address, b"a", b"b", json.dumps(document).encode()))
    found += [pack(3, i, b"\0", bytes(64), b"\1" * 32, b"\2" * 32, b"\3" * 32, b"text") for i in range(len(_BINDINGS))]
    return found


def run(data: bytes) -> None:
    """Ask what `data` packs. Raises for nothing but a defect."""
    kind, choice = (data[0] % 4, data[1]) if len(data) > 1 else (0, 0)
    (_ask_verify, _ask_preimage, _ask_signed_text, _ask_binding)[kind](data, choice)


def _ask_verify(data: bytes, choice: int) -> None:
    key, message, signature = unpack(data, 3)
    if verify(key, _ALGS[choice % len(_ALGS)], message, signature):
        assert message == MESSAGE, "it holds, and nobody signed it"
        assert key in _known_keys(), "it holds under a key in another spelling"


@cache
def _known_keys() -> frozenset[bytes]:
    return frozenset(key for key, _ in genuine().values())


def _ask_preimage(data: bytes, choice: int) -> None:
    request, response, *rest = unpack(data, 6)
    names = ("model", "receipt", "timestamp", "address")
    params = {name: part.decode("utf-8", "surrogateescape") for name, part in zip(names, rest, strict=True)}
    with suppress(FormatError):
        assert preimage(_PREIMAGES[choice % len(_PREIMAGES)], request, response, params).message


def _ask_signed_text(data: bytes, choice: int) -> None:
    key, request, response, document = unpack(data, 4)
    try:
        signed = parse_signed_text(document)
    except FormatError:
        return
    for rule in (PreimageRule.DSTACK, PreimageRule.NEAR):
        judge_signed_text(signed, preimage(rule, request, response, {"model": "m"}), key)


def _ask_binding(data: bytes, choice: int) -> None:
    platform, slot, a, b, c, text = unpack(data, 6)
    said = text.decode("utf-8", "surrogateescape")
    evidence = claims(
        _PLATFORMS[sum(platform) % len(_PLATFORMS)],
        report_data=slot.hex(),
        nonce=b.hex(),
        raw={"public_key": a.hex(), "user_data": slot.hex(), "nonce": said, "eat_nonce": said, "aud": said},
    )
    inputs = BindingInputs(
        spki_sha256=a,
        certificate_sha256=b,
        signing_key=c,
        signing_spki_sha256=c,
        public_key=b,
        nonce=b,
        nonce_text=said,
        e2e_key_text=said,
        keyset_digest=said,
        audience=said,
        adapter=said,
        gpu_nonce=c,
        cpu=evidence,
    )
    found = bind(_BINDINGS[choice % len(_BINDINGS)], evidence, inputs)
    assert found.status in BindingStatus
    assert found.status is not BindingStatus.BOUND or evidence.authentic
