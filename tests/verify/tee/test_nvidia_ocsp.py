"""OCSP answers as collateral of a device's chain."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from tee_worlds import nvidia as w
from tee_worlds.tokens import rsa_key

from gateway.model.tee import TeeResult
from gateway.model.verdict import Check
from gateway.verify.tee.findings import NotAuthentic
from gateway.verify.tee.nvidia_gpu import verify_spdm
from gateway.verify.tee.ocsp import covered

CHAIN = w.device_chain()
REVOKED, UNKNOWN = ocsp.OCSPCertStatus.REVOKED, ocsp.OCSPCertStatus.UNKNOWN
GOOD = [w.ocsp_response(CHAIN, place) for place in range(4)]
PLAIN_KEY = w.key_of("ocsp")
ED_KEY = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32))


def verify(responses: list[bytes]) -> tuple[TeeResult, Check]:
    result = verify_spdm(w.report(), w.pem_of(CHAIN), roots=w.roots(), now=w.NOW, ocsp=responses)
    return result, next(check for check in result.checks if check.id == "tee_revocation")


def delegated(key: object, *, signing: object = None, **more: Any) -> bytes:
    return w.ocsp_response(CHAIN, responder=w.responder(key, **more), responder_key=signing or key)


def test_a_chain_that_is_covered() -> None:
    """Every certificate that NVIDIA issued has an answer: the check holds and the claims name them."""
    result, check = verify(GOOD)
    assert (check.outcome.value, result.claims.revocation.ocsp) == ("affirming", "ok")


def test_nobody_answers_for_the_leaf() -> None:
    """The device's boot ROM made it, and NVIDIA's responder does not know it: it is not waited for. It still counts."""
    result, check = verify(GOOD[1:])
    assert (check.outcome.value, check.found) == ("affirming", "3 of 3 certificates good")
    assert (result.claims.revocation.ocsp, len(result.claims.revocation.checked)) == ("ok", 3)
    revoked, _ = verify([*GOOD[1:], w.ocsp_response(CHAIN, status=REVOKED)])
    assert revoked.claims.reject_code == "ocsp_revoked"


@pytest.mark.parametrize("count", [1, 3])
def test_one_certificate_left_open_is_a_chain_left_open(count: int) -> None:
    """The check is none, the device stays authentic, and what was looked at is listed."""
    result, check = verify(GOOD[:count])
    assert (check.outcome.value, check.reason) == ("none", "ocsp_incomplete")
    assert (result.claims.authentic, result.claims.revocation.ocsp) == (True, "absent")
    assert len(result.claims.revocation.checked) == count


@pytest.mark.parametrize(
    "response",
    [
        delegated(PLAIN_KEY),
        delegated(rsa_key("ocsp")),
        w.ocsp_response(CHAIN, id_digest=hashes.SHA256()),
        w.ocsp_response(CHAIN, digest=hashes.SHA256()),
    ],
    ids=["responder", "RSA responder", "SHA-256 ids", "SHA-256 signature"],
)
def test_answers_that_hold(response: bytes) -> None:
    """Of the issuer, or of a responder that it certified for this."""
    assert covered([response], CHAIN, w.NOW) == {0: w.NOW + w.DAY}


def test_pitfall_a_certificate_on_hold_verifies_offline() -> None:
    """Signature and chain of a device on certificateHold are genuine; only the answer tells, and it is decisive."""
    assert verify([])[0].claims.authentic
    result, check = verify([*GOOD[1:], w.ocsp_response(CHAIN, status=REVOKED)])
    assert (result.claims.reject_code, check.outcome.value) == ("ocsp_revoked", "contraindicated")


@pytest.mark.parametrize(
    ("reason", "response"),
    [
        ("ocsp_malformed", b""),
        ("ocsp_malformed", GOOD[0][:-1]),
        ("ocsp_malformed", bytes(70_000)),
        (
            "ocsp_malformed",
            ocsp.OCSPResponseBuilder.build_unsuccessful(ocsp.OCSPResponseStatus.TRY_LATER).public_bytes(Encoding.DER),
        ),
        ("ocsp_malformed", GOOD[0].replace(bytes.fromhex("2b0e03021a"), bytes.fromhex("2b0e03027f"))),
        ("ocsp_bad_signature", delegated(ED_KEY)),
        ("ocsp_unknown", w.ocsp_response(CHAIN, status=UNKNOWN)),
        ("ocsp_stale", w.ocsp_response(CHAIN, until=w.NOW - 1)),
        ("ocsp_stale", w.ocsp_response(CHAIN, since=w.NOW + 600)),
        ("ocsp_stale", w.ocsp_response(CHAIN, until=None)),
        ("ocsp_foreign", w.ocsp_response(w.device_chain("GH100 B", serial="device 2"))),
        ("ocsp_bad_signature", w.ocsp_response(CHAIN, issuer_key="somebody")),
        ("ocsp_bad_signature", delegated(PLAIN_KEY, usage=False)),
        ("ocsp_bad_signature", delegated(PLAIN_KEY, until=w.NOW - 1)),
        ("ocsp_bad_signature", delegated(PLAIN_KEY, by="device root")),
        ("ocsp_bad_signature", delegated(PLAIN_KEY, signing=w.key_of("somebody"))),
        ("ocsp_bad_signature", delegated(PLAIN_KEY, signing=rsa_key("ocsp"))),
        ("ocsp_bad_signature", w.ocsp_response(CHAIN, responder=w.responder(ED_KEY), responder_key=PLAIN_KEY)),
    ],
)
def test_answers_that_do_not_hold(reason: str, response: bytes) -> None:
    """Malformed, foreign, stale, unsigned or not good: each under its own code."""
    with pytest.raises(NotAuthentic) as refused:
        covered([response], CHAIN, w.NOW)
    assert refused.value.reason == reason


def test_too_many_answers() -> None:
    """The number is bounded before any is read."""
    with pytest.raises(NotAuthentic):
        covered([b""] * 33, CHAIN, w.NOW)


@pytest.mark.parametrize("key", [rsa_key("issuer"), ED_KEY], ids=["RSA", "Ed25519"])
def test_an_issuer_with_another_kind_of_key(key: object) -> None:
    """An RSA issuer's answer holds; one whose key this does not know is about nobody."""
    digest = hashes.SHA256()
    signing = key
    root = self_signed(signing)
    leaf = w.certificate(w.name_of("leaf"), PLAIN_KEY, root.subject, w.key_of("x"), ca=False)
    is_rsa = key is not ED_KEY
    answer = w.ocsp_response((leaf, root), responder_key=signing if is_rsa else PLAIN_KEY, digest=digest)
    if is_rsa:
        assert covered([answer], (leaf, root), w.NOW) == {0: w.NOW + w.DAY}
    else:
        with pytest.raises(NotAuthentic) as refused:
            covered([answer], (leaf, root), w.NOW)
        assert refused.value.reason == "ocsp_foreign"


def self_signed(key: object) -> x509.Certificate:
    name = w.name_of("other root")
    return w.certificate(name, key, name, w.key_of("x"), ca=True)


def test_pitfall_a_response_with_many_certificates() -> None:
    """How many certificates come along is signed by nobody, so a genuine answer can be made to cost any time."""
    responder = w.responder(PLAIN_KEY)
    for count, expected in ((3, None), (4, "ocsp_malformed")):
        own = w.ocsp_response(CHAIN, responder=responder, more=[responder] * count, responder_key=PLAIN_KEY)
        result, _ = verify([own])
        assert result.claims.reject_code == expected
