"""The running signatures of a chained stream: each in its place, the last of those that came together verified."""

from __future__ import annotations

import hashlib

import pytest

from gateway.crypto.signatures import Ed25519Signer
from gateway.exchange.head import parse_head
from gateway.exchange.release import Hold
from gateway.exchange.reply import Question
from gateway.exchange.stream import CHAIN, Piece, StreamReader, Wire
from gateway.model.node import AttestedSession, SigningKey
from gateway.model.verdict import Outcome
from gateway.relay.chain import Chain
from gateway.verify.aci import chain_message

SIGNER = Ed25519Signer(b"\7" * 32)
NONCE = "cd" * 32
BODY = b'{"model":"m","messages":[],"stream":true}'
ASKED = Question(parse_head("/v1/chat/completions", BODY), BODY, hashlib.sha256(BODY).hexdigest(), NONCE)
SESSION = AttestedSession(
    id="s", node="n", network="aci", endpoint="http://n", keyset_digest="sha256:" + "a" * 64,
    keys=(SigningKey("k1", "ed25519", SIGNER.public_key),), spki_pins=(), evidence_digest="e" * 64, established=0.0,
    expires=600.0, outcome=Outcome.AFFIRMING, checks=(), claims=(),
)  # fmt: skip


def comment(k: int, covered: bytes, *, signer: Ed25519Signer = SIGNER) -> bytes:
    """The k-th running signature over `covered`."""
    digest = hashlib.sha256(covered).hexdigest()
    return b"aci.chain %d %b" % (
        k,
        signer.sign(chain_message("r1", NONCE, ASKED.sha256, "m", k, digest)).hex().encode(),
    )


def signed(k: int, covered: bytes = b"text") -> Piece:
    return Piece(CHAIN, comment(k, covered), hashlib.sha256(covered))


def chain() -> Chain:
    return Chain(SESSION, ASKED, b"r1")


def test_each_in_its_place() -> None:
    """Signatures 1, 2, 3, … hold; none of them at all is a problem of chained mode only."""
    made = chain()
    assert made.unused("chained") == "chain_absent"
    assert made.unused("buffer") is None
    assert [made.holds(signed(k)) for k in (1, 2, 3)] == [True, True, True]
    assert made.broken is made.unused("chained") is None


@pytest.mark.parametrize(
    ("piece", "why"),
    [
        (signed(1), "chain_order"),  # again
        (signed(3), "chain_order"),
        (Piece(CHAIN, b"aci.chain 2 00", hashlib.sha256()), "<k> <128 hex digits>"),
        (Piece(CHAIN, comment(2, b"text").upper().replace(b"ACI.CHAIN", b"aci.chain"), hashlib.sha256()), "128 hex"),
        (Piece(CHAIN, b"something else", hashlib.sha256()), "chain_order"),
        (Piece(CHAIN, comment(2, b"text"), hashlib.sha256(b"tampered")), "chain_signature"),
        (Piece(CHAIN, comment(2, b"", signer=Ed25519Signer(bytes(32))), hashlib.sha256()), "chain_signature"),
    ],
)
@pytest.mark.parametrize("covered", [True, False])
def test_after_one_that_fails_none_holds(piece: Piece, why: str, covered: bool) -> None:
    """Out of place, malformed, over other bytes, by another key: nothing leaves by it, nor by a good one after it.

    Of one that another covers, form and place are looked at.
    """
    made = chain()
    assert made.holds(signed(1))
    if not covered:
        piece = Piece(CHAIN, piece.out)
    assert not made.holds(piece)
    if covered or why != "chain_signature":
        assert made.broken is not None
        assert why in made.broken
        assert not any(made.holds(signed(k)) for k in (2, 3))


def test_the_last_of_those_that_came_together_covers_the_others() -> None:
    """However the stream is cut, what is released is covered by a signature that was verified, and all of it is."""
    events = [b'data: {"choices":[{"index":0,"delta":{"content":"%d"}}]}\n\n' % n for n in range(6)]
    blocks = [(event, b": " + comment(k, b"".join(events[:k])) + b"\n\n") for k, event in enumerate(events, 1)]
    body = b"".join(event + signature for event, signature in blocks)
    for size in (1, 7, 100, 333, len(body)):
        made, verified = chain(), 0
        reader = StreamReader(ASKED.head, Wire(b"aci.receipt", b"aci.chain"), bytes(32), max_event=1 << 20)
        for at in range(0, len(body), size):
            pieces = reader.feed(body[at : at + size])
            digests = [piece for piece in pieces if piece.kind == CHAIN and piece.covered is not None]
            assert len(digests) <= 1
            verified += sum(made.holds(piece) for piece in pieces if piece.kind == CHAIN)
        assert made.broken is None
        assert 1 <= verified <= 6
        if size in (1, len(body)):
            assert verified == (6 if size == 1 else 1)
        assert reader.covered_sha256 == hashlib.sha256(b"".join(events)).hexdigest()


@pytest.mark.parametrize(("wrong", "together"), [(1, True), (2, True), (4, False)])
def test_d22_those_that_came_together_stand_by_their_last(wrong: int, together: bool) -> None:
    """One by one, events before the wrong digest are released, and none from it on. Of four in one read the last is
    over the bytes of all: right, it releases them, whatever stands before it; wrong, it releases none of them."""
    events = [b'data: {"choices":[{"index":0,"delta":{"content":"%d"}}]}\n\n' % n for n in range(4)]
    blocks = [
        event + b": " + comment(k, b"other" if k == wrong else b"".join(events[:k])) + b"\n\n"
        for k, event in enumerate(events, 1)
    ]
    for parts, released in ((blocks, wrong - 1), ([b"".join(blocks)], 4 if together else 0)):
        made, hold, left = chain(), Hold("chained"), b""
        reader = StreamReader(ASKED.head, Wire(b"aci.receipt", b"aci.chain"), bytes(32), max_event=1 << 20)
        for piece in (piece for part in parts for piece in reader.feed(part)):
            if piece.kind != CHAIN:
                hold.offer(piece, 0.0)
            elif made.holds(piece):
                left += hold.covered()
        assert left == b"".join(events[:released])
        assert (made.broken is None) == (released == 4)
