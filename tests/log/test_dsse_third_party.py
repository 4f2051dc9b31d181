"""Envelopes and statements before judges that we did not write: securesystemslib and in-toto-attestation."""

import base64
import json

import pytest
from google.protobuf.json_format import Parse
from in_toto_attestation.v1.statement import Statement
from in_toto_attestation.v1.statement_pb2 import Statement as StatementMessage
from securesystemslib import dsse
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import SSlibKey

from gateway.log.dsse import Envelope, pae, parse_envelope, sign_envelope, verify_envelope
from gateway.log.note import NoteSigner

SIGNER = NoteSigner("gateway.example/receipts", bytes(31) + b"\1")
KEY = SSlibKey(SIGNER.keyid, "ed25519", "ed25519", {"public": SIGNER.public_key.hex()})
TYPE = "application/vnd.in-toto+json"
STATEMENT = {
    "_type": "https://in-toto.io/Statement/v1",
    "subject": [
        {"name": "response.body", "digest": {"sha256": "ab" * 32}, "annotations": {"form": "salt32||bytes"}},
    ],
    "predicateType": "urn:veriroute:inference-receipt:v1",
    "predicate": {"receiptId": "01JD3W6H7K9Q2M4N8P0R5S7T9V", "verdict": "affirming", "caller": {"keyId": "k é"}},
}
PAYLOAD = json.dumps(STATEMENT, ensure_ascii=False, separators=(",", ":")).encode()


def test_securesystemslib_accepts_our_envelope():
    """The reference library verifies what we sign, from the bytes as they are served."""
    envelope = dsse.Envelope.from_dict(json.loads(sign_envelope(PAYLOAD, TYPE, SIGNER)))
    assert list(envelope.verify([KEY], 1)) == [SIGNER.keyid]
    assert envelope.pae() == pae(TYPE, PAYLOAD)
    assert envelope.payload == PAYLOAD


@pytest.mark.parametrize("member", ["payload", "payloadType", "sig"])
def test_securesystemslib_refuses_a_tampered_envelope(member):
    """With one member changed, the reference library refuses, as we do."""
    document = json.loads(sign_envelope(PAYLOAD, TYPE, SIGNER))
    if member == "payloadType":
        document[member] += "x"
    else:
        holder = document if member == "payload" else document["signatures"][0]
        raw = bytearray(base64.b64decode(holder[member]))
        raw[-1] ^= 1
        holder[member] = base64.b64encode(raw).decode()
    with pytest.raises(VerificationError):
        dsse.Envelope.from_dict(document).verify([KEY], 1)


def test_we_accept_securesystemslibs_envelope():
    """An envelope written by the reference library, around our signature, reads as the same value."""
    ours = parse_envelope(sign_envelope(PAYLOAD, TYPE, SIGNER))
    theirs = dsse.Envelope.from_dict(json.loads(sign_envelope(PAYLOAD, TYPE, SIGNER))).to_dict()
    envelope: Envelope = parse_envelope(json.dumps(theirs).encode())
    assert envelope == ours
    assert verify_envelope(envelope, {SIGNER.keyid: SIGNER.public_key}) == (SIGNER.keyid,)


def test_in_toto_accepts_the_signed_statement():
    """The payload of a verified envelope is a valid in-toto Statement v1 to in-toto's own library."""
    payload = parse_envelope(sign_envelope(PAYLOAD, TYPE, SIGNER)).payload
    statement = Statement.copy_from_pb(Parse(payload, StatementMessage()))
    statement.validate()
    assert statement.pb.predicate_type == "urn:veriroute:inference-receipt:v1"
    assert statement.pb.subject[0].digest["sha256"] == "ab" * 32
