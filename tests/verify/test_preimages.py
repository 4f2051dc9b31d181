"""What each network's signature covers, byte for byte."""

from __future__ import annotations

import hashlib
import json

import pytest
from tee_worlds.keys import ec_key

from gateway.crypto.algorithms import Alg, verify
from gateway.crypto.canonical import jcs
from gateway.crypto.signatures import Ed25519Signer
from gateway.errors import FormatError
from gateway.verify import preimages
from gateway.verify.preimages import Covers, PreimageRule, algorithms, preimage

REQUEST = b'{"model":"m","messages":[]}'
RESPONSE = b'{"id":"chatcmpl-1","choices":[]}'
STREAM = b'data: {"a":1}\n\ndata: [DONE]\n\n'
BOTH = {Covers.REQUEST, Covers.RESPONSE}


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def receipt(**changes: object) -> tuple[str, bytes]:
    """A signed receipt of REQUEST and RESPONSE with some members changed, and the signer's key."""
    signer = Ed25519Signer(b"\5" * 32)
    document: dict[str, object] = {
        "api_version": "aci/1",
        "chat_id": "c",
        "endpoint": "/v1/chat/completions",
        "event_log": [
            {"type": "request.received", "body_hash": f"sha256:{sha(REQUEST)}"},
            {"type": "response.returned", "body_hash": f"sha256:{sha(RESPONSE)}"},
        ],
        "key_id": "k",
        "method": "POST",
        "model": "m",
        "receipt_id": "r",
        "served_at": 1,
        "workload_keyset_digest": "sha256:" + "0" * 64,
    } | changes
    return json.dumps(document | {"signature": signer.sign(jcs(document)).hex()}), signer.public_key


def test_the_registry_is_closed() -> None:
    """Every rule has its function, its algorithms and a row in the module's own list."""
    assert set(preimages._RULES) == set(PreimageRule)
    for rule in PreimageRule:
        assert algorithms(rule)
        assert f"    {rule} " in (preimages.__doc__ or ""), rule


@pytest.mark.parametrize("rule", [PreimageRule.DSTACK, PreimageRule.ZERO_G])
@pytest.mark.parametrize("body", [RESPONSE, STREAM, b"", b"\x1f\x8b\0\xff"])
def test_two_hashes(rule: PreimageRule, body: bytes) -> None:
    """The text is the hashes of both bodies as they crossed the wire, whatever bytes they are."""
    found = preimage(rule, REQUEST, body, {})
    assert found.message == f"{sha(REQUEST)}:{sha(body)}".encode()
    assert (found.rule, found.covers, found.byte_exact) == (rule, BOTH, True)


@pytest.mark.parametrize("cut", [STREAM[:-1], STREAM[:-2], STREAM + b"\n", STREAM.replace(b"data: [DONE]\n\n", b"")])
def test_a_stream_is_hashed_with_its_last_blank_line(cut: bytes) -> None:
    """A stream without its last line feeds, or with one more, is another response."""
    assert (
        preimage(PreimageRule.DSTACK, REQUEST, cut, {}).message
        != preimage(PreimageRule.DSTACK, REQUEST, STREAM, {}).message
    )


@pytest.mark.parametrize("model", ["m", "Qwen/Qwen3.5-122B-A10B", "with:colon", "é"])
def test_model_and_two_hashes(model: str) -> None:
    """The model that was asked for stands before the hashes, so a signature for another does not hold."""
    found = preimage(PreimageRule.NEAR, REQUEST, STREAM, {"model": model})
    assert found.message == f"{model}:{sha(REQUEST)}:{sha(STREAM)}".encode()
    assert found.covers == {*BOTH, Covers.MODEL}


@pytest.mark.parametrize("model", ["a" * 257, "line\nfeed", "\ud800", "\x1b[0m"])
def test_model_names_that_are_none(model: str) -> None:
    """Control characters, lone surrogates and floods are refused before they reach a signature."""
    with pytest.raises(FormatError):
        preimage(PreimageRule.NEAR, REQUEST, STREAM, {"model": model})


@pytest.mark.parametrize(
    ("rule", "params"),
    [
        (PreimageRule.NEAR, {}),
        (PreimageRule.NEAR, {"model": ""}),
        (PreimageRule.ACI, {"model": "m"}),
        (PreimageRule.ACI, {"receipt": receipt()[0]}),
        (PreimageRule.GONKA, {"timestamp": "1"}),
        (PreimageRule.GONKA, {"address": "gonka1qqqqqqqq"}),
    ],
)
def test_a_missing_parameter(rule: PreimageRule, params: dict[str, str]) -> None:
    """What a rule needs and was not given is named, and nothing is built."""
    with pytest.raises(FormatError) as refused:
        preimage(rule, REQUEST, RESPONSE, params)
    assert refused.value.reason == "input_missing"


def test_two_parts_leave_the_model_unbound() -> None:
    """A text of two hashes says nothing of the model, and the preimage says so."""
    assert Covers.MODEL not in preimage(PreimageRule.DSTACK, REQUEST, RESPONSE, {"model": "m"}).covers


def test_a_hash_of_the_callers_is_never_used() -> None:
    """The request's hash is of the bytes we sent: a text with a hash that another caller supplied is another text."""
    ours = preimage(PreimageRule.DSTACK, REQUEST, RESPONSE, {"request": sha(b"other"), "X-Request-Hash": sha(b"other")})
    assert ours.message.startswith(sha(REQUEST).encode())


@pytest.mark.parametrize(
    ("sent", "hashed"),
    [
        (b'{"a":1,"b":[1,2]}', b'{"a": 1, "b": [1, 2]}'),
        ('{"a":"é\U0001f600"}'.encode(), b'{"a": "\\u00e9\\ud83d\\ude00"}'),
        (b'{"a":0.10,"b":1e2,"c":1e-7,"d":-0.0}', b'{"a": 0.1, "b": 100.0, "c": 1e-07, "d": -0.0}'),
        (b'{"b":1,"a":2}', b'{"b": 1, "a": 2}'),
        (b'{"a":null,"b":true,"c":"/\\u2028"}', b'{"a": null, "b": true, "c": "/\\u2028"}'),
        (b'{"a": 1}\n', b'{"a": 1}'),
    ],
)
def test_python_json(sent: bytes, hashed: bytes) -> None:
    """The response is hashed as Python writes its document, and a match proves the document alone."""
    found = preimage(PreimageRule.PHALA_JSON, REQUEST, sent, {})
    assert found.message == f"{sha(REQUEST)}:{sha(hashed)}".encode()
    assert found.byte_exact is False


@pytest.mark.parametrize("sent", [b"", b"{", STREAM, b'{"a":1,"a":2}', b'{"a":NaN}', b"[" * 100, b'{"a":"\\ud800"}'])
def test_python_json_of_what_is_none(sent: bytes) -> None:
    """A stream, or JSON that readers understand in more than one way, has no such preimage."""
    with pytest.raises(FormatError):
        preimage(PreimageRule.PHALA_JSON, REQUEST, sent, {})


def test_nilai_end_to_end() -> None:
    """A response that was signed with an empty signature member verifies once the member is emptied again."""
    key = ec_key("secp256k1")
    unsigned = (
        '{"id":"1","choices":[{"text":"a \\"signature\\":\\"x\\" é","logprob":-0.5}],"signature":"","n":1}'.encode()
    )
    signature = key.sign_der(unsigned)
    sent = unsigned.replace(b',"signature":""', b',"signature":"' + signature.hex().encode() + b'"')
    found = preimage(PreimageRule.NILAI, REQUEST, sent, {})
    assert found.message == unsigned
    assert found.covers == {Covers.RESPONSE}
    (alg,) = algorithms(PreimageRule.NILAI)
    assert verify(key.compressed, alg, found.message, signature)
    changed = preimage(PreimageRule.NILAI, REQUEST, sent.replace(b"-0.5", b"-0.50"), {})
    assert not verify(key.compressed, alg, changed.message, signature)


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"[]",
        b'"signature"',
        b'{"a":1}',
        b'{"signature":1}',
        b'{"signature":null}',
        b'{"signature": "spaced"}',
        b'{"a":{"signature":"inner"}}',
        b'{"a":{"signature":"inner"},"signature": "spaced"}',
        b'{"a":{"signature":"inner"},"signature":"outer"}',
        b'{"a":{"signature":"inner"},"s\\u0069gnature":"outer"}',
        b'{"signature":"a","signature":"b"}',
        b'{"signature":"\\u0041"}',
    ],
)
def test_nilai_of_what_is_none(sent: bytes) -> None:
    """Not exactly one compact signature member of the document itself, and there is no preimage."""
    with pytest.raises(FormatError):
        preimage(PreimageRule.NILAI, REQUEST, sent, {})


def test_aci_end_to_end() -> None:
    """A receipt's own signed form is the preimage, once its hashes and model are those of this exchange."""
    text, key = receipt()
    found = preimage(PreimageRule.ACI, REQUEST, RESPONSE, {"model": "m", "receipt": text})
    assert found.covers == {*BOTH, Covers.MODEL}
    document = json.loads(text)
    assert verify(key, Alg.ED25519, found.message, bytes.fromhex(document.pop("signature")))
    assert found.message == jcs(document)


@pytest.mark.parametrize(
    ("request_", "response", "model", "reason"),
    [
        (REQUEST + b" ", RESPONSE, "m", "request_hash_mismatch"),
        (REQUEST, RESPONSE + b" ", "m", "response_hash_mismatch"),
        (REQUEST, RESPONSE, "other", "model_mismatch"),
    ],
)
def test_aci_receipt_of_another_exchange(request_: bytes, response: bytes, model: str, reason: str) -> None:
    """A genuine receipt of other bytes or another model is refused by name."""
    with pytest.raises(FormatError) as refused:
        preimage(PreimageRule.ACI, request_, response, {"model": model, "receipt": receipt()[0]})
    assert refused.value.reason == reason


@pytest.mark.parametrize("text", ["{}", "\ud800", "x" * 70_000, receipt(event_log=[])[0]])
def test_aci_receipt_that_is_none(text: str) -> None:
    """What is no receipt has no preimage."""
    with pytest.raises(FormatError):
        preimage(PreimageRule.ACI, REQUEST, RESPONSE, {"model": "m", "receipt": text})


def test_gonka_end_to_end() -> None:
    """The executor's signature covers the request, a time and an address: never the response."""
    key = ec_key("secp256k1")
    params = {"timestamp": "1756168926123456789", "address": "gonka1" + "q" * 38}
    found = preimage(PreimageRule.GONKA, REQUEST, RESPONSE, params)
    assert found.message == f"{sha(REQUEST)}{params['timestamp']}{params['address']}".encode()
    assert found.message == preimage(PreimageRule.GONKA, REQUEST, b"another", params).message
    assert found.covers == {Covers.REQUEST}
    (alg,) = algorithms(PreimageRule.GONKA)
    r, s, _ = key.numbers(hashlib.sha256(found.message).digest())
    low = min(s, key.curve.order - s)
    assert verify(key.compressed, alg, found.message, key.fixed(r, low))
    assert not verify(key.compressed, alg, found.message, key.fixed(r, key.curve.order - low))


@pytest.mark.parametrize(
    ("timestamp", "address"),
    [("01", "gonka1qqqqqqqq"), ("-1", "gonka1qqqqqqqq"), ("1e3", "gonka1qqqqqqqq"), ("1", "1gonka1qqqqqqqq"), ("1", "Gonka1qqqqqqqq"), ("1", "g"), ("٣", "gonka1qqqqqqqq")],
)  # fmt: skip
def test_gonka_values_that_run_together(timestamp: str, address: str) -> None:
    """A time that is no plain number, or an address that begins with a digit, could be split in two ways."""
    with pytest.raises(FormatError):
        preimage(PreimageRule.GONKA, REQUEST, RESPONSE, {"timestamp": timestamp, "address": address})
