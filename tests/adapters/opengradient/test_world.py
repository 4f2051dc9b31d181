"""The test network keeps the protocol, held with `cryptography`, `eth_abi` and pyhpke alone; each fault does what it says."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import http.client
import json
import ssl
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from cryptography.hazmat.primitives.serialization import load_der_public_key
from opengradient_world import FAULTS, Network
from opengradient_world.chain import REGISTRY, TEE_REGISTERED
from opengradient_world.faults import Faults
from opengradient_world.network import TOKEN
from opengradient_world.payments import CAP, pay
from pyhpke import AEADId, CipherSuite, KDFId, KEMId
from sha3 import keccak_256

from gateway.verify.tee.nitro import verify_nitro

eth_abi = pytest.importorskip("eth_abi")

HELLO = {"model": "gpt-4.1", "messages": [{"role": "user", "content": "Grüße 👋 \\ \u2028"}], "max_tokens": 64}
TOOLS = [{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}]
CALLING = {"model": "gpt-4.1", "messages": [{"role": "user", "content": "twice"}], "tools": TOOLS, "temperature": 1}
SUITE = CipherSuite.new(KEMId.DHKEM_X25519_HKDF_SHA256, KDFId.HKDF_SHA256, AEADId.CHACHA20_POLY1305)
INFO = "(address,address,string,bytes,bytes,bytes32,uint8,bool,uint256,uint256"
OHTTP = "(uint8,uint16,uint16,uint16,bytes,bytes,uint256"


@pytest.fixture(scope="module")
def shared() -> Iterator[Network]:
    with Network() as network:
        yield network


@pytest.fixture
def network(shared: Network) -> Iterator[Network]:
    """The one network, without faults before and after."""
    yield shared
    shared.faults.clear()
    shared.paid = False
    shared.enclave.profile = "v3"


def keccak(data: bytes) -> bytes:
    return keccak_256(data).digest()


def ask(url: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> tuple[int, Any, bytes]:
    """Status, headers and body of one request; GET without a body. TLS is not judged here."""
    host = url.partition("//")[2]
    if url.startswith("https"):
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection: Any = http.client.HTTPSConnection(host, timeout=10, context=context)
    else:
        connection = http.client.HTTPConnection(host, timeout=10)
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    with closing(connection):
        connection.request("GET" if data is None else "POST", path, data, headers or {})
        with connection.getresponse() as response:
            return response.status, response.headers, response.read()


def direct(network: Network, body: Any, path: str = "/v1/chat/completions", **headers: str) -> bytes:
    status, _, data = ask(network.enclave.url, path, body, headers)
    assert status == 200
    return data


def canonical(body: dict[str, Any], **defaults: Any) -> bytes:
    """The canonical form of a simple request, written by hand."""
    wanted = {**defaults, **{k: v for k, v in body.items() if k not in ("stream", "tool_choice")}}
    return json.dumps({**wanted, "temperature": float(wanted["temperature"])}, sort_keys=True).encode()


def holds(network: Network, signed: dict[str, Any], request: bytes, output: str) -> bool:
    """Whether the five members are a signature of the enclave over request, output and time."""
    asked, said = keccak(request), keccak(output.encode())
    assert signed["tee_id"] == "0x" + keccak(network.enclave.keys.spki).hex()
    if (signed["tee_request_hash"], signed["tee_output_hash"]) != (asked.hex(), said.hex()):
        return False
    message = keccak(asked + said + signed["tee_timestamp"].to_bytes(32, "big"))
    key = load_der_public_key(network.enclave.keys.spki)
    pss = padding.PSS(padding.MGF1(hashes.SHA256()), 32)
    try:
        key.verify(base64.b64decode(signed["tee_signature"], validate=True), message, pss, hashes.SHA256())  # type: ignore[union-attr, call-arg]
    except InvalidSignature:
        return False
    return True


def events(data: bytes) -> list[Any]:
    assert data.endswith(b"\n\n")
    frames = data[:-2].split(b"\n\n")
    assert all(frame.startswith(b"data: ") for frame in frames)
    return [None if frame == b"data: [DONE]" else json.loads(frame[6:]) for frame in frames]


def text_of(frames: list[Any]) -> str:
    return "".join(frame["choices"][0]["delta"].get("content", "") for frame in frames if frame)


# Answers


def test_a_chat_answer_is_signed_over_request_and_text(network: Network) -> None:
    """The signature holds over the canonical request, the text and the time, and the rest is OpenAI's form."""
    answer = json.loads(direct(network, HELLO))
    (choice,) = answer["choices"]
    assert holds(network, answer, canonical(HELLO, temperature=0), choice["message"]["content"])
    assert not holds(network, answer, canonical(HELLO, temperature=0), choice["message"]["content"] + " ")
    assert (answer["object"], answer["model"], choice["finish_reason"]) == ("chat.completion", "gpt-4.1", "stop")
    assert type(answer["tee_timestamp"]) is int
    assert direct(network, HELLO) != b""
    assert json.loads(direct(network, HELLO))["choices"] == answer["choices"]


def test_a_stream_is_signed_in_its_last_frame(network: Network) -> None:
    """Deltas without id or object, then one frame with the signature over their text, then the terminator."""
    *deltas, final, done = events(direct(network, {**HELLO, "stream": True}))
    assert done is None
    assert all(frame.keys() == {"choices", "model"} for frame in deltas)
    assert final["choices"] == [{"delta": {}, "index": 0, "finish_reason": "stop"}]
    assert holds(network, final, canonical(HELLO, temperature=0), text_of(deltas))


def test_a_completion_is_signed_with_its_defaults(network: Network) -> None:
    """A text completion that names neither has temperature 1.0 and 16 tokens in what is signed."""
    body = {"model": "gpt-4.1", "prompt": "echo: once upon"}
    answer = json.loads(direct(network, body, "/v1/completions"))
    (choice,) = answer["choices"]
    assert choice["text"] == "once upon"
    assert holds(network, answer, canonical(body, temperature=1, max_tokens=16), "once upon")


def test_tool_calls_are_what_is_signed(network: Network) -> None:
    """Whole or streamed, in one piece or in fragments, the output is the list of calls."""
    message = json.loads(direct(network, CALLING))
    calls = message["choices"][0]["message"]["tool_calls"]
    assert [json.loads(call["function"]["arguments"])["city"] for call in calls] == ["Zürich", "Bern"]
    assert holds(network, message, canonical(CALLING), json.dumps(calls, sort_keys=True))
    for model, fragments in (("gpt-4.1", 2), ("gemini-3.5-flash", 4)):
        *deltas, final, _ = events(direct(network, {**CALLING, "model": model, "stream": True}))
        assert len(deltas) == fragments
        built: dict[int, Any] = {}
        for frame in deltas:
            (piece,) = frame["choices"][0]["delta"]["tool_calls"]
            call = built.setdefault(piece.pop("index"), {"function": {"arguments": ""}})
            function = piece.pop("function")
            call.update(piece)
            function["arguments"] = call["function"]["arguments"] + function["arguments"]
            call["function"].update(function)
        assert list(built.values()) == calls
        assert holds(network, final, canonical({**CALLING, "model": model}), json.dumps(calls, sort_keys=True))


@pytest.mark.parametrize(
    ("profile", "content"),
    [
        ("v1", "[{'type': 'text', 'text': 'see'}, {'type': 'file', 'file': {'filename': 'a.pdf', 'file_data': 'AA'}}]"),
        ("v2", [{"type": "text", "text": "see"}, {"type": "file", "file": {"filename": "a.pdf", "file_data": "AA"}}]),
        ("v3", [{"type": "text", "text": "see"}, {"type": "file", "filename": "a.pdf"}]),
    ],
)
def test_a_list_of_parts_is_signed_as_the_build_does(network: Network, profile: str, content: Any) -> None:
    """v1 signs Python's text of the list, v2 the list, v3 the list without the files' bytes."""
    network.enclave.profile = profile
    parts = [{"type": "text", "text": "see"}, {"type": "file", "file": {"filename": "a.pdf", "file_data": "AA"}}]
    asked = {"model": "gpt-4.1", "messages": [{"role": "user", "content": parts}]}
    signed = {"model": "gpt-4.1", "messages": [{"role": "user", "content": content}]}
    answer = json.loads(direct(network, asked))
    assert holds(network, answer, canonical(signed, temperature=0), answer["choices"][0]["message"]["content"])


# What can be wrong with an answer


@pytest.mark.parametrize("fault", ["tamper", "wrongkey"])
@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_was_changed_does_not_hold(network: Network, fault: str, stream: bool) -> None:
    """Another text or another key: everything is there, and the signature does not hold."""
    network.faults.add(fault)
    for body in (HELLO, CALLING):
        data = direct(network, {**body, "stream": stream})
        frames = events(data) if stream else [json.loads(data)]
        signed = frames[-2] if stream else frames[0]
        if body is HELLO:
            output = text_of(frames) if stream else signed["choices"][0]["message"]["content"]
        else:
            calls = (
                [frame["choices"][0]["delta"]["tool_calls"][0] for frame in frames[:-2]]
                if stream
                else signed["choices"][0]["message"]["tool_calls"]
            )
            output = json.dumps([{k: call[k] for k in ("id", "type", "function")} for call in calls], sort_keys=True)
        assert not holds(network, signed, canonical({"temperature": 0, **body}), output)


@pytest.mark.parametrize(("fault", "shift"), [("stale", -7200), ("future", 900)])
def test_an_answer_of_another_time_is_signed_all_the_same(network: Network, fault: str, shift: int) -> None:
    """The signature holds, and its time is two hours ago or fifteen minutes ahead."""
    network.faults.add(fault)
    answer = json.loads(direct(network, HELLO))
    assert holds(network, answer, canonical(HELLO, temperature=0), answer["choices"][0]["message"]["content"])
    assert abs(answer["tee_timestamp"] - network.clock() - shift) < 30


def test_no_signature_is_no_member(network: Network) -> None:
    """Everything but the signature is there."""
    network.faults.add("nosig")
    answer = json.loads(direct(network, HELLO))
    assert "tee_signature" not in answer
    assert "tee_output_hash" in answer


def test_a_cut_answer_ends_early(network: Network) -> None:
    """A stream has no signature and no terminator; a body is shorter than it said."""
    network.faults.add("cut")
    frames = events(direct(network, {**HELLO, "stream": True}))
    assert frames
    assert all(frame is not None and "tee_signature" not in frame for frame in frames)
    with pytest.raises(http.client.IncompleteRead):
        ask(network.enclave.url, "/v1/chat/completions", HELLO)


def test_a_replayed_answer_is_the_first_one_again(network: Network) -> None:
    """The same bytes, valid signature included, for the same request and for no other."""
    first = direct(network, {**HELLO, "max_tokens": 7})
    assert direct(network, {**HELLO, "max_tokens": 7}) != first
    network.faults.add("replay")
    assert direct(network, {**HELLO, "max_tokens": 7}) == first
    assert direct(network, {**HELLO, "max_tokens": 8}) != first


@pytest.mark.parametrize("stream", [False, True])
def test_what_rides_along_is_not_signed(network: Network, stream: bool) -> None:
    """A tool call or a second choice stands beside a text whose signature holds."""
    for fault in ("unsigned_toolcall", "second_choice"):
        network.faults.clear()
        network.faults.add(fault)
        data = direct(network, {**HELLO, "stream": stream})
        if stream:
            *frames, signed, _ = events(data)
            extra = [f for f in frames if f["choices"][0]["index"] == 1 or "tool_calls" in f["choices"][0]["delta"]]
            output = text_of([f for f in frames if f not in extra])
        else:
            signed = json.loads(data)
            message = signed["choices"][0]["message"]
            extra = signed["choices"][1:] + message.get("tool_calls", [])
            output = message["content"]
        assert len(extra) == 1
        assert holds(network, signed, canonical(HELLO, temperature=0), output)


@pytest.mark.parametrize("stream", [False, True])
def test_a_promoted_text_is_a_call_that_nobody_made(network: Network, stream: bool) -> None:
    """What was signed as text is delivered as a tool call, and the signature holds over its list."""
    network.faults.add("promoted")
    data = direct(network, {**HELLO, "stream": stream})
    frames = events(data) if stream else [json.loads(data)]
    choice = frames[0]["choices"][0]
    (call,) = (choice["delta"] if stream else choice["message"])["tool_calls"]
    call.pop("index", None)
    assert call["function"]["name"] == "wire_money"
    signed = frames[-2] if stream else frames[0]
    assert holds(network, signed, canonical(HELLO, temperature=0), json.dumps([call], sort_keys=True))


def test_a_text_may_hold_the_terminator(network: Network) -> None:
    """`[DONE]` is a delta of its own, in an honest stream that ends with one terminator."""
    network.faults.add("done_in_text")
    *deltas, final, done = events(direct(network, {**HELLO, "stream": True}))
    assert done is None
    assert [frame["choices"][0]["delta"]["content"] for frame in deltas].count("[DONE]") == 3
    assert holds(network, final, canonical(HELLO, temperature=0), text_of(deltas))


def test_a_failing_provider_is_a_502_that_names_it(network: Network) -> None:
    """The gateway's error object says whose failure it is and whether to try again."""
    network.faults.add("err500")
    status, _, data = ask(network.enclave.url, "/v1/chat/completions", HELLO)
    error = json.loads(data)
    assert (status, error["source"], error["provider_status"], error["retryable"]) == (502, "provider", 500, True)


# Keys and attestation


def test_the_key_page_names_the_key_and_attests_nothing(network: Network) -> None:
    """GET /signing-key holds the key's PEM, its id and the OHTTP configuration."""
    page = json.loads(ask(network.enclave.url, "/signing-key")[2])
    der = base64.b64decode("".join(page["public_key"].split("\n")[1:-2]))
    assert page["tee_id"] == "0x" + keccak(der).hex() == network.enclave.tee_id
    assert page["measurements"] is None


def attested(network: Network, nonce: bytes = b"\x07" * 20) -> Any:
    status, headers, data = ask(network.enclave.url, f"/enclave/attestation?nonce={nonce.hex()}")
    assert (status, headers["content-type"]) == (200, "text/plain; charset=utf-8")
    document = base64.b64decode(data, validate=False)
    return verify_nitro(document, roots=network.nitro.roots, now=network.clock(), nonce=nonce, max_age_s=300).claims


def test_the_document_binds_certificate_and_key(network: Network) -> None:
    """It holds our nonce and the digests of the TLS certificate at the other end and of the signing key."""
    claims = attested(network)
    assert claims.authentic, claims.reject_detail
    leaf = ssl.PEM_cert_to_DER_cert(
        ssl.get_server_certificate(("127.0.0.1", int(network.enclave.url[-5:].lstrip(":"))))
    )
    halves = (hashlib.sha256(leaf).digest(), hashlib.sha256(network.enclave.keys.spki).digest())
    assert bytes.fromhex(claims.raw["user_data"]) == b"\x12\x20" + halves[0] + b"\x12\x20" + halves[1]
    assert x509.load_der_x509_certificate(leaf).subject.rfc4514_string() == "CN=localhost"


@pytest.mark.parametrize(
    ("fault", "code"), [("expired_attestation", "nitro_stale"), ("replayed_attestation", "nonce_mismatch")]
)
def test_a_document_of_another_time_is_genuine(network: Network, fault: str, code: str) -> None:
    """An hour old with our nonce, or of another nonce: genuine all the same."""
    assert attested(network).authentic
    network.faults.add(fault)
    assert attested(network, b"\x08" * 20).reject_code == code


@pytest.mark.parametrize("query", ["", "?nonce=", "?nonce=00", "?nonce=" + "zz" * 20, "?other=" + "00" * 20])
def test_a_nonce_has_forty_digits(network: Network, query: str) -> None:
    """nitriding refuses any other."""
    assert ask(network.enclave.url, "/enclave/attestation" + query)[0] == 400


def test_an_unknown_build_is_approved_and_differs() -> None:
    """The registry lists the measured hash of the unknown build, and it is not the known one."""
    with Network(["pcr_unknown"], rpcs=1) as network, Network(rpcs=0) as known:
        registers = [bytes.fromhex(attested(network).measurements[f"pcr{i}"]) for i in range(3)]
        (record,) = active(network)
        assert record[5] == keccak(b"".join(registers)) != known.enclave.pcr_hash
        assert record[5] in network.chain.approved


# The registry


def rpc(network: Network, method: str, *params: Any, endpoint: int = 0) -> Any:
    request = {"jsonrpc": "2.0", "id": 7, "method": method, "params": list(params)}
    status, _, data = ask(network.rpc_urls[endpoint], "/", request)
    answer = json.loads(data)
    assert (status, answer["id"]) == (200, 7)
    return answer.get("result", answer.get("error"))


def call(network: Network, data: str, types: list[str], endpoint: int = 0) -> Any:
    raw = rpc(network, "eth_call", {"to": REGISTRY, "data": "0x" + data}, "latest", endpoint=endpoint)
    return eth_abi.decode(types, bytes.fromhex(raw[2:]))


def active(network: Network, layout: str = f"{INFO},{OHTTP}))[]", endpoint: int = 0) -> Any:
    return call(network, "4b6014da" + "00" * 32, [layout], endpoint)[0]


def test_the_registry_lists_the_enclave(network: Network) -> None:
    """Selectors of the deployed contract; records, keys and settings decode with another decoder."""
    tee_id = keccak(network.enclave.keys.spki)
    (record,) = active(network)
    assert record[2:6] == (
        network.enclave.url,
        network.enclave.keys.spki,
        network.enclave.keys.tls_der,
        network.enclave.pcr_hash,
    )
    assert record[10][4] == network.enclave.keys.opener.public
    one = call(network, "418b207d" + tee_id.hex(), [f"{INFO},{OHTTP}))"])[0]
    assert one == record
    assert call(network, "63b86b89" + "00" * 32, ["bytes32[]"]) == ((tee_id,),)
    assert call(network, "b82644b7" + "00" * 32, ["bytes32[]"]) == ((tee_id,),)
    assert call(network, "4b6014da" + "00" * 31 + "01", [f"{INFO},{OHTTP}))[]"]) == ((),)
    for selector in ("a3bf31f1", "927d3c95"):
        assert call(network, selector + tee_id.hex(), ["bool"]) == (True,)
        assert call(network, selector + "00" * 32, ["bool"]) == (False,)
    assert call(network, "2cbe7552" + tee_id.hex(), ["bytes"]) == (network.enclave.keys.spki,)
    assert call(network, "87267aca", ["uint256"]) == (1800,)
    assert call(network, "9831ced5" + "00" * 32 + network.enclave.pcr_hash.hex(), ["bool"]) == (True,)
    assert (network.enclave.pcr_hash, 0) in call(network, "5766275a", ["(bytes32,uint8)[]"])[0]
    assert call(
        network, "2068b3db" + "00" * 32 + network.enclave.pcr_hash.hex(), ["bool", "uint8", "uint256", "string"]
    )[0]
    assert hashlib.sha256(call(network, "f44a0780", ["bytes"])[0]).hexdigest() == network.nitro.roots.anchors[0].sha256


def test_what_the_contract_does_not_have_reverts(network: Network) -> None:
    """Unknown functions and ids revert, another address has no code, unknown methods are said to be."""
    for data in ("0xdeadbeef", "0x418b207d" + "00" * 32):
        assert rpc(network, "eth_call", {"to": REGISTRY, "data": data}, "latest")["code"] == 3
    assert rpc(network, "eth_call", {"to": "0x" + "00" * 20, "data": "0x4b6014da"}, "latest") == "0x"
    assert rpc(network, "eth_getCode", REGISTRY, "latest") != "0x"
    assert rpc(network, "eth_getCode", "0x" + "00" * 20, "latest") == "0x"
    assert rpc(network, "eth_mine")["code"] == -32601
    batch = [{"jsonrpc": "2.0", "id": n, "method": "eth_chainId"} for n in (1, 2)]
    assert [one["result"] for one in json.loads(ask(network.rpc_urls[0], "/", batch)[2])] == [hex(10740)] * 2


def test_the_registration_stands_in_the_chain(network: Network) -> None:
    """Log, transaction, receipt and block lead to the calldata, whose document holds as of the block's time."""
    tee_id = "0x" + network.enclave.keys.tee_id.hex()
    wanted = {"fromBlock": "0x0", "toBlock": "latest", "address": REGISTRY, "topics": [TEE_REGISTERED, tee_id]}
    (log,) = rpc(network, "eth_getLogs", wanted)
    assert TEE_REGISTERED.startswith("0x97d0af70")
    assert TEE_REGISTERED.endswith("4931")
    assert rpc(network, "eth_getLogs", {**wanted, "topics": [TEE_REGISTERED, "0x" + "00" * 32]}) == []
    assert rpc(network, "eth_getLogs", {**wanted, "address": "0x" + "00" * 20}) == []
    assert rpc(network, "eth_getLogs", {**wanted, "topics": [None] * 4}) == []
    assert rpc(network, "eth_getLogs", {**wanted, "toBlock": "0x1"}) == []
    transaction = rpc(network, "eth_getTransactionByHash", log["transactionHash"])
    assert rpc(network, "eth_getTransactionByHash", "0x" + "00" * 32) is None
    receipt = rpc(network, "eth_getTransactionReceipt", log["transactionHash"])
    assert (receipt["status"], receipt["logs"]) == ("0x1", [log])
    block = rpc(network, "eth_getBlockByHash", log["blockHash"], False)
    assert block is None or block["number"] == log["blockNumber"]
    block = rpc(network, "eth_getBlockByNumber", log["blockNumber"], False)
    assert (block["hash"], block["transactions"]) == (log["blockHash"], [log["transactionHash"]])
    data = bytes.fromhex(transaction["input"][2:])
    assert data[:4].hex() == "15c9bdb4"
    document, spki, tls, _, endpoint, kind = eth_abi.decode(
        ["bytes", "bytes", "bytes", "address", "string", "uint8"], data[4:]
    )
    assert (spki, tls) == (network.enclave.keys.spki, network.enclave.keys.tls_der)
    assert (endpoint, kind) == (network.enclave.url, 0)
    then = int(block["timestamp"], 16)
    claims = verify_nitro(document, roots=network.nitro.roots, now=then, max_age_s=300, future_skew_s=60).claims
    assert claims.authentic, claims.reject_detail
    assert claims.nonce is None


def test_blocks_are_named_by_number_and_hash(network: Network) -> None:
    """The head's block is found by its number, its tag and its hash; there is none above it."""
    head = rpc(network, "eth_blockNumber")
    block = rpc(network, "eth_getBlockByNumber", head, False)
    assert rpc(network, "eth_getBlockByHash", block["hash"], False) == block
    assert abs(int(block["timestamp"], 16) - network.clock()) < 10
    assert int(rpc(network, "eth_getBlockByNumber", "latest", False)["number"], 16) >= int(head, 16)
    assert rpc(network, "eth_getBlockByNumber", hex(int(head, 16) + 1000), False) is None


@pytest.mark.parametrize("layout", ["tee-info-10", "registry-v2"])
def test_other_layouts_leave_the_record_shorter(layout: str) -> None:
    """Ten fields, and in the second contract the OHTTP configuration beside them."""
    with Network(layout=layout, rpcs=1) as network:
        (record,) = active(network, f"{INFO})[]")
        assert len(record) == 10
        if layout == "registry-v2":
            ((one,),) = call(network, "046c59d7" + "00" * 32, [f"(bytes32,{INFO}),{OHTTP},uint256))[]"])
            assert (one[0], one[1]) == (network.enclave.keys.tee_id, record)
            assert call(network, "abbf8f6a" + one[0].hex(), [f"{OHTTP},uint256)"]) == (one[2],)
        else:
            assert rpc(network, "eth_call", {"to": REGISTRY, "data": "0x046c59d7" + "00" * 32}, "latest")["code"] == 3


def test_an_enclave_without_ohttp_has_an_empty_configuration() -> None:
    """The eleventh field is there and names no key."""
    with Network(with_ohttp=False, rpcs=1) as network:
        assert active(network)[0][10] == (0, 0, 0, 0, b"", b"", 0)


def test_one_endpoint_lies_about_the_registry(network: Network) -> None:
    """Endpoint 0 lists an impostor, whose enclave answers under its own key and another root; the others do not."""
    honest = active(network)
    network.faults.add("lying_registry")
    (lie,) = active(network)
    assert active(network, endpoint=1) == active(network, endpoint=2) == honest
    assert lie[3] == network.impostor.keys.spki != honest[0][3]
    document = base64.b64decode(ask(lie[2], "/enclave/attestation?nonce=" + "00" * 20)[2])
    assert (
        verify_nitro(document, roots=network.nitro.roots, now=network.clock()).claims.reject_code
        == "nitro_untrusted_root"
    )


def test_a_changing_registry_never_says_the_same_twice(network: Network) -> None:
    """Two reads differ in nothing but the heartbeat."""
    network.faults.add("changing_registry")
    first, second = active(network)[0], active(network)[0]
    assert first[9] != second[9]
    assert first[:9] == second[:9]


def test_one_endpoint_is_of_another_chain(network: Network) -> None:
    """Endpoint 0 names chain 1, the others 10740."""
    network.faults.add("wrong_chain")
    assert [rpc(network, "eth_chainId", endpoint=n) for n in range(3)] == ["0x1", hex(10740), hex(10740)]


def test_one_endpoint_hangs_floods_or_redirects(network: Network) -> None:
    """Endpoint 0 does not answer in time, or with more than anyone reads, or with a place to go to."""
    network.faults.add("rpc_redirect")
    status, headers, _ = ask(network.rpc_urls[0], "/", {})
    assert (status, headers["location"]) == (307, network.rpc_urls[-1])
    network.faults.clear()
    network.faults.add("rpc_huge")
    assert len(ask(network.rpc_urls[0], "/", {})[2]) > 64 << 20
    network.faults.clear()
    network.faults.add("rpc_hang")
    connection = http.client.HTTPConnection(network.rpc_urls[0][7:], timeout=0.3)
    with closing(connection):
        connection.request("POST", "/", b"{}")
        with pytest.raises(TimeoutError):
            connection.getresponse()
    network.faults.clear()
    assert rpc(network, "eth_chainId") == hex(10740)


# Sealed requests


def sealed(network: Network, body: Any, **headers: str) -> tuple[int, Any, bytes, Any]:
    """One request through the relay; what opens its answer comes back with it."""
    config = json.loads(ask(network.enclave.url, "/v1/ohttp/config")[2])
    header = struct.pack(">BHHH", config["key_id"], config["kem_id"], config["kdf_id"], config["aead_id"])
    key = SUITE.kem.deserialize_public_key(bytes.fromhex(config["public_key"]))
    enc, context = SUITE.create_sender_context(key, info=b"message/bhttp request\0" + header)
    wire = header + enc + context.seal(json.dumps(body).encode())
    given = {
        "Content-Type": "message/ohttp-req",
        "X-TEE-ID": network.enclave.tee_id,
        "Authorization": f"Bearer {TOKEN}",
        **headers,
    }
    status, found, data = ask(network.relay_url, "/api/v1/chat/ohttp", wire, given)
    return status, found, data, (enc, context)


def response_keys(opener: Any, label: bytes, nonce: bytes) -> tuple[ChaCha20Poly1305, bytes]:
    enc, context = opener
    mac = hmac.HMAC(enc + nonce, hashes.SHA256())
    mac.update(context.export(label, 32))
    prk = mac.finalize()
    key, base = (HKDFExpand(hashes.SHA256(), n, info).derive(prk) for n, info in ((32, b"key"), (12, b"nonce")))
    return ChaCha20Poly1305(key), base


def opened(opener: Any, data: bytes) -> Any:
    key, base = response_keys(opener, b"message/bhttp response", data[:32])
    return json.loads(key.decrypt(base, data[32:], b""))


def opened_chunks(opener: Any, data: bytes) -> list[bytes]:
    key, base = response_keys(opener, b"message/bhttp chunked response", data[:32])
    chunks, at, counter = [], 32, 0
    while at < len(data):
        size = 1 << (data[at] >> 6)
        length = int.from_bytes(data[at : at + size], "big") & ((1 << (8 * size - 2)) - 1)
        at += size
        end = at + length if length else len(data)
        nonce = bytes(a ^ b for a, b in zip(base, counter.to_bytes(12, "big"), strict=True))
        chunks.append(key.decrypt(nonce, data[at:end], b"" if length else b"final"))
        at, counter = end, counter + 1
    return chunks


def test_the_key_configuration_is_signed(network: Network) -> None:
    """The hash is rebuilt from the numbers and the key, and the signing key signed it."""
    config = json.loads(ask(network.enclave.url, "/v1/ohttp/config")[2])
    public, blob = bytes.fromhex(config["public_key"]), base64.b64decode(config["key_config"])
    assert blob == bytes([config["key_id"]]) + b"\0\x20" + public + b"\0\x04\0\x01\0\x03"
    numbers = b"".join(config[name].to_bytes(32, "big") for name in ("key_id", "kem_id", "kdf_id", "aead_id"))
    domain = keccak(b"OPENGRADIENT_TEE_OHTTP_CONFIG_V1")
    assert domain.hex().startswith("ff122683")
    digest = keccak(domain + bytes.fromhex(config["tee_id"][2:]) + numbers + keccak(public) + keccak(blob))
    assert config["signature_hash"] == "0x" + digest.hex()
    key = load_der_public_key(network.enclave.keys.spki)
    pss = padding.PSS(padding.MGF1(hashes.SHA256()), 32)
    key.verify(base64.b64decode(config["signature"]), digest, pss, hashes.SHA256())  # type: ignore[union-attr, call-arg]


def test_a_sealed_answer_opens_for_its_request_alone(network: Network) -> None:
    """The relay carries what it cannot read, with the cost beside it; another context does not open it."""
    status, headers, data, opener = sealed(network, HELLO)
    assert (status, headers["content-type"]) == (200, "message/ohttp-res")
    assert headers["x-inference-cost-opg"].isdigit()
    answer = opened(opener, data)
    assert holds(network, answer, canonical(HELLO, temperature=0), answer["choices"][0]["message"]["content"])
    with pytest.raises(InvalidTag):
        opened(sealed(network, HELLO)[3], data)


def test_a_sealed_stream_is_one_chunk_an_event_and_says_its_end(network: Network) -> None:
    """The last chunk is marked; where the stream is cut, it is not there."""
    status, headers, data, opener = sealed(network, {**HELLO, "stream": True}, **{"X-OHTTP-Stream": "true"})
    assert (status, headers["content-type"]) == (200, "message/ohttp-chunked-res")
    chunks = opened_chunks(opener, data)
    *deltas, final, done = events(b"".join(chunks))
    assert done is None
    assert len(chunks) == len(deltas) + 2
    assert holds(network, final, canonical(HELLO, temperature=0), text_of(deltas))
    network.faults.add("cut")
    _, _, data, opener = sealed(network, {**HELLO, "stream": True})
    assert all(b"tee_signature" not in chunk for chunk in opened_chunks(opener, data))


def test_an_error_inside_is_sealed(network: Network) -> None:
    """The outer answer is 200, the inner one says 502."""
    network.faults.add("err500")
    status, _, data, opener = sealed(network, HELLO)
    inner = opened(opener, data)
    assert (status, inner["status"], inner["body"]["source"]) == (200, 502, "provider")


def test_the_relay_wants_its_token_a_known_enclave_and_a_sealed_request(network: Network) -> None:
    """Each of them missing is an answer of its own."""
    assert sealed(network, HELLO, Authorization="Bearer other")[0] == 401
    assert sealed(network, HELLO, **{"X-TEE-ID": "0x" + "00" * 32})[0] == 404
    assert sealed(network, HELLO, **{"Content-Type": "application/json"})[0] == 415
    network.faults.add("relay401")
    assert sealed(network, HELLO)[0] == 401


def test_a_restarted_enclave_has_other_keys_than_the_registry_lists() -> None:
    """New signing key, certificate and OHTTP key id; what is sealed to the listed key is refused as such."""
    with Network(rpcs=1) as network:
        header, old = network.enclave.keys.opener.header, network.enclave.keys
        wire = header + bytes(32 + 16 + 5)
        before = network.enclave.url
        network.call(network.rotate())
        assert network.enclave.url == before
        assert network.enclave.keys.tee_id != old.tee_id
        assert active(network)[0][3] == old.spki
        assert attested(network).authentic
        given = {
            "Content-Type": "message/ohttp-req",
            "X-TEE-ID": f"0x{old.tee_id.hex()}",
            "Authorization": f"Bearer {TOKEN}",
        }
        status, headers, _ = ask(network.relay_url, "/api/v1/chat/ohttp", wire, given)
        assert (status, headers["content-type"]) == (400, "application/problem+json")
    with Network(["key_rotated"], rpcs=0) as network:
        assert network.chain.tees[0].tee_id != network.enclave.keys.tee_id


# Payment


def test_the_direct_path_is_paid_once_and_goes_on_with_its_session(network: Network) -> None:
    """402 says what is accepted; a signed authorization is taken once; its session pays until the cap is spent."""
    network.paid = True
    status, headers, _ = ask(network.enclave.url, "/v1/chat/completions", HELLO)
    required = json.loads(base64.b64decode(headers["payment-required"], validate=True))
    (accepted,) = required["accepts"]
    assert (status, required["x402Version"], accepted["scheme"], accepted["amount"]) == (402, 2, "upto", str(CAP))
    payment = pay(b"\x11" * 32, required, network.clock())
    status, headers, _ = ask(network.enclave.url, "/v1/chat/completions", HELLO, {"PAYMENT-SIGNATURE": payment})
    receipt = json.loads(base64.b64decode(headers["payment-response"]))
    assert (status, receipt["success"], receipt["payer"]) == (200, True, network.till.payers[-1])
    session = {"X-Upto-Session": headers["x-upto-session"]}
    statuses = [ask(network.enclave.url, "/v1/chat/completions", HELLO, session)[0] for _ in range(10)]
    assert statuses == [200] * 9 + [402]
    assert ask(network.enclave.url, "/v1/chat/completions", HELLO, {"PAYMENT-SIGNATURE": payment})[0] == 402
    assert ask(network.enclave.url, "/v1/chat/completions", HELLO, {"X-Upto-Session": "guess"})[0] == 402


def test_a_payment_that_is_not_what_was_asked_is_not_taken(network: Network) -> None:
    """Another amount, payee, signature or form is refused, and says why."""
    network.paid = True
    required = network.till.required("/")
    good = json.loads(base64.b64decode(pay(b"\x11" * 32, required, network.clock())))
    permit = good["payload"]["permit2Authorization"]
    wrong = [
        {**permit, "permitted": {**permit["permitted"], "amount": "1"}},
        {**permit, "witness": {**permit["witness"], "to": "0x" + "01" * 20}},
        {**permit, "nonce": "5"},
        {**permit, "deadline": "5"},
        {**permit, "spender": "0x" + "01" * 20},
        {},
    ]
    payments: list[Any] = [{**good, "payload": {**good["payload"], "permit2Authorization": one}} for one in wrong]
    for signature in ("0x", "0x" + "00" * 65, "0x" + "11" * 64 + "1b"):
        payments.append({**good, "payload": {**good["payload"], "signature": signature}})
    for payment in [*payments, [], {**good, "x402Version": 1}]:
        header = base64.b64encode(json.dumps(payment).encode()).decode()
        status, _, data = ask(network.enclave.url, "/v1/chat/completions", HELLO, {"PAYMENT-SIGNATURE": header})
        assert status == 402
        assert json.loads(data)["error"] != "Payment required"
    assert ask(network.enclave.url, "/v1/chat/completions", HELLO, {"PAYMENT-SIGNATURE": "%"})[0] == 402


@pytest.mark.parametrize(
    ("fault", "member"), [("pay_too_much", "amount"), ("pay_other_asset", "asset"), ("pay_other_payee", "payTo")]
)
def test_a_dishonest_till_asks_for_something_else(network: Network, fault: str, member: str) -> None:
    """One term differs, and a client that signs whatever it is asked for pays it."""
    network.paid = True
    honest = network.till.required("/")["accepts"][0]
    network.faults.add(fault)
    required = network.till.required("/")
    assert {name for name in honest if honest[name] != required["accepts"][0][name]} == {member}
    payment = {"PAYMENT-SIGNATURE": pay(b"\x12" * 32, required, network.clock())}
    assert ask(network.enclave.url, "/v1/chat/completions", HELLO, payment)[0] == 200


def test_a_greedy_till_is_never_satisfied(network: Network) -> None:
    """Every payment is answered with the next 402."""
    network.paid = True
    network.faults.add("pay_forever")
    payment = {"PAYMENT-SIGNATURE": pay(b"\x13" * 32, network.till.required("/"), network.clock())}
    assert ask(network.enclave.url, "/v1/chat/completions", HELLO, payment)[0] == 402


# The network itself


def test_faults_are_known_by_name() -> None:
    """A misspelled fault raises when it is set and when it is asked for."""
    faults = Faults(["tamper"])
    assert "tamper" in faults
    assert "stale" not in faults
    for use in (lambda: faults.add("tampr"), lambda: "tampr" in faults, lambda: Faults(["tampr"])):
        with pytest.raises(KeyError):
            use()
    assert len(FAULTS) == 27


def test_every_request_is_heard_with_its_place(network: Network) -> None:
    """A test can see what was sent to whom."""
    network.heard.clear()
    direct(network, HELLO)
    rpc(network, "eth_chainId", endpoint=1)
    sealed(network, HELLO)
    assert [(place, request.path) for place, request in network.heard] == [
        ("enclave", "/v1/chat/completions"),
        ("rpc1", "/"),
        ("enclave", "/v1/ohttp/config"),
        ("relay", "/api/v1/chat/ohttp"),
    ]
    assert b"Gr" not in network.heard[-1][1].body


async def test_the_network_runs_in_a_tests_own_loop() -> None:
    """`async with` opens it here, and closes it."""
    async with Network(rpcs=1) as network:
        status, _, data = await asyncio.to_thread(ask, network.enclave.url, "/health")
        assert (status, json.loads(data)["tee_enabled"]) == (200, True)
    with pytest.raises(ConnectionRefusedError):
        await asyncio.to_thread(ask, network.enclave.url, "/health")


def test_it_starts_by_hand() -> None:
    """`python -m opengradient_world` says where everything is, and answers all of it on one port."""
    command = [sys.executable, "-m", "opengradient_world", "--port", "0", "--rpcs", "1", "--fault", "done_in_text"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as process:
        try:
            assert process.stdout is not None
            said = json.loads(process.stdout.readline())
            port = said["relay"]
            chain = {"jsonrpc": "2.0", "id": 1, "method": "eth_chainId", "params": []}
            assert json.loads(ask(port, "/", chain)[2])["result"] == hex(10740)
            answer = json.loads(ask(port, "/v1/chat/completions", HELLO)[2])
            assert (answer["tee_id"], "[DONE]" in answer["choices"][0]["message"]["content"]) == (said["tee_id"], True)
        finally:
            process.terminate()
