"""The test network hashes, signs and seals as the recorded OpenGradient cases do."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from opengradient_world.abi import TEE_11, encode, selector
from opengradient_world.sealing import Opener, Refused
from opengradient_world.wire import PROFILES, PSS, canonical_chat, canonical_completion, hashed_text, keccak, u256

FOLDER = Path(__file__).parents[2].parent / "shared/vectors/opengradient"
READ = ("responses", "ohttp", "registry", "keys")
FILES: dict[str, Any] = {}
if FOLDER.is_dir():
    FILES = {name: json.loads((FOLDER / f"{name}.json").read_bytes()) for name in READ}

pytestmark = pytest.mark.skipif(not FILES, reason=f"the OpenGradient vectors are not at {FOLDER}")
eth_abi = pytest.importorskip("eth_abi")

RESPONSES = FILES.get("responses", {}).get("cases", [])


def signed_for_another(case: dict[str, Any]) -> bool:
    """Whether the case is that another request than the one that was sent was signed."""
    return case["expect"].get("reason") == "request_hash_mismatch"


@pytest.mark.parametrize("case", RESPONSES, ids=lambda case: case["name"])
def test_requests_are_hashed_as_recorded(case: dict[str, Any]) -> None:
    """The canonical text and its hash are the recorded ones; where another request was signed, they are not."""
    body, signed = case["request_body"], case["signed"]
    if case["surface"] == "web_search":
        text = json.dumps(body, sort_keys=True).encode()
    elif case["surface"] == "completion":
        text = hashed_text(canonical_completion(body))
    else:
        assert signed["canonicalization_profile"] in PROFILES
        text = hashed_text(canonical_chat(body, signed["canonicalization_profile"]))
    recorded = signed["hashed_request_utf8"].encode()
    assert (text == recorded) is not signed_for_another(case)
    if signed["request_hash"] is not None:
        request, output = keccak(recorded), keccak(signed["hashed_output"].encode())
        assert (request.hex(), output.hex()) == (signed["request_hash"], signed["output_hash"])
        assert keccak(request + output + u256(signed["timestamp"])).hex() == signed["msg_hash"]


def opener() -> Opener:
    private = bytes.fromhex(FILES["ohttp"]["cases"][0]["recipient_priv_hex"])
    return Opener(X25519PrivateKey.from_private_bytes(private))


def test_recorded_requests_open_and_their_secrets_are_the_recorded_ones() -> None:
    """Six sealed requests open to their plaintext, and export what their answers are sealed with."""
    cases = FILES["ohttp"]["cases"]
    assert len(cases) == 6
    for case in cases:
        plaintext, sealer = opener().open(base64.b64decode(case["request_wire_b64"]))
        assert plaintext == base64.b64decode(case["request_plaintext_b64"])
        assert sealer._context.export(b"message/bhttp response", 32).hex() == case["export_single_hex"]
        assert sealer._context.export(b"message/bhttp chunked response", 32).hex() == case["export_chunked_hex"]


def test_a_flipped_bit_does_not_open() -> None:
    """A sealed request with one other bit is refused."""
    wire = bytearray(base64.b64decode(FILES["ohttp"]["cases"][0]["request_wire_b64"]))
    wire[-1] ^= 1
    with pytest.raises(Refused):
        opener().open(bytes(wire))


def test_recorded_answers_are_what_would_be_sealed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the recorded nonce, whole answers and streams are sealed to the recorded bytes."""
    by_name = {case["name"]: case for case in FILES["ohttp"]["cases"]}
    single, stream = by_name["ohttp_single_valid"], by_name["ohttp_stream_valid"]
    for case in (single, stream):
        wire = base64.b64decode(case["response_wire_b64"])
        monkeypatch.setattr("opengradient_world.sealing.os.urandom", lambda size, wire=wire: wire[:size])
        _, sealer = opener().open(base64.b64decode(case["request_wire_b64"]))
        if case is single:
            assert sealer.whole(base64.b64decode(case["plaintext_b64"])) == wire
        else:
            pieces = [base64.b64decode(piece) for piece in case["plaintext_chunks_b64"]]
            assert b"".join(sealer.chunks(pieces)) == wire


def test_the_key_configuration_is_the_recorded_one() -> None:
    """Hash and blob of the recorded configuration, and the publisher's own golden hash, come out."""
    config = FILES["ohttp"]["configs"][0]["config"]
    made = opener()
    assert made.config_hash(bytes.fromhex(config["tee_id"][2:])).hex() == config["signature_hash"][2:]
    assert base64.b64encode(made.blob()).decode() == config["key_config"]
    golden = FILES["ohttp"]["upstream_golden"]
    made.public = bytes.fromhex(golden["public_key_hex"])
    assert made.config_hash(bytes.fromhex(golden["tee_id_hex"])).hex() == golden["config_hash"]


def test_the_registrys_bytes_are_the_recorded_ones() -> None:
    """The recorded records, decoded by another decoder, encode to the recorded bytes."""
    recorded = FILES["registry"]["get_active_tees"]
    assert "0x" + selector("getActiveTEEs(uint8)").hex() == recorded["selector"]
    raw = bytes.fromhex(recorded["return_hex"][2:])
    ohttp = "(uint8,uint16,uint16,uint16,bytes,bytes,uint256)"
    info = f"(address,address,string,bytes,bytes,bytes32,uint8,bool,uint256,uint256,{ohttp})"
    (records,) = eth_abi.decode([f"{info}[]"], raw)
    assert [record[2] for record in records] == [one["endpoint"] for one in recorded["decoded"]]
    assert encode([("array", TEE_11)], [records]) == raw
    assert "0x" + encode([("array", TEE_11)], [[]]).hex() == recorded["empty_return_hex"]


def test_a_recorded_signature_holds_under_this_padding() -> None:
    """The heartbeat's signature holds with the padding that the network signs with."""

    beat = FILES["registry"]["heartbeat"]
    digest = keccak(bytes.fromhex(beat["tee_id"][2:]) + u256(beat["timestamp"]))
    assert digest.hex() == beat["message_hash"]
    key = load_pem_public_key(FILES["keys"]["enclave_a"]["public_pem"].encode())
    key.verify(base64.b64decode(beat["signature_b64"]), digest, PSS, hashes.SHA256())  # type: ignore[union-attr, call-arg]
