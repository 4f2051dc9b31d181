"""The ids of attested sessions: of everything that is stored of one, and of ACI's own documents."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from gateway.errors import FormatError
from gateway.model.node import AttestedSession, SigningKey
from gateway.model.tee import Platform, TeeClaims
from gateway.model.verdict import Check, Claim, Outcome
from gateway.verify.sessions import id_of, with_id

A, C = Outcome.AFFIRMING, Outcome.CONTRAINDICATED
CLAIMS = TeeClaims(
    platform=Platform.INTEL_TDX,
    evidence_sha256="ab" * 32,
    authentic=True,
    evaluated_at=1.0,
    raw={"svn": 2**60, "low": -(2**60), "list": [1.5, True, None], "text": "ü"},
)
SESSION = AttestedSession(
    id="",
    node="node-1",
    network="aci",
    endpoint="https://node-1.example",
    keyset_digest="sha256:" + "cd" * 32,
    keys=(SigningKey("k1", "ed25519", b"\1" * 32),),
    spki_pins=(b"\2" * 32,),
    evidence_digest="ef" * 32,
    established=1_750_000_000.25,
    expires=1_750_000_480.0,
    outcome=A,
    checks=(Check("evidence", A, None, "tdx"), Check("fresh", A)),
    claims=(Claim("key_bound", "asserted", None, "key_bound"),),
    capabilities=frozenset(("aci.chain", "aci.inline", "aci.nonce")),
    endpoints=("/v1/chat/completions",),
    models=("m",),
    tee=(CLAIMS,),
)
#: What the fields of `SESSION` that ids covered at first come to.
FIRST = "59ca13aab288ec5efc815ca4fdcf8c38d0c73346f10b49eb1ed8e62a1cf1870f"


def stored(session: AttestedSession) -> dict[str, Any]:
    found = json.loads(msgspec.json.encode(session))
    assert isinstance(found, dict)
    return found


def test_an_id_is_that_of_the_content() -> None:
    """However its JSON is laid out, and in whichever order its members and numbers are written."""
    named = with_id(SESSION)
    assert with_id(named) == named
    for form in (
        msgspec.json.encode(named),
        json.dumps(stored(named), indent=2).encode(),
        json.dumps(stored(named), sort_keys=True).encode(),
        json.dumps(stored(named)).replace("1750000480.0", "1750000480").encode(),
    ):
        assert id_of(form) == (named.id, True)


@pytest.mark.parametrize(
    "change",
    [
        {"node": "node-2"},
        {"keys": (SigningKey("k1", "ed25519", b"\3" * 32),)},
        {"outcome": C},
        {"checks": (Check("evidence", A, None, "tdx"), Check("fresh", C, "statement_nonce"))},
        {"checks": ()},
        {"claims": (Claim("key_bound", "asserted", "operator_asserted", "key_bound"),)},
        {"capabilities": frozenset()},
        {"endpoints": ("/v1/completions",)},
        {"models": ("m", "n")},
        {"established": SESSION.established + 0.25},
        {"tee": ()},
        {"tee": (msgspec.structs.replace(CLAIMS, authentic=False),)},
        {"tee": (msgspec.structs.replace(CLAIMS, raw={**CLAIMS.raw, "svn": 2**60 + 1}),)},
    ],
)
def test_whatever_is_changed_is_found(change: dict[str, Any]) -> None:
    """With the old id in it or the one that the change has, the document is not that of the old id."""
    named = with_id(SESSION)
    changed = msgspec.structs.replace(named, **change)
    assert id_of(msgspec.json.encode(changed)).id != named.id
    assert id_of(msgspec.json.encode(with_id(changed))).id != named.id
    assert id_of(json.dumps(stored(named) | {"unknown": 1}).encode()).id != named.id


def test_sessions_of_before_keep_their_ids() -> None:
    """An id that covers some fields is accepted where the document says it of itself, and said to be no more."""
    before = msgspec.structs.replace(SESSION, id=FIRST)
    assert id_of(msgspec.json.encode(before)) == (FIRST, False)
    assert id_of(msgspec.json.encode(SESSION)) == (FIRST, False)
    assert with_id(SESSION).id != FIRST


def test_a_session_with_nothing_to_show() -> None:
    """It is told apart by what the settings say: its network and its aliases."""
    bare = msgspec.structs.replace(SESSION, keyset_digest="", keys=(), hpke=b"\4", payee="0x1")
    ids = {with_id(bare).id, with_id(msgspec.structs.replace(bare, aliases=(("m", "x"),))).id}
    ids.add(with_id(msgspec.structs.replace(bare, network="openai")).id)
    assert len(ids) == 3


def test_documents_of_aci_are_named_by_all_of_them() -> None:
    """With or without the id beside it that some services send."""
    assert id_of(b'{"a":1}') == id_of(b'{"session_id":"x","a":1}')
    assert id_of(b'{"a":1}').whole
    assert id_of(b'{"a":1}') != id_of(b'{"a":2}')


@pytest.mark.parametrize("data", [b"", b"[]", b'{"a":1,"a":1}', b'{"evidence_digest":1}', b'{"evidence_digest":""}'])
def test_what_is_no_session(data: bytes) -> None:
    with pytest.raises(FormatError):
        id_of(data)
