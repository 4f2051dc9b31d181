"""A result and what its evidence speaks for: one binding written into its claims, with the freshness that follows.

    result = tied(result, BindingRule.DSTACK, BindingInputs(signing_key=address, nonce=nonce))

The binding itself is `bindings`' answer. Where the evidence is bound, and would not be without the nonce, it was made
for that nonce, and is fresh by challenge; whether the nonce is the caller's own is the caller's to know.
"""

from __future__ import annotations

import hashlib

import msgspec

from gateway.crypto.certificates import der_of, load_certificate, load_pem_chain
from gateway.crypto.x509 import spki_sha256
from gateway.errors import FormatError
from gateway.model.tee import BindingStatus, Freshness, FreshnessClass, TeeClaims, TeeResult

from .bindings import BindingInputs, BindingRule, bind


def tied(result: TeeResult, rule: BindingRule, inputs: BindingInputs) -> TeeResult:
    """The result with the binding of its claims by `rule`. Total, as `bind` is."""
    claims = msgspec.structs.replace(result.claims, binding=bind(rule, result.claims, inputs))
    if claims.binding.status is BindingStatus.BOUND and _rests_on_nonce(rule, claims, inputs):
        claims = msgspec.structs.replace(claims, freshness=Freshness(FreshnessClass.CHALLENGE))
    return TeeResult(result.checks, claims)


def _rests_on_nonce(rule: BindingRule, claims: TeeClaims, inputs: BindingInputs) -> bool:
    without = msgspec.structs.replace(inputs, nonce=None, nonce_text=None)
    return bind(rule, claims, without).status is not BindingStatus.BOUND


def certificate_digests(data: bytes) -> tuple[bytes, bytes]:
    """SHA-256 of the certificate and of its SubjectPublicKeyInfo, from DER or from PEM whose first is the leaf.

    Raises `FormatError`.
    """
    chain = load_pem_chain(data) if b"-----BEGIN" in data else (load_certificate(data),)
    if not chain:
        raise FormatError("there is no certificate in it")
    der = der_of(chain[0])
    return hashlib.sha256(der).digest(), spki_sha256(der)
