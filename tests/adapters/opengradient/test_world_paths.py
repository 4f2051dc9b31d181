"""The test network's sealed and paid paths keep the protocol, and it starts and stops as it should."""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.serialization import load_der_public_key
from opengradient_world import FAULTS, Network
from opengradient_world.faults import Faults
from opengradient_world.network import TOKEN
from opengradient_world.payments import CAP, pay
from world_kit import (
    HELLO,
    active,
    ask,
    attested,
    canonical,
    direct,
    events,
    holds,
    keccak,
    opened,
    opened_chunks,
    rpc,
    sealed,
    text_of,
)


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
