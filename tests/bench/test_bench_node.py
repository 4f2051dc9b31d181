"""The benchmark's node is a real node of the profile: everything it signs verifies with the gateway's own functions."""

from __future__ import annotations

import hashlib
import json
import pathlib
import subprocess
import urllib.request
from collections.abc import Iterator

import pytest
import support_bench

from gateway.crypto.signatures import verify_ed25519
from gateway.verify.aci import chain_message, decode_inline, parse_chain, parse_receipt, parse_report, statement

ROOT = pathlib.Path(__file__).resolve().parents[2]
NONCE = bytes(range(32)).hex()


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict]:
    support_bench.build()
    seed = tmp_path_factory.mktemp("node") / "seed"
    seed.write_bytes(bytes(range(32)))
    command = [str(ROOT / "bench/bin/node"), "--seed", str(seed), "--chunks", "5", "--interval-us", "500"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        yield json.loads(process.stdout.readline())
        process.terminate()


def ask(node: dict, body: dict | None = None, path: str = "/v1/chat/completions", **headers: str):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(node["url"] + path, data, {k.replace("_", "-"): v for k, v in headers.items()})
    with urllib.request.urlopen(request, timeout=5) as answer:
        return data, answer.headers, answer.read()


def report(node: dict):
    return parse_report(ask(node, path=f"/v1/aci/attestation?nonce={NONCE}")[2])


def test_the_attestation_binds_the_keyset_and_the_nonce(node: dict) -> None:
    """The pin of the ready line is the keyset's digest, and the statement is signed by its first key."""
    found = report(node)
    said = statement(found.keyset.digest, NONCE)
    assert found.keyset.digest == found.stated_digest == node["pin"]
    assert found.report_data == hashlib.sha256(said).digest() + bytes(32)
    assert found.evidence["statement"].encode() == said
    assert verify_ed25519(found.keyset.keys[0].public_key, said, bytes.fromhex(found.evidence["signature"]))


@pytest.mark.parametrize("filler", [0, 1, 40, 55, 56, 63, 64, 100, 34_000])
def test_the_inline_receipt_signs_request_and_answer(node: dict, filler: int) -> None:
    """For bodies of every length around a hash block, the receipt's digests are those of the bytes on the wire."""
    key = report(node).keyset.keys[0].public_key
    asked, headers, answered = ask(node, {"model": "m", "x": "y" * filler}, x_aci_nonce=NONCE, x_aci_inline="1")
    inline = decode_inline(headers["x-aci-receipt"].encode())
    signed = parse_receipt(inline)
    assert verify_ed25519(key, signed.signed, signed.signature)
    assert signed.receipt.body_hash("request.received") == "sha256:" + hashlib.sha256(asked).hexdigest()
    assert signed.receipt.body_hash("response.returned") == "sha256:" + hashlib.sha256(answered).hexdigest()
    assert signed.receipt.request_nonce == NONCE
    assert signed.receipt.chat_id == json.loads(answered)["id"]
    assert signed.receipt.receipt_id == headers["x-receipt-id"]
    assert ask(node, path="/v1/aci/receipts/" + signed.receipt.receipt_id)[2] == inline


@pytest.mark.parametrize("chained", [False, True])
def test_a_stream_is_covered_to_its_last_byte(node: dict, chained: bool) -> None:
    """Every chain signature covers what went before it, and the receipt everything but comments and itself."""
    key = report(node).keyset.keys[0].public_key
    extra = {"x_aci_chained": "1"} if chained else {}
    asked, _, body = ask(node, {"model": "m", "stream": True}, x_aci_nonce=NONCE, x_aci_inline="1", **extra)
    covered, chains, receipt = b"", [], None
    for block in body.split(b"\n\n")[:-1]:
        if block.startswith(b": "):
            chains.append((parse_chain(block[2:]), hashlib.sha256(covered).hexdigest()))
        elif block.startswith(b"event: aci.receipt\ndata: "):
            receipt = parse_receipt(decode_inline(block.split(b"data: ")[1]))
        else:
            covered += block + b"\n\n"
    assert receipt is not None
    assert covered.endswith(b"data: [DONE]\n\n")
    assert verify_ed25519(key, receipt.signed, receipt.signature)
    assert receipt.receipt.body_hash("response.returned") == "sha256:" + hashlib.sha256(covered).hexdigest()
    assert len(chains) == (6 if chained else 0)
    for k, ((number, signature), digest) in enumerate(chains, 1):
        sha = hashlib.sha256(asked).hexdigest()
        message = chain_message(receipt.receipt.receipt_id, NONCE, sha, "m", k, digest)
        assert number == k
        assert verify_ed25519(key, message, signature)
    if chains:
        assert chains[-1][1] == hashlib.sha256(covered).hexdigest()
