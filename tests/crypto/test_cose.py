"""COSE_Sign1: exact headers, the payload as it came, keys that go with the algorithm."""

from __future__ import annotations

import cbor2
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from tee_worlds.nitro import ec_key, sign1

from gateway.crypto import cose
from gateway.errors import FormatError

P384 = ec_key("cose 384")
P256 = ec_key("cose 256", ec.SECP256R1())
P521 = ec_key("cose 521", ec.SECP521R1())
ES256, ES384, ES512 = (bytes.fromhex(h) for h in ("a10126", "a1013822", "a1013823"))
ALL = ("ES256", "ES384", "ES512")
SUITES = {
    "ES256": (P256, ES256, hashes.SHA256()),
    "ES384": (P384, ES384, hashes.SHA384()),
    "ES512": (P521, ES512, hashes.SHA512()),
}


@pytest.mark.parametrize("alg", SUITES)
@pytest.mark.parametrize("tag", [None, 18])
@pytest.mark.parametrize("size", [1, 23, 24, 255, 256, 60000])
def test_a_message_verifies_under_its_key(alg: str, tag: int | None, size: int) -> None:
    """Each algorithm holds under its own key, tagged or not, whatever the payload's length."""
    key, protected, digest = SUITES[alg]
    payload = bytes(i % 251 for i in range(size))
    message = cose.read_sign1(sign1(key, payload, protected=protected, digest=digest, tag=tag), algs=ALL)
    assert (message.alg, message.payload, message.tagged) == (alg, payload, tag is not None)
    assert cose.verify_sign1(message, key.public_key())


@pytest.mark.parametrize("size", [0, 23, 24, 255, 256, 65535, 65536])
def test_what_is_signed_is_the_structure_of_the_specification(size: int) -> None:
    """Sig_structure is the CBOR array of RFC 9052 section 4.4, at every width of a length."""
    assert cose.sig_structure(ES384, bytes(size)) == cbor2.dumps(["Signature1", ES384, b"", bytes(size)])


def test_another_payload_key_or_signature_does_not_verify() -> None:
    """Nothing but the signed bytes under the signing key holds; a key on another curve is no match."""
    message = cose.read_sign1(sign1(P384, b"payload"))
    key = P384.public_key()
    other = cose.CoseSign1(message.protected, "ES384", b"payloae", message.signature, False)
    assert not cose.verify_sign1(other, key)
    assert not cose.verify_sign1(message, ec_key("another").public_key())
    assert not cose.verify_sign1(message, P256.public_key())
    assert not cose.verify_sign1(cose.CoseSign1(b"", "none", b"payload", message.signature, False), key)
    for zero in (bytes(96), bytes(48) + message.signature[48:], message.signature[:48] + bytes(48), b"\xff" * 96):
        assert not cose.verify_sign1(cose.CoseSign1(message.protected, "ES384", b"payload", zero, False), key)


def test_a_payload_is_not_written_again_before_it_is_checked() -> None:
    """A payload of indefinite length verifies as it came; its definite spelling is another payload."""
    payload = b"\xbf\x01\x02\xff"
    message = cose.read_sign1(sign1(P384, payload))
    assert cose.verify_sign1(message, P384.public_key())
    again = cbor2.dumps(cbor2.loads(payload))
    assert again != payload
    assert not cose.verify_sign1(cose.CoseSign1(ES384, "ES384", again, message.signature, False), P384.public_key())


GOOD = cbor2.loads(sign1(P384, b"payload"))


def changed(place: int, value: object) -> bytes:
    return cbor2.dumps([*GOOD[:place], value, *GOOD[place + 1 :]])


REFUSED = {
    "no array": (cbor2.dumps(b"x"), "cose_not_sign1"),
    "a map": (cbor2.dumps({0: 1, 1: 2, 2: 3, 3: 4}), "cose_not_sign1"),
    "three members": (cbor2.dumps(GOOD[:3]), "cose_not_sign1"),
    "five members": (cbor2.dumps([*GOOD, b""]), "cose_not_sign1"),
    "tag of COSE_Sign": (cbor2.dumps(cbor2.CBORTag(98, GOOD)), "cbor_tag"),
    "tagged twice": (b"\xd2\xd2" + cbor2.dumps(GOOD), "cbor_tag"),
    "detached payload": (changed(2, None), "cose_bad_types"),
    "payload as text": (changed(2, "payload"), "cose_bad_types"),
    "signature as an integer": (changed(3, 1), "cose_bad_types"),
    "protected header as a map": (changed(0, {1: -35}), "cose_bad_types"),
    "no algorithm": (changed(0, b""), "cose_bad_protected_header"),
    "empty map": (changed(0, b"\xa0"), "cose_bad_protected_header"),
    "ES256": (changed(0, ES256), "cose_bad_protected_header"),
    "HMAC": (changed(0, bytes.fromhex("a10105")), "cose_bad_protected_header"),
    "algorithm by name": (changed(0, cbor2.dumps({1: "ES384"})), "cose_bad_protected_header"),
    "one header more": (changed(0, cbor2.dumps({1: -35, 4: b"kid"})), "cose_bad_protected_header"),
    "algorithm in a longer spelling": (
        changed(0, bytes.fromhex("a101390022")),
        "cose_bad_protected_header",
    ),
    "algorithm unprotected": (changed(1, {1: -35}), "cose_unprotected_header"),
    "kid unprotected": (changed(1, {4: b"kid"}), "cose_unprotected_header"),
    "unprotected header as an array": (changed(1, []), "cose_unprotected_header"),
    "short signature": (changed(3, bytes(95)), "cose_bad_length"),
    "long signature": (changed(3, bytes(97)), "cose_bad_length"),
    "no payload": (changed(2, b""), "cose_bad_length"),
    "payload over the limit": (changed(2, bytes(101)), "cose_bad_length"),
    "trailing byte": (cbor2.dumps(GOOD) + b"\x00", "cbor_trailing_bytes"),
    "indefinite array": (b"\x9f" + cbor2.dumps(GOOD)[1:] + b"\xff", "cbor_indefinite"),
    "indefinite empty header": (cbor2.dumps(GOOD).replace(b"\xa0", b"\xbf\xff", 1), "cbor_indefinite"),
}


@pytest.mark.parametrize(("data", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_refuses(data: bytes, reason: str) -> None:
    """Each deviation from the one form is refused for its own reason."""
    with pytest.raises(FormatError) as refused:
        cose.read_sign1(data, max_payload=100)
    assert refused.value.reason == reason


def test_a_message_over_the_size_is_refused() -> None:
    """The size limit is looked at before anything else."""
    with pytest.raises(FormatError) as refused:
        cose.read_sign1(b"\xff" * 11, max_bytes=10)
    assert refused.value.reason == "cbor_too_big"
