"""Registry answers made by an independent encoder, and a compiled contract's own answers, read by ours."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from eth_abi import encode
from opengradient_world.evm import CHAIN_ID, Chain, Endpoint, serving

from adapters.opengradient.rpc import RpcClient
from adapters.opengradient.rpc_errors import NoContract, Reverted, RpcRejected
from gateway.errors import FormatError
from gateway.upstream.pool import UpstreamPool
from gateway.upstream.transport import control_client
from gateway.verify.opengradient import abi
from gateway.verify.opengradient.registry import decode_tees
from gateway.verify.opengradient.registry_calldata import calldata, selector

FOLDER = Path(__file__).parents[2].parent / "shared/vectors"
REGISTRY, CALLS = FOLDER / "opengradient/registry.json", FOLDER / "proofs/evm/registry_calls.json"
BINARY = FOLDER / "proofs/evm/NodeRegistry.bin"

pytestmark = pytest.mark.skipif(
    not (REGISTRY.is_file() and CALLS.is_file() and BINARY.is_file()), reason=f"the vectors are not at {FOLDER}"
)


def unhex(text: str) -> bytes:
    return bytes.fromhex(text[2:])


def listing() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(REGISTRY.read_text("utf-8"))["get_active_tees"]
    return found


def test_the_active_tees_are_read() -> None:
    """Ids, endpoints, measurements and OHTTP keys are those that the vectors state."""
    vector = listing()
    assert calldata("getActiveTEEs", 0) == unhex(vector["calldata"])
    found = decode_tees(unhex(vector["return_hex"]))
    shown = [
        {
            "tee_id": "0x" + tee.tee_id.hex(),
            "endpoint": tee.endpoint,
            "pcr_hash": "0x" + tee.pcr_hash.hex(),
            "ohttp": tee.ohttp is not None,
        }
        for tee in found.records
    ]
    assert (shown, found.refused) == (vector["decoded"], ())
    assert {tee.layout for tee in found.records} == {"tee-info-11"}


def test_no_active_tees_are_an_answer() -> None:
    """The empty list is read as that."""
    found = decode_tees(unhex(listing()["empty_return_hex"]))
    assert (found.records, found.refused) == ((), ())


def test_every_cut_of_the_answer_is_refused() -> None:
    """At any length but its own, the answer gives an error or fewer records."""
    data = unhex(listing()["return_hex"])
    whole = len(decode_tees(data).records)
    for length in range(len(data)):
        try:
            assert len(decode_tees(data[:length]).records) < whole
        except FormatError:
            continue


class Deployed:
    """The compiled contract on a chain of the test, with the nodes of the vectors."""

    def __init__(self, chain: Chain, endpoint: Endpoint, client: RpcClient) -> None:
        self.chain, self.endpoint, self.client = chain, endpoint, client
        self.address = chain.deploy(bytes.fromhex(BINARY.read_text("utf-8").strip()))


@pytest.fixture
async def deployed() -> AsyncIterator[Deployed]:
    chain, pool = Chain(), UpstreamPool()
    async with serving(chain) as endpoint, control_client(pool, allow_private=True) as http:
        yield Deployed(chain, endpoint, RpcClient(http, "a", endpoint.url, chain_id=CHAIN_ID))
        await pool.close()


def plainly(value: Any) -> Any:
    """As JSON holds it: bytes as hex, tuples as lists."""
    if isinstance(value, bytes):
        return "0x" + value.hex()
    return [plainly(item) for item in value] if isinstance(value, (tuple, list)) else value


def rows() -> list[dict[str, Any]]:
    return json.loads(CALLS.read_text("utf-8")) if CALLS.is_file() else []


@pytest.mark.parametrize("row", [row for row in rows() if "decoded" in row], ids=lambda row: row["note"])
def test_recorded_answers_are_decoded(row: dict[str, Any]) -> None:
    """What a node of the chain gave decodes to what the vectors state."""
    name, _, types = row["signature"].rstrip(")").partition("(")
    assert selector(name, tuple(types.split(","))) == unhex(row["data"])[:4]
    assert plainly(abi.decode(row["outputs"], unhex(row["result"]))) == row["decoded"]


async def test_a_compiled_contract_answers_alike(deployed: Deployed) -> None:
    """The contract, deployed and filled anew, gives the recorded answers but for its clock and its caller."""
    by_note = {row["note"]: row for row in rows()}
    nodes = [unhex(by_note[note]["data"])[4:] for note in ("active node", "deactivated node: active=false")]
    types = ["bytes32", "string", "bytes", "bytes32", "uint8"]
    register = selector("register", tuple(types))
    for note, node, kind in zip(("active node", "deactivated node: active=false"), nodes, (0, 0), strict=True):
        _, endpoint, key, pcr, *_ = by_note[note]["decoded"][0]
        values = [node, endpoint, unhex(key), unhex(pcr), kind]
        deployed.chain.send(deployed.address, register + encode(types, values))
    deployed.chain.send(deployed.address, selector("deactivate", ("bytes32",)) + nodes[1])
    at = deployed.chain.height
    for note, row in by_note.items():
        if "decoded" not in row:
            continue
        answer = await deployed.client.call(deployed.address, unhex(row["data"]), at)
        found = plainly(abi.decode(row["outputs"], answer))
        if row["signature"].startswith("getNode"):
            found[0][0], found[0][-2:] = row["decoded"][0][0], row["decoded"][0][-2:]  # who and when
        assert found == row["decoded"], note


async def test_what_is_no_answer_has_its_reason(deployed: Deployed) -> None:
    """An unknown node reverts with its text, an address without code is an error, and so is an unknown method."""
    by_note = {row["note"]: row for row in rows()}
    unknown = by_note["unknown node: revert"]
    with pytest.raises(Reverted) as caught:
        await deployed.client.call(deployed.address, unhex(unknown["data"]), deployed.chain.height)
    assert (caught.value.text, caught.value.data) == ("unknown node", unhex(unknown["error"]["data"]))
    with pytest.raises(NoContract):
        await deployed.client.call("0x" + "99" * 20, unhex(unknown["data"]), deployed.chain.height)
    with pytest.raises(RpcRejected) as rejected:
        await deployed.client._ask("eth_noSuch")
    assert (rejected.value.reason, rejected.value.rpc_code) == ("rpc_method_missing", -32601)
    with pytest.raises(NoContract):
        await deployed.client.code("0x" + "99" * 20, deployed.chain.height)
