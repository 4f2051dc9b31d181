"""Receipts in the hands of tools that are not ours."""

import base64
import json
from pathlib import Path

import docs_kit as kit
import pytest
from receipt_world import ORIGIN, World, small_world

WORLD, INTENT, RECEIPT = small_world()


SIGNED = [i for i, kind in enumerate(WORLD.kinds) if kind != "intent"]  # an intent is vouched for by the checkpoint


@pytest.mark.parametrize("index", SIGNED)
def test_securesystemslib_verifies_the_envelope(index: int):
    """The DSSE envelope verifies under the public key by its key id, and not when a byte changes."""
    dsse = pytest.importorskip("securesystemslib.dsse")
    signer = pytest.importorskip("securesystemslib.signer")
    exceptions = pytest.importorskip("securesystemslib.exceptions")
    keyid = f"{ORIGIN}/receipts+{WORLD.receipts.key.id.hex()}"
    key = signer.SSlibKey(keyid, "ed25519", "ed25519", {"public": WORLD.receipts.public_key.hex()})
    envelope = dsse.Envelope.from_dict(json.loads(WORLD.envelopes[index]))
    assert list(envelope.verify([key], 1)) == [keyid]
    envelope.payload += b" "
    with pytest.raises(exceptions.VerificationError):
        envelope.verify([key], 1)


@pytest.mark.parametrize("index", [0, INTENT, RECEIPT])
def test_in_toto_attestation_reads_the_statement(index: int):
    """The payload is a valid in-toto Statement v1, and its numbers survive a passage through doubles."""
    statement = pytest.importorskip("in_toto_attestation.v1.statement")
    json_format = pytest.importorskip("google.protobuf.json_format")
    pb2 = pytest.importorskip("in_toto_attestation.v1.statement_pb2")
    payload = base64.b64decode(json.loads(WORLD.envelopes[index])["payload"])
    message = json_format.Parse(payload, pb2.Statement())
    statement.Statement.copy_from_pb(message).validate()
    again = json.loads(json_format.MessageToJson(message))
    assert again["predicate"] == json.loads(payload)["predicate"]


def by_hand() -> str:
    """What docs/receipts.md says that one has to compute."""
    blocks = kit.blocks(kit.text("docs/receipts.md"), "python")
    return "\n".join(block for block in blocks if "tlog-proof" in block or "pae = " in block)


@pytest.mark.parametrize("size", range(1, 10))
def test_inclusion_by_hand_as_documented(
    size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """The lines in docs/receipts.md show each entry of logs of any size, and no other payload."""
    world = World()
    for _ in range(size):
        world.add_receipt()
    monkeypatch.chdir(tmp_path)
    Path("gateway.trust").write_text(world.trust_text())
    for index in range(size):
        Path("receipt.json").write_bytes(world.envelopes[index])
        Path("receipt.tlog-proof").write_text(world.proof(index))
        exec(by_hand(), {})
        assert capsys.readouterr().out == f"entry {index} of the {size} that {ORIGIN} signed\n"
        Path("receipt.json").write_bytes(world.envelopes[index].replace(b'"payload":"', b'"payload":"ICAg'))
        with pytest.raises(AssertionError):
            exec(by_hand(), {})
