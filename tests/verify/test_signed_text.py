"""The dstack family's signature object, and the exchange and key that it is held to."""

from __future__ import annotations

import hashlib
import json

import pytest
from tee_worlds.keys import ec_key

from gateway.crypto.algorithms import Alg
from gateway.crypto.signatures import Ed25519Signer
from gateway.errors import FormatError
from gateway.verify.preimages import Preimage, PreimageRule, preimage
from gateway.verify.signed_text import MAX_OBJECT, SignerKind, judge_signed_text, parse_signed_text

KEY, OTHER = ec_key("secp256k1"), ec_key("secp256k1", 4711)
EDWARDS = Ed25519Signer(b"\6" * 32)
REQUEST, RESPONSE, MODEL = b'{"model":"a:b"}', b"data: [DONE]\n\n", "a:b"


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def expected(
    rule: PreimageRule = PreimageRule.NEAR, request: bytes = REQUEST, response: bytes = RESPONSE, model: str = MODEL
) -> Preimage:
    return preimage(rule, request, response, {"model": model})


def signed(text: str, /, **changes: object) -> bytes:
    """A signature object of KEY over `text`, some members changed."""
    document = {
        "text": text,
        "signature": "0x" + KEY.personal_sign(text.encode()).hex(),
        "signing_address": "0x" + KEY.address.hex(),
        "signing_algo": "ecdsa",
    } | changes
    return json.dumps({name: value for name, value in document.items() if value is not None}).encode()


THREE = expected().message.decode()
TWO = expected(PreimageRule.DSTACK).message.decode()


@pytest.mark.parametrize("key", [KEY.address, KEY.raw, KEY.uncompressed])
@pytest.mark.parametrize(("rule", "text"), [(PreimageRule.NEAR, THREE), (PreimageRule.DSTACK, TWO)])
def test_genuine(key: bytes, rule: PreimageRule, text: str) -> None:
    """A text that follows from this exchange, signed by the key that evidence binds, is accepted."""
    assert judge_signed_text(parse_signed_text(signed(text)), expected(rule), key) is None


def test_genuine_ed25519() -> None:
    """The same with an Ed25519 key, whose signature is over the text itself; 0x may be left out."""
    changes = {
        "signature": EDWARDS.sign(TWO.encode()).hex(),
        "signing_address": EDWARDS.public_key.hex(),
        "signing_algo": "ed25519",
    }
    parsed = parse_signed_text(signed(TWO, **changes))
    assert parsed.alg is Alg.ED25519
    assert judge_signed_text(parsed, expected(PreimageRule.DSTACK), EDWARDS.public_key) is None
    assert judge_signed_text(parsed, expected(PreimageRule.DSTACK), KEY.address) == "signing_address_mismatch"
    assert judge_signed_text(parsed, expected(PreimageRule.ZERO_G), EDWARDS.public_key) == "signing_algo_mismatch"


@pytest.mark.parametrize(
    ("text", "against", "reason"),
    [
        (THREE, expected(request=b"other"), "request_hash_mismatch"),
        (THREE, expected(response=RESPONSE[:-1]), "response_hash_mismatch"),
        (THREE, expected(model="b:a"), "model_mismatch"),
        (THREE, expected(model="b"), "model_mismatch"),
        (TWO, expected(PreimageRule.DSTACK, request=b"other"), "request_hash_mismatch"),
        (TWO, expected(PreimageRule.DSTACK, response=b"other"), "response_hash_mismatch"),
        (TWO, expected(), "text_form_mismatch"),
        (THREE, expected(PreimageRule.DSTACK), "text_form_mismatch"),
        ("", expected(), "text_form_mismatch"),
        ("\ud800", expected(), "text_form_mismatch"),
        (sha(REQUEST), expected(PreimageRule.DSTACK), "text_form_mismatch"),
        (TWO.upper(), expected(PreimageRule.DSTACK), "request_hash_mismatch"),
        (TWO + " ", expected(PreimageRule.DSTACK), "response_hash_mismatch"),
    ],
)
def test_a_signed_text_of_another_exchange(text: str, against: Preimage, reason: str) -> None:
    """A genuine signature over other hashes, another model or another form is refused, and the part is named."""
    changes = {"signature": "0x" + "00" * 65} if text == "\ud800" else {}
    body = signed(text if not changes else "", **changes)
    parsed = parse_signed_text(body)
    if changes:
        parsed = type(parsed)(text, parsed.alg, parsed.signature, parsed.signer)
    assert judge_signed_text(parsed, against, KEY.address) == reason


@pytest.mark.parametrize("kind", [None, *SignerKind])
def test_who_signed(kind: SignerKind | None) -> None:
    """The kind of signer that the object names is kept, and changes nothing of what it has to prove."""
    parsed = parse_signed_text(signed(THREE, signature_kind=kind))
    assert parsed.kind is kind
    assert judge_signed_text(parsed, expected(), KEY.address) is None
    assert judge_signed_text(parsed, expected(), OTHER.address) == "signing_address_mismatch"


def test_the_bytes_are_compared_though_the_signature_holds() -> None:
    """A verifier that prints whether hashes match and goes on would accept this: the signature itself is genuine."""
    parsed = parse_signed_text(signed(f"{'0' * 64}:{'1' * 64}"))
    assert judge_signed_text(parsed, expected(PreimageRule.DSTACK), KEY.address) == "request_hash_mismatch"


def test_the_attestation_must_be_of_this_signer() -> None:
    """A genuine signature by a key that other evidence binds is refused, though the object names that key itself."""
    assert judge_signed_text(parse_signed_text(signed(THREE)), expected(), OTHER.address) == "signing_address_mismatch"
    assert judge_signed_text(parse_signed_text(signed(THREE)), expected(), OTHER.raw) == "signing_address_mismatch"
    assert judge_signed_text(parse_signed_text(signed(THREE)), expected(), KEY.compressed) == "signing_address_mismatch"
    assert judge_signed_text(parse_signed_text(signed(THREE)), expected(), b"") == "signing_address_mismatch"


def test_the_address_named_did_not_sign() -> None:
    """An object that names the attested address, signed by another key, is refused."""
    forged = signed(THREE, signature="0x" + OTHER.personal_sign(THREE.encode()).hex())
    for key in (KEY.address, KEY.raw):
        assert judge_signed_text(parse_signed_text(forged), expected(), key) == "signature_invalid"


@pytest.mark.parametrize("rule", [PreimageRule.ACI, PreimageRule.NILAI, PreimageRule.GONKA])
def test_rules_that_sign_no_text(rule: PreimageRule) -> None:
    """A preimage that is no text of this family is never matched by one."""
    strange = Preimage(rule, THREE.encode(), frozenset())
    assert judge_signed_text(parse_signed_text(signed(THREE)), strange, KEY.address) == "text_form_mismatch"


def test_a_refusal_is_no_signature() -> None:
    """An answer of 200 with an error code says that nobody signed; it is named, and never parsed as a signature."""
    body = json.dumps({**json.loads(signed(THREE)), "error_code": "STREAM_DISCONNECTED", "message": "…"}).encode()
    with pytest.raises(FormatError) as refused:
        parse_signed_text(body)
    assert refused.value.reason == "response_unsigned"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b'{"text":"a"}',
        signed(THREE) + b"x",
        signed("x" * MAX_OBJECT),
        signed(THREE, signing_algo="rsa"),
        signed(THREE, signing_algo="none"),
        signed(THREE, signing_algo=["ecdsa"]),
        signed(THREE, signing_algo=None),
        signed(THREE, signing_algo="ed25519"),
        signed(THREE, text=7),
        signed(THREE, text=None),
        signed(THREE, signature=None),
        signed(THREE, signature="0x"),
        signed(THREE, signature="0xzz"),
        signed(THREE, signature="0x0"),
        signed(THREE, signature=[1]),
        signed(THREE, signing_address=KEY.address.hex()[:-2]),
        signed(THREE, signing_address=KEY.raw.hex()),
        signed(THREE, signature_kind="somebody"),
        signed(THREE, signature_kind=["gateway"]),
        signed(THREE, signature_kind=""),
        b'{"text":"a","text":"b"}',
    ],
)
def test_what_is_no_signature_object(body: bytes) -> None:
    """Other shapes, algorithms, lengths and spellings are refused."""
    with pytest.raises(FormatError):
        parse_signed_text(body)
