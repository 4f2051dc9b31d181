"""The test network's attestation and registry keep the protocol, and lie as they are told to."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import ssl
from contextlib import closing

import pytest
from cryptography import x509
from opengradient_world import Network
from opengradient_world.chain import REGISTRY, TEE_REGISTERED
from world_kit import (
    INFO,
    OHTTP,
    active,
    ask,
    attested,
    call,
    eth_abi,
    keccak,
    rpc,
)

from gateway.verify.tee.nitro import verify_nitro


def test_the_key_page_names_the_key_and_attests_nothing(network: Network) -> None:
    """GET /signing-key holds the key's PEM, its id and the OHTTP configuration."""
    page = json.loads(ask(network.enclave.url, "/signing-key")[2])
    der = base64.b64decode("".join(page["public_key"].split("\n")[1:-2]))
    assert page["tee_id"] == "0x" + keccak(der).hex() == network.enclave.tee_id
    assert page["measurements"] is None


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
