"""A world of token services of our own: an NRAS with its key set, a Confidential Space verifier, an Azure provider.

Every key and root is made here; `nras_roots` and its like pin them as test anchors.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils

from gateway.verify.tee import gcs, maa, nras
from gateway.verify.tee.roots import Anchor, TrustRoots

from .nvidia import DAY, NOW, anchor, certificate, der_of, key_of, name_of

NVIDIA = "NVIDIA Corporation"
KID = "nv-eat-kid-test-1"
NONCE = "ab" * 32
AUDIENCE = "https://verifier.example"
PROVIDER = "https://test.attest.example"
POLICY = "policy-hash-1"


@cache
def rsa_key(name: str) -> rsa.RSAPrivateKey:
    """An RSA key of that name, the same within one run."""
    return rsa.generate_private_key(65537, 2048)


def b64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def token(header: Mapping[str, Any], claims: Mapping[str, Any] | bytes, key: object) -> str:
    """A compact JWS over `claims`, signed as the header's `alg` says; `none` has an empty signature."""
    body = claims if isinstance(claims, bytes) else json.dumps(claims, separators=(",", ":")).encode()
    signing = b64url(json.dumps(header).encode()) + "." + b64url(body)
    return f"{signing}.{b64url(signature(header['alg'], signing.encode(), key))}"


def signature(alg: str, data: bytes, key: object) -> bytes:
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(data, padding.PKCS1v15(), hashes.SHA256())
    if isinstance(key, ec.EllipticCurvePrivateKey):
        size, digest = (48, hashes.SHA384()) if key.curve.name == "secp384r1" else (32, hashes.SHA256())
        r, s = utils.decode_dss_signature(key.sign(data, ec.ECDSA(digest)))
        return r.to_bytes(size, "big") + s.to_bytes(size, "big")
    return b""


def jwk_of(key: object, kid: str, chain: Sequence[x509.Certificate] = (), **more: object) -> dict[str, Any]:
    """The public JWK of a private key."""
    if isinstance(key, rsa.RSAPrivateKey):
        numbers = key.public_key().public_numbers()
        made = {"kty": "RSA", "n": b64url(numbers.n.to_bytes(256, "big")), "e": "AQAB"}
    else:
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        point = key.public_key().public_numbers()
        size = (key.curve.key_size + 7) // 8
        made = {"kty": "EC", "crv": f"P-{key.curve.key_size}"}
        made |= {"x": b64url(point.x.to_bytes(size, "big")), "y": b64url(point.y.to_bytes(size, "big"))}
    x5c = {"x5c": [base64.b64encode(der_of(c)).decode() for c in chain]} if chain else {}
    return {**made, "kid": kid, **x5c, **more}


def key_set(*keys: Mapping[str, Any]) -> bytes:
    return json.dumps({"keys": list(keys)}).encode()


# ------------------------------------------------------------------------------------------------- NRAS
@cache
def nras_chain(
    organisation: str = NVIDIA, until: float = NOW + 2 * DAY, leaf: str = "nras signer", ca: bool = True
) -> tuple[x509.Certificate, ...]:
    """Leaf, intermediate, root."""
    root = certificate(name_of("nras root"), key_of("nras root"), name_of("nras root"), key_of("nras root"), ca=True)
    middle = certificate(
        name_of("nras intermediate"), key_of("nras intermediate"), name_of("nras root"), key_of("nras root"), ca=ca
    )
    own = certificate(
        name_of(leaf, organisation),
        key_of(leaf),
        name_of("nras intermediate"),
        key_of("nras intermediate"),
        ca=False,
        since=NOW - 3600,
        until=until,
    )
    return own, middle, root


def nras_key_set(chain: Sequence[x509.Certificate] | None = None, **more: object) -> bytes:
    """The service's key set; by default with x5c of leaf and intermediate, as NVIDIA's."""
    return key_set(jwk_of(key_of("nras signer"), KID, nras_chain()[:2] if chain is None else chain, **more))


def nras_roots(*, place: int = 1) -> TrustRoots:
    """Pins the intermediate (1), or another certificate of the chain."""
    return TrustRoots((anchor("nvidia_nras", nras_chain()[place]),))


def pinned_set(vendor: str, jwks: bytes) -> TrustRoots:
    return TrustRoots((Anchor(vendor, "pinned key set", hashlib.sha256(jwks).hexdigest(), test=True),))


def times(issued: float = NOW - 5, life: float = 3600) -> dict[str, Any]:
    return {"iat": int(issued), "nbf": int(issued), "exp": int(issued + life)}


GOOD_CHAIN = {"x-nvidia-cert-status": "valid", "x-nvidia-cert-ocsp-status": "good"}


def device_claims(**more: Any) -> dict[str, Any]:
    """What the service says of a device that it found in order."""
    return {
        "iss": nras.ISSUER,
        "eat_nonce": NONCE,
        **times(),
        "hwmodel": "GH100 A01 GSP BROM",
        "ueid": "4781763",
        "secboot": True,
        "dbgstat": "disabled",
        "measres": "success",
        "x-nvidia-gpu-driver-version": "590.12",
        "x-nvidia-gpu-attestation-report-nonce-match": True,
        "x-nvidia-gpu-attestation-report-cert-chain": GOOD_CHAIN,
        "x-nvidia-attestation-warning": None,
        **more,
    }


def bundle(
    devices: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    alg: str = "ES384",
    kid: str = KID,
    key: object = None,
    submods: Any = None,
    device_header: Mapping[str, Any] | None = None,
    drop: str | None = None,
    device_key: object = None,
    **overall: Any,
) -> bytes:
    """A detached EAT bundle. `overall` are claims of the overall token, `drop` a device that is left out."""
    devices = {"GPU-0": device_claims()} if devices is None else devices
    key = key or key_of("nras signer")
    header = {"kid": kid, "alg": alg}
    texts = {n: token(device_header or header, claims, device_key or key) for n, claims in devices.items()}
    named = {n: ["DIGEST", ["SHA-256", hashlib.sha256(text.encode()).hexdigest()]] for n, text in texts.items()}
    claims = {
        "iss": nras.ISSUER,
        "eat_nonce": NONCE,
        **times(),
        "x-nvidia-ver": "3.0",
        "x-nvidia-overall-att-result": True,
        "submods": named if submods is None else submods,
        **overall,
    }
    claims = {name: value for name, value in claims.items() if value is not ...}
    return json.dumps([["JWT", token(header, claims, key)], {n: t for n, t in texts.items() if n != drop}]).encode()


# ------------------------------------------------------------------------------------------------- Confidential Space
@cache
def gcs_chain(length: int = 3, until: float = NOW + 60 * DAY) -> tuple[x509.Certificate, ...]:
    """Leaf, intermediates, root; the leaf has an RSA key."""
    line = ["gcs root", *(f"gcs intermediate {i}" for i in range(length - 2))]
    made = []
    for place, name in enumerate(line):
        above = line[max(place - 1, 0)]
        made.append(certificate(name_of(name), key_of(name), name_of(above), key_of(above), ca=True))
    leaf = certificate(name_of("gcs leaf"), rsa_key("gcs"), name_of(line[-1]), key_of(line[-1]), ca=False, until=until)
    return (leaf, *reversed(made))


def gcs_roots() -> TrustRoots:
    return TrustRoots((anchor("gcs", gcs_chain()[-1]),))


def gcs_claims(**more: Any) -> dict[str, Any]:
    claims = {
        "iss": gcs.ISSUER,
        "aud": AUDIENCE,
        **times(),
        "eat_nonce": NONCE,
        "secboot": True,
        "hwmodel": "GCP_INTEL_TDX",
        "swname": "CONFIDENTIAL_SPACE",
        "swversion": ["250800"],
        "dbgstat": "disabled-since-boot",
        "submods": {
            "confidential_space": {"support_attributes": ["LATEST", "STABLE", "USABLE"]},
            "container": {"image_digest": "sha256:" + "ab" * 32, "env": {}, "args": []},
            "gce": {"project_id": "p"},
        },
        "tdx": {"gcp_attester_tcb_status": "UpToDate"},
        **more,
    }
    return {name: value for name, value in claims.items() if value is not ...}


def gcs_token(
    chain: Sequence[x509.Certificate] | None = None, *, key: object = None, header: Mapping[str, Any] = {}, **more: Any
) -> bytes:
    x5c = [base64.b64encode(der_of(c)).decode() for c in (gcs_chain() if chain is None else chain)]
    full = {"alg": "RS256", "kid": "leaf", "typ": "JWT", "x5c": x5c, **header}
    return token(full, gcs_claims(**more), key or rsa_key("gcs")).encode()


# ------------------------------------------------------------------------------------------------- Azure
def maa_key_set() -> bytes:
    return key_set(jwk_of(rsa_key("maa"), "maa-1"))


def maa_claims(**more: Any) -> dict[str, Any]:
    claims = {
        "iss": PROVIDER,
        **times(life=8 * 3600),
        "x-ms-ver": "1.0",
        "x-ms-policy-hash": POLICY,
        "x-ms-runtime": {"client-payload": {"nonce": NONCE}},
        "x-ms-isolation-tee": {
            "x-ms-attestation-type": "sevsnpvm",
            "x-ms-compliance-status": "azure-compliant-cvm",
            "x-ms-sevsnpvm-is-debuggable": False,
            "x-ms-sevsnpvm-vmpl": 0,
            "x-ms-sevsnpvm-reportdata": "00" * 64,
            "x-ms-sevsnpvm-launchmeasurement": "03" * 48,
        },
        **more,
    }
    return {name: value for name, value in claims.items() if value is not ...}


def maa_token(*, key: object = None, header: Mapping[str, Any] = {}, **more: Any) -> bytes:
    full = {"alg": "RS256", "kid": "maa-1", "jku": f"{PROVIDER}/certs", **header}
    return token(full, maa_claims(**more), key or rsa_key("maa")).encode()


# ------------------------------------------------------------------------------------------------- long fuzzing
def seeds() -> list[bytes]:
    """One kind byte, then the item: an NRAS bundle, its key set, a Confidential Space token, an Azure token."""
    return [b"n" + _genuine(), b"k" + nras_key_set(), b"g" + gcs_token(), b"m" + maa_token()]


@cache
def _genuine() -> bytes:
    return bundle()  # its signatures are others each time


def run(data: bytes) -> None:
    """One input of the long fuzz target: only a result may come back, and only unaltered bytes are authentic."""
    kind, item = data[:1], data[1:]
    if kind == b"n":
        result = nras.verify_nras(item, nras_key_set(), roots=nras_roots(), now=NOW)
        unaltered = not result.claims.authentic or json.loads(item) == json.loads(_genuine())
    elif kind == b"k":
        result = nras.verify_nras(_genuine(), item, roots=nras_roots(), now=NOW)
        unaltered = not result.claims.authentic or result.claims.signer_chain == _signer_chain()
    elif kind == b"g":
        result = gcs.verify_gcs(item, roots=gcs_roots(), now=NOW, audience=AUDIENCE)
        unaltered = not result.claims.authentic or item in _tokens()
    else:
        jwks = maa_key_set()
        result = maa.verify_maa(item, jwks, roots=pinned_set("maa", jwks), now=NOW, issuer=PROVIDER)
        unaltered = not result.claims.authentic or item in _tokens()
    assert unaltered, "authentic, and nobody signed it"


@cache
def _tokens() -> frozenset[bytes]:
    return frozenset(seed[1:] for seed in seeds())


@cache
def _signer_chain() -> tuple[str, ...]:
    return nras.verify_nras(_genuine(), nras_key_set(), roots=nras_roots(), now=NOW).claims.signer_chain
