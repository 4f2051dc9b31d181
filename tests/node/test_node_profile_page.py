"""The worked example of docs/node-profile.md, recomputed from the page's own bytes."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from node_kit import take_apart

from adapters.selfhosted.dishonest import MODES
from gateway.crypto.canonical import jcs
from gateway.crypto.signatures import Ed25519Signer, verify_ed25519
from gateway.testing.tee.machines import Gpu, NitroMachine, SnpMachine, TdxMachine
from gateway.verify import aci

PAGE = (Path(__file__).parents[2] / "docs/node-profile.md").read_text("utf-8")
KEY = Ed25519Signer(bytes([1]) * 32).public_key


def block(name: str) -> str:
    found = re.findall(rf"(?s)^```{name}\n(.*?)\n```$", PAGE, re.MULTILINE)
    assert len(found) == 1
    return str(found[0])


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_the_attestation_example() -> None:
    """Key, keyset, pin, statement, signature and report_data of the page belong together."""
    keyset = json.loads(block("keyset"))
    assert jcs(keyset).decode() == block("keyset")
    assert keyset["receipt_signing_keys"][0]["public_key"] == KEY.hex()
    assert KEY.hex() in PAGE.replace(block("keyset"), "")
    pin = aci.keyset_digest(keyset)
    assert f"the pin is `{pin}`" in PAGE
    statement, signature = block("statement").split("\n")
    nonce = json.loads(statement)["nonce"]
    assert aci.statement(pin, nonce).decode() == statement
    assert verify_ed25519(KEY, statement.encode(), bytes.fromhex(signature))
    assert f"`{aci.report_data(statement.encode()).hex()}`" in PAGE


def test_where_hardware_commits() -> None:
    """The page's offsets and slots are those at which evidence of each kind holds the page's report_data and nonce."""
    statement = block("statement").split("\n")[0].encode()
    nonce, data = bytes.fromhex(json.loads(statement)["nonce"]), aci.report_data(statement)
    places = {
        name: (int(a), int(b)) for name, a, b in re.findall(r"^\| `([\w-]+)` \|.* bytes (\d+) to (\d+)", PAGE, re.M)
    }
    assert sorted(places) == ["sev-snp", "tdx"]
    quote = bytes.fromhex(TdxMachine("page", 1.795e9).evidence(data, nonce, 1.795e9)["quote"])
    assert quote[slice(*places["tdx"])] == data
    keys = rsa.generate_private_key(65537, 2048), rsa.generate_private_key(65537, 2048)
    report = bytes.fromhex(SnpMachine("page", keys=keys).evidence(data, nonce, 1.795e9)["report"])
    assert (len(report), report[slice(*places["sev-snp"])]) == (1184, data)
    document = base64.b64decode(NitroMachine("page", 1.795e9).evidence(data, nonce, 1.795e9)["document"], validate=True)
    members = cbor2.loads(cbor2.loads(document)[2])
    assert (members["user_data"], members["nonce"]) == (data, nonce)
    assert f"accelerator's nonce is `{data[:32].hex()}`" in PAGE
    payload = Gpu("page").payload(data)
    assert base64.b64decode(payload["evidence_list"][0]["evidence"])[4:36] == data[:32]


def test_the_stream_example() -> None:
    """Digests, running signatures and receipt of the page's stream hold, from its bytes alone."""
    request = sha256(block("request").encode())
    assert f"has the digest `{request}`" in PAGE
    covered, links, sealed = take_apart(block("stream").encode() + b"\n\n")
    assert sealed is not None
    receipt = sealed.receipt
    assert verify_ed25519(KEY, sealed.signed, sealed.signature)
    assert receipt.body_hash("request.received") == f"sha256:{request}"
    assert receipt.body_hash("response.returned") == f"sha256:{sha256(covered)}"
    assert [link.k for link in links] == [1, 2]
    for link in links:
        assert f"`{link.digest}`" in PAGE
        message = aci.chain_message(
            receipt.receipt_id, receipt.request_nonce or "", request, receipt.model, link.k, link.digest
        )
        assert verify_ed25519(KEY, message, link.signature)
        if link.k == 1:
            assert message.decode() == block("chain") + "\n"
    assert aci.parse_receipt(block("receipt").encode()) == sealed


@pytest.mark.parametrize("mode", MODES)
def test_every_lie_is_described(mode: str) -> None:
    """The page has a row for each dishonest mode."""
    assert f"| `{mode}` |" in PAGE
